/**
 * A sparse map from timestamps to offsets in one segment, in Kafka's `.timeindex` format: entries of a
 * timestamp (int64) and a relative offset (int32). An entry says: up to here the latest timestamp is
 * this, and the first batch that has it ends at that offset. Timestamps grow, offsets too.
 */
import { int32At, int64At, setInt32, setInt64 } from '@relevo/record/ints';
import type { Offset } from '@relevo/base/ids';

const ENTRY_BYTES = 12;
const FIRST_CAPACITY = 16;

export interface TimeIndexEntry {
  readonly timestamp: number;
  readonly offset: Offset;
}

export class TimeIndex {
  readonly baseOffset: Offset;
  #bytes: Uint8Array = new Uint8Array(0);
  #entries = 0;

  constructor(baseOffset: Offset) {
    this.baseOffset = baseOffset;
  }

  /** From a file's content; undefined when no segment can have such an index. */
  static decode(baseOffset: Offset, bytes: Uint8Array): TimeIndex | undefined {
    if (bytes.length % ENTRY_BYTES !== 0) return undefined;
    let timestamp = -1;
    let offset = -1;
    for (let at = 0; at < bytes.length; at += ENTRY_BYTES) {
      const nextTimestamp = int64At(bytes, at);
      const nextOffset = int32At(bytes, at + 8);
      if (nextTimestamp <= timestamp || nextOffset <= offset) return undefined;
      if (!Number.isSafeInteger(nextTimestamp)) return undefined;
      timestamp = nextTimestamp;
      offset = nextOffset;
    }
    const index = new TimeIndex(baseOffset);
    index.#bytes = bytes;
    index.#entries = bytes.length / ENTRY_BYTES;
    return index;
  }

  get entries(): number {
    return this.#entries;
  }

  /** The file's content; a view. */
  encoded(): Uint8Array {
    return this.#bytes.subarray(0, this.#entries * ENTRY_BYTES);
  }

  entry(at: number): TimeIndexEntry | undefined {
    if (at < 0 || at >= this.#entries) return undefined;
    return {
      timestamp: int64At(this.#bytes, at * ENTRY_BYTES),
      offset: (this.baseOffset + int32At(this.#bytes, at * ENTRY_BYTES + 8)) as Offset,
    };
  }

  get last(): TimeIndexEntry | undefined {
    return this.entry(this.#entries - 1);
  }

  /** Adds an entry unless the latest timestamp has not grown since the last one. */
  append(timestamp: number, offset: Offset): void {
    const last = this.last;
    if (timestamp <= (last?.timestamp ?? -1)) return;
    const at = this.#entries * ENTRY_BYTES;
    if (at === this.#bytes.length) this.#grow();
    setInt64(this.#bytes, at, timestamp);
    setInt32(this.#bytes, at + 8, offset - this.baseOffset);
    this.#entries++;
  }

  /** The last entry whose timestamp is at or below `timestamp`: nothing before it is later. */
  floor(timestamp: number): TimeIndexEntry | undefined {
    let low = 0;
    let high = this.#entries;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if (int64At(this.#bytes, middle * ENTRY_BYTES) <= timestamp) low = middle + 1;
      else high = middle;
    }
    return this.entry(low - 1);
  }

  /** Forgets the entries whose offset is at or above `offset`. */
  truncateTo(offset: Offset): void {
    while (this.#entries > 0 && (this.last?.offset ?? 0) >= offset) this.#entries--;
  }

  #grow(): void {
    const grown = new Uint8Array(Math.max(FIRST_CAPACITY * ENTRY_BYTES, this.#bytes.length * 2));
    grown.set(this.#bytes);
    this.#bytes = grown;
  }
}
