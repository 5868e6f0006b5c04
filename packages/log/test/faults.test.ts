import { describe, expect, test } from 'vitest';
import type { Offset } from '@relevo/base/ids';
import type { Logger } from '@relevo/base/ports';
import { FreeSpace } from '@relevo/log/free-space';
import { GroupCommit } from '@relevo/log/group-commit';
import type { LogError } from '@relevo/log/log-error';
import {
  DIRECTORY,
  NOW_MS,
  appendValues,
  at,
  batch,
  config,
  epoch,
  kindOf,
  newDisk,
  openLog,
  readAll,
  readValues,
} from './support.ts';

const silentLogger: Logger = {
  debug: () => undefined,
  info: () => undefined,
  warn: () => undefined,
  error: () => undefined,
  child: () => silentLogger,
};

describe('sync', () => {
  test('covers all that was appended before the call', async () => {
    const disk = newDisk();
    const log = openLog(disk);
    appendValues(log, ['a', 'b']);
    expect(log.syncedEndOffset).toBe(0);
    await log.sync();
    expect(log.syncedEndOffset).toBe(2);
    disk.crash();
    expect((await readValues(openLog(disk))).size).toBe(2);
  });

  test('is shared: while one runs, all who come wait together for one more', async () => {
    let runs = 0;
    const gates: (() => void)[] = [];
    const commit = new GroupCommit(() => {
      runs++;
      return new Promise((resolve) => gates.push(resolve));
    });
    const done: string[] = [];
    const ask = (name: string): Promise<unknown> => commit.request().then(() => done.push(name));
    const asked = [ask('first')];
    for (let index = 0; index < 50; index++) asked.push(ask(`later ${index}`));
    expect(runs).toBe(1);
    gates.shift()?.();
    await asked[0];
    expect(done).toEqual(['first']);
    expect(runs).toBe(2);
    gates.shift()?.();
    await Promise.all(asked);
    expect(done.length).toBe(51);
    await commit.idle();
    const next = ask('next');
    expect(runs).toBe(3);
    gates.shift()?.();
    await next;
  });

  test('of what came while a sync ran waits for the next one', async () => {
    const disk = newDisk();
    const log = openLog(disk);
    appendValues(log, ['a']);
    disk.hang();
    const first = log.sync();
    appendValues(log, ['b']);
    const second = log.sync();
    const third = log.sync();
    expect(log.syncedEndOffset).toBe(0);
    disk.unhang();
    await first;
    expect(log.syncedEndOffset).toBe(1);
    await Promise.all([second, third]);
    expect(log.syncedEndOffset).toBe(2);
  });

  test('that runs when the log is truncated does not count what was cut', async () => {
    const disk = newDisk();
    const log = openLog(disk);
    appendValues(log, ['a', 'b', 'c']);
    disk.hang();
    const running = log.sync();
    log.truncateTo(at(1));
    appendValues(log, ['x', 'y'], 1);
    disk.unhang();
    await running;
    expect(log.syncedEndOffset).toBe(1);
    await log.sync();
    expect(log.syncedEndOffset).toBe(3);
    expect([...(await readValues(log)).values()]).toEqual(['a', 'x', 'y']);
    // What was cut might come back: nothing is written over it before that is ruled out.
    expect(log.segments.map(({ baseOffset }) => baseOffset)).toEqual([0, 1]);
  });

  test('with flush mode os an offset counts as synced at once', async () => {
    const disk = newDisk();
    const log = openLog(disk, { config: config({ flushMode: 'os' }) });
    appendValues(log, ['a']);
    expect(log.syncedEndOffset).toBe(1);
    disk.hang();
    await log.sync();
    disk.unhang();
    await log.advanceRecoveryPoint(at(1));
    expect(log.recoveryPoint).toBe(1);
    disk.crash();
    expect(openLog(disk, { recoveryPoint: at(1) }).logEndOffset).toBe(1);
  });

  test('the recovery point is not above the high watermark, nor above what is synced', async () => {
    const log = openLog(newDisk());
    appendValues(log, ['a', 'b', 'c']);
    await log.advanceRecoveryPoint(at(2));
    expect(log.recoveryPoint).toBe(2);
    await log.advanceRecoveryPoint(at(9));
    expect(log.recoveryPoint).toBe(3);
  });
});

