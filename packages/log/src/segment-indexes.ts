/**
 * Both indexes of a segment, and what builds them: a pure function of the segment's batches in order,
 * whether they are noted as they are appended or in a scan of the file later (L2).
 */
import { NO_TIMESTAMP } from '@relevo/record/batch-header';
import type { BatchHeader } from '@relevo/record/batch-header';
import type { Offset } from '@relevo/base/ids';
import { OffsetIndex } from './offset-index.ts';
import { TimeIndex } from './time-index.ts';
import type { TimeIndexEntry } from './time-index.ts';

export type BatchFacts = Pick<
  BatchHeader,
  'sizeInBytes' | 'lastOffset' | 'nextOffset' | 'maxTimestamp'
>;

export class SegmentIndexes {
  readonly #intervalBytes: number;
  readonly offsets: OffsetIndex;
  readonly times: TimeIndex;
  #latest: TimeIndexEntry | undefined;
  #bytesSinceEntry = 0;

  constructor(baseOffset: Offset, intervalBytes: number, from?: Decoded) {
    this.#intervalBytes = intervalBytes;
    this.offsets = from?.offsets ?? new OffsetIndex(baseOffset);
    this.times = from?.times ?? new TimeIndex(baseOffset);
    this.#latest = this.times.last;
  }

  /** The latest timestamp, and the last offset of the first batch that has it. */
  get latest(): TimeIndexEntry | undefined {
    return this.#latest;
  }

  /** Takes the batch at `position`, after all others. */
  note(batch: BatchFacts, position: number): void {
    if (batch.maxTimestamp > (this.#latest?.timestamp ?? NO_TIMESTAMP)) {
      this.#latest = { timestamp: batch.maxTimestamp, offset: batch.lastOffset };
    }
    if (this.#bytesSinceEntry > this.#intervalBytes) {
      this.offsets.append(batch.lastOffset, position);
      this.#appendTime();
      this.#bytesSinceEntry = 0;
    }
    this.#bytesSinceEntry += batch.sizeInBytes;
  }

  /** Before the indexes are written: the time index ends with the latest timestamp. */
  complete(): void {
    this.#appendTime();
  }

  /**
   * Goes back to the last indexed batch that ends before `endOffset`, and says where it is: the batches
   * from there on are to be noted anew.
   */
  rewind(endOffset: number): number {
    const last = this.offsets.floor(endOffset - 1);
    this.times.truncateTo(endOffset as Offset);
    this.#latest = this.times.last;
    if (last === -1) {
      this.offsets.truncateToPosition(0);
      this.#bytesSinceEntry = 0;
      return 0;
    }
    const position = this.offsets.positionAt(last);
    // The batch there is noted anew too, and gets its entry back.
    this.offsets.truncateToPosition(position);
    this.#bytesSinceEntry = this.#intervalBytes + 1;
    return position;
  }

  #appendTime(): void {
    if (this.#latest !== undefined) this.times.append(this.#latest.timestamp, this.#latest.offset);
  }
}

interface Decoded {
  readonly offsets: OffsetIndex;
  readonly times: TimeIndex;
}
