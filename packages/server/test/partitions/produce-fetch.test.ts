import { errorCodeOf } from '@relevo/base/errors';
import { producerEpoch, producerId } from '@relevo/base/ids';
import { RpcError } from '@relevo/base/ports';
import {
  FetchService,
  fetchPartition,
  fetchRequest,
  listOffsetsRequest,
} from '@relevo/rpc/gen/client/fetch';
import type { FetchRequest } from '@relevo/rpc/gen/client/fetch';
import {
  ProduceService,
  initProducerIdRequest,
  produceRequest,
} from '@relevo/rpc/gen/client/produce';
import type {
  InitProducerIdRequest,
  InitProducerIdResponse,
  ProduceRequest,
  ProduceResponse,
} from '@relevo/rpc/gen/client/produce';
import { describe, expect, test } from 'vitest';
import { outcomeOf } from '../plain/plain-world.ts';
import { PartitionWorld } from './partition-world.ts';
import type { TestClient } from './partition-world.ts';

const values = (count: number, prefix = 'v'): string[] =>
  Array.from({ length: count }, (_, at) => `${prefix}${at}`);

/** One broker that leads alone, a topic, and a client. */
async function single(
  scenario: (world: PartitionWorld, client: TestClient) => Promise<void>,
  config: Readonly<Record<string, string>> = {},
): Promise<void> {
  const world = new PartitionWorld();
  await world.run(async () => {
    await world.boot(1);
    world.createTopic('orders', [[1], [1]], config);
    await world.world.until(
      'broker 1 leads',
      () => world.broker(1).manager.status().leading === 2,
      1000,
    );
    await scenario(world, await world.client());
  });
}

const code = (answer: { readonly error: number }): string => errorCodeOf(answer.error);

describe('a produce is refused with one clear error, and appends nothing', () => {
  const corrupted = (batch: Uint8Array, at: number): Uint8Array => {
    const copy = batch.slice();
    copy[at] = (copy[at] ?? 0) ^ 1;
    return copy;
  };

  test('when the batch is damaged, lies, or is no batch', () =>
    single(async (world, client) => {
      const good = client.batch(values(3));
      const cases: [string, Uint8Array][] = [
        ['CORRUPT_MESSAGE', corrupted(good, good.length - 1)],
        ['CORRUPT_MESSAGE', good.subarray(0, good.length - 1)],
        ['CORRUPT_MESSAGE', new Uint8Array(0)],
        ['CORRUPT_MESSAGE', corrupted(good, 16)],
        ['CORRUPT_MESSAGE', corrupted(good, 60)],
        ['CORRUPT_MESSAGE', Uint8Array.of(...good, ...good)],
        ['MESSAGE_TOO_LARGE', client.batch(['x'.repeat(1 << 20)])],
        ['INVALID_RECORD', client.batch(['a'], { isControl: true })],
      ];
      for (const [expected, batch] of cases) {
        const answer = await client.produce(1, 'orders', batch);
        expect([code(answer), answer.baseOffset]).toEqual([expected, -1]);
        expect(answer.message).toContain('orders-0');
      }
      expect(world.partition(1, 'orders').logEndOffset).toBe(0);
      expect(code(await client.produce(1, 'orders', good))).toBe('NONE');
    }));

  test('when topic, partition, epoch or acks are wrong', () =>
    single(async (world, client) => {
      const cases: [string, Parameters<TestClient['produce']>[3]][] = [
        ['UNKNOWN_TOPIC_ID', { topicId: 'AAAAAAAAAAAAAAAAAAAAAA' }],
        ['UNKNOWN_TOPIC_ID', { topicId: 'what?' }],
        ['UNKNOWN_TOPIC_OR_PARTITION', { partition: 7 }],
        ['UNKNOWN_LEADER_EPOCH', { leaderEpoch: 5 }],
        ['INVALID_REQUIRED_ACKS', { acks: 2 }],
      ];
      for (const [expected, more] of cases) {
        const answer = await client.produce(1, 'orders', values(1), more);
        expect(code(answer)).toBe(expected);
        expect(answer.message.length).toBeGreaterThan(20);
      }
      expect(world.partition(1, 'orders').logEndOffset).toBe(0);
    }));

  test('when the lease has run out', () =>
    single(async (world, client) => {
      world.broker(1).leaseValid = false;
      expect(code(await client.produce(1, 'orders', values(1)))).toBe('LEADER_NOT_AVAILABLE');
    }));

  test('when another leads: it says who', async () => {
    const world = new PartitionWorld();
    await world.run(async () => {
      await world.boot(1, 2);
      world.createTopic('orders', [[2, 1]]);
      await world.world.until(
        'broker 1 follows',
        () => world.broker(1).manager.status().following === 1,
        1000,
      );
      const client = await world.client();
      const answer = await client.produce(1, 'orders', values(1));
      expect(code(answer)).toBe('NOT_LEADER_OR_FOLLOWER');
      expect(answer.currentLeader).toEqual({
        brokerId: 2,
        leaderEpoch: 0,
        address: 'broker-2:9093',
      });
    });
  });
});

