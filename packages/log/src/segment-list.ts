/**
 * The segments of a log in order, the last of them active: how one follows the other, and how they go.
 * What is changed is reported to the log's `Durability`; what fails throws a DiskError.
 */
import { assert, defined } from '@relevo/base/assert';
import type { Offset } from '@relevo/base/ids';
import { DiskError } from '@relevo/base/ports';
import type { Disk } from '@relevo/base/ports';
import type { Durability } from './durability.ts';
import { OFFSET_INDEX_SUFFIX, TIME_INDEX_SUFFIX } from './file-names.ts';
import type { SegmentInfo } from './log-types.ts';
import type { Segment } from './segment.ts';

export interface SegmentListDeps {
  readonly disk: Disk;
  readonly directory: string;
  readonly durability: Durability;
  newSegment(baseOffset: Offset): Segment;
}

export class SegmentList {
  readonly #segments: Segment[];
  readonly #deps: SegmentListDeps;

  constructor(segments: readonly Segment[], deps: SegmentListDeps) {
    this.#segments = [...segments];
    this.#deps = deps;
  }

  get all(): readonly Segment[] {
    return this.#segments;
  }

  get first(): Segment {
    return defined(this.#segments[0], 'the first segment');
  }

  get active(): Segment {
    return defined(this.#segments.at(-1), 'the active segment');
  }

  get sizeBytes(): number {
    return this.#segments.reduce((sum, segment) => sum + segment.sizeBytes, 0);
  }

  infos(): SegmentInfo[] {
    return this.#segments.map(({ baseOffset, nextOffset, sizeBytes }) => ({
      baseOffset,
      nextOffset,
      sizeBytes,
    }));
  }

  latestTimestamp(): number | undefined {
    let latest: number | undefined;
    for (const segment of this.#segments) {
      const timestamp = segment.latest?.timestamp;
      if (timestamp !== undefined && timestamp > (latest ?? -1)) latest = timestamp;
    }
    return latest;
  }

  /** The segment that holds `offset`, or would; there is one from the log start on. */
  of(offset: Offset): Segment {
    let low = 0;
    let high = this.#segments.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if (defined(this.#segments[middle], 'a segment').baseOffset <= offset) low = middle + 1;
      else high = middle;
    }
    return defined(this.#segments[low - 1], 'the segment of an offset in the log');
  }

  /** A new active segment; when its file cannot be made nothing has changed. */
  add(): void {
    const sealed = this.active;
    assert(sealed.nextOffset > sealed.baseOffset, 'only a segment with records is rolled');
    this.#deps.durability.makeFirstSegmentDurable();
    const segment = this.#deps.newSegment(sealed.nextOffset);
    segment.create();
    this.#segments.push(segment);
    this.#deps.durability.namesChanged();
  }

  /** Seals the segment before the active one. */
  sealPrevious(): void {
    const sealed = defined(this.#segments.at(-2), 'the segment before');
    sealed.seal();
    this.indexesWritten(sealed);
  }

  indexesWritten(segment: Segment): void {
    this.#deps.durability.replaced(segment.path(OFFSET_INDEX_SUFFIX));
    this.#deps.durability.replaced(segment.path(TIME_INDEX_SUFFIX));
  }

  /** Cuts all from `offset` on, where a batch begins. */
  truncateTo(offset: Offset): void {
    const { disk, directory, durability } = this.#deps;
    const dropped: Segment[] = [];
    while (this.#segments.length > 1 && this.active.baseOffset >= offset) {
      const segment = this.active;
      this.#segments.pop();
      segment.markDeleted();
      dropped.push(segment);
    }
    // They must not come back between what is appended from now on.
    if (dropped.length > 0) disk.syncDirectoryNow(directory);
    for (const segment of dropped) durability.removed(segment);
    const { active } = this;
    const end = active.truncateTo(offset);
    if (active.sizeBytes > 0) durability.truncated(active, end);
    else {
      // The next append cannot go to a new file: it would bear the same name.
      active.file().datasyncNow();
      durability.lower(end);
    }
  }

  /** One empty segment in place of all; durable when this returns. */
  restartAt(offset: Offset): void {
    const { durability } = this.#deps;
    const dropped = this.#segments.splice(0).toReversed();
    for (const segment of dropped) segment.markDeleted();
    const segment = this.#deps.newSegment(offset);
    segment.create();
    this.#segments.push(segment);
    durability.restart(offset);
    for (const removed of dropped) durability.removed(removed);
  }

  /**
   * Drops the first `count`, of more. `oneByOne`: none goes durably before the one before it, so that
   * after a power cut those that are left are the newest.
   */
  dropOldest(count: number, oneByOne: boolean): void {
    const { disk, directory, durability } = this.#deps;
    assert(count < this.#segments.length, 'the active segment stays', { count });
    // Nor before what tells of them (`synced-segment.ts`).
    if (oneByOne) disk.syncDirectoryNow(directory);
    for (const segment of this.#segments.splice(0, count)) {
      segment.markDeleted();
      durability.removed(segment);
      if (oneByOne) disk.syncDirectoryNow(directory);
    }
  }

  /** What was to be synced has been by now, or the log knows better: a file that does not close is let go. */
  close(): void {
    for (const segment of this.#segments) {
      try {
        segment.close();
      } catch (error) {
        if (!(error instanceof DiskError)) throw error;
      }
    }
  }
}
