import { utf8Encode } from '@relevo/base/bytes';
import { AdminService, createTopicRequest } from '@relevo/rpc/gen/client/admin';
import { MetadataService, getMetadataRequest } from '@relevo/rpc/gen/client/metadata';
import { ProduceService, plainRecord, sendRequest } from '@relevo/rpc/gen/client/produce';
import { SimulatedCluster } from '@relevo/simulation/simulated-cluster';
import { World } from '@relevo/simulation/world';
import { messageOf } from '@relevo/base/errors';
import { expect, test } from 'vitest';
import type { Ports } from '@relevo/base/ports';
import { outcomeOf } from './plain/plain-world.ts';

test('a broker with a full disk is not ready and says why, and is alive', async () => {
  const world = new World({ seed: 1, limitMs: 600_000 });
  const cluster = new SimulatedCluster(world, {
    brokers: 1,
    settings: () => ({ 'log.disk.reserve.bytes': '1000000' }),
  });
  await world.run(async () => {
    cluster.bootAll();
    const ready = (): Promise<void> =>
      world.until('ready', () => cluster.node(0)?.unready() === undefined, 60_000);
    await world.until('up', () => cluster.node(0) !== undefined, 1000);
    await ready();
    const { ports } = await client(world);
    const channel = ports.transport.dial(cluster.addresses[0] ?? '');
    await channel.call(
      AdminService.createTopic,
      createTopicRequest({ name: 'orders', partitions: 1, replicationFactor: 1 }),
      { deadlineMs: 10_000 },
    );
    const records = [plainRecord({ value: utf8Encode('x'.repeat(1000)) })];
    const send = (timeoutMs: number): Promise<string> =>
      outcomeOf(
        channel.call(ProduceService.send, sendRequest({ topic: 'orders', records, timeoutMs }), {
          deadlineMs: 60_000,
        }),
      );
    expect(await send(10_000)).toBe('acknowledged');
    const { disk } = cluster.process(0);
    const capacity = disk.capacityBytes;
    disk.capacityBytes = disk.usedBytes + 1_000_000;
    await world.sleep(6000);
    expect(await send(2000)).toMatch(
      /^DISK_FULL: orders-0 took nothing in time, nothing was written: .*reserve.*delete topics/,
    );
    expect(cluster.node(0)?.unready()).toMatch(/^appends are refused: the disk of .* bytes free/);
    expect(cluster.node(0)?.unhealthy()).toBeUndefined();
    disk.capacityBytes = capacity;
    await ready();
    expect(await send(10_000)).toBe('acknowledged');
    channel.close();
  });
});

test('a broker that cannot start for want of room says what to do', async () => {
  const world = new World({ seed: 3 });
  const reasons: string[] = [];
  const cluster = new SimulatedCluster(world, {
    brokers: 1,
    onEnded: (_, reason) => reasons.push(messageOf(reason)),
  });
  await world.run(async () => {
    cluster.process(0).disk.capacityBytes = 0;
    cluster.bootAll();
    await world.until('it has ended', () => reasons.length > 0, 60_000);
    expect(reasons[0]).toMatch(
      /: free space on the disk of \/var\/lib\/relevo.*, then start again$/,
    );
    cluster.process(0).disk.capacityBytes = Infinity;
    await cluster.process(0).kill({ unsynced: 'keep' });
    cluster.bootAll();
    await world.until('ready', () => cluster.node(0)?.unready() === undefined, 60_000);
    expect(reasons).toHaveLength(1);
  });
});

