/**
 * The leader's end of one follower's stream: all partitions that this broker leads and the other one
 * follows.
 *
 * Per partition the session knows up to where it has *sent*. A batch that the leader appends and that
 * begins right there is sent as it is, from memory, when the turn ends. Any other partition is *behind*
 * and stands in a queue: it is read from the log, a piece at a time, the next one's turn after each.
 * What may be sent is bounded by the follower's credit, and by what the transport passes on.
 *
 * High watermarks go with the batches; where there are none to go with they go alone, a few
 * milliseconds later: nobody reads at a follower, and after a failover it learns what was committed
 * from the logs anyway.
 */
import { ERRORS } from '@relevo/base/errors';
import type { ErrorCode } from '@relevo/base/errors';
import type { BrokerEpoch, BrokerId, LeaderEpoch, Offset } from '@relevo/base/ids';
import { RpcError } from '@relevo/base/ports';
import type { MessageStream, TimerHandle, Timers } from '@relevo/base/ports';
import { LogError } from '@relevo/log/log-error';
import { leaderPart } from '@relevo/rpc/gen/cluster/replication';
import type {
  DivergingEpoch,
  LeaderMessage,
  LeaderPart,
} from '@relevo/rpc/gen/cluster/replication';
import { nextOffsetAt, sizeInBytesAt } from '@relevo/record/batch-header';
import type { LeaderRole, Partition, Subscriber } from './partition.ts';
import type { PartitionMetrics } from './partition-metrics.ts';
import type { Turn } from './turn.ts';

/** A message is sent when it holds so much; a single larger batch goes alone. */
export const MESSAGE_BYTES_AIM: number = 1024 * 1024;
/** What is read from the log at a time for a follower that is behind. */
export const CATCH_UP_BYTES: number = 1024 * 1024;
/** More than this no follower may leave open. */
const CREDIT_MAX = 256 * 1024 * 1024;
/** Pieces read for one stream at the same time. */
const READS_AT_ONCE = 2;
/** Pieces read before others have their turn of the loop. */
const READS_PER_TURN = 4;
/** How long a new high watermark waits for a batch to go with. */
export const WATERMARK_DELAY_MS = 5;
/** A stream on which nothing else is sent says so often that it lives. */
export const ALIVE_INTERVAL_MS = 1_000;

const NOTHING: Uint8Array = new Uint8Array(0);

export interface SessionDeps {
  readonly turn: Turn;
  readonly timers: Timers;
  readonly metrics: PartitionMetrics;
  readonly stream: MessageStream<LeaderMessage>;
}

/** One partition on the stream. */
export class Subscription implements Subscriber {
  readonly session: ReplicationSession;
  readonly handle: number;
  readonly partition: Partition;
  readonly leaderEpoch: LeaderEpoch;
  readonly role: LeaderRole;
  /** Up to where batches have been sent, or are about to be. */
  sent: Offset;
  /** In the queue of those that are read from the log, or being read. */
  isBehind = false;
  watermarkSent = -1;
  hasEnded = false;

  constructor(
    session: ReplicationSession,
    handle: number,
    partition: Partition,
    role: LeaderRole,
    sent: Offset,
  ) {
    this.session = session;
    this.handle = handle;
    this.partition = partition;
    this.leaderEpoch = role.replica.leaderEpoch;
    this.role = role;
    this.sent = sent;
  }

  appended(batch: Uint8Array, baseOffset: Offset, nextOffset: Offset): void {
    if (!this.isBehind && this.sent === baseOffset && this.session.mayPush(batch.length)) {
      this.sent = nextOffset;
      this.session.push(this, batch);
    } else {
      this.session.behind(this);
    }
  }

  watermarkMoved(): void {
    this.session.watermarkMoved(this);
  }

  ended(error: ErrorCode): void {
    if (this.hasEnded) return;
    this.hasEnded = true;
    this.session.refuse(this.handle, this.leaderEpoch, error);
  }
}

export class ReplicationSession {
  readonly brokerId: BrokerId;
  readonly brokerEpoch: BrokerEpoch;
  readonly #deps: SessionDeps;
  readonly #subscriptions = new Map<number, Subscription>();
  readonly #byPartition = new Map<Partition, Subscription>();
  #credit = 0;
  #blocked = false;
  #closed = false;
  /** Parts of the next message. */
  #parts: LeaderPart[] = [];
  #partBytes = 0;
  readonly #behind: Subscription[] = [];
  #reads = 0;
  readonly #watermarks = new Set<Subscription>();
  #watermarkTimer: TimerHandle | undefined;
  #sentSinceAlive = false;
  #aliveTimer: TimerHandle | undefined;

