/** The controller of a node and the brokers' lifecycle, through what happens to both. */
import { RelevoError } from '@relevo/base/errors';
import { brokerId } from '@relevo/base/ids';
import { partitionProposal, ControllerService } from '@relevo/rpc/gen/cluster/controller';
import { describe, expect, test } from 'vitest';
import { ControllerWorld, SESSION_MS } from './controller-world.ts';

const ids = (...values: number[]): ReturnType<typeof brokerId>[] => values.map(brokerId);
const three = { controllers: [1, 2, 3] };
const onAll = { assignment: [ids(1, 2, 3)] };

describe('brokers join', () => {
  test('in any order: they wait for a controller, register, catch up, and serve', async () => {
    const cluster = new ControllerWorld(three);
    await cluster.run(async () => {
      await cluster.boot([3, 1]);
      await cluster.world.sleep(3000);
      expect(
        cluster.said(
          'waiting for an active controller: a majority of the controllers must be running',
        ).length,
      ).toBe(2);
      await cluster.boot([2]);
      cluster.quorum.lead(brokerId(2));
      const tookMs = await cluster.until('all serve', () =>
        [1, 2, 3].every((id) => !cluster.node(id).lifecycle.fenced),
      );
      expect(tookMs).toBeLessThan(400);
      expect([1, 2, 3].map((id) => cluster.broker(id)?.fenced)).toEqual([false, false, false]);
    });
  });

  test('three started together serve within 100 ms of the election', async () => {
    const cluster = new ControllerWorld(three);
    await cluster.run(async () => {
      await cluster.boot([1, 2, 3]);
      cluster.quorum.lead(brokerId(1));
      const tookMs = await cluster.until('all serve', () =>
        [1, 2, 3].every((id) => !cluster.node(id).lifecycle.fenced),
      );
      expect(tookMs).toBeLessThan(100);
    });
  });

  test('brokers that are no controllers follow the log from any of them', async () => {
    const cluster = new ControllerWorld({ controllers: [1, 2] });
    await cluster.run(async () => {
      await cluster.start([1, 2, 3, 4]);
      await cluster.create('t', { assignment: [ids(3, 4)] });
      await cluster.until('all know', () =>
        [3, 4].every((id) => cluster.node(id).publisher.image().topicsByName.has('t')),
      );
      await cluster.kill(2);
      await cluster.until('2 is fenced', () => cluster.broker(2)?.fenced === true, 100);
      await cluster.until(
        'all know of it',
        () =>
          [3, 4].every(
            (id) => cluster.node(id).publisher.image().brokers.get(brokerId(2))?.fenced === true,
          ),
        300,
      );
    });
  });

  test('a follower moves on from a controller that hangs', async () => {
    const cluster = new ControllerWorld({ controllers: [1, 2] });
    await cluster.run(async () => {
      await cluster.start([1, 2, 3, 4, 5, 6]);
      cluster.node(2).process.pause();
      await cluster.world.sleep(10);
      await cluster.create('t', { assignment: [ids(3, 4)] });
      await cluster.until(
        'all know',
        () => [3, 4, 5, 6].every((id) => cluster.node(id).publisher.image().topicsByName.has('t')),
        1500,
      );
      cluster.node(2).process.resume();
      await cluster.until('2 serves again', () => cluster.broker(2)?.fenced === false);
    });
  });
});

