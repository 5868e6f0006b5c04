/**
 * `N.synced`, an empty file: the segment N is there, and all below N was synced. It is made *after* that
 * sync and is not synced itself: a power cut may take it, and then less is known, but it never says what
 * is not so. One is enough, that of the newest segment.
 */
import { DiskError } from '@relevo/base/ports';
import type { Offset } from '@relevo/base/ids';
import type { Disk } from '@relevo/base/ports';
import { SYNCED_SUFFIX, offsetFileName } from './file-names.ts';

export class SyncedSegment {
  readonly #disk: Disk;
  readonly #directory: string;
  #offset: Offset | undefined;

  /** `offset`: of the file that is there. */
  constructor(disk: Disk, directory: string, offset: Offset | undefined) {
    this.#disk = disk;
    this.#directory = directory;
    this.#offset = offset;
  }

  /** Up to where the log must reach for the file to be right: one above its number; 0: there is none. */
  get needs(): number {
    return this.#offset === undefined ? 0 : this.#offset + 1;
  }

  /** The newest segment, which begins at `base`, is there for good, and all before it. */
  reached(base: Offset): void {
    const before = this.#offset;
    if (before !== undefined && before >= base) return;
    try {
      this.#disk.open(this.#path(base), 'create').close();
      this.#offset = base;
      if (before !== undefined) this.#disk.remove(this.#path(before));
    } catch (error) {
      // Nothing rests on it; what is wrong with the disk is met by the next write.
      if (!(error instanceof DiskError)) throw error;
    }
  }

  /** All from `end` on was cut. */
  truncatedTo(end: number): void {
    if (this.#offset === undefined || this.#offset < end) return;
    this.#disk.remove(this.#path(this.#offset));
    this.#offset = undefined;
  }

  /**
   * Old segments are about to go, the newest begins at `base`; durable when this returns. It is there
   * for one of them where the newest was not synced yet.
   */
  segmentsGo(base: Offset): void {
    if (this.#offset === undefined || this.#offset >= base) return;
    this.truncatedTo(0);
    this.#disk.syncDirectoryNow(this.#directory);
  }

  #path(offset: Offset): string {
    return `${this.#directory}/${offsetFileName(offset, SYNCED_SUFFIX)}`;
  }
}
