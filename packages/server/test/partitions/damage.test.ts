import type { LogLine } from '@relevo/simulation/world';
import { describe, expect, test } from 'vitest';
import { PartitionWorld } from './partition-world.ts';
import { ALL, events, inSync, replicated } from './replicated-world.ts';

describe('damage under a running leader', () => {
  const LOG = '/data/orders-0/00000000000000000000.log';
  /** The error lines of all brokers. */
  const errorsTold = (world: PartitionWorld): string[] =>
    world.lines
      .filter(({ level }) => level === 'error')
      .map(({ process, event }) => `${process}: ${event}`);
  /** Broker 3 copies anew from a leader whose newest bytes were damaged meanwhile. */
  const copiedFromDamaged = async (world: PartitionWorld, byte: number): Promise<void> => {
    await replicated(world, 5, 20);
    await world.kill(3, 'keep');
    world.fence(3);
    const port = world.process(3).disk.port();
    port.rename('/data/orders-0', '/data/elsewhere');
    await port.syncDirectory('/data');
    world.process(1).disk.flipBit(LOG, byte, 3);
    await world.boot(3);
    await world.world.until(
      'another leads',
      () => world.state('orders').leader === 2,
      5000,
      () => JSON.stringify(world.state('orders')),
    );
    await inSync(world, ALL, 15_000);
    await world.converge('orders', 0, ALL);
    expect(world.partition(1, 'orders').logEndOffset).toBe(100);
    // One for the missing directory, one for the damage.
    expect(errorsTold(world)).toEqual([
      'broker-3: a replica is offline',
      'broker-1: a replica is offline',
    ]);
    expect(events(world, 1)).toContain('a partition directory was set aside');
    expect(world.state('orders').uncleanEpoch).toBe(-1);
    const { fields } = world.lines.findLast(({ level }) => level === 'error') ?? {};
    expect(fields).toMatchObject({ partition: 'orders-0' });
    expect(fields?.['do']).toMatch(/^broker 2 has all .* is copied anew by itself/);
  };

  test.each([
    ['what the CRC covers', 100],
    ['a base offset', 7],
    ['a length', 10],
    ['a leader epoch', 15],
    ['the format version', 16],
  ])('in %s: another leads, the log is copied anew, and one line tells', async (_, byte) => {
    const world = new PartitionWorld();
    await world.run(() => copiedFromDamaged(world, byte));
  });

  /** Damages the next message that holds the text, on its way to that host. */
  const damageNext = (world: PartitionWorld, to: string, text: string): void => {
    const { network } = world.world;
    network.overhear = (_, host, packet) => {
      if (host !== to || packet.kind !== 'message') return;
      const at = Buffer.from(packet.body).indexOf(text);
      if (at < 0) return;
      network.overhear = undefined;
      packet.body[at] = (packet.body[at] ?? 0) ^ 1;
    };
  };
  const arrivedDamaged = (world: PartitionWorld): LogLine[] =>
    world.lines.filter(
      ({ process, event }) =>
        process === 'broker-1' && event === 'records arrived damaged; the log here is whole',
    );

  test('on the way to a follower: the leader is told, looks at its log, and goes on leading', async () => {
    const world = new PartitionWorld();
    await world.run(async () => {
      const client = await replicated(world, 5, 20);
      damageNext(world, 'broker-2', 'hurt-me');
      expect(await client.produce(1, 'orders', ['hurt-me'])).toMatchObject({ error: 0 });
      await inSync(world, ALL, 15_000);
      await world.converge('orders', 0, ALL);
      expect(arrivedDamaged(world).map(({ fields }) => fields)).toMatchObject([
        { partition: 'orders-0', offset: 100, at: 'broker 2' },
      ]);
      expect(errorsTold(world)).toEqual([]);
      expect(world.state('orders')).toMatchObject({ leader: 1, isr: [1, 2, 3] });
    });
  });

  test('that clients invent costs a look now and then, and a follower is heard all the same', async () => {
    const world = new PartitionWorld();
    await world.run(async () => {
      const client = await replicated(world, 5, 20);
      const invent = async (times: number): Promise<void> => {
        for (let at = 0; at < times; at++) {
          const hint = { topic: 'orders', offset: at, damaged: true };
          const { partitions } = await client.fetch(1, [hint]);
          expect(partitions).toMatchObject([{ error: 0 }]);
        }
      };
      await invent(50);
      expect(arrivedDamaged(world)).toHaveLength(1);
      damageNext(world, 'broker-2', 'hurt-me');
      await client.produce(1, 'orders', ['hurt-me']);
      await world.world.until(
        'the follower is heard',
        () => arrivedDamaged(world).length === 2,
        5000,
      );
      await invent(50);
      expect(arrivedDamaged(world)).toHaveLength(2);
      await world.world.sleep(10_000);
      await invent(50);
      expect(arrivedDamaged(world)).toHaveLength(3);
      expect(world.process(1).metrics.values.get('relevo_damage_reports_total')).toBe(151);
      expect(world.state('orders')).toMatchObject({ leader: 1, isr: [1, 2, 3] });
      expect(errorsTold(world)).toEqual([]);
    });
  });
});
