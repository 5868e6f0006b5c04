import { describe, expect, test } from 'vitest';
import { ClientError } from '@relevo/client';
import type { Delivery, Receipt } from '@relevo/client';
import { readBatchHeader } from '@relevo/record/batch-header';
import { decodeRecords } from '@relevo/record/records';
import { World } from '@relevo/simulation/world';
import { ModelCluster } from './model-cluster.ts';

/** Runs a scenario on a cluster with the topic "orders". */
function scenario(
  run: (cluster: ModelCluster, world: World) => Promise<void>,
  partitions = 1,
): () => Promise<void> {
  return async () => {
    const world = new World({ seed: 1, limitMs: 600_000 });
    await world.run(async () => {
      const cluster = new ModelCluster(world);
      cluster.createTopic('orders', partitions);
      await run(cluster, world);
    });
  };
}

/** The error that the promise rejects with. */
async function failure(promise: Promise<unknown>): Promise<ClientError> {
  try {
    await promise;
  } catch (error) {
    if (error instanceof ClientError) return error;
    throw error;
  }
  throw new Error('it did not reject');
}

describe('send', () => {
  test(
    'resolves with where the record is',
    scenario(async (cluster) => {
      const client = await cluster.connect();
      const producer = client.producer();
      const receipts = await Promise.all(
        ['a', 'b', 'c'].map((value) => producer.send({ topic: 'orders', key: 'k', value })),
      );
      expect(receipts.map(({ offset }) => offset)).toEqual([0, 1, 2]);
      expect(receipts[0]).toMatchObject({ topic: 'orders', partition: 0, syncedOn: [1, 2, 3] });
      expect(cluster.values('orders', 0)).toEqual(['a', 'b', 'c']);
      expect(cluster.produceRequests.length).toBe(1);
      await client.close();
    }),
  );

  test(
    'puts keys where Kafka puts them, and keyless records together',
    scenario(async (cluster) => {
      const client = await cluster.connect();
      const producer = client.producer();
      const keyed = await Promise.all(
        ['foobar', '21', 'abc'].map((key) => producer.send({ topic: 'orders', key, value: key })),
      );
      const hashes = [-790332482, -973932308, 479470107];
      expect(keyed.map(({ partition }) => partition)).toEqual(
        hashes.map((hash) => (hash & 0x7fffffff) % 6),
      );
      const loose = await Promise.all(
        Array.from({ length: 50 }, () => producer.send({ topic: 'orders', value: 'x' })),
      );
      expect(new Set(loose.map(({ partition }) => partition)).size).toBe(1);
    }, 6),
  );

  test(
    'lingers, and not longer than told',
    scenario(async (cluster, world) => {
      const client = await cluster.connect();
      const producer = client.producer({ lingerMs: 50 });
      await producer.send({ topic: 'orders', value: 'warm' });
      const startMs = world.nowMs;
      const first = producer.send({ topic: 'orders', value: 'a' });
      await world.sleep(30);
      const second = producer.send({ topic: 'orders', value: 'b' });
      await Promise.all([first, second]);
      expect(world.nowMs - startMs).toBeGreaterThan(45);
      expect(world.nowMs - startMs).toBeLessThan(60);
      expect(cluster.produceRequests.length).toBe(2);
    }),
  );

  test(
    'refuses what cannot be sent',
    scenario(async (cluster) => {
      const client = await cluster.connect();
      const producer = client.producer();
      const send = (record: object): Promise<ClientError> =>
        failure(producer.send(record as Parameters<typeof producer.send>[0]));
      expect((await send({ topic: 'ordres', value: '' })).message).toContain('known: "orders"');
      expect((await send({ topic: 'orders', value: 'x'.repeat(2 << 20) })).code).toBe(
        'MESSAGE_TOO_LARGE',
      );
      expect((await send({ topic: 'orders', value: 5 })).code).toBe('SERIALIZATION_FAILED');
      expect((await send({ topic: 'orders', value: '', partition: 7 })).code).toBe(
        'UNKNOWN_TOPIC_OR_PARTITION',
      );
      expect((await send({ topic: 'orders', value: '', timestamp: 1.5 })).code).toBe(
        'INVALID_ARGUMENT',
      );
      await client.close();
      expect((await send({ topic: 'orders', value: '' })).code).toBe('CLOSED');
      expect(cluster.values('orders', 0)).toEqual([]);
    }),
  );

  test(
    'waits while the buffer is full',
    scenario(async (cluster) => {
      const client = await cluster.connect();
      const producer = client.producer({ bufferBytes: 4096, batchBytes: 1024, lingerMs: 1000 });
      const value = 'x'.repeat(300);
      const sends = Array.from({ length: 100 }, (_, i) =>
        producer.send({ topic: 'orders', value: `${i}${value}` }),
      );
      let most = 0;
      for (const send of sends) {
        most = Math.max(most, producer.bufferedBytes);
        await send;
      }
      expect(most).toBeLessThanOrEqual(4096 + 400);
      expect(cluster.values('orders', 0).map((text) => parseInt(text, 10))).toEqual(
        Array.from({ length: 100 }, (_, i) => i),
      );
    }),
  );

  test(
    'can be aborted, and says whether the record may be written',
    scenario(async (cluster) => {
      const client = await cluster.connect();
      const producer = client.producer({ lingerMs: 20 });
      await producer.send({ topic: 'orders', value: 'first' });
      const abort = new AbortController();
      const send = producer.send({ topic: 'orders', value: 'second' }, { signal: abort.signal });
      abort.abort();
      expect(await failure(send)).toMatchObject({ code: 'ABORTED', outcomeUnknown: true });
      const early = producer.send({ topic: 'orders', value: 'third' }, { signal: abort.signal });
      expect(await failure(early)).toMatchObject({ code: 'ABORTED', outcomeUnknown: false });
      await producer.flush();
      expect(cluster.values('orders', 0)).toEqual(['first', 'second']);
    }),
  );

  test.each(['leader', 'none'] as const)('works with acks "%s"', (acks) =>
    scenario(async (cluster) => {
      const client = await cluster.connect();
      const producer = client.producer({ acks });
      const receipt = await producer.send({ topic: 'orders', value: 'a' });
      expect(receipt.offset).toBe(acks === 'none' ? -1 : 0);
      await client.close();
      expect(cluster.values('orders', 0)).toEqual(['a']);
      const [request] = cluster.produceRequests;
      expect(readBatchHeader(request?.batch ?? new Uint8Array()).producerId).toBe(-1);
    })(),
  );

  test(
    'compresses',
    scenario(async (cluster) => {
      const client = await cluster.connect();
      const producer = client.producer({ compression: 'gzip' });
      const value = 'the same again and again, '.repeat(40);
      await Promise.all([
        producer.send({ topic: 'orders', value }),
        producer.send({ topic: 'orders', value }),
      ]);
      const batch = cluster.partition('orders', 0).batches[0] ?? new Uint8Array();
      expect(readBatchHeader(batch)).toMatchObject({ compression: 'gzip', recordCount: 2 });
      expect(batch.length).toBeLessThan(value.length / 2);
      const consumer = client.consumer({ topics: ['orders'], from: 'earliest' });
      for await (const record of consumer) {
        expect(String(record.value)).toBe(value);
        if (record.offset === 1) break;
      }
    }),
  );
});

