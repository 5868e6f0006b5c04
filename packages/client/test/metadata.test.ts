import { describe, expect, test } from 'vitest';
import { metadataUpdate } from '@relevo/rpc/gen/client/metadata';
import type { MetadataUpdate, PartitionMetadata } from '@relevo/rpc/gen/client/metadata';
import { brokerId } from '@relevo/base/ids';
import { ClusterView } from '@relevo/client/cluster-view';
import { World } from '@relevo/simulation/world';
import { ModelCluster } from './model-cluster.ts';

const partition = (epoch: number, leader: number, partitionEpoch = epoch): PartitionMetadata => ({
  partition: 0,
  leader,
  leaderEpoch: epoch,
  replicas: [1, 2, 3],
  isr: [1, 2, 3],
  elr: [],
  offline: [],
  partitionEpoch,
});

const update = (version: number, partitions: PartitionMetadata[], full = false): MetadataUpdate =>
  metadataUpdate({
    version,
    full,
    controllerId: -1,
    topics: [{ error: 0, name: 'orders', topicId: 'A', partitionCount: 1, partitions }],
  });

const brokers = [{ id: 2, address: 'two:1', rack: '', fenced: false }];

describe('the view', () => {
  test('never goes back to a lower leader epoch', () => {
    const view = new ClusterView();
    view.apply(update(10, [partition(5, 1)], true));
    for (const stale of [update(11, [partition(4, 2)]), update(9, [partition(3, 3)], true)]) {
      expect(view.apply(stale).partitions).toEqual([]);
      expect(view.partition('A', 0)).toMatchObject({ leader: 1, leaderEpoch: 5 });
    }
    expect(view.apply(update(12, [partition(6, 2)])).partitions.length).toBe(1);
    expect(view.partition('A', 0)).toMatchObject({ leader: 2, leaderEpoch: 6 });
  });

  test('takes a newer partition epoch, but tells only of leaders', () => {
    const view = new ClusterView();
    view.apply(update(1, [partition(1, 1, 1)], true));
    const shrunk = { ...partition(1, 1, 2), isr: [1, 2] };
    expect(view.apply(update(2, [shrunk])).partitions).toEqual([]);
    expect(view.partition('A', 0)?.isr).toEqual([1, 2]);
    view.apply(update(3, [partition(1, 1, 1)]));
    expect(view.partition('A', 0)?.isr).toEqual([1, 2]);
  });

  test('takes hints that are news, and the address with them', () => {
    const view = new ClusterView();
    view.apply(update(1, [partition(1, 1)], true));
    const hint = { brokerId: 2, leaderEpoch: 1, address: 'two:1' };
    expect(view.applyHint('A', 0, hint).partitions).toEqual([]);
    expect(view.applyHint('A', 0, { ...hint, leaderEpoch: 2 }).partitions.length).toBe(1);
    expect(view.partition('A', 0)).toMatchObject({ leader: 2, leaderEpoch: 2 });
    expect(view.addressOf(brokerId(2))).toBe('two:1');
    expect(view.applyHint('B', 0, hint).partitions).toEqual([]);
  });

  test('forgets a topic when a current picture leaves it out, not when an old one does', () => {
    const view = new ClusterView();
    view.apply(update(10, [partition(1, 1)], true));
    expect(view.apply(metadataUpdate({ version: 9, full: true })).deleted).toEqual([]);
    expect(view.topic('orders')?.topicId).toBe('A');
    expect(view.apply(metadataUpdate({ version: 11, full: true })).deleted.length).toBe(1);
    expect(view.topic('orders')).toBeUndefined();
  });

  test('a topic that was made anew replaces the old one', () => {
    const view = new ClusterView();
    view.apply(update(10, [partition(7, 1)], true));
    const again = metadataUpdate({
      version: 12,
      topics: [
        {
          error: 0,
          name: 'orders',
          topicId: 'B',
          partitionCount: 1,
          partitions: [partition(0, 2)],
        },
      ],
    });
    const change = view.apply(again);
    expect(change.deleted.map(({ topicId }) => topicId)).toEqual(['A']);
    expect(view.topic('orders')?.topicId).toBe('B');
    expect(view.apply(update(11, [partition(7, 1)])).deleted).toEqual([]);
    expect(view.topic('orders')?.topicId).toBe('B');
  });

  test('knows brokers', () => {
    const view = new ClusterView();
    expect(view.apply(metadataUpdate({ version: 1, brokers })).brokersChanged).toBe(true);
    expect(view.apply(metadataUpdate({ version: 2, brokers })).brokersChanged).toBe(false);
  });
});

