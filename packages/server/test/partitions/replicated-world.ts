/** What scenarios of replicated partitions share. */
import type { PartitionWorld, TestClient } from './partition-world.ts';

export const ALL: readonly number[] = [1, 2, 3];
export const values = (count: number): string[] =>
  Array.from({ length: count }, (_, at) => `v${at}`);

export const inSync = (
  world: PartitionWorld,
  members: readonly number[],
  withinMs = 5000,
): Promise<void> =>
  world.world.until(
    `the in-sync set is ${members.join()}`,
    () => world.state('orders').isr.join() === members.join(),
    withinMs,
    () => `it is ${world.state('orders').isr.join()}`,
  );

export const leading = (world: PartitionWorld, id: number, count = 1): Promise<void> =>
  world.world.until(
    `broker ${id} leads ${count}`,
    () => world.broker(id).manager.status().leading === count,
    3000,
    () => JSON.stringify(world.broker(id).manager.status()),
  );

export const events = (world: PartitionWorld, id: number): string[] =>
  world.lines.filter((line) => line.process === `broker-${id}`).map(({ event }) => event);

/** One partition on all three, led by the first, with batches of so many records that all of them have. */
export async function replicated(
  world: PartitionWorld,
  batches = 1,
  records = 3,
  config: Readonly<Record<string, string>> = {},
): Promise<TestClient> {
  await world.boot(...ALL);
  world.createTopic('orders', [[1, 2, 3]], config);
  await leading(world, 1);
  const client = await world.client();
  for (let at = 0; at < batches; at++) await client.produce(1, 'orders', values(records));
  await world.converge('orders', 0, ALL);
  return client;
}
