/** Writes records as fast as the cluster takes them, or at a rate. */
import { setTimeout as delay } from 'node:timers/promises';
import type { Delivery, Relevo } from '@relevo/client';
import type { CommandContext } from '../context.ts';
import { Latencies } from './latencies.ts';
import { Pace } from './pace.ts';
import { payloads } from './payloads.ts';
import { Meter, figuresOf, live, type Figures } from './report.ts';

export interface ProduceLoad {
  readonly topic: string;
  readonly records: number;
  readonly recordBytes: number;
  /** Different keys, in turn; 0: no keys. */
  readonly keys: number;
  /** Records per second; Infinity: as fast as it goes. */
  readonly ratePerS: number;
  readonly acks: 'all' | 'leader' | 'none';
  readonly compression: 'none' | 'gzip' | 'snappy' | 'lz4' | 'zstd';
  readonly lingerMs: number;
  readonly batchBytes: number;
}

/** Every so many records one is timed: a promise for each would be a good part of the work. */
const TIMED_EVERY = 64;

export async function benchProduce(
  context: CommandContext,
  relevo: Relevo,
  load: ProduceLoad,
): Promise<Figures> {
  const latencies = new Latencies();
  const meter = new Meter();
  let failure: Error | undefined;
  const acked = (delivery: Delivery): void => {
    if (delivery.error !== undefined) {
      failure ??= delivery.error;
      meter.failed += delivery.recordCount;
    } else {
      meter.records += delivery.recordCount;
      meter.bytes += delivery.recordCount * load.recordBytes;
    }
  };
  const producer = relevo.producer({
    acks: load.acks,
    compression: load.compression,
    lingerMs: load.lingerMs,
    batchBytes: load.batchBytes,
    onDelivery: acked,
  });
  const { topic } = load;
  const value = payloads(load.recordBytes);
  const pace = new Pace(load.ratePerS, performance.now());
  const display = live(context, meter);
  const record = (index: number): { topic: string; key?: string; value: Uint8Array } =>
    load.keys === 0
      ? { topic, value: value() }
      : { topic, key: `key-${index % load.keys}`, value: value() };
  /** Sends record `index` with a promise, so that its latency is known. */
  const timed = (index: number, sentMs: number): void => {
    producer.send(record(index)).then(
      // Counted with its batch, by onDelivery.
      () => latencies.add(performance.now() - sentMs),
      (error: Error) => {
        failure ??= error;
      },
    );
  };
  let index = 0;
  try {
    while (index < load.records && failure === undefined) {
      if (context.signal.aborted) break;
      const sentMs = pace.take(performance.now());
      if (sentMs === undefined) {
        await delay(pace.waitMs(performance.now()));
        continue;
      }
      if (index % TIMED_EVERY === 0) timed(index, sentMs);
      else if (!producer.enqueue(record(index))) await producer.drained();
      index++;
    }
    await producer.flush();
    meter.stop();
    if (failure === undefined) meter.settle(index, index * load.recordBytes);
  } finally {
    display.stop();
    await producer.close();
  }
  if (failure !== undefined) context.out.note(`the first failure: ${failure.message}`);
  return figuresOf('produce', topic, meter, latencies);
}
