/**
 * A producer gathers records into batches, one open batch per partition, and hands each batch to the
 * partition's writer when it is full or has lingered long enough.
 *
 * The way of a record: *waiting* (its topic is not known yet, or the buffer is full), *buffered* (in a
 * batch), *settled* (its promise, or its batch's delivery, has the outcome). Records that wait do so in
 * the order of their sends; while any waits for memory, later ones queue behind it.
 */
import { messageOf } from '@relevo/base/errors';
import { partitionName } from '@relevo/base/ids';
import type { TimerHandle } from '@relevo/base/ports';
import type { ClientPorts } from '../client-ports.ts';
import type { PartitionView, TopicView, ViewChange } from '../cluster-view.ts';
import type { Connections } from '../connections.ts';
import { ClientError, abortedError, callError, closedError } from '../errors.ts';
import type { Metadata } from '../metadata.ts';
import { checkNames } from '../options.ts';
import { bounded, deferred } from '../waiting.ts';
import type { Deferred } from '../waiting.ts';
import { BufferPool } from './buffer-pool.ts';
import { CoarseClock } from './coarse-clock.ts';
import { IdentitySource } from './identity.ts';
import { Linger } from './linger.ts';
import { StickyPartition, keyedPartition } from './partitioner.ts';
import { PartitionWriter, batchCapacity, grownBatchBytes, reasonOf } from './partition-writer.ts';
import type { WriterContext } from './partition-writer.ts';
import { RecordPreparer, roughSize } from './prepared-record.ts';
import type { PreparedRecord } from './prepared-record.ts';
import { ProduceChannel } from './produce-channel.ts';
import type { SendHandle } from './producer-batch.ts';
import { producerSettings } from './producer-options.ts';
import type {
  Delivery,
  ProducerOptions,
  ProducerRecord,
  ProducerSettings,
  Receipt,
} from './producer-options.ts';
import { WaitingRoom } from './waiting-room.ts';
import type { WaitingRecord } from './waiting-room.ts';

export interface ProducerDeps {
  readonly ports: ClientPorts;
  readonly metadata: Metadata;
  readonly connections: Connections;
  readonly onClosed: () => void;
}

interface TopicState {
  view: TopicView;
  readonly sticky: StickyPartition;
  readonly writers: (PartitionWriter | undefined)[];
}

/** Enqueued against the advice to wait: refused when the buffer is so many times overfull. */
const OVERFULL_FACTOR = 2;

export class Producer<Key = Uint8Array | string | null, Value = Uint8Array | string | null> {
  readonly #ports: ClientPorts;
  readonly #metadata: Metadata;
  readonly #settings: ProducerSettings;
  readonly #deps: ProducerDeps;
  readonly #preparer: RecordPreparer<Key, Value>;
  readonly #onDelivery: ((delivery: Delivery) => void) | undefined;
  readonly #identity: IdentitySource | undefined;
  readonly #context: WriterContext;
  readonly #waiting: WaitingRoom;
  readonly #linger: Linger;
  readonly #topics = new Map<string, TopicState>();
  readonly #channels = new Map<string, ProduceChannel>();
  /** Those with something unsettled. */
  readonly #active = new Set<PartitionWriter>();
  /** Those that records were added to while others waited for memory. */
  readonly #grown = new Set<PartitionWriter>();
  #wasShort = false;
  #bufferedBytes = 0;
  #flushing = 0;
  #drained: Deferred<void> | undefined;
  #expiryTimer: TimerHandle | undefined;
  #closing: Promise<void> | undefined;
  #closed = false;
  readonly #abort = new AbortController();
  readonly #forgetMetadata: () => void;

  /** Made by `Relevo.producer`. */
  constructor(options: ProducerOptions<Key, Value>, deps: ProducerDeps) {
    const { ports, metadata } = deps;
    this.#deps = deps;
    this.#ports = ports;
    this.#metadata = metadata;
    this.#settings = producerSettings(options);
    const clock = new CoarseClock(ports.clock);
    this.#preparer = new RecordPreparer(clock, options.key, options.value);
    this.#onDelivery = options.onDelivery;
    this.#linger = new Linger(ports, this.#settings.lingerMs);
    this.#identity = this.#settings.idempotent ? this.#newIdentity() : undefined;
    this.#waiting = this.#newWaitingRoom();
    this.#context = this.#newContext();
    this.#forgetMetadata = metadata.onChange((change) => this.#onMetadata(change));
  }

