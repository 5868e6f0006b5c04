import { describe, expect, test } from 'vitest';
import { ClientError, serializers } from '@relevo/client';
import type { Consumer, Gap, Relevo } from '@relevo/client';
import { BatchBuilder } from '@relevo/record/batch-builder';
import { COMPRESSION_TYPES } from '@relevo/record/compression';
import { crc32c } from '@relevo/record/crc32c';
import { codecs } from '@relevo/runtime/compression';
import { World } from '@relevo/simulation/world';
import { ModelCluster } from './model-cluster.ts';

interface Scene {
  readonly cluster: ModelCluster;
  readonly world: World;
  readonly client: Relevo;
}

/** Runs a scenario on a cluster with the topic "orders". */
function scenario(run: (scene: Scene) => Promise<void>, partitions = 1): () => Promise<void> {
  return async () => {
    const world = new World({ seed: 1, limitMs: 600_000 });
    await world.run(async () => {
      const cluster = new ModelCluster(world);
      cluster.createTopic('orders', partitions);
      await run({ cluster, world, client: await cluster.connect() });
    });
  };
}

/** Writes values as batches of so many records, past the producer. */
function fill(cluster: ModelCluster, count: number, batchOf = 10, partition = 0): void {
  const builder = new BatchBuilder();
  for (let index = 0; index < count; index++) {
    builder.append(`k${index}`, `v${index}`, [['h', Uint8Array.of(index)]], 1000 + index);
    if (builder.count < batchOf && index < count - 1) continue;
    cluster.write('orders', partition, builder.build({}, crc32c));
  }
}

async function take(consumer: Consumer, count: number): Promise<string[]> {
  const values: string[] = [];
  const iterator = consumer[Symbol.asyncIterator]();
  while (values.length < count) {
    const { value, done } = await iterator.next();
    if (done === true) break;
    values.push(String(value.value));
  }
  return values;
}

const numbered = (from: number, to: number): string[] =>
  Array.from({ length: to - from }, (_, index) => `v${from + index}`);

async function failure(promise: Promise<unknown>): Promise<ClientError> {
  try {
    await promise;
  } catch (error) {
    if (error instanceof ClientError) return error;
    throw error;
  }
  throw new Error('it did not reject');
}

describe('where to begin', () => {
  test(
    'earliest, in the middle of a batch, by time',
    scenario(async ({ cluster, client }) => {
      fill(cluster, 35);
      const starts = [
        ['earliest', 0],
        [{ offset: 17 }, 17],
        [{ timestamp: 1023 }, 23],
      ] as const;
      for (const [from, first] of starts) {
        const consumer = client.consumer({ topics: ['orders'], from });
        expect(await take(consumer, 35 - first)).toEqual(numbered(first, 35));
        expect(consumer.position({ topic: 'orders', partition: 0 })).toBe(35);
        await consumer.close();
      }
    }),
  );

  test(
    'latest: what comes after',
    scenario(async ({ cluster, client }) => {
      fill(cluster, 5);
      const consumer = client.consumer({ topics: ['orders'] });
      await consumer.start();
      const next = take(consumer, 2);
      await cluster.world.sleep(50);
      fill(cluster, 2);
      expect(await next).toEqual(['v0', 'v1']);
      expect(consumer.position({ topic: 'orders', partition: 0 })).toBe(7);
    }),
  );

  test(
    'a time after the last record: what comes after',
    scenario(async ({ cluster, client }) => {
      fill(cluster, 5);
      const consumer = client.consumer({ topics: ['orders'], from: { timestamp: 9999 } });
      const next = take(consumer, 1);
      await cluster.world.sleep(50);
      fill(cluster, 1);
      expect(await next).toEqual(['v0']);
    }),
  );

  test(
    'given partitions, each from its own place',
    scenario(async ({ cluster, client }) => {
      fill(cluster, 5, 10, 0);
      fill(cluster, 5, 10, 1);
      const consumer = client.consumer({
        partitions: [
          { topic: 'orders', partition: 0, from: { offset: 3 } },
          { topic: 'orders', partition: 1, from: { offset: 4 } },
        ],
      });
      expect((await take(consumer, 3)).toSorted()).toEqual(['v3', 'v4', 'v4']);
      expect(consumer.assignment().length).toBe(2);
    }, 3),
  );

  test(
    'an unknown topic, partition or option is refused',
    scenario(async ({ client }) => {
      const unknown = client.consumer({ topics: ['oders'] });
      expect((await failure(take(unknown, 1))).message).toContain('known: "orders"');
      const outside = client.consumer({ partitions: [{ topic: 'orders', partition: 9 }] });
      expect((await failure(take(outside, 1))).code).toBe('UNKNOWN_TOPIC_OR_PARTITION');
      expect(() => client.consumer({})).toThrow(/either topics or partitions/);
      expect(() => client.consumer({ topics: ['orders'], from: { offset: -1 } })).toThrow(/offset/);
    }),
  );
});

