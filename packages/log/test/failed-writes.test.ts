/** A failed write or sync is not forgotten at a restart: what can be read then may not be on the disk. */
import { describe, expect, test } from 'vitest';
import { brokerId, uuid } from '@relevo/base/ids';
import { acceptLoss } from '@relevo/log/accept-loss';
import { LogDirectory } from '@relevo/log/log-directory';
import { LogError } from '@relevo/log/log-error';
import type { PartitionLog } from '@relevo/log/partition-log';
import { crc32c } from '@relevo/record/crc32c';
import type { EventOwner } from '@relevo/simulation/scheduler';
import type { SimulatedDisk } from '@relevo/simulation/simulated-disk';
import {
  NOW_MS,
  OTHER_TOPIC_ID,
  TOPIC_ID,
  appendValues,
  at,
  config,
  newDisk,
  readValues,
  recordingLogger,
} from './support.ts';

interface Broker {
  readonly directory: LogDirectory;
  readonly open: (name?: string, topicId?: typeof TOPIC_ID) => PartitionLog;
  readonly kill: () => void;
}

function start(disk: SimulatedDisk): Broker {
  const owner: EventOwner = { name: 'b', host: 'b', alive: true, paused: false, held: [] };
  const directory = LogDirectory.open(
    {
      root: '/data',
      brokerId: brokerId(1),
      clusterId: 'one',
      newDirectoryId: () => uuid('DDDDDDDDDDDDDDDDDDDDDD'),
      // What is done to files is done to the logs' own.
      youngBytesMax: 0,
    },
    {
      disk: disk.port(owner),
      crc32c,
      logger: recordingLogger(),
      clock: { monotonicMs: () => 0 },
    },
  );
  return {
    directory,
    open: (name = 'orders-0', topicId = TOPIC_ID) =>
      directory.openLog({
        topic: name.slice(0, -2),
        partition: Number(name.at(-1)),
        topicId,
        config: config({ segmentBytes: 230 }),
        nowMs: NOW_MS,
      }),
    kill: () => {
      owner.alive = false;
      disk.releaseLocks(owner);
    },
  };
}

const outcome = (run: () => PartitionLog): string => {
  try {
    return `ends at ${run().logEndOffset}`;
  } catch (error) {
    if (!(error instanceof LogError)) throw error;
    return `${error.kind}: ${error.message}`;
  }
};

const NOT_TRUSTED =
  /^corrupt: the log of orders-0 in \/data is not trusted: .*relevo log accept-loss \/data orders-0$/;

/** Six records, of which a sync of the last three has failed; then the broker is killed. */
async function failed(disk: SimulatedDisk): Promise<void> {
  const broker = start(disk);
  const log = broker.open();
  appendValues(broker.open('orders-1'), ['other']);
  appendValues(log, ['a', 'b', 'c']);
  await log.sync();
  await broker.directory.checkpoint(new Map([['orders-0', at(3)]]));
  appendValues(log, ['d', 'e', 'f']);
  disk.fail({ operation: 'datasync', path: /orders-0.*\.log/ });
  await expect(log.sync()).rejects.toMatchObject({ kind: 'offline' });
  await broker.directory.checkpoint(new Map());
  broker.kill();
}

