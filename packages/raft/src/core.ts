/**
 * The state that the roles share, and the ways from role to role. `raft-node.ts` is the door;
 * `election.ts`, `follower.ts`, `leader.ts`, `membership.ts` and `transfer.ts` are what happens inside.
 *
 *     from \ to      follower                    preCandidate     candidate        leader
 *     follower       newer term, leader heard    silence          timeoutNow       -
 *     preCandidate   newer term, leader heard,   still silence    pre-votes won    -
 *                    majority refused
 *     candidate      newer term, leader heard    silence          timeoutNow       votes won
 *     leader         newer term, quorum lost,    -                -                -
 *                    removed
 */
import { assert } from '@relevo/base/assert';
import {
  logIndex,
  term as toTerm,
  type BrokerId,
  type LogIndex,
  type Term,
} from '@relevo/base/ids';
import type { Random } from '@relevo/base/ports';
import { findMember, isReplica, isVoter, type Configuration } from './configuration.ts';
import { ConfigurationHistory } from './configuration-history.ts';
import { TERM_MAX } from './message-check.ts';
import type { Entry, Message, MessageBody, ReplicaKey, Snapshot } from './messages.ts';
import { drawWaitMs, type RaftOptions } from './options.ts';
import type { Progress } from './progress.ts';
import { RaftLog, type EntryId } from './raft-log.ts';
import type { ReadRequests } from './read-requests.ts';
import type { HardState, ReadState, RoleName, SoftState } from './ready.ts';

export interface FollowerRole {
  readonly kind: 'follower';
  readonly leaderId: BrokerId | undefined;
}

export interface Ballot {
  readonly granted: boolean;
  readonly atMs: number;
}

export interface PreCandidateRole {
  readonly kind: 'preCandidate';
  /** By voter; those that are too old do not count. */
  readonly ballots: Map<BrokerId, Ballot>;
}

export interface CandidateRole {
  readonly kind: 'candidate';
  readonly ballots: Map<BrokerId, Ballot>;
}

export interface Transfer {
  readonly to: BrokerId;
  readonly deadlineMs: number;
  asked: boolean;
}

export interface LeaderRole {
  readonly kind: 'leader';
  /** All members but ourselves. */
  readonly peers: Map<BrokerId, Progress>;
  /** Our first entry; once it is committed, so is all before it. */
  readonly startIndex: LogIndex;
  readonly reads: ReadRequests;
  heartbeatDueMs: number;
  /** Data bytes above the commit index. */
  uncommittedBytes: number;
  transfer: Transfer | undefined;
  /** A committed configuration does not have us as a voter: step down when the others know. */
  leaving: boolean;
}

export type Role = FollowerRole | PreCandidateRole | CandidateRole | LeaderRole;

/** The leader of the present term, as far as we have heard from it. */
export interface LeaderContact {
  readonly id: BrokerId;
  atMs: number;
  /** Its connection broke and a new one was refused: nobody is there. */
  gone: boolean;
}

/** What a replica starts from: all of it durable. */
export interface Recovered {
  readonly hardState: HardState;
  readonly snapshot: Snapshot | undefined;
  /** They follow the snapshot, or begin with index 1. */
  readonly entries: readonly Entry[];
  /** The first members; counts only until a snapshot or an entry holds a configuration. */
  readonly bootstrap: Configuration;
}

export class Core {
  readonly self: ReplicaKey;
  readonly options: RaftOptions;
  readonly random: Random;
  readonly log: RaftLog;
  readonly configurations: ConfigurationHistory;

  term: Term;
  vote: ReplicaKey | undefined;
  commit: LogIndex;
  role: Role = { kind: 'follower', leaderId: undefined };
  leaderContact: LeaderContact | undefined;

  /** When a replica that does not lead takes the next step towards an election. */
  electionDueMs: number;
  /** Drawn for each leader and each election anew. */
  #electionTimeoutMs: number;
  /** Attempts in a row that found no leader. */
  electionAttempts = 0;

  /** The newest one that followers may be given. */
  snapshot: Snapshot | undefined;
  /** Received and not yet durable. While it is there we neither apply nor stand for election. */
  installing: Snapshot | undefined;
  /** The last committed entry that a Ready held. */
  appliedIndex: LogIndex;

  /** The newest term and vote that are durable. */
  durable: TermAndVote;

  messages: Message[] = [];
  messagesAfterPersist: Message[] = [];
  readStates: ReadState[] = [];
  droppedReads: number[] = [];

  #nowMs: number;

  constructor(
    self: ReplicaKey,
    recovered: Recovered,
    options: RaftOptions,
    deps: { readonly random: Random; readonly nowMs: number },
  ) {
    const { hardState, snapshot, entries } = recovered;
    const base: EntryId = snapshot ?? { index: logIndex(0), term: toTerm(0) };
    this.self = self;
    this.options = options;
    this.random = deps.random;
    this.#nowMs = deps.nowMs;
    this.log = new RaftLog(base, entries);
    this.configurations = new ConfigurationHistory(
      base.index,
      snapshot?.configuration ?? recovered.bootstrap,
    );
    for (const entry of entries) this.configurations.append(entry);
    this.term = hardState.term;
    this.vote = hardState.vote;
    this.durable = { term: hardState.term, vote: hardState.vote };
    assert(this.log.lastTerm <= this.term, 'no stored entry is of a term to come', {
      lastTerm: this.log.lastTerm,
      term: this.term,
    });
    assert(hardState.commit <= this.log.lastIndex, 'the stored log reaches the commit index', {
      commit: hardState.commit,
      lastIndex: this.log.lastIndex,
    });
    this.snapshot = snapshot;
    this.appliedIndex = base.index;
    this.commit = logIndex(Math.max(base.index, hardState.commit));
    this.electionDueMs = deps.nowMs;
    this.waitAfterStart(deps.nowMs);
    this.#electionTimeoutMs = drawWaitMs(options.election, deps.random);
  }

