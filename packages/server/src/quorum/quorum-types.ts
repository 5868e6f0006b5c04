/** What a quorum is given, and what it tells of itself. */
import type { BrokerId, LogIndex, Term, Uuid } from '@relevo/base/ids';
import type { Ports } from '@relevo/base/ports';
import { LogError } from '@relevo/log/log-error';
import type { Configuration } from '@relevo/raft/configuration';
import type { RaftOptions } from '@relevo/raft/options';
import type { PeerStatus } from '@relevo/raft/raft-node';
import type { RoleName } from '@relevo/raft/ready';
import type { ContentChecks } from './content-check.ts';

/** A committed entry as the state machine gets it: `data` is empty for the consensus' own. */
export interface AppliedEntry {
  readonly index: LogIndex;
  readonly term: Term;
  readonly data: Uint8Array;
}

export interface QuorumLeadership {
  /** It has committed and applied an entry of its own term: all that was ever committed is applied. */
  readonly isLeader: boolean;
  readonly term: Term;
  /** Undefined while no leader is known. */
  readonly leaderId: BrokerId | undefined;
}

/** The ports, and the state machine. Its callbacks may call the quorum; they may not throw. */
export interface QuorumDeps extends ContentChecks, Omit<Ports, 'hmacSha256'> {
  /** Entries to apply, in order, without gaps. Applied when it returns. */
  readonly onCommitted: (entries: readonly AppliedEntry[]) => void;
  /** Takes the place of everything up to `index`. */
  readonly restoreSnapshot: (bytes: Uint8Array, index: LogIndex) => void;
  /** The state after everything that was applied. */
  readonly takeSnapshot: () => Uint8Array;
  readonly onLeadership: (leadership: QuorumLeadership) => void;
  /** The quorum has ended by itself: its disk failed, or a bug. The process should end. */
  readonly onFailure?: (error: unknown) => void;
}

export interface QuorumOptions {
  readonly nodeId: BrokerId;
  readonly clusterId: string;
  /** The data directory's; a new voter takes it for its own. */
  readonly directoryId: Uuid;
  /** The data directory; the quorum has `quorum` in it. */
  readonly directory: string;
  /** They found a new cluster, all together; later its log says who the members are. */
  readonly voters: readonly { readonly id: number; readonly address: string }[];
  /** The starts of the data directory, oldest first, this one last. Default: none are known. */
  readonly incarnations?: readonly string[];
  /**
   * A person has decided that this voter founds the cluster alone, or goes on alone with the log that it
   * has: the others are gone for good, or have nothing. Refused while one of them answers that it has a log.
   * Default: false.
   */
  readonly bootstrap?: boolean;
  /** A follower waits between this and twice this for its leader. Default: 500. */
  readonly electionTimeoutMs?: number;
  /** Default: 100; at most a third of the election timeout is used. */
  readonly heartbeatIntervalMs?: number;
  /** A snapshot is taken after so many entries. Default: 10,000. */
  readonly snapshotEntries?: number;
  /** … or so many bytes of them. Default: 16 MiB. */
  readonly snapshotBytes?: number;
  /** A voter that comes back with another disk is exchanged for it after so long. Default: 3,000. */
  readonly wipedVoterDelayMs?: number;
}

export interface QuorumStatus {
  readonly nodeId: BrokerId;
  readonly role: RoleName | 'stopped';
  /** As `onLeadership` said last. */
  readonly isLeader: boolean;
  readonly term: Term;
  readonly leaderId: BrokerId | undefined;
  readonly leaderAddress: string | undefined;
  readonly commitIndex: LogIndex;
  readonly appliedIndex: LogIndex;
  readonly lastIndex: LogIndex;
  readonly configuration: Configuration;
  /** Of a leader. */
  readonly peers: readonly QuorumPeer[];
}

export interface QuorumPeer extends PeerStatus {
  /** Since when it was last heard of, ms. */
  readonly silentForMs: number;
}

export const olderCopy = ({ directory }: QuorumOptions, peer: BrokerId): LogError =>
  new LogError(
    'foreign',
    `${directory} is an older copy of this broker's data directory: voter ${peer} has seen it start since ` +
      'that was made. What it has promised since is not in it: wipe the directory and start the broker ' +
      'again; it is let in anew and copies its replicas from the others',
  );

const DEFAULT_ELECTION_MS = 500;
const DEFAULT_HEARTBEAT_MS = 100;

/** What the core is given; the rest has its defaults. */
export function raftOptions(options: QuorumOptions): Partial<RaftOptions> {
  const minMs = options.electionTimeoutMs ?? DEFAULT_ELECTION_MS;
  return {
    election: { minMs, maxMs: 2 * minMs },
    heartbeatMs: Math.min(options.heartbeatIntervalMs ?? DEFAULT_HEARTBEAT_MS, minMs / 3),
    checkQuorumMs: 2 * minMs,
    transferTimeoutMs: 2 * minMs,
  };
}