test('a full broker makes way: the others acknowledge, and it leads again when it has room', async () => {
  const world = new World({ seed: 2, limitMs: 600_000 });
  const cluster = new SimulatedCluster(world, {
    brokers: 3,
    settings: () => ({ 'log.disk.reserve.bytes': '0' }),
  });
  await world.run(async () => {
    cluster.bootAll();
    const ready = (): boolean =>
      [0, 1, 2].every(
        (at) => cluster.node(at) !== undefined && cluster.node(at)?.unready() === undefined,
      );
    await world.until('ready', ready, 60_000);
    const { ports } = await client(world);
    const channel = ports.transport.dial(cluster.addresses[0] ?? '');
    const call = { deadlineMs: 60_000 };
    await channel.call(
      AdminService.createTopic,
      createTopicRequest({ name: 'orders', partitions: 6, replicationFactor: 3 }),
      call,
    );
    await channel.call(
      AdminService.createTopic,
      createTopicRequest({ name: 'quiet', partitions: 6, replicationFactor: 3 }),
      call,
    );
    const epochs = async (): Promise<number[]> => {
      const request = getMetadataRequest({ topics: ['quiet'] });
      const { topics } = await channel.call(MetadataService.getMetadata, request, call);
      return topics[0]?.partitions.map(({ leaderEpoch }) => leaderEpoch) ?? [];
    };
    const table = async (): Promise<{ leaders: number[]; inSync: number[] }> => {
      const request = getMetadataRequest({ topics: ['orders'] });
      const { topics } = await channel.call(MetadataService.getMetadata, request, call);
      const partitions = topics[0]?.partitions ?? [];
      return {
        leaders: partitions.map(({ leader }) => leader),
        inSync: partitions.map(({ isr }) => isr.length),
      };
    };
    /** One record to each partition; how long the slowest took, and what became of them. */
    const sendAll = async (): Promise<{ outcomes: Set<string>; ms: number }> => {
      const startMs = ports.clock.monotonicMs();
      const outcomes = await Promise.all(
        [0, 1, 2, 3, 4, 5].map((partition) => {
          const value = utf8Encode('x'.repeat(1000));
          const records = [plainRecord({ value, partition })];
          const request = sendRequest({ topic: 'orders', records, timeoutMs: 30_000 });
          return outcomeOf(channel.call(ProduceService.send, request, call));
        }),
      );
      return { outcomes: new Set(outcomes), ms: ports.clock.monotonicMs() - startMs };
    };
    expect((await sendAll()).outcomes).toEqual(new Set(['acknowledged']));
    const before = await table();
    expect(before.leaders.filter((id) => id === 1)).toHaveLength(2);

    const quietBefore = await epochs();
    expect(quietBefore).toHaveLength(6);
    const { disk } = cluster.process(1);
    const capacity = disk.capacityBytes;
    disk.capacityBytes = disk.usedBytes;
    const full = await sendAll();
    expect(full.outcomes).toEqual(new Set(['acknowledged']));
    // No lag time (5 s) is waited out, neither for the leader nor for the follower.
    expect(full.ms).toBeLessThan(2500);
    const during = await table();
    expect(during.leaders).not.toContain(1);
    expect(during.inSync).toEqual([2, 2, 2, 2, 2, 2]);
    // Long enough for all that is written now and then.
    await world.sleep(30_000);
    expect((await sendAll()).outcomes).toEqual(new Set(['acknowledged']));
    expect(await epochs(), 'what nobody writes to stays where it is').toEqual(quietBefore);

    disk.capacityBytes = capacity;
    const whole = async (): Promise<boolean> => {
      const { leaders, inSync } = await table();
      return inSync.every((count) => count === 3) && leaders.join() === before.leaders.join();
    };
    for (let seconds = 0; !(await whole()); seconds++) {
      expect(seconds, 'whole within 15 s of the room').toBeLessThan(15);
      await world.sleep(1000);
    }
    expect((await sendAll()).outcomes).toEqual(new Set(['acknowledged']));
    channel.close();
  });
});

async function client(world: World): Promise<{ readonly ports: Ports }> {
  let found: Ports | undefined;
  world.process('client').boot((ports) => (found = ports));
  await world.until('the client is up', () => found !== undefined, 100);
  if (found === undefined) throw new Error('no client');
  return { ports: found };
}
