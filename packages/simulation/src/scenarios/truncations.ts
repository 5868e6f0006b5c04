/**
 * Unclean elections under a reading consumer: the only replica with the newest records dies, and one that
 * lacks them leads. Whoever has read what is gone is told where the logs part (KIP-320), and what a consumer
 * keeps after having gone back there is what the log holds.
 */
import type { Ports, RpcError } from '@relevo/base/ports';
import type { DescribedPartition } from '@relevo/client/admin';
import type { Consumer } from '@relevo/client/consumer/consumer';
import { ClientError } from '@relevo/client/errors';
import type { Relevo } from '@relevo/client/relevo';
import { FetchService, consumeRequest } from '@relevo/rpc/gen/client/fetch';
import type { RunFigures, RunOptions } from '../failover-run.ts';
import type { Prng } from '../prng.ts';
import { SimulatedCluster, addressOf } from '../simulated-cluster.ts';
import { connectClient } from '../workload.ts';
import { World } from '../world.ts';

const TOPIC = 'orders';
const START_WITHIN_MS = 30_000;
const WITHIN_MS = 60_000;
/** Broker 2 holds no replica: with it, either of the others makes a majority of the controllers. */
const REPLICAS = [0, 1];

export async function truncationsRun(
  seed: number | string,
  options: RunOptions = {},
): Promise<RunFigures> {
  const world = new World({
    seed,
    ...(options.onLog === undefined ? {} : { onLog: options.onLog }),
  });
  const run = new TruncationsRun(world);
  await world.run(() => run.run());
  return run.figures();
}

interface Place {
  readonly offset: number;
  readonly leaderEpoch: number;
}

class TruncationsRun {
  readonly #world: World;
  readonly #cluster: SimulatedCluster;
  readonly #prng: Prng;
  /** What the consumer has read and was not told to be gone, by offset. */
  readonly #read: string[] = [];
  #last: Place = { offset: -1, leaderEpoch: -1 };
  #truncations = 0;
  #sent = 0;

  constructor(world: World) {
    this.#world = world;
    this.#cluster = new SimulatedCluster(world);
    this.#prng = world.prng.split('truncations');
  }

