/**
 * What the core wants done. Fields say what must be durable before they may be acted on; nothing else
 * in Raft's safety rests on the driver.
 */
import type { BrokerId, LogIndex, Term } from '@relevo/base/ids';
import type { Entry, Message, ReplicaKey, Snapshot } from './messages.ts';

/** What a replica must never forget (figure 2 of the Raft paper: "persistent state"). */
export interface HardState {
  readonly term: Term;
  /** Whom it voted for in `term`. */
  readonly vote: ReplicaKey | undefined;
  /**
   * A lower bound of the commit index; all entries up to it were durable here when it was written. A
   * change of it alone asks for no write. After a restart it lets the replica apply at once, and shows
   * that the log has lost its tail when the log ends below it.
   */
  readonly commit: LogIndex;
}

export type RoleName = 'follower' | 'preCandidate' | 'candidate' | 'leader';

export interface SoftState {
  readonly role: RoleName;
  readonly term: Term;
  /** Undefined while no leader is known. */
  readonly leaderId: BrokerId | undefined;
}

export interface ReadState {
  /** The one given to `readIndex`. */
  readonly context: number;
  /** The read may be answered once the state machine has applied this. */
  readonly index: LogIndex;
}

/**
 * One step's effects. Readies are made durable in the order of their ids; writing one may begin while
 * earlier ones are still being synced. When a Ready and all before it are durable (one that has nothing
 * to write is durable as soon as its predecessors are), the driver calls `persisted(id)`, and then
 * sends `messagesAfterPersist`.
 */
export interface Ready {
  /** Grows by one. */
  readonly id: number;

  /** Write and sync before `snapshot` and `entries` of this Ready: no entry outlives its term. */
  readonly hardState: HardState | undefined;

  /**
   * Received from the leader. Write and sync it, then drop the whole stored log, which begins anew
   * after `snapshot.index`; only then write `entries`. Once durable, restore the state machine from it;
   * no later Ready's `committed` comes before that.
   */
  readonly snapshot: Snapshot | undefined;

  /** Remove the stored entries from this index on, before `entries` are written. */
  readonly truncateFrom: LogIndex | undefined;

  /** Write and sync, after the above. Gapless. */
  readonly entries: readonly Entry[];

  /** May be sent at once, in this order: a leader's appends go out before its own disk has them. */
  readonly messages: readonly Message[];

  /** Only when this Ready is durable, in this order: they promise what it holds. */
  readonly messagesAfterPersist: readonly Message[];

  /**
   * To be applied now, in order: durable here and on a majority. Gapless over all Readies (but for
   * `snapshot`). Holds every kind of entry; only `data` concerns the state machine.
   */
  readonly committed: readonly Entry[];

  /** Where it differs from the last one. Nothing need be durable. */
  readonly softState: SoftState | undefined;

  /** Reads whose leadership check is through (invariant K3). */
  readonly readStates: readonly ReadState[];

  /** Contexts of reads that will never be answered: leadership was lost. */
  readonly droppedReads: readonly number[];
}
