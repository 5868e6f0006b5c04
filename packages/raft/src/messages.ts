/**
 * What replicas of the quorum say to one another. Every message names both ends by (id, directory id)
 * and carries the sender's term, so that neither a wiped disk nor a leader of the past is taken for
 * somebody else.
 */
import type { BrokerId, LogIndex, Term, Uuid } from '@relevo/base/ids';
import type { Configuration } from './configuration.ts';

/**
 * Stands where a replica's directory is not known yet: in the first configuration of a cluster, whose
 * members were named by address alone. The first leader replaces it by the directory it meets.
 */
export const UNPINNED = '';
export type DirectoryId = Uuid | typeof UNPINNED;

/** One replica: a node *and* its disk. After a wipe the same node is another replica. */
export interface ReplicaKey {
  readonly id: BrokerId;
  readonly directoryId: DirectoryId;
}

/**
 * `data`: for the state machine. `configuration`: the members from here on, encoded by
 * `encodeConfiguration`. `leaderStart`: empty; a new leader's first entry, which lets it commit.
 */
export type EntryKind = 'data' | 'configuration' | 'leaderStart';

export interface Entry {
  readonly index: LogIndex;
  readonly term: Term;
  readonly kind: EntryKind;
  readonly data: Uint8Array;
}

export interface SnapshotMetadata {
  /** The last entry that the snapshot covers. */
  readonly index: LogIndex;
  readonly term: Term;
  /** The members as of `index`. */
  readonly configuration: Configuration;
}

/** The state machine's state after `index`; the core carries `data` and never looks into it. */
export interface Snapshot extends SnapshotMetadata {
  readonly data: Uint8Array;
}

/**
 * "Would you vote for me in `nextTerm`?" The envelope's term is the asker's present one. Neither the
 * question nor the answer changes any state of the one who is asked (Raft thesis, 9.6).
 */
export interface PreVote {
  readonly kind: 'preVote';
  readonly nextTerm: Term;
  readonly lastIndex: LogIndex;
  readonly lastTerm: Term;
}

export interface PreVoteReply {
  readonly kind: 'preVoteReply';
  /** The question's. */
  readonly nextTerm: Term;
  readonly granted: boolean;
}

export interface Vote {
  readonly kind: 'vote';
  readonly lastIndex: LogIndex;
  readonly lastTerm: Term;
  /** The leader itself asked for this election: followers must not shield it (thesis, 4.2.3). */
  readonly transfer: boolean;
}

export interface VoteReply {
  readonly kind: 'voteReply';
  readonly granted: boolean;
}

export interface Append {
  readonly kind: 'append';
  /** The entry before `entries`; the receiver must have it with this term. */
  readonly prevIndex: LogIndex;
  readonly prevTerm: Term;
  readonly entries: readonly Entry[];
  readonly commit: LogIndex;
}

/**
 * Accepted: the sender's log up to `matchIndex` is the leader's, and is durable. Rejected: it has
 * nothing that matches at `rejectedIndex` (the question's `prevIndex`); the logs may agree at
 * `hintIndex` at the latest, where the sender has `hintTerm` (0: not known).
 */
export type AppendReply =
  | {
      readonly kind: 'appendReply';
      readonly accepted: true;
      readonly matchIndex: LogIndex;
    }
  | {
      readonly kind: 'appendReply';
      readonly accepted: false;
      readonly rejectedIndex: LogIndex;
      readonly hintIndex: LogIndex;
      readonly hintTerm: Term;
    };

export interface Heartbeat {
  readonly kind: 'heartbeat';
  /** Never above what the receiver is known to have. */
  readonly commit: LogIndex;
  /** Number of the leader's newest read round; echoed. Unique within the leader's term. */
  readonly round: number;
}

export interface HeartbeatReply {
  readonly kind: 'heartbeatReply';
  readonly round: number;
}

/** Answered by an `appendReply`. */
export interface InstallSnapshot {
  readonly kind: 'snapshot';
  readonly snapshot: Snapshot;
}

/** The leader asks the receiver to stand for election at once (thesis, 3.10). */
export interface TimeoutNow {
  readonly kind: 'timeoutNow';
}

export type MessageBody =
  | PreVote
  | PreVoteReply
  | Vote
  | VoteReply
  | Append
  | AppendReply
  | Heartbeat
  | HeartbeatReply
  | InstallSnapshot
  | TimeoutNow;

export interface Envelope {
  readonly from: ReplicaKey;
  readonly to: ReplicaKey;
  /** The sender's term when it wrote the message. */
  readonly term: Term;
}

export type Message = Envelope & { readonly body: MessageBody };
