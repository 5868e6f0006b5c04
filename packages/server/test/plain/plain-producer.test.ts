import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { SEND_TIMEOUT_DEFAULT_MS } from '@relevo/server/plain/plain-producer';
import {
  HELD_BYTES_MAX,
  PARTITION_BYTES_MAX,
  PARTITION_JOBS_MAX,
} from '@relevo/server/plain/plain-queue';
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
      await world.partition(1, 'orders').log.make();
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

describe('the records of one call', () => {
  const long = (count: number, bytes: number): string[] =>
    Array.from({ length: count }, (_, at) => String(at).padEnd(bytes, '.'));

  test('go into as many batches as the topic wants, in order', () =>
    withOrders([1], async (world, client) => {
      const sender = new PlainSender(world, client);
      const values = long(15, 100_000);
      const receipts = await sender.send('orders', values);
      expect(receipts.map(({ offset }) => offset)).toEqual(values.map((_, at) => at));
      expect(await client.values(1, 'orders')).toEqual(values);
    }));

  test('fill batches up to the limit, whatever they are made of', async () => {
    const bytes = fc.integer({ min: 0, max: 900 });
    const sizes = fc.array(fc.array(bytes, { minLength: 1, maxLength: 60 }), {
      minLength: 1,
      maxLength: 4,
    });
    await fc.assert(
      fc.asyncProperty(sizes, (calls) =>
        withOrders(
          [1],
          async (world, client) => {
            const sender = new PlainSender(world, client);
            const values = calls.map((call) => call.map((size, at) => `${at}`.padEnd(size, '.')));
            const receipts = await Promise.all(values.map((each) => sender.send('orders', each)));
            const told = receipts.flatMap((each) => each.map(({ offset }) => offset));
            const found = await client.values(1, 'orders');
            expect(told.map((offset) => found[offset])).toEqual(values.flat());
            expect(new Set(told).size).toBe(found.length);
          },
          { 'max.message.bytes': '1024' },
        ),
      ),
      { numRuns: 20 },
    );
  });

  test('are refused before any is written where one of them is too large', () =>
    withOrders([1], async (world, client) => {
      const sender = new PlainSender(world, client);
      setMaxMessageBytes(world, 2000);
      expect(await sender.outcome('orders', ['a', 'x'.repeat(1950)])).toMatch(
        /^MESSAGE_TOO_LARGE: record 1 .*max\.message\.bytes/,
      );
      expect(world.partition(1, 'orders').logEndOffset).toBe(0);
    }));
});

describe('while a partition has no leader', () => {
  const waiting = { timeoutMs: 60_000 };

  test('so many bytes wait and no more; what was taken is written, and then there is room again', () =>
    withOrders([1], async (world, client) => {
      const sender = new PlainSender(world, client);
      for (const round of [1, 2]) {
        world.fence(1);
        const outcomes = Array.from({ length: 20 }, (_, at) =>
          sender.outcome('orders', [`${round}.${at}`.padEnd(1_000_000, '.')], waiting),
        );
        await world.world.sleep(100);
        world.unfence(1);
        const found = await Promise.all(outcomes);
        const taken = Math.floor(PARTITION_BYTES_MAX / 1_001_000);
        expect(found.filter((each) => each === 'acknowledged').length).toBe(taken);
        expect(found.at(-1)).toMatch(/^THROTTLED: orders-0 .* nothing was written, try again/);
        expect(world.partition(1, 'orders').logEndOffset).toBe(round * taken);
      }
    }));

  test('so many calls wait and no more', () =>
    withOrders([1], async (world, client) => {
      const sender = new PlainSender(world, client);
      world.fence(1);
      await world.world.sleep(50);
      const outcomes = Array.from({ length: PARTITION_JOBS_MAX + 3 }, () =>
        sender.outcome('orders', ['v'], { timeoutMs: 500 }),
      );
      const found = await Promise.all(outcomes);
      expect(found.filter((each) => each.startsWith('THROTTLED')).length).toBe(3);
      expect(
        found.filter((each) => /^(REQUEST_TIMED_OUT|LEADER_NOT_AVAILABLE)/.test(each)).length,
      ).toBe(PARTITION_JOBS_MAX);
      world.unfence(1);
      expect(await sender.outcome('orders', ['after'])).toBe('acknowledged');
      expect(await client.values(1, 'orders')).toEqual(['after']);
    }));

  test('all partitions together have a limit too', () =>
    withOrders([1], async (world, client) => {
      world.createTopic(
        'wide',
        Array.from({ length: 6 }, () => [1]),
      );
      const sender = new PlainSender(world, client);
      world.fence(1);
      await world.world.sleep(50);
      const outcomes = Array.from({ length: 90 }, () =>
        sender.outcome('wide', ['x'.repeat(1_000_000)], { timeoutMs: 500 }),
      );
      const found = await Promise.all(outcomes);
      const refused = found.filter((each) => each.startsWith('THROTTLED: this broker has'));
      expect(refused.length).toBe(90 - Math.floor(HELD_BYTES_MAX / 1_001_000));
    }));

  test('each caller waits as long as it said, whoever it shares a batch with', () =>
    withOrders([1], async (world, client) => {
      const sender = new PlainSender(world, client);
      world.fence(1);
      await world.world.sleep(50);
      const startedMs = world.world.nowMs;
      const after = async (value: string, timeoutMs: number): Promise<string> => {
        const outcome = await sender.outcome('orders', [value], { timeoutMs });
        return `${Math.floor((world.world.nowMs - startedMs + 300) / 1000) * 1000} ${outcome.slice(0, 12)}`;
      };
      const outcomes = [
        after('first under way', 2000),
        after('behind it', 1000),
        after('next, with the last', 4000),
        after('last', 60_000),
      ];
      await world.world.sleep(6000);
      world.unfence(1);
      expect(await Promise.all(outcomes)).toEqual([
        '2000 LEADER_NOT_A',
        '1000 REQUEST_TIME',
        '4000 LEADER_NOT_A',
        '6000 acknowledged',
      ]);
      expect(await client.values(1, 'orders')).toEqual(['last']);
    }));
});

test('a leader that is frozen keeps no call longer than its time-out', () =>
  withOrders([1], async (world, client) => {
    const sender = new PlainSender(world, client);
    await sender.send('orders', ['a']);
    world.process(1).pause();
    const startedMs = world.world.nowMs;
    expect(await sender.outcome('orders', ['b'], { timeoutMs: 700 })).toMatch(
      /^REQUEST_TIMED_OUT: .*unknown/,
    );
    expect(world.world.nowMs - startedMs).toBeLessThan(1000);
    world.process(1).resume();
    const [receipt] = await sender.send('orders', ['c']);
    const found = await client.values(1, 'orders');
    expect(found[receipt?.offset ?? -1]).toBe('c');
    expect(found.filter((value) => value === 'b').length).toBeLessThanOrEqual(1);
  }));
