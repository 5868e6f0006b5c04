/** Clients of several networks: each is told addresses of the listener that it came to. */
import { expect, test } from 'vitest';
import type { Ports } from '@relevo/base/ports';
import { FetchService, fetchPartition, fetchRequest } from '@relevo/rpc/gen/client/fetch';
import type { FetchResponse } from '@relevo/rpc/gen/client/fetch';
import { MetadataService } from '@relevo/rpc/gen/client/metadata';
import { SimulatedCluster } from '@relevo/simulation/simulated-cluster';
import { connectClient } from '@relevo/simulation/workload';
import { World } from '@relevo/simulation/world';

const LIMIT_MS = 60_000;

const settings = (id: number): Record<string, string> => ({
  'listener.grpc': `inside://broker-${id}:9093,outside://broker-${id}:19093`,
  'advertised.grpc': `outside://broker-${id}:29093,inside://broker-${id}:9093`,
});

test('each listener tells its own addresses: in metadata, descriptions and errors', async () => {
  const world = new World({ seed: 1, limitMs: LIMIT_MS });
  const cluster = new SimulatedCluster(world, { settings });
  await world.run(async () => {
    cluster.bootAll();
    const inside = await connectClient(world, 'inside', ['broker-0:9093']);
    for (;;) {
      const { brokers } = await inside.admin.describeCluster();
      if (brokers.length === 3 && brokers.every(({ fenced }) => !fenced)) break;
      await world.sleep(20);
    }
    await inside.admin.createTopic({ topic: 'orders', partitions: 3, replicationFactor: 3 });
    // The brokers replicate over the first listener, whatever clients are told.
    const receipt = await inside.producer().send({ topic: 'orders', value: 'paid' });
    expect(receipt.syncedOn).toHaveLength(3);

    const { transport } = await new Promise<Ports>((booted) => world.process('probe').boot(booted));
    for (const [port, told] of [
      ['9093', '9093'],
      ['19093', '29093'],
    ]) {
      const channel = transport.dial(`broker-0:${port}`);
      const view = await channel.call(
        MetadataService.getMetadata,
        { topics: ['orders'] },
        { deadlineMs: 1_000 },
      );
      const addresses = [0, 1, 2].map((id) => `broker-${id}:${told}`);
      expect(view.brokers.map(({ address }) => address).toSorted()).toEqual(addresses);

      const partition = view.topics[0]?.partitions.find(({ leader }) => leader !== 0);
      const topicId = view.topics[0]?.topicId ?? '';
      const answer = await new Promise<FetchResponse>((onMessage, reject) => {
        const stream = channel.open(FetchService.stream, { onMessage, onEnd: reject });
        const wanted = fetchPartition({ topicId, partition: partition?.partition ?? -1 });
        stream.send(fetchRequest({ partitions: [{ ...wanted, leaderEpoch: -1 }] }));
      });
      expect(answer.partitions[0]?.currentLeader).toMatchObject({
        brokerId: partition?.leader,
        address: `broker-${partition?.leader}:${told}`,
      });
      channel.close();
    }
    const { brokers } = await inside.admin.describeCluster();
    expect(brokers.map(({ address }) => address).toSorted()).toEqual([
      'broker-0:9093',
      'broker-1:9093',
      'broker-2:9093',
    ]);
    await inside.close();
    for (const id of cluster.ids) await cluster.stop(id);
  });
});

test('a name that is not advertised is logged once, with what to set', async () => {
  const lines: string[] = [];
  const world = new World({
    seed: 2,
    limitMs: LIMIT_MS,
    onLog: ({ event, fields }) => {
      if (event === 'reached under a name that is not advertised')
        lines.push(String(fields['hint']));
    },
  });
  const cluster = new SimulatedCluster(world, { brokers: 1, settings });
  await world.run(async () => {
    cluster.boot(0);
    const inside = await connectClient(world, 'inside', ['broker-0:9093']);
    expect(lines).toEqual([]);
    const { transport } = await new Promise<Ports>((booted) => world.process('probe').boot(booted));
    const channel = transport.dial('broker-0:19093');
    for (let times = 0; times < 3; times++) {
      await channel.call(MetadataService.getMetadata, { topics: [] }, { deadlineMs: 1_000 });
    }
    expect(lines).toHaveLength(1);
    expect(lines[0]).toContain(
      'set advertised.grpc to inside://broker-0:9093, outside://broker-0:19093, unless outside is',
    );
    await inside.close();
    await cluster.stop(0);
  });
});