describe('acknowledgements', () => {
  test('acks=0 is silent, acks=1 comes when the leader has synced', () =>
    single(async (world, client) => {
      const silent = client.produce(1, 'orders', values(2), { acks: 0 });
      const own = await client.produce(1, 'orders', values(2), { acks: 1 });
      expect(own).toMatchObject({ error: 0, baseOffset: 2, syncedOn: [1] });
      const first = await Promise.race([silent, world.world.sleep(500).then(() => 'silent')]);
      expect(first).toBe('silent');
      expect(world.broker(1).manager.status().inHandBytes).toBe(0);
    }));

  test('time out as unknown where the replicas do not confirm', async () => {
    const world = new PartitionWorld();
    await world.run(async () => {
      await world.boot(1, 2);
      world.createTopic('orders', [[1, 2]]);
      const following = (): boolean =>
        world.broker(2).manager.partition(world.topicId('orders'), 0)?.follower?.replica.phase ===
        'following';
      await world.world.until('broker 2 follows', following, 1000);
      world.proposals = 'lost';
      await world.kill(2);
      const client = await world.client();
      const started = world.world.nowMs;
      const answer = await client.produce(1, 'orders', values(1), { timeoutMs: 700 });
      expect(code(answer)).toBe('REQUEST_TIMED_OUT');
      expect(answer.message).toContain('unknown');
      expect(world.world.nowMs - started).toBeLessThan(1400);
    });
  });

  test('end with the new leader when leadership moves meanwhile', async () => {
    const world = new PartitionWorld();
    await world.run(async () => {
      await world.boot(1, 2);
      world.createTopic('orders', [[1, 2]]);
      const following = (): boolean =>
        world.broker(2).manager.partition(world.topicId('orders'), 0)?.follower?.replica.phase ===
        'following';
      await world.world.until('broker 2 follows', following, 1000);
      const client = await world.client();
      world.process(2).pause();
      const waiting = client.produce(1, 'orders', values(1));
      await world.world.sleep(50);
      world.fence(1);
      const answer = await waiting;
      expect(code(answer)).toBe('NOT_LEADER_OR_FOLLOWER');
      expect(answer.currentLeader).toMatchObject({ brokerId: 2, leaderEpoch: 1 });
    });
  });

  test('of a repeated batch name the first offset, and wait for it like any other', () =>
    single(async (world, client) => {
      const producer = await client.producer(1);
      const batch = (sequence: number): Uint8Array =>
        client.batch(values(2), { ...producer, baseSequence: sequence });
      const answers = await Promise.all([
        client.produce(1, 'orders', batch(0)),
        client.produce(1, 'orders', batch(2)),
        client.produce(1, 'orders', batch(0)),
      ]);
      expect(answers.map(({ baseOffset, error }) => [error, baseOffset])).toEqual([
        [0, 0],
        [0, 2],
        [0, 0],
      ]);
      expect(world.partition(1, 'orders').logEndOffset).toBe(4);
      const gap = await client.produce(1, 'orders', batch(9));
      expect(code(gap)).toBe('OUT_OF_ORDER_SEQUENCE_NUMBER');
      const late = await client.produce(1, 'orders', batch(2));
      expect([late.error, late.baseOffset]).toEqual([0, 2]);
    }));

  test('tell the broker time where the topic wants it', () =>
    single(
      async (_, client) => {
        const answer = await client.produce(1, 'orders', values(1));
        expect(answer.logAppendTimeMs).toBeGreaterThan(1_700_000_000_000);
      },
      { 'message.timestamp.type': 'LogAppendTime' },
    ));
});

