import { errorCodeOf } from '@relevo/base/errors';
import { brokerId, uuid } from '@relevo/base/ids';
import { acceptLoss } from '@relevo/log/accept-loss';
import { RESERVE_BYTES } from '@relevo/log/free-space';
import { writeTopicId } from '@relevo/log/partition-metadata';
import { describe, expect, test } from 'vitest';
import { PartitionWorld } from './partition-world.ts';
import type { TestClient } from './partition-world.ts';
import { ALL, events, inSync, leading, replicated, values } from './replicated-world.ts';

describe('replicas come and go with the image', () => {
  test('a deleted topic takes its logs along, and one of the same name begins anew', async () => {
    const world = new PartitionWorld();
    await world.run(async () => {
      await world.boot(...ALL);
      world.createTopic('orders', [[1, 2, 3]]);
      await leading(world, 1);
      const client = await world.client();
      await client.produce(1, 'orders', values(5));
      const { disk } = world.broker(1).ports;
      expect(disk.exists('/data/orders-0')).toBe(true);
      world.decide({ kind: 'deleteTopic', name: 'orders' });
      const gone = (): boolean =>
        ALL.every(
          (id) =>
            world.broker(id).manager.status().partitions === 0 &&
            !world.broker(id).ports.disk.exists('/data/orders-0'),
        );
      await world.world.until('the logs are gone', gone, 1000);
      world.createTopic('orders', [[2, 3, 1]]);
      await leading(world, 2);
      const answer = await client.produce(2, 'orders', values(1));
      expect(answer).toMatchObject({ error: 0, baseOffset: 0 });
    });
  });

  test('created and deleted in one breath, and created again, ends as the image says', async () => {
    const world = new PartitionWorld(4);
    await world.run(async () => {
      await world.boot(...ALL);
      for (let round = 0; round < 10; round++) {
        world.createTopic('orders', [[1, 2, 3]]);
        await world.world.sleep(round % 3);
        world.decide({ kind: 'deleteTopic', name: 'orders' });
      }
      world.createTopic('orders', [[1, 2, 3]]);
      await leading(world, 1);
      const client = await world.client();
      expect(await client.produce(1, 'orders', values(3))).toMatchObject({ error: 0 });
      await world.converge('orders', 0, ALL);
    });
  });

  test('directories that deleted topics left go after a while, others are kept and reported', async () => {
    const world = new PartitionWorld();
    await world.run(async () => {
      await world.boot(1, 2);
      world.createTopic('orders', [[1, 2]]);
      world.createTopic('old', [[1, 2]]);
      await leading(world, 1, 2);
      const client = await world.client();
      await client.produce(1, 'orders', values(3));
      await client.produce(1, 'old', values(1));
      await world.kill(1, 'keep');
      world.fence(1);
      world.decide({ kind: 'deleteTopic', name: 'orders' });
      world.decide({ kind: 'deleteTopic', name: 'old' });
      world.createTopic('orders', [[2, 1]]);
      // Of a topic that the metadata know nothing of.
      const disk = world.process(1).disk.port();
      disk.makeDirectory('/data/strange-0');
      writeTopicId(disk, '/data/strange-0', uuid('SSSSSSSSSSSSSSSSSSSSSS'));
      await world.boot(1);
      await world.world.until(
        'broker 1 follows',
        () => world.broker(1).manager.status().following === 1,
        2000,
      );
      const { manager, ports } = world.broker(1);
      expect(manager.status().stray).toEqual(['strange-0']);
      const directories = (): string[] =>
        ports.disk
          .list('/data')
          .filter(({ directory }) => directory)
          .map(({ name }) => name.replace(/~.*~\d+/, ''));
      // The new log has no files before its first records.
      const found = ['old-0', 'orders-0.set-aside', 'strange-0'];
      expect(directories()).toEqual(found);
      expect(events(world, 1)).toContain('a partition directory was set aside');
      await world.world.sleep(50_000);
      expect(directories()).toEqual(found);
      await world.world.until(
        'what deleted topics left is gone',
        () => directories().join() === 'strange-0',
        20_000,
        () => directories().join(),
      );
      const removed = events(world, 1).filter((event) => event.startsWith('removed a directory'));
      expect(removed).toHaveLength(2);
      const answer = await client.produce(2, 'orders', values(1));
      expect(answer).toMatchObject({ error: 0, baseOffset: 0 });
      await world.converge('orders', 0, [1, 2]);
    });
  });

  test('a restarted leader does not take up its old epoch before it is registered anew (P2)', async () => {
    const world = new PartitionWorld();
    await world.run(async () => {
      await world.boot(1, 2);
      world.createTopic('orders', [[1, 2]]);
      await leading(world, 1);
      const epoch = world.state('orders').leaderEpoch;
      await world.kill(1);
      // Not fenced: the image goes on saying that broker 1 leads, until it registers.
      await world.boot(1);
      await world.world.until('somebody leads', () => world.state('orders').leader >= 0, 2000);
      await leading(world, world.state('orders').leader);
      expect(world.state('orders').leaderEpoch).toBeGreaterThan(epoch);
      const took = world.partition(world.state('orders').leader, 'orders');
      expect(took.leader?.replica.leaderEpoch).toBe(world.state('orders').leaderEpoch);
    });
  });

  test('two thousand partitions are taken up, and handed over, with a few lines to tell of it', async () => {
    const world = new PartitionWorld();
    await world.run(async () => {
      await world.boot(1, 2);
      world.createTopic(
        'orders',
        Array.from({ length: 2000 }, (_, at) => (at % 2 === 0 ? [1, 2] : [2, 1])),
      );
      await leading(world, 1, 1000);
      await leading(world, 2, 1000);
      const told = world.lines.filter(({ event }) => event === 'replicas took up their parts');
      expect(told.length).toBeLessThan(6);
      world.fence(1);
      await leading(world, 2, 2000);
    });
  });
});

