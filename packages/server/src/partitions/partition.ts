/**
 * One replica on this broker: its log, and its part in the partition at present.
 *
 *     idle ──> leader <──> follower      by the image, each change under a new leader epoch
 *     any ───> offline                   the log cannot be used; nothing is served any more
 *
 * A sync of the log runs whenever something was appended and none is under way; what comes meanwhile
 * waits for the next one (group commit). What it makes durable is reported to the part that the replica
 * has *then*: an old sync proves as much as a new one.
 */
import { assert, defined } from '@relevo/base/assert';
import { messageOf } from '@relevo/base/errors';
import type { ErrorCode } from '@relevo/base/errors';
import { NO_LEADER_EPOCH, partitionName } from '@relevo/base/ids';
import type { BrokerId, LeaderEpoch, Offset, Uuid } from '@relevo/base/ids';
import type { Clock, Logger } from '@relevo/base/ports';
import type { EpochEnd, EpochHistory, StatedPosition } from '@relevo/broker/divergence';
import { FollowerReplica } from '@relevo/broker/follower-replica';
import { LeaderReplica } from '@relevo/broker/leader-replica';
import type {
  IsrProposal,
  LeaderReplicaOptions,
  PartitionState,
} from '@relevo/broker/leader-replica';
import { ProducePurgatory } from '@relevo/broker/purgatory';
import type { PartitionLog } from '@relevo/log/partition-log';
import type { ProduceResponse } from '@relevo/rpc/gen/client/produce';
import type { PartitionMetrics } from './partition-metrics.ts';
import type { Turn } from './turn.ts';

/** Takes the answer to one request, once; undefined: with acks=0, all went well. */
export type ProduceReply = (response: ProduceResponse | undefined) => void;

/** A batch that is appended and not yet answered. */
export interface WaitingProduce {
  readonly correlationId: number;
  readonly acks: number;
  readonly baseOffset: Offset;
  /** Under which the batch was written: for a repeat, that of the batch it repeats. */
  readonly leaderEpoch: LeaderEpoch;
  readonly bytes: number;
  readonly logAppendTimeMs: number;
  /** Of the batch that this one repeats; undefined: it repeats none. */
  readonly repeatedTimestampMs: number | undefined;
  readonly arrivedMs: number;
  readonly reply: ProduceReply;
  readonly answer: AnswerProduce;
}

/** `error` NONE: acknowledged. */
export type AnswerProduce = (
  partition: Partition,
  waiting: WaitingProduce,
  error: ErrorCode,
  endOffset: Offset,
) => void;

/** Somebody to whom a leader pushes what it appends: the stream of a follower. */
export interface Subscriber {
  appended(batch: Uint8Array, baseOffset: Offset, nextOffset: Offset): void;
  watermarkMoved(): void;
  /** The leader is no leader any more, or its log is gone. */
  ended(error: ErrorCode): void;
}

/** What the partition tells those around it. */
export interface PartitionEvents {
  /** As leader: `bytes` more of batches may be read. */
  readable(partition: Partition, bytes: number): void;
  /** As leader: the in-sync set may have to change. */
  reviewIsr(partition: Partition): void;
  /** As follower: the log is durable further than it was. */
  followerSynced(partition: Partition): void;
  /** Its part ended or began: fetches and waiting subscriptions look again. */
  roleChanged(partition: Partition): void;
  /** `advice`: what a person is to do, where that is not what follows from the reason. */
  failed(partition: Partition, reason: string, advice: string | undefined): void;
}

export interface PartitionDeps {
  readonly clock: Clock;
  readonly turn: Turn;
  readonly logger: Logger;
  readonly metrics: PartitionMetrics;
  readonly events: PartitionEvents;
  readonly leaderOptions: LeaderReplicaOptions;
  /** A log has been synced, in so many ms. */
  readonly synced: (tookMs: number) => void;
}

export class LeaderRole {
  readonly replica: LeaderReplica;
  /** acks=all: for the high watermark. */
  readonly waitingForAll: ProducePurgatory<WaitingProduce> = new ProducePurgatory();
  /** acks=1 and 0: for the own sync. */
  readonly waitingForOwn: ProducePurgatory<WaitingProduce> = new ProducePurgatory();
  /** Sizes of what is appended and not yet committed. */
  readonly uncommitted: ProducePurgatory<number> = new ProducePurgatory();
  readonly subscribers: Set<Subscriber> = new Set();
  /** An append was refused, as the disk is full. */
  lacksRoom = false;

