/**
 * Reading, from the leader: slices of the log below the high watermark, as they lie on disk (P7). A leader
 * serves under a valid lease only, checked at the moment of the answer. What it says of the ends of its log
 * ("latest", "out of range") takes more: see `Lease`.
 *
 *     request ─> read all its partitions ─> enough, an error, or no time to wait: answer
 *                    ↑                  └─> wait in the purgatory
 *                    └── woken by new committed records, a change of leaders, or the deadline
 *
 * A stream may have many requests under way; each is answered when it is ready. Answers are bounded by
 * what the stream passes on: nothing is read for a caller that does not take what it was sent.
 */
import { ERRORS, RelevoError } from '@relevo/base/errors';
import type { ErrorCode } from '@relevo/base/errors';
import { NO_LEADER_EPOCH } from '@relevo/base/ids';
import type { LeaderEpoch, Offset } from '@relevo/base/ids';
import { isMutated } from '@relevo/base/mutations';
import { route } from '@relevo/base/ports';
import type {
  Clock,
  MessageStream,
  Route,
  StreamEvents,
  TimerHandle,
  Timers,
} from '@relevo/base/ports';
import { judgePosition } from '@relevo/broker/divergence';
import type { EpochEnd } from '@relevo/broker/divergence';
import { FetchPurgatory } from '@relevo/broker/purgatory';
import type { WaitingFetch } from '@relevo/broker/purgatory';
import type { ClusterImage } from '@relevo/controller/image';
import type { CurrentLeader } from '@relevo/rpc/gen/common/errors';
import {
  FetchService as methods,
  fetchedPartition,
  listOffsetsResponse,
  listedOffset,
} from '@relevo/rpc/gen/client/fetch';
import type {
  FetchPartition,
  FetchRequest,
  FetchResponse,
  FetchedPartition,
  ListOffsetsPartition,
  ListOffsetsRequest,
  ListOffsetsResponse,
  ListedOffset,
} from '@relevo/rpc/gen/client/fetch';
import { answerOn, leaderOf, refusalOf } from './current-leader.ts';
import type { Refusal } from './current-leader.ts';
import type { DamageChecks } from './damage-checks.ts';
import { outOfTouch } from './lease.ts';
import type { Lease } from './lease.ts';
import type { Partition } from './partition.ts';
import type { PartitionMetrics } from './partition-metrics.ts';
import type { PartitionTable } from './partition-table.ts';

/** What an answer may hold, whatever the request says; a single larger batch comes all the same. */
export const FETCH_BYTES_MAX: number = 8 * 1024 * 1024 - 64 * 1024;
/** Of one partition, where the request does not say. */
export const PARTITION_BYTES_DEFAULT: number = 1024 * 1024;
/** Requests under way on a stream; further ones are not read from it. */
export const FETCHES_PER_STREAM_MAX = 16;
export const FETCH_WAIT_MAX_MS = 30_000;

/** In `ListOffsetsPartition.timestampMs`. */
const EARLIEST = -2;
const LATEST = -1;

const NOTHING: Uint8Array = new Uint8Array(0);

export interface FetchServiceDeps {
  readonly clock: Clock;
  readonly timers: Timers;
  readonly table: PartitionTable;
  readonly metrics: PartitionMetrics;
  readonly image: () => ClusterImage;
  readonly lease: Lease;
  readonly checks: DamageChecks;
}

export type FetchReply = (response: FetchResponse) => void;

/** A stream that may have to be waited for before more is read for it. */
interface Outlet {
  blocked: boolean;
  /** Ready to be served when it is blocked no more. */
  readonly held: Fetch[];
}

class Fetch implements WaitingFetch<Partition> {
  readonly request: FetchRequest;
  readonly deadlineMs: number;
  readonly reply: FetchReply;
  readonly outlet: Outlet | undefined;
  keys: readonly Partition[] = [];
  missingBytes = 0;
  cancelled = false;

  constructor(
    request: FetchRequest,
    deadlineMs: number,
    reply: FetchReply,
    outlet: Outlet | undefined,
  ) {
    this.request = request;
    this.deadlineMs = deadlineMs;
    this.reply = reply;
    this.outlet = outlet;
  }
}