describe('a broker dies', () => {
  test('killed: nobody listens, so it is fenced within 20 ms and its partitions are led by others', async () => {
    const cluster = new ControllerWorld(three);
    await cluster.run(async () => {
      await cluster.start([1, 2, 3]);
      await cluster.create('t', { assignment: [ids(3, 1, 2), ids(1, 2, 3)] });
      await cluster.kill(3);
      const tookMs = await cluster.until('it is fenced', () => cluster.broker(3)?.fenced === true);
      expect(tookMs).toBeLessThan(20);
      expect(cluster.partition('t', 0)).toMatchObject({ leader: 1, leaderEpoch: 1, isr: [1, 2] });
      expect(cluster.partition('t', 1)).toMatchObject({ leader: 1, leaderEpoch: 0, isr: [1, 2] });
      expect(cluster.said('broker fenced')[0]?.fields).toMatchObject({
        broker: 3,
        reason: 'nobody listens at node-3:1',
      });
    });
  });

  test('without a word: it is fenced after a session', async () => {
    const cluster = new ControllerWorld(three);
    await cluster.run(async () => {
      await cluster.start([1, 2, 3]);
      await cluster.kill(3, { silent: true });
      const tookMs = await cluster.until('it is fenced', () => cluster.broker(3)?.fenced === true);
      expect(tookMs).toBeGreaterThan(SESSION_MS - 260);
      expect(tookMs).toBeLessThan(SESSION_MS + 20);
    });
  });

  test('heard, but hearing nobody: it is fenced after a session and stays so until it hears', async () => {
    const cluster = new ControllerWorld(three);
    await cluster.run(async () => {
      await cluster.start([1, 2, 3]);
      await cluster.create('t', { assignment: [ids(3, 1, 2)] });
      const deafen = (deaf: boolean): void => {
        for (const other of ['node-1', 'node-2']) {
          cluster.world.network.setBlocked(other, 'node-3', deaf);
        }
      };
      deafen(true);
      const tookMs = await cluster.until(
        'it is fenced',
        () => cluster.broker(3)?.fenced === true,
        5_000,
      );
      expect(tookMs).toBeLessThan(SESSION_MS * 1.5 + 50);
      expect(cluster.partition('t').leader).toBe(1);
      await cluster.world.sleep(10_000);
      expect(cluster.said('broker unfenced').length).toBe(3);
      expect(cluster.broker(3)?.fenced).toBe(true);
      deafen(false);
      await cluster.until('it serves', () => cluster.broker(3)?.fenced === false, 10_000);
    });
  });

  test('frozen for long: it finds itself fenced before it acknowledges anything, and comes back', async () => {
    const cluster = new ControllerWorld(three);
    await cluster.run(async () => {
      await cluster.start([1, 2, 3]);
      await cluster.create('t', { assignment: [ids(3, 1, 2)] });
      const { process, lifecycle } = cluster.node(3);
      process.pause();
      await cluster.until('it is fenced', () => cluster.broker(3)?.fenced === true, 2000);
      await cluster.world.sleep(20_000);
      const asItWakes = lifecycle.fenced;
      process.resume();
      expect(asItWakes).toBe(true);
      await cluster.until(
        'it serves',
        () => !lifecycle.fenced && cluster.broker(3)?.fenced === false,
      );
      expect(cluster.partition('t').leader).toBe(1);
    });
  });

  test('its disk hangs or fails: heartbeats alone do not keep it', async () => {
    const cluster = new ControllerWorld(three);
    await cluster.run(async () => {
      await cluster.start([1, 2, 3]);
      cluster.node(3).process.disk.hang();
      const tookMs = await cluster.until('it is fenced', () => cluster.broker(3)?.fenced === true);
      expect(tookMs).toBeLessThan(2 * SESSION_MS);
      cluster.node(3).process.disk.unhang();
      await cluster.until('it serves again', () => cluster.broker(3)?.fenced === false);
      cluster.node(2).process.disk.fail({ operation: 'datasync', path: /heartbeat/ });
      await cluster.until('2 is fenced', () => cluster.broker(2)?.fenced === true, 2000);
      await cluster.world.sleep(3000);
      expect(cluster.broker(2)?.fenced).toBe(true);
      expect(cluster.node(2).lifecycle.fenced).toBe(true);
    });
  });

  test('restarted at once: it takes its id over from its predecessor and serves', async () => {
    const cluster = new ControllerWorld(three);
    await cluster.run(async () => {
      await cluster.start([1, 2, 3]);
      await cluster.create('t', { assignment: [ids(3, 1, 2)] });
      const epoch = cluster.broker(3)?.epoch;
      await cluster.kill(3);
      await cluster.boot([3]);
      const tookMs = await cluster.until(
        'it serves',
        () => !cluster.node(3).lifecycle.fenced && cluster.broker(3)?.fenced === false,
      );
      expect(tookMs).toBeLessThan(200);
      expect(cluster.broker(3)?.epoch).toBeGreaterThan(epoch ?? Infinity);
      expect(cluster.partition('t')).toMatchObject({ leader: 1, isr: [3, 1, 2] });
    });
  });

  test('another process with the id of a live broker is refused, and disturbs nothing', async () => {
    const cluster = new ControllerWorld(three);
    await cluster.run(async () => {
      await cluster.start([1, 2, 3]);
      const epoch = cluster.broker(3)?.epoch;
      await cluster.boot([3], { impostorOf: 3 });
      await cluster.until('it is told', () => cluster.impostors[0]?.fatal !== undefined);
      expect(cluster.impostors[0]?.fatal?.code).toBe('DUPLICATE_BROKER_REGISTRATION');
      expect(cluster.impostors[0]?.fatal?.message).toMatch(
        /node-3:1: give this one another node\.id/,
      );
      expect(cluster.broker(3)).toMatchObject({ epoch, fenced: false });
      expect(cluster.node(3).lifecycle.fenced).toBe(false);
    });
  });
});

