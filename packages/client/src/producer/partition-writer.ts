/**
 * Brings the batches of one partition to its leader: in order, each once.
 *
 * `#queue` holds the sealed batches, oldest first; the first `#inFlight` of them are on their way to the
 * leader and answers come back for them. Batches are settled from the front only.
 *
 *   a retriable error, a broken stream, another leader: *rewind*. Nothing counts as under way any more,
 *     and the same batches go out again in the same order with the same sequence numbers. Answers to
 *     earlier sendings are told by their generation and ignored: the broker knows what it has already
 *     (invariant I2) and says so to the repetition.
 *   OUT_OF_ORDER_SEQUENCE_NUMBER for the oldest: a batch before it was given up, so the log has a
 *     hole in front of it. As the broker takes sequences without holes only, neither this batch nor
 *     any after it is in the log: nothing is unsettled in the broker's eyes, and all of them may go out
 *     again under a new epoch from sequence 0.
 *   MESSAGE_TOO_LARGE: the batch is split; its halves take its sequence numbers.
 *   any other error: the batch fails; the next one meets the hole, as above.
 */
import { assert } from '@relevo/base/assert';
import { ERRORS, errorCodeOf, messageOf } from '@relevo/base/errors';
import type { ErrorCode } from '@relevo/base/errors';
import { partitionName } from '@relevo/base/ids';
import type { LeaderEpoch } from '@relevo/base/ids';
import { DEFAULT_RETRY, backoffMs } from '@relevo/base/retry';
import type { TimerHandle } from '@relevo/base/ports';
import { BatchBuilder } from '@relevo/record/batch-builder';
import type { FieldInput, HeaderInput } from '@relevo/record/batch-builder';
import { sequenceAfter } from '@relevo/record/batch-header';
import { produceResponse } from '@relevo/rpc/gen/client/produce';
import type { ProduceResponse } from '@relevo/rpc/gen/client/produce';
import type { ClientPorts } from '../client-ports.ts';
import type { PartitionView } from '../cluster-view.ts';
import { ClientError, brokerError } from '../errors.ts';
import type { ClientErrorCode } from '../errors.ts';
import type { Metadata } from '../metadata.ts';
import type { BufferPool } from './buffer-pool.ts';
import type { IdentitySource, ProducerIdentity } from './identity.ts';
import type { ChannelUser, ProduceChannel, SentBatch } from './produce-channel.ts';
import { ProducerBatch } from './producer-batch.ts';
import type { DeliveryHandler, SendHandle } from './producer-batch.ts';
import type { ProducerSettings } from './producer-options.ts';

/** What a writer shares with the others of its producer. */
export interface WriterContext {
  readonly ports: ClientPorts;
  readonly metadata: Metadata;
  readonly settings: ProducerSettings;
  /** Undefined: not idempotent. */
  readonly identity: IdentitySource | undefined;
  readonly deliver: DeliveryHandler;
  readonly pool: BufferPool;
  channel(address: string): ProduceChannel;
  /** Open batches are to be sent without waiting for more records. */
  isHurried(): boolean;
  /** A batch was begun. */
  onOpened(writer: PartitionWriter, batch: ProducerBatch): void;
  /** A batch of so many bytes takes no more records: keyless ones may go to another partition. */
  onSealed(writer: PartitionWriter, batchBytes: number): void;
  /** Memory is free again. */
  onSettled(writer: PartitionWriter, sizeInBytes: number): void;
}

const CAPACITY_MIN = 1024;
/** Room for the last record's own overhead, so that a full batch does not make its buffer double. */
const CAPACITY_SLACK = 64;
const GROWTH_FACTOR = 4;
/** Errors that leaders give before they write anything. The other retriable ones may come after. */
const REFUSALS: ReadonlySet<ErrorCode> = new Set([
  'THROTTLED',
  'NOT_ENOUGH_REPLICAS',
  'UNKNOWN_LEADER_EPOCH',
  'FENCED_LEADER_EPOCH',
  'DISK_FULL',
  'UNKNOWN_TOPIC_ID',
  'UNKNOWN_TOPIC_OR_PARTITION',
] as const);
/** A batch that meets holes again and again meets something that we do not understand. */
const ATTEMPTS_AT_HOLES_MAX = 10;

/** What helps, where a broker's own words may leave it open. */
const REMEDIES: Partial<Record<ClientErrorCode, string>> = {
  DISK_FULL: "make room on the broker's disk, or shorten the retention",
  NOT_ENOUGH_REPLICAS: 'bring brokers back, or lower min.insync.replicas',
  LEADER_NOT_AVAILABLE: 'bring back a broker that holds a replica of it',
  NO_BROKER: 'see whether the brokers run and can be reached',
  THROTTLED: 'send less at once',
  STORAGE_ERROR: "see the broker's log, and its disk",
};

