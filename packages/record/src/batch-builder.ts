/**
 * Writes records straight into the bytes of one RecordBatch. A record on the wire, after its length:
 *
 *     attributes int8 (0), timestampDelta varlong, offsetDelta varint,
 *     keyLength varint (-1: null), key, valueLength varint (-1: null), value,
 *     headerCount varint, per header: nameLength varint, name, valueLength varint, value
 *
 * This is the SDK's hot path: nothing is allocated per record. Text is taken to be ASCII while it is
 * written; where it is not, the record is begun again with encoded bytes.
 */
import { assert } from '@relevo/base/assert';
import { utf8Encode, utf8EncodeInto, varintSize, varlongSize } from '@relevo/base/bytes';
import { NO_PRODUCER_EPOCH, NO_PRODUCER_ID } from '@relevo/base/ids';
import type { LeaderEpoch, Offset, ProducerEpoch, ProducerId } from '@relevo/base/ids';
import type { Crc32c } from '@relevo/base/ports';
import {
  ATTRIBUTES_AT,
  BASE_OFFSET_AT,
  BASE_SEQUENCE_AT,
  BASE_TIMESTAMP_AT,
  BATCH_LENGTH_AT,
  BATCH_OVERHEAD,
  CONTROL_BIT,
  LAST_OFFSET_DELTA_AT,
  LEADER_EPOCH_AT,
  LOG_APPEND_TIME_BIT,
  LOG_OVERHEAD,
  MAGIC,
  MAGIC_AT,
  MAX_TIMESTAMP_AT,
  NO_SEQUENCE,
  PRODUCER_EPOCH_AT,
  PRODUCER_ID_AT,
  RECORD_COUNT_AT,
  TRANSACTIONAL_BIT,
  writeCrc,
} from './batch-header.ts';
import type { TimestampType } from './batch-header.ts';
import { compressionNumber } from './compression.ts';
import type { CompressionType } from './compression.ts';
import { setInt16, setInt32, setInt64 } from './ints.ts';

/** Text is written as UTF-8. */
export type FieldInput = Uint8Array | string | null;
export type HeaderInput = readonly [name: string, value: Uint8Array | null];

export const NO_HEADERS: readonly HeaderInput[] = [];

export interface BatchOptions {
  /** Default: 0; the leader sets it. */
  readonly baseOffset?: Offset;
  /** Default: -1; the leader sets it. */
  readonly leaderEpoch?: LeaderEpoch;
  /** Default: -1, none. */
  readonly producerId?: ProducerId;
  readonly producerEpoch?: ProducerEpoch;
  readonly baseSequence?: number;
  /** Default: false. */
  readonly isTransactional?: boolean;
  readonly isControl?: boolean;
  /** Default: createTime. */
  readonly timestampType?: TimestampType;
  /** `records()`, compressed. */
  readonly compressed?: { readonly type: CompressionType; readonly records: Uint8Array };
}

/** Largest room a record's own varints take. */
const RECORD_OVERHEAD_MAX = 5 + 1 + 10 + 5 + 5 + 5 + 5;
/** From here on a native call beats a loop: measured on V8. */
const NATIVE_TEXT_FROM = 48;
const NATIVE_COPY_FROM = 24;

/** Bytes of the varint of a length of at least -1. */
const lengthSize = (length: number): number =>
  length < 64 ? 1 : length < 8192 ? 2 : varintSize(length);

export class BatchBuilder {
  readonly #allocate: (size: number) => Uint8Array;
  readonly #initialCapacity: number;
  #bytes: Uint8Array = new Uint8Array(0);
  #length = BATCH_OVERHEAD;
  #count = 0;
  #baseTimestamp = 0;
  #maxTimestamp = 0;

  /**
   * `capacity`: bytes taken at the first record; it doubles when it is full. `allocate` may hand out
   * used buffers, of the size asked for or larger.
   */
  constructor(
    capacity = 16_384,
    allocate: (size: number) => Uint8Array = (size) => new Uint8Array(size),
  ) {
    assert(capacity >= BATCH_OVERHEAD, 'a builder has room for a header', { capacity });
    this.#initialCapacity = capacity;
    this.#allocate = allocate;
  }

  /** Records so far. */
  get count(): number {
    return this.#count;
  }

  /** Bytes of the batch so far, header included, uncompressed. */
  get sizeInBytes(): number {
    return this.#length;
  }

  get maxTimestamp(): number {
    return this.#maxTimestamp;
  }

