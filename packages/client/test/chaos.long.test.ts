/**
 * Producers and consumers through kills, freezes, moves, broken connections and lost answers, from
 * seeds. What must hold stands at the end (invariants C1, C2, I1, I2).
 */
import { describe, expect, test } from 'vitest';
import type { ClientError, Relevo } from '@relevo/client';
import type { ErrorCode } from '@relevo/base/errors';
import { DEFAULT_LINK } from '@relevo/simulation/simulated-network';
import { World } from '@relevo/simulation/world';
import { ModelCluster } from './model-cluster.ts';

const PARTITIONS = 3;
const RETRIABLE: readonly ErrorCode[] = [
  'NOT_ENOUGH_REPLICAS',
  'THROTTLED',
  'REQUEST_TIMED_OUT',
  'LEADER_NOT_AVAILABLE',
  'UNKNOWN_TOPIC_ID',
];

interface Sent {
  readonly partition: number;
  readonly value: string;
  settled: number;
  offset: number | undefined;
  error: ClientError | undefined;
}

/** Sends at random times until told to stop. */
class Load {
  readonly sent: Sent[] = [];
  #running = true;
  readonly #world: World;
  readonly #done: Promise<void>;
  readonly #settling: Promise<void>[] = [];

  constructor(world: World, client: Relevo, name: string, deliveryTimeoutMs: number) {
    this.#world = world;
    this.#done = this.#run(client, name, deliveryTimeoutMs);
  }

  async stop(): Promise<void> {
    this.#running = false;
    await this.#done;
    await Promise.all(this.#settling);
  }

  async #run(client: Relevo, name: string, deliveryTimeoutMs: number): Promise<void> {
    const prng = this.#world.prng.split(name);
    const producer = client.producer({
      lingerMs: prng.pick([0, 2, 10]),
      batchBytes: 1024,
      bufferBytes: 16 * 1024,
      requestTimeoutMs: 1_000,
      deliveryTimeoutMs,
    });
    let number = 0;
    while (this.#running) {
      const partition = prng.integer(0, PARTITIONS - 1);
      const value = `${name}-${number++}-${'x'.repeat(prng.integer(0, 300))}`;
      const sent: Sent = {
        partition,
        value,
        settled: 0,
        offset: undefined,
        error: undefined,
      };
      this.sent.push(sent);
      const settling = producer.send({ topic: 'orders', partition, value }).then(
        ({ offset }) => {
          sent.settled++;
          sent.offset = offset;
        },
        (error: ClientError) => {
          sent.settled++;
          sent.error = error;
        },
      );
      this.#settling.push(settling);
      if (prng.chance(0.4)) await this.#world.sleep(prng.exponential(8));
    }
    await producer.close();
  }
}

/** Breaks things for a while, then heals them for good. */
async function breakThings(cluster: ModelCluster, world: World): Promise<void> {
  const prng = world.prng.split('faults');
  const untilMs = world.nowMs + 8_000;
  cluster.faults = {
    refuse: () => (prng.chance(0.02) ? prng.pick(RETRIABLE) : undefined),
    loseAnswer: () => prng.chance(0.01),
  };
  while (world.nowMs < untilMs) {
    await world.sleep(prng.exponential(250));
    cluster.lagMs = prng.exponential(30);
    const broker = prng.pick(cluster.brokers);
    const partition = cluster.partition('orders', prng.integer(0, PARTITIONS - 1));
    const choice = prng.float();
    if (choice < 0.4) {
      cluster.move(partition, prng.integer(1, cluster.brokers.length));
    } else if (choice < 0.5) {
      partition.leader = -1;
      partition.leaderEpoch++;
      cluster.publish();
      await world.sleep(prng.exponential(100));
      cluster.move(partition, prng.integer(1, cluster.brokers.length));
    } else if (choice < 0.7) {
      await broker.kill();
      await world.sleep(prng.exponential(50));
      cluster.moveAllFrom(broker.id);
      await world.sleep(prng.exponential(300));
      broker.boot();
    } else if (choice < 0.85) {
      broker.pause();
      await world.sleep(prng.exponential(500));
      cluster.moveAllFrom(broker.id);
      await world.sleep(prng.exponential(500));
      broker.resume();
    } else {
      world.network.breakConnections('client', `broker-${broker.id}`);
    }
  }
  cluster.faults = {};
}