test('producers are held back while too much is in hand, and go on afterwards', async () => {
  const limit = 1_000_000;
  const world = new PartitionWorld(1, { inHandBytesMax: limit });
  await world.run(async () => {
    await world.boot(1, 2);
    world.createTopic('orders', [[1, 2]]);
    const following = (): boolean =>
      world.broker(2).manager.partition(world.topicId('orders'), 0)?.follower?.replica.phase ===
      'following';
    await world.world.until('broker 2 follows', following, 1000);
    const client = await world.client();
    world.process(2).pause();
    const big = 'x'.repeat(20_000);
    const answers: ProduceResponse[] = [];
    for (let at = 0; at < 90; at++) {
      void client
        .produce(1, 'orders', [big], { timeoutMs: 60_000 })
        .then((answer) => answers.push(answer));
    }
    await world.world.sleep(400);
    const { inHandBytes } = world.broker(1).manager.status();
    expect(inHandBytes).toBeGreaterThan(limit * 0.9);
    expect(inHandBytes).toBeLessThan(limit + 40_000);
    world.process(2).resume();
    await world.world.until('all are answered', () => answers.length === 90, 60_000);
    expect(answers.every(({ error }) => error === 0)).toBe(true);
    expect(world.broker(1).manager.status().inHandBytes).toBe(0);
  });
});

test('a producer that takes no answers is read no further, and goes on when it does', () =>
  single(async (world, client) => {
    const answers: ProduceResponse[] = [];
    const channel = client.ports.transport.dial('broker-1:9093');
    const stream = channel.open(ProduceService.stream, {
      onMessage: (answer) => void answers.push(answer),
      onEnd: () => undefined,
    });
    stream.pause();
    // Each is refused with an answer that is longer than itself.
    const topicId = 'AAAAAAAAAAAAAAAAAAAAAA';
    let sent = 0;
    while (stream.queuedBytes() === 0 && sent < 50_000) {
      for (let at = 0; at < 500; at++)
        stream.send(produceRequest({ topicId, correlationId: sent++ }));
      await world.world.sleep(20);
    }
    expect(sent).toBeLessThan(50_000);
    stream.resume();
    await world.world.until('all are answered', () => answers.length === sent, 60_000);
    channel.close();
  }));

describe('a stream whose client has said all', () => {
  test('is ended when all answers are out', () =>
    single(async (world, client) => {
      const channel = client.ports.transport.dial('broker-1:9093');
      const told: string[] = [];
      const events = {
        onMessage: ({ correlationId }: { readonly correlationId: number }) =>
          void told.push(String(correlationId)),
        onEnd: (error: RpcError | undefined) => void told.push(error?.status ?? 'end'),
      };
      const topicId = world.topicId('orders');
      const produce = (correlationId: number, acks: number): ProduceRequest =>
        produceRequest({
          correlationId,
          topicId,
          leaderEpoch: -1,
          acks,
          batch: client.batch(values(1)),
        });
      const fetch = (correlationId: number, offset: number): FetchRequest =>
        fetchRequest({
          correlationId,
          maxWaitMs: 200,
          minBytes: 1,
          partitions: [fetchPartition({ topicId, leaderEpoch: -1, offset })],
        });
      const said = async (open: () => void): Promise<string[]> => {
        told.length = 0;
        open();
        const ended = (): boolean => !/\d/.test(told.at(-1) ?? '0');
        await world.world.until('the call has ended', ended, 5000);
        return told;
      };
      const { stream: producing } = ProduceService;
      const { stream: fetching } = FetchService;
      const writes = await said(() => {
        const stream = channel.open(producing, events);
        for (const acks of [-1, 1, 0]) stream.send(produce(acks + 7, acks));
        stream.end();
      });
      expect(writes.toSorted()).toEqual(['6', '8', 'end']);
      expect(await said(() => channel.open(producing, events).end())).toEqual(['end']);
      const reads = await said(() => {
        const stream = channel.open(fetching, events);
        stream.send(fetch(1, 3));
        stream.send(fetch(2, 0));
        stream.end();
      });
      expect(reads).toEqual(['2', '1', 'end']);
      expect(await said(() => channel.open(fetching, events).end())).toEqual(['end']);
      // One that waits for something is given up with its call.
      const waiting = channel.open(fetching, events);
      waiting.send({ ...fetch(3, 3), maxWaitMs: 30_000 });
      waiting.end();
      const { manager } = world.broker(1);
      await world.world.until('it waits', () => manager.status().waitingFetches === 1, 1000);
      waiting.cancel(new RpcError('CANCELLED', 'enough'));
      await world.world.until('it is gone', () => manager.status().waitingFetches === 0, 1000);
    }));
});

