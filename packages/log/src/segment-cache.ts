/**
 * Keeps the file handles and indexes of old segments within bounds: the least recently used ones are
 * let go. One is shared by all logs of a data directory.
 */
import { DiskError } from '@relevo/base/ports';

export interface Releasable {
  /** Lets go of file handle and indexes; they come back when they are needed. */
  release(): void;
}

/** Old segments that are kept open, over all logs of a broker. */
export const OPEN_SEGMENTS_MAX = 256;

export class SegmentCache {
  readonly #max: number;
  /** Least recently used first. */
  readonly #open: Set<Releasable> = new Set();

  constructor(max: number = OPEN_SEGMENTS_MAX) {
    this.#max = max;
  }

  get size(): number {
    return this.#open.size;
  }

  touch(segment: Releasable): void {
    this.#open.delete(segment);
    this.#open.add(segment);
    if (this.#open.size <= this.#max) return;
    for (const oldest of this.#open) {
      this.#open.delete(oldest);
      this.#release(oldest);
      return;
    }
  }

  /** It is mostly of another log than the one that is at work: what fails is none of that one's concern. */
  #release(segment: Releasable): void {
    try {
      segment.release();
    } catch (error) {
      if (!(error instanceof DiskError)) throw error;
    }
  }

  forget(segment: Releasable): void {
    this.#open.delete(segment);
  }
}
