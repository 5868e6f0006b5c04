import { describe, expect, test } from 'vitest';
import { utf8Decode, utf8Encode } from '@relevo/base/bytes';
import { brokerId, uuid } from '@relevo/base/ids';
import type { Uuid } from '@relevo/base/ids';
import type { Disk } from '@relevo/base/ports';
import { LogDirectory } from '@relevo/log/log-directory';
import type { LogDirectoryOptions } from '@relevo/log/log-directory';
import { readMetaProperties } from '@relevo/log/meta-properties';
import type { PartitionLog } from '@relevo/log/partition-log';
import { crc32c } from '@relevo/record/crc32c';
import type { SimulatedDisk } from '@relevo/simulation/simulated-disk';
import {
  NOW_MS,
  OTHER_TOPIC_ID,
  TOPIC_ID,
  appendValues,
  at,
  config,
  messageOf,
  newDisk,
  readValues,
  recordingLogger,
} from './support.ts';

const DIRECTORY_ID = uuid('DDDDDDDDDDDDDDDDDDDDDD');

const open = (disk: SimulatedDisk, changes: Partial<LogDirectoryOptions> = {}): LogDirectory =>
  openOn(disk.port(), changes);

function openOn(disk: Disk, changes: Partial<LogDirectoryOptions> = {}): LogDirectory {
  return LogDirectory.open(
    {
      root: '/data',
      brokerId: brokerId(1),
      clusterId: 'one',
      newDirectoryId: () => DIRECTORY_ID,
      // What is done to files is done to the logs' own.
      youngBytesMax: 0,
      ...changes,
    },
    { disk, crc32c, logger: recordingLogger(), clock: { monotonicMs: () => 0 } },
  );
}

const openLog = (
  directory: LogDirectory,
  name = 'orders-0',
  topicId: Uuid = TOPIC_ID,
): PartitionLog =>
  directory.openLog({
    topic: name.slice(0, -2),
    partition: Number(name.at(-1)),
    topicId,
    config: config(),
    nowMs: NOW_MS,
  });

const text = (disk: SimulatedDisk, name: string): string =>
  utf8Decode(disk.contents(`/data/${name}`));

describe('whose directory it is', () => {
  test('a new one is marked, durably, and the mark is kept', () => {
    const disk = newDisk();
    const directory = open(disk);
    expect([directory.clusterId, directory.directoryId]).toEqual(['one', DIRECTORY_ID]);
    disk.crash();
    expect(text(disk, 'meta.properties')).toBe(
      `version=2\ncluster.id=one\nnode.id=1\ndirectory.id=${DIRECTORY_ID}\n`,
    );
    const again = open(disk, { clusterId: undefined, newDirectoryId: () => OTHER_TOPIC_ID });
    expect([again.clusterId, again.directoryId]).toEqual(['one', DIRECTORY_ID]);
  });

  test('another cluster’s, another broker’s and one that is in use are refused', () => {
    const disk = newDisk();
    const directory = open(disk);
    expect(messageOf(() => open(disk))).toMatch(/^locked: cannot use the data directory \/data/);
    disk.crash();
    expect(messageOf(() => open(disk, { clusterId: 'two' }))).toBe(
      'foreign: /data holds data of cluster one, this is cluster two; ' +
        'use another data directory, or move that one away',
    );
    expect(messageOf(() => open(disk, { brokerId: brokerId(2) }))).toBe(
      'foreign: /data holds data of broker 1, this is broker 2; ' +
        'correct the broker id or the data directory',
    );
    expect(open(disk).directoryId).toBe(directory.directoryId);
  });

  test.each(['', 'version=1\n', 'version=2\ncluster.id=one\nnode.id=1\n', 'garbage'])(
    'meta.properties with %j is refused',
    (content) => {
      const disk = newDisk();
      disk.port().open('/data/meta.properties', 'create').write(utf8Encode(content), 0);
      expect(messageOf(() => open(disk))).toMatch(/^foreign: .*meta\.properties is damaged/);
    },
  );

  test('comments and spaces are Kafka’s way too', () => {
    const disk = newDisk();
    const content = `#\n#Fri Nov 20\nnode.id = 7\ndirectory.id=${DIRECTORY_ID}\nversion=1\ncluster.id=x\n`;
    disk.port().open('/data/meta.properties', 'create').write(utf8Encode(content), 0);
    expect(readMetaProperties(disk.port(), '/data')).toEqual({
      clusterId: 'x',
      nodeId: 7,
      directoryId: DIRECTORY_ID,
      isOldLayout: true,
    });
  });

  test('partitions without meta.properties are somebody’s: refused', () => {
    const disk = newDisk();
    openLog(open(disk));
    disk.crash();
    disk.port().makeDirectory('/data/orders-0');
    disk.port().open('/data/orders-0/00000000000000000000.log', 'create').close();
    disk.port().remove('/data/meta.properties');
    expect(messageOf(() => open(disk))).toMatch(/^foreign: .*no meta\.properties/);
  });
});