describe('a log that fails', () => {
  test('under a leader: it resigns, and another of the in-sync set leads on', async () => {
    const world = new PartitionWorld();
    await world.run(async () => {
      const client = await replicated(world);
      world.process(1).disk.fail({ operation: 'datasync', path: /orders-0/ });
      const lost = await client.produce(1, 'orders', values(1));
      expect(lost.error).not.toBe(0);
      await world.world.until('another leads', () => world.state('orders').leader === 2, 2000);
      await leading(world, 2);
      expect(world.state('orders').isr).toEqual([2, 3]);
      expect(world.broker(1).manager.status().offline).toMatchObject([{ partition: 'orders-0' }]);
      const after = await client.produce(2, 'orders', values(1));
      expect(after).toMatchObject({ error: 0, syncedOn: [2, 3] });
    });
  });

  test('under a follower: it leaves the in-sync set at once', async () => {
    const world = new PartitionWorld();
    await world.run(async () => {
      const client = await replicated(world);
      world.process(2).disk.fail({ operation: 'datasync', path: /orders-0/ });
      const started = world.world.nowMs;
      const answer = await client.produce(1, 'orders', values(1));
      expect(answer).toMatchObject({ error: 0, syncedOn: [1, 3] });
      expect(world.world.nowMs - started).toBeLessThan(300);
      expect(world.state('orders').isr).toEqual([1, 3]);
    });
  });

  test('damaged while the broker was down: set aside, and copied anew from the leader', async () => {
    const world = new PartitionWorld();
    await world.run(async () => {
      await replicated(world, 5, 20);
      // The recovery point is known: what lies below it was durable.
      await world.world.sleep(6000);
      await world.kill(3, 'keep');
      world.fence(3);
      world.process(3).disk.flipBit('/data/orders-0/00000000000000000000.log', 100, 3);
      await world.boot(3);
      await inSync(world, [1, 2, 3], 5000);
      await world.converge('orders', 0, ALL);
      expect(events(world, 3)).toContain('a replica is offline');
      expect(events(world, 3)).toContain('a partition directory was set aside');
    });
  });

  test('without its first segment when the broker comes back: copied anew, its loss is nobody else’s', async () => {
    const world = new PartitionWorld();
    await world.run(async () => {
      await replicated(world, 5, 20);
      await world.world.sleep(6000);
      await world.stop(3);
      world.fence(3);
      const port = world.process(3).disk.port();
      port.remove('/data/orders-0/00000000000000000000.log');
      await world.boot(3);
      await inSync(world, [1, 2, 3], 5000);
      await world.converge('orders', 0, ALL);
      expect(world.partition(3, 'orders')).toMatchObject({ logStartOffset: 0, logEndOffset: 100 });
      expect(events(world, 3)).toContain('a partition directory was set aside');
    });
  });

  for (const code of ['IO', 'FULL'] as const) {
    test(`of which a sync failed (${code}): copied anew while the broker runs, with one line`, async () => {
      const world = new PartitionWorld();
      await world.run(async () => {
        const client = await replicated(world);
        world.process(3).disk.fail({ operation: 'datasync', path: /orders-0/, code });
        expect(await client.produce(1, 'orders', values(5))).toMatchObject({ syncedOn: [1, 2] });
        expect(world.process(3).disk.port().exists('/data/failed-logs')).toBe(true);
        await inSync(world, ALL, 5000);
        await world.converge('orders', 0, ALL);
        const told = events(world, 3);
        expect(told.filter((event) => event === 'a replica is offline')).toHaveLength(1);
        expect(told).toContain('a partition directory was set aside');
        expect(world.broker(3).manager.status().offline).toEqual([]);
      });
    });
  }

  test('of which a sync failed: not trusted after a restart, and copied anew', async () => {
    const world = new PartitionWorld();
    await world.run(async () => {
      const client = await replicated(world);
      world.process(3).disk.fail({ operation: 'datasync', path: /orders-0/ });
      expect(await client.produce(1, 'orders', values(5))).toMatchObject({ syncedOn: [1, 2] });
      await world.kill(3, 'keep');
      world.fence(3);
      await world.boot(3);
      await inSync(world, [1, 2, 3], 5000);
      await world.converge('orders', 0, ALL);
      expect(events(world, 3)).toContain('a partition directory was set aside');
    });
  });

  test('of which a sync failed, without a peer: offline until the loss is accepted', async () => {
    const world = new PartitionWorld();
    await world.run(async () => {
      await world.boot(1);
      world.createTopic('orders', [[1]]);
      await leading(world, 1);
      const client = await world.client();
      expect(await client.produce(1, 'orders', values(5))).toMatchObject({ error: 0 });
      world.process(1).disk.fail({ operation: 'datasync', path: /orders-0/ });
      const failed = await client.produce(1, 'orders', values(5));
      expect(errorCodeOf(failed.error)).toBe('STORAGE_ERROR');
      for (let restart = 0; restart < 2; restart++) {
        await world.world.sleep(1000);
        await world.kill(1, 'keep');
        world.fence(1);
        // The disk that failed may lose its mark: the cluster's metadata have one too.
        if (restart === 1) world.process(1).disk.port().remove('/data/failed-logs');
        await world.boot(1);
        await world.world.until(
          'the replica is offline',
          () => world.broker(1).manager.status().offline.length === 1,
          3000,
        );
        const [{ reason } = { reason: '' }] = world.broker(1).manager.status().offline;
        expect(reason).toMatch(/not trusted: .*relevo log accept-loss \/data orders-0$/);
      }
      await world.kill(1, 'keep');
      world.fence(1);
      acceptLoss(world.process(1).disk.port(), '/data', 'orders-0');
      await world.boot(1);
      await leading(world, 1);
      expect(world.partition(1, 'orders').logEndOffset).toBeGreaterThanOrEqual(5);
      expect(await client.produce(1, 'orders', values(1))).toMatchObject({ error: 0 });
    });
  });
});

