/**
 * The topics of a hostile run: made, deleted, grown and altered while records are sent to them and read from
 * them; and what must hold of each in the end.
 */
import { partitionName } from '@relevo/base/ids';
import { ClientError } from '@relevo/client/errors';
import type { Consumer } from '@relevo/client/consumer/consumer';
import type { Producer } from '@relevo/client/producer/producer';
import type { Relevo } from '@relevo/client/relevo';
import { History } from '../history.ts';
import type { Anomaly, Sent } from '../history.ts';
import type { Prng } from '../prng.ts';
import { WALL_EPOCH_MS } from '../simulated-process.ts';
import { idOf, padded } from '../workload.ts';
import type { World } from '../world.ts';
import { drawAlteration, drawTopic } from './hostile-plan.ts';
import type { Change, HostilePlan, TopicPlan } from './hostile-plan.ts';

const READ_WITHIN_MS = 60_000;
const CALL_WITHIN_MS = 60_000;
const TOPICS_MAX = 4;
const PARTITIONS_MAX = 5;
const ANOMALIES_SHOWN_MAX = 10;

export interface Topic {
  readonly name: string;
  readonly topicId: string;
  readonly history: History;
  readonly config: Record<string, number | string>;
  /** The loosest that retention was, or the default. */
  readonly retained: { bytes: boolean; ms: number };
  partitions: number;
  /** Retention may delete what is sent to it. */
  isTrimmed: boolean;
  /** No longer sent to, and not checked. */
  doomed: boolean;
  follower: Reader | undefined;
  readonly timestamps: Map<string, number>;
}

export interface TopicsOptions {
  readonly world: World;
  readonly client: Relevo;
  readonly plan: HostilePlan;
  readonly prng: Prng;
  readonly count: (what: string) => void;
  /** A broker may hold damaged bytes: then readers may refuse what they are given. */
  readonly mayBeDamaged: () => boolean;
  readonly onAck: (topic: Topic, sent: Sent) => void;
}

export class HostileTopics {
  readonly #options: TopicsOptions;
  readonly #live = new Map<string, Topic>();
  readonly #all: Topic[] = [];
  /** Whose fate nobody knows, as a call about them has failed. */
  readonly uncertain: Set<string> = new Set();
  readonly deletedIds: Set<string> = new Set();
  #made = 0;
  #sent = 0;
  #stopped = false;
  readonly #unsettled = new Set<Promise<void>>();
  #loops: Promise<void>[] = [];

  constructor(options: TopicsOptions) {
    this.#options = options;
  }

