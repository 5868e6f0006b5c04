import { describe, expect, test } from 'vitest';
import { SEND_TIMEOUT_DEFAULT_MS } from '@relevo/server/plain/plain-producer';
import { PlainSender, withOrders } from './plain-world.ts';
import type { PartitionWorld } from '../partitions/partition-world.ts';

const setMaxMessageBytes = (world: PartitionWorld, bytes: number): void => {
  const set = new Map([['max.message.bytes', String(bytes)]]);
  world.decide({ kind: 'alterTopicConfig', topic: 'orders', set, unset: [] });
};

describe('a batch of unknown outcome', () => {
  test('that is refused for good in the end does not swallow the next one', () =>
    withOrders([1], async (world, client) => {
      const sender = new PlainSender(world, client);
      const { disk } = world.process(1);
      // Appended, not synced; then leadership goes and comes back, and the retry is refused for good.
      disk.hang();
      const first = sender.outcome('orders', ['x'.repeat(2000)]);
      await world.world.until(
        'the first is appended',
        () => world.partition(1, 'orders').logEndOffset === 1,
        1000,
      );
      world.fence(1);
      setMaxMessageBytes(world, 1024);
      await world.world.sleep(50);
      disk.unhang();
      world.unfence(1);
      expect(await first).toMatch(/^MESSAGE_TOO_LARGE: orders-0 .*unknown/);
      const [receipt] = await sender.send('orders', ['b']);
      expect(receipt).toMatchObject({ offset: 1 });
      expect(await client.values(1, 'orders')).toEqual(['x'.repeat(2000), 'b']);
    }));
});

test('a time-out of 0 is the default one', () =>
  withOrders([1], async (world, client) => {
    const sender = new PlainSender(world, client);
    expect(await sender.outcome('orders', ['a'], { timeoutMs: 0 })).toBe('acknowledged');
    world.fence(1);
    const startedMs = world.world.nowMs;
    const waiting = sender.outcome('orders', ['b'], { timeoutMs: 0 });
    expect(await waiting).toContain('orders-0 took nothing in time, nothing was written');
    expect(world.world.nowMs - startedMs).toBeGreaterThan(0.99 * SEND_TIMEOUT_DEFAULT_MS);
  }));
