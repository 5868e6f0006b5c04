/**
 * One replica of a Raft quorum, without I/O: messages, time and proposals go in, `Ready` comes out.
 *
 *     node.step(message, nowMs)            what came in
 *     node.tick(nowMs)                     at `nextDeadlineMs()`
 *     node.propose([data], nowMs) …        what the application wants
 *     while ((ready = node.ready(nowMs)))  what to write, send and apply
 *     node.persisted(ready.id, nowMs)      when it is on stable storage
 *
 * All times are milliseconds of one monotonic clock. Nothing is kept but in memory; the log since the
 * last compaction is.
 */
import { assert, defined, unreachable } from '@relevo/base/assert';
import { logIndex, type BrokerId, type LogIndex, type Term } from '@relevo/base/ids';
import { isMutated } from '@relevo/base/mutations';
import type { Random } from '@relevo/base/ports';
import type { Configuration, MembershipChange } from './configuration.ts';
import { Core, sameReplica, type LeaderRole, type Recovered } from './core.ts';
import * as election from './election.ts';
import * as follower from './follower.ts';
import * as leader from './leader.ts';
import { appendOwn, leadsForSure } from './leader-state.ts';
import { changeMembership, type MembershipResult } from './membership.ts';
import { contradictionOf, flawOfMessage } from './message-check.ts';
import {
  UNPINNED,
  type Entry,
  type Message,
  type ReplicaKey,
  type Snapshot,
  type SnapshotMetadata,
} from './messages.ts';
import { checkOptions, DEFAULT_RAFT_OPTIONS, type RaftOptions } from './options.ts';
import type { ProgressState } from './progress.ts';
import type { HardState, Ready, RoleName, SoftState } from './ready.ts';
import { startTransfer, type TransferResult } from './transfer.ts';

export interface NotLeader {
  readonly ok: false;
  readonly reason: 'notLeader';
  /** Undefined while no leader is known. */
  readonly leaderId: BrokerId | undefined;
}

/**
 * `tooLarge`: above `entryBytesMax`. `busy`: `uncommittedBytesMax` are waiting for a majority.
 * `transferring`: leadership is being handed over. In each case nothing was appended.
 */
export type ProposeResult =
  | { readonly ok: true; readonly lastIndex: LogIndex; readonly term: Term }
  | NotLeader
  | { readonly ok: false; readonly reason: 'tooLarge' | 'busy' | 'transferring' };

export type ReadResult =
  { readonly ok: true } | NotLeader | { readonly ok: false; readonly reason: 'busy' };

export interface PeerStatus {
  readonly id: BrokerId;
  readonly voter: boolean;
  readonly state: ProgressState;
  readonly matchIndex: LogIndex;
  readonly nextIndex: LogIndex;
  readonly inflight: number;
  readonly paused: boolean;
  /** Has answered this leader, and is not known to be gone. */
  readonly responsive: boolean;
  readonly lastContactMs: number;
}

export interface RaftStatus {
  readonly self: ReplicaKey;
  readonly role: RoleName;
  readonly term: Term;
  readonly vote: ReplicaKey | undefined;
  readonly leaderId: BrokerId | undefined;
  readonly commitIndex: LogIndex;
  /** The last entry that was handed out to be applied. */
  readonly appliedIndex: LogIndex;
  readonly lastIndex: LogIndex;
  readonly lastTerm: Term;
  readonly persistedIndex: LogIndex;
  /** Entries up to here are gone from memory. */
  readonly baseIndex: LogIndex;
  readonly configuration: Configuration;
  /** Of the entry, or the snapshot, that holds it; 0: the first members, which nothing holds yet. */
  readonly configurationIndex: LogIndex;
  readonly changePending: boolean;
  /** It leads, and has committed an entry of its own term. */
  readonly leadsForSure: boolean;
  readonly transferTo: BrokerId | undefined;
  /** Of a leader; by id. */
  readonly peers: readonly PeerStatus[];
}

export interface RaftNodeOptions {
  readonly self: ReplicaKey;
  readonly recovered: Recovered;
  /** What is not given has its default. */
  readonly raft?: Partial<RaftOptions>;
}

/** A Ready whose writes are not durable yet. */
interface UnderWay {
  readonly id: number;
  readonly term: Term;
  readonly vote: ReplicaKey | undefined;
  readonly snapshot: Snapshot | undefined;
}

