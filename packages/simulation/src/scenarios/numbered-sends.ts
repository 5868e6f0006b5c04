/**
 * Clients of another language: each gets a producer id by a plain call and numbers its calls of
 * `Produce.Send`. They lose patience, repeat calls through any broker while leaders fail, repeat some that
 * were answered, and some copy records that are days old beside others whose records are new. A stranger
 * has written before under ids that nobody was given yet. Every record must be there once, where each of its
 * receipts says (I0, I1, I2).
 */
import { utf8Decode, utf8Encode } from '@relevo/base/bytes';
import { messageOf } from '@relevo/base/errors';
import { partitionName, producerEpoch, producerId } from '@relevo/base/ids';
import { RpcError } from '@relevo/base/ports';
import type { Channel, Ports } from '@relevo/base/ports';
import { BatchBuilder, NO_HEADERS } from '@relevo/record/batch-builder';
import { AdminService, createTopicRequest } from '@relevo/rpc/gen/client/admin';
import { FetchService, consumeRequest } from '@relevo/rpc/gen/client/fetch';
import type { ConsumedRecord } from '@relevo/rpc/gen/client/fetch';
import {
  ProduceService,
  initProducerIdRequest,
  plainRecord,
  produceRequest,
  sendRequest,
} from '@relevo/rpc/gen/client/produce';
import type { Receipt, SendRequest } from '@relevo/rpc/gen/client/produce';
import type { RunFigures, RunOptions } from '../failover-run.ts';
import type { Prng } from '../prng.ts';
import { SimulatedCluster } from '../simulated-cluster.ts';
import { World } from '../world.ts';

const TOPIC = 'orders';
const PARTITIONS = 2;
const START_WITHIN_MS = 30_000;
const SETTLED_WITHIN_MS = 120_000;
const DAY_MS = 86_400_000;
/** Ids that brokers will give out: the first ones of the first blocks of a thousand. */
const IDS_TO_COME = [0, 1, 2, 3, 4, 5].flatMap((block) => [1, 2, 3].map((n) => block * 1000 + n));

export async function numberedSendsRun(
  seed: number | string,
  options: RunOptions = {},
): Promise<RunFigures> {
  const world = new World({
    seed,
    ...(options.onLog === undefined ? {} : { onLog: options.onLog }),
  });
  const run = new NumberedSendsRun(world);
  await world.run(() => run.run());
  return run.figures();
}

/** A call that was acknowledged. */
interface Written {
  readonly partition: number;
  readonly values: readonly string[];
  readonly receipts: readonly Receipt[];
}

class NumberedSendsRun {
  readonly #world: World;
  readonly #cluster: SimulatedCluster;
  readonly #prng: Prng;
  readonly #written: Written[] = [];
  #repeats = 0;

  constructor(world: World) {
    this.#world = world;
    this.#cluster = new SimulatedCluster(world);
    this.#prng = world.prng.split('numbered-sends');
  }