describe('a failing disk', () => {
  test.each(['write', 'datasync', 'syncDirectory'] as const)(
    'a failed %s takes the log offline for good',
    async (operation) => {
      const disk = newDisk();
      const reasons: LogError[] = [];
      const log = openLog(disk, {}, { onOffline: (reason) => reasons.push(reason) });
      appendValues(log, ['a']);
      disk.fail({ operation });
      if (operation === 'write') expect(kindOf(() => appendValues(log, ['b']))).toBe('offline');
      else
        await expect(log.sync()).rejects.toMatchObject({ kind: 'offline', code: 'STORAGE_ERROR' });
      expect(log.state).toBe('offline');
      expect(reasons.length).toBe(1);
      expect(log.offlineReason).toBe(reasons[0]);
      expect(kindOf(() => appendValues(log, ['c']))).toBe('offline');
      expect(kindOf(() => log.read(at(0), 100, at(1), true))).toBe('offline');
      await expect(log.sync()).rejects.toBe(reasons[0]);
      expect(log.syncedEndOffset).toBe(0);
      expect(await log.close()).toBe(false);
    },
  );

  test('all who wait for a failing sync are told', async () => {
    const disk = newDisk();
    const log = openLog(disk);
    appendValues(log, ['a']);
    disk.fail({ operation: 'datasync' });
    const waiting = [log.sync(), log.sync(), log.sync()].map((sync) =>
      sync.then(
        () => 'synced',
        (error: LogError) => error.kind,
      ),
    );
    expect(await Promise.all(waiting)).toEqual(['offline', 'offline', 'offline']);
  });

  test('a failed read takes it offline too', async () => {
    const disk = newDisk();
    await closeWith(disk, ['a']);
    const log = openLog(disk, { cleanShutdown: true });
    disk.fail({ operation: 'read' });
    await expect(log.read(at(0), 100, at(1), true)).rejects.toMatchObject({ kind: 'offline' });
    expect(log.state).toBe('offline');
  });

  test('a log that cannot be opened says so', () => {
    const disk = newDisk();
    disk.fail({ operation: 'open' });
    expect(kindOf(() => openLog(disk))).toBe('offline');
  });

  const closeWith = async (disk: ReturnType<typeof newDisk>, values: string[]): Promise<void> => {
    const log = openLog(disk);
    appendValues(log, values);
    await log.close();
  };
});

