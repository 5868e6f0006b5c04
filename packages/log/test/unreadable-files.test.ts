/** What can be made anew never takes a log offline; what fails in one log stays with that one. */
import { describe, expect, test } from 'vitest';
import { DiskError } from '@relevo/base/ports';
import { FreeSpace } from '@relevo/log/free-space';
import { LogError } from '@relevo/log/log-error';
import type { PartitionLog } from '@relevo/log/partition-log';
import { SegmentCache } from '@relevo/log/segment-cache';
import { TimeIndex } from '@relevo/log/time-index';
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
  readValues,
} from './support.ts';

const settings = config({ segmentBytes: 230, indexIntervalBytes: 50, retentionMs: 1000 });

/** Ten records in four segments or so, closed in order and opened again: no index is in memory. */
async function reopened(): Promise<{ disk: SimulatedDisk; open: () => PartitionLog }> {
  const disk = newDisk();
  const log = openLog(disk, { config: settings });
  for (let index = 0; index < 10; index++) {
    const bytes = batch({ values: [`value ${index}`], timestampMs: NOW_MS + index });
    log.appendAsLeader(bytes, epoch(0), NOW_MS);
  }
  await log.sync();
  await log.advanceRecoveryPoint(at(10));
  await log.close();
  const options = { config: settings, cleanShutdown: true, recoveryPoint: at(10) };
  // One old segment at a time is kept open: the others come from their files.
  return { disk, open: () => openLog(disk, options, { cache: new SegmentCache(1) }) };
}

/** Files that match can be neither opened nor read, as long as they are the same. */
const unreadable = (disk: SimulatedDisk, path: RegExp): void => {
  for (const operation of ['open', 'read'] as const) disk.fail({ operation, path, times: 10_000 });
};

describe.each([/\.index$/, /\.timeindex$/, /\.(time)?index$/])(
  'indexes that cannot be read',
  (path) => {
    test.each<[string, (log: PartitionLog) => unknown]>([
      ['retention', (log) => expect(log.applyRetention(NOW_MS + 1005, at(10))).toBeGreaterThan(0)],
      ['the latest timestamp', (log) => expect(log.latestTimestamp).toBe(NOW_MS + 9)],
      [
        'a look-up by time',
        async (log) =>
          expect(await log.offsetForTimestamp(NOW_MS + 4, at(10))).toMatchObject({ offset: 4 }),
      ],
      ['reads', async (log) => expect((await readValues(log)).size).toBe(10)],
      ['truncation', (log) => expect(log.truncateTo(at(5))).toBe(5)],
    ])(`do not keep the log from %s (${path.source})`, async (_, use) => {
      const { disk, open } = await reopened();
      unreadable(disk, path);
      const log = open();
      await use(log);
      expect(log.state).toBe('online');
    });

    test(`nor from opening after a crash (${path.source})`, async () => {
      const { disk } = await reopened();
      unreadable(disk, path);
      const log = openLog(disk, { config: settings, recoveryPoint: at(10) });
      expect((await readValues(log)).size).toBe(10);
    });

    test(`and are replaced (${path.source})`, async () => {
      const { disk, open } = await reopened();
      unreadable(disk, path);
      open().applyRetention(NOW_MS, at(10));
      disk.clearFaults();
      const before = disk.contents(`${DIRECTORY}/00000000000000000000.timeindex`);
      expect(before.length).toBeGreaterThan(0);
    });
  },
);

test.each([/leader-epoch-checkpoint$/, /\.snapshot$/])(
  'a file that follows from the log and cannot be read is made anew (%s)',
  async (path) => {
    const { disk } = await reopened();
    unreadable(disk, path);
    const log = openLog(disk, { config: settings, recoveryPoint: at(10) });
    expect((await readValues(log)).size).toBe(10);
    expect(log.epochEntries).toEqual([{ epoch: 0, startOffset: 0 }]);
  },
);

test('a segment that cannot be read takes its log offline, and throws what callers know', async () => {
  for (const use of [
    (log: PartitionLog): unknown => log.applyRetention(NOW_MS + 1005, at(10)),
    (log: PartitionLog): unknown => log.latestTimestamp,
    (log: PartitionLog): unknown => log.truncateTo(at(2)),
  ]) {
    const { disk, open } = await reopened();
    const log = open();
    unreadable(disk, /\.(log|index|timeindex)$/);
    expect(() => use(log)).toThrowError(LogError);
    expect(log.state).toBe('offline');
  }
});

test('a time index that calls a segment older than its records deletes nothing', async () => {
  const { disk, open } = await reopened();
  const path = `${DIRECTORY}/00000000000000000000.timeindex`;
  const index = new TimeIndex(at(0));
  index.append(NOW_MS - 10 ** 9, at(1));
  const file = disk.port().open(path, 'existing');
  file.truncate(0);
  file.write(index.encoded(), 0);
  const log = open();
  expect(log.applyRetention(NOW_MS + 500, at(10))).toBe(0);
  expect(log.applyRetention(NOW_MS + 1005, at(10))).toBeGreaterThan(0);
});

test('room that cannot be measured keeps nobody from writing', () => {
  const disk = newDisk();
  const port = disk.port();
  let fails = false;
  port.freeBytes = () => {
    if (fails) throw new DiskError('IO', '/data', 'cannot stat');
    return 2 ** 30;
  };
  const space = new FreeSpace(port, '/data', 0);
  const log = openLog(port, {}, { space });
  fails = true;
  expect(appendValues(log, ['a'])).toEqual([0]);
});
