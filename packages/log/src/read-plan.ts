/**
 * Finds the run of whole batches that a read is to return, in as few reads of the file as can be: one,
 * when the place is known exactly or the index is near. A plan says which bytes it wants next and is
 * given them, by a blocking read or one off the loop; so there is one search and no I/O in it.
 */
import { isMutated } from '@relevo/base/mutations';
import { BatchError } from '@relevo/record/batch-error';
import {
  BATCH_OVERHEAD,
  LOG_OVERHEAD,
  baseOffsetAt,
  nextOffsetAt,
  readBatchHeader,
  sizeInBytesAt,
} from '@relevo/record/batch-header';
import { verifyCrc } from '@relevo/record/validate';
import type { Offset } from '@relevo/base/ids';
import type { Crc32c } from '@relevo/base/ports';
import type { Segment } from './segment.ts';

/** Read beyond `maxBytes` when the search begins at an index entry, which is that far off or less. */
const SEARCH_BYTES = 8192;

export interface ReadRequest {
  readonly segment: Segment;
  readonly from: Offset;
  readonly upTo: Offset;
  readonly maxBytes: number;
  readonly atLeastOne: boolean;
  /** Given: the batches' CRCs are checked. */
  readonly crc32c: Crc32c | undefined;
  /** Of the record there, as the log knows it, -1: not known; the epoch in a batch lies outside its CRC. */
  readonly epochAt: (offset: Offset) => number;
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
  /** Which bytes of the file to read next. */
  position: number;
  length: number;

  constructor(request: ReadRequest) {
    const { segment, from, maxBytes } = request;
    const { position, exact } = segment.locate(from);
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
    const { segment, crc32c } = this.#request;
    const next = nextOffsetAt(bytes, start);
    if (isMutated('damage-reads-as-end')) return NOTHING;
    if (next > segment.nextOffset) this.#fault(`offsets up to ${next}`, start);
    if (crc32c === undefined) return NOTHING;
    if (size > bytes.length - start) return this.#readAgain(start, size);
    this.#check(bytes, start, size, crc32c);
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
      if (next > from) return at;
      at += size;
      this.#byIndex = this.#byIndex && at === 0;
    }
  }

  #collect(bytes: Uint8Array, start: number): Uint8Array {
    const { segment, from, upTo, maxBytes, crc32c } = this.#request;
    const most = Math.min(bytes.length, start + Math.max(maxBytes, this.#sizeAt(bytes, start)));
    let expected = baseOffsetAt(bytes, start);
    let end = start;
    while (most - end >= BATCH_OVERHEAD) {
      const size = this.#sizeAt(bytes, end);
      if (size > most - end) break;
      const next = nextOffsetAt(bytes, end);
      if (baseOffsetAt(bytes, end) !== expected) this.#fault(`offset ${expected} is missing`, end);
      if (next > upTo) break;
      if (crc32c !== undefined) this.#check(bytes, end, size, crc32c);
      expected = next;
      end += size;
    }
    if (end > start && expected > from) segment.hint(expected, this.position + end);
    return bytes.subarray(start, end);
  }

  #check(bytes: Uint8Array, at: number, size: number, crc32c: Crc32c): void {
    if (!verifyCrc(bytes, at, size, crc32c)) this.#fault('the CRC does not match', at);
    try {
      const { baseOffset, partitionLeaderEpoch: epoch } = readBatchHeader(bytes, at);
      const known = this.#request.epochAt(baseOffset);
      if (known >= 0 && epoch !== known)
        this.#fault(`its leader epoch is ${epoch}, and was ${known}`, at);
    } catch (error) {
      if (error instanceof BatchError) this.#fault(error.message, at);
      throw error;
    }
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