  /** Bytes of records that are buffered and not settled. */
  get bufferedBytes(): number {
    return this.#bufferedBytes;
  }

  /**
   * Resolves when the record is written as `acks` says, with where it is. Rejects with a ClientError
   * whose `outcomeUnknown` tells whether the record may be in the log all the same. Records sent to one
   * partition are written in the order of the calls, whether or not they are awaited.
   *
   * `signal` ends the wait. A record that is in a batch by then may still be written.
   */
  send(
    record: ProducerRecord<Key, Value>,
    options?: { readonly signal?: AbortSignal },
  ): Promise<Receipt> {
    const signal = options?.signal;
    return new Promise<Receipt>((resolve, reject) => {
      if (options !== undefined) checkNames('send', options, { signal: true });
      const handle: SendHandle = { resolve, reject, timestamp: 0 };
      if (signal?.aborted === true) {
        reject(abortedError('send', { cause: signal.reason }));
        return;
      }
      if (signal !== undefined) followSignal(handle, signal);
      try {
        this.#submit(record, handle);
      } catch (error) {
        handle.reject(asClientError(error));
      }
    });
  }

  /**
   * Adds a record without a promise of its own: the fast way for bulk. Its outcome comes with its
   * batch's to `onDelivery`. The record is taken in any case; false means that the buffer is full:
   * `await drained()` before more. Throws BUFFER_FULL when that is not done, and what `send` would
   * reject with before the record is buffered.
   */
  enqueue(record: ProducerRecord<Key, Value>): boolean {
    if (this.#onDelivery === undefined) {
      throw new ClientError(
        'INVALID_ARGUMENT',
        'enqueue needs the option onDelivery: its failures would go unseen',
      );
    }
    this.#submit(record, undefined);
    return !this.#isFull();
  }

