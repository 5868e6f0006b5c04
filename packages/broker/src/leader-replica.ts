/**
 * One partition as its leader sees it, without I/O: what each replica has on stable storage, the high
 * watermark that follows from it, and the in-sync set that the controller is asked for.
 *
 *     local append ─┐                                  ┌─> high watermark (waiting produces, fetches)
 *     local fsync ──┼─> synced end per replica ──> min ┤
 *     reports ──────┘                                  └─> proposals to the controller (grow, shrink)
 *
 * The in-sync set has two values while a proposal is under way, for nobody here can know whether the
 * controller has accepted it: the high watermark waits for the members of both ("maximal" set), and the
 * minimum is counted over the committed one. The proposal ends in one of four ways:
 *
 *     pending ──accepted──> committed (new partition epoch)
 *        │ ───refused────> dropped   (the controller says for certain that it was not applied)
 *        │ ───unknown────> pending, to be sent again as it is (same partition epoch: at most one wins)
 *        └ ───image with a higher partition epoch──> committed as the image says
 *
 * Rules: P3, P4 and the mistakes 3, 6, 7 and 8 of the design's list.
 */
import { assert } from '@relevo/base/assert';
import type { BrokerEpoch, BrokerId, LeaderEpoch, Offset, PartitionEpoch } from '@relevo/base/ids';
import { isMutated } from '@relevo/base/mutations';

/** What the controller has decided about a partition; the same on every broker at one partition epoch. */
export interface PartitionState {
  readonly leaderEpoch: LeaderEpoch;
  readonly partitionEpoch: PartitionEpoch;
  readonly replicas: readonly BrokerId[];
  readonly isr: readonly BrokerId[];
  /**
   * Replicas beside the in-sync set that may be elected because nothing was acknowledged without them
   * (KIP-966): while there are any, nothing is.
   */
  readonly elr: readonly BrokerId[];
  /** Whose logs cannot be used. */
  readonly offline: readonly BrokerId[];
}

/** What one metadata image says of a broker. */
export interface BrokerView {
  readonly epoch: BrokerEpoch;
  /** Registered but not fit to serve: fenced, or about to stop. */
  readonly fenced: boolean;
  /**
   * When its replicas of partitions led here last got on with being taken up: one subscribed, or had its
   * first record on stable storage. Default: never. Of many that are made at once the last has a long wait.
   */
  readonly tookUpMs?: number | undefined;
}

/** All brokers as one and the same image shows them (P4: one snapshot). */
export type BrokerViews = (broker: BrokerId) => BrokerView | undefined;

export interface LeaderReplicaOptions {
  readonly localId: BrokerId;
  /** A follower that has been behind for so long leaves the in-sync set; 5,000 by default elsewhere. */
  readonly replicaLagMs: number;
}

export interface LeaderStart {
  readonly state: PartitionState;
  /** `min.insync.replicas`; never more is asked for than there are replicas. */
  readonly minIsr: number;
  /** Where the log ended when this epoch began. */
  readonly epochStartOffset: Offset;
  readonly syncedEndOffset: Offset;
  /** As it was known here before; it only grows. */
  readonly highWatermark: Offset;
}

export interface FollowerReport {
  readonly brokerId: BrokerId;
  /** Of the stream on which the report came. */
  readonly brokerEpoch: BrokerEpoch;
  readonly leaderEpoch: LeaderEpoch;
  readonly syncedEndOffset: Offset;
}

/**
 * `stale`: made under another leader epoch or by an older life of the broker, and ignored.
 * `beyondEnd`: claims what this leader never had; the caller should end the stream.
 * `lostRecords`: an in-sync replica lacks committed records that it had; it is to leave the in-sync set.
 * `advanced`: the high watermark has moved.
 */
export type ReportVerdict = 'stale' | 'beyondEnd' | 'lostRecords' | 'held' | 'advanced';

export interface IsrMember {
  readonly brokerId: BrokerId;
  readonly brokerEpoch: BrokerEpoch;
}

export interface IsrProposal {
  readonly leaderEpoch: LeaderEpoch;
  /** The one that the proposal starts from. */
  readonly partitionEpoch: PartitionEpoch;
  readonly isr: readonly IsrMember[];
  readonly joining: readonly BrokerId[];
  readonly leaving: readonly BrokerId[];
}