  async run(): Promise<void> {
    const world = this.#world;
    this.#cluster.bootAll();
    await world.until('all brokers serve', () => this.#serve([0, 1, 2]), START_WITHIN_MS);
    const client = await connectClient(world, 'client', this.#cluster.addresses);
    await client.admin.createTopic({
      topic: TOPIC,
      assignment: [REPLICAS],
      config: { 'unclean.leader.election.enable': true, 'min.insync.replicas': 1 },
    });
    const consumer = this.#consume(client);
    for (let round = this.#prng.integer(1, 3); round > 0; round--) await this.#loseTail(client);
    await this.#send(client, this.#prng.integer(0, 20));
    await this.#compare(client);
    await consumer.close();
    await client.close();
  }

  figures(): RunFigures {
    const { trace, prng, nowMs } = this.#world;
    return {
      ...{ acknowledged: this.#sent, unknown: 0, failed: 0 },
      ...{ failoverMs: [], wholeMs: [], elections: this.#truncations },
      events: trace.events,
      virtualMs: nowMs,
      fingerprint: `${trace.hash}-${prng.recorder.last}`,
    };
  }

  #serve(ids: readonly number[]): boolean {
    return ids.every((id) => {
      const node = this.#cluster.process(id).alive ? this.#cluster.node(id) : undefined;
      return node !== undefined && node.unready() === undefined;
    });
  }

  #consume(client: Relevo): Consumer {
    const consumer = client.consumer({
      topics: [TOPIC],
      from: 'earliest',
      maxWaitMs: this.#prng.pick([50, 500]),
      onTruncation: this.#prng.pick(['error', 'seek']),
      onTruncated: ({ position, divergence }) => {
        this.#truncations++;
        this.#world.note('truncated', 'client', `read up to ${position}, goes on at ${divergence}`);
        this.#read.length = Math.min(this.#read.length, divergence);
      },
    });
    this.#readOn(consumer).catch((error: unknown) => this.#world.fail(error));
    return consumer;
  }

  async #readOn(consumer: Consumer): Promise<void> {
    try {
      for await (const { offset, leaderEpoch, value } of consumer) {
        this.#read[offset] = String(value);
        this.#last = { offset, leaderEpoch };
      }
    } catch (error) {
      const truncation = error instanceof ClientError ? error.truncation : undefined;
      if (truncation === undefined) throw error;
      const { topic, partition, divergence } = truncation;
      await consumer.seek({ topic, partition, offset: divergence });
      await this.#readOn(consumer);
    }
  }

  /** Records that one replica alone has, and that are read, are lost with it. */
  async #loseTail(client: Relevo): Promise<void> {
    const world = this.#world;
    await this.#send(client, this.#prng.integer(1, 20));
    const leader = await this.#leader(client);
    const other = REPLICAS.find((id) => id !== leader) ?? 0;
    await this.#cluster.process(other).kill({ unsynced: 'keep' });
    await this.#until(client, 'the leader is alone in sync', ({ isr }) => isr.length === 1);
    await this.#send(client, this.#prng.integer(1, 20));
    await this.#caughtUp();
    const { offset, leaderEpoch } = this.#last;
    await this.#cluster.process(leader).kill({ unsynced: 'keep' });
    this.#cluster.boot(other);
    // Brokers learn of it one after the other: the epoch tells what is news.
    await this.#until(client, 'the other one leads', (state) => {
      return state.leader === other && state.leaderEpoch > leaderEpoch;
    });
    const sent = this.#send(client, this.#prng.integer(0, 40));
    if (this.#prng.chance(0.5)) await sent;
    this.#cluster.boot(leader);
    await sent;
    await world.until('all brokers serve', () => this.#serve([0, 1, 2]), WITHIN_MS);
    await this.#until(client, 'both are in sync', (state) => {
      return state.isr.length === 2 && state.leaderEpoch > leaderEpoch;
    });
    await this.#askPlainly(offset + 1, leaderEpoch);
  }

  /** A plain consumer that goes on where it was before is told too. */
  async #askPlainly(offset: number, leaderEpoch: number): Promise<void> {
    const ports = await this.#ports('plain');
    const ended = await this.#world.within(
      'plain consuming ends',
      WITHIN_MS,
      new Promise<RpcError | undefined>((onEnd) => {
        const channel = ports.transport.dial(addressOf(2));
        const from = { case: 'offset', value: offset } as const;
        const request = consumeRequest({ topic: TOPIC, from, leaderEpoch, stopAtEnd: true });
        channel.subscribe(FetchService.consume, request, { onMessage: () => undefined, onEnd });
      }),
    );
    if (ended?.code === 'LOG_TRUNCATED') return;
    throw new Error(
      `plain consuming from ${offset} after a record of epoch ${leaderEpoch} that is gone ends with ` +
        `${ended?.code ?? 'all well'}: ${ended?.message ?? ''}`,
    );
  }

  async #ports(name: string): Promise<Ports> {
    const process = this.#world.process(name);
    if (process.alive) await process.kill({ unsynced: 'keep' });
    return new Promise((resolve) => process.boot(resolve));
  }

  async #send(client: Relevo, count: number): Promise<void> {
    const producer = client.producer({ lingerMs: 0, deliveryTimeoutMs: WITHIN_MS });
    for (let i = 0; i < count; i++) {
      await producer.send({ topic: TOPIC, partition: 0, value: `v${this.#sent++}` });
    }
    await producer.close();
  }

  /** The consumer has read to the end of the log. */
  async #caughtUp(): Promise<void> {
    const last = `v${this.#sent - 1}`;
    await this.#world.until('the consumer reads on', () => this.#read.at(-1) === last, WITHIN_MS);
  }

  async #leader(client: Relevo): Promise<number> {
    let leader = -1;
    await this.#until(client, 'there is a leader', (state) => {
      leader = state.leader ?? -1;
      return leader >= 0;
    });
    return leader;
  }

  async #until(
    client: Relevo,
    what: string,
    holds: (state: DescribedPartition) => boolean,
  ): Promise<void> {
    const endMs = this.#world.nowMs + WITHIN_MS;
    for (;;) {
      try {
        const { partitions } = await client.admin.describeTopic(TOPIC);
        const [state] = partitions;
        if (state !== undefined && holds(state)) return;
      } catch (error) {
        if (!(error instanceof ClientError)) throw error;
      }
      if (this.#world.nowMs > endMs) throw new Error(`not within ${WITHIN_MS} ms: ${what}`);
      await this.#world.sleep(10);
    }
  }

  /** What the consumer kept is what the log holds in the end. */
  async #compare(client: Relevo): Promise<void> {
    const [end] = await client.admin.listOffsets({ topic: TOPIC });
    const reader = client.consumer({ topics: [TOPIC], from: 'earliest', maxWaitMs: 50 });
    const log: string[] = [];
    if ((end?.offset ?? 0) > 0) {
      for await (const { offset, value } of reader) {
        log[offset] = String(value);
        if (offset + 1 >= (end?.offset ?? 0)) break;
      }
    }
    await reader.close();
    const reads = (): boolean => this.#read.length >= log.length;
    await this.#world.until('the consumer has read all', reads, WITHIN_MS);
    const at = log.findIndex((value, offset) => this.#read[offset] !== value);
    if (at < 0) return;
    throw new Error(
      `the log holds "${log[at]}" at offset ${at}, the consumer keeps "${this.#read[at]}": it was not ` +
        'told that what it had read is gone',
    );
  }
}
