/**
 * A consumer reads partitions in their order and hands out what it has read ahead.
 *
 * Partitions with data stand in line; the first is read from until its fetched run is used up, then the
 * next. Nothing is skipped in silence: an offset that is not in the log is an error or a gap that is
 * logged and told (invariant C2).
 *
 *   idle --first read--> running --close | return--> closed
 *                        running --error--> failed --seek past it--> running
 *
 * A failed consumer tells its error to every read: no partition falls silent because an error was
 * caught and forgotten.
 */
import type { Buffer } from 'node:buffer';
import { Readable } from 'node:stream';
import type { ErrorCode } from '@relevo/base/errors';
import { partitionName } from '@relevo/base/ids';
import type { RecordView } from '@relevo/record/records';
import type { TopicView, ViewChange } from '../cluster-view.ts';
import type { ClientPorts } from '../client-ports.ts';
import type { Connections } from '../connections.ts';
import { ClientError, abortedError, callError, closedError } from '../errors.ts';
import { Fifo } from '../fifo.ts';
import type { Metadata } from '../metadata.ts';
import { lookUpOffsets, queryOf } from '../offset-lookup.ts';
import type { FoundOffset, OffsetQuery } from '../offset-lookup.ts';
import type { EpochEnd } from '@relevo/rpc/gen/client/fetch';
import { bytes as bytesSerializer } from '../serializers.ts';
import type { Serializer } from '../serializers.ts';
import {
  checkedEpoch,
  checkedOffset,
  checkedStart,
  highWaterMarkOf,
  consumerSettings,
  notRead,
  wireTimestamp,
} from './consumer-options.ts';
import type {
  ConsumedRecord,
  ConsumerOptions,
  ConsumerSettings,
  DefaultData,
  PartitionStart,
  StartPosition,
  TopicPartition,
} from './consumer-options.ts';
import { Fetcher } from './fetcher.ts';
import { PartitionReader } from './partition-reader.ts';
import type { LoadResult } from './partition-reader.ts';

export interface ConsumerDeps {
  readonly ports: ClientPorts;
  readonly metadata: Metadata;
  readonly connections: Connections;
  readonly onClosed: () => void;
}

export interface PartitionOffset extends TopicPartition {
  readonly offset: number;
  /** Of the record before it, as `ConsumedRecord` told; a truncated log is then noticed. Default: unknown. */
  readonly leaderEpoch?: number;
}

interface Waiter {
  /** False: there is nothing for it yet. */
  serve(): boolean;
  end(error: ClientError | undefined): void;
}

/** How long the topics may take to be found, ms. */
const START_TIMEOUT_MS = 30_000;
const OFFSETS_TIMEOUT_MS = 30_000;

export class Consumer<Key = DefaultData, Value = DefaultData> implements AsyncIterable<
  ConsumedRecord<Key, Value>
