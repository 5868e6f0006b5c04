/**
 * How the oldest segments of a log go: first it is made known for good where the log begins then, for a
 * log that begins later than is known has lost something; then they are renamed, and removed with the
 * next sync. A power cut may bring any of them back: they lie below the start, and go when the log is
 * opened.
 */
import { defined } from '@relevo/base/assert';
import { messageOf } from '@relevo/base/errors';
import { isMutated } from '@relevo/base/mutations';
import type { Offset } from '@relevo/base/ids';
import type { Logger } from '@relevo/base/ports';
import { LogError } from './log-error.ts';
import type { LogHealth } from './log-health.ts';
import type { SegmentList } from './segment-list.ts';
import type { SyncedSegment } from './synced-segment.ts';

export interface OldSegmentsDeps {
  readonly directory: string;
  readonly logger: Logger;
  readonly segments: SegmentList;
  readonly syncedSegment: SyncedSegment;
  readonly health: LogHealth;
  /** See `PartitionLogDeps`. */
  readonly beginsAt: ((start: Offset) => Promise<void>) | undefined;
  /** Changes with every truncation. */
  readonly generation: () => number;
  /** They have gone, but for a sync. */
  readonly removed: () => void;
}

export class OldSegments {
  readonly #deps: OldSegmentsDeps;
  #isWaiting = false;

  constructor(deps: OldSegmentsDeps) {
    this.#deps = deps;
  }

  /** The log begins at `start`. Throws a LogError where the log has gone offline. */
  removeBelow(start: Offset): void {
    const { beginsAt } = this.#deps;
    if (beginsAt === undefined || isMutated('segments-go-before-known')) this.#remove(start);
    else if (!this.#isWaiting) void this.#removeWhenKnown(start, beginsAt);
  }

  async #removeWhenKnown(start: Offset, beginsAt: (start: Offset) => Promise<void>): Promise<void> {
    const { directory, logger, health, generation } = this.#deps;
    const before = generation();
    this.#isWaiting = true;
    try {
      await beginsAt(start);
      if (health.state === 'online' && generation() === before) this.#remove(start);
    } catch (error) {
      // They go with the next pass; what takes a log offline has been told.
      const facts = { directory, why: messageOf(error) };
      if (!(error instanceof LogError)) logger.warn('old segments stay for now', facts);
    } finally {
      this.#isWaiting = false;
    }
  }

  #remove(start: Offset): void {
    const { segments, syncedSegment, directory, logger, health, beginsAt } = this.#deps;
    const { all, active, first } = segments;
    const count = all.filter((one) => one !== active && one.nextOffset <= start).length;
    if (count === 0) return;
    const facts = { directory, from: first.baseOffset, to: start, segments: count };
    try {
      syncedSegment.segmentsGo(defined(all[count], 'a segment that stays').baseOffset);
      segments.dropOldest(count, beginsAt === undefined);
      this.#deps.removed();
    } catch (error) {
      throw health.fail('old segments could not be deleted', error);
    }
    logger.info('deleted old segments', facts);
  }
}
