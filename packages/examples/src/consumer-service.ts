/**
 * A microservice that prints what arrives in a topic, from the moment it starts. Every instance prints
 * every message: publish and subscribe.
 */
import type { Relevo } from '@relevo/client';

export interface ConsumerServiceOptions {
  readonly topic: string;
  /** Where it reads from, at first. Default: latest. */
  readonly from?: 'earliest' | 'latest';
  readonly print: (line: string) => void;
  /** Ends it. */
  readonly signal: AbortSignal;
}

/** Resolves when it was told to end; rejects when it cannot go on. */
export async function consumerService(
  relevo: Relevo,
  { topic, from = 'latest', print, signal }: ConsumerServiceOptions,
): Promise<void> {
  const consumer = relevo.consumer({ topics: [topic], from, signal });
  try {
    await consumer.start();
    print(`reading ${topic} from ${from}`);
    for await (const { partition, offset, timestamp, key, value } of consumer) {
      const time = new Date(timestamp).toISOString();
      const name = key === null ? '' : ` ${String(key)}:`;
      print(`${time} ${topic}-${partition}@${offset}${name} ${String(value)}`);
    }
  } catch (error) {
    if (!signal.aborted) throw error;
  }
}
