/**
 * Plain records into batches: one lane per partition, one batch under way in each, with an idempotent
 * producer of this broker's own, so that a failover while a batch is under way writes nothing twice. What
 * comes to a lane meanwhile goes into its next batch.
 */
import { RelevoError, errorCodeOf, messageOf, ERRORS } from '@relevo/base/errors';
import type { ErrorCode } from '@relevo/base/errors';
import { NO_BROKER, partitionName } from '@relevo/base/ids';
import type { Uuid } from '@relevo/base/ids';
import type { Clock, Crc32c, Random, Timers, Transport } from '@relevo/base/ports';
import { backoffMs } from '@relevo/base/retry';
import type { ClusterImage, TopicImage } from '@relevo/controller/image';
import { topicSettings } from '@relevo/controller/topic-config';
import type { TopicSettings } from '@relevo/controller/topic-config';
import { sequenceAfter } from '@relevo/record/batch-header';
import { partitionForKey } from '@relevo/record/murmur2';
import {
  ProduceService as methods,
  produceRequest,
  sendResponse,
  type PlainRecord,
  type ProduceRequest,
  type ProduceResponse,
  type Receipt,
  type SendRequest,
  type SendResponse,
} from '@relevo/rpc/gen/client/produce';
import { LeaderCalls, answerWithin } from './leader-calls.ts';
import { ATTEMPT_MS, NumberedSends, numbersOf } from './numbered-sends.ts';
import type { Numbers } from './numbered-sends.ts';
import { buildBatch, jobRecord, runsOf } from './plain-jobs.ts';
import type { Call, Job, JobRecord } from './plain-jobs.ts';
import { Held, JobQueue, assertRoomInAll } from './plain-queue.ts';

export const SEND_TIMEOUT_DEFAULT_MS = 30_000;
export const SEND_TIMEOUT_MAX_MS = 300_000;
/** Records of one call. */
export const SEND_RECORDS_MAX = 10_000;
const RETRY = { initialMs: 10, maxMs: 250, factor: 2, jitter: 0.2 };

export interface PlainProducerDeps {
  readonly clock: Clock;
  readonly timers: Timers;
  readonly random: Random;
  readonly transport: Transport;
  readonly crc32c: Crc32c;
  readonly image: () => ClusterImage;
  /** Throws LEADER_NOT_AVAILABLE while this broker cannot say what there is not. */
  readonly assertCurrent: () => void;
  /** Of the cluster, for what a topic does not set. */
  readonly topicDefaults: TopicSettings;
  /** One that nobody else has. */
  readonly newProducerId: () => Promise<number>;
}

/** Of one call, for one batch. */
type Portion = Pick<Job, 'records' | 'bytes' | 'batchBytesMax'> & { readonly partition: number };

interface Enqueued {
  readonly records: readonly JobRecord[];
  readonly receipts: Promise<readonly Receipt[]>;
  /** Answers it, unless it is under way, or has been answered. */
  readonly giveUp: () => void;
}

interface Lane {
  readonly key: string;
  readonly topicId: Uuid;
  readonly topic: string;
  readonly partition: number;
  readonly queue: JobQueue;
  busy: boolean;
  /** Undefined: none yet, or the one before has lost track of what was written. */
  producer: { readonly id: number; readonly epoch: number; sequence: number } | undefined;
}

/** What became of one batch so far. */
interface Attempts {
  /** An earlier attempt may have been written. */
  uncertain: boolean;
  /** Why the last attempt failed. */
  last: string;
  /** What the caller is told when time is up and nothing was written. */
  code: ErrorCode;
}

const NO_LEADER = 'the partition has no leader';
/** The leader knows of this producer something else than this lane. */
const SEQUENCE_ERRORS: ReadonlySet<ErrorCode> = new Set<ErrorCode>([
  'OUT_OF_ORDER_SEQUENCE_NUMBER',
  'DUPLICATE_SEQUENCE_NUMBER',
  'INVALID_PRODUCER_EPOCH',
  'UNKNOWN_PRODUCER_ID',
]);
/** Retriable, and certain: nothing was appended. */
const REFUSED_BEFORE_APPEND: ReadonlySet<ErrorCode> = new Set<ErrorCode>([
  'NOT_ENOUGH_REPLICAS',
  'DISK_FULL',
]);

export class PlainProducer {
  readonly #deps: PlainProducerDeps;
  readonly #calls: LeaderCalls<ProduceRequest, ProduceResponse>;
  readonly #lanes = new Map<string, Lane>();
  readonly #held = new Held();
  readonly #numbered: NumberedSends;
  #turn = 0;

