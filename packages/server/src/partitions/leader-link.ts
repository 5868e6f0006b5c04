/**
 * The follower's end of the stream to one leader: all partitions that this broker follows there.
 *
 *     down ──(somebody to follow)──> up ──(break)──> waiting ──(at once, then with growing waits)──> up
 *
 * Batches are appended as they come; what is appended is synced when the turn ends, and acknowledged when
 * it is durable, all partitions of a turn in one message. A stream with nothing to say is silent but for
 * the leader's sign of life.
 */
import { assert } from '@relevo/base/assert';
import { errorCodeOf, messageOf } from '@relevo/base/errors';
import type { BrokerEpoch, BrokerId, LeaderEpoch, Offset } from '@relevo/base/ids';
import { isMutated } from '@relevo/base/mutations';
import { RpcError } from '@relevo/base/ports';
import type {
  Channel,
  Clock,
  Logger,
  MessageStream,
  Random,
  TimerHandle,
  Timers,
  Transport,
} from '@relevo/base/ports';
import { DEFAULT_RETRY, backoffMs } from '@relevo/base/retry';
import type { EpochEnd } from '@relevo/broker/divergence';
import type { FollowerEffect } from '@relevo/broker/follower-replica';
import { LogError } from '@relevo/log/log-error';
import {
  ReplicationService as methods,
  followerMessage,
  followerPosition,
} from '@relevo/rpc/gen/cluster/replication';
import type {
  DamagedPart,
  FollowerMessage,
  FollowerPosition,
  LeaderMessage,
  LeaderPart,
  PartitionKey,
} from '@relevo/rpc/gen/cluster/replication';
import type { FollowerRole, Partition } from './partition.ts';
import type { PartitionMetrics } from './partition-metrics.ts';
import { ALIVE_INTERVAL_MS } from './replication-session.ts';
import type { Turn } from './turn.ts';

/** Batches that the leader may send beyond what was appended here. */
export const CREDIT_BYTES: number = 16 * 1024 * 1024;
/** Credit is given back in portions of this, or with the next acknowledgement. */
const CREDIT_PORTION_BYTES = CREDIT_BYTES / 8;
/** Positions in one message. */
const POSITIONS_MAX = 1_000;
/** Before batches for which there was no room are asked for again. */
export const DISK_FULL_RETRY_MS = 5_000;
/** A leader from which nothing was heard for so long is dialled anew. */
export const SILENCE_MAX_MS: number = 3 * ALIVE_INTERVAL_MS;

export interface LeaderLinkDeps {
  readonly clock: Clock;
  readonly timers: Timers;
  readonly random: Random;
  readonly transport: Transport;
  readonly turn: Turn;
  readonly logger: Logger;
  readonly metrics: PartitionMetrics;
  readonly clusterId: string;
  readonly localId: BrokerId;
  readonly brokerEpoch: () => BrokerEpoch;
}

interface Followed {
  readonly partition: Partition;
  readonly role: FollowerRole;
  /** On the stream that is up; 0: it has not subscribed there. */
  handle: number;
  /** There was no room for what came last, and the log tells of it. */
  isWithoutRoom: boolean;
  /** What came last was damaged, and the log tells of it. */
  gotDamage: boolean;
  /** What came since the files of the new log are being made; undefined: they are not. */
  held: LeaderPart[] | undefined;
}

export class LeaderLink {
  readonly leaderId: BrokerId;
  readonly address: string;
  readonly #deps: LeaderLinkDeps;
  readonly #followed = new Map<Partition, Followed>();
  readonly #byHandle = new Map<number, Followed>();
  #brokerEpoch: BrokerEpoch;
  #channel: Channel | undefined;
  #stream: MessageStream<FollowerMessage> | undefined;
  #nextHandle = 1;
  #attempts = 0;
  #redial: TimerHandle | undefined;
  #watch: TimerHandle | undefined;
  #retry: TimerHandle | undefined;
  #retryMs = Infinity;
  #heardMs = 0;
  #closed = false;
  // Of the next message.
  #positions: FollowerPosition[] = [];
  readonly #toAcknowledge = new Set<Followed>();
  #unsubscribe: PartitionKey[] = [];
  #damaged: DamagedPart[] = [];
  #credit = 0;

