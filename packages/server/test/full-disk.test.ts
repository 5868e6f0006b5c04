import { utf8Encode } from '@relevo/base/bytes';
import { AdminService, createTopicRequest } from '@relevo/rpc/gen/client/admin';
import { ProduceService, plainRecord, sendRequest } from '@relevo/rpc/gen/client/produce';
import { SimulatedCluster } from '@relevo/simulation/simulated-cluster';
import { World } from '@relevo/simulation/world';
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

async function client(world: World): Promise<{ readonly ports: Ports }> {
  let found: Ports | undefined;
  world.process('client').boot((ports) => (found = ports));
  await world.until('the client is up', () => found !== undefined, 100);
  if (found === undefined) throw new Error('no client');
  return { ports: found };
}