  /** Resolves when `enqueue` may go on. */
  async drained(): Promise<void> {
    if (!this.#isFull()) return;
    this.#drained ??= deferred();
    await this.#drained.promise;
  }

  /**
   * Sends what is buffered without lingering, and resolves when every record sent before this call has
   * settled, well or not.
   */
  async flush(options: { readonly signal?: AbortSignal } = {}): Promise<void> {
    checkNames('flush', options, { signal: true });
    if (this.#closed) return;
    this.#flushing++;
    try {
      const all = this.#settledOfAll();
      this.#drainAll();
      await bounded(all, {
        timers: this.#ports.timers,
        // Every record settles by its own deadline; this one is there for the unforeseen.
        timeoutMs: this.#settings.deliveryTimeoutMs * 2,
        onTimeout: () =>
          new ClientError('TIMED_OUT', 'flush did not end', { outcomeUnknown: true }),
        signal: options.signal,
      });
    } finally {
      this.#flushing--;
    }
  }

  /**
   * Takes no more records, waits for those under way (at most `timeoutMs`; default: the delivery
   * time-out) and frees everything. What is unsettled then is rejected with CLOSED.
   */
  close(options: { readonly timeoutMs?: number } = {}): Promise<void> {
    checkNames('close', options, { timeoutMs: true });
    this.#closing ??= this.#close(options.timeoutMs ?? this.#settings.deliveryTimeoutMs);
    return this.#closing;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  async #close(timeoutMs: number): Promise<void> {
    if (timeoutMs > 0) {
      const giveUp = deferred<void>();
      const timer = this.#ports.timers.after(timeoutMs, () => giveUp.resolve());
      await Promise.race([this.flush(), giveUp.promise]).catch((error: unknown) => {
        this.#ports.logger.warn('flush before close failed', { error: messageOf(error) });
      });
      timer.cancel();
    }
    this.#closed = true;
    this.#abort.abort();
    this.#identity?.close();
    this.#forgetMetadata();
    this.#linger.close();
    this.#expiryTimer?.cancel();
    this.#waiting.refuseAll(closedError('the producer'));
    for (const writer of [...this.#active]) {
      writer.close((outcomeUnknown) => closedError('the producer', outcomeUnknown));
    }
    await Promise.all([...this.#channels.values()].map((channel) => channel.close()));
    this.#channels.clear();
    this.#drained?.resolve();
    this.#deps.onClosed();
  }

  // ------------------------------------------------------------------------------ the way of a record

  /** Throws what the record is refused with. */
  #submit(input: ProducerRecord<Key, Value>, handle: SendHandle | undefined): void {
    if (this.#closing !== undefined) throw closedError('the producer');
    const record = this.#preparer.prepare(input);
    if (handle === undefined) this.#checkOverfull(record);
    else handle.timestamp = record.timestamp;
    const topic = this.#topics.get(record.topic);
    if (topic !== undefined && !this.#mustWaitForMemory(record, handle)) {
      this.#place(topic, record, handle);
      return;
    }
    const deadlineMs = this.#ports.clock.monotonicMs() + this.#settings.deliveryTimeoutMs;
    this.#expireAt(deadlineMs);
    if (topic === undefined) {
      this.#waiting.waitForTopic(record, handle, deadlineMs);
      return;
    }
    this.#waiting.waitForMemory(record, handle, deadlineMs);
    this.#onWaitingMoved();
  }

  #mustWaitForMemory(record: PreparedRecord, handle: SendHandle | undefined): boolean {
    if (this.#waiting.isShortOfMemory) return true;
    return handle !== undefined && !this.#hasRoom(roughSize(record));
  }

  /** A record above the whole buffer goes through when it is alone. */
  #hasRoom(size: number): boolean {
    return this.#bufferedBytes === 0 || this.#bufferedBytes + size <= this.#settings.bufferBytes;
  }

  #place(topic: TopicState, record: PreparedRecord, handle: SendHandle | undefined): void {
    const { key, value, headers, timestamp } = record;
    const partition = choosePartition(topic, record);
    const writer = topic.writers[partition] ?? this.#newWriter(topic, partition);
    this.#bufferedBytes += writer.append(key, value, headers, timestamp, handle);
    if (this.#waiting.isShortOfMemory) this.#grown.add(writer);
  }

  #newWriter(topic: TopicState, partition: number): PartitionWriter {
    const { name, topicId } = topic.view;
    const writer = new PartitionWriter(name, topicId, partition, this.#context);
    while (topic.writers.length <= partition) topic.writers.push(undefined);
    topic.writers[partition] = writer;
    return writer;
  }

  #placeWaiting(waiting: WaitingRecord): void {
    const { record, handle } = waiting;
    const topic = this.#topics.get(record.topic);
    try {
      if (topic === undefined) throw this.#metadata.unknownTopic(record.topic);
      this.#place(topic, record, handle);
    } catch (error) {
      this.#refuse(waiting, asClientError(error));
    }
  }

  #refuse(waiting: WaitingRecord, error: ClientError): void {
    const { record, handle } = waiting;
    if (handle !== undefined) {
      handle.reject(error);
      return;
    }
    const partition = record.partition ?? -1;
    this.#deliver({ topic: record.topic, partition, recordCount: 1, error });
  }

  // ------------------------------------------------------------------------------- memory and deadlines

  #heldBytes(): number {
    return this.#bufferedBytes + this.#waiting.bytes;
  }

  #isFull(): boolean {
    return (
      !this.#closed && (this.#heldBytes() >= this.#settings.bufferBytes || this.#waiting.bytes > 0)
    );
  }

  #checkOverfull(record: PreparedRecord): void {
    const { bufferBytes } = this.#settings;
    if (this.#heldBytes() + roughSize(record) <= bufferBytes * OVERFULL_FACTOR) return;
    throw new ClientError(
      'BUFFER_FULL',
      `${this.#heldBytes()} bytes are enqueued, bufferBytes is ${bufferBytes}; when enqueue ` +
        'returns false, await drained() before the next',
    );
  }

