/**
 * Which offsets were written so recently that their bytes are surely in the page cache: then a blocking
 * read takes microseconds, and a read on the thread pool would only add to that. All logs of a broker
 * share one count of bytes written.
 */
import type { Offset } from '@relevo/base/ids';

/** Bytes written to all logs after which a byte no longer counts as recent. */
const RECENT_BYTES = 128 * 2 ** 20;
/** How finely a log remembers. */
const MARK_BYTES = 4 * 2 ** 20;

export class WriteCount {
  bytes = 0;
}

interface Mark {
  readonly offset: Offset;
  readonly atBytes: number;
}

export class RecentWrites {
  readonly #count: WriteCount;
  /** Oldest first. */
  #marks: Mark[] = [];

  constructor(count: WriteCount) {
    this.#count = count;
  }

  note(offset: Offset, bytes: number): void {
    const last = this.#marks.at(-1);
    if (last === undefined || this.#count.bytes - last.atBytes >= MARK_BYTES) {
      this.#forgetOld();
      this.#marks.push({ offset, atBytes: this.#count.bytes });
    }
    this.#count.bytes += bytes;
  }

  /** Whether all from `offset` on was. */
  covers(offset: Offset): boolean {
    this.#forgetOld();
    const first = this.#marks[0];
    return first !== undefined && first.offset <= offset;
  }

  truncateTo(offset: Offset): void {
    this.#marks = this.#marks.filter((mark) => mark.offset < offset);
  }

  #forgetOld(): void {
    while (this.#marks[0] !== undefined) {
      if (this.#count.bytes - this.#marks[0].atBytes <= RECENT_BYTES) return;
      this.#marks.shift();
    }
  }
}