  async run(): Promise<void> {
    const world = this.#world;
    this.#cluster.bootAll();
    await world.until('all brokers serve', () => this.#allServe(), START_WITHIN_MS);
    const stranger = await this.#bootCaller('stranger');
    const created = this.#createTopic(stranger);
    await world.within('the topic is made', START_WITHIN_MS, created);
    await this.#forge(stranger);
    const names = Array.from({ length: this.#prng.integer(2, 4) }, (_, at) => `client-${at}`);
    const callers = await Promise.all(names.map((name) => this.#bootCaller(name)));
    const giver = this.#prng.pick(this.#cluster.ids);
    const all = Promise.all(
      // One copies old records, one does not, of the others some do.
      callers.map((caller, at) =>
        caller.writeAll(giver, at === 0 || (at > 1 && this.#prng.chance(0.5))),
      ),
    );
    for (let round = this.#prng.integer(1, 3); round > 0; round--) await this.#strike();
    await world.within('every call is settled', SETTLED_WITHIN_MS, all);
    const found = await world.within('all is read', SETTLED_WITHIN_MS, readAll(stranger));
    this.#check(found);
  }

  figures(): RunFigures {
    const { trace, prng, nowMs } = this.#world;
    return {
      ...{ acknowledged: this.#written.length, unknown: this.#repeats, failed: 0 },
      ...{ failoverMs: [], wholeMs: [], elections: 0 },
      events: trace.events,
      virtualMs: nowMs,
      fingerprint: `${trace.hash}-${prng.recorder.last}`,
    };
  }

  #allServe(): boolean {
    return this.#cluster.ids.every((id) => this.#cluster.node(id)?.unready() === undefined);
  }

  async #bootCaller(name: string): Promise<Caller> {
    const ports = await new Promise<Ports>((resolve) => this.#world.process(name).boot(resolve));
    return new Caller(name, {
      ports,
      world: this.#world,
      prng: this.#prng.split(name),
      channels: this.#cluster.addresses.map((address) => ports.transport.dial(address)),
      written: (call) => this.#written.push(call),
      repeated: () => (this.#repeats += 1),
    });
  }

  async #createTopic({ deps: { channels } }: Caller): Promise<void> {
    for (;;) {
      try {
        const request = createTopicRequest({ name: TOPIC, partitions: PARTITIONS });
        await channelOf(channels, 0).call(AdminService.createTopic, request, { deadlineMs: 5_000 });
        return;
      } catch (error) {
        if (error instanceof RpcError && error.code === 'TOPIC_ALREADY_EXISTS') return;
        await this.#world.sleep(20);
      }
    }
  }

  /** Batches of one record, as a first call's, under ids that are to come, at every leader. */
  async #forge({ deps: { ports, channels } }: Caller): Promise<void> {
    const [described] = (
      await channelOf(channels, 0).call(
        AdminService.describeTopics,
        { topics: [TOPIC] },
        { deadlineMs: 5_000 },
      )
    ).topics;
    const topicId = described?.topic?.topicId ?? '';
    for (const channel of channels) {
      const stream = channel.open(ProduceService.stream, {
        onMessage: () => undefined,
        onEnd: () => undefined,
      });
      for (const id of IDS_TO_COME) {
        for (let partition = 0; partition < PARTITIONS; partition++) {
          const builder = new BatchBuilder();
          builder.append(null, utf8Encode('forged'), NO_HEADERS, ports.clock.wallMs());
          const numbers = { producerId: producerId(id), producerEpoch: producerEpoch(0) };
          const batch = builder.build({ ...numbers, baseSequence: 0 }, ports.crc32c);
          stream.send(produceRequest({ topicId, partition, leaderEpoch: -1, acks: -1, batch }));
        }
      }
    }
    await this.#world.sleep(500);
  }

  async #strike(): Promise<void> {
    const world = this.#world;
    await world.sleep(this.#prng.between(50, 800));
    const id = this.#prng.pick(this.#cluster.ids);
    const fault = this.#prng.pick(['kill', 'powerCut', 'pause'] as const);
    const process = this.#cluster.process(id);
    const lastsMs = this.#prng.between(200, 3_000);
    world.note('fault', 'scenario', `${fault} at ${id} for ${Math.round(lastsMs)} ms`);
    if (fault === 'pause') process.pause();
    else await process.kill({ unsynced: fault === 'kill' ? 'keep' : 'lose' });
    await world.sleep(lastsMs);
    world.note('mend', 'scenario', `${fault} at ${id}`);
    if (fault === 'pause') process.resume();
    else this.#cluster.boot(id);
    await world.until('all brokers serve', () => this.#allServe(), SETTLED_WITHIN_MS);
  }

  #check(found: readonly ConsumedRecord[]): void {
    const places = new Map<string, ConsumedRecord[]>();
    for (const record of found) {
      const value = utf8Decode(record.value ?? new Uint8Array(0));
      places.set(value, [...(places.get(value) ?? []), record]);
    }
    for (const { partition, values, receipts } of this.#written) {
      values.forEach((value, at) => {
        const [record, second] = places.get(value) ?? [];
        const name = partitionName(TOPIC, partition);
        if (record === undefined)
          throw new Error(
            `lost-write: "${value}" of ${name} is not there (told ${show(receipts[at])}; read ${found.filter((each) => each.partition === partition).length} records of it)`,
          );
        if (second !== undefined) {
          const offsets = `${record.offset} and ${second.offset}`;
          throw new Error(`duplicate: "${value}" of ${name} is at offsets ${offsets} (I2)`);
        }
        const told = show(receipts[at]);
        if (show(record) === told) return;
        throw new Error(`inconsistent-offsets: "${value}" is at ${show(record)}, told was ${told}`);
      });
    }
  }
}

interface CallerDeps {
  readonly ports: Ports;
  readonly world: World;
  readonly prng: Prng;
  readonly channels: readonly Channel[];
  readonly written: (call: Written) => void;
  readonly repeated: () => void;
}

/** A program that knows nothing but the proto files. */
class Caller {
  readonly name: string;
  readonly deps: CallerDeps;
  readonly #sequences: number[] = Array.from({ length: PARTITIONS }, () => 0);
  #values = 0;

  constructor(name: string, deps: CallerDeps) {
    this.name = name;
    this.deps = deps;
  }

  /** `giver`: the broker that is asked first for a producer id; `isBackfill`: the records are old ones. */
  async writeAll(giver: number, isBackfill: boolean): Promise<void> {
    const { prng, world, written } = this.deps;
    const id = await this.#producerId(giver);
    const ageMs = isBackfill ? 3 * DAY_MS : 0;
    for (let calls = prng.integer(5, 25); calls > 0; calls--) {
      const partition = prng.integer(0, PARTITIONS - 1);
      const sequence = this.#sequences[partition] ?? 0;
      const values = Array.from(
        { length: sequence === 0 ? 1 : prng.integer(1, 3) },
        () => `${this.name}/${this.#values++}`,
      );
      const request = this.#request(values, ageMs, { partition, sequence, producerId: id });
      const receipts = await this.#insist(request);
      written({ partition, values, receipts });
      this.#sequences[partition] = sequence + values.length;
      await world.sleep(prng.between(0, 120));
      // As if the answer had been lost: others have written meanwhile.
      if (prng.chance(0.4)) this.#compare(receipts, await this.#insist(request));
    }
  }

  #request(values: readonly string[], ageMs: number, numbers: Partial<SendRequest>): SendRequest {
    const { ports, prng } = this.deps;
    const timestampMs = ageMs > 0 || prng.chance(0.5) ? ports.clock.wallMs() - ageMs : undefined;
    const records = values.map((value) => plainRecord({ value: utf8Encode(value), timestampMs }));
    return sendRequest({ topic: TOPIC, records, producerEpoch: 0, timeoutMs: 2_000, ...numbers });
  }

  async #producerId(giver: number): Promise<number> {
    const { prng, channels, world } = this.deps;
    for (let attempt = 0; ; attempt++) {
      try {
        const channel = attempt === 0 ? channelOf(channels, giver) : prng.pick(channels);
        const within = { deadlineMs: 1_000 };
        const request = initProducerIdRequest();
        return (await channel.call(ProduceService.initProducerId, request, within)).producerId;
      } catch {
        await world.sleep(50);
      }
    }
  }

  /** The same call through one broker after the other, with more or less patience. */
  async #insist(request: SendRequest): Promise<readonly Receipt[]> {
    const { prng, channels, world, repeated } = this.deps;
    for (;;) {
      try {
        const deadlineMs = prng.chance(0.3) ? prng.between(5, 60) : 3_000;
        const channel = prng.pick(channels);
        return (await channel.call(ProduceService.send, request, { deadlineMs })).receipts;
      } catch (error) {
        if (!mayTryAgain(error)) throw error;
        world.note('repeat', this.name, messageOf(error));
        repeated();
        await world.sleep(prng.between(0, 40));
      }
    }
  }

  #compare(first: readonly Receipt[], again: readonly Receipt[]): void {
    const [told, now] = [first, again].map((receipts) => receipts.map(show).join(', '));
    if (told === now) return;
    throw new Error(`${this.name}: a repeat was told ${now}, the first call ${told} (I2)`);
  }
}

/** A refusal of the numbers is final; a broker that was away may not know yet whom ids were given to. */
function mayTryAgain(error: unknown): boolean {
  if (!(error instanceof RpcError)) return false;
  if (error.code === 'UNKNOWN_PRODUCER_ID') return error.message.includes('has not been given');
  return ['UNAVAILABLE', 'DEADLINE_EXCEEDED', 'CANCELLED', 'NOT_FOUND'].includes(error.status);
}

/** From the first broker that gives all of it. */
async function readAll({ deps: { channels, world } }: Caller): Promise<ConsumedRecord[]> {
  for (let attempt = 0; ; attempt++) {
    try {
      return await readFrom(channelOf(channels, attempt % channels.length));
    } catch (error) {
      if (!mayTryAgain(error)) throw error;
      await world.sleep(50);
    }
  }
}

function readFrom(channel: Channel): Promise<ConsumedRecord[]> {
  const found: ConsumedRecord[] = [];
  const from = { case: 'earliest', value: true } as const;
  return new Promise((resolve, reject) => {
    channel.subscribe(
      FetchService.consume,
      consumeRequest({ topic: TOPIC, from, stopAtEnd: true }),
      {
        onMessage: ({ records }) => void found.push(...records),
        onEnd: (error) => (error === undefined ? resolve(found) : reject(error)),
      },
    );
  });
}

const show = (at: Pick<Receipt, 'partition' | 'offset' | 'timestampMs'> | undefined): string =>
  at === undefined
    ? 'nothing'
    : `${partitionName(TOPIC, at.partition)}@${at.offset}, ${at.timestampMs}`;

function channelOf(channels: readonly Channel[], at: number): Channel {
  const channel = channels[at];
  if (channel === undefined) throw new RangeError(`there is no broker ${at}`);
  return channel;
}