export class RaftNode {
  readonly #core: Core;
  readonly #underWay: UnderWay[] = [];
  #lastReadyId = 0;
  #offered: { readonly term: Term; readonly vote: ReplicaKey | undefined };
  #reported: SoftState | undefined;
  /** Received, and not yet in a Ready. */
  #offeredSnapshot: Snapshot | undefined;

  constructor(options: RaftNodeOptions, deps: { readonly random: Random; readonly nowMs: number }) {
    const raft = { ...DEFAULT_RAFT_OPTIONS, ...options.raft };
    checkOptions(raft);
    assert(options.self.directoryId !== UNPINNED, 'a replica knows its own directory');
    this.#core = new Core(options.self, options.recovered, raft, deps);
    this.#offered = this.#core.durable;
  }

  // ---------------------------------------------------------------------------------------------- Time

  /** When `tick` has something to do; Infinity when it never has. */
  nextDeadlineMs(): number {
    const core = this.#core;
    if (core.role.kind === 'leader') return leader.leaderDeadlineMs(core, core.role);
    return core.electable ? core.electionDueMs : Infinity;
  }

  /** May be called at any time, as often as one likes. */
  tick(nowMs: number): void {
    const core = this.#core;
    core.observe(nowMs);
    if (core.role.kind === 'leader') leader.tickLeader(core, core.role, nowMs);
    else if (core.electable && nowMs >= core.electionDueMs) election.electionIsDue(core, nowMs);
  }

  // -------------------------------------------------------------------------------------------- Messages

  /**
   * Why a message from a network may not be given to `step`; undefined: it may. Changes nothing. The caller
   * sees to it that the sender is who the message says.
   */
  problemWith(message: Message): string | undefined {
    if (isMutated('impossible-messages-are-taken')) return undefined;
    return flawOfMessage(message) ?? contradictionOf(this.#core, message);
  }

  /** Takes in a message. What is not for this replica, or out of date, has no effect. */
  step(message: Message, nowMs: number): void {
    const core = this.#core;
    core.observe(nowMs);
    if (!this.#isForUs(message)) return;
    const { body } = message;
    if (body.kind === 'preVote') return election.answerPreVote(core, message, body, nowMs);
    if (body.kind === 'preVoteReply') {
      return election.onPreVoteReply(core, message, body, nowMs);
    }
    if (message.term > core.term && !this.#followsTerm(message, nowMs)) return;
    if (message.term < core.term) return this.#refuseOldTerm(message);
    this.#stepInTerm(message, nowMs);
  }

  /**
   * A wiped disk is another voter: what was meant for the one before is not for us (K5). Mail by address
   * alone is for founding members, not for a disk that has yet to join.
   */
  #isForUs({ to, from }: Message): boolean {
    const { self } = this.#core;
    if (to.id !== self.id || from.id === self.id) return false;
    if (to.directoryId === UNPINNED) return this.#core.isMember(self);
    return to.directoryId === self.directoryId;
  }

  /** Takes over the newer term of a message; false if it comes from somebody who disturbs. */
  #followsTerm({ body, term, from }: Message, nowMs: number): boolean {
    const core = this.#core;
    const unwanted = body.kind === 'vote' && !body.transfer && core.leaderIsAlive(nowMs);
    if (unwanted) return false;
    core.becomeFollower(term, undefined, nowMs);
    assert(core.role.kind === 'follower', 'a newer term is followed', { from: from.id });
    return true;
  }

  /** A leader or candidate of the past is told which term it is: otherwise it might wait for ever. */
  #refuseOldTerm({ body, from }: Message): void {
    const core = this.#core;
    switch (body.kind) {
      case 'append':
      case 'heartbeat':
      case 'snapshot': {
        const { lastIndex: hintIndex, lastTerm: hintTerm } = core.log;
        const rejectedIndex = body.kind === 'append' ? body.prevIndex : hintIndex;
        core.sendAfterPersist(from, {
          kind: 'appendReply',
          accepted: false,
          rejectedIndex,
          hintIndex,
          hintTerm,
        });
        return;
      }
      case 'vote':
        core.sendAfterPersist(from, { kind: 'voteReply', granted: false });
        return;
      default:
        // An answer that comes too late.
        return;
    }
  }