/** What one pass over the partitions of a request has found. */
interface Gathered {
  readonly partitions: FetchedPartition[];
  readonly led: Partition[];
  /** High watermarks of `led`, as they were read. */
  readonly watermarks: Offset[];
  bytes: number;
  hasError: boolean;
}

export class FetchService {
  readonly #deps: FetchServiceDeps;
  readonly #purgatory = new FetchPurgatory<Partition, Fetch>();
  #timer: TimerHandle | undefined;
  #timerMs = Infinity;
  #closed = false;

  constructor(deps: FetchServiceDeps) {
    this.#deps = deps;
  }

  routes(): Route[] {
    return [
      route(methods.stream, (stream, { listener }) => this.#open(stream, listener)),
      route(methods.listOffsets, async (request, { listener }) =>
        this.#toldOn(listener, await this.listOffsets(request)),
      ),
    ];
  }

  get waiting(): number {
    return this.#purgatory.size;
  }

  /** `bytes` more of committed batches can be read. */
  readable(partition: Partition, bytes: number): void {
    this.#purgatory.advanced(partition, bytes, this.#serve);
  }

  /** The partition is led by another now, or not at all, or by this broker anew. */
  roleChanged(partition: Partition): void {
    this.#purgatory.wake(partition, this.#serve);
  }

  close(): void {
    this.#closed = true;
    this.#timer?.cancel();
  }

  /** Serves one request. The function that is returned gives it up: nobody waits any more. */
  fetch(request: FetchRequest, reply: FetchReply): () => void {
    const fetch = this.#start(request, reply, undefined);
    return () => this.#giveUp(fetch);
  }

  async listOffsets(request: ListOffsetsRequest): Promise<ListOffsetsResponse> {
    await this.#deps.lease.untilCertain();
    const partitions = await Promise.all(request.partitions.map((each) => this.#listOne(each)));
    // The answer is given now: looking up a time may have taken long, or this process stood still.
    return listOffsetsResponse({ partitions: partitions.map((each) => this.#stillTrue(each)) });
  }

  // ---------------------------------------------------------------------------------- streams

  #open(stream: MessageStream<FetchResponse>, listener: string): StreamEvents<FetchRequest> {
    const underWay = new Set<number>();
    const fetches = new Map<number, Fetch>();
    const outlet: Outlet = { blocked: false, held: [] };
    let next = 0;
    let isHalfClosed = false;
    const endIfDone = (): void => {
      if (isHalfClosed && underWay.size === 0) stream.end();
    };
    return {
      onMessage: (request) => {
        const id = next++;
        underWay.add(id);
        const fetch = this.#start(
          request,
          (response) => {
            underWay.delete(id);
            fetches.delete(id);
            if (!stream.send(this.#toldOn(listener, response))) outlet.blocked = true;
            if (underWay.size === FETCHES_PER_STREAM_MAX - 1) stream.resume();
            endIfDone();
          },
          outlet,
        );
        // The reply may have come within that call.
        if (underWay.has(id)) fetches.set(id, fetch);
        if (underWay.size >= FETCHES_PER_STREAM_MAX) stream.pause();
      },
      onDrain: () => {
        outlet.blocked = false;
        for (const fetch of outlet.held.splice(0)) this.#serve(fetch);
      },
      onHalfClose: () => {
        isHalfClosed = true;
        endIfDone();
      },
      onEnd: () => {
        for (const fetch of fetches.values()) this.#giveUp(fetch);
        fetches.clear();
      },
    };
  }

  /** With the addresses of leaders that are told of as callers of that listener know them. */
  #toldOn<
    Part extends { readonly currentLeader: CurrentLeader | undefined },
    Response extends { readonly partitions: readonly Part[] },
  >(listener: string, response: Response): Response {
    if (response.partitions.every((part) => part.currentLeader === undefined)) return response;
    const image = this.#deps.image();
    const partitions = response.partitions.map((part) => answerOn(image, listener, part));
    return { ...response, partitions };
  }

  // --------------------------------------------------------------------------------- fetching

  #start(request: FetchRequest, reply: FetchReply, outlet: Outlet | undefined): Fetch {
    this.#deps.metrics.fetchRequests.add(1);
    const waitMs = Math.min(request.maxWaitMs, FETCH_WAIT_MAX_MS);
    const deadlineMs = this.#deps.clock.monotonicMs() + waitMs;
    const fetch = new Fetch(request, deadlineMs, reply, outlet);
    for (const target of request.partitions) if (target.damaged) this.#suspected(target);
    this.#serve(fetch);
    return fetch;
  }

  #suspected({ topicId, partition: number, offset }: FetchPartition): void {
    const partition = this.#deps.table.find(topicId, number);
    if (partition !== undefined) this.#deps.checks.said(partition, offset, 'client');
  }

  #giveUp(fetch: Fetch): void {
    fetch.cancelled = true;
    this.#purgatory.remove(fetch);
  }

  readonly #serve = (fetch: Fetch): void => {
    if (fetch.cancelled || this.#closed) return;
    if (fetch.outlet?.blocked === true) {
      fetch.outlet.held.push(fetch);
      return;
    }
    const gathered = this.#gather(fetch.request);
    if (gathered instanceof Promise) void gathered.then((found) => this.#finish(fetch, found));
    else this.#finish(fetch, gathered);
  };

  #finish(fetch: Fetch, found: Gathered): void {
    if (fetch.cancelled || this.#closed) return;
    const { request } = fetch;
    const enough = found.bytes >= Math.max(1, request.minBytes);
    const late = this.#deps.clock.monotonicMs() >= fetch.deadlineMs;
    if (enough || found.hasError || late || found.led.length === 0) {
      this.#deps.metrics.fetchedBytes.add(found.bytes);
      fetch.reply({ correlationId: request.correlationId, partitions: found.partitions });
      return;
    }
    // A read off the loop takes turns, and more may have been committed meanwhile.
    const moved = found.led.some(
      (partition, at) => partition.highWatermark !== found.watermarks[at],
    );
    if (moved) {
      this.#serve(fetch);
      return;
    }
    fetch.keys = found.led;
    fetch.missingBytes = Math.max(1, request.minBytes) - found.bytes;
    this.#purgatory.add(fetch);
    this.#watchDeadlines();
  }

  /** Reads what there is. A promise only where something must be read off the loop. */
  #gather(request: FetchRequest): Gathered | Promise<Gathered> {
    const found: Gathered = { partitions: [], led: [], watermarks: [], bytes: 0, hasError: false };
    return this.#gatherFrom(request, 0, found);
  }

  #gatherFrom(request: FetchRequest, from: number, found: Gathered): Gathered | Promise<Gathered> {
    const wanted = request.partitions;
    // Begins with another partition each time, lest the first ones leave no room for the others.
    const first = request.correlationId % Math.max(1, wanted.length);
    for (let at = from; at < wanted.length; at++) {
      const target = wanted[(first + at) % wanted.length];
      if (target === undefined) continue;
      const batches = this.#read(request, target, found);
      if (!(batches instanceof Promise)) continue;
      return batches.then(() => this.#gatherFrom(request, at + 1, found));
    }
    return found;
  }

  #read(
    request: FetchRequest,
    target: FetchPartition,
    found: Gathered,
  ): undefined | Promise<undefined> {
    const partition = this.#deps.table.find(target.topicId, target.partition);
    const refusal = this.#refusal(target, partition);
    if (refusal !== undefined || partition === undefined) {
      this.#fail(target, found, refusal?.code ?? 'UNKNOWN_SERVER_ERROR', refusal?.message ?? '');
      return undefined;
    }
    const { highWatermark } = partition;
    found.led.push(partition);
    found.watermarks.push(highWatermark);
    // 0 is what a caller sends who does not care.
    const total = Math.min(request.maxBytes || FETCH_BYTES_MAX, FETCH_BYTES_MAX) - found.bytes;
    const limit = Math.max(0, Math.min(total, target.maxBytes || PARTITION_BYTES_DEFAULT));
    const offset = target.offset as Offset;
    try {
      const diverging = this.#divergence(partition, target);
      if (diverging !== undefined) {
        this.#tellDivergence(target, partition, diverging, found);
        return undefined;
      }
      this.#checkRange(partition, offset);
      const none = limit === 0 && found.bytes > 0;
      const batches =
        none || offset >= highWatermark
          ? NOTHING
          : partition.log.read(offset, limit, highWatermark, found.bytes === 0);
      if (batches instanceof Promise) {
        return batches.then(
          (bytes) => this.#take(target, partition, highWatermark, bytes, found),
          (error: unknown) => this.#failWith(target, found, error),
        );
      }
      return this.#take(target, partition, highWatermark, batches, found);
    } catch (error) {
      return this.#failWith(target, found, error);
    }
  }

  #take(
    target: FetchPartition,
    partition: Partition,
    highWatermark: Offset,
    batches: Uint8Array,
    found: Gathered,
  ): undefined {
    // Read under this leadership or not at all: the log may have been cut meanwhile.
    const refusal = this.#refusal(target, partition);
    if (refusal !== undefined) {
      this.#fail(target, found, refusal.code, refusal.message);
      return;
    }
    found.bytes += batches.length;
    found.partitions.push({
      topicId: target.topicId,
      partition: target.partition,
      error: 0,
      message: '',
      highWatermark,
      logStartOffset: partition.logStartOffset,
      currentLeader: undefined,
      diverging: undefined,
      batches,
    });
  }

  /** Why this broker cannot serve the partition at this moment. */
  #refusal(
    target: { readonly topicId: string; readonly partition: number; readonly leaderEpoch: number },
    partition: Partition | undefined,
  ): Refusal | undefined {
    const { lease, image } = this.#deps;
    if (!lease.isValid() && !isMutated('reads-without-lease')) return outOfTouch(lease);
    return refusalOf(image(), target, partition);
  }