  constructor(deps: PlainProducerDeps) {
    this.#deps = deps;
    this.#calls = new LeaderCalls(deps.transport, methods.stream);
    this.#numbered = new NumberedSends({ ...deps, calls: this.#calls });
  }

  close(): void {
    this.#calls.close();
  }

  async send(request: SendRequest): Promise<SendResponse> {
    const { records } = request;
    const acks = request.acks ?? -1;
    if (acks !== -1 && acks !== 1) {
      const message = `acks is ${acks}: use -1 (all in-sync replicas) or 1 (the leader)`;
      throw new RelevoError('INVALID_REQUIRED_ACKS', message);
    }
    if (records.length === 0 || records.length > SEND_RECORDS_MAX) {
      const message = `${records.length} records in one call: send from 1 to ${SEND_RECORDS_MAX}`;
      throw new RelevoError('INVALID_REQUEST', message);
    }
    const numbers = numbersOf(request, acks);
    const topic = this.#topic(request.topic);
    // 0 is what callers send who set every field, and have no wish here.
    const timeoutMs = Math.min(request.timeoutMs || SEND_TIMEOUT_DEFAULT_MS, SEND_TIMEOUT_MAX_MS);
    const { clock, timers } = this.#deps;
    const call: Call = { acks, endMs: clock.monotonicMs() + timeoutMs };
    if (numbers !== undefined) return this.#sendNumbered(topic, call.endMs, records, numbers);
    const jobs = this.#enqueue(topic, call, records);
    // What waits behind others is answered in time, and what is left of a call that failed is not begun.
    const timer = timers.after(timeoutMs, () => jobs.forEach((each) => each.giveUp()));
    try {
      const receipts: Receipt[] = [];
      await Promise.all(
        jobs.map(async (job) => {
          const made = await job.receipts;
          job.records.forEach(({ index }, i) => (receipts[index] = made[i] as Receipt));
        }),
      );
      return sendResponse({ receipts });
    } finally {
      timer.cancel();
      for (const each of jobs) each.giveUp();
    }
  }