describe('the controller moves', () => {
  test('live brokers keep their sessions, and are not fenced', async () => {
    const cluster = new ControllerWorld(three);
    await cluster.run(async () => {
      await cluster.start([1, 2, 3]);
      await cluster.create('t', onAll);
      const fencings = cluster.said('broker fenced').length;
      for (let round = 0; round < 6; round++) {
        cluster.quorum.lead(brokerId((round % 3) + 1));
        await cluster.world.sleep(round % 2 === 0 ? 500 : 2500);
        expect([1, 2, 3].map((id) => cluster.node(id).lifecycle.fenced)).toEqual([
          false,
          false,
          false,
        ]);
      }
      expect(cluster.said('broker fenced').length).toBe(fencings);
      expect(cluster.partition('t')).toMatchObject({ leader: 1, leaderEpoch: 0, isr: [1, 2, 3] });
    });
  });

  test('who died together with the last one is fenced at once', async () => {
    const cluster = new ControllerWorld(three);
    await cluster.run(async () => {
      await cluster.start([1, 2, 3]);
      await cluster.create('t', onAll);
      await cluster.kill(1);
      await cluster.world.sleep(100);
      cluster.quorum.lead(brokerId(2));
      const tookMs = await cluster.until('2 is active', () => {
        const { service } = cluster.node(2);
        return service?.isActive() === true && cluster.broker(1)?.fenced === true;
      });
      expect(tookMs).toBeLessThan(30);
      expect(cluster.partition('t')).toMatchObject({ leader: 2, leaderEpoch: 1, isr: [2, 3] });
    });
  });

  test('without any for long, brokers acknowledge nothing; they serve again once there is one', async () => {
    const cluster = new ControllerWorld(three);
    await cluster.run(async () => {
      await cluster.start([1, 2, 3]);
      cluster.quorum.lead(undefined);
      const { lifecycle } = cluster.node(2);
      const tookMs = await cluster.until('the lease ends', () => lifecycle.fenced);
      expect(tookMs).toBeLessThanOrEqual(SESSION_MS + 10);
      await cluster.world.sleep(5000);
      cluster.quorum.lead(brokerId(3));
      await cluster.until('it serves', () => !lifecycle.fenced, 500);
      expect(cluster.said('broker fenced')).toEqual([]);
    });
  });

  test('an entry proposed by one that has lost leadership is not answered as done', async () => {
    const cluster = new ControllerWorld(three);
    await cluster.run(async () => {
      await cluster.start([1, 2, 3]);
      const outcome = cluster.create('t', onAll).then(
        () => 'done',
        (error: unknown) => (error instanceof RelevoError ? error.code : String(error)),
      );
      cluster.quorum.lead(brokerId(2));
      expect(await outcome).toBe('NOT_CONTROLLER');
      await cluster.until('2 is active', () => cluster.node(2).service?.isActive() === true);
      await cluster.create('t', onAll);
    });
  });
});