describe('a full disk', () => {
  test('refuses appends, serves reads, and takes appends again when there is room', async () => {
    const disk = newDisk();
    const log = openLog(disk);
    appendValues(log, ['a', 'b']);
    const capacity = disk.capacityBytes;
    disk.capacityBytes = disk.usedBytes + 10;
    expect(kindOf(() => appendValues(log, ['c']))).toBe('diskFull');
    expect(log.state).toBe('online');
    expect([...(await readValues(log)).values()]).toEqual(['a', 'b']);
    disk.capacityBytes = capacity;
    expect(appendValues(log, ['d'])).toEqual([2]);
    await log.sync();
    disk.crash();
    expect([...(await readValues(openLog(disk))).values()]).toEqual(['a', 'b', 'd']);
  });

  test('so does a reserve that is reached', () => {
    const disk = newDisk();
    disk.capacityBytes = 100_000;
    const space = new FreeSpace(disk.port(), '/data', 50_000);
    const log = openLog(disk, {}, { space });
    let appended = 0;
    while (
      kindOf(() => log.appendAsLeader(batch({ valueBytes: 500 }), epoch(0), NOW_MS)) === 'no error'
    ) {
      appended++;
    }
    expect(appended).toBeGreaterThan(70);
    expect(disk.port().freeBytes('/')).toBeGreaterThanOrEqual(50_000);
    expect(log.state).toBe('online');
    disk.capacityBytes += 10_000;
    log.appendAsLeader(batch({ valueBytes: 500 }), epoch(0), NOW_MS);
  });

  test('is told of once, and over when there is room for what was refused', () => {
    const disk = newDisk();
    const told: string[] = [];
    const logger: Logger = {
      ...silentLogger,
      warn: (event) => told.push(event.slice(0, 'appends are refused'.length)),
    };
    disk.capacityBytes = disk.usedBytes + 3_000_000;
    const space = new FreeSpace(disk.port(), '/data', 2_000_000, logger);
    space.check();
    expect(space.take(900_000)).toBe(true);
    expect(space.isShort).toBe(false);
    expect([space.take(1_500_000), space.take(1_400_000)]).toEqual([false, false]);
    expect([told, space.isShort]).toEqual([['appends are refused'], true]);
    expect(space.shortage).toContain('/data has 3000000 bytes free');
    // A smaller one has room all the same.
    expect(space.take(500_000)).toBe(true);
    space.check();
    disk.capacityBytes += 400_000;
    space.check();
    expect(space.isShort).toBe(true);
    disk.capacityBytes += 100_000;
    // What is refused although there seems to be room keeps it short.
    space.exhausted(10);
    space.check();
    expect(space.isShort).toBe(true);
    space.check();
    expect([told.length, space.isShort]).toEqual([2, false]);
    disk.capacityBytes -= 1_500_000;
    space.check();
    expect([told.length, space.isShort]).toEqual([3, true]);
  });

  test('a roll without room changes nothing', async () => {
    const disk = newDisk();
    const log = openLog(disk, { config: config({ segmentBytes: 200 }) });
    appendValues(log, ['a', 'b']);
    disk.fail({ operation: 'open', code: 'FULL', path: /\.log$/ });
    expect(kindOf(() => log.appendAsLeader(batch({ valueBytes: 100 }), epoch(0), NOW_MS))).toBe(
      'diskFull',
    );
    expect(log.segments.length).toBe(1);
    log.appendAsLeader(batch({ valueBytes: 100 }), epoch(0), NOW_MS);
    expect(log.segments.length).toBe(2);
    expect((await readAll(log)).length).toBe(3);
  });

  test('without room for the epochs the log goes on, and writes them when there is some', async () => {
    const disk = newDisk();
    // A single segment tells its epochs itself after a crash.
    const log = openLog(disk, { config: config({ segmentBytes: 1 }) });
    log.beginEpoch(epoch(3));
    appendValues(log, ['a', 'b'], 3);
    await log.sync();
    const capacity = disk.capacityBytes;
    disk.capacityBytes = disk.usedBytes;
    await expect(log.advanceRecoveryPoint(at(2))).rejects.toMatchObject({ kind: 'diskFull' });
    expect([log.state, log.recoveryPoint]).toEqual(['online', 0]);
    disk.capacityBytes = capacity;
    await log.advanceRecoveryPoint(at(2));
    expect(log.recoveryPoint).toBe(2);
  });

  test('without room to note a truncation nothing is cut, and it may be asked for again', async () => {
    const disk = newDisk();
    const log = openLog(disk);
    appendValues(log, ['a', 'b', 'c']);
    await log.advanceRecoveryPoint(at(3));
    const capacity = disk.capacityBytes;
    disk.capacityBytes = disk.usedBytes;
    expect(kindOf(() => log.truncateTo(at(1)))).toBe('diskFull');
    expect(kindOf(() => log.truncateFullyAndStartAt(at(9)))).toBe('diskFull');
    expect([log.state, log.logEndOffset]).toEqual(['online', 3]);
    expect(await readAll(log)).toHaveLength(3);
    disk.capacityBytes = capacity;
    expect(log.truncateTo(at(1))).toBe(1);
    log.truncateFullyAndStartAt(at(9));
    expect([log.logStartOffset, log.logEndOffset]).toEqual([9, 9]);
  });

  test('without room for its indexes a segment is sealed all the same', async () => {
    const disk = newDisk();
    const log = openLog(disk, { config: config({ segmentBytes: 200 }) });
    appendValues(log, ['a', 'b']);
    disk.fail({ operation: 'write', code: 'FULL', path: /index|snapshot/, times: 3 });
    appendValues(log, ['c', 'd', 'e']);
    expect(log.state).toBe('online');
    expect((await readAll(log)).length).toBe(5);
  });
});

