import { errorCodeOf } from '@relevo/base/errors';
import { brokerId } from '@relevo/base/ids';
import { describe, expect, test } from 'vitest';
import { LAG_MS, LATE_MS, PartitionWorld } from './partition-world.ts';

const ALL = [1, 2, 3];
const values = (count: number, prefix = 'v'): string[] =>
  Array.from({ length: count }, (_, at) => `${prefix}${at}`);

/** Three brokers with a topic of one partition that broker 1 leads. */
async function cluster(world: PartitionWorld): Promise<void> {
  await world.boot(...ALL);
  world.createTopic('orders', [[1, 2, 3]]);
  await leads(world, 1, 'orders');
  await world.world.until(
    'the followers follow',
    () => [2, 3].every((id) => phase(world, id) === 'following'),
    2000,
    () => JSON.stringify(ALL.map((id) => world.describe(id, 'orders'))),
  );
}

const phase = (world: PartitionWorld, id: number): string | undefined =>
  world.broker(id).manager.partition(world.topicId('orders'), 0)?.follower?.replica.phase;

const leads = (world: PartitionWorld, id: number, topic: string, number = 0): Promise<void> =>
  world.world.until(
    `broker ${id} leads ${topic}-${number}`,
    () => {
      const partition = world.broker(id).manager.partition(world.topicId(topic), number);
      return partition?.leader?.replica.leaderEpoch === world.state(topic, number).leaderEpoch;
    },
    2000,
    () => JSON.stringify(world.describe(id, topic, number)),
  );

/** Waits for a leader that acts; which. */
async function led(world: PartitionWorld): Promise<number> {
  await world.world.until('somebody is elected', () => world.state('orders').leader >= 0, 2000);
  const { leader } = world.state('orders');
  await leads(world, leader, 'orders');
  return leader;
}

const isr = (world: PartitionWorld, members: number[], withinMs: number): Promise<void> =>
  world.world.until(
    `the in-sync set is ${members.join()}`,
    () => world.state('orders').isr.join() === members.join(),
    withinMs,
    () => `it is ${world.state('orders').isr.join()}`,
  );

