/**
 * Brokers with large logs are killed, or lose power, and start again: one of them, or all. Computing takes
 * time here, so much for each byte that one MB stands for some hundred. However long the
 * recovery takes, no heartbeat is late, no broker is fenced for it, and every acknowledged record is read.
 */
import type { Relevo } from '@relevo/client/relevo';
import type { RunFigures, RunOptions } from '../failover-run.ts';
import type { Prng } from '../prng.ts';
import { SimulatedCluster } from '../simulated-cluster.ts';
import { connectClient } from '../workload.ts';
import { World } from '../world.ts';
import type { LogLine } from '../world.ts';

const TOPIC = 'large';
const START_WITHIN_MS = 30_000;
const CALL_WITHIN_MS = 60_000;
const RECOVERED_WITHIN_MS = 120_000;
/** A heartbeat may be later by no more. */
const LATE_MS_MAX = 300;
const VALUE_BYTES = 60_000;
/** Between checkpoints of a broker. */
const CHECKPOINT_MS = 5_000;

export async function largeLogsRun(
  seed: number | string,
  options: RunOptions = {},
): Promise<RunFigures> {
  const lines: LogLine[] = [];
  const world = new World({
    seed,
    onLog: (line) => {
      lines.push(line);
      options.onLog?.(line);
    },
  });
  const run = new LargeLogsRun(world, lines);
  await world.run(() => run.run());
  return run.figures();
}

class LargeLogsRun {
  readonly #world: World;
  readonly #prng: Prng;
  readonly #cluster: SimulatedCluster;
  readonly #lines: readonly LogLine[];
  readonly #partitions: number;
  readonly #recoveryMs: number[] = [];
  /** Acknowledged, by partition. */
  readonly #ends: number[];
  #acknowledged = 0;

  constructor(world: World, lines: readonly LogLine[]) {
    this.#world = world;
    this.#lines = lines;
    this.#prng = world.prng.split('large-logs');
    this.#partitions = this.#prng.integer(2, 5);
    this.#ends = Array.from({ length: this.#partitions }, () => 0);
    // Small segments have recovery starts, large ones none at this size.
    const segmentBytes = this.#prng.pick([1_000_000, 2 ** 30]);
    const settings = { 'log.segment.bytes': String(segmentBytes) };
    this.#cluster = new SimulatedCluster(world, { settings: () => settings });
  }

  async run(): Promise<void> {
    const world = this.#world;
    this.#cluster.bootAll();
    const connecting = connectClient(world, 'client', this.#cluster.addresses);
    const client = await world.within('a client connects', START_WITHIN_MS, connecting);
    const making = client.admin.createTopic({
      topic: TOPIC,
      partitions: this.#partitions,
      replicationFactor: 3,
    });
    await world.within('the topic is made', START_WITHIN_MS, making);
    await this.#fill(client, this.#prng.integer(1_000_000, 2_500_000));
    for (let round = this.#prng.integer(1, 2); round > 0; round--) {
      await this.#restart(client);
      await this.#fill(client, this.#prng.integer(0, 300_000));
    }
    await this.#readAll(client);
    await world.within('the client closes', CALL_WITHIN_MS, client.close());
  }

  figures(): RunFigures {
    const { trace, prng, nowMs } = this.#world;
    return {
      ...{ acknowledged: this.#acknowledged, unknown: 0, failed: 0 },
      ...{ failoverMs: [], wholeMs: this.#recoveryMs, elections: 0 },
      events: trace.events,
      virtualMs: nowMs,
      fingerprint: `${trace.hash}-${prng.recorder.last}`,
    };
  }

  /** So many bytes to each partition. */
  async #fill(client: Relevo, bytes: number): Promise<void> {
    const producer = client.producer({ lingerMs: 0 });
    const value = new Uint8Array(VALUE_BYTES).fill(7);
    const fillOne = async (partition: number): Promise<void> => {
      for (let sent = 0; sent < bytes; sent += VALUE_BYTES) {
        const { offset } = await producer.send({ topic: TOPIC, partition, value });
        this.#ends[partition] = offset + 1;
        this.#acknowledged++;
      }
    };
    const filling = Promise.all(this.#ends.map((_, partition) => fillOne(partition)));
    await this.#world.within('records are acknowledged', CALL_WITHIN_MS, filling);
    await this.#world.within('a producer closes', CALL_WITHIN_MS, producer.close());
  }

  /** One broker, or all; recovered when a record is acknowledged on every partition by all replicas. */
  async #restart(client: Relevo): Promise<void> {
    const world = this.#world;
    const prng = this.#prng;
    // With or without a checkpoint since the last record.
    await world.sleep(prng.between(0, 2 * CHECKPOINT_MS));
    const one = prng.integer(0, 2);
    const ids = prng.chance(0.6) ? this.#cluster.ids : [one];
    const unsynced = prng.pick(['keep', 'lose'] as const);
    await Promise.all(ids.map((id) => this.#cluster.process(id).kill({ unsynced })));
    const nsPerByte = prng.integer(150, 300);
    for (const id of ids) this.#cluster.process(id).cpuNsPerByte = nsPerByte;
    world.note('fault', 'scenario', `${unsynced}: ${ids.join()}, ${nsPerByte} ns a byte`);
    await world.sleep(prng.between(100, 3_000));
    const from = this.#lines.length;
    const startMs = world.nowMs;
    for (const id of ids) this.#cluster.boot(id);
    const recovered = (id: number): boolean =>
      this.#lines
        .slice(from)
        .some(({ event, process }) => event === 'logs are open' && process === `broker-${id}`);
    await world.until(
      'the logs are open',
      () => ids.every(recovered),
      RECOVERED_WITHIN_MS,
      () => `open at ${ids.filter(recovered).join() || 'none'} of ${ids.join()}`,
    );
    this.#recoveryMs.push(world.nowMs - startMs);
    for (const id of ids) this.#cluster.process(id).cpuNsPerByte = 0;
    await this.#fill(client, VALUE_BYTES);
    this.#checkHeartbeats(from);
  }

  #checkHeartbeats(from: number): void {
    for (const { event, fields, process } of this.#lines.slice(from)) {
      if (event === 'broker fenced') throw new Error(`a broker was fenced in its recovery`);
      if (!event.startsWith('a heartbeat is late')) continue;
      const lateMs = Number(fields['lateMs']);
      if (lateMs > LATE_MS_MAX) {
        throw new Error(`a heartbeat of ${process} was ${lateMs} ms late in its recovery`);
      }
    }
  }

  async #readAll(client: Relevo): Promise<void> {
    const next = this.#ends.map(() => 0);
    const consumer = client.consumer({ topics: [TOPIC], from: 'earliest' });
    const reading = (async (): Promise<void> => {
      for await (const { partition, offset } of consumer) {
        if (offset !== next[partition]) {
          throw new Error(`partition ${partition}: offset ${offset} after ${next[partition]}`);
        }
        next[partition] = offset + 1;
        if (this.#ends.every((end, at) => (next[at] ?? 0) >= end)) return;
      }
    })();
    await this.#world.within('all is read', CALL_WITHIN_MS, reading);
    await this.#world.within('the consumer closes', CALL_WITHIN_MS, consumer.close());
  }
}