/** Why something is late, as far as it is known, and what to do. */
export function reasonOf(last: ClientError | undefined): string {
  if (last === undefined) return 'the leader gave no answer: see whether it runs, or is overloaded';
  const remedy = REMEDIES[last.code] ?? 'send again later, or raise deliveryTimeoutMs';
  return `the last error was ${last.code}: ${last.message}; ${remedy}`;
}

/** Memory for a batch of so many bytes. */
export const batchCapacity = (bytes: number): number =>
  Math.max(CAPACITY_MIN, bytes + CAPACITY_SLACK);

/** How large a batch may grow while it has to wait; compressed ones cannot be split, and do not. */
export const grownBatchBytes = ({
  batchBytes,
  maxRecordBytes,
  compression,
}: ProducerSettings): number =>
  compression === 'none'
    ? Math.max(batchBytes, Math.min(maxRecordBytes, batchBytes * GROWTH_FACTOR))
    : batchBytes;

export class PartitionWriter implements ChannelUser {
  readonly topic: string;
  readonly topicId: string;
  readonly partition: number;
  readonly #context: WriterContext;
  #open: ProducerBatch | undefined;
  #queue: ProducerBatch[] = [];
  #inFlight = 0;
  #generation = 0;
  /** Under which the batches in flight were sent. */
  #sentEpoch: LeaderEpoch | undefined;
  #identity: ProducerIdentity | undefined;
  #nextSequence = 0;
  /** A hole was met under this identity: a later one is awaited. */
  #stale: ProducerIdentity | undefined;
  #failedInARow = 0;
  #lastError: ClientError | undefined;
  #holesMet = 0;
  #retryTimer: TimerHandle | undefined;
  #capacity = CAPACITY_MIN;
  #closed = false;

  constructor(topic: string, topicId: string, partition: number, context: WriterContext) {
    this.topic = topic;
    this.topicId = topicId;
    this.partition = partition;
    this.#context = context;
  }

  get name(): string {
    return partitionName(this.topic, this.partition);
  }

  get isIdle(): boolean {
    return this.#open === undefined && this.#queue.length === 0;
  }

  get hasOpenBatch(): boolean {
    return this.#open !== undefined;
  }

  /** What its batches met since one was last acknowledged. */
  get lastError(): ClientError | undefined {
    return this.#lastError;
  }

  /** Something that its batches wait for has failed, and is tried again. */
  noteError(error: ClientError): void {
    this.#lastError = error;
  }

  /** Those not settled, oldest first. */
  batches(): readonly ProducerBatch[] {
    return this.#open === undefined ? this.#queue : [...this.#queue, this.#open];
  }