describe('a clean shutdown', () => {
  test('spares the next start its recovery, once', async () => {
    const disk = newDisk();
    const directory = open(disk);
    expect(directory.wasCleanShutdown).toBe(false);
    appendValues(openLog(directory), ['a', 'b']);
    await directory.close(new Map([['orders-0', at(2)]]));
    disk.crash();
    const second = open(disk);
    expect(second.wasCleanShutdown).toBe(true);
    const log = openLog(second);
    expect(second.highWatermark('orders-0')).toBe(2);
    expect((await readValues(log)).size).toBe(2);
    // Power fails before anything else: the mark must not be there again.
    disk.crash();
    expect(open(disk).wasCleanShutdown).toBe(false);
  });

  test('is not claimed when a log went offline, or could not be opened', async () => {
    for (const spoil of ['offline', 'corrupt'] as const) {
      const disk = newDisk();
      const first = open(disk);
      appendValues(openLog(first), ['a', 'b']);
      await first.close(new Map());
      const directory = open(disk);
      if (spoil === 'corrupt') {
        expect(() => openLog(directory, 'orders-0', OTHER_TOPIC_ID)).toThrowError(/belongs to/);
      } else {
        const log = openLog(directory);
        appendValues(log, ['c']);
        disk.fail({ operation: 'datasync' });
        await expect(log.sync()).rejects.toThrowError(/offline/);
        await directory.drop('orders-0');
      }
      await directory.close(new Map());
      expect(open(disk).wasCleanShutdown).toBe(false);
    }
  });

  test('leaves logs that were not opened as they are', async () => {
    const disk = newDisk();
    const first = open(disk);
    appendValues(openLog(first, 'orders-0'), ['a']);
    appendValues(openLog(first, 'orders-1'), ['b']);
    await first.close(new Map());
    const second = open(disk);
    openLog(second, 'orders-0');
    await second.close(new Map());
    const third = open(disk);
    expect(third.wasCleanShutdown).toBe(true);
    expect((await readValues(openLog(third, 'orders-1'))).size).toBe(1);
  });
});