  constructor(brokerId: BrokerId, brokerEpoch: BrokerEpoch, deps: SessionDeps) {
    this.brokerId = brokerId;
    this.brokerEpoch = brokerEpoch;
    this.#deps = deps;
    this.#alive();
  }

  subscription(handle: number): Subscription | undefined {
    return this.#subscriptions.get(handle);
  }

  /** The follower's log is a prefix of ours: from its end on it is sent what comes. */
  add(handle: number, partition: Partition, role: LeaderRole, from: Offset): Subscription {
    this.drop(handle);
    this.unsubscribe(partition);
    const subscription = new Subscription(this, handle, partition, role, from);
    this.#subscriptions.set(handle, subscription);
    this.#byPartition.set(partition, subscription);
    role.subscribers.add(subscription);
    if (partition.logEndOffset > from) this.behind(subscription);
    else this.#queue(subscription, NOTHING);
    return subscription;
  }

  /** The follower no longer follows the partition here; under which role it was led. */
  unsubscribe(partition: Partition): LeaderRole | undefined {
    const subscription = this.#byPartition.get(partition);
    if (subscription === undefined) return undefined;
    this.drop(subscription.handle);
    return subscription.role;
  }

  drop(handle: number): void {
    const subscription = this.#subscriptions.get(handle);
    if (subscription === undefined) return;
    this.#subscriptions.delete(handle);
    this.#byPartition.delete(subscription.partition);
    subscription.hasEnded = true;
    subscription.role.subscribers.delete(subscription);
    this.#watermarks.delete(subscription);
  }

  /** Tells the follower why it is sent nothing under this handle, or no more. */
  refuse(handle: number, leaderEpoch: number, error: ErrorCode, logStartOffset = 0): void {
    this.drop(handle);
    this.#put(leaderPart({ handle, leaderEpoch, error: ERRORS[error].number, logStartOffset }), 0);
  }

  diverging(handle: number, leaderEpoch: number, from: DivergingEpoch): void {
    this.#put(leaderPart({ handle, leaderEpoch, diverging: from }), 0);
  }