describe('three brokers', () => {
  test('acknowledge a batch when it is on the disks of all, and say on which', async () => {
    const world = new PartitionWorld();
    await world.run(async () => {
      await cluster(world);
      const client = await world.client();
      const answer = await client.produce(1, 'orders', values(3));
      expect(answer).toMatchObject({ error: 0, baseOffset: 0, leaderEpoch: 0 });
      expect(answer.syncedOn).toEqual([1, 2, 3]);
      for (const id of ALL) expect(world.partition(id, 'orders').log.syncedEndOffset).toBe(3);
      await world.converge('orders', 0, ALL);
      expect(await client.values(1, 'orders')).toEqual(values(3));
    });
  });

  test('keep many batches in flight in order, and read none of them twice', async () => {
    const world = new PartitionWorld();
    await world.run(async () => {
      await cluster(world);
      const client = await world.client();
      const answers = await Promise.all(
        values(200).map((value) => client.produce(1, 'orders', [value])),
      );
      expect(answers.map(({ baseOffset }) => baseOffset)).toEqual(answers.map((_, at) => at));
      expect(await client.values(1, 'orders')).toEqual(values(200));
      await world.converge('orders', 0, ALL);
      const { metrics } = world.process(1);
      expect(metrics.values.get('relevo_replication_reread_bytes_total')).toBeUndefined();
    });
  });

  test('lead on after a failover with every acknowledged record, and take the old leader back', async () => {
    const world = new PartitionWorld(5);
    await world.run(async () => {
      await cluster(world);
      const client = await world.client();
      await client.produce(1, 'orders', values(10, 'a'));
      // Broker 1 goes down with a batch that nobody else has.
      world.world.network.partition(['broker-1'], ['broker-2', 'broker-3']);
      const lost = client.produce(1, 'orders', values(5, 'lost')).catch(() => undefined);
      await world.world.sleep(20);
      await world.kill(1);
      world.fence(1);
      await lost;
      world.world.network.heal();
      await leads(world, 2, 'orders');
      const second = await client.produce(2, 'orders', values(10, 'b'));
      expect(second).toMatchObject({ error: 0, leaderEpoch: 1, syncedOn: [2, 3] });
      await world.boot(1);
      await isr(world, [1, 2, 3], 3000);
      await world.converge('orders', 0, ALL);
      world.decide({ kind: 'electPreferred', topic: '', partitions: [] });
      await leads(world, 1, 'orders');
      const third = await client.produce(1, 'orders', values(1, 'c'));
      expect(third).toMatchObject({ error: 0, leaderEpoch: 2, syncedOn: [1, 2, 3] });
      const expected = [...values(10, 'a'), ...values(10, 'b'), ...values(1, 'c')];
      const read = await client.values(1, 'orders');
      expect(read.filter((value) => !value.startsWith('lost'))).toEqual(expected);
    });
  });

  test('truncate what diverged to the last common epoch and offset', async () => {
    const world = new PartitionWorld(11);
    await world.run(async () => {
      await cluster(world);
      const client = await world.client();
      await client.produce(1, 'orders', values(4, 'common'));
      await world.converge('orders', 0, ALL);
      // Appended and synced by 1 alone: its followers are cut off.
      await world.kill(2);
      await world.kill(3);
      const alone = client.produce(1, 'orders', values(6, 'alone'), { timeoutMs: 200 });
      expect(errorCodeOf((await alone).error)).toBe('REQUEST_TIMED_OUT');
      await world.kill(1, 'keep');
      world.fence(1);
      await world.boot(2, 3);
      const leader = await led(world);
      await client.produce(leader, 'orders', values(3, 'new'));
      await world.boot(1);
      await isr(world, [1, 2, 3], 3000);
      await world.converge('orders', 0, ALL);
      expect(await client.values(leader, 'orders')).toEqual([
        ...values(4, 'common'),
        ...values(3, 'new'),
      ]);
      const cut = world.lines.filter(({ event }) => event === 'truncated to follow the leader');
      expect(cut.map(({ fields }) => [fields['from'], fields['to']])).toEqual([[10, 4]]);
    });
  });

  test('shrink the in-sync set when a follower lags, and grow it when it has caught up', async () => {
    const world = new PartitionWorld();
    await world.run(async () => {
      await cluster(world);
      const client = await world.client();
      world.process(3).pause();
      const waiting = client.produce(1, 'orders', values(1));
      await world.world.sleep(LAG_MS / 2);
      expect(world.state('orders').isr).toEqual([1, 2, 3]);
      const answer = await waiting;
      expect(answer).toMatchObject({ error: 0, syncedOn: [1, 2] });
      expect(world.state('orders').isr).toEqual([1, 2]);
      world.process(3).resume();
      await isr(world, [1, 2, 3], 5000);
      await world.converge('orders', 0, ALL);
    });
  });

  test('refuse acks=all below the minimum in sync, before anything is appended', async () => {
    const world = new PartitionWorld();
    await world.run(async () => {
      await cluster(world);
      const client = await world.client();
      await world.kill(2);
      await world.kill(3);
      world.fence(2);
      world.fence(3);
      await isr(world, [1], 100);
      await world.world.until(
        'the leader knows',
        () => world.partition(1, 'orders').leader?.replica.isr.length === 1,
        100,
      );
      const answer = await client.produce(1, 'orders', values(1));
      expect(errorCodeOf(answer.error)).toBe('NOT_ENOUGH_REPLICAS');
      expect(world.partition(1, 'orders').logEndOffset).toBe(0);
      const own = await client.produce(1, 'orders', values(1), { acks: 1 });
      expect(own).toMatchObject({ error: 0, syncedOn: [1] });
      expect(world.partition(1, 'orders').highWatermark).toBe(0);
      await world.boot(2, 3);
      await isr(world, [1, 2, 3], 3000);
      await world.converge('orders', 0, ALL);
    });
  });

  test('settle a proposal whose answer was lost by what the image says', async () => {
    const world = new PartitionWorld();
    await world.run(async () => {
      await cluster(world);
      const client = await world.client();
      world.proposals = 'unanswered';
      world.process(3).pause();
      const answer = await client.produce(1, 'orders', values(1), { timeoutMs: 10_000 });
      expect(answer).toMatchObject({ error: 0, syncedOn: [1, 2] });
      world.proposals = 'lost';
      world.process(3).resume();
      await world.world.sleep(1000);
      expect(world.state('orders').isr).toEqual([1, 2]);
      world.proposals = 'answered';
      await isr(world, [1, 2, 3], 3000);
    });
  });

  test('acknowledge nothing without a member that a request still under way may bring in', async () => {
    const world = new PartitionWorld();
    await world.run(async () => {
      await cluster(world);
      const client = await world.client();
      world.process(3).pause();
      await client.produce(1, 'orders', values(1), { timeoutMs: 10_000 });
      await isr(world, [1, 2], 3000);
      world.proposals = 'late';
      world.process(3).resume();
      const { replica } = world.partition(1, 'orders').leader ?? {};
      const proposed = (): boolean => replica?.pendingProposal !== undefined;
      await world.world.until('3 is to come in again', proposed, 3000);
      const lateMs = world.world.nowMs + LATE_MS;
      await world.world.sleep(10);
      // Asked again, the controller refuses it; the first request is still on its way.
      world.proposals = 'answered';
      world.fence(3);
      const refused = (): boolean => replica?.pendingProposal === undefined;
      await world.world.until('the controller refuses it', refused, 3000);
      world.unfence(3);
      world.process(3).pause();
      const sent = client.produce(1, 'orders', values(1), { timeoutMs: 10_000 });
      await world.world.until('the late request has come', () => world.world.nowMs > lateMs, 3000);
      const acknowledged = world.partition(1, 'orders').highWatermark;
      if (world.state('orders').isr.includes(brokerId(3))) {
        expect(world.partition(3, 'orders').logEndOffset).toBeGreaterThanOrEqual(acknowledged);
      }
      world.process(3).resume();
      expect(await sent).toMatchObject({ error: 0 });
      await isr(world, [1, 2, 3], 3000);
      await world.converge('orders', 0, ALL);
    });
  });

  test('find each other again when a stream breaks, without a gap or a repeat', async () => {
    const world = new PartitionWorld(3);
    await world.run(async () => {
      await cluster(world);
      const client = await world.client();
      const sent: Promise<unknown>[] = [];
      for (let round = 0; round < 20; round++) {
        sent.push(client.produce(1, 'orders', values(5, `r${round}-`), { timeoutMs: 10_000 }));
        await world.world.sleep(10);
        if (round % 5 === 2) world.world.network.breakConnections('broker-2', 'broker-1');
      }
      await Promise.all(sent);
      await world.converge('orders', 0, ALL);
      expect((await client.values(1, 'orders')).length).toBe(100);
    });
  });

  test('bring a follower back by reading the log, many pieces, while the writing goes on', async () => {
    const world = new PartitionWorld(9);
    await world.run(async () => {
      await cluster(world);
      const client = await world.client();
      await world.kill(3);
      world.fence(3);
      const big = 'x'.repeat(100_000);
      for (let at = 0; at < 40; at++) await client.produce(1, 'orders', [big]);
      await world.boot(3);
      const writing = Promise.all(
        values(50).map((value) => client.produce(1, 'orders', [value], { timeoutMs: 10_000 })),
      );
      await isr(world, [1, 2, 3], 10_000);
      await writing;
      await world.converge('orders', 0, ALL);
      const { metrics } = world.process(1);
      expect(metrics.values.get('relevo_replication_reread_bytes_total')).toBeGreaterThan(
        3_000_000,
      );
    });
  });

  test('bring many partitions back in one go, though the follower has nothing to say meanwhile', async () => {
    const world = new PartitionWorld();
    await world.run(async () => {
      await world.boot(1, 2);
      const many = Array.from({ length: 60 }, (_, number) => number);
      const assignment = many.map(() => [1, 2]);
      world.createTopic('orders', assignment, { 'min.insync.replicas': '1' });
      await Promise.all(many.map((number) => leads(world, 1, 'orders', number)));
      const client = await world.client();
      await world.kill(2);
      world.fence(2);
      for (const partition of many) {
        const answer = await client.produce(1, 'orders', values(1), { partition });
        expect(answer.error).toBe(0);
      }
      await world.boot(2);
      const isBack = (number: number): boolean => {
        const { manager } = world.broker(2);
        const partition = manager.partition(world.topicId('orders'), number);
        return partition?.isOpen === true && partition.logEndOffset > 0;
      };
      await world.world.until('one is back', () => many.some(isBack), 5000);
      const oneMs = world.world.nowMs;
      await world.world.until('all are back', () => many.every(isBack), 5000);
      // Four at a trip to the follower and back would take fifteen trips; their files are made meanwhile.
      expect(world.world.nowMs - oneMs).toBeLessThan(10);
    });
  });

  test('keep what was acknowledged when the power of all three goes', async () => {
    const world = new PartitionWorld(21);
    await world.run(async () => {
      await cluster(world);
      const client = await world.client();
      const acked: string[] = [];
      const sending = values(100).map(async (value) => {
        const answer = await client.produce(1, 'orders', [value]).catch(() => undefined);
        if (answer?.error === 0) acked.push(value);
      });
      await world.world.until('some are acknowledged', () => acked.length > 20, 5000);
      await Promise.all(ALL.map((id) => world.kill(id)));
      await Promise.all(sending);
      for (const id of ALL) world.fence(id);
      await world.boot(...ALL);
      const leader = await led(world);
      await isr(world, [1, 2, 3], 3000);
      await world.converge('orders', 0, ALL);
      const kept = await client.values(leader, 'orders');
      expect(kept).toEqual(expect.arrayContaining(acked));
      expect(new Set(kept).size).toBe(kept.length);
    });
  });

  test('copy anew from where the leader begins, once old segments are gone', async () => {
    const world = new PartitionWorld(13);
    await world.run(async () => {
      await world.boot(...ALL);
      const small = { 'segment.bytes': '65536', 'retention.bytes': '131072' };
      world.createTopic('orders', [[1, 2, 3]], small);
      await leads(world, 1, 'orders');
      const client = await world.client();
      await client.produce(1, 'orders', values(3));
      await world.kill(3);
      world.fence(3);
      const big = 'x'.repeat(30_000);
      for (let at = 0; at < 30; at++) await client.produce(1, 'orders', [big]);
      const start = (id: number): number => world.partition(id, 'orders').logStartOffset;
      await world.world.until('old segments go', () => start(1) > 10, 3000);
      await world.boot(3);
      await isr(world, [1, 2, 3], 3000);
      await world.converge('orders', 0, ALL);
      expect(start(3)).toBeGreaterThan(10);
      await client.produce(1, 'orders', values(1));
      await world.world.until('all begin alike', () => start(2) === start(1), 3000);
      const early = await client.fetch(1, [{ topic: 'orders', offset: 0 }]);
      expect(early.partitions.map(({ error }) => errorCodeOf(error))).toEqual([
        'OFFSET_OUT_OF_RANGE',
      ]);
    });
  });
});
