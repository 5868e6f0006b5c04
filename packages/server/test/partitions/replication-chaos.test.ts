import type { ProduceResponse } from '@relevo/rpc/gen/client/produce';
import { describe, expect, test } from 'vitest';
import { PartitionWorld } from './partition-world.ts';
import type { TestClient } from './partition-world.ts';

const ALL = [1, 2, 3];
const PARTITIONS = [0, 1];
const FAULTS = 25;
/** RELEVO_SEEDS=200 for a longer run. */
const SEEDS = Number(process.env['RELEVO_SEEDS'] ?? 8);

interface Acked {
  readonly partition: number;
  readonly offset: number;
  readonly value: string;
}

/** Batches under way for each partition. */
const PIPELINE = 4;

/** A producer that goes where the image says, a few batches at a time for each partition. */
class Writer {
  readonly acked: Acked[] = [];
  stopped = false;
  readonly #world: PartitionWorld;
  readonly #client: TestClient;
  #count = 0;

  constructor(world: PartitionWorld, client: TestClient) {
    this.#world = world;
    this.#client = client;
  }

  async run(partition: number): Promise<void> {
    while (!this.stopped) {
      await this.#world.world.sleep(this.#world.world.prng.between(0, 8));
      const { leader } = this.#world.state('orders', partition);
      if (leader < 0) continue;
      const value = `p${partition}-${this.#count++}`;
      const answer = await this.#client
        .produce(leader, 'orders', [value], { partition, timeoutMs: 1_000 })
        .catch(() => undefined);
      if (answer?.error !== 0) continue;
      expect(answer.syncedOn.length).toBeGreaterThanOrEqual(2);
      this.#checkDurable(partition, answer);
      this.acked.push({ partition, offset: answer.baseOffset, value });
    }
  }

  /** Those that the receipt names have it on disk, as far as they still follow that leader. */
  #checkDurable(partition: number, { baseOffset, leaderEpoch, syncedOn }: ProduceResponse): void {
    for (const id of syncedOn) {
      const topicId = this.#world.topicId('orders');
      const held = this.#world.broker(id).manager.partition(topicId, partition);
      const role = held?.leader ?? held?.follower;
      if (held === undefined || role?.replica.leaderEpoch !== leaderEpoch) continue;
      if (!this.#world.process(id).alive) continue;
      expect(held.log.syncedEndOffset, `broker ${id}`).toBeGreaterThan(baseOffset);
    }
  }
}

/** Faults come and go; each is over, or mended, some time later. */
async function disturb(world: PartitionWorld): Promise<void> {
  const { prng } = world.world;
  const pick = (): number => ALL[Math.floor(prng.float() * 3)] ?? 1;
  for (let fault = 0; fault < FAULTS; fault++) {
    await world.world.sleep(prng.between(5, 120));
    const id = pick();
    const alive = world.process(id).alive && !world.process(id).paused;
    switch (Math.floor(prng.float() * 8)) {
      case 0:
      case 1: {
        if (!alive) break;
        await world.kill(id, prng.float() < 0.5 ? 'lose' : 'keep');
        await world.world.sleep(prng.between(0, 50));
        world.fence(id);
        break;
      }
      case 2:
      case 3:
        await mend(world);
        break;
      case 4: {
        if (!alive) break;
        world.process(id).pause();
        if (prng.float() < 0.5) world.fence(id);
        await world.world.sleep(prng.between(0, 300));
        world.process(id).resume();
        world.unfence(id);
        break;
      }
      case 5: {
        const other = pick();
        if (other !== id) world.world.network.breakConnections(`broker-${id}`, `broker-${other}`);
        break;
      }
      case 6: {
        const others = ALL.filter((each) => each !== id).map((each) => `broker-${each}`);
        world.world.network.partition([`broker-${id}`], others);
        await world.world.sleep(prng.between(0, 300));
        world.world.network.heal();
        break;
      }
      default:
        world.proposals = prng.pick(['answered', 'answered', 'unanswered', 'late']);
        world.decide({ kind: 'electPreferred', topic: '', partitions: [] });
    }
  }
}

/** Who is down is started again. */
async function mend(world: PartitionWorld): Promise<void> {
  world.proposals = 'answered';
  for (const id of ALL) {
    if (!world.process(id).alive) await world.boot(id);
    else if (!world.process(id).paused) world.unfence(id);
  }
}

describe('three brokers under faults keep what they acknowledged', () => {
  test.each(Array.from({ length: SEEDS }, (_, at) => at + 1))('seed %i', async (seed) => {
    const world = new PartitionWorld(`chaos-${seed}`);
    await world.run(async () => {
      await world.boot(...ALL);
      world.createTopic('orders', [
        [1, 2, 3],
        [2, 3, 1],
      ]);
      const writer = new Writer(world, await world.client());
      const writing = Promise.all(
        PARTITIONS.flatMap((partition) =>
          Array.from({ length: PIPELINE }, () => writer.run(partition)),
        ),
      );
      await disturb(world);
      await mend(world);
      const before = writer.acked.length;
      await world.world.until(
        'all is well again',
        () =>
          writer.acked.length > before + 20 &&
          PARTITIONS.every((partition) => world.state('orders', partition).isr.length === 3),
        20_000,
        () =>
          JSON.stringify(
            ALL.map((id) => [world.describe(id, 'orders', 0), world.describe(id, 'orders', 1)]),
          ),
      );
      writer.stopped = true;
      await writing;
      for (const partition of PARTITIONS) {
        await world.converge('orders', partition, ALL);
        const kept = await writerValues(world, partition);
        for (const { offset, value } of writer.acked.filter(
          (each) => each.partition === partition,
        )) {
          expect(kept[offset], `offset ${offset} of orders-${partition}`).toBe(value);
        }
        expect(new Set(kept).size).toBe(kept.length);
      }
      expect(writer.acked.length).toBeGreaterThan(50);
    });
  });
});

async function writerValues(world: PartitionWorld, partition: number): Promise<string[]> {
  const client = await world.client('reader');
  const values = await client.values(world.state('orders', partition).leader, 'orders', partition);
  await world.world.process('reader').kill({ unsynced: 'keep' });
  return values;
}
