/**
 * Leaders that are frozen, cut off or restarted are asked directly, while they are and as they come back:
 * no answer may be older than what was acknowledged before the question (P7). Asked are: the latest offset,
 * a fetch at a position that was valid, plain consuming up to the end, and whether the topic exists.
 */
import { errorCodeOf, messageOf } from '@relevo/base/errors';
import type { Channel, MessageStream, Ports, RpcError } from '@relevo/base/ports';
import type { Relevo } from '@relevo/client/relevo';
import {
  FetchService,
  consumeRequest,
  fetchPartition,
  fetchRequest,
  listOffsetsPartition,
} from '@relevo/rpc/gen/client/fetch';
import type { FetchResponse } from '@relevo/rpc/gen/client/fetch';
import type { RunFigures, RunOptions } from '../failover-run.ts';
import { MetadataWatcher } from '../metadata-watcher.ts';
import type { Prng } from '../prng.ts';
import { SimulatedCluster } from '../simulated-cluster.ts';
import { connectClient } from '../workload.ts';
import { World } from '../world.ts';

const TOPIC = 'orders';
const START_WITHIN_MS = 30_000;
const WHOLE_WITHIN_MS = 60_000;
/** A question is not given up while its broker is frozen. */
const ASK_WITHIN_MS = 20_000;
const LATEST = -1;
/** Records before the end at which a plain consumer begins. */
const LAST_RECORDS = 3;

/**
 * The successor of a controller that was cut off fences its broker long before that controller has noticed
 * that nobody hears it.
 */
const SHORT_SESSIONS = {
  'broker.session.timeout.ms': '450',
  'broker.heartbeat.interval.ms': '100',
  'controller.quorum.election.timeout.ms': '1000',
};

type Fault = 'deaf' | 'isolate' | 'kill' | 'mute' | 'pause';
const FAULTS: readonly Fault[] = ['deaf', 'isolate', 'kill', 'mute', 'pause', 'pause'];
const CONTROLLER_FAULTS: readonly Fault[] = ['isolate', 'isolate', 'isolate', 'pause'];
const PARTITIONS = [0, 1, 2];

export async function staleReadsRun(
  seed: number | string,
  options: RunOptions = {},
): Promise<RunFigures> {
  const world = new World({
    seed,
    ...(options.onLog === undefined ? {} : { onLog: options.onLog }),
  });
  const run = new StaleReadsRun(world);
  await world.run(() => run.run());
  return run.figures();
}

class StaleReadsRun {
  readonly #world: World;
  readonly #cluster: SimulatedCluster;
  readonly #prng: Prng;
  #topicId = '';
  #watcher: MetadataWatcher | undefined;
  /** By partition: the offset after the last record that was acknowledged. */
  readonly #ends = new Map<number, number>();
  /** Where the next fault strikes, most questions are asked. */
  #asked = 0;
  #writing = true;
  #asking = true;
  #answers = 0;
  readonly #questions = new Set<Promise<void>>();

  constructor(world: World) {
    this.#world = world;
    this.#prng = world.prng.split('stale-reads');
    const settings = this.#prng.chance(0.75) ? SHORT_SESSIONS : {};
    this.#cluster = new SimulatedCluster(world, { settings: () => settings });
  }