  get live(): readonly Topic[] {
    return [...this.#live.values()];
  }

  count(outcome: 'acknowledged' | 'unknown' | 'failed'): number {
    return this.#all.reduce((sum, { history }) => sum + history.count(outcome), 0);
  }

  // --------------------------------------------------------------------------------- changes

  async create({ partitions, config }: TopicPlan): Promise<void> {
    const { client, world, count, plan } = this.#options;
    const name = `topic-${this.#made++}`;
    try {
      const { topicId } = await world.within(
        'a topic is made',
        CALL_WITHIN_MS,
        client.admin.createTopic({ topic: name, partitions, replicationFactor: 3, config }),
      );
      const topic: Topic = {
        ...{ name, topicId, partitions, doomed: false, follower: undefined },
        history: new History(),
        config: { ...config },
        retained: {
          bytes: 'retention.bytes' in config,
          ms: Number(config['retention.ms'] ?? 7 * 86_400_000),
        },
        isTrimmed: plan.oldestMs > 0 || 'retention.bytes' in config || 'retention.ms' in config,
        timestamps: new Map(),
      };
      this.#live.set(name, topic);
      this.#all.push(topic);
      if (plan.follows) topic.follower = new Reader('follower', topic, this.#options);
      count('change: create');
    } catch (error) {
      this.#failed(name, 'create', error);
    }
  }

  async change(kind: Change): Promise<void> {
    const { prng } = this.#options;
    if (kind === 'create') {
      if (this.#live.size < TOPICS_MAX) await this.create(drawTopic(prng));
      return;
    }
    const known = this.live;
    if (known.length === 0) return;
    const topic = prng.pick(known);
    if (kind === 'delete') {
      if (known.length > 1) await this.#delete(topic);
    } else if (kind === 'grow') await this.#grow(topic);
    else await this.#alter(topic);
  }

  async #delete(topic: Topic): Promise<void> {
    const { client, world, count } = this.#options;
    topic.doomed = true;
    this.#live.delete(topic.name);
    try {
      const deleting = client.admin.deleteTopic(topic.name);
      await world.within('a topic is deleted', CALL_WITHIN_MS, deleting);
      this.deletedIds.add(topic.topicId);
      count('change: delete');
    } catch (error) {
      this.#failed(topic.name, 'delete', error);
    }
  }

  async #grow(topic: Topic): Promise<void> {
    const { client, world, count } = this.#options;
    const total = topic.partitions + 1;
    if (total > PARTITIONS_MAX) return;
    try {
      const growing = client.admin.createPartitions(topic.name, total);
      await world.within('a topic is grown', CALL_WITHIN_MS, growing);
      topic.partitions = total;
      count('change: grow');
    } catch (error) {
      this.#failed(undefined, 'grow', error);
      // It may have grown: what is not counted is not sent to.
    }
  }

  async #alter(topic: Topic): Promise<void> {
    const { client, world, count, prng } = this.#options;
    const set = drawAlteration(prng);
    topic.isTrimmed ||= 'retention.bytes' in set || 'retention.ms' in set;
    // In force as soon as it may be.
    if ('retention.bytes' in set) topic.retained.bytes = true;
    const { 'retention.ms': ms } = set;
    if (ms !== undefined) topic.retained.ms = Math.min(topic.retained.ms, ms);
    try {
      const altering = client.admin.alterTopicConfig({ topic: topic.name, set });
      await world.within('a topic is altered', CALL_WITHIN_MS, altering);
      count('change: alter');
    } catch (error) {
      this.#failed(undefined, 'alter', error);
    }
  }