describe('records', () => {
  test(
    'come with all that they have',
    scenario(async ({ cluster, client }) => {
      fill(cluster, 1);
      const { string } = serializers;
      const options = { topics: ['orders'], from: 'earliest', key: string, value: string } as const;
      for await (const record of client.consumer(options)) {
        expect(record).toEqual({
          topic: 'orders',
          partition: 0,
          offset: 0,
          timestamp: 1000,
          leaderEpoch: 0,
          key: 'k0',
          value: 'v0',
          headers: [['h', Buffer.of(0)]],
        });
        break;
      }
    }),
  );

  // The codecs' work is done beforehand: their threads know nothing of a simulated world's time.
  describe.each(COMPRESSION_TYPES)('packed with %s', (type) => {
    const builder = new BatchBuilder();
    builder.append('caffè', 'paid', [], 1000);
    builder.append('"caffè"', '{"paid":true}', [], 1000);
    const packing = (async () => {
      const packed = await codecs.compress(type, builder.records());
      const batch = builder.build({ compressed: { type, records: packed } }, crc32c);
      return { batch, plain: await codecs.decompress(type, packed, 1 << 20) };
    })();

    test.each(['as the codec gives them', 'in plain bytes'])('are Buffers, %s', async (how) => {
      const { batch, plain } = await packing;
      const given = how === 'in plain bytes' ? Uint8Array.from(plain) : plain;
      const ready = { ...codecs, decompress: () => Promise.resolve(given) };
      await scenario(async ({ cluster }) => {
        const client = await cluster.connect('reader', undefined, ready);
        cluster.write('orders', 0, batch.slice());
        const topic = { topics: ['orders'], from: 'earliest' } as const;
        const plainly = client.consumer(topic);
        for await (const { key, value, offset } of plainly) {
          expect([key, value].every((data) => Buffer.isBuffer(data))).toBe(true);
          expect(String(value)).toBe(offset === 0 ? 'paid' : '{"paid":true}');
          if (offset === 1) break;
        }
        const { string, json } = serializers;
        for await (const { key, value } of client.consumer({
          ...topic,
          key: string,
          value: string,
        })) {
          expect([key, value]).toEqual(['caffè', 'paid']);
          break;
        }
        const second = { partitions: [{ topic: 'orders', partition: 0, from: { offset: 1 } }] };
        const asJson = client.consumer({ ...second, key: json<string>(), value: json<object>() });
        for await (const { key, value } of asJson) {
          expect([key, value]).toEqual(['caffè', { paid: true }]);
          break;
        }
      })();
    });
  });

  test(
    'come by the batch, and as a stream',
    scenario(async ({ cluster, client }) => {
      fill(cluster, 25);
      const byBatch = client.consumer({ topics: ['orders'], from: 'earliest' });
      const sizes: number[] = [];
      for await (const batch of byBatch.batches()) {
        sizes.push(batch.length);
        if (sizes.length === 3) break;
      }
      expect(sizes).toEqual([10, 10, 5]);
      const values: string[] = [];
      const stream = client.consumer({ topics: ['orders'], from: 'earliest' }).stream();
      for await (const record of stream) {
        values.push(String((record as { value: Buffer }).value));
        if (values.length === 25) break;
      }
      expect(values).toEqual(numbered(0, 25));
    }),
  );

  test(
    'that a deserializer refuses stop the reading until one seeks past them',
    scenario(async ({ cluster, client }) => {
      fill(cluster, 3);
      const consumer = client.consumer({
        topics: ['orders'],
        from: 'earliest',
        value: {
          serialize: () => null,
          deserialize: (data: Buffer | null) => {
            if (String(data) === 'v1') throw new Error('no');
            return String(data);
          },
        },
      });
      const iterator = consumer[Symbol.asyncIterator]();
      expect((await iterator.next()).value?.value).toBe('v0');
      for (const _ of [1, 2]) {
        const error = await failure(iterator.next());
        expect(error.code).toBe('SERIALIZATION_FAILED');
        expect(error.message).toContain('orders-0 at offset 1');
      }
      await consumer.seek({ topic: 'orders', partition: 0, offset: 2 });
      expect((await iterator.next()).value?.value).toBe('v2');
    }),
  );

  test(
    'that are corrupt are an error, never a gap',
    scenario(async ({ cluster, client }) => {
      fill(cluster, 30);
      const [, second] = cluster.partition('orders', 0).batches;
      if (second !== undefined) second[70] = (second[70] ?? 0) ^ 1;
      const consumer = client.consumer({ topics: ['orders'], from: 'earliest' });
      expect(await take(consumer, 10)).toEqual(numbered(0, 10));
      for (const _ of [1, 2]) {
        const error = await failure(take(consumer, 1));
        expect(error.code).toBe('CORRUPT_RECORDS');
        expect(error.message).toContain('orders-0 at offset 10');
      }
      expect(told(cluster)).toEqual([10, 10, 10, 10, 10]);
      await consumer.seek({ topic: 'orders', partition: 0, offset: 20 });
      expect(await take(consumer, 10)).toEqual(numbered(20, 30));
    }),
  );

  test(
    'that arrive damaged are fetched anew, and the leader is told',
    scenario(async ({ cluster, world, client }) => {
      fill(cluster, 30);
      const [, second] = cluster.partition('orders', 0).batches;
      const flip = (): void => {
        if (second !== undefined) second[70] = (second[70] ?? 0) ^ 1;
      };
      flip();
      const consumer = client.consumer({ topics: ['orders'], from: 'earliest' });
      const all = take(consumer, 30);
      await world.until('the leader is told', () => told(cluster).length > 0, 5_000);
      flip();
      expect(await all).toEqual(numbered(0, 30));
      expect(new Set(told(cluster))).toEqual(new Set([10]));
    }),
  );
});