  constructor(replica: LeaderReplica) {
    this.replica = replica;
  }
}

export interface FollowerRole {
  readonly leaderId: BrokerId;
  readonly replica: FollowerReplica;
}

export interface PartitionIdentity {
  readonly topicId: Uuid;
  readonly topic: string;
  readonly number: number;
}

const ZERO = 0 as Offset;
/** What lies between the high watermark and the log end when a leader begins is of unknown size. */
const UNKNOWN_BYTES = 2 ** 40;

export class Partition implements EpochHistory, StatedPosition {
  readonly topicId: Uuid;
  readonly topic: string;
  readonly number: number;
  /** `orders-3`. */
  readonly name: string;
  readonly #deps: PartitionDeps;
  #log: PartitionLog | undefined;
  #leader: LeaderRole | undefined;
  #follower: FollowerRole | undefined;
  #failure: string | undefined;
  #isDamaged = false;
  #isCopiedAnew = false;
  #highWatermark: Offset = ZERO;
  #syncing = false;

  constructor(identity: PartitionIdentity, deps: PartitionDeps) {
    this.topicId = identity.topicId;
    this.topic = identity.topic;
    this.number = identity.number;
    this.name = partitionName(identity.topic, identity.number);
    this.#deps = deps;
  }

  // ------------------------------------------------------------------------------ what is known