async function consumeAll(client: Relevo, seen: Map<number, string[]>): Promise<void> {
  const consumer = client.consumer({ topics: ['orders'], from: 'earliest' });
  const next = new Map<number, number>();
  for await (const { partition, offset, value } of consumer) {
    // The model's log is not compacted: each offset comes, once, in order.
    expect(offset).toBe(next.get(partition) ?? 0);
    next.set(partition, offset + 1);
    const text = String(value);
    if (text === 'end') {
      if ([...next.keys()].length === PARTITIONS && ended(seen, partition)) break;
      continue;
    }
    seen.set(partition, [...(seen.get(partition) ?? []), text]);
  }
}

const ENDED = new WeakMap<Map<number, string[]>, Set<number>>();
function ended(seen: Map<number, string[]>, partition: number): boolean {
  const partitions = ENDED.get(seen) ?? new Set<number>();
  ENDED.set(seen, partitions.add(partition));
  return partitions.size === PARTITIONS;
}

function check(cluster: ModelCluster, sent: readonly Sent[]): void {
  for (const { settled, value } of sent) expect(settled, value.slice(0, 20)).toBe(1);
  for (let partition = 0; partition < PARTITIONS; partition++) {
    const log = cluster.records('orders', partition).filter(({ value }) => value !== 'end');
    const offsets = new Map(log.map(({ value, offset }) => [value, offset]));
    expect(offsets.size, 'no value is in the log twice').toBe(log.length);
    const here = sent.filter((send) => send.partition === partition);
    for (const send of here) {
      if (send.error === undefined) expect(offsets.get(send.value)).toBe(send.offset);
      else if (!send.error.outcomeUnknown) expect(offsets.has(send.value)).toBe(false);
    }
    const kept = here.filter(({ value }) => offsets.has(value)).map(({ value }) => value);
    expect(
      log.map(({ value }) => value),
      'the order of the sends',
    ).toEqual(kept);
  }
}

async function run(
  seed: number,
  deliveryTimeoutMs: number,
): Promise<{ acked: number; all: number }> {
  const profile = { ...DEFAULT_LINK, meanMs: 1, tailChance: 0.01, breakChance: 0.0005 };
  const world = new World({ seed, limitMs: 300_000, network: { profile } });
  return world.run(async () => {
    const cluster = new ModelCluster(world);
    cluster.createTopic('orders', PARTITIONS);
    const client = await cluster.connect();
    const load = new Load(world, client, 'load', deliveryTimeoutMs);
    const seen = new Map<number, string[]>();
    const consuming = consumeAll(await cluster.connect('reader'), seen);
    await breakThings(cluster, world);
    await world.within('every send to settle', 60_000, load.stop());
    const last = client.producer();
    for (let partition = 0; partition < PARTITIONS; partition++) {
      await last.send({ topic: 'orders', partition, value: 'end' });
    }
    await world.within('the consumer to see the end', 30_000, consuming);
    check(cluster, load.sent);
    for (let partition = 0; partition < PARTITIONS; partition++) {
      const log = cluster.values('orders', partition).filter((value) => value !== 'end');
      expect(seen.get(partition) ?? []).toEqual(log);
    }
    await world.within('the client to close', 10_000, client.close());
    const acked = load.sent.filter(({ error }) => error === undefined).length;
    return { acked, all: load.sent.length };
  });
}

const SEEDS = Array.from({ length: Number(process.env['SEEDS'] ?? 12) }, (_, index) => index + 1);

describe.each(SEEDS)('seed %d', (seed) => {
  test('with time enough nothing fails, is lost, doubled or put out of order', async () => {
    const { acked, all } = await run(seed, 60_000);
    expect(acked).toBe(all);
    expect(all).toBeGreaterThan(500);
  });

  test('with short deadlines every failure says truly whether the record may be there', async () => {
    const { acked, all } = await run(1_000 + seed, 700);
    expect(acked).toBeGreaterThan(all / 5);
  });
});