describe('enqueue', () => {
  test(
    'reports by batch, and tells when to wait',
    scenario(async (cluster) => {
      const client = await cluster.connect();
      const deliveries: Delivery[] = [];
      const producer = client.producer({
        bufferBytes: 8192,
        batchBytes: 1024,
        onDelivery: (delivery) => deliveries.push(delivery),
      });
      let waits = 0;
      for (let i = 0; i < 500; i++) {
        if (producer.enqueue({ topic: 'orders', value: `${i}-${'x'.repeat(100)}` })) continue;
        waits++;
        await producer.drained();
      }
      await producer.flush();
      expect(waits).toBeGreaterThan(3);
      expect(deliveries.every(({ error }) => error === undefined)).toBe(true);
      expect(deliveries.reduce((sum, { recordCount }) => sum + recordCount, 0)).toBe(500);
      expect(cluster.values('orders', 0).map((text) => parseInt(text, 10))).toEqual(
        Array.from({ length: 500 }, (_, i) => i),
      );
    }),
  );

  test(
    'refuses those who do not wait',
    scenario(async (cluster) => {
      const client = await cluster.connect();
      const producer = client.producer({
        bufferBytes: 8192,
        batchBytes: 1024,
        onDelivery: () => {},
      });
      const flood = (): void => {
        for (let i = 0; i < 1000; i++)
          producer.enqueue({ topic: 'orders', value: 'x'.repeat(100) });
      };
      expect(flood).toThrow(/await drained/);
      expect(() => client.producer().enqueue({ topic: 'orders', value: null })).toThrow(
        /onDelivery/,
      );
    }),
  );
});