  get leader(): LeaderRole | undefined {
    return this.#leader;
  }
  get follower(): FollowerRole | undefined {
    return this.#follower;
  }
  /** Why the log cannot be used; undefined when it can, or was not opened yet. */
  get failure(): string | undefined {
    return this.#failure;
  }
  /** It failed because bytes that were durable are damaged: others may have them intact. */
  get isDamaged(): boolean {
    return this.#isDamaged;
  }
  /** It failed because of what its own log has, or may not have: a copy of another replica helps. */
  get isCopiedAnew(): boolean {
    return this.#isCopiedAnew;
  }
  get isOpen(): boolean {
    return this.#log !== undefined;
  }
  get log(): PartitionLog {
    return defined(this.#log, `the log of ${this.name}`);
  }
  get highWatermark(): Offset {
    return this.#highWatermark;
  }
  get logStartOffset(): Offset {
    return this.log.logStartOffset;
  }
  get logEndOffset(): Offset {
    return this.log.logEndOffset;
  }
  get endOffset(): Offset {
    return this.log.logEndOffset;
  }
  /** Of the last record; a follower holds no epoch without one (see `becomeFollower`). */
  get lastEpoch(): LeaderEpoch {
    const { log } = this;
    return log.logEndOffset > log.logStartOffset ? log.latestEpoch : NO_LEADER_EPOCH;
  }
  endOffsetForEpoch(asked: LeaderEpoch): EpochEnd {
    return this.log.endOffsetForEpoch(asked);
  }

  // --------------------------------------------------------------------------------- its life

  /** `highWatermark`: from the checkpoint of the last run. */
  opened(log: PartitionLog, highWatermark: Offset): void {
    assert(this.#log === undefined, 'a log is opened once', { partition: this.name });
    this.#log = log;
    const within = Math.min(Math.max(highWatermark, log.logStartOffset), log.syncedEndOffset);
    this.#highWatermark = within as Offset;
  }

  becomeLeader(state: PartitionState, minIsr: number): void {
    this.#leaveRole('NOT_LEADER_OR_FOLLOWER');
    const { log } = this;
    log.beginEpoch(state.leaderEpoch);
    const replica = new LeaderReplica(
      this.#deps.leaderOptions,
      {
        state,
        minIsr,
        epochStartOffset: log.logEndOffset,
        syncedEndOffset: log.syncedEndOffset,
        highWatermark: this.#highWatermark,
      },
      this.#deps.clock.monotonicMs(),
    );
    this.#leader = new LeaderRole(replica);
    if (log.logEndOffset > this.#highWatermark) {
      this.#leader.uncommitted.add(log.logEndOffset, Infinity, UNKNOWN_BYTES);
    }
    this.#watermarkMoved(this.#leader);
    if (log.syncedEndOffset < log.logEndOffset) this.sync();
    this.#deps.events.roleChanged(this);
  }

  /** `uncleanEpoch`: of the last unclean election, see `PartitionImage`. */
  becomeFollower(leaderId: BrokerId, epoch: LeaderEpoch, uncleanEpoch: LeaderEpoch): void {
    this.#leaveRole('NOT_LEADER_OR_FOLLOWER');
    const { log } = this;
    const committedMayBeLost = log.latestEpoch < uncleanEpoch;
    // Gives up an epoch of the own leadership in which nothing was written: the new leader may hold
    // records of an older one at the same place.
    log.truncateTo(log.logEndOffset);
    const replica = new FollowerReplica({
      leaderEpoch: epoch,
      highWatermark: this.#highWatermark,
      syncedEndOffset: log.syncedEndOffset,
      committedMayBeLost,
    });
    this.#follower = { leaderId, replica };
    this.#deps.events.roleChanged(this);
  }

  /** There is no leader, or the broker stops. */
  becomeIdle(error: ErrorCode = 'NOT_LEADER_OR_FOLLOWER'): void {
    if (this.#leader === undefined && this.#follower === undefined) return;
    this.#leaveRole(error);
    this.#deps.events.roleChanged(this);
  }

  /** The log has failed, or could not be opened (L3, L4). `advice`: see `PartitionEvents.failed`. */
  fail(
    reason: string,
    isDamaged: boolean = this.#log?.offlineReason?.kind === 'corrupt',
    advice?: string,
  ): void {
    if (this.#failure !== undefined) return;
    this.#failure = reason;
    this.#isDamaged = isDamaged;
    this.#isCopiedAnew = isDamaged || this.#log?.offlineReason !== undefined;
    this.#leaveRole('STORAGE_ERROR');
    this.#deps.events.failed(this, reason, advice);
    this.#deps.events.roleChanged(this);
  }

  /** The partition is gone from this broker, or the broker stops. */
  forget(): PartitionLog | undefined {
    this.becomeIdle();
    const log = this.#log;
    this.#log = undefined;
    return log;
  }

  // ---------------------------------------------------------------------------------- as leader

  /** The leader has appended `batch`; nothing has been synced or answered yet. */
  appendedAsLeader(role: LeaderRole, batch: Uint8Array, base: Offset, next: Offset): void {
    role.replica.appended(next, this.#deps.clock.monotonicMs());
    role.uncommitted.add(next, Infinity, batch.length);
    for (const subscriber of role.subscribers) subscriber.appended(batch, base, next);
    this.sync();
  }

  /** Acknowledges what already has what it waits for: the repeats of earlier batches. */
  answerReached(role: LeaderRole): void {
    role.waitingForAll.reach(role.replica.highWatermark, this.#acknowledge);
    role.waitingForOwn.reach(role.replica.syncedEndOffset, this.#acknowledge);
  }

  /** A report, an answer of the controller or a new image has moved the high watermark. */
  watermarkMoved(): void {
    if (this.#leader !== undefined) this.#watermarkMoved(this.#leader);
  }

  /** The image says something new of a partition that goes on being led here under the same epoch. */
  applyLeaderState(state: PartitionState, minIsr: number): void {
    const role = defined(this.#leader, `leadership of ${this.name}`);
    const before = role.replica.isr;
    if (role.replica.applyState(state, minIsr, this.#deps.clock.monotonicMs())) {
      this.#watermarkMoved(role);
    }
    this.#noteIsr(before, role.replica.isr);
    this.#deps.events.reviewIsr(this);
  }

  /** The controller's answer to a proposal made under `replica`'s epoch. */
  settleProposal(
    replica: LeaderReplica,
    proposal: IsrProposal,
    outcome: Parameters<LeaderReplica['isrOutcome']>[1],
  ): void {
    const role = this.#leader;
    if (role?.replica !== replica) return;
    const before = replica.isr;
    const moved = replica.isrOutcome(proposal, outcome, this.#deps.clock.monotonicMs());
    this.#noteIsr(before, replica.isr);
    if (moved) this.#watermarkMoved(role);
  }

  // -------------------------------------------------------------------------------- as follower

  /** The follower's core has moved; its high watermark is the partition's. */
  followerMoved(role: FollowerRole): void {
    if (this.#follower === role) this.#highWatermark = role.replica.highWatermark;
  }

  // --------------------------------------------------------------------------------- both parts

  /** Makes durable what was appended, soon, together with all that comes until then. */
  sync(): void {
    if (!this.#syncing) this.#deps.turn.atEnd(this.#startSync);
  }

  readonly #startSync = (): void => {
    const log = this.#log;
    if (this.#syncing || log === undefined || log.state !== 'online') return;
    if (log.syncedEndOffset >= log.logEndOffset) {
      this.#synced(log);
      return;
    }
    this.#syncing = true;
    const { isYoung } = log;
    const startedMs = this.#deps.clock.monotonicMs();
    log.sync().then(
      () => {
        this.#syncing = false;
        if (!isYoung) {
          const tookMs = this.#deps.clock.monotonicMs() - startedMs;
          this.#deps.metrics.syncSeconds.observe(tookMs / 1000);
          this.#deps.synced(tookMs);
        }
        if (this.#log === log) this.#synced(log);
      },
      (error: unknown) => {
        this.#syncing = false;
        if (this.#log === log && log.state !== 'closed') this.fail(messageOf(error));
      },
    );
  };

  #synced(log: PartitionLog): void {
    const end = log.syncedEndOffset;
    const role = this.#leader;
    if (role !== undefined) {
      const moved = role.replica.synced(end);
      role.waitingForOwn.reach(end, this.#acknowledge);
      if (moved) this.#watermarkMoved(role);
    } else if (this.#follower !== undefined) {
      this.#follower.replica.synced(end);
      this.followerMoved(this.#follower);
      this.#deps.events.followerSynced(this);
    }
    if (log.syncedEndOffset < log.logEndOffset) this.#startSync();
  }

  #watermarkMoved(role: LeaderRole): void {
    const { highWatermark } = role.replica;
    assert(highWatermark >= this.#highWatermark, 'the high watermark never falls', {
      partition: this.name,
      from: this.#highWatermark,
      to: highWatermark,
    });
    if (highWatermark === this.#highWatermark) return;
    this.#highWatermark = highWatermark;
    role.waitingForAll.reach(highWatermark, this.#acknowledge);
    let bytes = 0;
    role.uncommitted.reach(highWatermark, (size) => (bytes += size));
    for (const subscriber of role.subscribers) subscriber.watermarkMoved();
    this.#deps.events.readable(this, Math.max(bytes, 1));
  }

  readonly #acknowledge = (waiting: WaitingProduce, endOffset: Offset): void => {
    waiting.answer(this, waiting, 'NONE', endOffset);
  };

  #noteIsr(before: readonly BrokerId[], after: readonly BrokerId[]): void {
    if (before === after) return;
    const left = before.filter((id) => !after.includes(id));
    const joined = after.filter((id) => !before.includes(id));
    const facts = { partition: this.name, isr: after, highWatermark: this.#highWatermark };
    if (left.length > 0) {
      this.#deps.metrics.isrShrinks.add(left.length);
      this.#deps.logger.warn('in-sync set shrunk', { ...facts, left });
    }
    if (joined.length > 0) {
      this.#deps.metrics.isrExpands.add(joined.length);
      this.#deps.logger.info('in-sync set grown', { ...facts, joined });
    }
  }

  #leaveRole(error: ErrorCode): void {
    const leader = this.#leader;
    const follower = this.#follower;
    this.#leader = undefined;
    this.#follower = undefined;
    follower?.replica.stop();
    if (leader === undefined) return;
    const answer = (waiting: WaitingProduce, endOffset: Offset): void => {
      waiting.answer(this, waiting, error, endOffset);
    };
    leader.waitingForAll.drain(answer);
    leader.waitingForOwn.drain(answer);
    for (const subscriber of leader.subscribers) subscriber.ended(error);
  }
}