  get #isCertain(): boolean {
    return this.#deps.lease.isCertain() || isMutated('reads-without-lease');
  }

  /**
   * Where the caller's log parts from this one, as the epoch of its last record tells (KIP-320); undefined:
   * it is a beginning of this one, or cannot be compared.
   */
  #divergence(partition: Partition, { offset, lastEpoch }: FetchPartition): EpochEnd | undefined {
    if (lastEpoch === undefined || lastEpoch < 0 || isMutated('truncation-untold'))
      return undefined;
    const epoch = partition.leader?.replica.leaderEpoch ?? NO_LEADER_EPOCH;
    if (lastEpoch > epoch) {
      const message =
        `a record of epoch ${lastEpoch} of ${partition.name} was read, only epoch ${epoch} is known ` +
        'here: try again shortly';
      throw new RelevoError('UNKNOWN_LEADER_EPOCH', message);
    }
    const position = { lastEpoch: lastEpoch as LeaderEpoch, endOffset: offset as Offset };
    const verdict = judgePosition(partition, position);
    return verdict.kind === 'diverging' ? verdict.from : undefined;
  }

  #tellDivergence(
    { topicId, partition: number }: FetchPartition,
    partition: Partition,
    diverging: EpochEnd,
    found: Gathered,
  ): void {
    if (!this.#isCertain) {
      void this.#deps.lease.untilCertain();
      const message = `this broker is not sure that it still leads ${partition.name}: try again shortly`;
      throw new RelevoError('OFFSET_NOT_AVAILABLE', message);
    }
    // Told at once, like an error.
    found.hasError = true;
    const { highWatermark, logStartOffset } = partition;
    const { epoch, endOffset } = diverging;
    found.partitions.push(
      fetchedPartition({
        topicId,
        partition: number,
        highWatermark,
        logStartOffset,
        diverging: { epoch, endOffset },
      }),
    );
  }

  /**
   * Between the high watermark and the log end nothing is served, but nothing is wrong either: a new
   * leader may not know yet how far the old one had committed. What lies outside of the log is out of range
   * only where this broker knows that it still leads, and what was committed before it.
   */
  #checkRange(partition: Partition, offset: Offset): void {
    const { logStartOffset, logEndOffset, name } = partition;
    if (offset >= logStartOffset && offset <= logEndOffset) return;
    if (!this.#isCertain || partition.leader?.replica.knowsLatest !== true) {
      // The next attempt finds out.
      void this.#deps.lease.untilCertain();
      const message =
        `offset ${offset} is not in the log of ${name} here, but this broker is not sure that it still ` +
        'leads, or of what was committed before it: try again shortly';
      throw new RelevoError('OFFSET_NOT_AVAILABLE', message);
    }
    throw new RelevoError(
      'OFFSET_OUT_OF_RANGE',
      `${name} has offsets ${logStartOffset} to ${partition.highWatermark}, not ${offset}: ` +
        'choose where to go on (earliest, latest, an offset or a time)',
    );
  }

  #failWith(target: FetchPartition, found: Gathered, error: unknown): undefined {
    if (!(error instanceof RelevoError)) throw error;
    this.#fail(target, found, error.code, error.message);
  }

  #fail(target: FetchPartition, found: Gathered, code: ErrorCode, message: string): void {
    const { topicId, partition } = target;
    const held = this.#deps.table.find(topicId, partition);
    const led = held?.leader !== undefined && held.isOpen;
    found.hasError = true;
    found.partitions.push(
      fetchedPartition({
        topicId,
        partition,
        error: ERRORS[code].number,
        message,
        highWatermark: led ? held.highWatermark : -1,
        logStartOffset: led ? held.logStartOffset : -1,
        currentLeader: leaderOf(this.#deps.image(), topicId, partition),
      }),
    );
  }

  // -------------------------------------------------------------------------------- deadlines

  #watchDeadlines(): void {
    const next = this.#purgatory.earliestDeadlineMs;
    if (next >= this.#timerMs || this.#closed) return;
    this.#timer?.cancel();
    this.#timerMs = next;
    const delayMs = Math.max(0, next - this.#deps.clock.monotonicMs());
    this.#timer = this.#deps.timers.after(delayMs, this.#expire);
  }

  readonly #expire = (): void => {
    this.#timerMs = Infinity;
    this.#purgatory.expire(this.#deps.clock.monotonicMs(), this.#serve);
    if (this.#purgatory.size > 0) this.#watchDeadlines();
  };

  // ----------------------------------------------------------------------------- list offsets

  async #listOne(target: ListOffsetsPartition): Promise<ListedOffset> {
    const { topicId, partition: number } = target;
    const partition = this.#deps.table.find(topicId, number);
    const refusal = this.#refusal(target, partition);
    try {
      if (refusal !== undefined || partition?.leader === undefined) {
        throw new RelevoError(refusal?.code ?? 'UNKNOWN_SERVER_ERROR', refusal?.message ?? '');
      }
      const { leaderEpoch } = partition.leader.replica;
      const found = await this.#offsetFor(partition, target.timestampMs);
      return listedOffset({ topicId, partition: number, leaderEpoch, ...found });
    } catch (error) {
      if (!(error instanceof RelevoError)) throw error;
      return this.#notListed(target, error);
    }
  }

  /** The answer, where this broker leads under the same epoch still and is certain of it. */
  #stillTrue(listed: ListedOffset): ListedOffset {
    if (listed.error !== 0) return listed;
    const refusal = this.#refusal(listed, this.#deps.table.find(listed.topicId, listed.partition));
    if (refusal !== undefined) return this.#notListed(listed, refusal);
    if (this.#isCertain) return listed;
    const code = 'OFFSET_NOT_AVAILABLE';
    const message = 'no controller has confirmed of late that this broker leads: try again shortly';
    return this.#notListed(listed, { code, message });
  }

  #notListed(
    { topicId, partition }: { readonly topicId: string; readonly partition: number },
    { code, message }: { readonly code: ErrorCode; readonly message: string },
  ): ListedOffset {
    return listedOffset({
      topicId,
      partition,
      error: ERRORS[code].number,
      message,
      offset: -1,
      timestampMs: -1,
      leaderEpoch: -1,
      currentLeader: leaderOf(this.#deps.image(), topicId, partition),
    });
  }

  async #offsetFor(
    partition: Partition,
    timestampMs: number,
  ): Promise<{ readonly offset: number; readonly timestampMs: number }> {
    if (timestampMs === EARLIEST) return { offset: partition.logStartOffset, timestampMs: -1 };
    if (timestampMs < EARLIEST) {
      const message = `timestamp ${timestampMs}: use -2 (earliest), -1 (latest) or ms since 1970`;
      throw new RelevoError('INVALID_REQUEST', message);
    }
    if (partition.leader?.replica.knowsLatest !== true) {
      const message =
        `the new leader of ${partition.name} does not know yet what was committed before it: ` +
        'try again shortly';
      throw new RelevoError('OFFSET_NOT_AVAILABLE', message);
    }
    if (timestampMs === LATEST) return { offset: partition.highWatermark, timestampMs: -1 };
    const found = await partition.log.offsetForTimestamp(timestampMs, partition.highWatermark);
    if (found === undefined) return { offset: -1, timestampMs: -1 };
    return { offset: found.offset, timestampMs: found.timestamp };
  }
}
