/**
 * One partition as a follower sees it, under one leader epoch, without I/O.
 *
 *     phase        input                         next         effect
 *     detached     attach                        preparing    sync
 *     preparing    prepared                      subscribing  subscribe
 *     subscribing  part without error            following    append | none
 *     subscribing  deadline                      preparing    sync (ask again)
 *     following    part without error            following    append | none
 *     subscribing, diverging epoch               truncating   truncate
 *      following   out of range                  truncating   restart
 *                  either, below the high        stopped      leaderLacks, for good
 *                  watermark (P5)                            or ownDamage
 *                  any other error               refused      none, until the deadline
 *     following    the append failed             refused      none, until the deadline
 *     truncating   truncated                     preparing    sync
 *     refused      deadline                      preparing    sync
 *     any          detach                        detached     none
 *     any          stop                          stopped      none, for good
 *
 * A part that comes in another phase, or speaks of another epoch, belongs to the past and is ignored;
 * so is all else that a diverging answer says (mistake 5). A new leader epoch makes a new object.
 */
import { assert } from '@relevo/base/assert';
import type { ErrorCode } from '@relevo/base/errors';
import type { LeaderEpoch, Offset } from '@relevo/base/ids';
import { truncationPoint } from './divergence.ts';
import type { EpochEnd, EpochHistory, StatedPosition } from './divergence.ts';

export type FollowerPhase =
  'detached' | 'preparing' | 'subscribing' | 'following' | 'truncating' | 'refused' | 'stopped';

/** What the leader says of the partition in one message. */
export interface LeaderStatement {
  readonly leaderEpoch: LeaderEpoch;
  readonly error: ErrorCode;
  readonly highWatermark: Offset;
  readonly logStartOffset: Offset;
  readonly diverging: EpochEnd | undefined;
  readonly hasBatches: boolean;
}

export type FollowerEffect =
  | { readonly kind: 'none' }
  /** Make the log durable to its end, then call `prepared`. */
  | { readonly kind: 'sync' }
  /** State this position to the leader, with the leader epoch. */
  | { readonly kind: 'subscribe'; readonly position: StatedPosition }
  /** Append the statement's batches, make them durable, then call `synced`. */
  | { readonly kind: 'append' }
  /** Cut the log to end at `to`, then call `truncated`. */
  | { readonly kind: 'truncate'; readonly to: Offset }
  /** Throw the whole log away and begin an empty one at `at`, then call `truncated`. */
  | { readonly kind: 'restart'; readonly at: Offset }
  /**
   * The leader does not have all that is committed, and no election has allowed for that: it has lost
   * records that were on its disk. Give the replica up and keep its log, which may be the last whole one.
   */
  | { readonly kind: 'leaderLacks'; readonly to: Offset; readonly highWatermark: Offset }
  /**
   * The leader has records up to the high watermark and beyond, under other epochs than this log says: a
   * committed record has one epoch for ever (P2), so the epochs here are damaged. Copy the log anew.
   */
  | { readonly kind: 'ownDamage'; readonly at: Offset; readonly highWatermark: Offset };

export interface FollowerStart {
  readonly leaderEpoch: LeaderEpoch;
  /** As it was known here before. */
  readonly highWatermark: Offset;
  readonly syncedEndOffset: Offset;
  /**
   * There was an unclean election since the epoch that this log last followed: the one case in which a
   * leader may lack committed records, so that truncation below the high watermark is no bug.
   */
  readonly committedMayBeLost: boolean;
}

/** How long an answer to a subscription may take before it is stated again. */
export const SUBSCRIPTION_TIMEOUT_MS = 5_000;
export const REFUSED_RETRY_MIN_MS = 20;
export const REFUSED_RETRY_MAX_MS = 1_000;

const NONE: FollowerEffect = { kind: 'none' };
const SYNC: FollowerEffect = { kind: 'sync' };
const APPEND: FollowerEffect = { kind: 'append' };

export class FollowerReplica {
  readonly leaderEpoch: LeaderEpoch;
  readonly #committedMayBeLost: boolean;
  #phase: FollowerPhase = 'detached';
  #highWatermark: Offset;
  #leaderHighWatermark: Offset;
  #syncedEnd: Offset;
  #deadlineMs = Infinity;
  #refusals = 0;

  constructor(start: FollowerStart) {
    this.leaderEpoch = start.leaderEpoch;
    this.#committedMayBeLost = start.committedMayBeLost;
    this.#highWatermark = start.highWatermark;
    this.#leaderHighWatermark = start.highWatermark;
    this.#syncedEnd = start.syncedEndOffset;
  }

  get phase(): FollowerPhase {
    return this.#phase;
  }
  /** min(the leader's, the own durable end); never falls but by an unclean election. */
  get highWatermark(): Offset {
    return this.#highWatermark;
  }
  get syncedEndOffset(): Offset {
    return this.#syncedEnd;
  }
  /** When `deadline` is to be called next; Infinity: no need. */
  get deadlineMs(): number {
    return this.#deadlineMs;
  }