  addCredit(bytes: number): void {
    this.#credit = Math.min(this.#credit + bytes, CREDIT_MAX);
    if (this.#behind.length > 0) this.#deps.turn.atEnd(this.#readOn);
  }

  drained(): void {
    this.#blocked = false;
    if (this.#behind.length > 0) this.#deps.turn.atEnd(this.#readOn);
  }

  close(): void {
    this.#closed = true;
    for (const handle of [...this.#subscriptions.keys()]) this.drop(handle);
    this.#behind.length = 0;
    this.#parts = [];
    this.#watermarkTimer?.cancel();
    this.#aliveTimer?.cancel();
  }

  // ------------------------------------------------------------------------------ pushing

  mayPush(bytes: number): boolean {
    return !this.#closed && !this.#blocked && this.#credit >= bytes;
  }

  push(subscription: Subscription, batch: Uint8Array): void {
    this.#credit -= batch.length;
    this.#queue(subscription, batch);
  }

  behind(subscription: Subscription): void {
    if (subscription.isBehind || subscription.hasEnded) return;
    subscription.isBehind = true;
    this.#behind.push(subscription);
    this.#deps.turn.atEnd(this.#readOn);
  }

  #queue(subscription: Subscription, batches: Uint8Array): void {
    const { partition, handle, leaderEpoch } = subscription;
    const { highWatermark } = partition;
    subscription.watermarkSent = highWatermark;
    this.#watermarks.delete(subscription);
    this.#put(
      {
        handle,
        leaderEpoch,
        error: 0,
        highWatermark,
        logStartOffset: partition.logStartOffset,
        diverging: undefined,
        batches,
      },
      batches.length,
    );
  }

  #put(part: LeaderPart, bytes: number): void {
    if (this.#closed) return;
    if (this.#partBytes > 0 && this.#partBytes + bytes > MESSAGE_BYTES_AIM) this.#flush();
    if (this.#parts.length === 0) this.#deps.turn.atEnd(this.#flush);
    this.#parts.push(part);
    this.#partBytes += bytes;
  }

  readonly #flush = (): void => {
    if (this.#parts.length === 0 || this.#closed) return;
    const parts = this.#parts;
    this.#deps.metrics.replicationBytesOut.add(this.#partBytes);
    this.#parts = [];
    this.#partBytes = 0;
    this.#sentSinceAlive = true;
    if (!this.#deps.stream.send({ hello: undefined, parts })) this.#blocked = true;
  };

  // --------------------------------------------------------------------------- catching up

  readonly #readOn = (): void => {
    for (let pieces = 0; pieces < READS_PER_TURN && this.#mayRead(); pieces++) {
      const subscription = this.#behind.shift();
      if (subscription !== undefined && !subscription.hasEnded) this.#readPiece(subscription);
    }
    if (this.#mayRead()) this.#deps.turn.atEnd(this.#readOn);
  };

  #mayRead(): boolean {
    return (
      this.#behind.length > 0 &&
      this.#reads < READS_AT_ONCE &&
      !this.#blocked &&
      !this.#closed &&
      this.#credit > 0
    );
  }

  #readPiece(subscription: Subscription): void {
    const { partition, sent } = subscription;
    const limit = Math.min(CATCH_UP_BYTES, this.#credit);
    // What the read brings at most is taken from the credit now, and the rest is given back.
    this.#credit -= limit;
    try {
      const batches = partition.log.read(sent, limit, partition.logEndOffset, true);
      if (!(batches instanceof Promise)) {
        this.#took(subscription, batches, limit);
        return;
      }
      this.#reads += 1;
      batches.then(
        (bytes) => {
          this.#reads -= 1;
          this.#took(subscription, bytes, limit);
          this.#readOn();
        },
        (error: unknown) => {
          this.#reads -= 1;
          this.#credit += limit;
          this.#readFailed(subscription, error);
          this.#readOn();
        },
      );
    } catch (error) {
      this.#credit += limit;
      this.#readFailed(subscription, error);
    }
  }

  #took(subscription: Subscription, batches: Uint8Array, reserved: number): void {
    this.#credit += reserved - batches.length;
    subscription.isBehind = false;
    if (subscription.hasEnded || this.#closed) return;
    if (batches.length > 0) {
      subscription.sent = endOfRun(batches);
      this.#deps.metrics.replicationReReads.add(batches.length);
      this.#queue(subscription, batches);
    }
    if (subscription.sent < subscription.partition.logEndOffset) this.behind(subscription);
  }

  #readFailed(subscription: Subscription, error: unknown): void {
    if (!(error instanceof LogError)) throw error;
    subscription.isBehind = false;
    if (subscription.hasEnded) return;
    const { handle, leaderEpoch, partition } = subscription;
    if (error.kind === 'outOfRange' && subscription.sent < partition.logStartOffset) {
      this.refuse(handle, leaderEpoch, 'OFFSET_OUT_OF_RANGE', partition.logStartOffset);
    } else {
      this.refuse(handle, leaderEpoch, 'STORAGE_ERROR');
    }
  }

  // ----------------------------------------------------------------- watermarks, signs of life

  watermarkMoved(subscription: Subscription): void {
    this.#watermarks.add(subscription);
    this.#watermarkTimer ??= this.#deps.timers.after(WATERMARK_DELAY_MS, this.#sendWatermarks);
  }

  readonly #sendWatermarks = (): void => {
    this.#watermarkTimer = undefined;
    for (const subscription of this.#watermarks) {
      if (subscription.watermarkSent < subscription.partition.highWatermark) {
        this.#queue(subscription, NOTHING);
      }
    }
    this.#watermarks.clear();
  };

  readonly #alive = (): void => {
    if (this.#closed) return;
    if (!this.#sentSinceAlive) this.#deps.stream.send({ hello: undefined, parts: [] });
    this.#sentSinceAlive = false;
    this.#aliveTimer = this.#deps.timers.after(ALIVE_INTERVAL_MS, this.#alive);
  };

  /** The follower has broken the rules. */
  cancel(message: string): void {
    this.#deps.stream.cancel(new RpcError('INVALID_ARGUMENT', message));
    this.close();
  }
}

/** The offset after the last of a run of whole batches. */
function endOfRun(batches: Uint8Array): Offset {
  let at = 0;
  for (;;) {
    const size = sizeInBytesAt(batches, at);
    if (at + size >= batches.length) return nextOffsetAt(batches, at);
    at += size;
  }
}
