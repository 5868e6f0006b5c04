import { describe, expect, test } from 'vitest';
import { bytesEqual } from '@relevo/base/bytes';
import type { Offset } from '@relevo/base/ids';
import type { Disk, DiskFile } from '@relevo/base/ports';
import { runInSlices } from '@relevo/log/steps';
import { PartitionLog } from '@relevo/log/partition-log';
import { judgeTailSteps } from '@relevo/log/torn-tail';
import { crc32c } from '@relevo/record/crc32c';
import type { SimulatedDisk } from '@relevo/simulation/simulated-disk';
import {
  DIRECTORY,
  NOW_MS,
  TOPIC_ID,
  at,
  batch,
  config,
  epoch,
  newDisk,
  openLog,
  readAll,
  recordingLogger,
  value,
} from './support.ts';

const SEGMENT_BYTES = 256 * 1024;
const SETTINGS = config({ segmentBytes: SEGMENT_BYTES, indexIntervalBytes: 1024 });

const files = (disk: SimulatedDisk, suffix: string): string[] =>
  disk
    .port()
    .list(DIRECTORY)
    .map(({ name }) => name)
    .filter((name) => name.endsWith(suffix));

/** Appends about so many bytes, in batches of a producer. */
function grow(log: PartitionLog, bytes: number, leader = 0): void {
  const until = log.sizeBytes + bytes;
  while (log.sizeBytes < until) {
    const sequence = log.logEndOffset;
    const one = batch({ valueBytes: 900, producer: 5, sequence, timestampMs: NOW_MS + sequence });
    log.appendAsLeader(one, epoch(leader), NOW_MS);
  }
}

/** A log of which a recovery start tells nearly all; the recovery point is above it. */
async function grown(disk: SimulatedDisk): Promise<{ readonly log: PartitionLog; at: Offset }> {
  const log = openLog(disk, { config: SETTINGS });
  grow(log, 100_000);
  await log.advanceRecoveryPoint(log.logEndOffset);
  grow(log, 50_000, 1);
  await log.advanceRecoveryPoint(log.logEndOffset);
  grow(log, 5_000, 2);
  await log.advanceRecoveryPoint(log.logEndOffset);
  await log.sync();
  return { log, at: log.recoveryPoint };
}

/** Counts what is read of segment files. */
function counting(disk: Disk): { readonly disk: Disk; readonly bytes: () => number } {
  let bytes = 0;
  const open = (path: string, mode: 'create' | 'existing' | 'readOnly'): DiskFile => {
    const file = disk.open(path, mode);
    if (!path.endsWith('.log')) return file;
    return new Proxy(file, {
      get: (target, name) => {
        if (name === 'readSync') {
          return (into: Uint8Array, position: number) => {
            const length = target.readSync(into, position);
            bytes += length;
            return length;
          };
        }
        const found: unknown = Reflect.get(target, name);
        return typeof found === 'function' ? found.bind(target) : found;
      },
    });
  };
  const counted = new Proxy(disk, {
    get: (target, name) => {
      if (name === 'open') return open;
      const found: unknown = Reflect.get(target, name);
      return typeof found === 'function' ? found.bind(target) : found;
    },
  });
  return { disk: counted, bytes: () => bytes };
}

async function expectSame(found: PartitionLog, log: PartitionLog): Promise<void> {
  expect(found.logEndOffset).toBe(log.logEndOffset);
  expect(found.epochEntries).toEqual(log.epochEntries);
  expect(bytesEqual(found.producerSnapshot(), log.producerSnapshot())).toBe(true);
  const [is, was] = [await readAll(found), await readAll(log)];
  expect(is.length).toBe(was.length);
  for (const [index, bytes] of is.entries())
    expect(bytesEqual(bytes, was[index] ?? value(1))).toBe(true);
}