describe('a log whose directory is gone', () => {
  const offline = (world: PartitionWorld, id: number, name: string): string | undefined =>
    world
      .broker(id)
      .manager.status()
      .offline.find(({ partition }) => partition === name)?.reason;
  const isOffline = (world: PartitionWorld, id: number, name: string): Promise<void> =>
    world.world.until(
      `${name} is offline on broker ${id}`,
      () => offline(world, id, name) !== undefined,
      3000,
      () => JSON.stringify(world.describe(id, 'orders')),
    );
  const move = async (
    world: PartitionWorld,
    id: number,
    from: string,
    to: string,
  ): Promise<void> => {
    const port = world.process(id).disk.port();
    port.rename(`/data/${from}`, `/data/${to}`);
    await port.syncDirectory('/data');
  };
  /** With one replica enough for an acknowledgement nobody but the last in sync is sure to have all. */
  const filled = (world: PartitionWorld): Promise<TestClient> =>
    replicated(world, 5, 20, { 'min.insync.replicas': '1' });
  const ends = (world: PartitionWorld, ids: readonly number[]): number[] =>
    ids.map((id) => {
      const { manager } = world.broker(id);
      const partition = manager.partition(world.topicId('orders'), 0);
      return partition?.isOpen === true ? partition.logEndOffset : -1;
    });

  test('of the last in-sync replica: offline, never led as empty; all is there when it is put back', async () => {
    const world = new PartitionWorld();
    await world.run(async () => {
      const client = await filled(world);
      for (const id of ALL) {
        // Fencing the last leaves it alone in the in-sync set.
        world.fence(id);
        await world.stop(id);
      }
      expect(world.state('orders').isr).toEqual([3]);
      await move(world, 3, 'orders-0', 'elsewhere');
      await world.boot(...ALL);
      await isOffline(world, 3, 'orders-0');
      expect(offline(world, 3, 'orders-0')).toMatch(/lost: the directory is gone, yet all below/);
      expect(events(world, 3)).toContain('a replica is offline');
      await world.world.sleep(5000);
      expect(world.state('orders').isr).toEqual([3]);
      expect(ends(world, [1, 2])).toEqual([100, 100]);
      expect(world.process(3).disk.port().exists('/data/orders-0')).toBe(false);
      expect(errorCodeOf((await client.produce(3, 'orders', values(1))).error)).toBe(
        'STORAGE_ERROR',
      );
      world.fence(3);
      await world.stop(3);
      await move(world, 3, 'elsewhere', 'orders-0');
      await world.boot(3);
      await inSync(world, [1, 2, 3], 5000);
      await world.converge('orders', 0, ALL);
      expect(ends(world, ALL)).toEqual([100, 100, 100]);
    });
  });

  test('of the last in-sync replica, where another has all that was acknowledged: that one leads', async () => {
    const world = new PartitionWorld();
    await world.run(async () => {
      const client = await replicated(world, 5, 20);
      for (const id of ALL) {
        world.fence(id);
        await world.stop(id);
      }
      expect(world.state('orders')).toMatchObject({ isr: [3], elr: [2], leader: -1 });
      await move(world, 3, 'orders-0', 'elsewhere');
      await world.boot(3);
      await isOffline(world, 3, 'orders-0');
      const told = (): boolean => world.state('orders').offline.includes(brokerId(3));
      await world.world.until('the controller knows', told, 1000);
      expect(world.state('orders')).toMatchObject({ isr: [], elr: [2], leader: -1 });
      await world.boot(1, 2);
      await inSync(world, ALL, 5000);
      await world.converge('orders', 0, ALL);
      expect(ends(world, ALL)).toEqual([100, 100, 100]);
      expect(world.state('orders')).toMatchObject({ uncleanEpoch: -1, offline: [], elr: [] });
      expect((await client.produce(2, 'orders', values(1))).error).toBe(0);
    });
  });

  test('after a restart of the whole cluster: any healthy replica leads, and the others are copied anew', async () => {
    for (const lost of [[1], [2], [3], [1, 2], [2, 3], [1, 3]]) {
      const world = new PartitionWorld(lost.join());
      await world.run(async () => {
        await replicated(world, 5, 20);
        await Promise.all(ALL.map((id) => world.kill(id, 'lose')));
        for (const id of lost) await move(world, id, 'orders-0', 'elsewhere');
        await world.boot(...ALL);
        await inSync(world, ALL, 8000);
        await world.converge('orders', 0, ALL);
        expect(ends(world, ALL)).toEqual([100, 100, 100]);
        expect(world.state('orders')).toMatchObject({ uncleanEpoch: -1, offline: [], elr: [] });
      });
    }
  });

  /** The followers know of no high watermark: nothing but their leader's refusal keeps their records. */
  const youngAndKilled = async (world: PartitionWorld): Promise<void> => {
    await filled(world);
    await Promise.all(ALL.map((id) => world.kill(id, 'keep')));
    await move(world, 1, 'orders-0', 'elsewhere');
    for (const id of ALL) {
      const { disk } = world.process(id);
      expect(disk.port().exists('/data/replication-offset-checkpoint')).toBe(false);
    }
  };

  test('too young for any checkpoint, of the last in-sync leader: nobody truncates to nothing', async () => {
    const world = new PartitionWorld();
    await world.run(async () => {
      await youngAndKilled(world);
      world.fence(3);
      world.fence(2);
      expect(world.state('orders')).toMatchObject({ leader: 1, isr: [1] });
      await world.boot(...ALL);
      await isOffline(world, 1, 'orders-0');
      await world.world.sleep(5000);
      expect(ends(world, ALL)).toEqual([-1, 100, 100]);
      expect(world.partition(2, 'orders').highWatermark).toBe(0);
      await world.kill(1, 'keep');
      await move(world, 1, 'elsewhere', 'orders-0');
      await world.boot(1);
      await inSync(world, ALL, 5000);
      await world.converge('orders', 0, ALL);
      expect(ends(world, ALL)).toEqual([100, 100, 100]);
    });
  });

  test('too young for any checkpoint, with others in sync: it is copied anew from them', async () => {
    const world = new PartitionWorld();
    await world.run(async () => {
      await youngAndKilled(world);
      world.fence(1);
      expect(world.state('orders').isr).toEqual([2, 3]);
      await world.boot(...ALL);
      await inSync(world, ALL, 5000);
      await world.converge('orders', 0, ALL);
      expect(ends(world, ALL)).toEqual([100, 100, 100]);
      expect(events(world, 1)).toContain('a replica is offline');
    });
  });

  test('is no loss where its topic was deleted, though there is one of its name again', async () => {
    const world = new PartitionWorld();
    await world.run(async () => {
      await filled(world);
      await world.kill(3, 'keep');
      world.fence(3);
      world.decide({ kind: 'deleteTopic', name: 'orders' });
      await move(world, 3, 'orders-0', 'elsewhere');
      world.createTopic('orders', [[1, 2, 3]]);
      await world.boot(3);
      await inSync(world, [1, 2, 3], 5000);
      expect(world.broker(3).manager.status().offline).toEqual([]);
      await world.kill(3, 'keep');
      await world.boot(3);
      await world.converge('orders', 0, ALL);
      expect(world.broker(3).manager.status().offline).toEqual([]);
    });
  });

  test('and nothing there tells of it: its followers keep theirs, offline, and go on otherwise', async () => {
    const world = new PartitionWorld();
    await world.run(async () => {
      const client = await filled(world);
      world.createTopic('more', [[1, 2, 3]], { 'min.insync.replicas': '1' });
      await leading(world, 1, 2);
      for (const id of [2, 3, 1]) {
        world.fence(id);
        await world.stop(id);
      }
      expect(world.state('orders').isr).toEqual([1]);
      await move(world, 1, 'orders-0', 'elsewhere');
      await move(world, 1, 'durable-logs', 'durable-logs.elsewhere');
      await move(world, 1, 'recovery-point-offset-checkpoint', 'checkpoint.elsewhere');
      await world.boot(...ALL);
      for (const id of [2, 3]) {
        await isOffline(world, id, 'orders-0');
        expect(ends(world, [id])).toEqual([100]);
        expect(offline(world, id, 'orders-0')).toBe(
          'the leader, broker 1, asks to truncate from 100 to 0, below the high watermark 100: it ' +
            'has lost committed records',
        );
        const told = world.lines.filter(
          ({ process, level }) => process === `broker-${id}` && level === 'error',
        );
        expect(told.map(({ event }) => event)).toEqual(['a replica is offline']);
        expect(told[0]?.fields['do']).toMatch(
          /^look at the disk of broker 1; the log here is kept/,
        );
      }
      expect(await client.produce(1, 'more', values(1))).toMatchObject({ error: 0 });
    });
  });
});