> {
  readonly #deps: ConsumerDeps;
  readonly #options: ConsumerOptions<Key, Value>;
  readonly #settings: ConsumerSettings;
  readonly #key: Serializer<never, Key>;
  readonly #value: Serializer<never, Value>;
  readonly #fetcher: Fetcher;
  readonly #readers: PartitionReader[] = [];
  /** Topics of which new partitions are read too. */
  readonly #subscribed = new Map<string, TopicView>();
  readonly #line = new Fifo<PartitionReader>();
  readonly #waiters = new Fifo<Waiter>();
  readonly #abort = new AbortController();
  readonly #forgetMetadata: () => void;
  #current: PartitionReader | undefined;
  #starting: Promise<void> | undefined;
  #failure:
    { readonly error: ClientError; readonly reader: PartitionReader | undefined } | undefined;
  #closed = false;
  #started = false;
  #allPaused = false;
  /** What was said of partitions before the start: whether they are paused. */
  readonly #pausedAhead = new Map<string, boolean>();

  /** Made by `Relevo.consumer`. */
  constructor(options: ConsumerOptions<Key, Value>, deps: ConsumerDeps) {
    this.#deps = deps;
    this.#options = options;
    this.#settings = consumerSettings(options);
    // The types default to what this serializer gives.
    const plain = bytesSerializer as Serializer<never, unknown>;
    this.#key = options.key ?? (plain as Serializer<never, Key>);
    this.#value = options.value ?? (plain as Serializer<never, Value>);
    this.#fetcher = new Fetcher(deps, this.#settings, {
      onData: (reader) => this.#onData(reader),
      onOutOfRange: (reader, error) => this.#onOutOfRange(reader, error),
      onDiverging: (reader, from) => this.#onDiverging(reader, from),
      onStalled: ({ topic, partition }, code, message, forMs) =>
        this.#options.onStalled?.({ topic, partition, code, message, forMs }),
      onFailed: (reader, error) => this.#cannotRead(reader, error),
    });
    this.#forgetMetadata = deps.metadata.onChange((change) => this.#onMetadata(change));
    const { signal } = options;
    if (signal?.aborted === true) this.#onAborted();
    signal?.addEventListener('abort', this.#onAborted, { once: true });
  }

  /** Leaving the loop closes the consumer. */
  [Symbol.asyncIterator](): AsyncIterableIterator<ConsumedRecord<Key, Value>> {
    return this.#iterate(() => this.#take());
  }

  /** The same records by the lot: those of one batch at a time. Less work per record. */
  batches(): AsyncIterableIterator<ConsumedRecord<Key, Value>[]> {
    return this.#iterate(() => this.#takeBatch());
  }

  /** The records as a stream of objects. Destroying it closes the consumer. */
  stream(options: { readonly highWaterMark?: number } = {}): Readable {
    return Readable.from(this, { objectMode: true, highWaterMark: highWaterMarkOf(options) });
  }

  /** Finds the partitions and their starts; the first read does so by itself. */
  start(): Promise<void> {
    this.#starting ??= this.#start();
    return this.#starting;
  }

  /** The partitions that are read; complete once `start` has resolved. */
  assignment(): readonly TopicPartition[] {
    return this.#readers.map(({ topic, partition }) => ({ topic, partition }));
  }

  /**
   * Hands out nothing of these (default: of all) and fetches nothing more until `resume`. Both may come
   * before the start, and hold from it on.
   */
  pause(partitions?: readonly TopicPartition[]): void {
    this.#setPaused(partitions, true);
  }

  resume(partitions?: readonly TopicPartition[]): void {
    for (const reader of this.#setPaused(partitions, false)) this.#queue(reader);
    this.#fetcher.pump();
    this.#serve();
  }

  /**
   * The next record of the partition will be the one at `offset`, or the first after it. Starts the
   * consumer where that has not been done.
   */
  async seek(to: PartitionOffset): Promise<void> {
    checkedOffset(to.offset);
    checkedEpoch(to.leaderEpoch);
    await this.start();
    const reader = this.#reader(to);
    reader.moveTo(to.offset, to.leaderEpoch);
    if (this.#failure?.reader === reader) this.#failure = undefined;
    this.#fetcher.pump();
  }

  /** The offset after the last record that was handed out; undefined before the start is known. */
  position(partition: TopicPartition): number | undefined {
    return this.#readerOrNone(partition)?.position;
  }

  /** How many committed records lie behind the position, as the leader said last. */
  lag(partition: TopicPartition): number | undefined {
    const { highWatermark = -1, position } = this.#readerOrNone(partition) ?? {};
    if (highWatermark < 0 || position === undefined) return undefined;
    return Math.max(0, highWatermark - position);
  }

  /**
   * For each partition read, the offset of the first record at or after the time; undefined where no
   * record is that late.
   */
  async offsetsForTimestamp(
    timestampMs: number,
  ): Promise<readonly (TopicPartition & { readonly offset: number | undefined })[]> {
    checkedStart({ timestamp: timestampMs });
    await this.start();
    const found = new Map<OffsetQuery, FoundOffset>();
    const queries = this.#readers.map((reader) => queryOf(reader, timestampMs));
    const options = { timeoutMs: OFFSETS_TIMEOUT_MS, signal: this.#abort.signal };
    await lookUpOffsets(this.#deps, queries, options, (query, offset) => found.set(query, offset));
    return this.#readers.map(({ topic, partition }, index) => {
      const query = queries[index];
      const offset = (query === undefined ? undefined : found.get(query))?.offset ?? -1;
      return { topic, partition, offset: offset < 0 ? undefined : offset };
    });
  }

  /** Ends all iterations and frees everything. */
  close(): Promise<void> {
    this.#close(undefined);
    return Promise.resolve();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  // --------------------------------------------------------------------------------------- iterations

  #iterate<Item>(take: () => Item | undefined): AsyncIterableIterator<Item> {
    const next = (): Promise<IteratorResult<Item, undefined>> => {
      const failure = this.#metFailure();
      if (failure !== undefined) return Promise.reject(failure);
      void this.start().catch(() => undefined);
      if (this.#closed) return Promise.resolve({ done: true, value: undefined });
      let value: Item | undefined;
      try {
        value = this.#waiters.size === 0 ? take() : undefined;
      } catch (error) {
        return Promise.reject(callError('consuming', error));
      }
      if (value !== undefined) return Promise.resolve({ done: false, value });
      const met = this.#metFailure();
      if (met !== undefined) return Promise.reject(met);
      return new Promise((resolve, reject) => {
        this.#waiters.push({
          serve: () => {
            const item = take();
            if (item !== undefined) resolve({ done: false, value: item });
            return item !== undefined;
          },
          end: (error) => {
            if (error === undefined) resolve({ done: true, value: undefined });
            else reject(error);
          },
        });
      });
    };
    return {
      next,
      return: async () => {
        await this.close();
        return { done: true, value: undefined };
      },
      [Symbol.asyncIterator]() {
        return this;
      },
    };
  }

  #take(): ConsumedRecord<Key, Value> | undefined {
    for (;;) {
      const reader = this.#readable();
      const view = reader === undefined ? undefined : this.#peek(reader);
      if (reader === undefined || view === undefined) return undefined;
      const record = this.#deserialize(reader, view);
      reader.advance();
      return record;
    }
  }

  #takeBatch(): ConsumedRecord<Key, Value>[] | undefined {
    const reader = this.#readable();
    if (reader === undefined) return undefined;
    const records: ConsumedRecord<Key, Value>[] = [];
    try {
      for (let view = this.#peek(reader); view !== undefined; view = this.#peek(reader)) {
        records.push(this.#deserialize(reader, view));
        reader.advance();
      }
    } catch (error) {
      // Those before it are handed out first; the next read meets it again.
      if (records.length === 0) throw error;
    }
    return records;
  }

  /** A reader with a record at hand. */
  #readable(): PartitionReader | undefined {
    for (;;) {
      const reader = this.#current ?? this.#line.shift();
      if (reader === undefined) return undefined;
      this.#current = reader;
      if (!reader.isPaused) {
        if (this.#peek(reader) !== undefined) return reader;
        const before = reader.bufferedBytes;
        const loaded = this.#load(reader);
        if (reader.bufferedBytes < before) this.#fetcher.pump();
        if (loaded) return reader;
      }
      this.#current = undefined;
      reader.isQueued = false;
    }
  }

  /** A batch that turns out to be damaged is told of at the next read, after the records before it. */
  #peek(reader: PartitionReader): RecordView | undefined {
    try {
      return reader.peek();
    } catch (error) {
      this.#cannotRead(reader, callError(reader.name, error));
      return undefined;
    }
  }

  #load(reader: PartitionReader): boolean {
    let result: LoadResult;
    try {
      result = reader.load();
    } catch (error) {
      this.#cannotRead(reader, callError(reader.name, error));
      return false;
    }
    if (result === 'loaded') return true;
    if (result === 'empty') return false;
    result.then(
      () => {
        this.#queue(reader);
        this.#serve();
      },
      (error: unknown) => this.#cannotRead(reader, callError(reader.name, error)),
    );
    return false;
  }

  #deserialize(reader: PartitionReader, view: RecordView): ConsumedRecord<Key, Value> {
    const { topic, partition, leaderEpoch } = reader;
    try {
      return {
        topic,
        partition,
        offset: view.offset,
        timestamp: view.timestamp,
        leaderEpoch,
        // Views into a Buffer are Buffers.
        key: this.#key.deserialize(view.key as Buffer | null),
        value: this.#value.deserialize(view.value as Buffer | null),
        headers: view.headers,
      };
    } catch (error) {
      const { message } = callError('a deserializer failed', error);
      throw new ClientError(
        'SERIALIZATION_FAILED',
        `${reader.name} at offset ${view.offset}: ${message}; seek to ${view.offset + 1} to go past it`,
        { cause: error },
      );
    }
  }

  #onData(reader: PartitionReader): void {
    this.#queue(reader);
    this.#serve();
  }

  #queue(reader: PartitionReader): void {
    if (reader.isQueued || !reader.hasData) return;
    reader.isQueued = true;
    this.#line.push(reader);
  }

  /** Gives waiting readers what there is. */
  #serve(): void {
    for (;;) {
      const waiter = this.#waiters.peek();
      if (waiter === undefined) return;
      try {
        if (!waiter.serve()) return;
        this.#waiters.shift();
      } catch (error) {
        this.#waiters.shift();
        waiter.end(callError('consuming', error));
      }
    }
  }

  // ------------------------------------------------------------------------------------------- starting

  async #start(): Promise<void> {
    try {
      if (this.#closed) throw closedError('the consumer');
      const { topics, partitions } = this.#options;
      if (topics !== undefined) await this.#subscribe(topics);
      else await this.#assign(partitions ?? []);
      this.#checkPausedAhead();
      this.#started = true;
      this.#resolveStarts(this.#readers);
    } catch (error) {
      const failure = callError('starting the consumer', error);
      // The next read tries again; those that wait are told.
      this.#starting = undefined;
      for (const waiter of this.#waiters.clear()) waiter.end(failure);
      throw failure;
    }
  }

  async #subscribe(topics: readonly string[]): Promise<void> {
    for (const name of new Set(topics)) {
      const view = await this.#topic(name);
      this.#subscribed.set(view.topicId, view);
      this.#addPartitions(view, this.#settings.from);
    }
  }

  async #assign(partitions: readonly PartitionStart[]): Promise<void> {
    for (const { topic, partition, from } of partitions) {
      const view = await this.#topic(topic);
      if (!Number.isInteger(partition) || partition < 0 || partition >= view.partitionCount) {
        throw new ClientError(
          'UNKNOWN_TOPIC_OR_PARTITION',
          `topic "${topic}" has partitions 0 to ${view.partitionCount - 1}, not ${partition}`,
        );
      }
      this.#addReader(view, partition, checkedStart(from ?? this.#settings.from));
    }
  }

  #topic(name: string): Promise<TopicView> {
    const options = { timeoutMs: START_TIMEOUT_MS, signal: this.#abort.signal };
    return this.#deps.metadata.waitForTopic(name, options);
  }

  #addPartitions(view: TopicView, start: StartPosition): PartitionReader[] {
    const added: PartitionReader[] = [];
    for (let partition = 0; partition < view.partitionCount; partition++) {
      const reader = this.#addReader(view, partition, start);
      if (reader !== undefined) added.push(reader);
    }
    return added;
  }

  #addReader(
    view: TopicView,
    partition: number,
    start: StartPosition,
  ): PartitionReader | undefined {
    const { name, topicId } = view;
    const isKnown = this.#readers.some(
      (reader) => reader.topicId === topicId && reader.partition === partition,
    );
    if (isKnown || this.#closed) return undefined;
    const { crc32c, codecs } = this.#deps.ports;
    const { checkCrc } = this.#settings;
    const reader = new PartitionReader(name, topicId, partition, { crc32c, codecs, checkCrc });
    reader.start = start;
    reader.isPaused = this.#pausedAhead.get(reader.name) ?? this.#allPaused;
    this.#pausedAhead.delete(reader.name);
    this.#readers.push(reader);
    this.#fetcher.add(reader);
    return reader;
  }

  /** Turns the starts into offsets, each as soon as its leader has told. */
  #resolveStarts(readers: readonly PartitionReader[]): void {
    const open = new Map<OffsetQuery, PartitionReader>();
    for (const reader of readers) {
      const { start } = reader;
      if (start === undefined) continue;
      if (typeof start === 'object' && 'offset' in start) {
        reader.moveTo(start.offset, start.leaderEpoch);
      } else open.set(queryOf(reader, wireTimestamp(start)), reader);
    }
    this.#fetcher.pump();
    if (open.size === 0) return;
    const { signal } = this.#abort;
    const late: PartitionReader[] = [];
    const options = {
      ...{ timeoutMs: Infinity, signal },
      onRefused: (query: OffsetQuery, code: ErrorCode, message: string): void => {
        const reader = open.get(query);
        if (reader?.start !== undefined && !this.#closed) {
          this.#fetcher.stalled(reader, code, message);
        }
      },
    };
    lookUpOffsets(this.#deps, [...open.keys()], options, (query, found) => {
      const reader = open.get(query);
      if (reader?.start === undefined || this.#closed) return;
      if (found.offset >= 0) {
        this.#begin(reader, found.offset);
      } else {
        reader.start = 'latest';
        late.push(reader);
      }
    })
      .then(() => {
        if (late.length > 0) this.#resolveStarts(late);
      })
      .catch((error: unknown) => this.#fail(callError('finding where to start', error)));
  }

  #begin(reader: PartitionReader, offset: number): void {
    const gap = reader.resumeFetch(offset);
    if (gap !== undefined) {
      const { topic, partition, name } = reader;
      const { logger } = this.#deps.ports;
      logger.warn('the offset was not in the log', { partition: name, ...gap });
      this.#options.onGap?.({ topic, partition, ...gap });
    }
    this.#fetcher.pump();
  }

  // ------------------------------------------------------------------------------------ what happens

  #onOutOfRange(reader: PartitionReader, error: ClientError): void {
    const policy = this.#settings.onOutOfRange;
    reader.loseFetchOffset();
    if (policy === 'error') {
      this.#fail(error, reader);
      return;
    }
    reader.start = policy;
    this.#resolveStarts([reader]);
  }

  /** What was fetched and not read is fetched anew; what was read cannot be taken back, and is told of. */
  #onDiverging(reader: PartitionReader, from: EpochEnd): void {
    const { topic, partition, name, position } = reader;
    const divergence = reader.commonEnd(from);
    if (position === undefined || divergence >= position) {
      reader.rewind();
      this.#fetcher.pump();
      return;
    }
    const truncation = { topic, partition, position, divergence };
    this.#deps.ports.logger.warn('records that were read are gone from the log', {
      ...{ partition: name, position, divergence },
    });
    this.#options.onTruncated?.(truncation);
    if (this.#settings.onTruncation === 'seek') {
      reader.moveTo(divergence);
      this.#fetcher.pump();
      return;
    }
    const message =
      `${name}: the records from offset ${divergence} to ${position - 1} that were read are gone from the ` +
      `log; seek to ${divergence} to read what took their place, or set onTruncation`;
    this.#halt(reader, new ClientError('LOG_TRUNCATED', message, { truncation }));
  }

  #onMetadata(change: ViewChange): void {
    for (const { topicId, name } of change.deleted) {
      if (!this.#readers.some((reader) => reader.topicId === topicId)) continue;
      const message = `topic "${name}" was deleted while it was consumed`;
      this.#fail(new ClientError('UNKNOWN_TOPIC_OR_PARTITION', message));
    }
    for (const view of change.topics) {
      if (!this.#subscribed.has(view.topicId)) continue;
      this.#resolveStarts(this.#addPartitions(view, 'earliest'));
    }
  }

  readonly #onAborted = (): void => {
    this.#close(abortedError('the consumer', { cause: this.#options.signal?.reason }));
  };

  /** What arrived damaged may arrive whole from the same leader, or from the next one. */
  #cannotRead(reader: PartitionReader, error: ClientError): void {
    if (error.code === 'CORRUPT_RECORDS' && this.#fetcher.fetchAnew(reader, error)) return;
    this.#halt(reader, error);
  }

  #halt(reader: PartitionReader, error: ClientError): void {
    reader.halt();
    this.#fail(error, reader);
  }

  /** Tells whoever reads, now and later, until the reader is moved past its trouble. */
  #fail(error: ClientError, reader?: PartitionReader): void {
    if (this.#closed) return;
    this.#failure ??= { error, reader };
    for (const waiter of this.#waiters.clear()) waiter.end(error);
  }

  /** Asked anew each time: reading may have met one. */
  #metFailure(): ClientError | undefined {
    return this.#failure?.error;
  }

  #close(error: ClientError | undefined): void {
    if (this.#closed) return;
    this.#closed = true;
    if (error !== undefined) this.#failure ??= { error, reader: undefined };
    this.#options.signal?.removeEventListener('abort', this.#onAborted);
    this.#forgetMetadata();
    this.#abort.abort();
    this.#fetcher.close();
    for (const waiter of this.#waiters.clear()) waiter.end(error);
    this.#deps.onClosed();
  }

  #reader(wanted: TopicPartition): PartitionReader {
    const found = this.#readerOrNone(wanted);
    if (found === undefined) throw notRead(wanted);
    return found;
  }

  /** Undefined: it may be read once the consumer has started. */
  #readerOrNone(wanted: TopicPartition): PartitionReader | undefined {
    const { topic, partition } = wanted;
    const isWanted = (other: TopicPartition): boolean =>
      other.topic === topic && other.partition === partition;
    const found = this.#readers.find(isWanted);
    if (found !== undefined) return found;
    const { topics, partitions = [] } = this.#options;
    const mayCome = topics === undefined ? partitions.some(isWanted) : topics.includes(topic);
    if (this.#started || !mayCome) throw notRead(wanted);
    return undefined;
  }

  /** Returns the readers that this is about. */
  #setPaused(
    partitions: readonly TopicPartition[] | undefined,
    isPaused: boolean,
  ): readonly PartitionReader[] {
    if (partitions === undefined) {
      this.#allPaused = isPaused;
      this.#pausedAhead.clear();
      for (const reader of this.#readers) reader.isPaused = isPaused;
      return this.#readers;
    }
    const found = partitions.map((each) => this.#readerOrNone(each));
    for (const [index, each] of partitions.entries()) {
      const reader = found[index];
      if (reader !== undefined) reader.isPaused = isPaused;
      else this.#pausedAhead.set(partitionName(each.topic, each.partition), isPaused);
    }
    return found.filter((reader) => reader !== undefined);
  }

  /** What was paused before the start and is not there after it was a mistake. */
  #checkPausedAhead(): void {
    const [name] = this.#pausedAhead.keys();
    this.#pausedAhead.clear();
    if (name === undefined) return;
    const message = `${name} was paused or resumed before the start, but there is no such partition`;
    throw new ClientError('INVALID_ARGUMENT', message);
  }
}