describe('commands', () => {
  test('are decided on what was decided before them, and answered once it is committed', async () => {
    const cluster = new ControllerWorld(three);
    await cluster.run(async () => {
      await cluster.start([1, 2, 3]);
      const before = cluster.quorum.log.length;
      const outcomes = await Promise.all(
        Array.from({ length: 50 }, async (_, number) => {
          const name = `t${number % 25}`;
          const topicId = `${number}${'B'.repeat(22 - String(number).length)}` as never;
          try {
            await cluster.create(name, { ...onAll, topicId });
            expect(cluster.node(1).publisher.image().topicsByName.has(name)).toBe(true);
            return 'created';
          } catch (error) {
            expect(cluster.node(1).publisher.image().topicsByName.has(name)).toBe(true);
            return error instanceof RelevoError ? error.code : String(error);
          }
        }),
      );
      expect(outcomes.filter((outcome) => outcome === 'created').length).toBe(25);
      expect(outcomes.filter((outcome) => outcome === 'TOPIC_ALREADY_EXISTS').length).toBe(25);
      // All of one turn go into one entry.
      expect(cluster.quorum.log.length - before).toBeLessThanOrEqual(2);
    });
  });

  test('brokers propose in-sync sets and get producer ids, wherever the controller is', async () => {
    const cluster = new ControllerWorld(three);
    await cluster.run(async () => {
      await cluster.start([1, 2, 3]);
      await cluster.create('t', onAll);
      cluster.quorum.lead(brokerId(3));
      const { client, lifecycle } = cluster.node(1);
      const named = { brokerId: 1, brokerEpoch: lifecycle.brokerEpoch ?? 0 };
      const members = [1, 2].map((id) => ({
        brokerId: id,
        brokerEpoch: cluster.node(id).lifecycle.brokerEpoch ?? 0,
      }));
      const proposal = partitionProposal({ topicId: `t${'A'.repeat(21)}`, isr: members });
      const { response: answer } = await client.alterPartitions(
        { ...named, partitions: [proposal, { ...proposal, partition: 3 }] },
        { deadlineMs: 2000 },
      );
      expect(answer.partitions).toMatchObject([
        { error: 0, isr: [1, 2], leaderEpoch: 0, partitionEpoch: 1 },
        { error: 3 },
      ]);
      const broker = { brokerId: brokerId(1), brokerEpoch: named.brokerEpoch as never };
      const blocks = await Promise.all([
        client.allocateProducerIds(broker, { deadlineMs: 2000 }),
        client.allocateProducerIds(broker, { deadlineMs: 2000 }),
      ]);
      expect(new Set(blocks.map(({ first }) => first))).toEqual(new Set([1, 1001]));
      const stale = { ...broker, brokerEpoch: 99 as never };
      const refused = client.allocateProducerIds(stale, { deadlineMs: 2000 });
      await expect(refused).rejects.toMatchObject({ code: 'STALE_BROKER_EPOCH' });
    });
  });

  test('without a controller a call ends at its deadline, and says that the outcome is unknown', async () => {
    const cluster = new ControllerWorld(three);
    await cluster.run(async () => {
      await cluster.start([1, 2, 3]);
      cluster.quorum.lead(undefined);
      await cluster.world.sleep(10);
      const { client, lifecycle } = cluster.node(1);
      const broker = { brokerId: brokerId(1), brokerEpoch: lifecycle.brokerEpoch ?? (0 as never) };
      const fromMs = cluster.world.nowMs;
      const call = client.allocateProducerIds(broker, { deadlineMs: 1000 });
      await expect(call).rejects.toMatchObject({ code: 'REQUEST_TIMED_OUT' });
      expect(cluster.world.nowMs - fromMs).toBeLessThan(1300);
    });
  });

  test('a standby controller refuses and names the active one', async () => {
    const cluster = new ControllerWorld(three);
    await cluster.run(async () => {
      await cluster.start([1, 2, 3]);
      const channel = cluster.node(2).ports.transport.dial('node-3:1');
      const call = channel.call(
        ControllerService.allocateProducerIds,
        { brokerId: 2, brokerEpoch: 2 },
        { deadlineMs: 500 },
      );
      await expect(call).rejects.toMatchObject({
        code: 'NOT_CONTROLLER',
        message: expect.stringContaining('node 1 at node-1:1') as unknown,
      });
    });
  });
});