test('a full disk refuses appends and new logs, serves reads, and recovers with the room', async () => {
  const world = new PartitionWorld();
  await world.run(async () => {
    await world.boot(1);
    world.createTopic('orders', [[1]]);
    await leading(world, 1);
    const client = await world.client();
    await client.produce(1, 'orders', values(3));
    const { disk } = world.process(1);
    const capacity = disk.capacityBytes;
    disk.capacityBytes = disk.usedBytes;
    const refused = await client.produce(1, 'orders', ['x'.repeat(100_000)]);
    expect(errorCodeOf(refused.error)).toBe('DISK_FULL');
    world.createTopic('more', [[1]]);
    await world.world.sleep(100);
    expect(world.broker(1).manager.status().offline).toEqual([]);
    expect(await client.values(1, 'orders')).toEqual(values(3));
    disk.capacityBytes = capacity;
    expect((await client.produce(1, 'orders', values(1))).error).toBe(0);
    await world.world.until(
      'the other log is there',
      () => world.broker(1).manager.status().leading === 2,
      10_000,
    );
    expect((await client.produce(1, 'more', values(1))).error).toBe(0);
  });
});

test('a full disk is told of once, and the end of it once, whatever is tried meanwhile', async () => {
  const world = new PartitionWorld();
  await world.run(async () => {
    await world.boot(1);
    world.createTopic('orders', [[1], [1]]);
    await leading(world, 1, 2);
    const client = await world.client();
    const { disk } = world.process(1);
    const metrics = world.process(1).metrics.values;
    const capacity = disk.capacityBytes;
    disk.capacityBytes = disk.usedBytes + RESERVE_BYTES + 50_000;
    const told = (): string[] =>
      world.lines.filter(({ level }) => level === 'warn').map(({ event }) => event);
    const refusals: string[] = [];
    for (let at = 0; at < 20; at++) {
      const answer = await client.produce(1, 'orders', ['x'.repeat(20_000)], { partition: at % 2 });
      if (answer.error !== 0) refusals.push(`${errorCodeOf(answer.error)} ${answer.message}`);
      await world.world.sleep(1000);
    }
    expect(refusals.length).toBeGreaterThan(10);
    expect(refusals.at(-1)).toMatch(
      /^DISK_FULL orders-1: .* has \d+ bytes free, .*reserve.*: delete topics/,
    );
    expect(told()).toEqual(['appends are refused: the disk is short of room; reads go on']);
    const { fields } = world.lines.find(({ level }) => level === 'warn') ?? {};
    expect(fields).toMatchObject({ directory: '/data', reserveBytes: RESERVE_BYTES });
    expect(metrics.get('relevo_appends_refused')).toBe(1);
    disk.capacityBytes = capacity;
    await world.world.sleep(11_000);
    expect(told().slice(1)).toEqual(['there is room on the disk again: appends are taken']);
    expect(metrics.get('relevo_appends_refused')).toBe(0);
    expect((await client.produce(1, 'orders', values(1))).error).toBe(0);
  });
});

