import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { bytesEqual } from '@relevo/base/bytes';
import type { Offset } from '@relevo/base/ids';
import type { PartitionLog } from '@relevo/log/partition-log';
import type { SimulatedDisk } from '@relevo/simulation/simulated-disk';
import {
  DIRECTORY,
  NOW_MS,
  appendValues,
  at,
  batch,
  config,
  epoch,
  newDisk,
  openLog,
  readAll,
  recordingLogger,
} from './support.ts';

const SETTINGS = config({ segmentBytes: 3000, indexIntervalBytes: 250, retentionMs: -1 });

interface Made {
  readonly timestamps: readonly number[];
  readonly valueBytes: number;
}

const batches: fc.Arbitrary<readonly Made[]> = fc.array(
  fc.record({
    timestamps: fc.array(fc.integer({ min: 0, max: 300 }), { minLength: 1, maxLength: 3 }),
    valueBytes: fc.integer({ min: 0, max: 300 }),
  }),
  { minLength: 1, maxLength: 60, size: 'max' },
);

function append(log: PartitionLog, made: readonly Made[]): number[] {
  const times: number[] = [];
  for (const { timestamps, valueBytes } of made) {
    const values = timestamps.map(() => new Uint8Array(valueBytes));
    log.appendAsLeader(batch({ timestamps, values }), epoch(0), NOW_MS);
    times.push(...timestamps);
  }
  return times;
}

function indexFiles(disk: SimulatedDisk): Map<string, string> {
  const found = new Map<string, string>();
  for (const { name } of disk.port().list(DIRECTORY)) {
    if (!/\.(index|timeindex)$/.test(name)) continue;
    found.set(name, Buffer.from(disk.contents(`${DIRECTORY}/${name}`)).toString('hex'));
  }
  return found;
}