describe('shutdown and hand-back', () => {
  test('a broker that stops is let go when its leaderships have moved and all others know', async () => {
    const cluster = new ControllerWorld(three);
    await cluster.run(async () => {
      await cluster.start([1, 2, 3]);
      await cluster.create('t', { assignment: [ids(3, 1, 2), ids(1, 2, 3)] });
      const { lifecycle, process } = cluster.node(3);
      const fromMs = cluster.world.nowMs;
      expect(await lifecycle.shutdown(5000)).toBe('released');
      expect(cluster.world.nowMs - fromMs).toBeLessThan(100);
      for (const id of [1, 2]) {
        const topic = cluster.node(id).publisher.image().topicsByName.get('t');
        expect(topic?.partitions.map(({ leader }) => leader)).toEqual([1, 1]);
      }
      expect(cluster.partition('t', 0).isr).toEqual([1, 2]);
      await cluster.until('it is fenced', () => cluster.broker(3)?.fenced === true, 50);
      expect(cluster.said('broker fenced').at(-1)?.fields['reason']).toBe('it has stopped');
      expect(lifecycle.fenced).toBe(true);
      await process.kill({ unsynced: 'keep' });
    });
  });

  test('the active controller node itself stops the same way', async () => {
    const cluster = new ControllerWorld(three);
    await cluster.run(async () => {
      await cluster.start([1, 2, 3]);
      await cluster.create('t', onAll);
      expect(await cluster.node(1).lifecycle.shutdown(5000)).toBe('released');
      expect(cluster.partition('t')).toMatchObject({ leader: 2, isr: [2, 3] });
    });
  });

  test('one that nobody lets go stops after its time, or when no controller answers', async () => {
    const cluster = new ControllerWorld(three);
    await cluster.run(async () => {
      await cluster.start([1, 2, 3]);
      cluster.quorum.lead(undefined);
      await cluster.world.sleep(100);
      const fromMs = cluster.world.nowMs;
      expect(await cluster.node(2).lifecycle.shutdown(1000)).toBe('timedOut');
      expect(cluster.world.nowMs - fromMs).toBeLessThan(1010);
      expect(await cluster.node(3).lifecycle.shutdown(60_000)).toBe('timedOut');
      expect(cluster.world.nowMs - fromMs).toBeLessThan(1000 + SESSION_MS + 20);
      cluster.quorum.lead(brokerId(1));
      await cluster.until('1 is active', () => cluster.node(1).service?.isActive() === true);
    });
  });

  test('all that stop at once are let go', async () => {
    const cluster = new ControllerWorld(three);
    await cluster.run(async () => {
      await cluster.start([1, 2, 3]);
      await cluster.create('t', { partitions: 9 });
      const fromMs = cluster.world.nowMs;
      const outcomes = [1, 2, 3].map((id) => cluster.node(id).lifecycle.shutdown(5000));
      expect(await Promise.all(outcomes)).toEqual(['released', 'released', 'released']);
      expect(cluster.world.nowMs - fromMs).toBeLessThan(100);
    });
  });

  test('leadership goes back to a broker once it has been in sync for two seconds', async () => {
    const cluster = new ControllerWorld(three);
    await cluster.run(async () => {
      await cluster.start([1, 2, 3]);
      await cluster.create('t', { assignment: [ids(3, 1, 2)] });
      await cluster.kill(3);
      await cluster.until('1 leads', () => cluster.partition('t').leader === 1);
      await cluster.boot([3]);
      await cluster.until('3 serves', () => cluster.broker(3)?.fenced === false);
      await cluster.world.sleep(3000);
      expect(cluster.partition('t').leader).toBe(1);
      const { client } = cluster.node(1);
      const member = (id: number): { brokerId: number; brokerEpoch: number } => ({
        brokerId: id,
        brokerEpoch: cluster.broker(id)?.epoch ?? 0,
      });
      await client.alterPartitions(
        {
          ...member(1),
          partitions: [
            partitionProposal({
              topicId: `t${'A'.repeat(21)}`,
              leaderEpoch: cluster.partition('t').leaderEpoch,
              partitionEpoch: cluster.partition('t').partitionEpoch,
              isr: [1, 2, 3].map(member),
            }),
          ],
        },
        { deadlineMs: 1000 },
      );
      const tookMs = await cluster.until(
        '3 leads again',
        () => cluster.partition('t').leader === 3,
      );
      expect(tookMs).toBeGreaterThan(1990);
      expect(tookMs).toBeLessThan(2050);
      expect(cluster.said('handed back').length).toBe(1);
    });
  });
});

test('idle, a cluster costs a few messages a second', async () => {
  const cluster = new ControllerWorld(three);
  await cluster.run(async () => {
    await cluster.start([1, 2, 3]);
    await cluster.world.sleep(1000);
    const before = cluster.quorum.log.length;
    await cluster.world.sleep(60_000);
    expect(cluster.quorum.log.length).toBe(before);
  });
});
