/** The topic that a benchmark works on: the user's, or one of its own that it deletes. */
import { randomBytes } from 'node:crypto';
import type { Relevo } from '@relevo/client';
import type { CommandContext } from '../context.ts';

export interface TargetOptions {
  readonly topic?: string;
  readonly partitions: number;
  readonly replicationFactor?: number;
  readonly keep?: boolean;
}

/** Runs `work` on the topic; one of our own is gone afterwards, however `work` ends. */
export async function withTarget<Result>(
  context: CommandContext,
  options: TargetOptions,
  work: (relevo: Relevo, topic: string) => Promise<Result>,
): Promise<Result> {
  const relevo = await context.connect();
  if (options.topic !== undefined) {
    await relevo.admin.describeTopic(options.topic);
    return work(relevo, options.topic);
  }
  const topic = `bench-${randomBytes(4).toString('hex')}`;
  const { partitions, replicationFactor } = options;
  await relevo.admin.createTopic({
    topic,
    partitions,
    ...(replicationFactor !== undefined && { replicationFactor }),
  });
  try {
    return await work(relevo, topic);
  } finally {
    if (options.keep === true) context.out.note(`kept topic ${topic}`);
    else await relevo.admin.deleteTopic(topic);
  }
}