describe('a log of which a sync has failed', () => {
  test('is not trusted after a restart, nor after more of them or a power cut', async () => {
    const disk = newDisk();
    await failed(disk);
    for (let attempt = 0; attempt < 3; attempt++) {
      const broker = start(disk);
      expect(outcome(() => broker.open())).toMatch(NOT_TRUSTED);
      expect(outcome(() => broker.open('orders-1'))).toBe('ends at 1');
      await broker.directory.close(new Map());
      broker.kill();
      if (attempt === 1) disk.crash();
    }
  });

  test('is another log when it was forgotten, deleted or made anew', async () => {
    for (const how of ['forgotten', 'deleted', 'of another topic']) {
      const disk = newDisk();
      await failed(disk);
      const broker = start(disk);
      if (how === 'deleted') await broker.directory.delete('orders-0');
      else {
        disk.port().rename('/data/orders-0', '/data/elsewhere');
        if (how === 'forgotten') await broker.directory.forget('orders-0');
      }
      const topicId = how === 'of another topic' ? OTHER_TOPIC_ID : TOPIC_ID;
      const log = broker.open('orders-0', topicId);
      expect(log.logEndOffset).toBe(0);
      appendValues(log, ['x']);
      await log.sync();
      broker.kill();
      expect(outcome(() => start(disk).open('orders-0', topicId))).toBe('ends at 1');
    }
  });

  test('is opened when the loss was accepted, and what it has then is on the disk', async () => {
    const disk = newDisk();
    await failed(disk);
    expect(() => acceptLoss(disk.port(), '/data', 'orders-1')).toThrowError(
      /no write of orders-1 has failed \(failed: orders-0\)/,
    );
    expect(acceptLoss(disk.port(), '/data', 'orders-0')).toMatchObject({ name: 'orders-0' });
    disk.crash();
    const broker = start(disk);
    const log = broker.open();
    expect([...(await readValues(log)).values()]).toEqual(['a', 'b', 'c', 'd', 'e', 'f']);
    // The cluster's metadata may still call it offline: that is no news here.
    expect(broker.directory.isNoted('orders-0', TOPIC_ID)).toBe(true);
    broker.directory.settled('orders-0');
    await broker.directory.checkpoint(new Map());
    expect(broker.directory.isNoted('orders-0', TOPIC_ID)).toBe(false);
    expect(disk.port().exists('/data/failed-logs')).toBe(false);
  });

  test('is not trusted either where others know of it and the disk has lost the mark', async () => {
    const disk = newDisk();
    await failed(disk);
    disk.port().remove('/data/failed-logs');
    const broker = start(disk);
    expect(broker.directory.isNoted('orders-0', TOPIC_ID)).toBe(false);
    broker.directory.distrust('orders-0', TOPIC_ID);
    expect(outcome(() => broker.open())).toMatch(NOT_TRUSTED);
    await broker.directory.checkpoint(new Map());
    broker.kill();
    expect(outcome(() => start(disk).open())).toMatch(NOT_TRUSTED);
  });

  test('one that went offline for another reason is trusted when it opens', async () => {
    const disk = newDisk();
    const first = start(disk);
    appendValues(first.open(), ['a']);
    await first.directory.close(new Map());
    first.kill();
    const second = start(disk);
    second.directory.noteOffline('orders-0', TOPIC_ID);
    await second.directory.checkpoint(new Map());
    second.kill();
    const third = start(disk);
    expect(third.directory.isNoted('orders-0', TOPIC_ID)).toBe(true);
    expect(outcome(() => third.open())).toBe('ends at 1');
  });

  test('stays so where accepting the loss fails in the middle', async () => {
    for (const operation of ['read', 'write', 'datasync', 'rename', 'syncDirectory'] as const) {
      const disk = newDisk();
      await failed(disk);
      disk.fail({ operation, path: operation === 'read' ? /\.log$/ : /orders-0/ });
      expect(() => acceptLoss(disk.port(), '/data', 'orders-0'), operation).toThrowError();
      expect(outcome(() => start(disk).open())).toMatch(NOT_TRUSTED);
    }
  });

  test('is known though the disk did not take the mark at once', async () => {
    const disk = newDisk();
    const broker = start(disk);
    const log = broker.open();
    appendValues(log, ['a']);
    disk.fail({ operation: 'datasync', path: /orders-0.*\.log/ });
    disk.fail({ operation: 'rename', path: /failed-logs/ });
    await expect(log.sync()).rejects.toMatchObject({ kind: 'offline' });
    await new Promise(setImmediate);
    expect(broker.directory.mustWrite).toBe(true);
    await broker.directory.checkpoint(new Map());
    expect(broker.directory.mustWrite).toBe(false);
    broker.kill();
    expect(outcome(() => start(disk).open())).toMatch(NOT_TRUSTED);
  });

  test('may be any where the list of them is damaged', async () => {
    const disk = newDisk();
    await failed(disk);
    disk.flipBit('/data/failed-logs', 4, 1);
    expect(outcome(() => start(disk).open('orders-1'))).toMatch(/^corrupt: .*not trusted/);
  });

  test.each(['write', 'datasync', 'truncate'] as const)(
    'for a %s that fails',
    async (operation) => {
      const disk = newDisk();
      const broker = start(disk);
      const log = broker.open();
      appendValues(log, ['a', 'b']);
      await log.sync();
      disk.fail({ operation, path: /orders-0.*\.log$/ });
      const use = async (): Promise<void> => {
        if (operation === 'truncate') log.truncateTo(at(1));
        appendValues(log, ['c']);
        await log.sync();
      };
      await expect(use()).rejects.toMatchObject({ kind: 'offline' });
      await broker.directory.checkpoint(new Map());
      broker.kill();
      expect(outcome(() => start(disk).open())).toMatch(NOT_TRUSTED);
    },
  );

  test('a failed read leaves no doubt of what was written', async () => {
    const disk = newDisk();
    const broker = start(disk);
    const log = broker.open();
    appendValues(log, ['a']);
    await log.sync();
    disk.fail({ operation: 'read', path: /\.log$/ });
    expect(() => log.read(at(0), 100, at(1), true)).toThrowError(/offline/);
    await broker.directory.checkpoint(new Map());
    broker.kill();
    expect(outcome(() => start(disk).open())).toBe('ends at 1');
  });
});
