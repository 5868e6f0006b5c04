/**
 * Where two logs part ways, told from (leader epoch, end offset) pairs alone (KIP-101, KIP-279).
 *
 * The follower states the epoch of its last record and where its log ends. The leader looks up the
 * largest epoch it knows that is not above the stated one, and where that epoch ends in its own log.
 * If that is the stated epoch and an end not below the stated one, the follower's log is a prefix of the
 * leader's: (epoch, offset) names one byte string for ever (P2). Otherwise the follower cuts its log and
 * states its position anew; each round takes at least one record or one epoch away, so that the walk
 * ends at the last common (epoch, end offset), or at the start of the log.
 */
import { assert } from '@relevo/base/assert';
import { NO_LEADER_EPOCH } from '@relevo/base/ids';
import type { LeaderEpoch, Offset } from '@relevo/base/ids';

export interface EpochEnd {
  readonly epoch: LeaderEpoch;
  /** The offset after the epoch's last record. */
  readonly endOffset: Offset;
}

/** What divergence asks of a log; `PartitionLog` of @relevo/log is one. */
export interface EpochHistory {
  readonly logStartOffset: Offset;
  readonly logEndOffset: Offset;
  /**
   * The largest epoch at or below `asked`, and where it ends: the start of the next epoch, or the log's
   * end. Where the log holds nothing so old: `asked` itself, and the start of its oldest epoch.
   */
  endOffsetForEpoch(asked: LeaderEpoch): EpochEnd;
}

export interface StatedPosition {
  /** Of the last record; -1: the log is empty. */
  readonly lastEpoch: LeaderEpoch;
  readonly endOffset: Offset;
}

export type PositionVerdict =
  /** The follower's log is a prefix of the leader's: go on from its end. */
  | { readonly kind: 'prefix' }
  | { readonly kind: 'diverging'; readonly from: EpochEnd }
  /** Nothing in common is left: copy anew from the leader's log start. */
  | { readonly kind: 'outOfRange' };

const PREFIX: PositionVerdict = { kind: 'prefix' };
const OUT_OF_RANGE: PositionVerdict = { kind: 'outOfRange' };

/** The leader's part. */
export function judgePosition(leader: EpochHistory, follower: StatedPosition): PositionVerdict {
  if (follower.endOffset < leader.logStartOffset) return OUT_OF_RANGE;
  if (follower.lastEpoch === NO_LEADER_EPOCH) {
    return follower.endOffset <= leader.logEndOffset ? PREFIX : OUT_OF_RANGE;
  }
  const own = leader.endOffsetForEpoch(follower.lastEpoch);
  if (own.epoch === follower.lastEpoch && own.endOffset >= follower.endOffset) return PREFIX;
  return { kind: 'diverging', from: own };
}

/** The follower's part: the offset to truncate to, given the leader's answer. */
export function truncationPoint(follower: EpochHistory & StatedPosition, leader: EpochEnd): Offset {
  assert(leader.epoch <= follower.lastEpoch, 'the leader answers with an epoch not above ours', {
    leader: leader.epoch,
    ours: follower.lastEpoch,
  });
  const own = follower.endOffsetForEpoch(leader.epoch);
  // Where the leader's epoch is not known here, all that came after the last older one is foreign.
  const common =
    own.epoch === leader.epoch && leader.endOffset < own.endOffset
      ? leader.endOffset
      : own.endOffset;
  return common > follower.logStartOffset ? common : follower.logStartOffset;
}
