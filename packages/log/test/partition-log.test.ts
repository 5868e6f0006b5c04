import { describe, expect, test } from 'vitest';
import { LogError } from '@relevo/log/log-error';
import type { PartitionLog } from '@relevo/log/partition-log';
import type { SimulatedDisk } from '@relevo/simulation/simulated-disk';
import type { LogErrorKind } from '@relevo/log/log-error';
import {
  at,
  appendValues,
  batch,
  config,
  epoch,
  newDisk,
  openLog,
  readAll,
  readValues,
  NOW_MS,
  DIRECTORY,
  OTHER_TOPIC_ID,
} from './support.ts';

const failsWith = (kind: LogErrorKind): unknown => expect.objectContaining({ kind });

describe('appending and reading', () => {
  test('what was appended is read, in order, with offsets from 0', async () => {
    const log = openLog(newDisk());
    expect(appendValues(log, ['a', 'b', 'c'])).toEqual([0, 1, 2]);
    expect(log.logEndOffset).toBe(3);
    expect([...(await readValues(log))]).toEqual([
      [0, 'a'],
      [1, 'b'],
      [2, 'c'],
    ]);
  });

  test('the bytes are the producer’s, but for base offset and epoch', async () => {
    const log = openLog(newDisk());
    const original = batch({ count: 3 });
    appendValues(log, ['first'], 4);
    const result = log.appendAsLeader(original.slice(), epoch(5), NOW_MS);
    expect(result).toEqual({
      kind: 'appended',
      baseOffset: 1,
      nextOffset: 4,
      bytes: original.length,
    });
    const [, stored] = await readAll(log);
    expect(stored?.subarray(16)).toEqual(original.subarray(16));
    expect([...(stored?.subarray(0, 8) ?? [])]).toEqual([0, 0, 0, 0, 0, 0, 0, 1]);
    expect([...(stored?.subarray(12, 16) ?? [])]).toEqual([0, 0, 0, 5]);
  });

  test('a read begins with the batch that holds its offset, and takes whole batches', async () => {
    const log = openLog(newDisk());
    const sizes: number[] = [];
    for (let index = 0; index < 10; index++) {
      const result = log.appendAsLeader(batch({ count: 5, valueBytes: 100 }), epoch(0), NOW_MS);
      if (result.kind === 'appended') sizes.push(result.bytes);
    }
    const size = sizes[0] ?? 0;
    for (let from = 0; from < 50; from++) {
      const first = Math.floor(from / 5);
      for (const [maxBytes, atLeastOne, count] of [
        [size * 3, true, 3],
        [size * 3 + 10, true, 3],
        [size, false, 1],
        [size - 1, false, 0],
        [size - 1, true, 1],
        [0, true, 1],
        [0, false, 0],
        [2 ** 20, false, 10],
      ] as const) {
        const slice = await log.read(at(from), maxBytes, log.logEndOffset, atLeastOne);
        expect(slice.length).toBe(size * Math.min(count, 10 - first));
        if (slice.length > 0) expect(slice[7]).toBe(first * 5);
      }
    }
  });

  test('nothing at or above the limit is read, not even within a batch', async () => {
    const log = openLog(newDisk());
    for (let index = 0; index < 3; index++)
      log.appendAsLeader(batch({ count: 5 }), epoch(0), NOW_MS);
    const until = async (upTo: number): Promise<number> =>
      (await readAll(log, 0, 2 ** 20, at(upTo))).length;
    expect(await until(0)).toBe(0);
    expect(await until(4)).toBe(0);
    expect(await until(5)).toBe(1);
    expect(await until(14)).toBe(2);
    expect(await until(15)).toBe(3);
    expect(await until(99)).toBe(3);
  });

  test('outside the log there is an error, at its end nothing', async () => {
    const log = openLog(newDisk());
    appendValues(log, ['a', 'b']);
    expect(await log.read(at(2), 100, at(2), true)).toEqual(new Uint8Array(0));
    expect(() => log.read(at(3), 100, at(2), true)).toThrow(LogError);
    log.deleteRecordsBefore(at(1));
    expect(() => log.read(at(0), 100, at(2), true)).toThrowError(/has offsets 1 to 2, not 0/);
  });

  test('what is in memory is read at once, what came from disk off the loop', async () => {
    const disk = newDisk();
    const log = openLog(disk);
    appendValues(log, ['a']);
    expect(log.read(at(0), 100, at(1), true)).toBeInstanceOf(Uint8Array);
    await log.close();
    const again = openLog(disk, { cleanShutdown: true });
    expect(again.read(at(0), 100, at(1), true)).toBeInstanceOf(Promise);
    appendValues(again, ['b']);
    expect(again.read(at(1), 100, at(2), true)).toBeInstanceOf(Uint8Array);
    expect([...(await readValues(again))]).toEqual([
      [0, 'a'],
      [1, 'b'],
    ]);
  });

  test.each<[string, () => Uint8Array, LogErrorKind]>([
    ['too large', () => batch({ valueBytes: 2000 }), 'tooLarge'],
    ['cut off', () => batch().subarray(0, 70), 'badBatch'],
    ['with a tail', () => Uint8Array.from([...batch(), 1]), 'badBatch'],
    ['empty', () => new Uint8Array(0), 'badBatch'],
    ['an hour ahead', () => batch({ timestampMs: NOW_MS + 3_600_001 }), 'badTimestamp'],
  ])('a batch that is %s is refused, and the log is as before', (_, make, kind) => {
    const log = openLog(newDisk(), { config: config({ maxMessageBytes: 1000 }) });
    appendValues(log, ['a']);
    expect(() => log.appendAsLeader(make(), epoch(0), NOW_MS)).toThrowError(
      failsWith(kind) as Error,
    );
    expect(log.logEndOffset).toBe(1);
    expect(appendValues(log, ['b'])).toEqual([1]);
  });

  test('with LogAppendTime the leader’s clock counts', async () => {
    const log = openLog(newDisk(), { config: config({ timestampType: 'LogAppendTime' }) });
    log.appendAsLeader(batch({ timestampMs: 5 }), epoch(0), NOW_MS);
    expect(log.latestTimestamp).toBe(NOW_MS);
    expect(await log.offsetForTimestamp(NOW_MS, at(1))).toMatchObject({
      offset: 0,
      timestamp: NOW_MS,
    });
    const follower = openLog(newDisk());
    const [bytes] = await readAll(log);
    expect(follower.appendAsFollower(bytes ?? new Uint8Array(0), NOW_MS).nextOffset).toBe(1);
  });

  test('another topic’s directory is refused', async () => {
    const disk = newDisk();
    await openLog(disk).close();
    expect(() => openLog(disk, { topicId: OTHER_TOPIC_ID })).toThrowError(
      failsWith('foreign') as Error,
    );
    expect(disk.port().list(DIRECTORY).length).toBeGreaterThan(0);
  });
});