describe('checkpoints', () => {
  test('hold recovery points and high watermarks in Kafka’s format, with a CRC', async () => {
    const disk = newDisk();
    const directory = open(disk);
    const log = openLog(directory);
    openLog(directory, 'orders-1');
    appendValues(log, ['a', 'b', 'c']);
    await directory.checkpoint(
      new Map([
        ['orders-0', at(2)],
        ['orders-1', at(0)],
      ]),
    );
    const expected = /^1\n2\norders 0 2\norders 1 0\ncrc32c [0-9a-f]{8}\n$/;
    expect(text(disk, 'recovery-point-offset-checkpoint')).toMatch(expected);
    expect(text(disk, 'replication-offset-checkpoint')).toMatch(expected);
    disk.crash();
    const again = open(disk);
    expect(openLog(again).recoveryPoint).toBe(2);
    expect(again.highWatermark('orders-0')).toBe(2);
  });

  test('keep where a log begins within its first segment', async () => {
    const disk = newDisk();
    const directory = open(disk);
    const log = openLog(directory);
    appendValues(log, ['a', 'b', 'c']);
    log.deleteRecordsBefore(at(2));
    await directory.checkpoint(new Map([['orders-0', at(3)]]));
    disk.crash();
    expect(openLog(open(disk)).logStartOffset).toBe(2);
  });

  test('a damaged one costs a look at everything, no more', async () => {
    const disk = newDisk();
    const directory = open(disk);
    appendValues(openLog(directory), ['a', 'b']);
    await directory.checkpoint(new Map([['orders-0', at(2)]]));
    const spoil = (name: string): [number, number] => {
      disk.port().open(`/data/${name}`, 'existing').truncate(9);
      disk.releaseLocks(undefined as never);
      const log = openLog(open(disk));
      return [log.logEndOffset, log.recoveryPoint];
    };
    // High watermarks are of what was synced: they stand in for recovery points.
    expect(spoil('recovery-point-offset-checkpoint')).toEqual([2, 2]);
    expect(spoil('replication-offset-checkpoint')).toEqual([2, 0]);
  });

  test('a new topic does not inherit the offsets of one of its name', async () => {
    const disk = newDisk();
    const directory = open(disk);
    appendValues(openLog(directory), ['a', 'b', 'c']);
    await directory.checkpoint(new Map([['orders-0', at(3)]]));
    await directory.delete('orders-0');
    const log = openLog(directory, 'orders-0', OTHER_TOPIC_ID);
    expect(directory.highWatermark('orders-0')).toBe(0);
    appendValues(log, ['x']);
    await log.sync();
    disk.crash();
    expect(openLog(open(disk), 'orders-0', OTHER_TOPIC_ID).logEndOffset).toBe(1);
  });

  test('are written though a log is offline', async () => {
    const disk = newDisk();
    const directory = open(disk);
    const [bad, good] = [openLog(directory, 'orders-0'), openLog(directory, 'orders-1')];
    appendValues(bad, ['a']);
    appendValues(good, ['a']);
    disk.fail({ operation: 'datasync', path: /orders-0/ });
    await expect(bad.sync()).rejects.toThrowError(/offline/);
    await directory.checkpoint(
      new Map([
        ['orders-0', at(1)],
        ['orders-1', at(1)],
      ]),
    );
    expect(text(disk, 'recovery-point-offset-checkpoint')).toContain('orders 1 1\n');
    expect(text(disk, 'recovery-point-offset-checkpoint')).not.toContain('orders 0 1\n');
  });
});