export type IsrOutcome =
  | {
      readonly kind: 'accepted';
      readonly partitionEpoch: PartitionEpoch;
      readonly isr: readonly BrokerId[];
      readonly elr: readonly BrokerId[];
    }
  /** The controller did not and will not apply it. */
  | { readonly kind: 'refused' }
  /** The controller refused it, but an earlier request that held it may still be applied. */
  | { readonly kind: 'doubtful' }
  /** No answer, or one that says that the partition epoch has moved on: the image will tell. */
  | { readonly kind: 'unknown' };

/** Nobody has reported under this epoch yet. */
const NO_REPORT = -1;
/** After a refusal the next proposal waits so long, lest two disagreeing nodes busy each other. */
export const PROPOSAL_PAUSE_MS = 250;
/** A member of the in-sync set that is fenced, or has registered anew, is waited for so long before it states its position. */
export const RESTART_GRACE_MS = 1_000;

/** How many lag times a follower may wait for its turn to be taken up. */
const TAKING_UP_LAGS_MAX = 12;

interface Follower {
  readonly brokerId: BrokerId;
  brokerEpoch: BrokerEpoch;
  /** NO_REPORT until its first report under this leader epoch. */
  syncedEnd: number;
  /** The last moment at which it had all that the leader had then. */
  lastCaughtUpMs: number;
  /** It has said that it copies no more, and reported nothing since. */
  hasLeft: boolean;
  /** Since when it was seen to be fenced; undefined: it is not. */
  awaySinceMs: number | undefined;
  /** While it is behind: reaching `markOffset` proves that it was caught up at `markMs`. */
  markOffset: number;
  markMs: number;
  /** In the committed set, in the pending one, or in one that may still be applied. */
  holdsBack: boolean;
  inSync: boolean;
}

export class LeaderReplica {
  readonly leaderEpoch: LeaderEpoch;
  readonly epochStartOffset: Offset;
  readonly #options: LeaderReplicaOptions;
  #partitionEpoch: PartitionEpoch;
  #replicas: readonly BrokerId[];
  #isr: readonly BrokerId[];
  #elr: readonly BrokerId[];
  #offline: readonly BrokerId[];
  #pending: IsrProposal | undefined;
  /** Members of proposals that may still be applied on this partition epoch. */
  readonly #doubtful = new Set<BrokerId>();
  #minIsr: number;
  #logEnd: Offset;
  #syncedEnd: Offset;
  #highWatermark: Offset;
  #followers: Follower[] = [];
  #proposeNotBeforeMs = 0;

  constructor(options: LeaderReplicaOptions, start: LeaderStart, nowMs: number) {
    assert(start.highWatermark <= start.epochStartOffset, 'HW lies within the log', { ...start });
    assert(start.syncedEndOffset <= start.epochStartOffset, 'synced end lies within the log');
    this.#options = options;
    this.leaderEpoch = start.state.leaderEpoch;
    this.epochStartOffset = start.epochStartOffset;
    this.#partitionEpoch = start.state.partitionEpoch;
    this.#replicas = start.state.replicas;
    this.#isr = start.state.isr;
    this.#elr = start.state.elr;
    this.#offline = start.state.offline;
    this.#minIsr = start.minIsr;
    this.#logEnd = start.epochStartOffset;
    this.#syncedEnd = start.syncedEndOffset;
    this.#highWatermark = start.highWatermark;
    this.#assertIsr();
    this.#alignFollowers(nowMs);
    this.#advance();
  }

