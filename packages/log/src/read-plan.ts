/**
 * Finds the run of whole batches that a read is to return, in as few reads of the file as can be: one,
 * when the place is known exactly or the index is near. A plan says which bytes it wants next and is
 * given them, by a blocking read or one off the loop; so there is one search and no I/O in it.
 *
 * The search begins where the offset of a batch is known, and holds the base offset of each batch against
 * the one before it. What it returns is checked, each time: also what has just been written may come
 * damaged from the disk's cache or from memory.
 */
import { isMutated } from '@relevo/base/mutations';
import {
  BATCH_OVERHEAD,
  LOG_OVERHEAD,
  baseOffsetAt,
  nextOffsetAt,
  sizeInBytesAt,
} from '@relevo/record/batch-header';
import type { Offset } from '@relevo/base/ids';
import type { Segment } from './segment.ts';
import { flawOfBatch } from './stored-batch.ts';
import type { BatchCheck } from './stored-batch.ts';

/** Read beyond `maxBytes` when the search begins at an index entry, which is that far off or less. */
const SEARCH_BYTES = 8192;

export interface ReadRequest extends BatchCheck {
  readonly segment: Segment;
  readonly from: Offset;
  readonly upTo: Offset;
  readonly maxBytes: number;
  readonly atLeastOne: boolean;
}

/** The file or the index is not what it should be. */
export class ReadFault extends Error {
  override readonly name = 'ReadFault';
  /** The place came from the index: it may be that which is wrong. */
  readonly byIndex: boolean;

  constructor(message: string, byIndex: boolean) {
    super(message);
    this.byIndex = byIndex;
  }
}

const NOTHING: Uint8Array = new Uint8Array(0);

export class ReadPlan {
  readonly #request: ReadRequest;
  readonly #end: number;
  #byIndex: boolean;
  /** Base offset of the batch at `position`; undefined: only its last one is known. */
  #base: number | undefined;
  /** Last offset of the batch at `position`, where the place is from the index. */
  #last: number | undefined;
  /** Which bytes of the file to read next. */
  position: number;
  length: number;

  constructor(request: ReadRequest) {
    const { segment, from, maxBytes } = request;
    const { position, exact, base, last } = segment.locate(from);
    this.#base = base;
    this.#last = last;
    this.#request = request;
    this.#end = segment.sizeBytes;
    this.#byIndex = !exact;
    this.position = position;
    const wanted = Math.max(maxBytes, BATCH_OVERHEAD) + (exact ? 0 : SEARCH_BYTES);
    this.length = Math.min(wanted, this.#end - position);
  }

  /** Takes the bytes; returns the batches, or undefined when `position` and `length` say what is next. */
  take(bytes: Uint8Array): Uint8Array | undefined {
    if (bytes.length < this.length) {
      throw new ReadFault(`${bytes.length} of ${this.length} bytes are there`, false);
    }
    const start = this.#skip(bytes);
    if (start === undefined) return undefined;
    const first = this.#sizeAt(bytes, start);
    const { maxBytes, atLeastOne, upTo } = this.#request;
    if (nextOffsetAt(bytes, start) > upTo) return this.#tooHigh(bytes, start, first);
    if (first > maxBytes && !atLeastOne) return NOTHING;
    if (first > bytes.length - start) return this.#readAgain(start, Math.max(first, maxBytes));
    return this.#collect(bytes, start);
  }

  /** The batch reaches above `upTo`, unless its header lies: then a reader would wait for ever. */
  #tooHigh(bytes: Uint8Array, start: number, size: number): Uint8Array | undefined {
    const { segment } = this.#request;
    const next = nextOffsetAt(bytes, start);
    if (isMutated('damage-reads-as-end')) return NOTHING;
    if (next > segment.nextOffset) this.#fault(`offsets up to ${next}`, start);
    if (size > bytes.length - start) return this.#readAgain(start, size);
    const flaw = flawOfBatch(bytes, start, size, this.#request);
    if (flaw !== undefined) this.#fault(flaw, start);
    return NOTHING;
  }

  /** Where in `bytes` the batch with `from` begins. */
  #skip(bytes: Uint8Array): number | undefined {
    const { from } = this.#request;
    let at = 0;
    for (;;) {
      if (bytes.length - at < BATCH_OVERHEAD)
        return this.#readAgain(at, Math.max(this.#request.maxBytes, SEARCH_BYTES));
      const size = this.#sizeAt(bytes, at);
      const base = baseOffsetAt(bytes, at);
      const next = nextOffsetAt(bytes, at);
      if (base > from || next <= base) this.#fault(`offsets ${base} to ${next}`, at);
      this.#checkPlace(base, next - 1, at);
      if (next > from) return at;
      at += size;
      this.#base = next;
      this.#last = undefined;
      this.#byIndex = this.#byIndex && at === 0;
    }
  }

  /** The base offset lies outside the CRC, and the length says where the next batch begins. */
  #checkPlace(base: number, last: number, at: number): void {
    const isThere = base === (this.#base ?? base) && last === (this.#last ?? last);
    if (isThere || isMutated('stored-batches-unchecked')) return;
    const wanted =
      this.#base === undefined ? `offsets up to ${this.#last}` : `offset ${this.#base}`;
    this.#fault(`offsets ${base} to ${last} are where ${wanted} should be`, at);
  }

  #collect(bytes: Uint8Array, start: number): Uint8Array {
    const { segment, from, upTo, maxBytes } = this.#request;
    const most = Math.min(bytes.length, start + Math.max(maxBytes, this.#sizeAt(bytes, start)));
    let expected = baseOffsetAt(bytes, start);
    let end = start;
    while (most - end >= BATCH_OVERHEAD) {
      const size = sizeInBytesAt(bytes, end);
      const next = nextOffsetAt(bytes, end);
      if (size > most - end || next > upTo) break;
      const flaw = this.#flawOf(bytes, end, size, expected);
      // What comes before the damage is given; who goes on from there meets it.
      if (flaw !== undefined && end > start) break;
      if (flaw !== undefined) this.#fault(flaw, end);
      expected = next;
      end += size;
    }
    if (end > start && expected > from) segment.hint(expected, this.position + end);
    return bytes.subarray(start, end);
  }

  #flawOf(bytes: Uint8Array, at: number, size: number, expected: number): string | undefined {
    if (size < BATCH_OVERHEAD) return `a batch of ${size} bytes`;
    const base = baseOffsetAt(bytes, at);
    if (base !== expected && !isMutated('stored-batches-unchecked')) {
      return `offset ${expected} is missing: ${base} is there`;
    }
    return flawOfBatch(bytes, at, size, this.#request);
  }

  #readAgain(at: number, length: number): undefined {
    this.position += at;
    this.length = Math.min(Math.max(length, BATCH_OVERHEAD), this.#end - this.position);
    if (this.length < BATCH_OVERHEAD) this.#fault('the segment ends', 0);
    return undefined;
  }

  #sizeAt(bytes: Uint8Array, at: number): number {
    const size = bytes.length - at >= LOG_OVERHEAD ? sizeInBytesAt(bytes, at) : 0;
    const rest = this.#end - this.position - at;
    if (size < BATCH_OVERHEAD || size > rest) this.#fault(`a batch of ${size} bytes`, at);
    return size;
  }

  #fault(what: string, at: number): never {
    const { segment, from } = this.#request;
    const place = `segment ${segment.baseOffset} at byte ${this.position + at}`;
    throw new ReadFault(`${place}, looking for offset ${from}: ${what}`, this.#byIndex);
  }
}