  async run(): Promise<void> {
    const world = this.#world;
    this.#cluster.bootAll();
    await world.until('all brokers serve', () => this.#allServe(), START_WITHIN_MS);
    world.process('watcher').boot((ports) => {
      this.#watcher = new MetadataWatcher(ports, (text) => world.fail(new Error(text)));
      for (const address of this.#cluster.addresses) this.#watcher.follow(address);
    });
    const client = await connectClient(world, 'client', this.#cluster.addresses);
    // Each broker leads one, the active controller too.
    const assignment = PARTITIONS.map((first) => [first, (first + 1) % 3, (first + 2) % 3]);
    const created = await client.admin.createTopic({ topic: TOPIC, assignment });
    this.#topicId = created.topicId;
    const writers = PARTITIONS.map((partition) => this.#write(client, partition));
    const begun = (): boolean => PARTITIONS.every((partition) => this.#end(partition) > 0);
    await world.until('records are acknowledged', begun, START_WITHIN_MS);
    const ports = await new Promise<Ports>((resolve) => world.process('asker').boot(resolve));
    const askers = this.#cluster.addresses.map((address) =>
      this.#ask(ports.transport.dial(address), address),
    );
    for (let round = this.#prng.integer(1, 3); round > 0; round--) await this.#strike();
    this.#writing = false;
    await world.within('the writers are done', WHOLE_WITHIN_MS, Promise.all(writers));
    this.#asking = false;
    await world.within('the askers are done', WHOLE_WITHIN_MS, Promise.all(askers));
    await world.within('every answer has come', WHOLE_WITHIN_MS, Promise.all(this.#questions));
    this.#watcher?.stop();
    await client.close();
  }

  figures(): RunFigures {
    const { trace, prng, nowMs } = this.#world;
    return {
      acknowledged: PARTITIONS.reduce((sum, partition) => sum + this.#end(partition), 0),
      ...{ unknown: 0, failed: 0 },
      ...{ failoverMs: [], wholeMs: [], elections: this.#answers },
      events: trace.events,
      virtualMs: nowMs,
      fingerprint: `${trace.hash}-${prng.recorder.last}`,
    };
  }

  #allServe(): boolean {
    return this.#cluster.ids.every((id) => {
      const node = this.#cluster.process(id).alive ? this.#cluster.node(id) : undefined;
      return node !== undefined && node.unready() === undefined;
    });
  }

  // ------------------------------------------------------------------------------- faults

  async #strike(): Promise<void> {
    const world = this.#world;
    await world.sleep(this.#prng.between(100, 600));
    const { controllerId = -1 } = this.#watcher ?? {};
    const isController = controllerId >= 0 && this.#prng.chance(0.7);
    const victim = isController ? controllerId : this.#prng.pick(this.#cluster.ids);
    const led = this.#watcher?.partitions(TOPIC).filter(({ leader }) => leader === victim) ?? [];
    this.#asked = (led.length > 0 ? this.#prng.pick(led) : undefined)?.partition ?? this.#asked;
    const fault = this.#prng.pick(isController ? CONTROLLER_FAULTS : FAULTS);
    const lastsMs = isController
      ? this.#prng.between(1_500, 4_000)
      : this.#prng.between(200, 3_500);
    world.note('fault', 'scenario', `${fault} at ${victim} for ${Math.round(lastsMs)} ms`);
    const mend = await this.#suffer(victim, fault);
    await world.sleep(lastsMs);
    world.note('mend', 'scenario', `${fault} at ${victim}`);
    mend();
    await world.until('all brokers serve', () => this.#allServe(), WHOLE_WITHIN_MS);
  }

  /** Clients reach all brokers throughout. */
  async #suffer(victim: number, fault: Fault): Promise<() => void> {
    const process = this.#cluster.process(victim);
    if (fault === 'kill') {
      await process.kill({ unsynced: 'keep' });
      return () => this.#cluster.boot(victim);
    }
    if (fault === 'pause') {
      process.pause();
      return () => process.resume();
    }
    const links = { out: fault !== 'deaf', into: fault !== 'mute' };
    return this.#cluster.cut(victim, links, []);
  }

  #end(partition: number): number {
    return this.#ends.get(partition) ?? 0;
  }

  async #write(client: Relevo, partition: number): Promise<void> {
    const producer = client.producer({ lingerMs: 0, deliveryTimeoutMs: WHOLE_WITHIN_MS });
    while (this.#writing) {
      const receipt = await producer.send({ topic: TOPIC, partition, value: 'x' });
      this.#ends.set(partition, Math.max(this.#end(partition), receipt.offset + 1));
      await this.#world.sleep(this.#prng.between(1, partition === this.#asked ? 15 : 90));
    }
    await producer.close();
  }

  // ------------------------------------------------------------------------------- asking

  async #ask(channel: Channel, address: string): Promise<void> {
    while (this.#asking) {
      const kind = this.#prng.pick(['latest', 'latest', 'fetch', 'consume'] as const);
      const question = this.#askOnce(channel, address, kind)
        .catch((error: unknown) => this.#world.fail(error))
        .finally(() => this.#questions.delete(question));
      this.#questions.add(question);
      await this.#world.sleep(this.#prng.between(5, 40));
    }
  }

  async #askOnce(
    channel: Channel,
    address: string,
    kind: 'latest' | 'fetch' | 'consume',
  ): Promise<void> {
    const partition = this.#prng.chance(0.8) ? this.#asked : this.#prng.pick(PARTITIONS);
    const acknowledgedEnd = this.#end(partition);
    const askedMs = this.#world.nowMs;
    let told: string | undefined;
    if (kind === 'latest') told = await this.#latest(channel, partition, acknowledgedEnd);
    else if (kind === 'fetch') told = await this.#fetchAt(channel, partition, acknowledgedEnd);
    else told = await this.#consumeLast(channel, partition, acknowledgedEnd);
    this.#answers++;
    if (told === undefined) return;
    const times = `asked at ${askedMs.toFixed(1)}, answered at ${this.#world.nowMs.toFixed(1)} ms`;
    throw new Error(
      `${address} ${told}, though ${acknowledgedEnd} were acknowledged (P7; ${times})`,
    );
  }

  /** What is wrong with the answer; undefined: nothing, or there was none. */
  async #latest(
    channel: Channel,
    partition: number,
    acknowledgedEnd: number,
  ): Promise<string | undefined> {
    const wanted = { topicId: this.#topicId, partition, leaderEpoch: -1, timestampMs: LATEST };
    const request = { partitions: [listOffsetsPartition(wanted)] };
    try {
      const within = { deadlineMs: ASK_WITHIN_MS };
      const { partitions } = await channel.call(FetchService.listOffsets, request, within);
      const [answer] = partitions;
      if (answer === undefined || answer.error !== 0) return undefined;
      return answer.offset >= acknowledgedEnd ? undefined : `says: latest is ${answer.offset}`;
    } catch {
      return undefined;
    }
  }

  async #fetchAt(channel: Channel, partition: number, offset: number): Promise<string | undefined> {
    const answer = await new Promise<FetchResponse | undefined>((resolve) => {
      const stream: MessageStream<unknown> = channel.open(FetchService.stream, {
        onMessage: (response) => {
          resolve(response);
          stream.end();
        },
        onEnd: () => resolve(undefined),
      });
      const wanted = { topicId: this.#topicId, partition, leaderEpoch: -1, offset };
      stream.send(
        fetchRequest({
          correlationId: 1,
          partitions: [fetchPartition({ ...wanted, maxBytes: 1 })],
        }),
      );
    });
    const code = errorCodeOf(answer?.partitions[0]?.error ?? 0);
    return code === 'OFFSET_OUT_OF_RANGE' ? `says of offset ${offset}: ${code}` : undefined;
  }

  /** The last records, to the end as it was at the call, through this broker. */
  async #consumeLast(
    channel: Channel,
    partition: number,
    acknowledgedEnd: number,
  ): Promise<string | undefined> {
    const from = Math.max(0, acknowledgedEnd - LAST_RECORDS);
    let next = from;
    const ended = await new Promise<RpcError | undefined>((resolve) => {
      channel.subscribe(
        FetchService.consume,
        consumeRequest({
          topic: TOPIC,
          partitions: [partition],
          from: { case: 'offset', value: from },
          stopAtEnd: true,
        }),
        {
          onMessage: ({ records }) => {
            for (const { offset } of records) next = Math.max(next, offset + 1);
          },
          onEnd: resolve,
        },
      );
    });
    if (ended === undefined) {
      return next >= acknowledgedEnd ? undefined : `ends consuming at ${next}`;
    }
    const { code } = ended;
    const wrong = code === 'UNKNOWN_TOPIC_OR_PARTITION' || code === 'OFFSET_OUT_OF_RANGE';
    return wrong ? `refuses consuming from ${from}: ${code} ${messageOf(ended)}` : undefined;
  }
}
