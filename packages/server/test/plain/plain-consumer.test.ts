import { utf8Decode } from '@relevo/base/bytes';
import type { Offset } from '@relevo/base/ids';
import type { Channel, MessageStream, RpcError, Timers } from '@relevo/base/ports';
import { simulatedCodecs } from '@relevo/simulation/simulated-codecs';
import { FetchService, consumeRequest } from '@relevo/rpc/gen/client/fetch';
import type {
  ConsumedRecords,
  ConsumeRequest,
  FetchRequest,
  FetchResponse,
} from '@relevo/rpc/gen/client/fetch';
import { BatchDecoder } from '@relevo/server/plain/decoded-batches';
import { LeaderCalls } from '@relevo/server/plain/leader-calls';
import { LeaderFetches } from '@relevo/server/plain/leader-fetches';
import { LeaderOffsets } from '@relevo/server/plain/leader-offsets';
import { PlainConsumer } from '@relevo/server/plain/plain-consumer';
import { expect, test } from 'vitest';
import type { PartitionWorld, TestClient } from '../partitions/partition-world.ts';
import { outcomeOf, withOrders } from './plain-world.ts';

/** A stream to a caller that takes all at once. */
const streamInto = (
  values: string[],
  onEnd: (error: RpcError | undefined) => void = () => undefined,
): MessageStream<ConsumedRecords> => ({
  send: ({ records }) => {
    values.push(...records.map(({ value }) => utf8Decode(value ?? new Uint8Array(0))));
    return true;
  },
  queuedBytes: () => 0,
  end: () => onEnd(undefined),
  cancel: onEnd,
  pause: () => undefined,
  resume: () => undefined,
});

const offsetsOf = (
  { timers }: { readonly timers: Timers },
  calls: LeaderCalls<FetchRequest, FetchResponse>,
): LeaderOffsets => new LeaderOffsets({ timers, channel: (address) => calls.channel(address) });

/** What a call gave until it ended. */
async function consume(
  world: PartitionWorld,
  { ports }: TestClient,
  request: Partial<ConsumeRequest>,
): Promise<{ values: string[]; error: RpcError | undefined }> {
  const values: string[] = [];
  let ended = false;
  let failure: RpcError | undefined;
  const stream = streamInto(values, (error) => {
    failure = error;
    ended = true;
  });
  const calls = new LeaderCalls(ports.transport, FetchService.stream);
  const fetches = new LeaderFetches({ timers: ports.timers, calls });
  const consumer = new PlainConsumer(
    {
      ...ports,
      decoder: new BatchDecoder({ ...ports, codecs: simulatedCodecs }),
      fetches,
      offsets: offsetsOf(ports, calls),
      image: () => world.image,
      assertCurrent: () => undefined,
    },
    consumeRequest({
      topic: 'orders',
      from: { case: 'earliest', value: true },
      stopAtEnd: true,
      ...request,
    }),
    stream,
  );
  consumer.start();
  await world.world.until('the call has ended', () => ended, 20_000);
  calls.close();
  return { values, error: failure };
}

test('what was damaged since it was written is not given out, and the call ends where nobody else has it', () =>
  withOrders([1], async (world, client) => {
    await client.produce(1, 'orders', ['a', 'b']);
    const { baseOffset } = await client.produce(1, 'orders', ['c', 'd']);
    expect(baseOffset).toBe(2);
    const path = '/data/orders-0/00000000000000000000.log';
    const { disk } = world.process(1);
    disk.flipBit(path, disk.contents(path).length - 4, 2);
    const all = await consume(world, client, {});
    expect(all.values).toEqual(['a', 'b']);
    expect(all.error).toMatchObject({ status: 'UNAVAILABLE' });
    expect(all.error?.message).toMatch(
      /^orders-0 could not be read for 10 s: orders-0 has no leader: the log on broker 1/,
    );
    const errors = world.lines.filter(({ level }) => level === 'error');
    expect(errors.map(({ event }) => event)).toEqual(['a replica is offline']);
    expect(errors[0]?.fields['do']).toMatch(/no other replica .* put the files back/);
  }));