  #failed(name: string | undefined, what: string, error: unknown): void {
    if (!(error instanceof ClientError)) throw error;
    const { world, count } = this.#options;
    world.note('change', 'scenario', `${what} failed: ${error.code} ${error.message}`);
    count(`change failed: ${error.code}`);
    if (name !== undefined) this.uncertain.add(name);
  }

  // ------------------------------------------------------------------------------------ load

  start(): void {
    const { plan, client, prng } = this.#options;
    for (let at = 0; at < plan.producers; at++) {
      const own = prng.split(`p${at}`);
      const { lingerMs, deliveryTimeoutMs } = plan;
      const compression = own.chance(0.1) ? 'gzip' : 'none';
      const producer = client.producer({ lingerMs, deliveryTimeoutMs, compression });
      this.#loops.push(this.#produce(`p${at}`, producer, own));
    }
    if (plan.changes.length > 0) this.#loops.push(this.#keepChanging());
  }

  async stop(): Promise<void> {
    this.#stopped = true;
    await Promise.all(this.#loops);
    await Promise.all(this.#unsettled);
  }

  async #keepChanging(): Promise<void> {
    const { world, plan, prng } = this.#options;
    while (!this.#stopped) {
      await world.sleep(prng.exponential(plan.changeEveryMs));
      if (!this.#stopped) await this.change(prng.pick(plan.changes));
    }
  }

  async #produce(name: string, producer: Producer, prng: Prng): Promise<void> {
    const { world, plan } = this.#options;
    while (!this.#stopped) {
      const burst = prng.chance(0.1) ? prng.integer(2, 20) : 1;
      const known = this.live;
      if (known.length > 0) {
        for (let at = 0; at < burst; at++) this.#send(name, producer, prng.pick(known), prng);
      }
      await world.sleep(prng.exponential(plan.sendEveryMs * burst));
    }
    await producer.flush();
  }

  #send(name: string, producer: Producer, topic: Topic, prng: Prng): void {
    const { plan, world } = this.#options;
    const partition = prng.integer(0, topic.partitions - 1);
    const id = `${name}-${this.#sent++}`;
    const sent = topic.history.send(name, partition, id);
    const timestamp =
      plan.oldestMs > 0 && prng.chance(0.7)
        ? Math.floor(WALL_EPOCH_MS + world.nowMs - prng.float() * plan.oldestMs)
        : undefined;
    topic.timestamps.set(id, timestamp ?? WALL_EPOCH_MS + world.nowMs);
    const value = padded(id, prng.integer(0, plan.valueBytesMax));
    const record = { topic: topic.name, partition, key: name, value };
    const settled = producer
      .send(timestamp === undefined ? record : { ...record, timestamp })
      .then(
        (receipt) => {
          sent.outcome = 'acknowledged';
          sent.offset = receipt.offset;
          sent.leaderEpoch = receipt.leaderEpoch;
          this.#options.onAck(topic, sent);
        },
        (error: unknown) => this.#sendFailed(topic, sent, error),
      )
      .then(() => void this.#unsettled.delete(settled));
    this.#unsettled.add(settled);
  }

  #sendFailed(topic: Topic, sent: Sent, error: unknown): void {
    if (!(error instanceof ClientError)) return this.#options.world.fail(error);
    sent.outcome = error.outcomeUnknown ? 'unknown' : 'failed';
    sent.reason = `${error.code}: ${error.message}`;
    this.#options.count(`send ${sent.outcome}: ${error.code}`);
    if (topic.doomed || error.code === 'DELIVERY_TIMED_OUT' || error.code === 'DISK_FULL') return;
    this.#options.world.note('send', sent.producer, `${sent.outcome}: ${sent.reason}`);
  }

  // -------------------------------------------------------------------------------- checking

  /** Reads all topics from their beginnings, and gives where each partition begins and ends. */
  async check(): Promise<Map<Topic, Extent[]>> {
    const extents = new Map<Topic, Extent[]>();
    for (const topic of this.live) extents.set(topic, await this.#check(topic));
    return extents;
  }

  async #check(topic: Topic): Promise<Extent[]> {
    const { world, client } = this.#options;
    const reader = new Reader('reader', topic, this.#options);
    const ask = (at: 'earliest' | 'latest'): ReturnType<Relevo['admin']['listOffsets']> =>
      world.within(
        `the ${at} offsets are told`,
        READ_WITHIN_MS,
        client.admin.listOffsets({ topic: topic.name, at }),
      );
    const ends = await ask('latest');
    for (const one of [reader, topic.follower]) {
      if (one === undefined) continue;
      const starts = await ask('earliest');
      const startOf = (partition: number): number =>
        starts.find((start) => start.partition === partition)?.offset ?? 0;
      const done = (): boolean =>
        ends.every(({ partition, offset }) => {
          return Math.max(one.next(partition), startOf(partition)) >= offset;
        });
      const why = (): string =>
        ends.map(({ partition, offset }) => `${one.next(partition)}/${offset}`).join(' ');
      const what = `the ${one.name} has read all of ${topic.name}`;
      await world.until(what, done, READ_WITHIN_MS, why);
      await one.close();
    }
    const starts = await ask('earliest');
    const extents = ends.map(({ partition, offset: end }): Extent => {
      const start = starts.find((each) => each.partition === partition)?.offset ?? 0;
      return { partition, start, end };
    });
    const startOf = (partition: number): number => extents[partition]?.start ?? 0;
    report(
      topic.name,
      topic.history.check(['reader'], topic.follower ? ['follower'] : [], startOf),
    );
    this.#checkRetention(topic, extents);
    return extents;
  }

  /** What is gone was old enough. Wall clocks may be off by what they jumped. */
  #checkRetention(topic: Topic, extents: readonly Extent[]): void {
    if (topic.retained.bytes || topic.retained.ms < 86_400_000) return;
    const { world } = this.#options;
    const keptFromMs = WALL_EPOCH_MS + world.nowMs + CLOCK_JUMP_MAX_MS - topic.retained.ms;
    for (const { value, partition, offset, outcome } of topic.history.sent) {
      if (outcome !== 'acknowledged' || offset < 0) continue;
      if (offset >= (extents[partition]?.start ?? 0)) continue;
      const timestamp = topic.timestamps.get(value) ?? 0;
      if (timestamp < keptFromMs) continue;
      const name = partitionName(topic.name, partition);
      throw new Error(`${name} begins after offset ${offset}, which retention keeps`);
    }
  }
}