  get highWatermark(): Offset {
    return this.#highWatermark;
  }
  get logEndOffset(): Offset {
    return this.#logEnd;
  }
  get syncedEndOffset(): Offset {
    return this.#syncedEnd;
  }
  get partitionEpoch(): PartitionEpoch {
    return this.#partitionEpoch;
  }
  /** As committed by the controller. */
  get isr(): readonly BrokerId[] {
    return this.#isr;
  }
  get replicas(): readonly BrokerId[] {
    return this.#replicas;
  }
  /** The proposal under way: to be sent again after an unknown outcome. */
  get pendingProposal(): IsrProposal | undefined {
    return this.#pending;
  }
  /** How many in-sync replicas an acknowledgement takes. */
  get minIsr(): number {
    return Math.min(this.#minIsr, this.#replicas.length);
  }
  /** False: acks=all must be refused before anything is appended (NOT_ENOUGH_REPLICAS). */
  get hasEnoughInSync(): boolean {
    return this.#isr.length >= this.minIsr && this.#elr.length === 0;
  }
  /** Whether the others of the in-sync set are enough to acknowledge without this replica. */
  get isDispensable(): boolean {
    return this.#isr.length > Math.max(1, this.minIsr);
  }
  /** False: the end of the committed records is not known yet (P7, OFFSET_NOT_AVAILABLE). */
  get knowsLatest(): boolean {
    return this.#highWatermark >= this.epochStartOffset;
  }

  /** The leader's log has grown in the page cache. */
  appended(endOffset: Offset, nowMs: number): void {
    assert(endOffset > this.#logEnd, 'an append moves the log end', {
      endOffset,
      logEnd: this.#logEnd,
    });
    const before = this.#logEnd;
    this.#logEnd = endOffset;
    for (const follower of this.#followers) {
      if (follower.syncedEnd < before) continue;
      follower.lastCaughtUpMs = nowMs;
      follower.markOffset = endOffset;
      follower.markMs = nowMs;
    }
  }