test('a partition without a leader ends the call, with a word on who could lead', () =>
  withOrders([1], async (world, client) => {
    await client.produce(1, 'orders', ['a']);
    await world.kill(1, 'keep');
    world.fence(1);
    const { values, error } = await consume(world, client, {});
    expect(values).toEqual([]);
    expect(error).toMatchObject({ status: 'UNAVAILABLE', code: 'LEADER_NOT_AVAILABLE' });
    expect(error?.message).toMatch(/10 s: orders-0 has no leader: .*broker 1.*start it/);
  }));

test('a batch that cannot be read ends the call, after what is before it', () =>
  withOrders([1], async (world, client) => {
    await client.produce(1, 'orders', ['a', 'b']);
    // The leader takes no such batch: it is written past its checks, as a damaged disk would.
    const { log } = world.partition(1, 'orders');
    const damaged = client.packedBatch(['c', 'd'], {}, () => Buffer.from('not gzip'));
    log.appendAsLeader(damaged, log.latestEpoch, client.ports.clock.wallMs());
    await client.produce(1, 'orders', ['e']);
    const all = await consume(world, client, {});
    expect(all.values).toEqual(['a', 'b']);
    expect(all.error).toMatchObject({ status: 'DATA_LOSS', code: 'CORRUPT_MESSAGE' });
    expect(all.error?.message).toMatch(/^orders-0 at offset 2: .*begin at offset 4 to go past it$/);
    const enough = await consume(world, client, { maxRecords: 2 });
    expect(enough).toEqual({ values: ['a', 'b'], error: undefined });
    const past = await consume(world, client, { from: { case: 'offset', value: 4 } });
    expect(past).toEqual({ values: ['e'], error: undefined });
  }));

test('packed batches are read like others, from the middle too', () =>
  withOrders([1], async (world, client) => {
    await client.produce(1, 'orders', client.packedBatch(['a', 'b', 'c']));
    expect((await consume(world, client, {})).values).toEqual(['a', 'b', 'c']);
    const middle = await consume(world, client, { from: { case: 'offset', value: 1 } });
    expect(middle).toEqual({ values: ['b', 'c'], error: undefined });
  }));

test('an offset that is not in the log is refused with the bounds of the log', () =>
  withOrders([1], async (world, client) => {
    await client.produce(1, 'orders', ['a', 'b', 'c']);
    const { log } = world.partition(1, 'orders');
    log.deleteRecordsBefore(1 as Offset);
    for (const stopAtEnd of [true, false]) {
      for (const value of [0, 4, 1_000_000]) {
        const refused = await consume(world, client, {
          from: { case: 'offset', value },
          stopAtEnd,
        });
        expect(refused.values).toEqual([]);
        expect(refused.error).toMatchObject({
          status: 'OUT_OF_RANGE',
          code: 'OFFSET_OUT_OF_RANGE',
        });
        expect(refused.error?.message).toMatch(`orders-0 has offsets 1 to 3, not ${value}`);
      }
    }
    // The end itself is where a consumer stands that has read all.
    const atEnd = await consume(world, client, { from: { case: 'offset', value: 3 } });
    expect(atEnd).toEqual({ values: [], error: undefined });
    const before = await consume(world, client, { from: { case: 'offset', value: 2 } });
    expect(before).toEqual({ values: ['c'], error: undefined });
  }));

class CountedCalls extends LeaderCalls<FetchRequest, FetchResponse> {
  count = 0;
  lookUps = 0;

  override call(
    address: string,
    request: (correlationId: number) => FetchRequest,
  ): Promise<FetchResponse> {
    this.count += 1;
    return super.call(address, request);
  }

  override channel(address: string): Channel {
    this.lookUps += 1;
    return super.channel(address);
  }
}

