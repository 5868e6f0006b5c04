/**
 * What is known to have been in a log, by facts that are durable and that no crash takes back. What such
 * a fact names and the directory lacks is damage, not a shorter log (L6).
 *
 *     fact                               proves                     void after
 *     ────                               ──────                     ──────────
 *     log-start-offset-checkpoint        the log begins there or    the log was emptied
 *                                        before: no segment goes
 *                                        before the file says so
 *     recovery-point-offset-checkpoint   all below was synced       a truncation below it
 *     replication-offset-checkpoint      all below was synced       a truncation below it
 *     N.synced, in the log's directory   segment N is there, and    a truncation to N or below;
 *                                        all below N was synced     a log start above N
 *
 * A truncation says so, durably, before it begins (`recovery-point.ts`). N.synced is made after the sync
 * that it tells of, and needs none itself: it may be missing, it is never wrong. Above all that, nothing
 * is known: there a missing end looks like one that a power cut took.
 */
import type { Offset } from '@relevo/base/ids';
import type { Truncation } from './recovery-point.ts';

export interface ExtentFacts {
  /** Of the data directory's checkpoints; undefined: nothing is known. */
  readonly logStart: Offset | undefined;
  readonly recoveryPoint: Offset | undefined;
  readonly highWatermark: Offset | undefined;
  /** The highest N of N.synced. */
  readonly syncedSegment: Offset | undefined;
  /** Under way, or done and not in the checkpoints yet. */
  readonly truncation: Truncation | undefined;
}

export interface KnownExtent {
  /** The log begins there or before; undefined: nothing is known. */
  readonly start: Offset | undefined;
  /** All below was synced, and is taken without a check: what follows from it was synced too. */
  readonly recoveryPoint: Offset;
  /** All below was synced: it must be there. */
  readonly syncedEnd: Offset;
  /** The segment that begins there must be there. */
  readonly segment: Offset | undefined;
}

export function knownExtent(facts: ExtentFacts): KnownExtent {
  const { truncation, syncedSegment } = facts;
  const mayLackFrom = truncation?.to ?? Infinity;
  const start = truncation?.beginsAnew === true ? undefined : facts.logStart;
  // One below the start may have gone with the old segments, and its file not yet.
  const counts =
    syncedSegment !== undefined && syncedSegment < mayLackFrom && syncedSegment >= (start ?? 0);
  const segment = counts ? syncedSegment : undefined;
  const stated = Math.max(facts.recoveryPoint ?? 0, facts.highWatermark ?? 0);
  const recoveryPoint = Math.min(stated, mayLackFrom) as Offset;
  return {
    start,
    recoveryPoint,
    syncedEnd: Math.max(recoveryPoint, segment ?? 0) as Offset,
    segment,
  };
}