  /** While memory is short open batches go out as they are. */
  #onWaitingMoved(): void {
    const isShort = this.#waiting.isShortOfMemory;
    const writers = isShort && !this.#wasShort ? this.#active : this.#grown;
    this.#wasShort = isShort;
    if (isShort) for (const writer of [...writers]) writer.drain();
    else this.#tellDrained();
    this.#grown.clear();
  }

  #tellDrained(): void {
    if (this.#drained === undefined || this.#isFull()) return;
    this.#drained.resolve();
    this.#drained = undefined;
  }

  #drainAll(): void {
    for (const writer of [...this.#active]) writer.drain();
  }

  #expireAt(deadlineMs: number): void {
    if (this.#expiryTimer !== undefined || this.#closed || deadlineMs === Infinity) return;
    const waitMs = Math.max(1, deadlineMs - this.#ports.clock.monotonicMs());
    this.#expiryTimer = this.#ports.timers.after(waitMs, () => {
      this.#expiryTimer = undefined;
      const nowMs = this.#ports.clock.monotonicMs();
      let earliest = this.#waiting.expire(nowMs, (waiting) => this.#neverBuffered(waiting));
      for (const writer of [...this.#active]) earliest = Math.min(earliest, writer.expire(nowMs));
      this.#expireAt(earliest);
    });
  }

  #neverBuffered(waiting: WaitingRecord): ClientError {
    const { deliveryTimeoutMs, bufferBytes } = this.#settings;
    const reason =
      waiting.waitsFor === 'topic'
        ? 'the topic could not be looked up'
        : `the buffer of ${bufferBytes} bytes was full${this.#whyFull()}`;
    return new ClientError(
      'DELIVERY_TIMED_OUT',
      `a record for topic "${waiting.record.topic}" was not sent within ${deliveryTimeoutMs} ms, and ` +
        `will not be: ${reason}`,
    );
  }

  #whyFull(): string {
    for (const writer of this.#active) {
      if (writer.lastError !== undefined) return `; ${writer.name}: ${reasonOf(writer.lastError)}`;
    }
    return '';
  }

  /** Resolved when all that waits or is buffered now has settled. */
  #settledOfAll(): Deferred<void> {
    const all = deferred<void>();
    this.#waiting.onceGone(() => {
      let left = 1;
      const settled = (): void => {
        if (--left === 0) all.resolve();
      };
      for (const writer of this.#active) {
        for (const batch of writer.batches()) {
          left++;
          batch.onSettled(settled);
        }
      }
      settled();
    });
    return all;
  }

  // ------------------------------------------------------------------------------------ what happens

  #onMetadata(change: ViewChange): void {
    for (const deleted of change.deleted) this.#onDeleted(deleted);
    for (const view of change.partitions) this.#writer(view)?.onLeader(view);
    for (const view of change.inSync) this.#writer(view)?.retryNow();
  }

  #writer({ topicId, partition }: PartitionView): PartitionWriter | undefined {
    const name = this.#metadata.view.topicById(topicId)?.name;
    const state = name === undefined ? undefined : this.#topics.get(name);
    return state?.view.topicId === topicId ? state.writers[partition] : undefined;
  }

  #onDeleted(topic: TopicView): void {
    const state = this.#topics.get(topic.name);
    if (state?.view.topicId !== topic.topicId) return;
    this.#topics.delete(topic.name);
    const message = `topic "${topic.name}" was deleted before the record was acknowledged`;
    for (const writer of state.writers) {
      writer?.close(
        (outcomeUnknown) =>
          new ClientError('UNKNOWN_TOPIC_OR_PARTITION', message, { outcomeUnknown }),
      );
    }
  }

  #onSettled(writer: PartitionWriter, sizeInBytes: number): void {
    this.#bufferedBytes -= sizeInBytes;
    if (writer.isIdle) this.#active.delete(writer);
    if (this.#waiting.isShortOfMemory) this.#waiting.admit();
    else this.#tellDrained();
  }

  #deliver(delivery: Delivery): void {
    try {
      this.#onDelivery?.(delivery);
    } catch (error) {
      const { topic, partition } = delivery;
      this.#ports.logger.error('onDelivery threw', {
        partition: partitionName(topic, partition),
        error: messageOf(error),
      });
    }
  }

  #onIdentityFailed(error: ClientError): void {
    this.#ports.logger.warn('no producer id', { error: error.message });
    if (error.retriable) {
      for (const writer of this.#active) writer.noteError(error);
      // Whoever still has something to send asks again.
      this.#drainAll();
      return;
    }
    for (const writer of [...this.#active]) {
      writer.failAll(
        (outcomeUnknown) =>
          new ClientError(error.code, error.message, { cause: error, outcomeUnknown }),
      );
    }
  }

  // -------------------------------------------------------------------------------------------- parts

  #newIdentity(): IdentitySource {
    const timeoutMs = this.#settings.deliveryTimeoutMs;
    const { logger } = this.#ports;
    return new IdentitySource(
      this.#metadata.anyBroker,
      logger,
      { timeoutMs },
      {
        onReady: () => this.#drainAll(),
        onFailed: (error) => this.#onIdentityFailed(error),
      },
    );
  }

  #newWaitingRoom(): WaitingRoom {
    const timeoutMs = this.#settings.deliveryTimeoutMs;
    const { signal } = this.#abort;
    return new WaitingRoom({
      lookUp: (topic) => this.#metadata.waitForTopic(topic, { timeoutMs, signal }),
      onFound: (topic, view) => {
        // It may have been made anew since it was found: the view has the last word.
        const latest = this.#metadata.view.topic(topic) ?? view;
        const sticky = new StickyPartition(this.#ports, this.#settings.batchBytes);
        if (!this.#closed) this.#topics.set(topic, { view: latest, sticky, writers: [] });
      },
      hasRoom: (waiting) => waiting.handle === undefined || this.#hasRoom(waiting.size),
      place: (waiting) => this.#placeWaiting(waiting),
      refuse: (waiting, error) => this.#refuse(waiting, error),
      onMoved: () => this.#onWaitingMoved(),
    });
  }

  #newPool(): BufferPool {
    const { batchBytes } = this.#settings;
    const sizes = new Set([batchBytes, grownBatchBytes(this.#settings)]);
    return new BufferPool([...sizes].map(batchCapacity));
  }

  #newContext(): WriterContext {
    const { requestTimeoutMs, acks } = this.#settings;
    return {
      ports: this.#ports,
      metadata: this.#metadata,
      settings: this.#settings,
      identity: this.#identity,
      deliver: (delivery) => this.#deliver(delivery),
      pool: this.#newPool(),
      channel: (address) => {
        const known = this.#channels.get(address);
        if (known !== undefined) return known;
        const channel = new ProduceChannel(address, this.#ports, this.#deps.connections, {
          requestTimeoutMs,
          answered: acks !== 0,
          onTrouble: () => this.#metadata.refresh(),
        });
        this.#channels.set(address, channel);
        return channel;
      },
      isHurried: () => this.#flushing > 0 || this.#waiting.isShortOfMemory,
      onOpened: (writer, batch) => {
        this.#active.add(writer);
        this.#expireAt(batch.deadlineMs);
        this.#linger.begin(writer, batch);
      },
      onSealed: (writer, batchBytes) =>
        this.#topics.get(writer.topic)?.sticky.sealed(writer.partition, batchBytes),
      onSettled: (writer, sizeInBytes) => this.#onSettled(writer, sizeInBytes),
    };
  }
}

function choosePartition(topic: TopicState, record: PreparedRecord): number {
  const { view } = topic;
  const { key, partition } = record;
  if (partition === undefined) {
    return key === null ? topic.sticky.get(view) : keyedPartition(key, view.partitionCount);
  }
  if (!Number.isInteger(partition) || partition < 0 || partition >= view.partitionCount) {
    throw new ClientError(
      'UNKNOWN_TOPIC_OR_PARTITION',
      `topic "${view.name}" has partitions 0 to ${view.partitionCount - 1}, not ${partition}`,
    );
  }
  return partition;
}

/** Rejects the handle when the signal fires; what comes later finds the promise settled. */
function followSignal(handle: SendHandle, signal: AbortSignal): void {
  const { resolve, reject } = handle;
  const abort = (): void =>
    reject(abortedError('send', { outcomeUnknown: true, cause: signal.reason }));
  handle.resolve = (receipt) => {
    signal.removeEventListener('abort', abort);
    resolve(receipt);
  };
  handle.reject = (error) => {
    signal.removeEventListener('abort', abort);
    reject(error);
  };
  signal.addEventListener('abort', abort, { once: true });
}

const asClientError = (error: unknown): ClientError => callError('sending a record', error);
