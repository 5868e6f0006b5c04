/**
 * A sparse map from offsets to positions in one segment, in Kafka's `.index` format: entries of a
 * relative offset (int32) and a position (int32), both growing. An entry's offset is the last one of the
 * batch that begins at its position. It is a hint: who reads the batch there finds out if it lies.
 */
import { assert } from '@relevo/base/assert';
import { int32At, setInt32 } from '@relevo/record/ints';
import type { Offset } from '@relevo/base/ids';

const ENTRY_BYTES = 8;
const FIRST_CAPACITY = 64;

/** `segment.index.bytes` of Kafka, 10 MiB: a segment whose index is full is rolled. */
export const OFFSET_INDEX_ENTRIES_MAX: number = (10 * 2 ** 20) / ENTRY_BYTES;

export class OffsetIndex {
  readonly baseOffset: Offset;
  #bytes: Uint8Array = new Uint8Array(0);
  #entries = 0;

  constructor(baseOffset: Offset) {
    this.baseOffset = baseOffset;
  }

  /** From a file's content; undefined when no log of `logBytes` has such an index. */
  static decode(baseOffset: Offset, bytes: Uint8Array, logBytes: number): OffsetIndex | undefined {
    if (bytes.length % ENTRY_BYTES !== 0) return undefined;
    let offset = -1;
    let position = 0;
    for (let at = 0; at < bytes.length; at += ENTRY_BYTES) {
      const nextOffset = int32At(bytes, at);
      const nextPosition = int32At(bytes, at + 4);
      // No batch at the start is indexed: zeros, which a crash may leave, are found out here.
      if (nextOffset <= offset || nextPosition <= position) return undefined;
      offset = nextOffset;
      position = nextPosition;
    }
    if (position >= logBytes && position > 0) return undefined;
    const index = new OffsetIndex(baseOffset);
    index.#bytes = bytes;
    index.#entries = bytes.length / ENTRY_BYTES;
    return index;
  }

  get entries(): number {
    return this.#entries;
  }

  get isFull(): boolean {
    return this.#entries >= OFFSET_INDEX_ENTRIES_MAX;
  }

  /** The file's content; a view. */
  encoded(): Uint8Array {
    return this.#bytes.subarray(0, this.#entries * ENTRY_BYTES);
  }

  entry(at: number): { readonly offset: Offset; readonly position: number } {
    assert(at >= 0 && at < this.#entries, 'an index entry exists', { at, entries: this.#entries });
    return {
      offset: (this.baseOffset + int32At(this.#bytes, at * ENTRY_BYTES)) as Offset,
      position: this.positionAt(at),
    };
  }

  positionAt(at: number): number {
    return int32At(this.#bytes, at * ENTRY_BYTES + 4);
  }

  /** Adds the batch at `position` whose last offset is `offset`; both above all before. */
  append(offset: Offset, position: number): void {
    const at = this.#entries * ENTRY_BYTES;
    assert(
      at === 0 || offset - this.baseOffset > int32At(this.#bytes, at - ENTRY_BYTES),
      'index offsets grow',
      { offset, position },
    );
    if (at === this.#bytes.length) this.#grow();
    setInt32(this.#bytes, at, offset - this.baseOffset);
    setInt32(this.#bytes, at + 4, position);
    this.#entries++;
  }

  /**
   * The number of the last entry at or below `offset`, -1 when there is none: a search for `offset`
   * begins at its position, or at the start of the segment.
   */
  floor(offset: number): number {
    const relative = offset - this.baseOffset;
    let low = 0;
    let high = this.#entries;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if (int32At(this.#bytes, middle * ENTRY_BYTES) <= relative) low = middle + 1;
      else high = middle;
    }
    return low - 1;
  }

  /** Forgets the entries at or after `position`. */
  truncateToPosition(position: number): void {
    while (this.#entries > 0 && this.positionAt(this.#entries - 1) >= position) this.#entries--;
  }

  #grow(): void {
    const grown = new Uint8Array(Math.max(FIRST_CAPACITY * ENTRY_BYTES, this.#bytes.length * 2));
    grown.set(this.#bytes);
    this.#bytes = grown;
  }
}