  /** The stream to the leader is up. */
  attach(): FollowerEffect {
    assert(this.#phase === 'detached', 'attach only when detached', { phase: this.#phase });
    return this.#prepare();
  }

  /** The stream is gone; nothing that was on it counts any more. */
  detach(): void {
    if (this.#phase !== 'stopped') this.#enter('detached');
  }

  /** The partition has another leader epoch, was deleted, or its log failed. */
  stop(): void {
    this.#enter('stopped');
  }

  /** The log is durable to its end. */
  prepared(position: StatedPosition, nowMs: number): FollowerEffect {
    assert(this.#phase === 'preparing', 'prepared only while preparing', { phase: this.#phase });
    this.#syncedEnd = position.endOffset;
    this.#enter('subscribing', nowMs + SUBSCRIPTION_TIMEOUT_MS);
    return { kind: 'subscribe', position };
  }

  receive(
    said: LeaderStatement,
    log: EpochHistory & StatedPosition,
    nowMs: number,
  ): FollowerEffect {
    const listens = this.#phase === 'subscribing' || this.#phase === 'following';
    if (!listens || said.leaderEpoch !== this.leaderEpoch) return NONE;
    if (said.error === 'OFFSET_OUT_OF_RANGE') return this.#restart(said);
    if (said.error !== 'NONE') return this.#refused(nowMs);
    if (said.diverging !== undefined) return this.#diverged(said.diverging, log);
    // Batches have to be taken first.
    if (!said.hasBatches) this.#refusals = 0;
    if (this.#phase === 'subscribing') this.#enter('following');
    if (said.highWatermark > this.#leaderHighWatermark) {
      this.#leaderHighWatermark = said.highWatermark;
      this.#advance();
    }
    return said.hasBatches ? APPEND : NONE;
  }

  /**
   * The log took not all that the last statement brought: what comes next on the stream is of no
   * use. It is asked for again after a growing wait, of `waitMinMs` at least.
   */
  appendFailed(nowMs: number, waitMinMs = 0): void {
    if (this.#phase !== 'stopped') this.#refused(nowMs, waitMinMs);
  }

  /** The log is on stable storage up to `endOffset`. True: the high watermark has moved. */
  synced(endOffset: Offset): boolean {
    if (endOffset <= this.#syncedEnd) return false;
    this.#syncedEnd = endOffset;
    this.#refusals = 0;
    return this.#advance();
  }

  /** The log has been cut, or begun anew, as the last effect said. */
  truncated(endOffset: Offset): FollowerEffect {
    assert(this.#phase === 'truncating', 'truncated only while truncating', { phase: this.#phase });
    this.#syncedEnd = endOffset < this.#syncedEnd ? endOffset : this.#syncedEnd;
    return this.#prepare();
  }

  /** To be called when `deadlineMs` has passed. */
  deadline(nowMs: number): FollowerEffect {
    if (nowMs < this.#deadlineMs) return NONE;
    assert(this.#phase === 'refused' || this.#phase === 'subscribing', 'only these have deadlines');
    return this.#prepare();
  }

  #prepare(): FollowerEffect {
    this.#enter('preparing');
    return SYNC;
  }

  #diverged(from: EpochEnd, log: EpochHistory & StatedPosition): FollowerEffect {
    const to = truncationPoint(log, from);
    assert(to < log.endOffset, 'each round of the walk back takes something away', {
      to,
      end: log.endOffset,
      lastEpoch: log.lastEpoch,
      leaderEpoch: from.epoch,
      leaderEnd: from.endOffset,
    });
    if (!this.#mayFallTo(to)) {
      if (from.endOffset < this.#highWatermark) return this.#leaderLacks(to);
      this.stop();
      return { kind: 'ownDamage', at: to, highWatermark: this.#highWatermark };
    }
    this.#fallTo(to);
    this.#enter('truncating');
    return { kind: 'truncate', to };
  }

  #restart(said: LeaderStatement): FollowerEffect {
    const at = said.logStartOffset;
    if (!this.#mayFallTo(at)) return this.#leaderLacks(at);
    this.#fallTo(at);
    this.#enter('truncating');
    return { kind: 'restart', at };
  }

  #leaderLacks(to: Offset): FollowerEffect {
    this.stop();
    return { kind: 'leaderLacks', to, highWatermark: this.#highWatermark };
  }

  #refused(nowMs: number, waitMinMs = 0): FollowerEffect {
    const growingMs = Math.min(REFUSED_RETRY_MAX_MS, REFUSED_RETRY_MIN_MS * 2 ** this.#refusals);
    const waitMs = Math.max(waitMinMs, growingMs);
    this.#refusals = Math.min(this.#refusals + 1, 10);
    this.#enter('refused', nowMs + waitMs);
    return NONE;
  }

  /** P5: never below the high watermark, but after an unclean election. */
  #mayFallTo(to: Offset): boolean {
    return to >= this.#highWatermark || this.#committedMayBeLost;
  }

  #fallTo(to: Offset): void {
    if (to >= this.#highWatermark) return;
    this.#highWatermark = to;
    this.#leaderHighWatermark = to;
  }

  #advance(): boolean {
    const reached =
      this.#leaderHighWatermark < this.#syncedEnd ? this.#leaderHighWatermark : this.#syncedEnd;
    if (reached <= this.#highWatermark) return false;
    this.#highWatermark = reached;
    return true;
  }

  #enter(phase: FollowerPhase, deadlineMs = Infinity): void {
    assert(this.#phase !== 'stopped' || phase === 'stopped', 'stopped is final', { phase });
    this.#phase = phase;
    this.#deadlineMs = deadlineMs;
  }
}
