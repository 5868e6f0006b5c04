/**
 * What a leader knows of one follower.
 *
 *     probe      one append at a time, until it is known where the logs agree
 *     replicate  appends are sent ahead of their answers, within the limits
 *     snapshot   the follower needs entries that are gone; nothing is sent until it has the snapshot
 *
 *     probe --accepted--> replicate --rejected, unreachable--> probe
 *     probe --entries are compacted away--> snapshot --installed, failed, timed out--> probe
 */
import { assert } from '@relevo/base/assert';
import { logIndex, type LogIndex } from '@relevo/base/ids';
import { UNPINNED, type DirectoryId } from './messages.ts';

export interface InflightLimits {
  readonly appendsMax: number;
  readonly bytesMax: number;
}

export type ProgressState = 'probe' | 'replicate' | 'snapshot';

interface Inflight {
  readonly lastIndex: LogIndex;
  readonly bytes: number;
}

export class Progress {
  readonly #limits: InflightLimits;
  #state: ProgressState = 'probe';
  #matchIndex: LogIndex = logIndex(0);
  #nextIndex: LogIndex;
  /** In `probe`: one append is out and unanswered. */
  #probeSent = false;
  #inflights: Inflight[] = [];
  #inflightBytes = 0;
  #snapshotIndex: LogIndex = logIndex(0);
  #snapshotHeardMs = 0;

  /** When it last answered; the start of the leadership until then. */
  lastContactMs: number;
  /** It has answered this leader, and its process was not found gone since. */
  responsive = false;
  /** The directory that its answers name. */
  directoryId: DirectoryId = UNPINNED;
  /** The newest commit index that an append told it. */
  commitSent: LogIndex = logIndex(0);
  /** The newest read round that it has answered. */
  roundAcked = 0;
  /** An append is due even if there is nothing new: something may have been lost. */
  nudged = false;

  constructor(nextIndex: LogIndex, nowMs: number, limits: InflightLimits) {
    this.#nextIndex = nextIndex;
    this.lastContactMs = nowMs;
    this.#limits = limits;
  }

  get state(): ProgressState {
    return this.#state;
  }

  /** Everything up to here is the leader's and is durable there. */
  get matchIndex(): LogIndex {
    return this.#matchIndex;
  }

  /** The first entry that the next append carries. */
  get nextIndex(): LogIndex {
    return this.#nextIndex;
  }

  /** Appends with entries that are out and unanswered. */
  get inflightCount(): number {
    return this.#inflights.length;
  }

  get paused(): boolean {
    switch (this.#state) {
      case 'probe':
        return this.#probeSent;
      case 'replicate':
        return (
          this.#inflights.length >= this.#limits.appendsMax ||
          this.#inflightBytes >= this.#limits.bytesMax
        );
      case 'snapshot':
        return true;
    }
  }

  /** An append went out that ends at `lastIndex` (the one before `nextIndex` if it is empty). */
  sent(lastIndex: LogIndex, bytes: number): void {
    assert(!this.paused, 'nothing is sent to a paused follower', { state: this.#state });
    this.nudged = false;
    if (this.#state === 'probe') {
      this.#probeSent = true;
      return;
    }
    if (lastIndex < this.#nextIndex) return;
    this.#nextIndex = logIndex(lastIndex + 1);
    this.#inflights.push({ lastIndex, bytes });
    this.#inflightBytes += bytes;
  }

  /**
   * The follower accepted up to `index`; true if that is news. `baseIndex`: where the leader's log
   * begins, and with it what can be sent without a snapshot.
   */
  accepted(index: LogIndex, baseIndex: LogIndex): boolean {
    const news = index > this.#matchIndex;
    if (news) this.#matchIndex = index;
    this.#nextIndex = logIndex(Math.max(this.#nextIndex, index + 1));
    while (this.#inflights[0] !== undefined && this.#inflights[0].lastIndex <= index) this.#free();
    if (index < this.#matchIndex) return false;
    if (this.#state === 'probe') this.#becomeReplicate();
    if (this.#state === 'snapshot' && index >= baseIndex) {
      this.#snapshotIndex = logIndex(0);
      this.#becomeReplicate();
    }
    return news;
  }

  /**
   * The follower has nothing that matches at `rejectedIndex`; the logs may agree at `agreeIndex`. False
   * if the answer is an old one.
   */
  rejected(rejectedIndex: LogIndex, agreeIndex: LogIndex): boolean {
    if (this.#state === 'snapshot') return false;
    if (this.#state === 'replicate') {
      if (rejectedIndex <= this.#matchIndex) return false;
      this.becomeProbe();
      return true;
    }
    if (rejectedIndex !== this.#nextIndex - 1) return false;
    this.#nextIndex = logIndex(
      Math.max(Math.min(rejectedIndex, agreeIndex + 1), this.#matchIndex + 1),
    );
    this.#probeSent = false;
    return true;
  }

  /** From here on only what is known to match is built on. */
  becomeProbe(): void {
    const afterSnapshot = this.#state === 'snapshot' ? this.#snapshotIndex + 1 : 0;
    this.#state = 'probe';
    this.#probeSent = false;
    this.#inflights = [];
    this.#inflightBytes = 0;
    this.#nextIndex = logIndex(Math.max(this.#matchIndex + 1, afterSnapshot));
  }

  becomeSnapshot(index: LogIndex, nowMs: number): void {
    this.becomeProbe();
    this.#state = 'snapshot';
    this.#snapshotIndex = index;
    this.#snapshotHeardMs = nowMs;
  }

  /** A part of the snapshot has gone out: the follower takes it. */
  snapshotGoesOn(nowMs: number): void {
    if (this.#state === 'snapshot') this.#snapshotHeardMs = nowMs;
  }

  /** The snapshot did not arrive: forget it and look again where the follower stands. */
  snapshotFailed(): void {
    if (this.#state !== 'snapshot') return;
    this.#snapshotIndex = logIndex(0);
    this.becomeProbe();
  }

  /** When the snapshot that is out counts as lost; Infinity when none is. */
  snapshotDeadlineMs(timeoutMs: number): number {
    return this.#state === 'snapshot' ? this.#snapshotHeardMs + timeoutMs : Infinity;
  }

  /** The connection broke: what is in flight may be lost. */
  disconnected(): void {
    if (this.#state === 'snapshot') this.snapshotFailed();
    else this.becomeProbe();
  }

  /** It answered a heartbeat: an append that was lost on the way must not stop it for ever. */
  heartbeatAnswered(lastIndex: LogIndex): void {
    if (this.#state === 'probe') this.#probeSent = false;
    if (this.#matchIndex >= lastIndex) return;
    if (this.#state === 'replicate' && this.paused) this.#free();
    this.nudged = true;
  }

  #becomeReplicate(): void {
    this.becomeProbe();
    this.#state = 'replicate';
  }

  #free(): void {
    this.#inflightBytes -= this.#inflights.shift()?.bytes ?? 0;
  }
}
