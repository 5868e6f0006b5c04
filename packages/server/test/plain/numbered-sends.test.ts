import { utf8Encode } from '@relevo/base/bytes';
import { plainRecord } from '@relevo/rpc/gen/client/produce';
import type { Receipt, SendRequest } from '@relevo/rpc/gen/client/produce';
import { describe, expect, test } from 'vitest';
import type { PartitionWorld, TestClient } from '../partitions/partition-world.ts';
import { PlainSender, withOrders } from './plain-world.ts';

type Numbered = Required<
  Pick<SendRequest, 'producerId' | 'producerEpoch' | 'partition' | 'sequence'>
>;

/** Numbers the calls of one producer for partition 0. */
async function numbering(client: TestClient): Promise<(sequence: number) => Numbered> {
  const producer = await client.producer(1);
  return (sequence) => ({ ...producer, partition: 0, sequence });
}

/** A gateway on a host of its own, as each broker is one. */
const gateway = async (world: PartitionWorld, name: string): Promise<PlainSender> =>
  new PlainSender(world, await world.client(name));

const isInSync = (world: PartitionWorld, id: number) => (): boolean =>
  world.image.topicsByName.get('orders')?.partitions[0]?.isr.includes(id as never) === true;

const known = (receipt: Receipt | undefined): unknown => ({ ...receipt, syncedOn: undefined });