/** Until a reader asks again for what was damaged. */
const REREAD_MS = 200;

/** Wall clocks jump by no more than this. */
export const CLOCK_JUMP_MAX_MS: number = 3 * 3_600_000;

export interface Extent {
  readonly partition: number;
  readonly start: number;
  readonly end: number;
}

/** Reads a topic from its beginning; goes on where retention was faster, and after bytes that it refuses. */
class Reader {
  readonly name: string;
  readonly #topic: Topic;
  readonly #options: TopicsOptions;
  readonly #consumer: Consumer;
  #closed = false;
  readonly #next = new Map<number, number>();

  constructor(name: string, topic: Topic, options: TopicsOptions) {
    this.name = name;
    this.#topic = topic;
    this.#options = options;
    this.#consumer = this.#open();
    this.#read().catch((error: unknown) => {
      const isGone = error instanceof ClientError && error.code === 'UNKNOWN_TOPIC_OR_PARTITION';
      if (!isGone || !topic.doomed) options.world.fail(error);
    });
  }

  next(partition: number): number {
    return this.#next.get(partition) ?? 0;
  }

  close(): Promise<void> {
    this.#closed = true;
    return this.#consumer.close();
  }

  #open(): Consumer {
    const { client, count } = this.#options;
    return client.consumer({
      topics: [this.#topic.name],
      from: 'earliest',
      maxWaitMs: 500,
      onOutOfRange: 'earliest',
      onGap: ({ partition, from, to }) => {
        count('reader was told of a gap');
        this.#topic.history.gap(this.name, { partition, from, to });
        this.#next.set(partition, to);
      },
    });
  }

  async #read(): Promise<void> {
    while (!this.#closed) {
      try {
        for await (const { partition, offset, value } of this.#consumer) {
          this.#topic.history.read(this.name, { partition, offset, value: idOf(value) });
          this.#next.set(partition, offset + 1);
        }
      } catch (error) {
        await this.#refused(error);
      }
    }
  }

  /** The client has seen damage that the broker had not: it asks again until the broker has, too. */
  async #refused(error: unknown): Promise<void> {
    const isDamage = error instanceof ClientError && error.code === 'CORRUPT_RECORDS';
    if (!isDamage || !this.#options.mayBeDamaged()) throw error;
    this.#options.count('reader refused damaged bytes');
    await this.#options.world.sleep(REREAD_MS);
    // What was fetched is thrown away, and fetched once more.
    const { name: topic, partitions } = this.#topic;
    for (let partition = 0; partition < partitions; partition++) {
      await this.#consumer.seek({ topic, partition, offset: this.next(partition) });
    }
  }
}

function report(topic: string, anomalies: readonly Anomaly[]): void {
  if (anomalies.length === 0) return;
  const shown = anomalies.slice(0, ANOMALIES_SHOWN_MAX).map(({ kind, text }) => `${kind}: ${text}`);
  throw new Error(`${topic}: ${anomalies.length} anomalies:\n  ${shown.join('\n  ')}`);
}
