/** Compressed batches: unpacked and checked before they are appended, and never overtaken. */
import { gzipSync } from 'node:zlib';
import { errorCodeOf } from '@relevo/base/errors';
import type { CompressionCodecs } from '@relevo/record/compression';
import type { ProduceResponse } from '@relevo/rpc/gen/client/produce';
import { simulatedCodecs } from '@relevo/simulation/simulated-codecs';
import { describe, expect, test } from 'vitest';
import { PartitionWorld } from './partition-world.ts';
import type { TestClient } from './partition-world.ts';

const values = (count: number, prefix = 'v'): string[] =>
  Array.from({ length: count }, (_, at) => `${prefix}${at}`);
const code = (answer: { readonly error: number }): string => errorCodeOf(answer.error);

/** Unpacks when it is told to, or after a while of the world's own choice. */
class SlowCodecs implements Pick<CompressionCodecs, 'decompress'> {
  wait: () => Promise<void> = () => Promise.resolve();
  started = 0;
  under = 0;
  mostUnder = 0;

  async decompress(...args: Parameters<CompressionCodecs['decompress']>): Promise<Uint8Array> {
    this.started++;
    this.mostUnder = Math.max(this.mostUnder, ++this.under);
    await this.wait();
    this.under--;
    return simulatedCodecs.decompress(...args);
  }

  /** Holds back what comes from now on until the returned function is called. */
  hold(): () => void {
    let release = (): void => undefined;
    const held = new Promise<void>((resolve) => (release = resolve));
    this.wait = () => held;
    return release;
  }
}

type Scenario = (world: PartitionWorld, client: TestClient, codecs: SlowCodecs) => Promise<void>;

/** Broker 1 leads the two partitions of "orders"; with a second broker, that follows. */
async function scene(scenario: Scenario, brokers: readonly number[] = [1]): Promise<void> {
  const codecs = new SlowCodecs();
  const world = new PartitionWorld(1, {}, codecs);
  await world.run(async () => {
    await world.boot(...brokers);
    world.createTopic('orders', [brokers, brokers]);
    const isReady = (): boolean =>
      world.broker(1).manager.status().leading === 2 &&
      (brokers.length < 2 || world.state('orders').isr.length === 2);
    await world.world.until('broker 1 leads', isReady, 1000);
    await scenario(world, await world.client(), codecs);
  });
}

test.each<[string, string, (client: TestClient) => Uint8Array]>([
  [
    'no gzip at all',
    'CORRUPT_MESSAGE',
    (client) => client.packedBatch(values(1), {}, () => Buffer.from('this is not gzip at all')),
  ],
  [
    'fewer records than it says',
    'INVALID_RECORD',
    (client) => {
      const one = gzipSync(client.batch(['a']).subarray(61));
      return client.packedBatch(values(100), {}, () => one);
    },
  ],
  [
    'more records than it says',
    'INVALID_RECORD',
    (client) => {
      const many = gzipSync(client.batch(values(100)).subarray(61));
      return client.packedBatch(['a'], {}, () => many);
    },
  ],
  [
    'a record whose length lies',
    'INVALID_RECORD',
    (client) =>
      client.packedBatch(values(20_000), {}, (records) => {
        const copy = records.slice();
        copy[copy.lastIndexOf(0) - 8] = 126;
        return gzipSync(copy);
      }),
  ],
  [
    'a bomb',
    'MESSAGE_TOO_LARGE',
    (client) => client.packedBatch(['a'], {}, () => gzipSync(Buffer.alloc((64 << 20) + 1))),
  ],
])('%s is refused with %s, and appends nothing', (_name, expected, make) =>
  scene(async (world, client) => {
    const answer = await client.produce(1, 'orders', make(client));
    expect([code(answer), answer.baseOffset]).toEqual([expected, -1]);
    expect(answer.message).toContain('orders-0: the batch is refused');
    expect(world.partition(1, 'orders').logEndOffset).toBe(0);
    expect(world.broker(1).manager.status().inHandBytes).toBe(0);
    // More records than are walked over in one turn.
    const good = values(25_000);
    expect(code(await client.produce(1, 'orders', client.packedBatch(good)))).toBe('NONE');
    expect(world.partition(1, 'orders').logEndOffset).toBe(good.length);
  }),
);