/** From which offsets on a consumer said that what it was sent was damaged. */
const told = (cluster: ModelCluster): number[] =>
  cluster.brokers.flatMap(({ fetchRequests }) =>
    fetchRequests.flatMap(({ partitions }) =>
      partitions.filter(({ damaged }) => damaged).map(({ offset }) => offset),
    ),
  );

describe('control', () => {
  test(
    'seek goes back and forth, also with records read ahead',
    scenario(async ({ cluster, client }) => {
      fill(cluster, 100);
      const consumer = client.consumer({ topics: ['orders'], from: 'earliest' });
      expect(await take(consumer, 15)).toEqual(numbered(0, 15));
      await consumer.seek({ topic: 'orders', partition: 0, offset: 3 });
      expect(await take(consumer, 4)).toEqual(numbered(3, 7));
      await consumer.seek({ topic: 'orders', partition: 0, offset: 95 });
      expect(await take(consumer, 5)).toEqual(numbered(95, 100));
      expect(consumer.lag({ topic: 'orders', partition: 0 })).toBe(0);
    }),
  );

  test(
    'a paused partition gives nothing and is not fetched',
    scenario(async ({ cluster, world, client }) => {
      fill(cluster, 5, 10, 0);
      fill(cluster, 5, 10, 1);
      const consumer = client.consumer({ topics: ['orders'], from: 'earliest' });
      await consumer.start();
      const paused = [{ topic: 'orders', partition: 0 }];
      consumer.pause(paused);
      expect(await take(consumer, 5)).toEqual(numbered(0, 5));
      const pending = take(consumer, 5);
      await world.sleep(2_000);
      expect(consumer.position({ topic: 'orders', partition: 0 })).toBe(0);
      consumer.resume(paused);
      expect(await pending).toEqual(numbered(0, 5));
    }, 2),
  );

  test(
    'offsets for a time',
    scenario(async ({ cluster, client }) => {
      fill(cluster, 5, 10, 0);
      const consumer = client.consumer({ topics: ['orders'], from: 'earliest' });
      expect(await consumer.offsetsForTimestamp(1003)).toEqual([
        { topic: 'orders', partition: 0, offset: 3 },
        { topic: 'orders', partition: 1, offset: undefined },
      ]);
    }, 2),
  );

  test(
    'a signal ends the reading with an error, close without',
    scenario(async ({ world, client }) => {
      const abort = new AbortController();
      const aborted = client.consumer({ topics: ['orders'], signal: abort.signal });
      const reading = failure(take(aborted, 1));
      await world.sleep(20);
      abort.abort();
      expect((await reading).code).toBe('ABORTED');
      const closed = client.consumer({ topics: ['orders'] });
      const ending = take(closed, 1);
      await world.sleep(20);
      await closed.close();
      expect(await ending).toEqual([]);
    }),
  );
});