describe('a log that is made later', () => {
  const later = (disk: SimulatedDisk): PartitionLog => openLog(disk, { makeLater: true });

  test('has no files before its first append, and is closed and deleted without any', async () => {
    const disk = newDisk();
    const log = later(disk);
    log.beginEpoch(epoch(1));
    await log.sync();
    await log.advanceRecoveryPoint(at(0));
    expect(await log.read(at(0), 100, at(0), true)).toHaveLength(0);
    expect(await log.close()).toBe(true);
    await later(disk).delete();
    expect(disk.port().exists(DIRECTORY)).toBe(false);
  });

  test('is made off the loop, or by an append that does not wait for that', async () => {
    const disk = newDisk();
    const log = later(disk);
    disk.hang();
    const made = log.make();
    appendValues(log, ['a']);
    expect(log.takes(1)).toBe(true);
    disk.unhang();
    await made;
    appendValues(log, ['b']);
    await log.sync();
    disk.crash();
    expect(await readAll(openLog(disk))).toHaveLength(2);
  });

  test('what is being made when it is deleted goes too', async () => {
    const disk = newDisk();
    const log = later(disk);
    disk.hang();
    void log.make();
    const deleted = log.delete();
    disk.unhang();
    await deleted;
    expect(disk.port().exists(DIRECTORY)).toBe(false);
  });

  test('without room it may be tried again; after another failure the log is offline', async () => {
    const disk = newDisk();
    const log = later(disk);
    disk.fail({ operation: 'write', code: 'FULL', path: /partition.metadata/ });
    await expect(log.make()).rejects.toMatchObject({ kind: 'diskFull' });
    expect(log.state).toBe('online');
    disk.fail({ operation: 'open', path: /\.log$/ });
    await expect(log.make()).rejects.toMatchObject({ kind: 'offline' });
    expect(log.state).toBe('offline');
  });
});