describe('indexes', () => {
  test('rebuilt from the log they are the same, byte for byte', async () => {
    await fc.assert(
      fc.asyncProperty(batches, async (made) => {
        const disk = newDisk();
        const log = openLog(disk, { config: SETTINGS });
        append(log, made);
        await log.close();
        const written = indexFiles(disk);
        expect(written.size).toBe(2 * log.segments.length);
        for (const name of written.keys()) disk.port().remove(`${DIRECTORY}/${name}`);
        await openLog(disk, { config: SETTINGS }).close();
        expect(indexFiles(disk)).toEqual(written);
      }),
      { numRuns: 60 },
    );
  });

  test('the first record as late as a timestamp is found, with indexes or without', async () => {
    await fc.assert(
      fc.asyncProperty(batches, fc.boolean(), async (made, lose) => {
        const disk = newDisk();
        let log = openLog(disk, { config: SETTINGS });
        const times = append(log, made);
        if (lose) {
          await log.close();
          for (const name of indexFiles(disk).keys()) disk.port().remove(`${DIRECTORY}/${name}`);
          log = openLog(disk, { config: SETTINGS, cleanShutdown: true });
        }
        for (let wanted = 0; wanted <= 310; wanted += 31) {
          const offset = times.findIndex((time) => time >= wanted);
          const found = await log.offsetForTimestamp(wanted, log.logEndOffset);
          expect(found?.offset ?? -1).toBe(offset);
          if (found !== undefined) expect(found.timestamp).toBe(times[offset]);
        }
      }),
      { numRuns: 60 },
    );
  });

  test('one that lies is found out, rebuilt, and the read is right', async () => {
    const disk = newDisk();
    const log = openLog(disk, { config: SETTINGS });
    append(
      log,
      Array.from({ length: 80 }, (_, index) => ({ timestamps: [index], valueBytes: 90 })),
    );
    await log.close();
    const expected = await readAll(openLog(disk, { config: SETTINGS, cleanShutdown: true }));
    const original = disk.contents(`${DIRECTORY}/00000000000000000000.index`);
    for (let entry = 0; entry < original.length; entry += 8) {
      for (const [place, by] of [
        [entry + 7, 5],
        [entry + 6, 1],
        [entry + 3, 2],
      ] as const) {
        const lying = original.slice();
        lying[place] = (lying[place] ?? 0) + by;
        const file = disk.port().open(`${DIRECTORY}/00000000000000000000.index`, 'existing');
        file.write(lying, 0);
        const logger = recordingLogger();
        const again = openLog(disk, { config: SETTINGS, cleanShutdown: true }, { logger });
        const end = again.segments[1]?.baseOffset ?? 0;
        for (let from = 0; from < end; from++) {
          const slice = await again.read(from as Offset, 1, again.logEndOffset, true);
          expect(slice).toEqual(expected[from]);
        }
        expect(again.state).toBe('online');
      }
    }
  });

  test('a time index that lies is found out too', async () => {
    const disk = newDisk();
    const log = openLog(disk, { config: SETTINGS });
    append(
      log,
      Array.from({ length: 80 }, (_, index) => ({ timestamps: [10 * index], valueBytes: 20 })),
    );
    await log.close();
    const path = `${DIRECTORY}/00000000000000000000.timeindex`;
    const original = disk.contents(path);
    for (let entry = 0; entry < original.length / 12 - 1; entry++) {
      // Earlier than it is: a search for what lies between would begin too late.
      const lying = original.slice();
      const view = new DataView(lying.buffer);
      view.setBigInt64(entry * 12, view.getBigInt64(entry * 12) - 25n);
      disk.port().open(path, 'existing').write(lying, 0);
      const again = openLog(disk, { config: SETTINGS, cleanShutdown: true });
      const end = again.segments[1]?.baseOffset ?? 0;
      for (let wanted = 0; wanted < end; wanted++) {
        const found = await again.offsetForTimestamp(10 * wanted, at(80));
        expect(found?.offset).toBe(wanted);
      }
    }
  });

  test('reads are right from every offset with any limit', async () => {
    await fc.assert(
      fc.asyncProperty(
        batches,
        fc.integer({ min: 0, max: 2000 }),
        fc.boolean(),
        async (made, maxBytes, reopen) => {
          const disk = newDisk();
          let log = openLog(disk, { config: SETTINGS });
          append(log, made);
          const all = await readAll(log);
          if (reopen) {
            await log.close();
            log = openLog(disk, { config: SETTINGS, cleanShutdown: true });
          }
          let from = 0;
          for (const [index, { timestamps }] of made.entries()) {
            for (let within = 0; within < timestamps.length; within++) {
              const slice = await log.read(at(from + within), maxBytes, log.logEndOffset, true);
              const wanted = all[index] ?? new Uint8Array(0);
              expect(bytesEqual(slice.subarray(0, wanted.length), wanted)).toBe(true);
              expect(slice.length).toBeLessThanOrEqual(Math.max(maxBytes, all[index]?.length ?? 0));
            }
            from += timestamps.length;
          }
        },
      ),
      { numRuns: 25 },
    );
  });
});

test.each([
  ['the log end', 25, 10],
  ['the high watermark', 26, 2],
])(
  'a batch whose changed header reaches above %s is damage, not the end',
  async (_, byte, upTo) => {
    const disk = newDisk();
    const settings = config({ indexIntervalBytes: 150 });
    const log = openLog(disk, { config: settings });
    appendValues(log, Array.from({ length: 10 }, String));
    expect(await log.close()).toBe(true);
    disk.flipBit(`${DIRECTORY}/00000000000000000000.log`, byte, 1);
    const again = openLog(disk, { config: settings, cleanShutdown: true });
    expect(again.logEndOffset).toBe(10);
    await expect(Promise.resolve(again.read(at(0), 4096, at(upTo), true))).rejects.toThrow(
      /the log is damaged/,
    );
    expect(again.state).toBe('offline');
  },
);