describe('followers', () => {
  test('take the leader’s batches as they are, across segments', async () => {
    const leader = openLog(newDisk());
    for (let index = 0; index < 40; index++) {
      leader.appendAsLeader(batch({ count: 2, valueBytes: 50 }), epoch(index >> 3), NOW_MS);
    }
    const follower = openLog(newDisk(), { config: config({ segmentBytes: 700 }) });
    for (let next = 0; next < 80; next = follower.logEndOffset) {
      const bytes = await leader.read(at(next), 1000, leader.logEndOffset, true);
      const result = follower.appendAsFollower(bytes, NOW_MS);
      expect(result).toMatchObject({ baseOffset: next, bytes: bytes.length });
    }
    expect(follower.segments.length).toBeGreaterThan(5);
    expect(follower.segments.every(({ sizeBytes }) => sizeBytes <= 700)).toBe(true);
    expect(await readAll(follower)).toEqual(await readAll(leader));
    expect(follower.epochEntries).toEqual(leader.epochEntries);
    expect(follower.producerSnapshot()).toEqual(leader.producerSnapshot());
  });

  test.each<[string, (good: Uint8Array) => Uint8Array, string]>([
    ['that leave a gap', () => batch({ baseOffset: 4, leaderEpoch: 2 }), 'notNext'],
    ['that were there', () => batch({ baseOffset: 2, leaderEpoch: 2 }), 'notNext'],
    ['of an older epoch', () => batch({ baseOffset: 3, leaderEpoch: 1 }), 'oldLeaderEpoch'],
    ['that are cut off', (good) => good.subarray(0, good.length - 1), 'badBatch'],
    ['with a wrong CRC', (good) => good.with(70, (good[70] ?? 0) ^ 1), 'badBatch'],
    ['with a stray tail', (good) => Uint8Array.from([...good, 0]), 'badBatch'],
  ])('refuse batches %s, and append nothing', (_, make, kind) => {
    const log = openLog(newDisk());
    appendValues(log, ['a', 'b', 'c'], 2);
    const good = batch({ baseOffset: 3, leaderEpoch: 2 });
    expect(kindOf(() => log.appendAsFollower(make(good), NOW_MS))).toBe(kind);
    expect(log.logEndOffset).toBe(3);
    expect(log.appendAsFollower(good, NOW_MS).nextOffset).toBe(4);
  });

  test('a leader of an old epoch appends nothing', () => {
    const log = openLog(newDisk());
    log.beginEpoch(epoch(5));
    expect(kindOf(() => appendValues(log, ['a'], 4))).toBe('oldLeaderEpoch');
    expect(appendValues(log, ['a'], 5)).toEqual([0]);
  });
});

describe('segments', () => {
  test('roll by size, by time and when offsets run out', () => {
    const bySize = openLog(newDisk(), { config: config({ segmentBytes: 300 }) });
    appendValues(bySize, ['a', 'b', 'c', 'd', 'e', 'f', 'g', 'h', 'i']);
    expect(bySize.segments.map(({ baseOffset }) => baseOffset)).toEqual([0, 4, 8]);

    const byTime = openLog(newDisk(), { config: config({ segmentMs: 1000 }) });
    for (const agoMs of [5000, 4500, 4000, 3999, 2999, 2998]) {
      byTime.appendAsLeader(batch({ timestampMs: NOW_MS - agoMs }), epoch(0), NOW_MS);
    }
    expect(byTime.segments.map(({ baseOffset }) => baseOffset)).toEqual([0, 3, 5]);
  });

  test('a batch above the segment size gets a segment of its own', () => {
    const log = openLog(newDisk(), { config: config({ segmentBytes: 300 }) });
    for (let index = 0; index < 3; index++) {
      log.appendAsLeader(batch({ valueBytes: 1000 }), epoch(0), NOW_MS);
    }
    expect(log.segments.length).toBe(3);
  });
});