describe('a failing cluster', () => {
  test(
    'a killed leader: what was under way goes to the next one, once and in order',
    scenario(async (cluster, world) => {
      const client = await cluster.connect();
      const producer = client.producer({ lingerMs: 0 });
      await producer.send({ topic: 'orders', value: 'warm' });
      cluster.faults.loseAnswer = () => true;
      const sends: Promise<Receipt>[] = [];
      for (let i = 0; i < 5; i++) {
        sends.push(producer.send({ topic: 'orders', value: `v${i}` }));
        await world.sleep(2);
      }
      cluster.faults = {};
      const [broker] = cluster.brokers;
      await broker?.kill();
      await world.sleep(20);
      cluster.moveAllFrom(1);
      const movedMs = world.nowMs;
      const receipts = await Promise.all(sends);
      expect(world.nowMs - movedMs).toBeLessThan(30);
      expect(receipts.map(({ offset }) => offset)).toEqual([1, 2, 3, 4, 5]);
      expect(cluster.values('orders', 0)).toEqual(['warm', 'v0', 'v1', 'v2', 'v3', 'v4']);
    }),
  );

  test(
    'a broker that comes back is used as soon as it is told of, whatever backoff there was',
    scenario(async (cluster, world) => {
      const client = await cluster.connect('client', ['broker-2:9093', 'broker-3:9093']);
      const producer = client.producer({ lingerMs: 0 });
      await producer.send({ topic: 'orders', value: 'warm' });
      const [broker] = cluster.brokers;
      await broker?.kill();
      const send = producer.send({ topic: 'orders', value: 'a' });
      for (const waitMs of [1_900, 1_950, 2_010]) {
        await world.sleep(waitMs);
        broker?.boot();
        cluster.move(cluster.partition('orders', 0), 1);
        const backMs = world.nowMs;
        await producer.send({ topic: 'orders', value: 'b' });
        expect(world.nowMs - backMs).toBeLessThan(40);
        await broker?.kill();
      }
      expect((await send).offset).toBe(1);
    }),
  );

  test(
    'a frozen leader: its batches go to the new one without waiting for it',
    scenario(async (cluster, world) => {
      const client = await cluster.connect('client', ['broker-2:9093', 'broker-3:9093']);
      const producer = client.producer({ lingerMs: 0 });
      await producer.send({ topic: 'orders', value: 'warm' });
      cluster.brokers[0]?.pause();
      const sends = ['a', 'b', 'c'].map((value) => producer.send({ topic: 'orders', value }));
      await world.sleep(300);
      cluster.move(cluster.partition('orders', 0), 2);
      const movedMs = world.nowMs;
      await Promise.all(sends);
      expect(world.nowMs - movedMs).toBeLessThan(1_500);
      cluster.brokers[0]?.resume();
      await world.sleep(200);
      expect(cluster.values('orders', 0)).toEqual(['warm', 'a', 'b', 'c']);
    }),
  );

  test(
    'a leader that moved is found by the hint in the error',
    scenario(async (cluster, world) => {
      const client = await cluster.connect();
      const producer = client.producer({ lingerMs: 0 });
      await producer.send({ topic: 'orders', value: 'warm' });
      cluster.move(cluster.partition('orders', 0), 3);
      const startMs = world.nowMs;
      await producer.send({ topic: 'orders', value: 'a' });
      expect(world.nowMs - startMs).toBeLessThan(30);
      expect(cluster.values('orders', 0)).toEqual(['warm', 'a']);
    }),
  );

  test.each([
    ['DISK_FULL', /DISK_FULL: refused with DISK_FULL; make room/],
    ['NOT_ENOUGH_REPLICAS', /NOT_ENOUGH_REPLICAS: refused .*; bring brokers back/],
    ['UNKNOWN_LEADER_EPOCH', /UNKNOWN_LEADER_EPOCH: refused .*; send again later/],
  ] as const)('the delivery deadline names what the broker said last: %s', (code, words) =>
    scenario(async (cluster) => {
      const client = await cluster.connect();
      const options = {
        deliveryTimeoutMs: 2_000,
        lingerMs: 0,
        bufferBytes: 1024,
        batchBytes: 1024,
      };
      const producer = client.producer(options);
      const value = 'x'.repeat(600);
      await producer.send({ topic: 'orders', value });
      cluster.faults.refuse = () => code;
      const buffered = failure(producer.send({ topic: 'orders', value }));
      const waiting = failure(producer.send({ topic: 'orders', value }));
      for (const error of await Promise.all([buffered, waiting])) {
        expect(error).toMatchObject({ code: 'DELIVERY_TIMED_OUT', outcomeUnknown: false });
        expect(error.message).toMatch(words);
      }
    })(),
  );

  test(
    'the delivery deadline says that no leader is known, or that none answers',
    scenario(async (cluster) => {
      const client = await cluster.connect();
      const producer = client.producer({ deliveryTimeoutMs: 2_000, lingerMs: 0 });
      await producer.send({ topic: 'orders', value: 'warm' });
      cluster.faults.loseAnswer = () => true;
      const silent = await failure(producer.send({ topic: 'orders', value: 'a' }));
      expect(silent.message).toContain('the leader gave no answer');
      cluster.faults = {};
      cluster.move(cluster.partition('orders', 0), -1);
      const leaderless = await failure(producer.send({ topic: 'orders', value: 'b' }));
      expect(leaderless.message).toMatch(/LEADER_NOT_AVAILABLE.*bring back a broker/);
    }),
  );

  test(
    'the delivery deadline says whether the record may be in the log',
    scenario(async (cluster, world) => {
      const client = await cluster.connect();
      const producer = client.producer({ deliveryTimeoutMs: 3_000, lingerMs: 0, maxInFlight: 1 });
      await producer.send({ topic: 'orders', value: 'warm' });
      cluster.faults.loseAnswer = () => true;
      const sent = failure(producer.send({ topic: 'orders', value: 'sent' }));
      await world.sleep(10);
      const unsent = failure(producer.send({ topic: 'orders', value: 'unsent' }));
      expect(await sent).toMatchObject({ code: 'DELIVERY_TIMED_OUT', outcomeUnknown: true });
      expect((await sent).message).toContain('unknown');
      cluster.faults = { refuse: () => 'NOT_ENOUGH_REPLICAS' };
      expect((await unsent).code).toBe('DELIVERY_TIMED_OUT');
      cluster.faults = {};
      // The record after a hole goes out under a new epoch; nothing is lost, doubled or reordered.
      const receipt = await producer.send({ topic: 'orders', value: 'after' });
      expect(receipt.offset).toBe(cluster.values('orders', 0).length - 1);
      expect(cluster.values('orders', 0).slice(0, 2)).toEqual(['warm', 'sent']);
    }),
  );

  test(
    'a batch given up for good leaves a hole that the next ones get over',
    scenario(async (cluster, world) => {
      const client = await cluster.connect();
      const producer = client.producer({ lingerMs: 0 });
      await producer.send({ topic: 'orders', value: 'warm' });
      let refused = 0;
      cluster.faults.refuse = () => (refused++ === 0 ? 'CORRUPT_MESSAGE' : undefined);
      const outcomes = await Promise.all(
        ['a', 'b', 'c'].map(async (value) => {
          const send = producer.send({ topic: 'orders', value });
          await world.sleep(0.01);
          return send.then(() => value).catch((error: ClientError) => error.code);
        }),
      );
      const later = await producer.send({ topic: 'orders', value: 'later' });
      expect(outcomes).toContain('CORRUPT_MESSAGE');
      const kept = outcomes.filter((outcome) => outcome !== 'CORRUPT_MESSAGE');
      expect(cluster.values('orders', 0)).toEqual(['warm', ...kept, 'later']);
      expect(later.offset).toBe(kept.length + 1);
    }),
  );

  test(
    'a new epoch is taken up by a partition only when nothing of the old one is under way',
    scenario(async (cluster, world) => {
      const client = await cluster.connect();
      const producer = client.producer({ lingerMs: 0 });
      const send = (partition: number, value: string): Promise<Receipt> =>
        producer.send({ topic: 'orders', partition, value });
      await Promise.all([send(0, 'warm'), send(1, 'warm')]);
      let bumped = false;
      let refusals = 0;
      cluster.faults.refuse = ({ partition, batch }) => {
        const [first] = decodeRecords(batch);
        const value = Buffer.from(first?.value ?? []).toString();
        if (partition === 0) return value === 'too large' ? 'MESSAGE_TOO_LARGE' : undefined;
        if (!bumped) return 'THROTTLED';
        return value === 'x' && refusals++ === 0 ? 'THROTTLED' : undefined;
      };
      const x = send(1, 'x');
      await world.sleep(5);
      await failure(send(0, 'too large'));
      await send(0, 'under a new epoch');
      bumped = true;
      const y = send(1, 'y');
      expect([(await x).offset, (await y).offset]).toEqual([1, 2]);
      expect(cluster.values('orders', 1)).toEqual(['warm', 'x', 'y']);
    }, 2),
  );

  test(
    'a batch above what the topic takes is split, until one record is too large',
    scenario(async (cluster) => {
      cluster.maxMessageBytes = 2_000;
      const client = await cluster.connect();
      const producer = client.producer();
      const sends = Array.from({ length: 100 }, (_, i) =>
        producer.send({ topic: 'orders', value: `${i}-${'x'.repeat(100)}` }),
      );
      const tooLarge = failure(producer.send({ topic: 'orders', value: 'x'.repeat(3_000) }));
      const after = producer.send({ topic: 'orders', value: 'after' });
      await producer.flush();
      const receipts = await Promise.all(sends);
      expect(receipts.map(({ offset }) => offset)).toEqual(
        Array.from({ length: 100 }, (_, i) => i),
      );
      expect((await tooLarge).code).toBe('MESSAGE_TOO_LARGE');
      expect((await after).offset).toBe(100);
      expect(cluster.values('orders', 0).map((value) => parseInt(value, 10))).toEqual([
        ...Array.from({ length: 100 }, (_, i) => i),
        NaN,
      ]);
      expect(producer.bufferedBytes).toBe(0);
    }),
  );

  test(
    'slow answers make batches larger',
    scenario(async (cluster) => {
      cluster.ackMs = 50;
      const client = await cluster.connect();
      const producer = client.producer({ batchBytes: 1024, lingerMs: 0 });
      const value = 'x'.repeat(200);
      await Promise.all(
        Array.from({ length: 200 }, () => producer.send({ topic: 'orders', value })),
      );
      const sizes = cluster.produceRequests.map(({ batch }) => batch.length);
      expect(Math.max(...sizes)).toBeGreaterThan(3 * 1024);
      expect(Math.max(...sizes)).toBeLessThanOrEqual(4 * 1024);
      expect(producer.bufferedBytes).toBe(0);
    }),
  );

  test(
    'a deleted topic fails what is under way',
    scenario(async (cluster, world) => {
      const client = await cluster.connect();
      const producer = client.producer({ lingerMs: 0 });
      await producer.send({ topic: 'orders', value: 'warm' });
      cluster.faults.mute = true;
      const send = failure(producer.send({ topic: 'orders', value: 'a' }));
      await world.sleep(10);
      cluster.deleteTopic('orders');
      expect((await send).message).toContain('was deleted');
    }),
  );

  test(
    'close waits for what is under way, then gives up',
    scenario(async (cluster, world) => {
      const client = await cluster.connect();
      const producer = client.producer({ lingerMs: 500 });
      const send = producer.send({ topic: 'orders', value: 'a' });
      await client.close();
      expect(cluster.values('orders', 0)).toEqual(['a']);
      expect((await send).offset).toBe(0);
      const other = await cluster.connect('other');
      const stuck = other.producer({ lingerMs: 0 });
      await stuck.send({ topic: 'orders', value: 'b' });
      cluster.faults.mute = true;
      const lost = failure(stuck.send({ topic: 'orders', value: 'c' }));
      await world.sleep(5);
      await stuck.close({ timeoutMs: 100 });
      expect(await lost).toMatchObject({ code: 'CLOSED', outcomeUnknown: true });
    }),
  );
});