  /** The leader's own log is on stable storage up to `endOffset`. True: the high watermark has moved. */
  synced(endOffset: Offset): boolean {
    assert(endOffset <= this.#logEnd, 'no sync beyond the log end', { endOffset });
    if (endOffset <= this.#syncedEnd) return false;
    this.#syncedEnd = endOffset;
    return this.#advance();
  }

  /**
   * A follower states where its durable log ends. A first statement on a stream must have been compared
   * with the leader's epochs before (see divergence.ts): only then does its end mean the same bytes.
   */
  report(report: FollowerReport, nowMs: number): ReportVerdict {
    if (report.leaderEpoch !== this.leaderEpoch) return 'stale';
    const follower = this.#followers.find(({ brokerId }) => brokerId === report.brokerId);
    if (follower === undefined || report.brokerEpoch < follower.brokerEpoch) return 'stale';
    if (report.syncedEndOffset > this.#logEnd) return 'beyondEnd';
    follower.brokerEpoch = report.brokerEpoch;
    follower.hasLeft = false;
    follower.syncedEnd = report.syncedEndOffset;
    if (follower.inSync && report.syncedEndOffset < this.#highWatermark) {
      follower.lastCaughtUpMs = -Infinity;
      follower.markOffset = this.#logEnd;
      follower.markMs = nowMs;
      return 'lostRecords';
    }
    if (report.syncedEndOffset >= this.#logEnd) {
      follower.lastCaughtUpMs = nowMs;
    } else if (report.syncedEndOffset >= follower.markOffset) {
      follower.lastCaughtUpMs = Math.max(follower.lastCaughtUpMs, follower.markMs);
      follower.markOffset = this.#logEnd;
      follower.markMs = nowMs;
    }
    return this.#advance() ? 'advanced' : 'held';
  }

  /**
   * The follower says itself that it copies no more: its log failed, say. It is behind from now on,
   * without the lag time that a slow one is given.
   */
  followerLeft(brokerId: BrokerId): void {
    const follower = this.#followers.find((each) => each.brokerId === brokerId);
    if (follower === undefined) return;
    follower.hasLeft = true;
    follower.syncedEnd = NO_REPORT;
    follower.lastCaughtUpMs = -Infinity;
    follower.markMs = -Infinity;
  }

  /**
   * The follower's broker has registered anew: it may take its time to look at its logs, and what it said
   * before counts no longer. It is not waited for as long as for one that is slow.
   */
  restarted(brokerId: BrokerId, brokerEpoch: BrokerEpoch, nowMs: number): void {
    const follower = this.#followers.find((each) => each.brokerId === brokerId);
    if (follower === undefined || brokerEpoch <= follower.brokerEpoch) return;
    follower.brokerEpoch = brokerEpoch;
    follower.syncedEnd = NO_REPORT;
    const graceMs = Math.min(RESTART_GRACE_MS, this.#options.replicaLagMs);
    const givenMs = nowMs + graceMs - this.#options.replicaLagMs;
    follower.lastCaughtUpMs = Math.min(follower.lastCaughtUpMs, givenMs);
    follower.markMs = follower.lastCaughtUpMs;
  }

  /**
   * The change of the in-sync set that the present calls for, if any and if none is under way. It
   * counts as pending from this call on; settle it with `isrOutcome` or `applyState`.
   */
  proposeIsr(brokers: BrokerViews, nowMs: number): IsrProposal | undefined {
    if (this.#pending !== undefined || nowMs < this.#proposeNotBeforeMs) return undefined;
    const joining: BrokerId[] = [];
    const leaving: BrokerId[] = [];
    for (const follower of this.#followers) {
      if (follower.inSync) {
        if (this.#isLagging(follower, brokers, nowMs)) leaving.push(follower.brokerId);
      } else if (this.#mayJoin(follower, brokers)) {
        joining.push(follower.brokerId);
      }
    }
    // The same set again moves the partition epoch, and so ends what may still be applied on this one.
    const settles = this.#doubtful.size > 0;
    if (joining.length === 0 && leaving.length === 0 && !settles) return undefined;
    const members = this.#isr.filter((id) => !leaving.includes(id)).concat(joining);
    const isr: IsrMember[] = [];
    for (const brokerId of members) {
      const view = brokers(brokerId);
      // A member that the image does not know: the next image will take it out of the set.
      if (view === undefined) return undefined;
      isr.push({ brokerId, brokerEpoch: view.epoch });
    }
    this.#pending = {
      leaderEpoch: this.leaderEpoch,
      partitionEpoch: this.#partitionEpoch,
      isr,
      joining,
      leaving,
    };
    this.#markMembers();
    return this.#pending;
  }

  /** Ends a proposal. True: the high watermark has moved. */
  isrOutcome(proposal: IsrProposal, outcome: IsrOutcome, nowMs: number): boolean {
    if (outcome.kind === 'accepted') {
      return this.#commit(outcome, nowMs);
    }
    // Compare and drop: a late answer must not end another proposal than its own.
    if (outcome.kind === 'unknown' || this.#pending !== proposal) return false;
    if (outcome.kind === 'doubtful') {
      for (const { brokerId } of proposal.isr) this.#doubtful.add(brokerId);
    }
    this.#pending = undefined;
    this.#proposeNotBeforeMs = nowMs + PROPOSAL_PAUSE_MS;
    this.#markMembers();
    return this.#advance();
  }

  /** A new image of the same leader epoch, or a new setting. True: the high watermark has moved. */
  applyState(state: PartitionState, minIsr: number, nowMs: number): boolean {
    assert(state.leaderEpoch === this.leaderEpoch, 'a new leader epoch makes a new leader', {
      is: this.leaderEpoch,
      image: state.leaderEpoch,
    });
    this.#minIsr = minIsr;
    if (state.partitionEpoch > this.#partitionEpoch) {
      this.#replicas = state.replicas;
      this.#alignFollowers(nowMs);
    }
    if (state.partitionEpoch >= this.#partitionEpoch) this.#offline = state.offline;
    return this.#commit(state, nowMs) || this.#advance();
  }

  /** The next moment at which `proposeIsr` may have something to propose; Infinity: none in sight. */
  nextDeadlineMs(): number {
    let next = this.#doubtful.size > 0 ? this.#proposeNotBeforeMs : Infinity;
    for (const follower of this.#followers) {
      if (!follower.inSync || follower.syncedEnd >= this.#logEnd) continue;
      next = Math.min(next, follower.lastCaughtUpMs + this.#options.replicaLagMs);
    }
    return next;
  }

  /** The replicas that have everything below `offset` on stable storage, as far as is known. */
  syncedOn(offset: Offset): BrokerId[] {
    const on: BrokerId[] = this.#syncedEnd >= offset ? [this.#options.localId] : [];
    for (const follower of this.#followers) {
      if (follower.syncedEnd >= offset) on.push(follower.brokerId);
    }
    return on;
  }

  /** How far a follower has come: the end of its durable log; undefined before its first report. */
  followerEnd(brokerId: BrokerId): Offset | undefined {
    const follower = this.#followers.find((each) => each.brokerId === brokerId);
    if (follower === undefined || follower.syncedEnd === NO_REPORT) return undefined;
    return follower.syncedEnd as Offset;
  }

  #commit(
    { partitionEpoch, isr, elr }: Pick<PartitionState, 'partitionEpoch' | 'isr' | 'elr'>,
    nowMs: number,
  ): boolean {
    if (partitionEpoch <= this.#partitionEpoch) return false;
    this.#partitionEpoch = partitionEpoch;
    this.#isr = isr;
    this.#elr = elr;
    this.#pending = undefined;
    this.#doubtful.clear();
    this.#assertIsr();
    for (const follower of this.#followers) {
      const joins = !follower.inSync && isr.includes(follower.brokerId);
      // A new member is given the whole lag time from now on; not one that has left meanwhile.
      if (joins && !follower.hasLeft) follower.lastCaughtUpMs = nowMs;
    }
    this.#markMembers();
    return this.#advance();
  }

  /** P3. The minimum over all sets that may be in force; nothing moves below the minimum size. */
  #advance(): boolean {
    if (!this.hasEnoughInSync && !isMutated('watermark-below-min-isr')) return false;
    let lowest: number = this.#syncedEnd;
    for (const follower of this.#followers) {
      if (follower.holdsBack && follower.syncedEnd < lowest) lowest = follower.syncedEnd;
    }
    if (lowest <= this.#highWatermark) return false;
    assert(lowest <= this.#syncedEnd && lowest <= this.#logEnd, 'HW lies within the log');
    // A minimum of offsets, all of them checked.
    this.#highWatermark = lowest as Offset;
    return true;
  }

  /**
   * A follower that has nothing yet, and whose broker is taking up others meanwhile, waits for its turn there;
   * not for ever, though: it may be this one that its broker cannot take up.
   */
  #isLagging(follower: Follower, brokers: BrokerViews, nowMs: number): boolean {
    if (follower.syncedEnd >= this.#logEnd) return false;
    const { replicaLagMs } = this.#options;
    const behindMs = nowMs - follower.lastCaughtUpMs;
    // It was in sync when all were gone, and may be the one that does not come back.
    const isAway = brokers(follower.brokerId)?.fenced === true;
    follower.awaySinceMs = isAway ? (follower.awaySinceMs ?? nowMs) : undefined;
    const awayMs = nowMs - (follower.awaySinceMs ?? Infinity);
    if (awayMs >= Math.min(RESTART_GRACE_MS, replicaLagMs)) return true;
    if (behindMs < replicaLagMs) return false;
    const hasNothing = follower.syncedEnd <= 0 && !follower.hasLeft;
    if (!hasNothing || behindMs >= TAKING_UP_LAGS_MAX * replicaLagMs) return true;
    return nowMs - (brokers(follower.brokerId)?.tookUpMs ?? -Infinity) >= replicaLagMs;
  }

  /** P4, from one snapshot: what it has synced, and what one image says of it. */
  #mayJoin(follower: Follower, brokers: BrokerViews): boolean {
    if (follower.syncedEnd < Math.max(this.#highWatermark, this.epochStartOffset)) return false;
    if (this.#offline.includes(follower.brokerId)) return false;
    const view = brokers(follower.brokerId);
    return view !== undefined && !view.fenced && view.epoch === follower.brokerEpoch;
  }

  #alignFollowers(nowMs: number): void {
    const before = new Map(this.#followers.map((follower) => [follower.brokerId, follower]));
    this.#followers = [];
    for (const brokerId of this.#replicas) {
      if (brokerId === this.#options.localId) continue;
      this.#followers.push(before.get(brokerId) ?? newFollower(brokerId, nowMs));
    }
    this.#markMembers();
  }

  #markMembers(): void {
    for (const follower of this.#followers) {
      follower.inSync = this.#isr.includes(follower.brokerId);
      follower.holdsBack =
        follower.inSync ||
        this.#doubtful.has(follower.brokerId) ||
        (this.#pending?.isr.some(({ brokerId }) => brokerId === follower.brokerId) ?? false);
    }
  }

  #assertIsr(): void {
    const facts = { isr: this.#isr, replicas: this.#replicas, leader: this.#options.localId };
    assert(
      this.#isr.includes(this.#options.localId),
      'the leader is in its in-sync set (K6)',
      facts,
    );
    assert(
      this.#isr.every((id) => this.#replicas.includes(id)),
      'in-sync ones are replicas (K6)',
      facts,
    );
  }
}

const newFollower = (brokerId: BrokerId, nowMs: number): Follower => ({
  brokerId,
  brokerEpoch: -1 as BrokerEpoch,
  syncedEnd: NO_REPORT,
  lastCaughtUpMs: nowMs,
  hasLeft: false,
  awaySinceMs: undefined,
  markOffset: 0,
  markMs: nowMs,
  holdsBack: false,
  inSync: false,
});