describe('retention', () => {
  const made = (changes: Parameters<typeof config>[0]): ReturnType<typeof openLog> => {
    const log = openLog(newDisk(), { config: config({ segmentBytes: 300, ...changes }) });
    for (let index = 0; index < 12; index++) {
      const timestampMs = NOW_MS - 12_000 + index * 1000;
      log.appendAsLeader(batch({ timestampMs, values: ['x'] }), epoch(index >> 2), NOW_MS);
    }
    return log;
  };
  const starts = (log: ReturnType<typeof openLog>): Offset[] =>
    log.segments.map(({ baseOffset }) => baseOffset);

  test('by age takes whole segments, oldest first', async () => {
    const log = made({ retentionMs: 6000 });
    expect(starts(log)).toEqual([0, 4, 8]);
    expect(log.applyRetention(NOW_MS, at(12))).toBe(1);
    expect(log.logStartOffset).toBe(4);
    expect(kindOf(() => log.read(at(3), 100, at(12), true))).toBe('outOfRange');
    expect((await readValues(log)).size).toBe(8);
    expect(log.epochEntries[0]).toEqual({ epoch: 1, startOffset: 4 });
    expect(log.applyRetention(NOW_MS, at(12))).toBe(0);
  });

  test('takes the last one too when all in it is old', () => {
    const log = made({ retentionMs: 1000 });
    expect(log.applyRetention(NOW_MS + 60_000, at(12))).toBe(3);
    expect([log.logStartOffset, log.logEndOffset, log.sizeBytes]).toEqual([12, 12, 0]);
    expect(appendValues(log, ['y'], 2)).toEqual([12]);
  });

  test('by size leaves at least as much', () => {
    const log = made({ retentionMs: -1, retentionBytes: 500 });
    log.applyRetention(NOW_MS, at(12));
    expect(starts(log)).toEqual([4, 8]);
    expect(log.sizeBytes).toBeGreaterThanOrEqual(500);
  });

  test('never goes above the high watermark', () => {
    const log = made({ retentionMs: 0 });
    expect(log.applyRetention(NOW_MS + 60_000, at(7))).toBe(1);
    expect(log.logStartOffset).toBe(4);
  });

  test('deleted records are not read, and their segments go', () => {
    const log = made({ retentionMs: -1 });
    log.deleteRecordsBefore(at(6));
    expect(log.logStartOffset).toBe(6);
    expect(log.applyRetention(NOW_MS, at(12))).toBe(1);
    expect(starts(log)).toEqual([4, 8]);
    expect(log.logStartOffset).toBe(6);
    expect(kindOf(() => log.deleteRecordsBefore(at(13)))).toBe('outOfRange');
  });

  test('the files are gone, and stay gone', async () => {
    const disk = newDisk();
    const log = openLog(disk, { config: config({ segmentBytes: 300, retentionMs: 1000 }) });
    for (let index = 0; index < 9; index++) {
      log.appendAsLeader(batch({ values: ['x'] }), epoch(0), NOW_MS);
    }
    await log.sync();
    log.applyRetention(NOW_MS + 5000, at(9));
    await log.close();
    const names = disk
      .port()
      .list(DIRECTORY)
      .map(({ name }) => name);
    expect(names.filter((name) => name.endsWith('.log'))).toEqual(['00000000000000000009.log']);
    expect(names.some((name) => name.endsWith('.deleted'))).toBe(false);
    disk.crash();
    expect(openLog(disk, { recoveryPoint: at(9) }).logStartOffset).toBe(9);
  });

  test('what the deleted told of producers is not forgotten', async () => {
    const disk = newDisk();
    const settings = config({
      segmentBytes: 300,
      retentionMs: 1000,
      producerIdExpirationMs: 10 ** 9,
    });
    const log = openLog(disk, { config: settings });
    const first = (): Uint8Array =>
      batch({ producer: 1, sequence: 0, timestampMs: NOW_MS - 90_000 });
    log.appendAsLeader(first(), epoch(0), NOW_MS);
    appendValues(log, ['b', 'c', 'd', 'e', 'f']);
    await log.sync();
    log.applyRetention(NOW_MS - 50_000, at(6));
    log.deleteRecordsBefore(at(4));
    expect(log.applyRetention(NOW_MS, at(6))).toBe(1);
    await log.sync();
    const again = openLog(disk, { config: settings });
    expect(again.logStartOffset).toBeGreaterThan(0);
    expect(again.appendAsLeader(first(), epoch(0), NOW_MS).kind).toBe('duplicate');
  });
});

describe('the end of a log', () => {
  test('deleted, its directory is gone and its name free at once', async () => {
    const disk = newDisk();
    const log = openLog(disk);
    appendValues(log, ['a']);
    const gone = log.delete();
    expect(kindOf(() => appendValues(log, ['b']))).toBe('closed');
    const next = openLog(disk);
    expect(appendValues(next, ['c'])).toEqual([0]);
    await gone;
    expect(
      disk
        .port()
        .list('/data')
        .map(({ name }) => name),
    ).toEqual(['orders-0']);
  });

  test('closed, it does nothing more', async () => {
    const log = openLog(newDisk());
    appendValues(log, ['a']);
    await log.close();
    expect(log.state).toBe('closed');
    expect(log.recoveryPoint).toBe(1);
    expect(kindOf(() => log.read(at(0), 1, at(1), true))).toBe('closed');
    await expect(log.sync()).rejects.toMatchObject({ kind: 'closed' });
  });

  test('emptied, it begins where it was told to, after a crash too', async () => {
    const disk = newDisk();
    const log = openLog(disk, { recoveryPoint: at(0) });
    appendValues(log, ['a', 'b', 'c']);
    await log.advanceRecoveryPoint(at(3));
    log.truncateFullyAndStartAt(at(100));
    disk.crash();
    const again = openLog(disk, { recoveryPoint: at(3) });
    expect([again.logStartOffset, again.logEndOffset]).toEqual([100, 100]);
    expect(
      again.appendAsFollower(batch({ baseOffset: 100, leaderEpoch: 3 }), NOW_MS).nextOffset,
    ).toBe(101);
  });
});