describe('a producer id', () => {
  const noMore = { deadlineMs: 1000 };

  test('is given to one caller, whatever is left out of the requests', () =>
    single(async (world, client) => {
      const channel = client.ports.transport.dial('broker-1:9093');
      const ask = (init: Partial<InitProducerIdRequest>): Promise<InitProducerIdResponse> =>
        channel.call(ProduceService.initProducerId, initProducerIdRequest(init), noMore);
      const many = await Promise.all(
        Array.from({ length: 60 }, (_, at) =>
          ask(at % 2 === 0 ? {} : { producerId: -1, producerEpoch: -1 }),
        ),
      );
      const ids = many.map((answer) => answer.producerId);
      expect(new Set(ids).size).toBe(60);
      expect(Math.min(...ids)).toBe(1);
      expect(new Set(many.map(({ producerEpoch }) => producerEpoch))).toEqual(new Set([0]));
      const issued = (): boolean => world.broker(1).image.nextProducerId > 1;
      await world.world.until('the broker knows of the block', issued, 1000);
      const taken = 'INVALID_PRODUCER_EPOCH: producer id 1 is taken';
      const cases: [Partial<InitProducerIdRequest>, string][] = [
        [{ producerId: 1, producerEpoch: 0 }, taken],
        [{ producerId: 1, producerEpoch: 7 }, taken],
        [{ producerId: 1 }, taken],
        [{ producerId: 0, producerEpoch: 0 }, 'UNKNOWN_PRODUCER_ID: producer id 0 has not'],
        [
          { producerId: 9e9, producerEpoch: 3 },
          'UNKNOWN_PRODUCER_ID: producer id 9000000000 has not',
        ],
        [{ producerId: -2, producerEpoch: 0 }, 'UNKNOWN_PRODUCER_ID: producer id -2 has not'],
        [{ producerEpoch: 0 }, 'INVALID_REQUEST: producer epoch 0 without an id'],
      ];
      for (const [init, expected] of cases) expect(await outcomeOf(ask(init))).toContain(expected);
    }));

  test('that nobody was given is not written under', () =>
    single(async (world, client) => {
      const { producerId: given } = await client.producer(1);
      const under = (id: number): Promise<ProduceResponse> =>
        client.produce(
          1,
          'orders',
          client.batch(values(1), {
            producerId: producerId(id),
            producerEpoch: producerEpoch(0),
            baseSequence: 0,
          }),
        );
      const toCome = await under(world.image.nextProducerId);
      expect(code(toCome)).toBe('LEADER_NOT_AVAILABLE');
      expect(toCome.message).toContain('use one from InitProducerId');
      expect(code(await under(0))).toBe('UNKNOWN_PRODUCER_ID');
      expect(world.partition(1, 'orders').logEndOffset).toBe(0);
      expect(await under(given)).toMatchObject({ error: 0, baseOffset: 0 });
    }));
});