describe('a log that held records and whose directory is gone', () => {
  const HELD =
    /^corrupt: \/data\/orders-0 is lost: the directory is gone, yet .* (was|were) synced/;
  const removed = async (disk: SimulatedDisk): Promise<void> => {
    disk.port().removeTree('/data/orders-0');
    await disk.port().syncDirectory('/data');
  };
  const notBegunAnew = (disk: SimulatedDisk): void => {
    for (let start = 0; start < 3; start++) {
      const directory = open(disk);
      expect(directory.lost).toMatchObject([{ name: 'orders-0', topic: 'orders', partition: 0 }]);
      expect(messageOf(() => openLog(directory))).toMatch(HELD);
      expect(disk.port().exists('/data/orders-0')).toBe(false);
      disk.releaseLocks(undefined as never);
    }
  };

  test('is not begun anew, after a shutdown in order or a crash, at this start or later', async () => {
    for (const end of ['clean', 'crash']) {
      const disk = newDisk();
      const first = open(disk);
      appendValues(openLog(first), ['a', 'b']);
      await first.checkpoint(new Map([['orders-0', at(2)]]));
      if (end === 'clean') await first.close(new Map([['orders-0', at(2)]]));
      else disk.crash();
      await removed(disk);
      const second = open(disk);
      expect(second.lost).toMatchObject([{ topicId: TOPIC_ID, recoveryPoint: 2 }]);
      // What the checkpoint says is kept for the day on which the directory is put back.
      openLog(second, 'orders-1');
      await second.checkpoint(new Map([['orders-1', at(0)]]));
      expect(text(disk, 'recovery-point-offset-checkpoint')).toContain('orders 0 2\n');
      await second.close(new Map());
      notBegunAnew(disk);
    }
  });

  test('though it was too young for any checkpoint', async () => {
    const disk = newDisk();
    const log = openLog(open(disk));
    appendValues(log, ['a']);
    await log.sync();
    disk.crash();
    await removed(disk);
    notBegunAnew(disk);
  });

  test('or emptied', async () => {
    const disk = newDisk();
    const log = openLog(open(disk));
    appendValues(log, ['a']);
    await log.sync();
    disk.crash();
    for (const { name } of disk.port().list('/data/orders-0')) {
      disk.port().remove(`/data/orders-0/${name}`);
    }
    const directory = open(disk);
    expect(directory.lost).toHaveLength(1);
    expect(messageOf(() => openLog(directory))).toMatch(/^corrupt: .* no segment is there, yet/);
  });

  test('is told by the recovery points where an older version wrote no more', async () => {
    const disk = newDisk();
    const first = open(disk);
    appendValues(openLog(first), ['a', 'b']);
    await first.checkpoint(new Map([['orders-0', at(2)]]));
    disk.crash();
    disk.port().remove('/data/durable-logs');
    await removed(disk);
    const second = open(disk);
    // What is noted next does not pass over what was not noted.
    appendValues(openLog(second, 'orders-1'), ['a']);
    await second.close(new Map());
    notBegunAnew(disk);
  });

  test('is as it was when it is put back', async () => {
    const disk = newDisk();
    const first = open(disk);
    appendValues(openLog(first), ['a', 'b']);
    await first.checkpoint(new Map([['orders-0', at(2)]]));
    disk.crash();
    disk.port().rename('/data/orders-0', '/data/elsewhere');
    expect(messageOf(() => openLog(open(disk)))).toMatch(HELD);
    disk.releaseLocks(undefined as never);
    disk.port().rename('/data/elsewhere', '/data/orders-0');
    const again = open(disk);
    expect(again.lost).toEqual([]);
    expect(openLog(again).recoveryPoint).toBe(2);
    expect(again.highWatermark('orders-0')).toBe(2);
  });

  test('no log is lost that held nothing, was deleted, is forgotten, or of another topic id', async () => {
    const disk = newDisk();
    const first = open(disk);
    const names = ['empty-0', 'deleted-0', 'forgotten-0', 'other-0'];
    const logs = names.map((name) => openLog(first, name));
    for (const log of logs.slice(1)) appendValues(log, ['a']);
    await Promise.all(logs.map((log) => log.sync()));
    await first.checkpoint(new Map(names.slice(1).map((name) => [name, at(1)])));
    await first.delete('deleted-0');
    await first.drop('forgotten-0');
    disk.port().removeTree('/data/forgotten-0');
    await first.forget('forgotten-0');
    disk.crash();
    for (const name of names) disk.port().removeTree(`/data/${name}`);
    const second = open(disk);
    expect(second.lost.map(({ name }) => name)).toEqual(['other-0']);
    for (const name of names) {
      const topicId = name === 'other-0' ? OTHER_TOPIC_ID : TOPIC_ID;
      const log = openLog(second, name, topicId);
      expect([log.logEndOffset, log.recoveryPoint, second.highWatermark(name)]).toEqual([0, 0, 0]);
      appendValues(log, ['x']);
      await log.sync();
    }
    disk.crash();
    expect(openLog(open(disk), 'other-0', OTHER_TOPIC_ID).logEndOffset).toBe(1);
  });

  test.each(['datasync', 'syncDirectory'] as const)(
    'no loss is what a power cut takes before it was synced (%s)',
    async (operation) => {
      const disk = newDisk();
      const log = openLog(open(disk));
      appendValues(log, ['a']);
      disk.fail({ operation, path: /orders-0/ });
      await expect(log.sync()).rejects.toThrowError(/offline/);
      disk.crash();
      // The failure stands for the power cut.
      disk.port().remove('/data/failed-logs');
      const again = open(disk);
      expect(again.lost).toEqual([]);
      expect(messageOf(() => openLog(again))).toBe('no error');
    },
  );

  test('nothing counts as synced that is not noted', async () => {
    const disk = newDisk();
    const log = openLog(open(disk));
    appendValues(log, ['a']);
    disk.fail({ operation: 'rename', path: /durable-logs/ });
    await expect(log.sync()).rejects.toThrowError(/offline/);
    expect(log.syncedEndOffset).toBe(0);
  });
});

