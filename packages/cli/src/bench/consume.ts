/** Reads a topic from its beginning to where it ended when the benchmark began. */
import type { Relevo } from '@relevo/client';
import type { CommandContext } from '../context.ts';
import { Meter, figuresOf, live, type Figures } from './report.ts';

export async function benchConsume(
  context: CommandContext,
  relevo: Relevo,
  topic: string,
  recordsMax: number,
): Promise<Figures> {
  const starts = await relevo.admin.listOffsets({ topic, at: 'earliest' });
  const ends = await relevo.admin.listOffsets({ topic, at: 'latest' });
  const left = new Map(
    ends
      .filter(({ partition, offset }) =>
        starts.some((start) => start.partition === partition && start.offset < offset),
      )
      .map(({ partition, offset }) => [partition, offset]),
  );
  const meter = new Meter();
  const display = live(context, meter);
  try {
    if (left.size === 0) return figuresOf('consume', topic, meter, undefined);
    const consumer = relevo.consumer({
      partitions: [...left.keys()].map((partition) => ({ topic, partition })),
      from: 'earliest',
      signal: context.signal,
    });
    for await (const records of consumer.batches()) {
      for (const { key, value } of records) meter.add((key?.length ?? 0) + (value?.length ?? 0));
      const last = records.at(-1);
      if (last !== undefined && last.offset + 1 >= (left.get(last.partition) ?? Infinity)) {
        left.delete(last.partition);
      }
      if (left.size === 0 || meter.records >= recordsMax) break;
    }
    meter.stop();
  } finally {
    display.stop();
  }
  return figuresOf('consume', topic, meter, undefined);
}
