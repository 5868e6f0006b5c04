/**
 * Keeps the readers filled: asks each partition's leader for what comes next, as long as the buffer has
 * room, and deals with what answers say other than records. A partition's next request goes out the
 * moment its last answer arrived, before a record of that is read.
 */
import { ERRORS, errorCodeOf } from '@relevo/base/errors';
import type { ErrorCode } from '@relevo/base/errors';
import { DEFAULT_RETRY, backoffMs } from '@relevo/base/retry';
import type { TimerHandle } from '@relevo/base/ports';
import type { EpochEnd, FetchResponse, FetchedPartition } from '@relevo/rpc/gen/client/fetch';
import type { ClientPorts } from '../client-ports.ts';
import { whyNoLeader } from '../cluster-view.ts';
import type { PartitionView } from '../cluster-view.ts';
import type { Connections } from '../connections.ts';
import { ClientError, brokerError } from '../errors.ts';
import type { Metadata } from '../metadata.ts';
import type { ConsumerSettings } from './consumer-options.ts';
import { FetchChannel } from './fetch-channel.ts';
import type { SentFetch } from './fetch-channel.ts';
import type { PartitionReader } from './partition-reader.ts';

export interface FetcherEvents {
  onData(reader: PartitionReader): void;
  /** The wanted offset is not in the log; the broker's words and the log's bounds are in the error. */
  onOutOfRange(reader: PartitionReader, error: ClientError): void;
  /** The leader's log parts from what was fetched: at `endOffset` of the last epoch in common. */
  onDiverging(reader: PartitionReader, from: EpochEnd): void;
  /** The partition cannot be read for a while already; it is tried on and on. */
  onStalled(reader: PartitionReader, code: ErrorCode, message: string, forMs: number): void;
  /** Nothing will be fetched for the reader before it is moved. */
  onFailed(reader: PartitionReader, error: ClientError): void;
}

export interface FetcherDeps {
  readonly ports: ClientPorts;
  readonly metadata: Metadata;
  readonly connections: Connections;
}

/** What one answer may have beyond what one partition may. */
const ANSWER_PARTITIONS = 2;
/** Requests to one broker at a time for partitions that have records. */
const REQUESTS_WITH_DATA = 3;
/** A request asks for no less, however full the buffer is. */
const FETCH_BYTES_MIN = 64 * 1024;
const GATHER_MS = 2;
/** How long a partition may not be readable before it is told of, and how often it is told again. */
const STALL_TOLD_MS = 5_000;
const STALL_TOLD_AGAIN_MS = 30_000;

interface LedReader {
  readonly reader: PartitionReader;
  readonly view: PartitionView;
  readonly offset: number;
}

export class Fetcher {
  readonly #deps: FetcherDeps;
  readonly #settings: ConsumerSettings;
  readonly #events: FetcherEvents;
  readonly #readers = new Map<string, PartitionReader>();
  readonly #channels = new Map<string, FetchChannel>();
  readonly #forgetMetadata: () => void;
  #gathering: TimerHandle | undefined;
  #closed = false;