describe('a numbered call', () => {
  test('that is given up and repeated is written once, through any broker, failover and restart', () =>
    withOrders([1, 2, 3], async (world, client) => {
      const numbered = await numbering(client);
      const gateways = await Promise.all(['a', 'b', 'c'].map((name) => gateway(world, name)));
      const at = (index: number): PlainSender => gateways[index % 3] as PlainSender;
      for (let call = 0; call < 20; call++) {
        const value = [`v${call}`];
        // Its caller has lost patience: the same call goes to another broker while this one is under way.
        const abandoned = at(call).send('orders', value, numbered(call));
        if (call === 5) {
          await world.kill(1);
          world.fence(1);
        }
        if (call === 10) {
          await world.boot(1);
          await world.world.until('broker 1 is back', isInSync(world, 1), 20_000);
        }
        const receipts = await Promise.all([
          abandoned,
          at(call + 1).send('orders', value, numbered(call)),
          at(call + 2).send('orders', value, numbered(call)),
        ]);
        await world.world.sleep(30);
        receipts.push(await at(call).send('orders', value, numbered(call)));
        expect(new Set(receipts.map(([each]) => JSON.stringify(known(each)))).size).toBe(1);
        expect(receipts[0]?.[0]?.offset).toBe(call);
      }
      const leader = world.image.topicsByName.get('orders')?.partitions[0]?.leader ?? 0;
      const expected = Array.from({ length: 20 }, (_, call) => `v${call}`);
      expect(await client.values(leader, 'orders')).toEqual(expected);
    }));

  test('keeps its place while those before it are tried again', () =>
    withOrders([1, 2, 3], async (world, client) => {
      const numbered = await numbering(client);
      const sender = await gateway(world, 'a');
      world.fence(1);
      const calls = Array.from({ length: 12 }, (_, call) =>
        sender.send('orders', [`a${call}`, `b${call}`], numbered(call * 2)),
      );
      world.unfence(1);
      const receipts = await Promise.all(calls);
      expect(receipts.flat().map(({ offset }) => offset)).toEqual(
        Array.from({ length: 24 }, (_, offset) => offset),
      );
    }));

  test('gets the timestamps of the first receipt, its own or those it was given', () =>
    withOrders([1], async (world, client) => {
      const numbered = await numbering(client);
      const sender = await gateway(world, 'a');
      const records = [7, 9].map((timestampMs) =>
        plainRecord({ value: utf8Encode('own'), timestampMs }),
      );
      const twice = async (more: Partial<SendRequest>): Promise<number[][]> => {
        const first = await sender.send('orders', ['x', 'y'], more);
        await world.world.sleep(500);
        const second = await sender.send('orders', ['x', 'y'], more);
        return [first, second].map((each) => each.map(({ timestampMs }) => timestampMs));
      };
      const given = await twice(numbered(0));
      expect(given[1]).toEqual(given[0]);
      expect(given[0]?.[0]).toBeGreaterThan(1e12);
      expect(await twice({ ...numbered(2), records })).toEqual([
        [7, 9],
        [7, 9],
      ]);
    }));

  test('after a hole is refused, an old repeat is told that it was written, an old epoch is fenced', () =>
    withOrders([1], async (world, client) => {
      const numbered = await numbering(client);
      const sender = await gateway(world, 'a');
      const send = (more: Numbered): Promise<string> => sender.outcome('orders', ['x'], more);
      expect(await send(numbered(1))).toMatch(/^UNKNOWN_PRODUCER_ID: .*must begin at 0/);
      for (let call = 0; call < 7; call++) expect(await send(numbered(call))).toBe('acknowledged');
      expect(await send(numbered(9))).toMatch(
        /^OUT_OF_ORDER_SEQUENCE_NUMBER: .*expected sequence 7/,
      );
      expect(await send(numbered(1))).toMatch(/^DUPLICATE_SEQUENCE_NUMBER: .*appended before/);
      const next = { ...numbered(0), producerEpoch: 1 };
      expect(await send(next)).toBe('acknowledged');
      expect(await send(numbered(7))).toMatch(/^INVALID_PRODUCER_EPOCH: /);
      expect(world.partition(1, 'orders').logEndOffset).toBe(8);
    }));

  test('under an id that nobody was given is refused', () =>
    withOrders([1], async (world, client) => {
      const numbered = await numbering(client);
      const sender = await gateway(world, 'a');
      for (const producerId of [0, 1001, 123_456]) {
        expect(await sender.outcome('orders', ['x'], { ...numbered(0), producerId })).toContain(
          `UNKNOWN_PRODUCER_ID: orders-0: producer_id ${producerId} has not been given to anybody`,
        );
      }
      expect(world.partition(1, 'orders').logEndOffset).toBe(0);
    }));

  test('whose leader is away ends in time and tells whether anything was written', () =>
    withOrders([1], async (world, client) => {
      const numbered = await numbering(client);
      const sender = await gateway(world, 'a');
      const send = (sequence: number): Promise<string> =>
        sender.outcome('orders', ['x'], { ...numbered(sequence), timeoutMs: 700 });
      world.process(1).pause();
      const [first, second] = await Promise.all([send(0), send(1)]);
      expect(first).toMatch(/^REQUEST_TIMED_OUT: orders-0 .*unknown \(to know, repeat the call/);
      expect(second).toMatch(
        /^REQUEST_TIMED_OUT: .*nothing was written: calls of the same producer/,
      );
      world.process(1).resume();
      const again = { ...numbered(0), timeoutMs: 5000 };
      expect(await sender.outcome('orders', ['x'], again)).toBe('acknowledged');
      expect(world.partition(1, 'orders').logEndOffset).toBe(1);
    }));

  test.each<readonly [string, Partial<SendRequest>, RegExp]>([
    ['no sequence', { sequence: undefined }, /^INVALID_REQUEST: .*all of .* sequence is missing/],
    [
      '-1 for two',
      { partition: -1, sequence: -1 },
      /^INVALID_REQUEST: .* partition and sequence are/,
    ],
    ['an epoch too high', { producerEpoch: 32_768 }, /^INVALID_REQUEST: .*epoch from 0 to 32767/],
    ['a sequence too high', { sequence: 2 ** 31 }, /^INVALID_REQUEST: .*from 0 to 2147483647/],
    ['acks 1', { acks: 1 }, /^INVALID_REQUIRED_ACKS: acks is 1 in a numbered call/],
    [
      'no such partition',
      { partition: 9 },
      /^UNKNOWN_TOPIC_OR_PARTITION: orders has no partition 9/,
    ],
    ['no records', { records: [] }, /^INVALID_REQUEST: 0 records/],
    [
      'a record for elsewhere',
      { records: [plainRecord({ partition: 1 })] },
      /^INVALID_REQUEST: a record names partition 1/,
    ],
    [
      'one timestamp of two',
      { records: [plainRecord({ timestampMs: 1 }), plainRecord()] },
      /^INVALID_REQUEST: 1 of 2 records bear a timestamp_ms/,
    ],
    [
      'more than a batch takes',
      {
        records: Array.from({ length: 20 }, () => plainRecord({ value: new Uint8Array(100_000) })),
      },
      /^MESSAGE_TOO_LARGE: .*one batch/,
    ],
  ])('with %s is refused', (_, more, expected) =>
    withOrders([1], async (world, client) => {
      const numbered = await numbering(client);
      const sender = await gateway(world, 'a');
      const outcome = await sender.outcome('orders', ['x'], { ...numbered(0), ...more });
      expect(outcome).toMatch(expected);
      expect(world.partition(1, 'orders').logEndOffset).toBe(0);
    }),
  );
});

test('a call without records is refused', () =>
  withOrders([1], async (world) => {
    const sender = await gateway(world, 'a');
    expect(await sender.outcome('orders', [])).toMatch(/^INVALID_REQUEST: 0 records/);
  }));