  async #sendNumbered(
    topic: TopicImage,
    endMs: number,
    records: readonly PlainRecord[],
    { producer, partition }: Numbers,
  ): Promise<SendResponse> {
    const placed = records.map((record) => ({ ...record, partition }));
    const [portion, second] = this.#portions(topic, placed);
    if (portion === undefined || second !== undefined) {
      const message =
        `the records of a numbered call go into one batch, and these are above what "${topic.name}" ` +
        'takes (max.message.bytes): send fewer in one call';
      throw new RelevoError('MESSAGE_TOO_LARGE', message);
    }
    const lane = this.#lane(topic, partition);
    assertRoomInAll(this.#held, [portion]);
    lane.queue.assertRoomFor([portion]);
    lane.queue.hold(portion);
    try {
      const { topicId } = lane;
      const send = { topicId, topic: topic.name, partition, producer, endMs };
      const response = await this.#numbered.write({ ...send, records: portion.records });
      const receipts = receiptsOf(partition, portion.records, response);
      // Without a timestamp of its own a record has the one that the first call was given.
      const stored =
        records[0]?.timestampMs === undefined ? response.repeatedTimestampMs : undefined;
      if (stored === undefined) return sendResponse({ receipts });
      return sendResponse({ receipts: receipts.map((each) => ({ ...each, timestampMs: stored })) });
    } finally {
      lane.queue.release([portion]);
      this.#forgetIfDeleted(lane);
    }
  }

  /** By partition, and each partition's in order, cut to batches that the topic takes. */
  #portions(topic: TopicImage, records: readonly PlainRecord[]): Portion[] {
    const { maxMessageBytes } = topicSettings(topic.config, this.#deps.topicDefaults);
    const limit = { topic: topic.name, maxBytes: maxMessageBytes };
    const wallMs = this.#deps.clock.wallMs();
    const unkeyed = this.#turn++ % topic.partitions.length;
    const byPartition = new Map<number, JobRecord[]>();
    records.forEach((record, index) => {
      const partition = partitionOf(topic, record, unkeyed);
      const own = jobRecord(record, index, wallMs, limit);
      const others = byPartition.get(partition);
      if (others === undefined) byPartition.set(partition, [own]);
      else others.push(own);
    });
    return [...byPartition].flatMap(([partition, own]) =>
      runsOf(own, maxMessageBytes).map((run) => ({
        ...run,
        partition,
        batchBytesMax: maxMessageBytes,
      })),
    );
  }

  #topic(name: string): TopicImage {
    const topic = this.#deps.image().topicsByName.get(name);
    if (topic !== undefined) return topic;
    this.#deps.assertCurrent();
    const message = `topic "${name}" does not exist: create it with relevo topic create ${name}`;
    throw new RelevoError('UNKNOWN_TOPIC_OR_PARTITION', message);
  }

  /** All of the call or, where there is no room, nothing. */
  #enqueue(topic: TopicImage, call: Call, records: readonly PlainRecord[]): Enqueued[] {
    const portions = this.#portions(topic, records);
    assertRoomInAll(this.#held, portions);
    for (const partition of new Set(portions.map((each) => each.partition))) {
      const own = portions.filter((each) => each.partition === partition);
      this.#lane(topic, partition).queue.assertRoomFor(own);
    }
    return portions.map((portion) => this.#push(topic, call, portion));
  }

  #push(topic: TopicImage, call: Call, portion: Portion): Enqueued {
    const lane = this.#lane(topic, portion.partition);
    let giveUp = (): void => undefined;
    const receipts = new Promise<readonly Receipt[]>((resolve, reject) => {
      const job: Job = { ...portion, call, state: 'queued', resolve, reject };
      lane.queue.push(job);
      giveUp = () => {
        if (job.state !== 'queued') return;
        lane.queue.withdraw(job);
        reject(
          timedOut(lane, {
            uncertain: false,
            last: 'others were before it',
            code: 'REQUEST_TIMED_OUT',
          }),
        );
      };
    });
    if (!lane.busy) void this.#run(lane);
    return { records: portion.records, receipts, giveUp: () => giveUp() };
  }

  #lane(topic: TopicImage, partition: number): Lane {
    const key = `${topic.id}/${partition}`;
    let lane = this.#lanes.get(key);
    if (lane === undefined) {
      const { id: topicId, name } = topic;
      const queue = new JobQueue(partitionName(name, partition), this.#held);
      lane = { key, topicId, topic: name, partition, queue, busy: false, producer: undefined };
      this.#lanes.set(key, lane);
    }
    return lane;
  }

  async #run(lane: Lane): Promise<void> {
    lane.busy = true;
    while (!lane.queue.isEmpty) {
      const jobs = lane.queue.take();
      if (jobs.length === 0) continue;
      try {
        const batch = [...jobs];
        const response = await this.#write(lane, batch);
        settle(lane, batch, response);
      } catch (error) {
        for (const job of jobs) job.reject(error);
      }
      lane.queue.release(jobs);
    }
    lane.busy = false;
    this.#forgetIfDeleted(lane);
  }

  /** A deleted topic's lanes go; a live one's keep their producer. */
  #forgetIfDeleted(lane: Lane): void {
    if (lane.busy || this.#deps.image().topicsById.has(lane.topicId)) return;
    this.#lanes.delete(lane.key);
  }

  /**
   * One batch, under the same sequence until it is settled. Whose time is up is answered and leaves `jobs`,
   * while nothing can have been written yet.
   */
  async #write(lane: Lane, jobs: Job[]): Promise<ProduceResponse> {
    const state: Attempts = { uncertain: false, last: NO_LEADER, code: 'LEADER_NOT_AVAILABLE' };
    try {
      return await this.#insist(lane, jobs, state);
    } catch (error) {
      // The next batch under this sequence would be taken for a repeat of this one: acknowledged, and
      // never written.
      if (state.uncertain) lane.producer = undefined;
      throw state.uncertain && error instanceof RelevoError ? unknown(lane, error) : error;
    }
  }

  async #insist(lane: Lane, jobs: Job[], state: Attempts): Promise<ProduceResponse> {
    const { clock, random } = this.#deps;
    for (let attempt = 0; ; attempt++) {
      const leftMs = leaveInTime(lane, jobs, state, clock.monotonicMs());
      const address = this.#leaderAddress(lane);
      if (address !== undefined) {
        try {
          const response = await this.#try(lane, jobs, { address, timeoutMs: leftMs });
          if (response.error === 0) return response;
          this.#refused(lane, state, response);
        } catch (error) {
          if (error instanceof RelevoError) throw error;
          state.uncertain = true;
          state.last = messageOf(error);
        }
      }
      await this.#pause(Math.min(leftMs, backoffMs(RETRY, attempt, random)));
    }
  }

  /** Throws where another attempt is of no use. */
  #refused(lane: Lane, state: Attempts, response: ProduceResponse): void {
    const code = errorCodeOf(response.error);
    state.last = response.message;
    state.code = code;
    if (SEQUENCE_ERRORS.has(code)) {
      lane.producer = undefined;
      // Under a new producer nothing can tell a repeat from a first attempt.
      if (state.uncertain) throw new RelevoError(code, response.message);
    } else if (!ERRORS[code].retriable) {
      throw new RelevoError(code, response.message);
    } else if (!REFUSED_BEFORE_APPEND.has(code)) {
      state.uncertain = true;
    }
  }

  async #try(
    lane: Lane,
    jobs: readonly Job[],
    to: { readonly address: string; readonly timeoutMs: number },
  ): Promise<ProduceResponse> {
    lane.producer ??= await this.#newProducer();
    const { producer } = lane;
    // Built anew for each try: the leader that took the last one may be this process, and has
    // patched its bytes.
    const batch = buildBatch(jobs, producer, this.#deps.crc32c);
    const timeoutMs = Math.max(1, Math.floor(Math.min(to.timeoutMs, ATTEMPT_MS)));
    const answer = this.#calls.call(to.address, (correlationId) =>
      produceRequest({
        correlationId,
        topicId: lane.topicId,
        partition: lane.partition,
        leaderEpoch: -1,
        acks: jobs[0]?.call.acks ?? -1,
        timeoutMs,
        batch,
      }),
    );
    const response = await answerWithin(this.#deps.timers, timeoutMs, answer);
    if (response.error === 0) {
      const count = jobs.reduce((sum, job) => sum + job.records.length, 0);
      producer.sequence = sequenceAfter(producer.sequence, count);
    }
    return response;
  }

  async #newProducer(): Promise<NonNullable<Lane['producer']>> {
    return { id: await this.#deps.newProducerId(), epoch: 0, sequence: 0 };
  }

  #leaderAddress(lane: Lane): string | undefined {
    const image = this.#deps.image();
    const topic = image.topicsById.get(lane.topicId);
    if (topic === undefined) {
      const message = `topic "${lane.topic}" was deleted while the call was under way`;
      throw new RelevoError('UNKNOWN_TOPIC_OR_PARTITION', message);
    }
    const leader = topic.partitions[lane.partition]?.leader ?? NO_BROKER;
    return leader === NO_BROKER ? undefined : image.brokers.get(leader)?.peerAddress;
  }

  #pause(ms: number): Promise<void> {
    return new Promise((resume) => this.#deps.timers.after(ms, resume));
  }
}

