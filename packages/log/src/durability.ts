/**
 * What of a log is not on stable storage yet, and how it gets there: changed segments and files are
 * synced, and the directory where names have changed (and its parent, for a new log). Side by side: an
 * offset counts only when all of it is done.
 */
import type { Offset } from '@relevo/base/ids';
import type { Disk } from '@relevo/base/ports';
import { parentOf, syncFileNow } from './checkpoint-file.ts';
import { METADATA_FILE } from './file-names.ts';
import { isDiskError } from './log-error.ts';
import type { Segment } from './segment.ts';
import type { Slots } from './slots.ts';

export interface DurabilityDeps {
  /** What has to be done, after all is synced, before the first offset counts. */
  readonly beforeFirst?: (() => Promise<void>) | undefined;
  /** Syncs the directory around the log's, for many logs at once. */
  readonly syncParent?: (() => Promise<void>) | undefined;
  /** The directory's name is durable. */
  readonly named?: (() => void) | undefined;
  /** Where new logs wait for their turn. */
  readonly young?: Slots | undefined;
}

export class Durability {
  readonly #disk: Disk;
  readonly #directory: string;
  readonly #segments: Set<Segment> = new Set();
  readonly #files: Set<string> = new Set();
  /** Renamed for removal: they go when that is durable. */
  #removed: Segment[] = [];
  #namesChanged = false;
  #parentChanged = false;
  /** The directory's name and its metadata are not known to be durable. */
  #isNew = false;
  #firstSegmentIsDurable = true;
  #end: Offset;
  /** What the run under way will make durable. */
  #runEnd: Offset;
  /** Truncated since the last run began. */
  #truncated: Set<Segment> = new Set();
  /** Truncated before, which the run under way makes durable. */
  #truncatedInRun: Set<Segment> = new Set();

  readonly #deps: DurabilityDeps;
  #isFirst = true;

  constructor(disk: Disk, directory: string, end: Offset, deps: DurabilityDeps = {}) {
    this.#disk = disk;
    this.#directory = directory;
    this.#deps = deps;
    this.#end = end;
    this.#runEnd = end;
  }

  /** All below is on stable storage. */
  get end(): Offset {
    return this.#end;
  }

  /** The next run waits among the new logs for its turn. */
  get isYoung(): boolean {
    return this.#isNew;
  }

  get hasWork(): boolean {
    return this.#segments.size > 0 || this.#files.size > 0 || this.#namesChanged;
  }

  /**
   * A truncation that is not durable may be lost by a power cut, and sectors of what was cut may then
   * stand among those of later appends: nothing is appended to that file before.
   */
  isTruncationPending(segment: Segment): boolean {
    return this.#truncated.has(segment) || this.#truncatedInRun.has(segment);
  }

  changed(segment: Segment): void {
    this.#segments.add(segment);
  }

  /** A file in the log's directory, that was replaced. */
  replaced(path: string): void {
    this.#files.add(path);
    this.#namesChanged = true;
  }

  namesChanged(): void {
    this.#namesChanged = true;
  }

  /** The directory itself is new, and the metadata in it. */
  created(): void {
    this.replaced(`${this.#directory}/${METADATA_FILE}`);
    this.#parentChanged = true;
    this.#isNew = true;
    this.#firstSegmentIsDurable = false;
  }

  /** The directory and all in it are durable, but not its name. */
  named(): void {
    this.#namesChanged = true;
    this.#parentChanged = true;
    this.#isNew = true;
  }

  /**
   * A second segment may not come before the first has its name for good: were it found alone, the log
   * would pass for one that begins there.
   */
  makeFirstSegmentDurable(): void {
    if (this.#firstSegmentIsDurable) return;
    this.#disk.syncDirectoryNow(this.#directory);
    this.#firstSegmentIsDurable = true;
  }

  removed(segment: Segment): void {
    this.#segments.delete(segment);
    this.#removed.push(segment);
    this.#namesChanged = true;
  }

  truncated(segment: Segment, end: Offset): void {
    this.#segments.add(segment);
    this.#truncated.add(segment);
    this.lower(end);
  }

  /** The log now ends at `end` or later. */
  lower(end: Offset): void {
    if (end < this.#end) this.#end = end;
    if (end < this.#runEnd) this.#runEnd = end;
  }

  /** The log was emptied and begins at `start`; durable when this returns. */
  restart(start: Offset): void {
    if (this.#isNew) {
      syncFileNow(this.#disk, `${this.#directory}/${METADATA_FILE}`);
      this.#disk.syncDirectoryNow(parentOf(this.#directory));
    }
    this.#disk.syncDirectoryNow(this.#directory);
    if (this.#isNew) this.#deps.named?.();
    this.#isNew = false;
    this.#firstSegmentIsDurable = true;
    this.#end = start;
    this.#runEnd = start;
    this.#truncated.clear();
  }

  /** Makes durable all that was reported before; `logEnd` is where the log ends now. */
  async run(logEnd: Offset): Promise<void> {
    this.#runEnd = logEnd;
    this.#truncatedInRun = this.#truncated;
    this.#truncated = new Set();
    if (this.hasWork) await this.#workInTurn();
    if (this.#isFirst && this.#runEnd > this.#end) {
      await this.#deps.beforeFirst?.();
      this.#isFirst = false;
    }
    this.#truncatedInRun.clear();
    if (this.#runEnd > this.#end) this.#end = this.#runEnd;
  }

  #workInTurn(): Promise<void> {
    const { young } = this.#deps;
    return this.#isNew && young !== undefined
      ? young.run('ends', () => this.#work())
      : this.#work();
  }

  async #work(): Promise<void> {
    const segments = [...this.#segments];
    const removed = this.#removed;
    const work: Promise<void>[] = [];
    for (const segment of segments) work.push(syncSegment(segment));
    for (const path of this.#files) work.push(this.#syncFile(path));
    if (this.#namesChanged) work.push(this.#syncNames(this.#directory));
    if (this.#parentChanged) {
      work.push(this.#deps.syncParent?.() ?? this.#syncNames(parentOf(this.#directory)));
    }
    this.#segments.clear();
    this.#files.clear();
    this.#removed = [];
    this.#namesChanged = false;
    this.#parentChanged = false;
    const isNew = this.#isNew;
    await (work.length === 1 ? work[0] : Promise.all(work));
    if (isNew) {
      this.#isNew = false;
      this.#firstSegmentIsDurable = true;
      this.#deps.named?.();
    }
    for (const segment of segments) {
      if (!this.#segments.has(segment)) segment.unpin();
    }
    for (const segment of removed) segment.purge();
  }

  async #syncNames(directory: string): Promise<void> {
    await this.#disk.syncDirectory(directory);
  }

  async #syncFile(path: string): Promise<void> {
    try {
      const file = this.#disk.open(path, 'existing');
      try {
        await file.datasync();
      } finally {
        file.close();
      }
    } catch (error) {
      // Removed since: there is nothing left to be made durable.
      if (!isDiskError(error, 'NOT_FOUND')) throw error;
    }
  }
}

/** Asynchronous from the first step: a failure to open the file is a rejection too. */
async function syncSegment(segment: Segment): Promise<void> {
  await segment.file().datasync();
}