  /** Exactly what `sizeInBytes` would be after such an append. */
  sizeAfter(
    key: FieldInput,
    value: FieldInput,
    headers: readonly HeaderInput[],
    timestampMs: number,
  ): number {
    const body = this.#bodySize(
      fieldSize(key),
      fieldSize(value),
      headersSize(headers),
      timestampMs,
    );
    return this.#length + lengthSize(body) + body;
  }

  hasRoomFor(
    key: FieldInput,
    value: FieldInput,
    headers: readonly HeaderInput[],
    timestampMs: number,
    maxBytes: number,
  ): boolean {
    return this.sizeAfter(key, value, headers, timestampMs) <= maxBytes;
  }

  append(
    key: FieldInput,
    value: FieldInput,
    headers: readonly HeaderInput[],
    timestampMs: number,
  ): void {
    const appended = this.tryAppend(key, value, headers, timestampMs, Infinity);
    assert(appended, 'an append without a limit succeeds');
  }

  /**
   * Appends the record unless the batch would then have more than `maxBytes`; false when nothing was
   * done. `timestampMs` is an integer from -1 to 2^52.
   */
  tryAppend(
    key: FieldInput,
    value: FieldInput,
    headers: readonly HeaderInput[],
    timestampMs: number,
    maxBytes: number,
  ): boolean {
    const keyLength = key === null ? -1 : key.length;
    const valueLength = value === null ? -1 : value.length;
    const body = this.#bodySize(
      keyLength,
      valueLength,
      headers.length === 0 ? 1 : headersSize(headers),
      timestampMs,
    );
    // For text that is not ASCII this is too little; then the record is begun again below.
    if (this.#length + lengthSize(body) + body > maxBytes) return false;
    this.#reserve(body + RECORD_OVERHEAD_MAX);
    const bytes = this.#bytes;
    const delta = this.#count === 0 ? 0 : timestampMs - this.#baseTimestamp;
    let at = writeVarint(bytes, this.#length, body);
    bytes[at++] = 0;
    at = writeVarlong(bytes, at, delta);
    at = writeVarint(bytes, at, this.#count);
    at = writeVarint(bytes, at, keyLength);
    if (key !== null) {
      if (!writeField(bytes, at, key)) {
        return this.tryAppend(encoded(key), value, headers, timestampMs, maxBytes);
      }
      at += keyLength;
    }
    at = writeVarint(bytes, at, valueLength);
    if (value !== null) {
      if (!writeField(bytes, at, value)) {
        return this.tryAppend(key, encoded(value), headers, timestampMs, maxBytes);
      }
      at += valueLength;
    }
    at = headers.length === 0 ? writeVarint(bytes, at, 0) : writeHeaders(bytes, at, headers);
    this.#commit(at, timestampMs);
    return true;
  }

  /** The records written so far, for compression: a view, valid until the next append. */
  records(): Uint8Array {
    return this.#bytes.subarray(BATCH_OVERHEAD, this.#length);
  }

  /**
   * Completes the batch and leaves the builder empty. Without `compressed` the result is the
   * builder's own buffer, handed over: no copy. Needs at least one record.
   */
  build(options: BatchOptions, crc32c: Crc32c): Uint8Array {
    assert(this.#count > 0, 'a batch has a record');
    const { compressed } = options;
    let batch: Uint8Array;
    if (compressed === undefined) {
      batch = this.#bytes.subarray(0, this.#length);
      this.#bytes = new Uint8Array(0);
    } else {
      batch = new Uint8Array(BATCH_OVERHEAD + compressed.records.length);
      batch.set(compressed.records, BATCH_OVERHEAD);
    }
    writeHeader(batch, options, {
      recordCount: this.#count,
      baseTimestamp: this.#baseTimestamp,
      maxTimestamp: this.#maxTimestamp,
    });
    writeCrc(batch, 0, batch.length, crc32c);
    this.reset();
    return batch;
  }

  /** Forgets the records; keeps the buffer. */
  reset(): void {
    this.#length = BATCH_OVERHEAD;
    this.#count = 0;
    this.#baseTimestamp = 0;
    this.#maxTimestamp = 0;
  }

  #bodySize(keyLength: number, valueLength: number, headers: number, timestampMs: number): number {
    const delta = this.#count === 0 ? 0 : timestampMs - this.#baseTimestamp;
    return (
      1 +
      (delta >= -64 && delta < 64 ? 1 : varlongSize(delta)) +
      lengthSize(this.#count) +
      lengthSize(keyLength) +
      (keyLength < 0 ? 0 : keyLength) +
      lengthSize(valueLength) +
      (valueLength < 0 ? 0 : valueLength) +
      headers
    );
  }

  #commit(end: number, timestampMs: number): void {
    if (this.#count === 0) {
      this.#baseTimestamp = timestampMs;
      this.#maxTimestamp = timestampMs;
    } else if (timestampMs > this.#maxTimestamp) {
      this.#maxTimestamp = timestampMs;
    }
    this.#count++;
    this.#length = end;
  }

  #reserve(more: number): void {
    const needed = this.#length + more;
    if (needed <= this.#bytes.length) return;
    const wanted = Math.max(needed, this.#bytes.length * 2, this.#initialCapacity);
    const grown = this.#allocate(wanted);
    assert(grown.length >= needed, 'the allocator gave what was asked for');
    grown.set(this.#bytes.subarray(0, this.#count === 0 ? 0 : this.#length));
    this.#bytes = grown;
  }
}

/** What a header says about the records that follow it. */
export interface RecordsFacts {
  readonly recordCount: number;
  readonly baseTimestamp: number;
  readonly maxTimestamp: number;
}

function writeHeader(batch: Uint8Array, options: BatchOptions, records: RecordsFacts): void {
  const attributes =
    compressionNumber(options.compressed?.type ?? 'none') |
    (options.timestampType === 'logAppendTime' ? LOG_APPEND_TIME_BIT : 0) |
    (options.isTransactional === true ? TRANSACTIONAL_BIT : 0) |
    (options.isControl === true ? CONTROL_BIT : 0);
  setInt64(batch, BASE_OFFSET_AT, options.baseOffset ?? 0);
  setInt32(batch, BATCH_LENGTH_AT, batch.length - LOG_OVERHEAD);
  setInt32(batch, LEADER_EPOCH_AT, options.leaderEpoch ?? -1);
  batch[MAGIC_AT] = MAGIC;
  setInt16(batch, ATTRIBUTES_AT, attributes);
  setInt32(batch, LAST_OFFSET_DELTA_AT, records.recordCount - 1);
  setInt64(batch, BASE_TIMESTAMP_AT, records.baseTimestamp);
  setInt64(batch, MAX_TIMESTAMP_AT, records.maxTimestamp);
  setInt64(batch, PRODUCER_ID_AT, options.producerId ?? NO_PRODUCER_ID);
  setInt16(batch, PRODUCER_EPOCH_AT, options.producerEpoch ?? NO_PRODUCER_EPOCH);
  setInt32(batch, BASE_SEQUENCE_AT, options.baseSequence ?? NO_SEQUENCE);
  setInt32(batch, RECORD_COUNT_AT, records.recordCount);
}

function encoded(field: FieldInput): Uint8Array | null {
  return typeof field === 'string' ? utf8Encode(field) : field;
}

/** Length in bytes; -1 for null. */
function fieldSize(field: FieldInput): number {
  if (field === null) return -1;
  return typeof field === 'string' ? utf8Size(field) : field.length;
}

function utf8Size(text: string): number {
  for (let at = 0; at < text.length; at++) {
    if (text.charCodeAt(at) > 0x7f) return utf8Encode(text).length;
  }
  return text.length;
}

function headersSize(headers: readonly HeaderInput[]): number {
  let size = lengthSize(headers.length);
  for (const [name, value] of headers) {
    const nameLength = utf8Size(name);
    const valueLength = value === null ? -1 : value.length;
    size += lengthSize(nameLength) + nameLength + lengthSize(valueLength);
    if (value !== null) size += valueLength;
  }
  return size;
}

function writeHeaders(bytes: Uint8Array, start: number, headers: readonly HeaderInput[]): number {
  let at = writeVarint(bytes, start, headers.length);
  for (const [name, value] of headers) {
    const nameLength = utf8Size(name);
    at = writeVarint(bytes, at, nameLength);
    if (!writeField(bytes, at, name)) bytes.set(utf8Encode(name), at);
    at += nameLength;
    at = writeVarint(bytes, at, value === null ? -1 : value.length);
    if (value !== null) {
      bytes.set(value, at);
      at += value.length;
    }
  }
  return at;
}

/** Writes the field's `length` bytes at `at`; false when it is text that takes more than that. */
function writeField(bytes: Uint8Array, at: number, field: Uint8Array | string): boolean {
  const length = field.length;
  if (typeof field === 'string') {
    if (length >= NATIVE_TEXT_FROM) {
      const { read, written } = utf8EncodeInto(field, bytes.subarray(at, at + length));
      return read === length && written === length;
    }
    for (let index = 0; index < length; index++) {
      const code = field.charCodeAt(index);
      if (code > 0x7f) return false;
      bytes[at + index] = code;
    }
  } else if (length >= NATIVE_COPY_FROM) {
    bytes.set(field, at);
  } else {
    for (let index = 0; index < length; index++) bytes[at + index] = field[index] ?? 0;
  }
  return true;
}

function writeVarint(bytes: Uint8Array, start: number, value: number): number {
  let rest = ((value << 1) ^ (value >> 31)) >>> 0;
  let at = start;
  while (rest > 0x7f) {
    bytes[at++] = (rest & 0x7f) | 0x80;
    rest >>>= 7;
  }
  bytes[at++] = rest;
  return at;
}

function writeVarlong(bytes: Uint8Array, start: number, value: number): number {
  if (value >= -0x4000_0000 && value < 0x4000_0000) return writeVarint(bytes, start, value);
  let rest = value >= 0 ? value * 2 : -value * 2 - 1;
  let at = start;
  while (rest > 0x7f) {
    bytes[at++] = (rest % 128) | 0x80;
    rest = Math.floor(rest / 128);
  }
  bytes[at++] = rest;
  return at;
}
