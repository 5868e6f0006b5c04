import { assert } from '@relevo/base/assert';
import type { Random } from '@relevo/base/ports';

/** From `minMs` (inclusive) to `maxMs` (exclusive), drawn anew each time. */
export interface WaitRange {
  readonly minMs: number;
  readonly maxMs: number;
}

/** Every limit and wait of the core. Times are milliseconds of the monotonic clock. */
export interface RaftOptions {
  /** A leader speaks to each follower at least this often. Default 100, sane 20 to 1,000. */
  readonly heartbeatMs: number;
  /**
   * How long a follower waits for its leader before it asks for pre-votes, and a candidate for votes.
   * For `minMs` after it has heard from a leader, a replica helps nobody to depose it. Default 500 to
   * 1,000; at least three heartbeats.
   */
  readonly election: WaitRange;
  /** A leader that has not heard from a majority for so long steps down. Default 1,000. */
  readonly checkQuorumMs: number;
  /** Before the first pre-vote of a replica that has just started. Default 20 to 120. */
  readonly coldStart: WaitRange;
  /** Before the pre-vote of one that knows that its leader's process is gone. Default 10 to 50. */
  readonly leaderGone: WaitRange;
  /** From one pre-vote that found no majority to the next. Default 100 to 200. */
  readonly preVoteRetry: WaitRange;
  /**
   * Before the next attempt when a vote was refused: most likely a split vote. Doubles with each attempt
   * in a row, up to `election`. Default 20 to 120.
   */
  readonly splitVote: WaitRange;
  /** A snapshot of which no part has gone out for so long, and that was not answered, is taken for lost. Default 10,000. */
  readonly snapshotTimeoutMs: number;
  /** A leadership transfer that has not come off by then is given up. Default 1,000. */
  readonly transferTimeoutMs: number;
  /** Bytes of one entry's data. Default 4 MiB. */
  readonly entryBytesMax: number;
  /** Bytes of the entries in one append, but for a single larger entry. Default 1 MiB. */
  readonly appendBytesMax: number;
  /** Appends with entries on the way to one follower. Default 256. */
  readonly inflightAppendsMax: number;
  /** Their bytes. Default 8 MiB. */
  readonly inflightBytesMax: number;
  /** Bytes proposed but not committed; beyond it proposals are refused as `busy`. Default 32 MiB. */
  readonly uncommittedBytesMax: number;
  /** Bytes of committed entries in one Ready, but for a single larger entry. Default 4 MiB. */
  readonly committedBytesMax: number;
  /** Reads that wait for their leadership check; beyond it they are refused. Default 10,000. */
  readonly pendingReadsMax: number;
  /** Entries kept in memory below a snapshot, for followers that lag a little. Default 1,000. */
  readonly retainedEntries: number;
  /** A learner is promoted only when it lacks at most so many entries. Default 100. */
  readonly promotionLagMax: number;
}

const MIB = 2 ** 20;

export const DEFAULT_RAFT_OPTIONS: RaftOptions = {
  heartbeatMs: 100,
  election: { minMs: 500, maxMs: 1000 },
  checkQuorumMs: 1000,
  coldStart: { minMs: 20, maxMs: 120 },
  leaderGone: { minMs: 10, maxMs: 50 },
  preVoteRetry: { minMs: 100, maxMs: 200 },
  splitVote: { minMs: 20, maxMs: 120 },
  snapshotTimeoutMs: 10_000,
  transferTimeoutMs: 1000,
  entryBytesMax: 4 * MIB,
  appendBytesMax: MIB,
  inflightAppendsMax: 256,
  inflightBytesMax: 8 * MIB,
  uncommittedBytesMax: 32 * MIB,
  committedBytesMax: 4 * MIB,
  pendingReadsMax: 10_000,
  retainedEntries: 1000,
  promotionLagMax: 100,
};

/** Throws an AssertionError where the waits contradict one another. */
export function checkOptions(options: RaftOptions): void {
  const { heartbeatMs, election, checkQuorumMs } = options;
  assert(heartbeatMs > 0, 'heartbeatMs is positive', { heartbeatMs });
  assert(election.minMs >= 3 * heartbeatMs, 'an election waits for three heartbeats', {
    heartbeatMs,
    electionMinMs: election.minMs,
  });
  assert(checkQuorumMs >= election.minMs, 'checkQuorumMs >= election.minMs', { checkQuorumMs });
  const { coldStart, leaderGone, preVoteRetry, splitVote } = options;
  for (const range of [election, coldStart, leaderGone, preVoteRetry, splitVote]) {
    assert(range.minMs >= 0 && range.maxMs > range.minMs, 'a wait range is not empty', {
      minMs: range.minMs,
      maxMs: range.maxMs,
    });
  }
}

/** Draws a wait from the range. */
export const drawWaitMs = (range: WaitRange, random: Random): number =>
  range.minMs + random.float() * (range.maxMs - range.minMs);