describe('the watch', () => {
  test('moves on from a broker that is silent, and hears of changes from the next', async () => {
    const world = new World({ seed: 3, limitMs: 60_000 });
    await world.run(async () => {
      const cluster = new ModelCluster(world);
      cluster.createTopic('orders', 1);
      const client = await cluster.connect('client', ['broker-1:9093']);
      const producer = client.producer({ lingerMs: 0 });
      await producer.send({ topic: 'orders', value: 'a' });
      cluster.brokers[0]?.pause();
      await world.sleep(1_300);
      cluster.move(cluster.partition('orders', 0), 2);
      const startMs = world.nowMs;
      await producer.send({ topic: 'orders', value: 'b' });
      expect(world.nowMs - startMs).toBeLessThan(50);
      cluster.brokers[0]?.resume();
    });
  });

  test('an unreachable cluster is told with what each broker met', async () => {
    const world = new World({ seed: 4, limitMs: 60_000 });
    await world.run(async () => {
      const cluster = new ModelCluster(world);
      for (const broker of cluster.brokers) await broker.kill();
      await expect(cluster.connect()).rejects.toThrow(
        /no broker answered within 10000 ms \(broker-1:9093: .*refused/,
      );
      await expect(cluster.connect('other', ['nonsense'])).rejects.toThrow(/host:port/);
    });
  });
});

describe('the admin', () => {
  test('calls end when the client is closed', async () => {
    const world = new World({ seed: 6, limitMs: 60_000 });
    await world.run(async () => {
      const cluster = new ModelCluster(world);
      const client = await cluster.connect();
      for (const broker of cluster.brokers) broker.pause();
      const call = client.admin.listTopics();
      await world.sleep(10);
      const rejected = expect(call).rejects.toMatchObject({ code: 'CLOSED' });
      await client.close();
      await world.within('the call to end', 3_000, rejected);
    });
  });

  test('makes a topic that can be used at once, and deletes it', async () => {
    const world = new World({ seed: 5, limitMs: 60_000 });
    await world.run(async () => {
      const cluster = new ModelCluster(world);
      cluster.lagMs = 40;
      const client = await cluster.connect();
      const made = await client.admin.createTopic({ topic: 'new', partitions: 4 });
      expect(made).toMatchObject({ topic: 'new', partitions: 4, replicationFactor: 3 });
      await client.producer({ lingerMs: 0 }).send({ topic: 'new', value: 'x', partition: 3 });
      const again = client.admin.createTopic({ topic: 'new', partitions: 4 });
      await expect(again).rejects.toMatchObject({ code: 'TOPIC_ALREADY_EXISTS' });
      expect(await client.admin.listOffsets({ topic: 'new', at: 'latest' })).toEqual(
        [0, 0, 0, 1].map((offset, partition) => ({
          partition,
          offset,
          timestamp: -1,
          leaderEpoch: 0,
        })),
      );
      expect(await client.admin.listTopics()).toMatchObject([{ topic: 'new', partitions: 4 }]);
      await client.admin.deleteTopic('new');
      const gone = client.producer().send({ topic: 'new', value: 'x' });
      await expect(gone).rejects.toMatchObject({ code: 'UNKNOWN_TOPIC_OR_PARTITION' });
    });
  });
});