  constructor(deps: FetcherDeps, settings: ConsumerSettings, events: FetcherEvents) {
    this.#deps = deps;
    this.#settings = settings;
    this.#events = events;
    this.#forgetMetadata = deps.metadata.onChange((change) => {
      for (const view of change.partitions) this.#onLeader(view);
      if (change.partitions.length > 0 || change.brokersChanged) this.pump();
    });
  }

  add(reader: PartitionReader): void {
    this.#readers.set(keyOf(reader.topicId, reader.partition), reader);
  }

  close(): void {
    this.#closed = true;
    this.#gathering?.cancel();
    this.#forgetMetadata();
    for (const reader of this.#readers.values()) reader.abandonFetch();
    for (const channel of this.#channels.values()) channel.close();
    this.#channels.clear();
  }

  /** What comes next cannot be read: it is fetched anew. False: that was tried often enough. */
  fetchAnew(reader: PartitionReader, error: ClientError): boolean {
    const attempt = reader.refetch();
    if (attempt === undefined) return false;
    const { logger, random } = this.#deps.ports;
    const facts = { partition: reader.name, why: error.message, attempt: attempt + 1 };
    logger.warn('records that were fetched cannot be read: they are fetched anew', facts);
    this.#pumpAfter(reader, backoffMs(DEFAULT_RETRY, attempt, random));
    return true;
  }

  /** Asks for what there is room for. To be called whenever something may have become possible. */
  pump(): void {
    if (this.#closed) return;
    let buffered = 0;
    for (const reader of this.#readers.values()) buffered += reader.bufferedBytes;
    const { bufferBytes } = this.#settings;
    if (buffered >= bufferBytes) return;
    // One partition that nobody reads from must not take the room of the others.
    const share = this.#readers.size > 1 ? bufferBytes / 2 : bufferBytes;
    const byAddress = new Map<string, LedReader[]>();
    for (const reader of this.#readers.values()) {
      if (reader.bufferedBytes >= share) continue;
      const led = this.#fetchable(reader);
      if (led === undefined) continue;
      const group = byAddress.get(led.address) ?? [];
      group.push(led);
      byAddress.set(led.address, group);
    }
    for (const [address, group] of byAddress) {
      for (const part of inParts(group)) this.#send(address, part, bufferBytes - buffered);
    }
  }

  #fetchable(reader: PartitionReader): (LedReader & { readonly address: string }) | undefined {
    const { metadata } = this.#deps;
    const offset = reader.fetchOffset;
    if (offset === undefined || reader.isFetching || reader.isPaused) return undefined;
    if (reader.retryTimer !== undefined) return undefined;
    const view = metadata.view.partition(reader.topicId, reader.partition);
    const address = view === undefined ? undefined : metadata.leaderAddress(view);
    if (view === undefined || address === undefined) {
      this.stalled(reader, 'LEADER_NOT_AVAILABLE', view === undefined ? '' : whyNoLeader(view));
      this.#retryLater(reader);
      return undefined;
    }
    return this.#channel(address).isReady ? { reader, view, offset, address } : undefined;
  }

  #send(address: string, group: readonly LedReader[], room: number): void {
    const { fetchBytes } = this.#settings;
    const channel = this.#channel(address);
    const maxWaitMs = channel.nextWaitMs();
    if (maxWaitMs === undefined) return;
    const fair = Math.max(FETCH_BYTES_MIN, Math.floor(room / (channel.requestCount + 1)));
    const maxBytes = Math.min(fair, fetchBytes * ANSWER_PARTITIONS);
    const sent: SentFetch = {
      readers: group.map(({ reader }) => ({ reader, generation: reader.generation })),
      sentMs: this.#deps.ports.clock.monotonicMs(),
      maxWaitMs,
    };
    for (const { reader } of group) reader.isFetching = true;
    channel.send(sent, {
      minBytes: 1,
      maxBytes,
      partitions: group.map(({ reader, view, offset }) => ({
        topicId: reader.topicId,
        partition: reader.partition,
        leaderEpoch: view.leaderEpoch,
        offset,
        lastEpoch: reader.lastEpoch,
        maxBytes: Math.min(fetchBytes, maxBytes),
        damaged: reader.takeDamage(),
      })),
    });
  }

  #channel(address: string): FetchChannel {
    const known = this.#channels.get(address);
    if (known !== undefined) return known;
    const channel = new FetchChannel(address, this.#deps, this.#settings, {
      onAnswer: (sent, response) => this.#onAnswer(sent, response),
      onBroken: (sent, failedInARow) => this.#onBroken(sent, failedInARow),
      onReady: () => this.pump(),
    });
    this.#channels.set(address, channel);
    return channel;
  }

  #onAnswer(sent: SentFetch, response: FetchResponse): void {
    const current = new Set<PartitionReader>();
    for (const { reader, generation } of sent.readers) {
      if (reader.generation !== generation) continue;
      reader.isFetching = false;
      current.add(reader);
    }
    for (const answer of response.partitions) {
      const reader = this.#readers.get(keyOf(answer.topicId, answer.partition));
      if (reader === undefined || !current.has(reader)) continue;
      try {
        this.#onPartition(reader, answer);
      } catch (error) {
        if (!(error instanceof ClientError)) throw error;
        this.#events.onFailed(reader, error);
      }
    }
    const isEmpty = response.partitions.every(
      ({ error, batches, diverging }) =>
        error === 0 && batches.length === 0 && diverging === undefined,
    );
    if (isEmpty) this.#pumpTogether();
    else this.pump();
  }

  /** Answers that ran out of time come at about the same moment: their partitions share a request. */
  #pumpTogether(): void {
    this.#gathering ??= this.#deps.ports.timers.after(GATHER_MS, () => {
      this.#gathering = undefined;
      this.pump();
    });
  }

  #onPartition(reader: PartitionReader, answer: FetchedPartition): void {
    const code = errorCodeOf(answer.error);
    if (code === 'NONE') {
      reader.failedInARow = 0;
      this.#readsAgain(reader);
      if (answer.diverging !== undefined) {
        this.#events.onDiverging(reader, answer.diverging);
        return;
      }
      reader.highWatermark = answer.highWatermark;
      if (answer.batches.length === 0) return;
      reader.push(answer.batches);
      this.#events.onData(reader);
    } else if (code === 'OFFSET_OUT_OF_RANGE') {
      const { logStartOffset, highWatermark } = answer;
      const message =
        `${reader.name}: offset ${reader.fetchOffset} is not in the log, which has ${logStartOffset} ` +
        `to ${highWatermark}; seek to one of those, or set onOutOfRange`;
      this.#events.onOutOfRange(reader, new ClientError(code, message));
    } else if (ERRORS[code].retriable) {
      this.#onRetriable(reader, code, answer);
    } else {
      this.#events.onFailed(reader, brokerError(reader.name, answer.error, answer.message));
    }
  }

  #onRetriable(reader: PartitionReader, code: ErrorCode, answer: FetchedPartition): void {
    const { metadata, ports } = this.#deps;
    const { generation } = reader;
    ports.logger.debug('fetch is retried', { partition: reader.name, reason: code });
    // News of a leader come back as a change of the view, which asks that one on the spot.
    metadata.applyHint(reader.topicId, reader.partition, answer.currentLeader);
    this.stalled(reader, code, answer.message);
    if (reader.generation === generation && !reader.isFetching) this.#retryLater(reader);
  }

  #onBroken(sent: readonly SentFetch[], failedInARow: number): void {
    for (const { reader, generation } of sent.flatMap(({ readers }) => readers)) {
      if (reader.generation !== generation) continue;
      reader.isFetching = false;
      this.stalled(reader, 'LEADER_NOT_AVAILABLE', 'its leader cannot be reached');
    }
    if (failedInARow > 1) this.#deps.metadata.refresh();
    this.pump();
  }

  #onLeader(view: PartitionView): void {
    const reader = this.#readers.get(keyOf(view.topicId, view.partition));
    if (reader === undefined) return;
    reader.abandonFetch();
    reader.failedInARow = 0;
    const address = this.#deps.metadata.leaderAddress(view);
    if (address !== undefined) this.#channels.get(address)?.hurry();
  }

  /** It could not be read once more; told when that goes on for a while. */
  stalled(reader: PartitionReader, code: ErrorCode, message: string): void {
    const { clock, logger } = this.#deps.ports;
    const nowMs = clock.monotonicMs();
    reader.stall ??= { sinceMs: nowMs, tellMs: nowMs + STALL_TOLD_MS, isTold: false };
    const { stall } = reader;
    if (nowMs < stall.tellMs) return;
    stall.tellMs = nowMs + STALL_TOLD_AGAIN_MS;
    stall.isTold = true;
    const forMs = Math.round(nowMs - stall.sinceMs);
    const why = message === '' ? ERRORS[code].meaning : message;
    logger.warn('a partition cannot be read', { partition: reader.name, forMs, code, why });
    this.#events.onStalled(reader, code, why, forMs);
  }

  #readsAgain(reader: PartitionReader): void {
    if (reader.stall === undefined) return;
    if (reader.stall.isTold) {
      this.#deps.ports.logger.info('the partition is read again', { partition: reader.name });
    }
    reader.stall = undefined;
  }

  #retryLater(reader: PartitionReader): void {
    const { metadata, ports } = this.#deps;
    const waitMs = backoffMs(DEFAULT_RETRY, reader.failedInARow++, ports.random);
    metadata.refresh();
    this.#pumpAfter(reader, waitMs);
  }

  #pumpAfter(reader: PartitionReader, waitMs: number): void {
    reader.retryTimer = this.#deps.ports.timers.after(waitMs, () => {
      reader.retryTimer = undefined;
      this.pump();
    });
  }
}

/**
 * Partitions known to have records go into several requests, so that a broker reads for one while it sends
 * another's answer; those without share one, which waits.
 */
function inParts(group: readonly LedReader[]): LedReader[][] {
  const parts: LedReader[][] = Array.from({ length: REQUESTS_WITH_DATA }, () => []);
  const waiting: LedReader[] = [];
  let next = 0;
  for (const led of group) {
    const isBehind = (led.reader.highWatermark ?? Infinity) > led.offset;
    if (isBehind) parts[next++ % parts.length]?.push(led);
    else waiting.push(led);
  }
  return [...parts, waiting].filter((part) => part.length > 0);
}

const keyOf = (topicId: string, partition: number): string => `${topicId}-${partition}`;
