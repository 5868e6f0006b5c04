/**
 * Cuts bytes into lines at LF. The LF belongs to no line; a CR before it stays, so that what was
 * produced line by line comes back byte for byte. A last line without LF counts; an empty one after
 * the last LF does not.
 */
import { concatBytes } from '@relevo/base/bytes';
import { CommandError } from './exit-codes.ts';

const LF = 10;
/** Far above any record that a broker takes; it bounds what is held of input without a LF. */
export const LINE_BYTES_MAX: number = 64 * 1024 * 1024;

export class LineSplitter {
  /** The line that has begun in earlier chunks. */
  #parts: Uint8Array[] = [];
  #partBytes = 0;
  #lines = 0;

  /** Lines given out so far. */
  get lines(): number {
    return this.#lines;
  }

  /** The lines that end within `chunk`, as views of it where they lie within it wholly. */
  *push(chunk: Uint8Array): Generator<Uint8Array, void, undefined> {
    let start = 0;
    for (let end = chunk.indexOf(LF); end >= 0; end = chunk.indexOf(LF, start)) {
      yield this.#finish(chunk.subarray(start, end));
      start = end + 1;
    }
    if (start < chunk.length) this.#keep(chunk.subarray(start));
  }

  /** The last line, where the input does not end with LF. */
  *end(): Generator<Uint8Array, void, undefined> {
    if (this.#partBytes > 0) yield this.#finish(new Uint8Array(0));
  }

  #finish(tail: Uint8Array): Uint8Array {
    this.#lines++;
    if (this.#partBytes === 0) return tail;
    const line = concatBytes([...this.#parts, tail]);
    this.#parts = [];
    this.#partBytes = 0;
    return line;
  }

  #keep(part: Uint8Array): void {
    this.#parts.push(part);
    this.#partBytes += part.length;
    if (this.#partBytes > LINE_BYTES_MAX) {
      throw new CommandError(
        `line ${this.#lines + 1} is longer than ${LINE_BYTES_MAX / 1024 / 1024} MiB; ` +
          'is the input made of lines at all?',
      );
    }
  }
}

/** Where `separator` first stands in `line`, or -1. */
export function indexOfBytes(line: Uint8Array, separator: Uint8Array): number {
  const first = separator[0];
  if (first === undefined) return -1;
  const last = line.length - separator.length;
  for (let at = line.indexOf(first); at >= 0 && at <= last; at = line.indexOf(first, at + 1)) {
    let matched = 1;
    while (matched < separator.length && line[at + matched] === separator[matched]) matched++;
    if (matched === separator.length) return at;
  }
  return -1;
}
