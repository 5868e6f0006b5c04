/**
 * One segment: a file of batches, and its two indexes. The last segment of a log is *active*: it grows,
 * its indexes are in memory only. The others are *sealed*: their indexes are files, loaded when needed
 * and rebuilt from the batches when missing or wrong.
 */
import { assert, defined } from '@relevo/base/assert';
import { NO_LEADER_EPOCH } from '@relevo/base/ids';
import { NO_TIMESTAMP } from '@relevo/record/batch-header';
import type { BatchHeader } from '@relevo/record/batch-header';
import type { LeaderEpoch, Offset } from '@relevo/base/ids';
import { DiskError } from '@relevo/base/ports';
import type { Crc32c, Disk, DiskFile } from '@relevo/base/ports';
import { scanBatches, scanSteps } from './batch-scan.ts';
import type { ScanEnd } from './batch-scan.ts';
import { replaceFile, replaceFileNow } from './checkpoint-file.ts';
import {
  DELETED_SUFFIX,
  LOG_SUFFIX,
  OFFSET_INDEX_SUFFIX,
  TIME_INDEX_SUFFIX,
  offsetFileName,
} from './file-names.ts';
import { LogError, isDiskError } from './log-error.ts';
import { OffsetIndex } from './offset-index.ts';
import { PositionHints } from './position-hints.ts';
import { lastEpochOf } from './recovery-start.ts';
import type { RecoveryStart } from './recovery-start.ts';
import type { SegmentCache } from './segment-cache.ts';
import { SegmentIndexes } from './segment-indexes.ts';
import type { BatchFacts } from './segment-indexes.ts';
import { PAUSE, readHintSteps, runNow, syncStep } from './steps.ts';
import type { Steps } from './steps.ts';
import { TimeIndex } from './time-index.ts';
import type { TimeIndexEntry } from './time-index.ts';

/** A segment's offsets are 31-bit numbers from its base. */
const RELATIVE_OFFSET_MAX = 2 ** 31 - 1;

export interface SegmentOptions {
  readonly disk: Disk;
  readonly directory: string;
  readonly baseOffset: Offset;
  readonly indexIntervalBytes: number;
  readonly cache: SegmentCache;
}

/** Where a batch begins, and what is known of the one that does. */
export interface BatchPlace {
  readonly position: number;
  /** It is the one that was looked for. */
  readonly exact: boolean;
  /** Its base offset. */
  readonly base?: Offset;
  /** Its last offset. */
  readonly last?: Offset;
}

interface Resumed {
  readonly end: ScanEnd;
  /** The leader epoch of the last batch that was taken. */
  readonly epoch: LeaderEpoch;
}

export class Segment {
  readonly baseOffset: Offset;
  readonly #disk: Disk;
  readonly #directory: string;
  readonly #indexIntervalBytes: number;
  readonly #cache: SegmentCache;
  readonly #hints: PositionHints = new PositionHints();
  #file: DiskFile | undefined;
  #indexes: SegmentIndexes | undefined;
  #sizeBytes = 0;
  #nextOffset: Offset;
  #firstTimestamp: number | undefined;
  #state: 'active' | 'sealed' | 'removed' = 'active';
  /** The indexes in memory know something that their files do not. */
  #indexesChanged = false;
  /** Written to, and not released before a sync has covered that. */
  #pinned = false;

  constructor(options: SegmentOptions) {
    this.baseOffset = options.baseOffset;
    this.#disk = options.disk;
    this.#directory = options.directory;
    this.#indexIntervalBytes = options.indexIntervalBytes;
    this.#cache = options.cache;
    this.#nextOffset = options.baseOffset;
  }

