/**
 * Whatever bit of a log's file is flipped under it: a read gives the bytes that were written or says that
 * they are damaged, be they read from the page cache just after they were written or long after.
 */
import { describe, expect, test } from 'vitest';
import { bytesEqual } from '@relevo/base/bytes';
import type { LogError } from '@relevo/log/log-error';
import type { PartitionLog } from '@relevo/log/partition-log';
import { WriteCount } from '@relevo/log/recent-writes';
import { decodeRecords } from '@relevo/record/records';
import type { SimulatedDisk } from '@relevo/simulation/simulated-disk';
import {
  DIRECTORY,
  NOW_MS,
  at,
  batch,
  config,
  epoch,
  newDisk,
  openLog,
  readAll,
} from './support.ts';

const FILE = `${DIRECTORY}/00000000000000000000.log`;
const SETTINGS = config({ indexIntervalBytes: 150 });
/** More than what counts as recent. */
const LATER_BYTES = 2 ** 30;
/** Batches, and records in each. */
const SIZES = [3, 1, 2, 4, 1, 2];
const EPOCHS = [0, 0, 1, 1, 3, 3];

interface Written {
  readonly disk: SimulatedDisk;
  readonly log: PartitionLog;
  /** From each offset on, what a read is to give at most. */
  readonly from: readonly Uint8Array[];
}

async function written(age: 'recent' | 'old'): Promise<Written> {
  const disk = newDisk();
  const writes = new WriteCount();
  const log = openLog(disk, { config: SETTINGS }, { writes });
  for (const [index, count] of SIZES.entries()) {
    const timestampMs = NOW_MS + index * 1000;
    log.appendAsLeader(
      batch({ count, valueBytes: 3, timestampMs }),
      epoch(EPOCHS[index] ?? 0),
      timestampMs,
    );
  }
  await log.sync();
  if (age === 'old') writes.bytes += LATER_BYTES;
  const whole = disk.contents(FILE);
  let position = 0;
  const from = SIZES.flatMap((count, index) => {
    const rest = whole.slice(position);
    position += batchSizes(whole)[index] ?? 0;
    return Array.from({ length: count }, () => rest);
  });
  return { disk, log, from };
}

function batchSizes(whole: Uint8Array): number[] {
  const view = new DataView(whole.buffer, whole.byteOffset, whole.byteLength);
  const sizes: number[] = [];
  for (let place = 0; place < whole.length; place += sizes.at(-1) ?? 0) {
    sizes.push(view.getInt32(place + 8) + 12);
  }
  return sizes;
}

/** What a read gave that was not written so; undefined: nothing. */
async function wrongAt(
  { log, from }: Written,
  offset: number,
  maxBytes: number,
): Promise<string | undefined> {
  try {
    const found = await log.read(at(offset), maxBytes, log.logEndOffset, true);
    const wanted = from[offset]?.subarray(0, found.length) ?? new Uint8Array(0);
    if (found.length > 0 && bytesEqual(found, wanted)) return undefined;
    return `offset ${offset}, at most ${maxBytes} bytes: ${found.length} bytes, not as written`;
  } catch (error) {
    const { kind, message } = error as LogError;
    return kind === 'corrupt' ? undefined : `offset ${offset}: ${kind}, ${message}`;
  }
}

describe.each(['recent', 'old'] as const)('of a log whose writes are %s', (age) => {
  const flips = async (
    wrong: (made: Written) => Promise<string | undefined>,
  ): Promise<(string | undefined)[]> => {
    const { length } = (await written(age)).disk.contents(FILE);
    const found: string[] = [];
    for (let place = 0; place < length; place++) {
      const made = await written(age);
      const bit = place % 8;
      made.disk.flipBit(FILE, place, bit);
      const what = await wrong(made);
      if (what !== undefined) found.push(`byte ${place}, bit ${bit}: ${what}`);
    }
    return found;
  };

  test.each([1, 300, 2 ** 20])('no read of %i bytes gives what was not written', async (bytes) => {
    const wrong = await flips(async (made) => {
      for (let offset = made.from.length - 1; offset >= 0; offset--) {
        const what = await wrongAt(made, offset, bytes);
        if (what !== undefined) return what;
        if (made.log.state !== 'online') return undefined;
      }
      return 'nothing was noticed';
    });
    expect(wrong).toEqual([]);
  });

  test('no look-up by time gives another offset', async () => {
    const wrong = await flips(async ({ log }) => {
      let base = 0;
      for (const [index, count] of SIZES.entries()) {
        try {
          const found = await log.offsetForTimestamp(NOW_MS + index * 1000, log.logEndOffset);
          if (found?.offset !== base)
            return `batch ${index} begins at ${base}, not ${found?.offset}`;
        } catch (error) {
          const { kind, message } = error as LogError;
          if (kind !== 'corrupt') return `${kind}: ${message}`;
          return undefined;
        }
        base += count;
      }
      return undefined;
    });
    expect(wrong).toEqual([]);
  });

  test('a log that is whole is read as it was written', async () => {
    const { log } = await written(age);
    const all = await readAll(log);
    expect(all.flatMap((bytes) => [...decodeRecords(bytes)])).toHaveLength(13);
  });
});