  get configuration(): Configuration {
    return this.configurations.current;
  }

  get leaderId(): BrokerId | undefined {
    if (this.role.kind === 'leader') return this.self.id;
    return this.role.kind === 'follower' ? this.role.leaderId : undefined;
  }

  get softState(): SoftState {
    const role: RoleName = this.role.kind;
    return { role, term: this.term, leaderId: this.leaderId };
  }

  /**
   * May stand for election: its state is whole (mistake 17), and it is a voter, or would be if the
   * uncommitted change in its log came to nothing. Without the latter, one who alone has the change that
   * removes it would neither stand nor vote for a shorter log (thesis, 4.2.2).
   */
  get electable(): boolean {
    if (this.installing !== undefined || this.term >= TERM_MAX) return false;
    if (isVoter(this.configuration, this.self)) return true;
    return this.changePending && isVoter(this.configurations.at(this.commit), this.self);
  }

  /** A membership change stands in the log and is not committed yet. */
  get changePending(): boolean {
    return this.configurations.currentIndex > this.commit;
  }

  /** Checks that time does not run backwards. */
  observe(nowMs: number): void {
    assert(nowMs >= this.#nowMs, 'the monotonic clock does not go back', {
      nowMs,
      before: this.#nowMs,
    });
    this.#nowMs = nowMs;
  }

  /** The full key of a member; undefined for a stranger. */
  replicaOf(id: BrokerId): ReplicaKey | undefined {
    return findMember(this.configuration, id)?.member;
  }

  /** True where the sender is the member that it says it is, on the disk that we know. */
  isMember(key: ReplicaKey): boolean {
    const member = this.replicaOf(key.id);
    return member !== undefined && isReplica(member, key);
  }

  otherVoters(): readonly ReplicaKey[] {
    return this.configuration.voters.filter((voter) => voter.id !== this.self.id);
  }

  /** For what promises nothing that is not durable yet. */
  send(to: ReplicaKey, body: MessageBody): void {
    const settled = this.durable.term === this.term;
    (settled ? this.messages : this.messagesAfterPersist).push(this.#message(to, body));
  }

  /** For what promises our term, vote or log as they are now (invariant K1). */
  sendAfterPersist(to: ReplicaKey, body: MessageBody): void {
    this.messagesAfterPersist.push(this.#message(to, body));
  }

  #message(to: ReplicaKey, body: MessageBody): Message {
    const { id, directoryId } = to;
    return { from: this.self, to: { id, directoryId }, term: this.term, body };
  }

  /** Terms only grow; a new one begins without a vote (invariant K1). */
  adoptTerm(term: Term): void {
    assert(term > this.term, 'a term never falls', { term, before: this.term });
    this.term = term;
    this.vote = undefined;
    this.leaderContact = undefined;
  }

  voteFor(candidate: ReplicaKey): void {
    assert(this.vote === undefined || sameReplica(this.vote, candidate), 'one vote a term', {
      term: this.term,
      vote: this.vote?.id,
      candidate: candidate.id,
    });
    this.vote = { id: candidate.id, directoryId: candidate.directoryId };
  }

  /** Commit only grows, and never beyond the log (invariant K2). */
  commitTo(index: LogIndex): void {
    if (index <= this.commit) return;
    assert(index <= this.log.lastIndex, 'only what is in the log is committed', {
      index,
      lastIndex: this.log.lastIndex,
    });
    this.commit = index;
  }

  /**
   * Back to following, in this term or a newer one. A replica that merely learns of a term keeps its
   * election timer: only a leader's word or a granted vote puts it off (Raft paper, figure 2).
   */
  becomeFollower(term: Term, leaderId: BrokerId | undefined, nowMs: number): void {
    const led = this.role.kind === 'leader' || this.role.kind === 'candidate';
    if (this.role.kind === 'leader') this.droppedReads.push(...this.role.reads.drop());
    if (term > this.term) this.adoptTerm(term);
    this.role = { kind: 'follower', leaderId };
    if (led) this.putOffElection(nowMs);
  }

  /** Waits a whole, newly drawn election timeout. */
  putOffElection(nowMs: number): void {
    this.#electionTimeoutMs = drawWaitMs(this.options.election, this.random);
    this.electionDueMs = nowMs + this.#electionTimeoutMs;
  }

  /** A moment only: nobody is known to lead. */
  waitAfterStart(nowMs: number): void {
    this.electionDueMs = nowMs + drawWaitMs(this.options.coldStart, this.random);
  }

  /** Waits for the leader once more. */
  waitForLeader(nowMs: number): void {
    this.electionDueMs = nowMs + this.#electionTimeoutMs;
  }

  /** Somebody may well lead: do not help to depose it (mistakes 12 and 14). */
  leaderIsAlive(nowMs: number): boolean {
    if (this.role.kind === 'leader') return true;
    const contact = this.leaderContact;
    if (contact === undefined || contact.gone) return false;
    return nowMs - contact.atMs < this.options.election.minMs;
  }
}

export interface TermAndVote {
  readonly term: Term;
  readonly vote: ReplicaKey | undefined;
}

export const sameReplica = (a: ReplicaKey, b: ReplicaKey): boolean =>
  a.id === b.id && a.directoryId === b.directoryId;