describe('what is in the directory', () => {
  test('partitions are listed with their topic ids, other things are left alone', async () => {
    const disk = newDisk();
    const directory = open(disk);
    await openLog(directory, 'orders-0').make();
    await openLog(directory, 'my-topic-3', OTHER_TOPIC_ID).make();
    openLog(directory, 'without-records-0', OTHER_TOPIC_ID);
    disk.port().makeDirectory('/data/controller');
    disk.port().makeDirectory('/data/raft-0');
    disk.port().makeDirectory('/data/old-1.AAAAAAAAAAAAAAAAAAAAAA.deleted/x');
    await directory.close(new Map());
    expect(open(disk).partitions).toMatchObject([
      { name: 'my-topic-3', topic: 'my-topic', partition: 3, topicId: OTHER_TOPIC_ID },
      { name: 'orders-0', topic: 'orders', partition: 0, topicId: TOPIC_ID },
    ]);
    expect(disk.port().exists('/data/controller')).toBe(true);
    expect(disk.port().exists('/data/old-1.AAAAAAAAAAAAAAAAAAAAAA.deleted')).toBe(false);
  });

  test('leftovers are directories without an open log, and can be removed', async () => {
    const disk = newDisk();
    const first = open(disk);
    openLog(first, 'gone-0');
    openLog(first, 'kept-0');
    for (const name of ['gone-0', 'kept-0']) {
      const log = first.log(name);
      appendValues(log as PartitionLog, ['a']);
      await log?.sync();
    }
    disk.crash();
    const port = disk.port();
    port.makeDirectory('/data/private-0');
    port.open('/data/private-0/notes.txt', 'create').close();
    port.makeDirectory('/data/half-0');
    port.open('/data/half-0/00000000000000000000.log', 'create').close();
    port.rename('/data/kept-0', `/data/kept-0~${TOPIC_ID}~7.set-aside`);
    const second = open(disk);
    const found = second.leftovers();
    expect(
      found.map(({ directory, topicId, isStillborn }) => [directory, topicId, isStillborn]),
    ).toEqual([
      ['gone-0', TOPIC_ID, false],
      ['half-0', undefined, true],
      [`kept-0~${TOPIC_ID}~7.set-aside`, TOPIC_ID, false],
      ['private-0', undefined, false],
    ]);
    for (const each of found) {
      if (each.directory !== 'private-0') expect(await second.removeLeftover(each)).toBe(true);
    }
    disk.crash();
    const directories = port.list('/data').filter(({ directory }) => directory);
    expect(directories.map(({ name }) => name)).toEqual(['private-0']);
    // The one that was set aside is missed, as it was before.
    expect(open(disk).lost.map(({ name }) => name)).toEqual(['kept-0']);
  });

  test('a log that takes the name of a leftover while that is removed is not forgotten', async () => {
    const disk = newDisk();
    const first = open(disk);
    const old = openLog(first);
    appendValues(old, ['a']);
    await old.sync();
    disk.crash();
    let goOn: () => void = () => undefined;
    const port = disk.port();
    const syncDirectory = async (path: string): Promise<void> => {
      if (path === '/data' && !isRemoving) {
        isRemoving = true;
        await new Promise<void>((resolve) => (goOn = resolve));
      }
      await port.syncDirectory(path);
    };
    const slow = new Proxy(port, {
      get: (target, key): unknown => {
        const value: unknown = Reflect.get(target, key);
        if (key === 'syncDirectory') return syncDirectory;
        return typeof value === 'function' ? value.bind(target) : value;
      },
    });
    let isRemoving = true;
    const second = openOn(slow);
    isRemoving = false;
    const [leftover] = second.leftovers();
    const removing = leftover && second.removeLeftover(leftover);
    const log = openLog(second, 'orders-0', OTHER_TOPIC_ID);
    appendValues(log, ['b']);
    const synced = log.sync();
    for (let turn = 0; turn < 50; turn++) await Promise.resolve();
    goOn();
    await synced;
    expect(await removing).toBe(true);
    expect(leftover && (await second.removeLeftover(leftover))).toBe(false);
    disk.crash();
    expect(disk.port().exists('/data/orders-0')).toBe(true);
    disk.port().removeTree('/data/orders-0');
    expect(open(disk).lost).toMatchObject([{ name: 'orders-0', topicId: OTHER_TOPIC_ID }]);
  });

  test('a stray partition can be deleted', async () => {
    const disk = newDisk();
    const first = open(disk);
    appendValues(openLog(first), ['a']);
    await first.close(new Map());
    const second = open(disk);
    await second.delete('orders-0');
    await second.delete('../meta.properties');
    expect(disk.port().exists('/data/orders-0')).toBe(false);
    expect(disk.port().exists('/data/meta.properties')).toBe(true);
  });

  test('a log is open once', () => {
    const directory = open(newDisk());
    openLog(directory);
    expect(() => openLog(directory)).toThrowError(/open already/);
  });
});