describe('the buffer', () => {
  test(
    'bounds what is fetched ahead, and the next fetch does not wait for the reader',
    scenario(async ({ cluster, world, client }) => {
      const big = new BatchBuilder();
      for (let i = 0; i < 40; i++) {
        big.append(null, 'x'.repeat(60_000), [], 1000);
        cluster.write('orders', 0, big.build({}, crc32c));
      }
      const consumer = client.consumer({
        topics: ['orders'],
        from: 'earliest',
        bufferBytes: 600_000,
        fetchBytes: 130_000,
      });
      await take(consumer, 1);
      await world.sleep(100);
      const fetched = cluster.brokers[0]?.fetchRequests.length ?? 0;
      expect(fetched).toBeGreaterThanOrEqual(5);
      expect(fetched).toBeLessThanOrEqual(7);
      expect((await take(consumer, 39)).length).toBe(39);
    }),
  );

  test(
    'quiet partitions share one request per broker',
    scenario(async ({ cluster, world, client }) => {
      const consumer = client.consumer({ topics: ['orders'], from: 'earliest' });
      const reading = take(consumer, 60);
      await world.sleep(100);
      for (let partition = 0; partition < 60; partition++) {
        fill(cluster, 1, 1, partition);
        await world.sleep(7);
      }
      await reading;
      await world.sleep(3_000);
      const [broker] = cluster.brokers;
      const before = broker?.fetchRequests.length ?? 0;
      await world.sleep(2_000);
      const after = broker?.fetchRequests.slice(before) ?? [];
      expect(after.length).toBeLessThanOrEqual(5);
      expect(after.every(({ partitions }) => partitions.length === 20)).toBe(true);
    }, 60),
  );
});