  #stepInTerm(message: Message, nowMs: number): void {
    const core = this.#core;
    const { body, from } = message;
    switch (body.kind) {
      case 'vote':
        return election.answerVote(core, message, body, nowMs);
      case 'voteReply':
        return election.onVoteReply(core, message, body, nowMs);
      case 'append':
        follower.hearLeader(core, from, nowMs);
        return follower.onAppend(core, message, body);
      case 'heartbeat':
        follower.hearLeader(core, from, nowMs);
        return follower.onHeartbeat(core, message, body);
      case 'snapshot':
        follower.hearLeader(core, from, nowMs);
        return follower.onSnapshot(core, message, body);
      case 'appendReply':
        if (core.role.kind !== 'leader') return;
        return leader.onAppendReply(core, core.role, message, body, nowMs);
      case 'heartbeatReply':
        if (core.role.kind !== 'leader') return;
        return leader.onHeartbeatReply(core, core.role, message, body, nowMs);
      case 'timeoutNow':
        if (core.role.kind === 'leader' || !core.electable) return;
        return election.startElection(core, true, nowMs);
      case 'preVote':
      case 'preVoteReply':
        return;
      default:
        return unreachable(body, 'a message');
    }
  }

  /**
   * The connection to `id` broke. `refused`: a new one was refused at once, so its process is gone; a
   * follower whose leader this was stands for election after a short random wait.
   */
  peerUnreachable(id: BrokerId, { refused }: { readonly refused: boolean }, nowMs: number): void {
    const core = this.#core;
    core.observe(nowMs);
    if (core.role.kind === 'leader') {
      const progress = core.role.peers.get(id);
      progress?.disconnected();
      if (refused && progress !== undefined) progress.responsive = false;
    } else if (refused) {
      election.leaderIsGone(core, id, nowMs);
    }
  }

  /** A part of the snapshot that `id` is to have has gone out to it. */
  snapshotGoesOn(id: BrokerId, nowMs: number): void {
    const core = this.#core;
    core.observe(nowMs);
    if (core.role.kind === 'leader') core.role.peers.get(id)?.snapshotGoesOn(nowMs);
  }

  /**
   * The first members of a new cluster are agreed upon; counts only while nothing tells who the members
   * are. They are to be put into the log by their first leader: an `update` without members does it.
   */
  found(members: Configuration, nowMs: number): void {
    const core = this.#core;
    core.observe(nowMs);
    if (core.configurations.currentIndex > 0 || core.configuration.voters.length > 0) return;
    core.configurations.reset(logIndex(0), members);
    core.waitAfterStart(nowMs);
  }

  // ---------------------------------------------------------------------------------------- Application

  /**
   * Appends entries at the leader, in one piece. They are committed when a Ready's `committed` holds
   * them under `term`; if the entry at `lastIndex` turns out to be of another term, they are lost. While
   * it no longer leads, the outcome is unknown.
   */
  propose(data: readonly Uint8Array[], nowMs: number): ProposeResult {
    const core = this.#core;
    core.observe(nowMs);
    const role = this.#leaderRole();
    if (role === undefined || role.leaving) return this.#notLeader();
    if (role.transfer !== undefined) return { ok: false, reason: 'transferring' };
    let bytes = 0;
    for (const one of data) {
      if (one.length > core.options.entryBytesMax) return { ok: false, reason: 'tooLarge' };
      bytes += one.length;
    }
    const waiting = role.uncommittedBytes;
    if (waiting > 0 && waiting + bytes > core.options.uncommittedBytesMax) {
      return { ok: false, reason: 'busy' };
    }
    for (const one of data) appendOwn(core, role, 'data', one);
    return { ok: true, lastIndex: core.log.lastIndex, term: core.term };
  }

  /**
   * Asks how far the state machine must be for a linearizable read that begins now (thesis, 6.4). The
   * answer comes as a Ready's `readStates`, or `droppedReads` if leadership is lost. `context` names the
   * request and is used once.
   */
  readIndex(context: number, nowMs: number): ReadResult {
    const core = this.#core;
    core.observe(nowMs);
    const role = this.#leaderRole();
    if (role === undefined || role.leaving) return this.#notLeader();
    if (role.reads.size >= core.options.pendingReadsMax) return { ok: false, reason: 'busy' };
    role.reads.add(context);
    return { ok: true };
  }

  /** Appends a membership change at the leader; done when a Ready's `committed` holds it. */
  changeMembership(change: MembershipChange, nowMs: number): MembershipResult | NotLeader {
    const core = this.#core;
    core.observe(nowMs);
    const role = this.#leaderRole();
    if (role === undefined || role.leaving) return this.#notLeader();
    return changeMembership(core, role, change, nowMs);
  }

  /** Begins to hand leadership to `to`, or to the voter that is furthest. */
  transferLeadership(to: BrokerId | undefined, nowMs: number): TransferResult | NotLeader {
    const core = this.#core;
    core.observe(nowMs);
    const role = this.#leaderRole();
    if (role === undefined || role.leaving) return this.#notLeader();
    return startTransfer(core, role, to, nowMs);
  }

  #leaderRole(): LeaderRole | undefined {
    return this.#core.role.kind === 'leader' ? this.#core.role : undefined;
  }

  #notLeader(): NotLeader {
    return { ok: false, reason: 'notLeader', leaderId: this.#core.leaderId };
  }

  // --------------------------------------------------------------------------------------------- Effects

  /** What is to be done now; undefined when nothing is. Readies may be taken ahead of `persisted`. */
  ready(nowMs: number): Ready | undefined {
    const core = this.#core;
    core.observe(nowMs);
    if (core.role.kind === 'leader') leader.sendWhatIsDue(core, core.role, nowMs);
    if (!this.#hasEffects()) return undefined;
    const { truncateFrom, entries } = core.log.takeUnoffered();
    const ready: Ready = {
      id: ++this.#lastReadyId,
      hardState: this.#takeHardState(),
      snapshot: this.#takeSnapshot(),
      truncateFrom,
      entries,
      messages: core.messages,
      messagesAfterPersist: core.messagesAfterPersist,
      committed: this.#takeCommitted(),
      softState: this.#takeSoftState(),
      readStates: core.readStates,
      droppedReads: core.droppedReads,
    };
    core.messages = [];
    core.messagesAfterPersist = [];
    core.readStates = [];
    core.droppedReads = [];
    const { term, vote } = core;
    this.#underWay.push({ id: ready.id, term, vote, snapshot: ready.snapshot });
    return ready;
  }

  #hasEffects(): boolean {
    const core = this.#core;
    return (
      core.messages.length > 0 ||
      core.messagesAfterPersist.length > 0 ||
      core.readStates.length > 0 ||
      core.droppedReads.length > 0 ||
      core.log.hasUnoffered ||
      this.#hardStateChanged() ||
      core.installing !== this.#offeredSnapshot ||
      core.appliedIndex < this.#appliableIndex() ||
      this.#softStateChanged()
    );
  }

  #hardStateChanged(): boolean {
    const { term, vote } = this.#core;
    const before = this.#offered;
    if (term !== before.term) return true;
    if (vote === undefined || before.vote === undefined) return vote !== before.vote;
    return !sameReplica(vote, before.vote);
  }

  #takeHardState(): HardState | undefined {
    if (!this.#hardStateChanged()) return undefined;
    const core = this.#core;
    const { term, vote } = core;
    this.#offered = { term, vote };
    return { term, vote, commit: this.#durableCommit() };
  }

  /** What storage will hold for certain by then, and is committed. */
  #durableCommit(): LogIndex {
    const core = this.#core;
    const { commit, log, installing } = core;
    if (installing !== undefined) return core.appliedIndex;
    return log.persistedIndex < commit ? log.persistedIndex : commit;
  }

  #takeSnapshot(): Snapshot | undefined {
    const { installing } = this.#core;
    if (installing === this.#offeredSnapshot) return undefined;
    this.#offeredSnapshot = installing;
    return installing;
  }

  #appliableIndex(): LogIndex {
    const core = this.#core;
    if (core.installing !== undefined) return core.appliedIndex;
    return core.log.persistedIndex < core.commit ? core.log.persistedIndex : core.commit;
  }

  #takeCommitted(): readonly Entry[] {
    const core = this.#core;
    const to = this.#appliableIndex();
    if (core.appliedIndex >= to) return [];
    const from = logIndex(core.appliedIndex + 1);
    const committed = core.log.slice(from, to, core.options.committedBytesMax);
    core.appliedIndex = defined(committed.at(-1), 'a committed entry').index;
    return committed;
  }

  #softStateChanged(): boolean {
    const { role, term, leaderId } = this.#core.softState;
    const before = this.#reported;
    return before?.role !== role || before.term !== term || before.leaderId !== leaderId;
  }

  #takeSoftState(): SoftState | undefined {
    if (!this.#softStateChanged()) return undefined;
    this.#reported = this.#core.softState;
    return this.#reported;
  }

  /**
   * The Ready and all before it are on stable storage. To be called for each, in order; what it had in
   * `messagesAfterPersist` may go out now.
   */
  persisted(readyId: number, nowMs: number): void {
    const core = this.#core;
    core.observe(nowMs);
    const done = this.#underWay.shift();
    assert(done?.id === readyId, 'Readies become durable in order', {
      expected: done?.id,
      readyId,
    });
    const { term, vote, snapshot } = done;
    core.durable = { term, vote };
    core.log.writeDone();
    if (snapshot !== undefined && snapshot === core.installing) {
      core.installing = undefined;
      this.#offeredSnapshot = undefined;
      core.appliedIndex = snapshot.index;
    }
    if (core.role.kind === 'leader') leader.advanceCommit(core, core.role);
    else election.ownVoteIsDurable(core, nowMs);
  }

  // -------------------------------------------------------------------------------------------- Snapshots

  /**
   * What belongs to a snapshot of the state machine after `index`, which has been applied; undefined when
   * none is wanted: a newer one from the leader is on its way to the disk.
   */
  snapshotMetadata(index: LogIndex): SnapshotMetadata | undefined {
    const core = this.#core;
    assert(index <= core.appliedIndex, 'only what was applied is in a snapshot', { index });
    if (core.installing !== undefined || index < core.log.base.index) return undefined;
    const term = defined(core.log.termAt(index), `the term of entry ${index}`);
    return { index, term, configuration: core.configurations.at(index) };
  }

  /**
   * The snapshot is durable: followers may be given it, and the entries that it covers are forgotten, but
   * for the newest `retainedEntries`. An older one than is known has no effect.
   */
  compact(snapshot: Snapshot): void {
    const core = this.#core;
    assert(snapshot.index <= core.appliedIndex, 'only what was applied is compacted', {
      index: snapshot.index,
      appliedIndex: core.appliedIndex,
    });
    if (core.installing !== undefined || snapshot.index <= (core.snapshot?.index ?? 0)) return;
    core.snapshot = snapshot;
    core.log.compactTo(logIndex(Math.max(0, snapshot.index - core.options.retainedEntries)));
    core.configurations.compactTo(core.log.base.index);
  }

  // ---------------------------------------------------------------------------------------------- Status

  status(): RaftStatus {
    const core = this.#core;
    const role = this.#leaderRole();
    return {
      self: core.self,
      role: core.role.kind,
      term: core.term,
      vote: core.vote,
      leaderId: core.leaderId,
      commitIndex: core.commit,
      appliedIndex: core.appliedIndex,
      lastIndex: core.log.lastIndex,
      lastTerm: core.log.lastTerm,
      persistedIndex: core.log.persistedIndex,
      baseIndex: core.log.base.index,
      configuration: core.configuration,
      configurationIndex: core.configurations.currentIndex,
      changePending: core.changePending,
      leadsForSure: role !== undefined && leadsForSure(core, role),
      transferTo: role?.transfer?.to,
      peers: role === undefined ? [] : peersOf(core, role),
    };
  }

  /** The newest in the log, committed or not: what this replica goes by. */
  get configuration(): Configuration {
    return this.#core.configuration;
  }

  /** It has a term, or a log. */
  get hasStarted(): boolean {
    return this.#core.term > 0 || this.#core.log.lastIndex > 0;
  }

  /** Entries `from`..`to` that are still in memory, for checks and dumps. */
  entries(from: LogIndex, to: LogIndex): readonly Entry[] {
    return this.#core.log.slice(from, to, Infinity);
  }
}

function peersOf(core: Core, role: LeaderRole): PeerStatus[] {
  const { voters, learners } = core.configuration;
  return [...voters, ...learners]
    .toSorted((a, b) => a.id - b.id)
    .flatMap((member) => {
      const progress = role.peers.get(member.id);
      if (progress === undefined) return [];
      return {
        id: member.id,
        voter: voters.includes(member),
        state: progress.state,
        matchIndex: progress.matchIndex,
        nextIndex: progress.nextIndex,
        inflight: progress.inflightCount,
        paused: progress.paused,
        responsive: progress.responsive,
        lastContactMs: progress.lastContactMs,
      };
    });
}