  constructor(leaderId: BrokerId, address: string, deps: LeaderLinkDeps) {
    this.leaderId = leaderId;
    this.address = address;
    this.#brokerEpoch = deps.brokerEpoch();
    this.#deps = deps;
  }

  get size(): number {
    return this.#followed.size;
  }
  /** Under which this broker dialled last. */
  get brokerEpoch(): BrokerEpoch {
    return this.#brokerEpoch;
  }
  get isUp(): boolean {
    return this.#stream !== undefined;
  }

  follows(partition: Partition): boolean {
    return this.#followed.has(partition);
  }

  /** Takes the place of what was followed in the partition before. */
  follow(partition: Partition, role: FollowerRole): void {
    assert(!this.#closed, 'a closed link follows nobody');
    this.#forget(partition);
    const followed = {
      ...{ partition, role, handle: 0, isWithoutRoom: false, gotDamage: false },
      held: undefined,
    };
    this.#followed.set(partition, followed);
    if (this.#stream !== undefined) this.#obey(followed, role.replica.attach());
    else if (this.#redial === undefined) this.#dial();
  }

  /** The partition has another leader, or no log any more. */
  unfollow(partition: Partition): void {
    const had = this.#forget(partition);
    if (had !== undefined) this.#leave(had);
  }

  /** The leader is not to wait for this replica any longer. */
  #leave({ partition, handle }: Followed): void {
    if (handle === 0 || this.#stream === undefined) return;
    this.#byHandle.delete(handle);
    this.#unsubscribe.push({ topicId: partition.topicId, partition: partition.number });
    this.#deps.turn.atEnd(this.#flush);
  }

  #forget(partition: Partition): Followed | undefined {
    const followed = this.#followed.get(partition);
    if (followed === undefined) return undefined;
    this.#followed.delete(partition);
    this.#toAcknowledge.delete(followed);
    this.#byHandle.delete(followed.handle);
    this.#dropHeld(followed);
    return followed;
  }

  /** The partition's log is durable further than it was, or to its end. */
  synced(partition: Partition): void {
    const followed = this.#followed.get(partition);
    if (followed === undefined) return;
    const { replica } = followed.role;
    if (replica.phase === 'following') {
      this.#toAcknowledge.add(followed);
      this.#deps.turn.atEnd(this.#flush);
    } else if (
      replica.phase === 'preparing' &&
      partition.log.syncedEndOffset === partition.logEndOffset
    ) {
      const position = { lastEpoch: partition.lastEpoch, endOffset: partition.logEndOffset };
      this.#obey(followed, replica.prepared(position, this.#deps.clock.monotonicMs()));
    }
  }

  /** Subscriptions that were refused, or not answered, are stated again when it is time. */
  readonly #retryDue = (): void => {
    this.#retry = undefined;
    if (this.#stream === undefined) return;
    const nowMs = this.#deps.clock.monotonicMs();
    let nextMs = Infinity;
    for (const followed of this.#followed.values()) {
      const { replica } = followed.role;
      if (nowMs >= replica.deadlineMs) this.#obey(followed, replica.deadline(nowMs));
      nextMs = Math.min(nextMs, replica.deadlineMs);
    }
    if (nextMs < Infinity) this.#retryAt(nextMs);
  };

  #retryAt(timeMs: number): void {
    if (this.#retry !== undefined && this.#retryMs <= timeMs) return;
    const { clock, timers } = this.#deps;
    this.#retry?.cancel();
    this.#retryMs = timeMs;
    this.#retry = timers.after(Math.max(1, timeMs - clock.monotonicMs()), this.#retryDue);
  }

  close(): void {
    this.#closed = true;
    this.#down();
    this.#redial?.cancel();
    this.#channel?.close();
    this.#followed.clear();
  }

  // ------------------------------------------------------------------------------- the stream

  #dial(): void {
    this.#redial = undefined;
    if (this.#closed || this.#followed.size === 0) return;
    this.#channel ??= this.#deps.transport.dial(this.address);
    const stream: MessageStream<FollowerMessage> = this.#channel.open(methods.replicate, {
      onMessage: (message) => {
        if (this.#stream === stream) this.#take(message);
      },
      onEnd: (error) => {
        if (this.#stream === stream) this.#broken(error);
      },
    });
    this.#stream = stream;
    const { leaderId } = this;
    const { clusterId, localId } = this.#deps;
    const brokerEpoch = this.#deps.brokerEpoch();
    this.#brokerEpoch = brokerEpoch;
    stream.send(
      followerMessage({
        hello: { clusterId, brokerId: localId, brokerEpoch, leaderId },
        creditBytes: CREDIT_BYTES,
      }),
    );
    this.#heardMs = this.#deps.clock.monotonicMs();
    this.#watchSilence();
    for (const followed of this.#followed.values()) {
      if (followed.role.replica.phase === 'detached') {
        this.#obey(followed, followed.role.replica.attach());
      }
    }
  }

  #broken(error: RpcError | undefined): void {
    this.#down();
    if (this.#closed) return;
    const { logger, random, timers } = this.#deps;
    // The first try comes at once: a break is no news of the broker behind it.
    const waitMs = this.#attempts === 0 ? 0 : backoffMs(DEFAULT_RETRY, this.#attempts - 1, random);
    if (this.#attempts === 0) {
      const why = error?.message ?? 'the leader ended it';
      logger.info('replication stream broke', { leader: this.leaderId, why });
    }
    this.#attempts += 1;
    this.#redial = timers.after(waitMs, () => this.#dial());
  }

  #down(): void {
    this.#stream = undefined;
    this.#watch?.cancel();
    this.#retry?.cancel();
    this.#retry = undefined;
    this.#byHandle.clear();
    this.#positions = [];
    this.#toAcknowledge.clear();
    this.#unsubscribe = [];
    this.#credit = 0;
    for (const followed of this.#followed.values()) {
      followed.handle = 0;
      followed.held = undefined;
      followed.role.replica.detach();
    }
  }

  #watchSilence(): void {
    this.#watch = this.#deps.timers.after(SILENCE_MAX_MS, () => {
      const { clock } = this.#deps;
      if (clock.monotonicMs() - this.#heardMs < SILENCE_MAX_MS) {
        this.#watchSilence();
        return;
      }
      const message = `nothing was heard from broker ${this.leaderId} for ${SILENCE_MAX_MS} ms`;
      const error = new RpcError('UNAVAILABLE', message);
      this.#stream?.cancel(error);
      if (this.#stream !== undefined) this.#broken(error);
    });
  }

  // --------------------------------------------------------------------------------- messages

  #take(message: LeaderMessage): void {
    this.#heardMs = this.#deps.clock.monotonicMs();
    if (message.hello !== undefined) this.#attempts = 0;
    let bytes = 0;
    let heldBytes = 0;
    for (const part of message.parts) {
      bytes += part.batches.length;
      const followed = this.#byHandle.get(part.handle);
      if (followed === undefined) continue;
      if (this.#mustHold(followed, part)) heldBytes += part.batches.length;
      else this.#hear(followed, part);
    }
    if (bytes === 0) return;
    this.#deps.metrics.replicationBytesIn.add(bytes);
    this.#giveCredit(bytes - heldBytes);
  }

  #giveCredit(bytes: number): void {
    this.#credit += bytes;
    if (this.#credit >= CREDIT_PORTION_BYTES) this.#deps.turn.atEnd(this.#flush);
  }

  /** The first batches of a new log wait, and all that comes after them, until its files are made. */
  #mustHold(followed: Followed, part: LeaderPart): boolean {
    if (followed.held !== undefined) {
      followed.held.push(part);
      return true;
    }
    const { log } = followed.partition;
    if (part.batches.length === 0 || log.takes(part.batches.length)) return false;
    const held = [part];
    followed.held = held;
    const { handle } = followed;
    const isCurrent = (): boolean =>
      followed.held === held && this.#byHandle.get(handle) === followed;
    log.make('ends').then(
      () => {
        if (isCurrent()) this.#takeHeld(followed, handle, held);
      },
      (error: unknown) => {
        if (!isCurrent()) return;
        this.#dropHeld(followed);
        if (error instanceof LogError) this.#refused(followed, error, 'cannot make a new log');
        else throw error;
      },
    );
    return true;
  }

  /** The leader may send as much again. */
  #dropHeld(followed: Followed): void {
    if (followed.held !== undefined) this.#giveCredit(bytesOf(followed.held));
    followed.held = undefined;
  }

  #takeHeld(followed: Followed, handle: number, held: readonly LeaderPart[]): void {
    followed.held = undefined;
    for (const part of held) {
      // One before it may have ended the subscription.
      if (this.#byHandle.get(handle) === followed) this.#hear(followed, part);
    }
    this.#giveCredit(bytesOf(held));
  }

  #hear(followed: Followed, part: LeaderPart): void {
    const { partition, role } = followed;
    const effect = role.replica.receive(
      {
        // Numbers of the leader of this epoch; the log checks what it appends.
        leaderEpoch: part.leaderEpoch as LeaderEpoch,
        error: errorCodeOf(part.error),
        highWatermark: part.highWatermark as Offset,
        logStartOffset: part.logStartOffset as Offset,
        diverging: part.diverging as EpochEnd | undefined,
        hasBatches: part.batches.length > 0,
      },
      partition,
      this.#deps.clock.monotonicMs(),
    );
    partition.followerMoved(role);
    if (role.replica.phase === 'following')
      followLogStart(partition, part.logStartOffset as Offset);
    if (effect.kind === 'append') this.#append(followed, part);
    else this.#obey(followed, effect);
    if (role.replica.phase === 'refused') this.#retryAt(role.replica.deadlineMs);
  }

  #append(followed: Followed, part: LeaderPart): void {
    const { partition, role } = followed;
    try {
      const { leaderEpoch } = role.replica;
      partition.log.appendAsFollower(part.batches, this.#deps.clock.wallMs(), leaderEpoch);
      partition.sync();
      followed.isWithoutRoom = false;
      followed.gotDamage = false;
    } catch (error) {
      if (!(error instanceof LogError)) throw error;
      if (isDamage(error)) this.#tellDamage(followed);
      // Some of it may have been appended: what comes next would leave a gap.
      this.#refused(followed, error, 'cannot append what the leader sent');
    }
  }

  /** What the leader has sent is not what it has, or its log is damaged: it is told, and looks. */
  #tellDamage({ partition, role }: Followed): void {
    if (isMutated('damage-untold')) return;
    const { topicId, number, logEndOffset: offset } = partition;
    const { leaderEpoch } = role.replica;
    this.#damaged.push({ partition: { topicId, partition: number }, leaderEpoch, offset });
    this.#deps.turn.atEnd(this.#flush);
  }

  /** The log has not done what the leader wants: it is asked again, later where there was no room. */
  #refused(followed: Followed, error: LogError, what: string): void {
    const { partition, role } = followed;
    const isFull = error.kind === 'diskFull';
    role.replica.appendFailed(this.#deps.clock.monotonicMs(), isFull ? DISK_FULL_RETRY_MS : 0);
    if (isFull) this.#leave(followed);
    else if (followed.handle !== 0) this.#byHandle.delete(followed.handle);
    // The disk's own line tells of it once for all partitions.
    if (isFull && followed.isWithoutRoom) return;
    followed.isWithoutRoom = isFull;
    const facts = { partition: partition.name, leader: this.leaderId, why: messageOf(error) };
    if (!isDamage(error)) this.#deps.logger.error(what, facts);
    // The leader's own line tells what it has found; here one is enough until it sends what is whole.
    else if (!followed.gotDamage)
      this.#deps.logger.warn('the leader sent damaged records: it is told', facts);
    followed.gotDamage = isDamage(error);
  }

  #obey(followed: Followed, effect: FollowerEffect): void {
    const { partition, role } = followed;
    switch (effect.kind) {
      case 'none':
      case 'append':
        return;
      case 'sync':
        this.#toAcknowledge.delete(followed);
        // `synced` is called when the log is durable to its end, be it at once.
        partition.sync();
        return;
      case 'subscribe':
        this.#subscribe(followed, effect.position);
        return;
      case 'truncate':
      case 'restart':
        if (!this.#truncate(followed, effect)) return;
        this.#obey(followed, role.replica.truncated(partition.logEndOffset));
        return;
      case 'ownDamage':
        partition.fail(
          `the leader epochs of the log are damaged at offset ${effect.at}, below the high watermark ` +
            `${effect.highWatermark}: the leader, broker ${this.leaderId}, has these records under others`,
          true,
        );
        return;
      case 'leaderLacks':
        this.#giveUp(followed, effect);
    }
  }

  /** A leader that lost committed records is not followed into the loss; the own log stays as it is. */
  #giveUp(
    { partition }: Followed,
    { to, highWatermark }: Extract<FollowerEffect, { kind: 'leaderLacks' }>,
  ): void {
    const reason =
      `the leader, broker ${this.leaderId}, asks to truncate from ${partition.logEndOffset} to ${to}, ` +
      `below the high watermark ${highWatermark}: it has lost committed records`;
    const advice =
      `look at the disk of broker ${this.leaderId}; the log here is kept whole. Put what was lost ` +
      'back there, or stop that broker and elect this replica uncleanly; then restart this broker';
    partition.fail(reason, false, advice);
  }

  /** False: the log could not; it has failed, or will be asked again. */
  #truncate(
    followed: Followed,
    effect: Extract<FollowerEffect, { kind: 'truncate' | 'restart' }>,
  ): boolean {
    const { partition, role } = followed;
    const from = partition.logEndOffset;
    try {
      if (effect.kind === 'truncate') partition.log.truncateTo(effect.to);
      else partition.log.truncateFullyAndStartAt(effect.at);
    } catch (error) {
      if (!(error instanceof LogError)) throw error;
      this.#refused(followed, error, 'cannot truncate to follow the leader');
      return false;
    }
    this.#deps.metrics.truncations.add(1);
    partition.followerMoved(role);
    this.#deps.logger.info('truncated to follow the leader', {
      partition: partition.name,
      leader: this.leaderId,
      leaderEpoch: role.replica.leaderEpoch,
      from,
      to: partition.logEndOffset,
    });
    return true;
  }

  #subscribe(
    followed: Followed,
    position: { readonly lastEpoch: LeaderEpoch; readonly endOffset: Offset },
  ): void {
    const { partition, role } = followed;
    this.#byHandle.delete(followed.handle);
    this.#dropHeld(followed);
    followed.handle = this.#nextHandle++;
    this.#byHandle.set(followed.handle, followed);
    this.#positions.push({
      handle: followed.handle,
      subscribe: { topicId: partition.topicId, partition: partition.number },
      leaderEpoch: role.replica.leaderEpoch,
      syncedEndOffset: position.endOffset,
      lastEpoch: position.lastEpoch,
      logStartOffset: partition.logStartOffset,
    });
    this.#deps.turn.atEnd(this.#flush);
    this.#retryAt(role.replica.deadlineMs);
  }

  readonly #flush = (): void => {
    const stream = this.#stream;
    if (stream === undefined) return;
    for (const { handle, role, partition } of this.#toAcknowledge) {
      this.#positions.push(
        followerPosition({
          handle,
          leaderEpoch: role.replica.leaderEpoch,
          syncedEndOffset: isMutated('follower-reports-unsynced')
            ? partition.logEndOffset
            : role.replica.syncedEndOffset,
        }),
      );
    }
    this.#toAcknowledge.clear();
    const positions = this.#positions;
    const unsubscribe = this.#unsubscribe;
    const damaged = this.#damaged;
    const creditBytes = this.#credit;
    const isIdle = positions.length === 0 && unsubscribe.length === 0 && damaged.length === 0;
    if (isIdle && creditBytes === 0) return;
    this.#positions = [];
    this.#unsubscribe = [];
    this.#damaged = [];
    this.#credit = 0;
    // What is unsubscribed first may be subscribed anew in the same message.
    stream.send(
      followerMessage({
        positions: positions.splice(0, POSITIONS_MAX),
        unsubscribe,
        creditBytes,
        damaged,
      }),
    );
    while (positions.length > 0) {
      stream.send(followerMessage({ positions: positions.splice(0, POSITIONS_MAX) }));
    }
  };
}

/** Whether the bytes from the leader were damaged; fields that no CRC covers are compared with the local log. */
const isDamage = ({ kind }: LogError): boolean =>
  kind === 'badBatch' || kind === 'oldLeaderEpoch' || kind === 'notNext';

const bytesOf = (parts: readonly LeaderPart[]): number =>
  parts.reduce((sum, { batches }) => sum + batches.length, 0);

/** What the leader has deleted is read nowhere any more; never above what is known as committed. */
function followLogStart(partition: Partition, leaderStart: Offset): void {
  if (leaderStart <= partition.logStartOffset || leaderStart > partition.highWatermark) return;
  partition.log.deleteRecordsBefore(leaderStart);
}