describe('a fetch', () => {
  test('waits for something to read, and not longer than it says', () =>
    single(async (world, client) => {
      const started = world.world.nowMs;
      const empty = await client.fetch(1, [{ topic: 'orders' }], { maxWaitMs: 300 });
      expect(empty.partitions).toMatchObject([{ error: 0, highWatermark: 0 }]);
      expect(world.world.nowMs - started).toBeGreaterThan(299);
      const waiting = client.fetch(1, [{ topic: 'orders' }], { maxWaitMs: 5000 });
      await world.world.sleep(50);
      const before = world.world.nowMs;
      await client.produce(1, 'orders', values(1));
      const found = await waiting;
      expect(found.partitions[0]?.batches.length).toBeGreaterThan(0);
      expect(world.world.nowMs - before).toBeLessThan(50);
    }));

  test('waits for as many bytes as it asks for', () =>
    single(async (world, client) => {
      const waiting = client.fetch(1, [{ topic: 'orders' }, { topic: 'orders', partition: 1 }], {
        maxWaitMs: 5000,
        minBytes: 250,
      });
      let done = false;
      void waiting.then(() => (done = true));
      await client.produce(1, 'orders', ['x'.repeat(60)]);
      await world.world.sleep(100);
      expect(done).toBe(false);
      await client.produce(1, 'orders', ['y'.repeat(100)], { partition: 1 });
      const found = await waiting;
      const bytes = found.partitions.reduce((sum, { batches }) => sum + batches.length, 0);
      expect(bytes).toBeGreaterThanOrEqual(250);
    }));

  test('sees nothing above the high watermark', async () => {
    const world = new PartitionWorld();
    await world.run(async () => {
      await world.boot(1, 2);
      world.createTopic('orders', [[1, 2]]);
      const following = (): boolean =>
        world.broker(2).manager.partition(world.topicId('orders'), 0)?.follower?.replica.phase ===
        'following';
      await world.world.until('broker 2 follows', following, 1000);
      const client = await world.client();
      await client.produce(1, 'orders', values(2, 'committed'));
      world.process(2).pause();
      await client.produce(1, 'orders', values(2, 'not'), { acks: 1 });
      expect(world.partition(1, 'orders').logEndOffset).toBe(4);
      expect(await client.values(1, 'orders')).toEqual(values(2, 'committed'));
      const beyond = await client.fetch(1, [{ topic: 'orders', offset: 3 }]);
      expect(beyond.partitions).toMatchObject([{ error: 0, highWatermark: 2 }]);
      expect(beyond.partitions[0]?.batches.length).toBe(0);
    });
  });

  test('gives the first batch even where it is larger than asked for, and keeps to limits else', () =>
    single(async (_, client) => {
      for (let at = 0; at < 3; at++) await client.produce(1, 'orders', ['x'.repeat(5_000)]);
      const one = await client.fetch(1, [{ topic: 'orders', maxBytes: 100 }]);
      expect(one.partitions[0]?.batches.length).toBeGreaterThan(5_000);
      expect(one.partitions[0]?.batches.length).toBeLessThan(6_000);
      const two = await client.fetch(1, [{ topic: 'orders' }], { maxBytes: 11_000 });
      expect(two.partitions[0]?.batches.length).toBeGreaterThan(10_000);
      expect(two.partitions[0]?.batches.length).toBeLessThan(11_000);
    }));

  test('is refused out of range, under other epochs, and elsewhere', () =>
    single(async (_, client) => {
      await client.produce(1, 'orders', values(3));
      const cases: [string, Parameters<TestClient['fetch']>[1][number]][] = [
        ['OFFSET_OUT_OF_RANGE', { topic: 'orders', offset: 4 }],
        ['UNKNOWN_LEADER_EPOCH', { topic: 'orders', leaderEpoch: 3 }],
        ['UNKNOWN_TOPIC_OR_PARTITION', { topic: 'orders', partition: 2 }],
      ];
      for (const [expected, target] of cases) {
        const answer = await client.fetch(1, [target], { maxWaitMs: 1000 });
        expect(answer.partitions.map(code)).toEqual([expected]);
      }
    }));

  test('is woken when its partition is led by another', async () => {
    const world = new PartitionWorld();
    await world.run(async () => {
      await world.boot(1, 2);
      world.createTopic('orders', [[1, 2]]);
      await world.world.until(
        'it is led',
        () => world.broker(1).manager.status().leading === 1,
        1000,
      );
      const client = await world.client();
      const waiting = client.fetch(1, [{ topic: 'orders' }], { maxWaitMs: 20_000 });
      await world.world.sleep(50);
      world.fence(1);
      const answer = await world.world.within('the fetch is answered', 200, waiting);
      expect(answer.partitions.map(code)).toEqual(['NOT_LEADER_OR_FOLLOWER']);
      expect(answer.partitions[0]?.currentLeader?.brokerId).toBe(2);
    });
  });

  test('leaves nothing behind when its caller is gone', () =>
    single(async (world, client) => {
      void client.fetch(1, [{ topic: 'orders' }], { maxWaitMs: 20_000 }).catch(() => undefined);
      const { manager } = world.broker(1);
      await world.world.until('it waits', () => manager.status().waitingFetches === 1, 100);
      world.world.network.breakConnections('client', 'broker-1');
      await world.world.until('it is gone', () => manager.status().waitingFetches === 0, 1000);
    }));
});