describe('while a batch is unpacked', () => {
  test('those of its producer that come after it keep their places, packed or not', () =>
    scene(async (world, client, codecs) => {
      const { prng } = world.world;
      const producer = await client.producer(1);
      codecs.wait = () => world.world.sleep(prng.between(0, 30));
      const sent: Promise<ProduceResponse>[] = [];
      for (let sequence = 0; sequence < 200; sequence += 2) {
        const options = { ...producer, baseSequence: sequence };
        const isPacked = prng.float() < 0.5;
        const two = [`v${sequence}`, `v${sequence + 1}`];
        const batch = isPacked ? client.packedBatch(two, options) : client.batch(two, options);
        sent.push(client.produce(1, 'orders', batch));
        if (sequence % 20 === 0) await world.world.sleep(prng.between(0, 20));
      }
      const answers = await Promise.all(sent);
      expect(answers.map(({ error, baseOffset }) => [error, baseOffset])).toEqual(
        answers.map((_, at) => [0, at * 2]),
      );
      expect(await client.values(1, 'orders')).toEqual(values(200));
      expect(codecs.mostUnder).toBe(2);
      expect(world.broker(1).manager.status().inHandBytes).toBe(0);
    }));

  test('a refused one lets those after it meet the hole, and others go on', () =>
    scene(async (_world, client, codecs) => {
      const producer = await client.producer(1);
      const release = codecs.hold();
      const at = (baseSequence: number): typeof producer & { baseSequence: number } => ({
        ...producer,
        baseSequence,
      });
      const garbage = client.packedBatch(['b'], at(1), () => Buffer.from('garbage'));
      const answers = [
        client.produce(1, 'orders', client.packedBatch(['a'], at(0))),
        client.produce(1, 'orders', garbage),
        client.produce(1, 'orders', client.batch(['c'], at(2))),
        client.produce(1, 'orders', ['nobody']),
      ];
      const other = await client.produce(1, 'orders', ['other'], { partition: 1 });
      expect(code(other)).toBe('NONE');
      release();
      expect((await Promise.all(answers)).map(code)).toEqual([
        'NONE',
        'CORRUPT_MESSAGE',
        'OUT_OF_ORDER_SEQUENCE_NUMBER',
        'NONE',
      ]);
      expect(await client.values(1, 'orders')).toEqual(['a', 'nobody']);
    }));

  test('leadership may be lost: it is not appended', () =>
    scene(
      async (world, client, codecs) => {
        const release = codecs.hold();
        const waiting = [
          client.produce(1, 'orders', client.packedBatch(['a'])),
          client.produce(1, 'orders', ['b']),
        ];
        await world.world.sleep(20);
        world.fence(1);
        await world.world.sleep(20);
        release();
        for (const answer of await Promise.all(waiting)) {
          expect(code(answer)).toBe('NOT_LEADER_OR_FOLLOWER');
          expect(answer.currentLeader).toMatchObject({ brokerId: 2, leaderEpoch: 1 });
        }
        expect(world.partition(1, 'orders').logEndOffset).toBe(0);
      },
      [1, 2],
    ));

  test('the lease may run out, and replicas fall out: it is not appended', () =>
    scene(
      async (world, client, codecs) => {
        const release = codecs.hold();
        const waiting = client.produce(1, 'orders', client.packedBatch(['a']));
        await world.world.sleep(20);
        world.broker(1).leaseValid = false;
        release();
        expect(code(await waiting)).toBe('LEADER_NOT_AVAILABLE');
        expect(world.partition(1, 'orders').logEndOffset).toBe(0);
      },
      [1, 2],
    ));

  test('the broker may stop: all that wait are told', () =>
    scene(async (world, client, codecs) => {
      codecs.hold();
      const waiting = [
        ...Array.from({ length: 4 }, () => client.produce(1, 'orders', client.packedBatch(['a']))),
        client.produce(1, 'orders', ['b']),
      ];
      await world.world.sleep(20);
      expect(codecs.started).toBe(2);
      await world.broker(1).manager.close();
      for (const answer of await Promise.all(waiting)) {
        expect(code(answer)).toBe('SHUTTING_DOWN');
        expect(answer.message).toContain('nothing was written');
      }
      expect(world.broker(1).manager.status().inHandBytes).toBe(0);
    }));

  test('time may run out: the next has its turn', () =>
    scene(async (world, client, codecs) => {
      codecs.hold();
      const stuck = client.produce(1, 'orders', client.packedBatch(['a']), { timeoutMs: 700 });
      const next = client.produce(1, 'orders', ['b'], { timeoutMs: 5000 });
      const answer = await stuck;
      expect(code(answer)).toBe('REQUEST_TIMED_OUT');
      expect(answer.message).toContain('nothing was written');
      expect(code(await next)).toBe('NONE');
      expect(await client.values(1, 'orders')).toEqual(['b']);
      expect(world.broker(1).manager.status().inHandBytes).toBe(0);
    }));
});