  /**
   * Adds a record; returns by how many bytes the producer's memory grew. Throws MESSAGE_TOO_LARGE.
   */
  append(
    key: FieldInput,
    value: FieldInput,
    headers: readonly HeaderInput[],
    timestampMs: number,
    handle: SendHandle | undefined,
  ): number {
    const { settings } = this.#context;
    const open = this.#open;
    if (open !== undefined) {
      const before = open.sizeInBytes;
      if (open.tryAppend(key, value, headers, timestampMs, handle, this.#batchLimit())) {
        return open.sizeInBytes - before;
      }
      this.#seal(open);
    }
    const batch = this.#begin();
    const { maxRecordBytes } = settings;
    if (!batch.tryAppend(key, value, headers, timestampMs, handle, maxRecordBytes)) {
      this.drain();
      throw new ClientError(
        'MESSAGE_TOO_LARGE',
        `a record for ${this.name} is above maxRecordBytes (${maxRecordBytes} bytes with its ` +
          `batch's header); raise that and the topic's max.message.bytes, or send less at once`,
      );
    }
    this.#open = batch;
    this.#context.onOpened(this, batch);
    if (batch.sizeInBytes >= settings.batchBytes) this.#seal(batch);
    if (open !== undefined || this.#open === undefined) this.drain();
    return batch.sizeInBytes;
  }

  /** The batch, if it is still open, need wait no longer. */
  makeDue(batch: ProducerBatch): void {
    batch.due = true;
    if (this.#open === batch) this.drain();
  }

  /** Sends what can be sent now. */
  drain(): void {
    const { settings, metadata } = this.#context;
    while (this.#inFlight < settings.maxInFlight && !this.#closed) {
      let batch = this.#queue[this.#inFlight];
      if (batch === undefined) {
        const open = this.#open;
        if (open === undefined || !this.#isReady(open)) return;
        batch = open;
      }
      if (this.#retryTimer !== undefined || !this.#hasIdentity()) return;
      const view = metadata.view.partition(this.topicId, this.partition);
      const address = view === undefined ? undefined : metadata.leaderAddress(view);
      if (view === undefined || address === undefined) {
        this.#lastError = new ClientError('LEADER_NOT_AVAILABLE', 'no leader of it is known');
        this.#retryLater('LEADER_NOT_AVAILABLE');
        return;
      }
      const channel = this.#context.channel(address);
      if (!channel.accepts(this)) return;
      if (batch === this.#open) this.#seal(batch);
      if (!batch.isPacked) return;
      this.#transmit(batch, channel, view);
    }
  }

  onChannelReady(): void {
    this.drain();
  }

  onAnswer(sent: SentBatch, answer: ProduceResponse): void {
    if (sent.generation !== this.#generation || sent.batch.isSettled) return;
    sent.batch.answer = answer;
    while (this.#inFlight > 0) {
      const head = this.#queue[0];
      if (head?.answer === undefined) break;
      const next = head.answer;
      head.answer = undefined;
      this.#onHeadAnswered(head, next);
    }
    this.drain();
  }

  onBroken(sent: SentBatch): void {
    if (sent.generation !== this.#generation) return;
    const message = 'the connection to the leader broke, or it gave no answer in time';
    this.#lastError ??= new ClientError('NO_BROKER', message);
    this.#rewind();
    this.drain();
  }

  /** The metadata tell of a new leader, or of none. */
  onLeader(view: PartitionView): void {
    const { metadata } = this.#context;
    const isNews = this.#sentEpoch === undefined || view.leaderEpoch > this.#sentEpoch;
    if (this.#inFlight > 0 && isNews) this.#rewind();
    this.#failedInARow = 0;
    const address = this.isIdle ? undefined : metadata.leaderAddress(view);
    if (address !== undefined) this.#context.channel(address).hurry();
    this.retryNow();
  }

  /** Something changed that an error may have been about: what waits after one is tried at once. */
  retryNow(): void {
    this.#cancelRetry();
    this.drain();
  }

  /** Settles with an error what is past its deadline; returns the earliest deadline left. */
  expire(nowMs: number): number {
    const { deliveryTimeoutMs } = this.#context.settings;
    const open = this.#open;
    if (open !== undefined && open.deadlineMs <= nowMs) this.#seal(open);
    for (const batch of [...this.#queue]) {
      if (batch.deadlineMs > nowMs) break;
      const outcomeUnknown = batch.isInDoubt;
      const outcome = outcomeUnknown
        ? `it was sent (attempts: ${batch.attempts}) without an answer; whether it is in the log is unknown`
        : 'it was not written, and will not be';
      const cause = this.#lastError;
      const message =
        `${this.name}: not acknowledged within ${deliveryTimeoutMs} ms; ${outcome}; ` +
        `${reasonOf(cause)}`;
      this.#drop(batch, new ClientError('DELIVERY_TIMED_OUT', message, { outcomeUnknown, cause }));
    }
    this.drain();
    return Math.min(this.#queue[0]?.deadlineMs ?? Infinity, this.#open?.deadlineMs ?? Infinity);
  }

  /** Settles everything with the error and sends nothing any more. */
  close(error: (outcomeUnknown: boolean) => ClientError): void {
    this.#closed = true;
    this.#cancelRetry();
    this.failAll(error);
  }

  /** Settles everything that there is now with the error. */
  failAll(error: (outcomeUnknown: boolean) => ClientError): void {
    if (this.#open !== undefined) this.#seal(this.#open);
    for (const batch of [...this.#queue]) this.#drop(batch, error(batch.isInDoubt));
  }

  #begin(): ProducerBatch {
    const { ports, settings, pool } = this.#context;
    const createdMs = ports.clock.monotonicMs();
    const deadlineMs = createdMs + settings.deliveryTimeoutMs;
    const { topic, partition } = this;
    const builder = new BatchBuilder(this.#capacity, (size) => pool.take(size));
    return new ProducerBatch({ topic, partition, createdMs, deadlineMs }, builder);
  }

  #isReady(open: ProducerBatch): boolean {
    const { settings } = this.#context;
    return open.due || this.#context.isHurried() || open.sizeInBytes >= settings.batchBytes;
  }

  /** A batch that could not be sent anyway goes on growing: the slower the answers, the larger. */
  #batchLimit(): number {
    const { settings } = this.#context;
    const isBacklogged = this.#queue.length >= settings.maxInFlight;
    return isBacklogged ? grownBatchBytes(settings) : settings.batchBytes;
  }

  #seal(batch: ProducerBatch): void {
    assert(this.#open === batch, 'only the open batch is sealed');
    const { settings } = this.#context;
    this.#open = undefined;
    this.#queue.push(batch);
    // The next batch will be about as large as this one.
    this.#capacity = batchCapacity(Math.min(batch.sizeInBytes, grownBatchBytes(settings)));
    if (settings.compression !== 'none') void this.#pack(batch);
    this.#context.onSealed(this, batch.sizeInBytes);
  }

  async #pack(batch: ProducerBatch): Promise<void> {
    const { settings, ports } = this.#context;
    try {
      await batch.pack(settings.compression, (type, bytes) => ports.codecs.compress(type, bytes));
    } catch (error) {
      ports.logger.warn('compression failed, sending as it is', { error: messageOf(error) });
    }
    this.drain();
  }

  #transmit(batch: ProducerBatch, channel: ProduceChannel, view: PartitionView): void {
    const { ports, settings } = this.#context;
    if (batch.bytes === undefined) {
      this.#adoptIdentity();
      batch.build(this.#identity, this.#nextSequence, ports.crc32c);
      this.#nextSequence = sequenceAfter(this.#nextSequence, batch.recordCount);
    }
    assert(batch.bytes !== undefined, 'a batch is built before it is sent');
    assert(this.#queue[this.#inFlight] === batch, 'batches are sent in order', { name: this.name });
    batch.onSent();
    this.#inFlight++;
    this.#sentEpoch = view.leaderEpoch;
    channel.send(
      { user: this, batch, generation: this.#generation },
      {
        topicId: this.topicId,
        partition: this.partition,
        leaderEpoch: view.leaderEpoch,
        acks: settings.acks,
        timeoutMs: settings.requestTimeoutMs,
        batch: batch.bytes,
      },
    );
    if (settings.acks === 0) {
      this.#succeed(batch, produceResponse({ baseOffset: -1, leaderEpoch: view.leaderEpoch }));
    }
  }

  /** Under a new identity sequences begin at 0: only when nothing is numbered by the old one. */
  #adoptIdentity(): void {
    const identity = this.#context.identity?.get();
    if (identity === this.#identity || this.#queue[0]?.bytes !== undefined) return;
    this.#identity = identity;
    this.#nextSequence = 0;
  }

  /** False while an identity, or a later one, is awaited: `drain` is called when it is there. */
  #hasIdentity(): boolean {
    const { identity, ports } = this.#context;
    if (identity === undefined) return true;
    const current = identity.get();
    if (current === undefined || current === this.#stale) return false;
    if (this.#stale === undefined) return true;
    this.#stale = undefined;
    this.#identity = current;
    this.#nextSequence = 0;
    for (const batch of this.#queue) {
      if (batch.bytes === undefined) break;
      batch.rewrite(current, this.#nextSequence, ports.crc32c);
      this.#nextSequence = sequenceAfter(this.#nextSequence, batch.recordCount);
    }
    return true;
  }

  #onHeadAnswered(batch: ProducerBatch, answer: ProduceResponse): void {
    const code = errorCodeOf(answer.error);
    if (code === 'NONE') {
      this.#failedInARow = 0;
      this.#lastError = undefined;
      this.#holesMet = 0;
      this.#succeed(batch, answer);
    } else if (code === 'DUPLICATE_SEQUENCE_NUMBER') {
      this.#succeed(batch, { ...answer, baseOffset: -1 });
    } else if (this.#isHole(code)) {
      this.#onHole(batch, answer);
    } else if (ERRORS[code].retriable) {
      this.#onRetriable(code, answer);
    } else if (code !== 'MESSAGE_TOO_LARGE' || !this.#split(batch)) {
      this.#nothingWritten();
      const error = brokerError(this.name, answer.error, answer.message);
      const outcomeUnknown = batch.isInDoubt;
      this.#drop(
        batch,
        new ClientError(error.code, error.message, { cause: error, outcomeUnknown }),
      );
    }
  }

  /** Sends the halves in place of a batch that is too large. False: it cannot be divided. */
  #split(batch: ProducerBatch): boolean {
    // What may be in the log from an earlier sending would be there twice.
    const halves = batch.wasInDoubt ? undefined : batch.split(this.#context.ports.crc32c);
    if (halves === undefined) return false;
    this.#nothingWritten();
    this.#rewind();
    this.#queue.splice(this.#queue.indexOf(batch), 1, ...halves);
    return true;
  }

  #isHole(code: ErrorCode): boolean {
    return (
      this.#identity !== undefined &&
      (code === 'OUT_OF_ORDER_SEQUENCE_NUMBER' ||
        code === 'UNKNOWN_PRODUCER_ID' ||
        code === 'INVALID_PRODUCER_EPOCH')
    );
  }

  #onHole(batch: ProducerBatch, answer: ProduceResponse): void {
    const identity = this.#identity;
    assert(identity !== undefined, 'only numbered batches meet holes');
    const { logger } = this.#context.ports;
    const code = errorCodeOf(answer.error);
    // Without its memory of us the broker cannot tell whether an earlier sending was written.
    const forgotten = code !== 'OUT_OF_ORDER_SEQUENCE_NUMBER' && batch.wasInDoubt;
    if (forgotten || ++this.#holesMet > ATTEMPTS_AT_HOLES_MAX) {
      const { message } = brokerError(this.name, answer.error, answer.message);
      this.#drop(batch, new ClientError(code, message, { outcomeUnknown: forgotten }));
      return;
    }
    logger.warn('producer sequence is to begin anew', { partition: this.name, reason: code });
    // Of a batch that does not follow on what is in the log, nothing is there, nor of those after it.
    for (const sent of this.#queue.slice(0, this.#inFlight)) sent.isInDoubt = false;
    this.#rewind();
    this.#stale = identity;
    this.#context.identity?.renew(identity, code === 'INVALID_PRODUCER_EPOCH');
  }

  #onRetriable(code: ErrorCode, answer: ProduceResponse): void {
    const { metadata, ports } = this.#context;
    const generation = this.#generation;
    ports.logger.debug('produce is retried', { partition: this.name, reason: code });
    this.#lastError = new ClientError(code, answer.message || ERRORS[code].meaning);
    // News of a leader come back as a call of `onLeader`, which rewinds and sends on the spot.
    if (REFUSALS.has(code)) this.#nothingWritten();
    metadata.applyHint(this.topicId, this.partition, answer.currentLeader);
    if (generation !== this.#generation) return;
    this.#rewind();
    this.#retryLater(code);
  }

  /**
   * The last sending of the oldest batch wrote nothing. Unless an earlier one may have, none of the
   * batches after it was written either: sequences have no holes.
   */
  #nothingWritten(): void {
    const [head] = this.#queue;
    const isCertain = this.#identity !== undefined && head?.wasInDoubt === false;
    const refused = isCertain ? this.#inFlight : 1;
    for (const batch of this.#queue.slice(0, refused)) batch.onNotWritten();
  }

  /** Nothing is under way any more; all of it goes out again. */
  #rewind(): void {
    this.#generation++;
    for (const batch of this.#queue.slice(0, this.#inFlight)) batch.answer = undefined;
    this.#inFlight = 0;
  }

  #retryLater(code: ErrorCode): void {
    if (this.#retryTimer !== undefined) return;
    const { metadata, ports } = this.#context;
    const waitMs = backoffMs(DEFAULT_RETRY, this.#failedInARow++, ports.random);
    if (ERRORS[code].retriable && code !== 'THROTTLED') metadata.refresh();
    this.#retryTimer = ports.timers.after(waitMs, () => {
      this.#retryTimer = undefined;
      this.drain();
    });
  }

  #cancelRetry(): void {
    this.#retryTimer?.cancel();
    this.#retryTimer = undefined;
  }

  #succeed(batch: ProducerBatch, answer: ProduceResponse): void {
    this.#remove(batch);
    // Answered, and sent but once: no transport can hold it any more.
    const { bytes, attempts } = batch;
    const isOurs = attempts === 1 && this.#context.settings.acks !== 0;
    if (bytes !== undefined && isOurs) this.#context.pool.give(bytes);
    batch.succeed(answer, this.#context.deliver);
    this.#context.onSettled(this, batch.sizeInBytes);
  }

  #drop(batch: ProducerBatch, error: ClientError): void {
    this.#remove(batch);
    batch.fail(error, this.#context.deliver);
    this.#context.onSettled(this, batch.sizeInBytes);
  }

  #remove(batch: ProducerBatch): void {
    const index = this.#queue.indexOf(batch);
    assert(index >= 0, 'a batch is settled out of its queue', { name: this.name });
    this.#queue.splice(index, 1);
    if (index < this.#inFlight) this.#inFlight--;
  }
}