describe('a changing cluster', () => {
  test(
    'a new leader is followed at once, also from one that is frozen',
    scenario(async ({ cluster, world }) => {
      const client = await cluster.connect('second', ['broker-2:9093']);
      fill(cluster, 10);
      const consumer = client.consumer({ topics: ['orders'], from: 'earliest' });
      await take(consumer, 10);
      cluster.brokers[0]?.pause();
      cluster.move(cluster.partition('orders', 0), 2);
      await world.sleep(10);
      const startMs = world.nowMs;
      const reading = take(consumer, 1);
      fill(cluster, 1);
      await reading;
      expect(world.nowMs - startMs).toBeLessThan(20);
    }),
  );

  test(
    'new partitions are read from their beginning',
    scenario(async ({ cluster, world, client }) => {
      const consumer = client.consumer({ topics: ['orders'] });
      await consumer.start();
      const topic = cluster.topics.get('orders');
      if (topic !== undefined) cluster.addPartitions(topic, 3);
      fill(cluster, 4, 10, 2);
      await world.sleep(50);
      expect(await take(consumer, 4)).toEqual(numbered(0, 4));
    }),
  );

  test(
    'a deleted topic ends the reading with an error',
    scenario(async ({ cluster, world, client }) => {
      const consumer = client.consumer({ topics: ['orders'] });
      const reading = failure(take(consumer, 1));
      await world.sleep(50);
      cluster.deleteTopic('orders');
      expect((await reading).message).toContain('was deleted');
    }),
  );

  test(
    'an offset that is out of range is an error, or a gap that is told',
    scenario(async ({ cluster, client }) => {
      fill(cluster, 100);
      const topics = ['orders'];
      const from = { offset: 20 };
      cluster.partition('orders', 0).startOffset = 40;
      const strict = client.consumer({ topics, from });
      const error = await failure(take(strict, 1));
      expect(error.code).toBe('OFFSET_OUT_OF_RANGE');
      expect(error.message).toContain('offset 20 is not in the log, which has 40 to 100');
      const gaps: Gap[] = [];
      const onGap = (gap: Gap): number => gaps.push(gap);
      const earliest = client.consumer({ topics, from, onOutOfRange: 'earliest', onGap });
      expect(await take(earliest, 2)).toEqual(['v40', 'v41']);
      const latest = client.consumer({ topics, from, onOutOfRange: 'latest', onGap });
      const next = take(latest, 1);
      await cluster.world.sleep(50);
      fill(cluster, 1);
      expect(await next).toEqual(['v0']);
      expect(gaps).toEqual([
        { topic: 'orders', partition: 0, from: 20, to: 40 },
        { topic: 'orders', partition: 0, from: 20, to: 100 },
      ]);
    }),
  );
});

describe('before the first read', () => {
  const [p0, p1] = [0, 1].map((partition) => ({ topic: 'orders', partition }));

  test(
    'a seek starts the consumer',
    scenario(async ({ cluster, client }) => {
      fill(cluster, 30);
      for (const how of [
        { topics: ['orders'] },
        { partitions: [{ topic: 'orders', partition: 0 }] },
      ]) {
        const consumer = client.consumer({ ...how, from: 'earliest' });
        expect(consumer.position({ topic: 'orders', partition: 0 })).toBe(undefined);
        expect(consumer.lag({ topic: 'orders', partition: 0 })).toBe(undefined);
        await consumer.seek({ topic: 'orders', partition: 0, offset: 17 });
        expect(await take(consumer, 3)).toEqual(numbered(17, 20));
        await consumer.close();
      }
      const notAwaited = client.consumer({ topics: ['orders'], from: 'earliest' });
      void notAwaited.seek({ topic: 'orders', partition: 0, offset: 21 });
      expect(await take(notAwaited, 1)).toEqual(['v21']);
    }),
  );

  test(
    'pause and resume hold from the start on',
    scenario(async ({ cluster, client, world }) => {
      fill(cluster, 2, 10, 0);
      fill(cluster, 3, 10, 1);
      const topics = { topics: ['orders'], from: 'earliest' } as const;
      if (p0 === undefined || p1 === undefined) throw new Error('no partitions');
      const one = client.consumer(topics);
      one.pause([p0, p1]);
      one.resume([p1]);
      expect(await take(one, 3)).toEqual(['v0', 'v1', 'v2']);
      const rest = take(one, 2);
      await world.sleep(2_000);
      expect(one.position(p0)).toBe(0);
      one.resume([p0]);
      expect(await rest).toEqual(['v0', 'v1']);

      const other = client.consumer(topics);
      other.pause();
      other.resume([p1]);
      expect((await take(other, 3)).length).toBe(3);
      await world.sleep(2_000);
      expect([other.position(p0), other.position(p1)]).toEqual([0, 3]);
    }, 2),
  );

  test(
    'what is not read is refused, at once or by the start',
    scenario(async ({ cluster, client }) => {
      fill(cluster, 1);
      const consumer = client.consumer({ topics: ['orders'], from: 'earliest' });
      const pause = (topic: string, partition: number): void =>
        consumer.pause([{ topic, partition }]);
      expect(() => pause('others', 0)).toThrow(/does not read others-0/);
      pause('orders', 7);
      expect((await failure(consumer.start())).message).toContain('no such partition');
      expect(await take(consumer, 1)).toEqual(['v0']);
      expect(() => pause('orders', 7)).toThrow(/does not read orders-7/);
    }),
  );
});