test('offsets are listed by time: earliest, latest, and the first at or after one', () =>
  single(async (world, client) => {
    const channel = client.ports.transport.dial('broker-1:9093');
    const list = async (timestampMs: number): Promise<number | string> => {
      const answer = await channel.call(
        FetchService.listOffsets,
        listOffsetsRequest({
          partitions: [
            { topicId: world.topicId('orders'), partition: 0, leaderEpoch: -1, timestampMs },
          ],
        }),
        { deadlineMs: 1000 },
      );
      const [found] = answer.partitions;
      if (found === undefined) return 'nothing';
      return found.error === 0 ? found.offset : code(found);
    };
    const start = client.ports.clock.wallMs();
    for (let at = 0; at < 5; at++) {
      await client.produce(1, 'orders', values(2));
      await world.world.sleep(100);
    }
    expect(await list(-2)).toBe(0);
    expect(await list(-1)).toBe(10);
    expect(await list(start)).toBe(0);
    expect(await list(start + 150)).toBe(4);
    expect(await list(start + 100_000)).toBe(-1);
    expect(await list(-3)).toBe('INVALID_REQUEST');
  }));

test('"latest" is not known before the new leader has committed up to its beginning', async () => {
  const world = new PartitionWorld();
  await world.run(async () => {
    await world.boot(1, 2, 3);
    world.createTopic('orders', [[1, 2, 3]]);
    const following = (): boolean =>
      [2, 3].every(
        (id) =>
          world.broker(id).manager.partition(world.topicId('orders'), 0)?.follower?.replica
            .phase === 'following',
      );
    await world.world.until('they follow', following, 1000);
    const client = await world.client();
    await client.produce(1, 'orders', values(4));
    world.process(3).pause();
    await world.kill(1);
    world.fence(1);
    await world.world.until('2 leads', () => world.broker(2).manager.status().leading === 1, 1000);
    const channel = client.ports.transport.dial('broker-2:9093');
    const latest = async (): Promise<string> => {
      const answer = await channel.call(
        FetchService.listOffsets,
        listOffsetsRequest({
          partitions: [
            { topicId: world.topicId('orders'), partition: 0, leaderEpoch: -1, timestampMs: -1 },
          ],
        }),
        { deadlineMs: 1000 },
      );
      const [found] = answer.partitions;
      return found?.error === 0 ? String(found.offset) : code(found ?? { error: -1 });
    };
    // The watermark that went with the last message to broker 2 was that of before the batch.
    const known = world.partition(2, 'orders').leader?.replica.knowsLatest;
    expect(await latest()).toBe(known === true ? '4' : 'OFFSET_NOT_AVAILABLE');
    world.process(3).resume();
    let seen = '';
    await world.world.until(
      'latest is known',
      () => {
        void latest().then((answer) => (seen = answer));
        return seen === '4';
      },
      2000,
      () => `it is ${seen}`,
    );
  });
});