/** How long there is until the next of the callers gives up. Throws when the last one has. */
function leaveInTime(lane: Lane, jobs: Job[], state: Attempts, nowMs: number): number {
  const inTime = jobs.filter(({ call }) => call.endMs > nowMs);
  if (inTime.length === 0) throw timedOut(lane, state);
  if (inTime.length < jobs.length) {
    const late = jobs.filter(({ call }) => call.endMs <= nowMs);
    const error = state.uncertain ? unknown(lane, timedOut(lane, state)) : timedOut(lane, state);
    for (const job of late) job.reject(error);
    // A batch that may have been written stays what it is.
    if (!state.uncertain) jobs.splice(0, jobs.length, ...inTime);
  }
  return Math.min(...inTime.map(({ call }) => call.endMs)) - nowMs;
}

function unknown(lane: Lane, { code, message }: RelevoError): RelevoError {
  const name = partitionName(lane.topic, lane.partition);
  const what = `${name} did not confirm the records, whether they were written is unknown`;
  return new RelevoError(code, `${what}: ${message}`);
}

function timedOut(lane: Lane, { uncertain, last, code }: Attempts): RelevoError {
  if (uncertain) return new RelevoError('REQUEST_TIMED_OUT', last);
  const name = partitionName(lane.topic, lane.partition);
  const message = `${name} took nothing in time, nothing was written: ${last}`;
  return new RelevoError(code, message);
}

function partitionOf(topic: TopicImage, record: PlainRecord, unkeyed: number): number {
  const count = topic.partitions.length;
  const { partition, key } = record;
  if (partition !== undefined) {
    if (partition >= 0 && partition < count) return partition;
    throw new RelevoError(
      'UNKNOWN_TOPIC_OR_PARTITION',
      `${topic.name} has no partition ${partition}: it has 0 to ${count - 1}`,
    );
  }
  return key === undefined ? unkeyed : partitionForKey(key, count);
}

function settle(lane: Lane, jobs: readonly Job[], response: ProduceResponse): void {
  let baseOffset = response.baseOffset;
  for (const { records, resolve } of jobs) {
    resolve(receiptsOf(lane.partition, records, { ...response, baseOffset }));
    baseOffset += records.length;
  }
}

const receiptsOf = (
  partition: number,
  records: readonly JobRecord[],
  { baseOffset, leaderEpoch, logAppendTimeMs, syncedOn }: ProduceResponse,
): Receipt[] =>
  records.map(({ timestampMs: own }, at): Receipt => {
    const timestampMs = logAppendTimeMs >= 0 ? logAppendTimeMs : own;
    return { partition, offset: baseOffset + at, leaderEpoch, timestampMs, syncedOn };
  });