  get sizeBytes(): number {
    return this.#sizeBytes;
  }
  /** The offset after the last batch. */
  get nextOffset(): Offset {
    return this.#nextOffset;
  }
  get isActive(): boolean {
    return this.#state === 'active';
  }
  get isRemoved(): boolean {
    return this.#state === 'removed';
  }
  get indexesChanged(): boolean {
    return this.#indexesChanged;
  }
  get indexes(): SegmentIndexes {
    if (this.#indexes === undefined) runNow(this.prepareIndexes());
    if (this.#state === 'sealed') this.#cache.touch(this);
    return defined(this.#indexes, 'the indexes of a segment');
  }
  /** The latest timestamp, and the last offset of the first batch that has it. */
  get latest(): TimeIndexEntry | undefined {
    return this.indexes.latest;
  }
  /** The latest timestamp of the first batch, where it was seen. */
  get firstTimestamp(): number | undefined {
    return this.#firstTimestamp;
  }

  /**
   * Whether no record is as late as `limit`. The time index is a hint: before its word counts against the
   * records, it is compared with the last batch, which is mostly the latest too.
   */
  isAllBefore(limit: number): boolean {
    const isBefore = (): boolean => (this.latest?.timestamp ?? Infinity) < limit;
    if (!isBefore()) return false;
    const { offsets } = this.indexes;
    const entry = offsets.entries - 1;
    let last = NO_TIMESTAMP;
    const from = entry < 0 ? 0 : offsets.positionAt(entry);
    scanBatches({ file: this.file(), from, to: this.#sizeBytes }, (header) => {
      last = header.maxTimestamp;
    });
    if (last <= (this.latest?.timestamp ?? NO_TIMESTAMP)) return true;
    this.rebuildIndexes();
    return isBefore();
  }

  path(suffix: string): string {
    return `${this.#directory}/${offsetFileName(this.baseOffset, suffix)}`;
  }

  /** The file, opened when it is not. */
  file(): DiskFile {
    assert(this.#state !== 'removed', 'a removed segment is not used', { base: this.baseOffset });
    this.#file ??= this.#disk.open(this.path(LOG_SUFFIX), 'existing');
    if (this.#state === 'sealed') this.#cache.touch(this);
    return this.#file;
  }

  // -------------------------------------------------------------------------------- taking up

  /** Makes the file of a new segment. */
  create(): void {
    this.#disk.open(this.path(LOG_SUFFIX), 'create').close();
    this.begin();
  }

  /** A new segment whose file is made by somebody else, before anything is asked of it. */
  begin(): void {
    this.#indexes = this.#emptyIndexes();
  }

  /** `begin`, in a file that somebody else has. */
  beginIn(file: DiskFile): void {
    this.#file = file;
    this.begin();
  }

  /** Takes a sealed segment as it is; its indexes are looked at when they are needed. */
  adoptSealed(nextOffset: Offset): void {
    this.#state = 'sealed';
    this.#sizeBytes = this.file().size();
    this.#nextOffset = nextOffset;
  }

  /**
   * Takes the last segment of a log that was closed in order: its indexes, and what comes after their
   * last entry by headers alone. False when that does not lead to the end of the file: scan it.
   */
  *adoptClosed(): Steps<boolean> {
    const fileBytes = this.file().size();
    if (fileBytes === 0) {
      this.#indexes = this.#emptyIndexes();
      return true;
    }
    this.#sizeBytes = fileBytes;
    this.#indexes = yield* this.#readIndexes();
    if (this.#indexes === undefined) return false;
    const { end } = yield* this.#resume(this.#indexes, Infinity, fileBytes);
    this.#indexesChanged = false;
    return end.position === fileBytes && this.#nextOffset > this.baseOffset;
  }

  /**
   * Takes the file's batches one by one, and builds the indexes anew. Ends before a batch that does not
   * continue the one before, or for which `visit` returns false.
   */
  *scan(crc32c: Crc32c, visit: (header: BatchHeader) => boolean): Steps<ScanEnd> {
    this.#startAfresh();
    return yield* this.scanRest(crc32c, visit);
  }

  /** As `scan`, from where `resumeAt` has led. */
  *scanRest(crc32c: Crc32c, visit: (header: BatchHeader) => boolean): Steps<ScanEnd> {
    const file = this.file();
    const { indexes } = this;
    const from = this.#sizeBytes;
    return yield* scanSteps({ file, from, to: file.size(), crc32c }, (header, position) => {
      if (header.baseOffset !== this.#nextOffset || !visit(header)) return false;
      this.#take(indexes, header, position);
      return true;
    });
  }

  /**
   * Takes what lies below a recovery start, by headers of the last batches alone. False when these do not
   * lead to its offset: scan all.
   */
  *resumeAt(start: RecoveryStart): Steps<boolean> {
    const { position, offset } = start;
    const { baseOffset } = this;
    if (start.baseOffset !== baseOffset || position > this.file().size()) return false;
    const offsets = OffsetIndex.decode(baseOffset, start.offsetIndex, position);
    yield PAUSE;
    const times = TimeIndex.decode(baseOffset, start.timeIndex);
    if (offsets === undefined || times === undefined) return false;
    const indexes = new SegmentIndexes(baseOffset, this.#indexIntervalBytes, { offsets, times });
    const { end, epoch } = yield* this.#resume(indexes, Infinity, position);
    const leads = end.position === position && this.#nextOffset === offset;
    if (!leads || epoch !== lastEpochOf(start)) return false;
    this.#indexes = indexes;
    this.#indexesChanged = true;
    return true;
  }

  /** What a recovery start says of the segment as it is now. */
  recoveryStart(): Omit<RecoveryStart, 'epochs'> {
    const { offsets, times } = this.indexes;
    return {
      offset: this.#nextOffset,
      baseOffset: this.baseOffset,
      position: this.#sizeBytes,
      offsetIndex: offsets.encoded(),
      timeIndex: times.encoded(),
    };
  }

  // --------------------------------------------------------------------------------- appending

  /** Whether a batch of `bytes` that ends at `lastOffset` may be appended here. */
  hasRoomFor(bytes: number, lastOffset: number, segmentBytes: number): boolean {
    if (lastOffset - this.baseOffset > RELATIVE_OFFSET_MAX) return false;
    return this.#sizeBytes + bytes <= segmentBytes && !this.indexes.offsets.isFull;
  }

  /** Writes whole batches at the end; `note` then has to tell of each of them. */
  write(bytes: Uint8Array): void {
    assert(this.#state === 'active', 'only the active segment grows', { base: this.baseOffset });
    this.#pinned = true;
    this.file().write(bytes, this.#sizeBytes);
  }

  note(batch: BatchFacts): void {
    this.#take(this.indexes, batch, this.#sizeBytes);
  }

  /** Takes back what a failed write may have left after the last batch. */
  discardTornWrite(): void {
    this.file().truncate(this.#sizeBytes);
  }

  /** A sync has covered all that was written. */
  unpin(): void {
    this.#pinned = false;
    if (this.#state === 'sealed') this.#cache.touch(this);
  }

  /** No more is appended: the indexes become files, or stay in memory where there is no room. */
  seal(): void {
    assert(this.#state === 'active', 'a segment is sealed once', { base: this.baseOffset });
    this.#state = 'sealed';
    this.#cache.touch(this);
    try {
      this.writeIndexes();
    } catch (error) {
      if (!isDiskError(error, 'FULL')) throw error;
    }
  }

  writeIndexes(): void {
    if (!this.#indexesChanged) return;
    this.indexes.complete();
    this.#indexesChanged = true;
    replaceFile(this.#disk, this.path(OFFSET_INDEX_SUFFIX), this.indexes.offsets.encoded());
    replaceFile(this.#disk, this.path(TIME_INDEX_SUFFIX), this.indexes.times.encoded());
    this.#indexesChanged = false;
  }

  /**
   * Cuts the segment before the batch that holds `offset`, and makes it active. Returns where it ends
   * now.
   */
  truncateTo(offset: Offset): Offset {
    const { indexes } = this;
    this.#state = 'active';
    this.#cache.forget(this);
    this.#hints.clear();
    const { end } = runNow(this.#resume(indexes, offset, this.#sizeBytes));
    const { position, error } = end;
    if (error !== undefined) {
      const where = `${this.path(LOG_SUFFIX)} at ${position}`;
      throw new LogError(
        'corrupt',
        `cannot truncate to offset ${offset}: ${where}: ${error.message}`,
      );
    }
    this.#indexesChanged = true;
    this.#pinned = true;
    this.file().truncate(position);
    this.#sizeBytes = position;
    return this.#nextOffset;
  }

  /** Cuts what comes after the batches that a scan has taken. */
  cutTail(): void {
    this.file().truncate(this.#sizeBytes);
  }

  // ----------------------------------------------------------------------------------- reading

  /** Where to begin to look for the batch with `offset`: there (`exact`), or before it. */
  locate(offset: Offset): BatchPlace {
    const { baseOffset } = this;
    if (offset === baseOffset) return { position: 0, exact: true, base: baseOffset };
    const hint = this.#hints.find(offset);
    if (hint !== undefined) return { position: hint, exact: true, base: offset };
    const { offsets } = this.indexes;
    const at = offsets.floor(offset);
    if (at === -1) return { position: 0, exact: false, base: baseOffset };
    const { position, offset: last } = offsets.entry(at);
    return { position, exact: false, last };
  }

  /**
   * Whether the batches of a sealed segment lead to where the next one begins. What comes after that was
   * truncated, and the truncation lost: it is cut again, durably.
   */
  *cutToNext(): Steps<boolean> {
    yield* this.prepareIndexes();
    let end = yield* this.#endPosition();
    if (end === undefined) {
      yield* this.#rebuildSteps();
      end = yield* this.#endPosition();
    }
    if (end === undefined) return false;
    if (end < this.#sizeBytes) {
      this.file().truncate(end);
      yield syncStep(this.file());
      this.#sizeBytes = end;
      yield* this.#rebuildSteps();
      this.writeIndexes();
    }
    return true;
  }

  /** Where the batch begins that holds `offset`. */
  batchStart(offset: Offset): Offset {
    let start = this.#nextOffset;
    const { position: from } = this.locate(offset);
    scanBatches({ file: this.file(), from, to: this.#sizeBytes }, (header) => {
      if (header.nextOffset <= offset) return true;
      start = header.baseOffset;
      return false;
    });
    return start;
  }

  /** Remembers that a batch begins at `position` with `offset`, or ended there. */
  hint(offset: Offset, position: number): void {
    this.#hints.add(offset, position);
  }

  /** The indexes have lied: builds them from the batches. */
  rebuildIndexes(): void {
    runNow(this.#rebuildSteps());
  }

  *#rebuildSteps(): Steps<void> {
    this.#hints.clear();
    this.#indexes = yield* this.#buildSteps();
    this.#indexesChanged = true;
  }

  // ----------------------------------------------------------------------------------- the end

  release(): void {
    if (this.#pinned || this.#state === 'active') return;
    this.#close();
    if (!this.#indexesChanged) this.#indexes = undefined;
  }

  close(): void {
    this.#cache.forget(this);
    this.#close();
  }

  /** Renames the files for removal; `purge` removes them, once the renames are durable. */
  markDeleted(): void {
    this.close();
    this.#state = 'removed';
    for (const suffix of [OFFSET_INDEX_SUFFIX, TIME_INDEX_SUFFIX]) {
      this.#disk.remove(this.path(suffix));
    }
    this.#disk.rename(this.path(LOG_SUFFIX), this.path(LOG_SUFFIX) + DELETED_SUFFIX);
  }

  purge(): void {
    this.#disk.remove(this.path(LOG_SUFFIX) + DELETED_SUFFIX);
  }

  // ----------------------------------------------------------------------------------- helpers

  #close(): void {
    this.#file?.close();
    this.#file = undefined;
  }

  /** Where in the file the last batch before the next segment ends. */
  *#endPosition(): Steps<number | undefined> {
    const { offsets } = this.indexes;
    const entry = offsets.floor(this.#nextOffset - 1);
    const from = entry === -1 ? 0 : offsets.positionAt(entry);
    let end: number | undefined;
    yield* scanSteps({ file: this.file(), from, to: this.#sizeBytes }, (header, position) => {
      if (header.nextOffset === this.#nextOffset) end = position + header.sizeInBytes;
      return header.nextOffset < this.#nextOffset;
    });
    return end;
  }

  #take(indexes: SegmentIndexes, batch: BatchFacts, position: number): void {
    indexes.note(batch, position);
    if (position === 0) this.#firstTimestamp = batch.maxTimestamp;
    this.#sizeBytes = position + batch.sizeInBytes;
    this.#nextOffset = batch.nextOffset;
    this.#indexesChanged = true;
  }

  #startAfresh(): void {
    this.#sizeBytes = 0;
    this.#nextOffset = this.baseOffset;
    this.#hints.clear();
    this.#indexes = this.#emptyIndexes();
    this.#indexesChanged = true;
  }

  /** Takes the batches anew that come after the last index entry and end at or before `endOffset`. */
  *#resume(indexes: SegmentIndexes, endOffset: number, to: number): Steps<Resumed> {
    const from = indexes.rewind(endOffset);
    let expected: Offset | undefined;
    let epoch = NO_LEADER_EPOCH;
    if (from > 0) yield* this.#readFirstTimestamp(to);
    else {
      this.#firstTimestamp = undefined;
      this.#nextOffset = this.baseOffset;
      expected = this.baseOffset;
    }
    const end = yield* scanSteps({ file: this.file(), from, to }, (header, position) => {
      if (header.nextOffset > endOffset) return false;
      if (expected !== undefined && header.baseOffset !== expected) return false;
      this.#take(indexes, header, position);
      expected = header.nextOffset;
      epoch = header.partitionLeaderEpoch;
      return true;
    });
    return { end, epoch };
  }

  *#readFirstTimestamp(to: number): Steps<void> {
    yield* scanSteps({ file: this.file(), from: 0, to }, (header, position) => {
      if (position > 0) return false;
      this.#firstTimestamp = header.maxTimestamp;
      return true;
    });
  }

  #emptyIndexes(): SegmentIndexes {
    return new SegmentIndexes(this.baseOffset, this.#indexIntervalBytes);
  }

  /** From the files; undefined when one is missing, unreadable or cannot belong to this segment. */
  *#readIndexes(): Steps<SegmentIndexes | undefined> {
    const offsetBytes = yield* readHintSteps(this.#disk, this.path(OFFSET_INDEX_SUFFIX));
    if (offsetBytes === undefined) return undefined;
    const timeBytes = yield* readHintSteps(this.#disk, this.path(TIME_INDEX_SUFFIX));
    if (timeBytes === undefined) return undefined;
    const offsets = OffsetIndex.decode(this.baseOffset, offsetBytes, this.#sizeBytes);
    yield PAUSE;
    const times = TimeIndex.decode(this.baseOffset, timeBytes);
    if (offsets === undefined || times === undefined) return undefined;
    // A segment without any timestamp is rare; a file that lost its content is not told from its index.
    if (times.entries === 0 && this.#sizeBytes > 0) return undefined;
    return new SegmentIndexes(this.baseOffset, this.#indexIntervalBytes, { offsets, times });
  }

  /** Has the indexes in memory. Where their files do not serve they are built from the batches. */
  *prepareIndexes(): Steps<void> {
    this.#indexes ??= yield* this.#readIndexes();
    this.#indexes ??= this.#replaced(yield* this.#buildSteps());
  }

  /** A sealed segment has its index files replaced as well; where that fails the indexes stay in memory. */
  #replaced(indexes: SegmentIndexes): SegmentIndexes {
    if (this.#state !== 'sealed') return indexes;
    try {
      const [offsets, times] = [this.path(OFFSET_INDEX_SUFFIX), this.path(TIME_INDEX_SUFFIX)];
      replaceFileNow(this.#disk, offsets, indexes.offsets.encoded());
      replaceFileNow(this.#disk, times, indexes.times.encoded());
    } catch (error) {
      if (!(error instanceof DiskError)) throw error;
      this.#indexesChanged = true;
    }
    return indexes;
  }

  /** From the batches, as far as these can be read and continue each other. */
  *#buildSteps(): Steps<SegmentIndexes> {
    const indexes = this.#emptyIndexes();
    const to = this.#sizeBytes;
    let expected: Offset = this.baseOffset;
    yield* scanSteps({ file: this.file(), from: 0, to }, (header, position) => {
      if (header.baseOffset !== expected) return false;
      indexes.note(header, position);
      expected = header.nextOffset;
      return true;
    });
    if (this.#state === 'sealed') indexes.complete();
    return indexes;
  }
}