test('a follower whose disk is full leaves the in-sync set, and comes back with the room', async () => {
  const world = new PartitionWorld();
  await world.run(async () => {
    const client = await replicated(world);
    const { disk } = world.process(2);
    const capacity = disk.capacityBytes;
    disk.capacityBytes = disk.usedBytes + RESERVE_BYTES;
    await world.world.sleep(6000);
    const first = await client.produce(1, 'orders', values(3));
    expect(first).toMatchObject({ error: 0, syncedOn: [1, 3] });
    expect(world.state('orders').isr).toEqual([1, 3]);
    for (let at = 0; at < 30; at++) {
      expect((await client.produce(1, 'orders', values(3))).error).toBe(0);
      await world.world.sleep(500);
    }
    const here = world.lines.filter(({ process }) => process === 'broker-2');
    const short = here.filter(({ event }) => event.startsWith('appends are refused'));
    expect(short.length).toBe(1);
    const failed = here.filter(({ event }) => event === 'cannot append what the leader sent');
    expect(failed.length).toBe(1);
    expect(failed[0]?.fields).toMatchObject({ partition: 'orders-0', leader: 1 });
    const shrunk = world.lines.find(({ event }) => event === 'in-sync set shrunk');
    expect(shrunk).toMatchObject({ process: 'broker-1', level: 'warn', fields: { left: [2] } });
    disk.capacityBytes = capacity;
    await inSync(world, ALL, 15_000);
    await world.converge('orders', 0, ALL);
  });
});

test('a stop in order answers those who wait, and spares the next start its recovery', async () => {
  const world = new PartitionWorld();
  await world.run(async () => {
    await world.boot(1, 2);
    world.createTopic('orders', [[1, 2]]);
    await leading(world, 1);
    const client = await world.client();
    await client.produce(1, 'orders', values(3));
    const waiting = client.fetch(1, [{ topic: 'orders', offset: 3 }], { maxWaitMs: 20_000 });
    await world.world.sleep(20);
    const ended = waiting.catch(() => ({ partitions: [] }));
    await world.stop(1);
    await world.world.within('the fetch ends', 1000, ended);
    world.fence(1);
    await world.boot(1);
    expect(world.broker(1).directory.wasCleanShutdown).toBe(true);
    await inSync(world, [1, 2]);
    await world.converge('orders', 0, [1, 2]);
    expect(world.partition(1, 'orders').highWatermark).toBe(3);
    expect(world.image.brokers.get(brokerId(1))?.fenced).toBe(false);
  });
});