describe('a recovery start', () => {
  test('spares a recovery to read what lies below it', async () => {
    const disk = newDisk();
    const { log, at: recoveryPoint } = await grown(disk);
    expect(files(disk, '.recovery').length).toBeGreaterThan(0);
    const { disk: counted, bytes } = counting(disk.port());
    const found = openLog(counted, { config: SETTINGS, recoveryPoint });
    // The start of the file, for the first timestamp, and what comes after the last recovery start.
    expect(bytes()).toBeLessThan(100_000);
    await expectSame(found, log);
    for (const timestamp of [NOW_MS, NOW_MS + 40, NOW_MS + 120]) {
      const told = await found.offsetForTimestamp(timestamp, found.logEndOffset);
      expect(told).toEqual(await log.offsetForTimestamp(timestamp, log.logEndOffset));
    }
  });

  test('that is damaged anywhere, or gone, costs a reading of the segment and no more', async () => {
    const disk = newDisk();
    const { log, at: recoveryPoint } = await grown(disk);
    for (const name of files(disk, '.recovery').slice(0, -1))
      disk.port().remove(`${DIRECTORY}/${name}`);
    const [name = ''] = files(disk, '.recovery');
    const path = `${DIRECTORY}/${name}`;
    const { length } = disk.contents(path);
    for (let place = 0; place < length; place += 37) {
      disk.flipBit(path, place, 3);
      const logger = recordingLogger();
      const found = openLog(disk, { config: SETTINGS, recoveryPoint }, { logger });
      expect(found.logEndOffset).toBe(log.logEndOffset);
      expect(logger.lines.map(({ event }) => event)).toContain(
        'passed over a damaged recovery start',
      );
      disk.flipBit(path, place, 3);
    }
    disk.port().remove(path);
    await expectSame(openLog(disk, { config: SETTINGS, recoveryPoint }), log);
  });

  test('of another history is found out: the log does not lead to it', async () => {
    const disk = newDisk();
    const { log, at: recoveryPoint } = await grown(disk);
    const other = newDisk(2);
    const otherLog = openLog(other, { config: SETTINGS });
    grow(otherLog, 155_000, 7);
    await otherLog.advanceRecoveryPoint(otherLog.logEndOffset);
    for (const name of files(disk, '.recovery')) disk.port().remove(`${DIRECTORY}/${name}`);
    const [name = ''] = files(other, '.recovery');
    const file = disk.port().open(`${DIRECTORY}/${name}`, 'create');
    file.write(other.contents(`${DIRECTORY}/${name}`), 0);
    const logger = recordingLogger();
    const found = openLog(disk, { config: SETTINGS, recoveryPoint }, { logger });
    await expectSame(found, log);
  });

  test('above the recovery point does not count, and goes', async () => {
    const disk = newDisk();
    const log = openLog(disk, { config: SETTINGS });
    grow(log, 60_000);
    await log.sync();
    const synced = log.logEndOffset;
    grow(log, 60_000);
    await log.advanceRecoveryPoint(synced);
    const [name] = files(disk, '.recovery');
    expect(name).toBe(`${String(log.logEndOffset).padStart(20, '0')}.recovery`);
    disk.crashKeeping(() => true, 'loseAll');
    const found = openLog(disk, { config: SETTINGS, recoveryPoint: synced });
    expect(found.logEndOffset).toBe(synced);
    expect(files(disk, '.recovery')).toEqual([]);
  });

  test('goes with a truncation below it, also one that is being written', async () => {
    const disk = newDisk();
    const { log } = await grown(disk);
    grow(log, 60_000, 2);
    const end = log.logEndOffset;
    const advancing = log.advanceRecoveryPoint(at(end - 1));
    await Promise.resolve();
    log.truncateTo(at(20));
    await advancing;
    await log.sync();
    expect(files(disk, '.recovery')).toEqual([]);
    grow(log, 120_000, 3);
    await log.advanceRecoveryPoint(log.logEndOffset);
    await expectSame(openLog(disk, { config: SETTINGS, recoveryPoint: log.recoveryPoint }), log);
  });
});

describe('the recovery point', () => {
  test('is not raised above what had been appended when it was asked for', async () => {
    const disk = newDisk();
    const log = openLog(disk, { config: config({ segmentBytes: 3_000 }) });
    grow(log, 4_000);
    await log.sync();
    disk.hang();
    grow(log, 1_000);
    const upTo = log.logEndOffset;
    // A follower knows a high watermark above its own end.
    const advancing = log.advanceRecoveryPoint(at(1_000));
    await Promise.resolve();
    grow(log, 9_000, 4);
    const syncing = log.sync();
    disk.unhang();
    await Promise.all([advancing, syncing]);
    expect(log.recoveryPoint).toBe(upTo);
    // What the epoch file does not tell, the log does.
    disk.crash();
    const found = openLog(disk, { config: config({ segmentBytes: 3_000 }), recoveryPoint: upTo });
    expect(found.epochEntries).toEqual(log.epochEntries);
  });

  test('stays where the log is cut meanwhile', async () => {
    const disk = newDisk();
    const log = openLog(disk, { config: config({ segmentBytes: 3_000 }) });
    grow(log, 9_000);
    disk.hang();
    const advancing = log.advanceRecoveryPoint(log.logEndOffset);
    await Promise.resolve();
    log.truncateTo(at(2));
    grow(log, 9_000, 4);
    const syncing = log.sync();
    disk.unhang();
    await Promise.allSettled([advancing, syncing]);
    expect(log.recoveryPoint).toBeLessThanOrEqual(2);
    await log.advanceRecoveryPoint(log.logEndOffset);
    expect(log.recoveryPoint).toBe(log.logEndOffset);
  });
});

describe('slices', () => {
  test('a recovery has turns for others in between, and gives the same', async () => {
    const disk = newDisk();
    const log = openLog(disk, { config: config({ segmentBytes: 2 ** 24 }) });
    const one = batch({ valueBytes: 1 });
    for (let count = 0; count < 12_000; count++) {
      log.appendAsLeader(one.slice(), epoch(0), NOW_MS);
    }
    await log.sync();
    let turns = 0;
    const steps = PartitionLog.openSteps(
      {
        directory: DIRECTORY,
        topicId: TOPIC_ID,
        config: config(),
        cleanShutdown: false,
        nowMs: NOW_MS,
      },
      { disk: disk.port(), crc32c, logger: recordingLogger() },
    );
    const pace = { breathe: (): undefined => void turns++ };
    const found = await runInSlices(steps, pace);
    expect(turns).toBeGreaterThan(12);
    expect(found.logEndOffset).toBe(log.logEndOffset);
    expect(bytesEqual(found.producerSnapshot(), log.producerSnapshot())).toBe(true);
  });

  test('a tail is judged piece by piece, each read a few times at most', () => {
    const disk = newDisk();
    disk.port().makeDirectory(DIRECTORY);
    const path = `${DIRECTORY}/00000000000000000000.log`;
    const { disk: counted, bytes } = counting(disk.port());
    const file = counted.open(path, 'create');
    const size = 3 * 2 ** 20;
    // Each second byte looks like the start of a batch.
    file.write(
      Uint8Array.from({ length: size }, (_, place) => 1 + (place % 2)),
      0,
    );
    let steps = 0;
    const judging = judgeTailSteps({ file, position: 0, fileBytes: size, expected: at(0), crc32c });
    for (let next = judging.next(); next.done !== true; next = judging.next()) {
      next.value.now();
      steps++;
    }
    expect(steps).toBeGreaterThan(12);
    expect(bytes()).toBeLessThan(10 * size);
  });
});