test('many idle calls cost a leader a few requests, and each gets what comes next', () =>
  withOrders([1], async (world, client) => {
    const { ports } = client;
    const calls = new CountedCalls(ports.transport, FetchService.stream);
    const fetches = new LeaderFetches({ timers: ports.timers, calls });
    const deps = {
      ...ports,
      decoder: new BatchDecoder({ ...ports, codecs: simulatedCodecs }),
      fetches,
      offsets: offsetsOf(ports, calls),
      image: () => world.image,
      assertCurrent: () => undefined,
    };
    const got = new Map<number, string[]>();
    const consumers = Array.from({ length: 500 }, (_, index) => {
      const values: string[] = [];
      got.set(index, values);
      const request = consumeRequest({ topic: 'orders', from: { case: 'latest', value: true } });
      return new PlainConsumer(deps, request, streamInto(values));
    });
    for (const consumer of consumers) {
      consumer.start();
      await world.world.sleep(0.5);
    }
    await world.world.sleep(1_000);
    calls.count = 0;
    await world.world.sleep(20_000);
    // One request that is renewed each two seconds; those that are left from the start join it.
    expect(calls.count).toBeLessThan(50);

    for (const value of ['a', 'b']) await client.produce(1, 'orders', [value]);
    const all = (): boolean => [...got.values()].every((values) => values.length === 2);
    await world.world.until('each has both records', all, 1_000);
    expect(new Set([...got.values()].map((values) => values.join()))).toEqual(new Set(['a,b']));

    // Those that are gone are asked for no more.
    for (const consumer of consumers) consumer.stop();
    await world.world.sleep(5_000);
    calls.count = 0;
    await world.world.sleep(10_000);
    expect(calls.count).toBe(0);
    calls.close();
  }));

test('what hundreds of calls follow is given to a few in each turn of the loop', () =>
  withOrders([1], async (world, client) => {
    const { ports } = client;
    let turn = 0;
    const sentIn = new Map<number, number>();
    const timers: Timers = {
      after: (delayMs, run) =>
        ports.timers.after(delayMs, () => {
          turn += 1;
          run();
        }),
      soon: (run) =>
        ports.timers.soon(() => {
          turn += 1;
          run();
        }),
    };
    const calls = new CountedCalls(ports.transport, FetchService.stream);
    const fetches = new LeaderFetches({ timers, calls });
    const deps = {
      ...ports,
      timers,
      decoder: new BatchDecoder({ ...ports, codecs: simulatedCodecs }),
      fetches,
      offsets: offsetsOf(ports, calls),
      image: () => world.image,
      assertCurrent: () => undefined,
    };
    const read = Array.from({ length: 500 }, () => {
      const values: string[] = [];
      const stream = streamInto(values);
      const request = consumeRequest({ topic: 'orders', from: { case: 'latest', value: true } });
      const counted: MessageStream<ConsumedRecords> = {
        ...stream,
        send: (message) => {
          sentIn.set(turn, (sentIn.get(turn) ?? 0) + 1);
          return stream.send(message);
        },
      };
      new PlainConsumer(deps, request, counted).start();
      return values;
    });
    await world.world.sleep(1_000);
    expect(calls.lookUps).toBe(1);
    await client.produce(1, 'orders', ['a']);
    const all = (): boolean => read.every((values) => values.length === 1);
    await world.world.until('each has read it', all, 1_000);
    expect(Math.max(...sentIn.values())).toBeLessThanOrEqual(32);
    calls.close();
  }));

test('two offsets of a partition are both served', () =>
  withOrders([1], async (world, client) => {
    const { ports } = client;
    await client.produce(1, 'orders', ['a', 'b', 'c', 'd']);
    const calls = new LeaderCalls(ports.transport, FetchService.stream);
    const fetches = new LeaderFetches({ timers: ports.timers, calls });
    const deps = {
      ...ports,
      decoder: new BatchDecoder({ ...ports, codecs: simulatedCodecs }),
      fetches,
      offsets: offsetsOf(ports, calls),
      image: () => world.image,
      assertCurrent: () => undefined,
    };
    const read = [0, 1, 2, 3].map((value) => {
      const values: string[] = [];
      const request = consumeRequest({ topic: 'orders', from: { case: 'offset', value } });
      new PlainConsumer(deps, request, streamInto(values)).start();
      return values;
    });
    const all = (): boolean => read.every((values) => values.at(-1) === 'd');
    await world.world.until('each has read to the end', all, 1_000);
    expect(read.map((values) => values.join(''))).toEqual(['abcd', 'bcd', 'cd', 'd']);
    calls.close();
  }));

test.each(['earliest', 'latest'] as const)('%s: false says nothing, and is refused', (from) =>
  withOrders([1], async (world, client) => {
    const call = consume(world, client, { from: { case: from, value: false } });
    expect(await outcomeOf(call)).toContain(`INVALID_REQUEST: ${from} is false`);
  }),
);
