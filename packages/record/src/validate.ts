/**
 * Checks of batches that come from outside: a producer, a leader, a disk. What passes here may be
 * appended, replicated and served as it is.
 */
import type { Crc32c } from '@relevo/base/ports';
import { BatchError } from './batch-error.ts';
import type { BatchErrorCode } from './batch-error.ts';
import {
  ATTRIBUTES_AT,
  BATCH_OVERHEAD,
  CRC_AT,
  DELETE_HORIZON_BIT,
  LOG_OVERHEAD,
  MAGIC,
  MAGIC_AT,
  NO_SEQUENCE,
  UNKNOWN_ATTRIBUTES_MASK,
  readBatchHeader,
  sizeInBytesAt,
  tooSmall,
} from './batch-header.ts';
import type { BatchHeader } from './batch-header.ts';
import { int8At, uint32At } from './ints.ts';

export interface BatchLimits {
  /** Largest batch, header included (`max.message.bytes`). */
  readonly maxBytes: number;
  /**
   * `whole`: as a producer sends it, offsets 0, 1, 2 … and at least one record. `thinned`: as a log
   * holds it, compaction may have taken records out, all of them even.
   */
  readonly records: 'whole' | 'thinned';
}

/** No batch is larger than its length field can say. */
export const ANY_BATCH: BatchLimits = { maxBytes: 2 ** 31 - 1, records: 'thinned' };

/**
 * Checks the batch at `at`, whose bytes end at `end` or before, and returns its header. An
 * uncompressed batch is walked record by record: lengths, counts, offset deltas and timestamps. Of a
 * compressed one only the header can be checked here; see UnpackedCheck. Throws a BatchError.
 */
export function validateBatch(
  bytes: Uint8Array,
  at: number,
  end: number,
  crc32c: Crc32c,
  limits: BatchLimits,
): BatchHeader {
  checkFrame(bytes, at, end, limits.maxBytes);
  const size = sizeInBytesAt(bytes, at);
  if (!verifyCrc(bytes, at, size, crc32c)) {
    throw new BatchError(
      'BAD_CRC',
      `the batch of ${size} bytes does not match its CRC ${uint32At(bytes, at + CRC_AT)}`,
    );
  }
  const header = readBatchHeader(bytes, at);
  checkHeader(header, limits);
  if (header.compression === 'none') checkRecords(bytes, at, header, limits);
  return header;
}

/** Whether the batch of `size` bytes at `at` matches its CRC. */
export const verifyCrc = (bytes: Uint8Array, at: number, size: number, crc32c: Crc32c): boolean =>
  crc32c(bytes.subarray(at + ATTRIBUTES_AT, at + size)) === uint32At(bytes, at + CRC_AT);

function checkFrame(bytes: Uint8Array, at: number, end: number, maxBytes: number): void {
  const available = Math.min(end, bytes.length) - at;
  if (available > MAGIC_AT) {
    const magic = int8At(bytes, at + MAGIC_AT);
    if (magic !== MAGIC) throw new BatchError('BAD_MAGIC', `magic is ${magic}, expected ${MAGIC}`);
  }
  if (available >= LOG_OVERHEAD) {
    const size = sizeInBytesAt(bytes, at);
    if (size < BATCH_OVERHEAD) throw tooSmall(size - LOG_OVERHEAD);
    if (size > maxBytes) {
      throw new BatchError('TOO_LARGE', `the batch has ${size} bytes, at most ${maxBytes} may be`);
    }
    if (size <= available) return;
  }
  throw new BatchError('TRUNCATED', `only ${available} bytes of the batch are at hand`);
}

function checkHeader(header: BatchHeader, limits: BatchLimits): void {
  const { attributes, recordCount, lastOffsetDelta } = header;
  if ((attributes & UNKNOWN_ATTRIBUTES_MASK) !== 0) {
    throw new BatchError('BAD_ATTRIBUTES', `unknown bits in attributes ${attributes}`);
  }
  if (limits.records === 'whole') {
    if (recordCount < 1 || recordCount !== lastOffsetDelta + 1) {
      throw new BatchError(
        'BAD_COUNT',
        `record count ${recordCount} with last offset delta ${lastOffsetDelta}`,
      );
    }
    if ((attributes & DELETE_HORIZON_BIT) !== 0) {
      throw new BatchError('BAD_ATTRIBUTES', 'a delete horizon is set in a new batch');
    }
  } else if (recordCount > lastOffsetDelta + 1) {
    throw new BatchError(
      'BAD_COUNT',
      `${recordCount} records do not fit into ${lastOffsetDelta + 1} offsets`,
    );
  }
  checkProducer(header);
}

function checkProducer(header: BatchHeader): void {
  const { producerId, producerEpoch, baseSequence, isControl, isTransactional } = header;
  // Without a producer id, epoch and sequence mean nothing, and some clients leave zeros there.
  if (producerId < 0) {
    if (isTransactional) {
      throw new BatchError('BAD_SEQUENCE', 'a transactional batch has no producer id');
    }
    return;
  }
  if (producerEpoch < 0) {
    throw new BatchError('BAD_SEQUENCE', `producer ${producerId} has epoch ${producerEpoch}`);
  }
  if (!isControl && baseSequence === NO_SEQUENCE) {
    throw new BatchError('BAD_SEQUENCE', `producer ${producerId} gives no sequence`);
  }
}

// The walk keeps its place here and not in an object of its own: it runs for every record.
let place = 0;
let previousDelta = -1;
let maxTimestampDelta = -Infinity;

function checkRecords(
  bytes: Uint8Array,
  at: number,
  header: BatchHeader,
  limits: BatchLimits,
): void {
  const end = at + header.sizeInBytes;
  place = at + BATCH_OVERHEAD;
  previousDelta = -1;
  maxTimestampDelta = -Infinity;
  walk(bytes, end, header, limits, 0, header.recordCount);
  checkWalked(end, header, limits);
}

/**
 * The check of a compressed batch's records once they are unpacked: the same as `validateBatch` makes
 * of uncompressed ones, in steps, because much can be unpacked from little.
 */
export class UnpackedCheck {
  readonly #records: Uint8Array;
  readonly #header: BatchHeader;
  readonly #limits: BatchLimits;
  #index = 0;
  #place = 0;
  #previousDelta = -1;
  #maxTimestampDelta = -Infinity;

  /** `records`: the unpacked records section of the batch with that header. */
  constructor(records: Uint8Array, header: BatchHeader, limits: BatchLimits) {
    this.#records = records;
    this.#header = header;
    this.#limits = limits;
  }

  /** Walks over `recordsMax` more at most; true: they were the last, and all is well. Throws a BatchError. */
  step(recordsMax: number): boolean {
    const { recordCount } = this.#header;
    const to = Math.min(recordCount, this.#index + recordsMax);
    place = this.#place;
    previousDelta = this.#previousDelta;
    maxTimestampDelta = this.#maxTimestampDelta;
    walk(this.#records, this.#records.length, this.#header, this.#limits, this.#index, to);
    this.#index = to;
    this.#place = place;
    this.#previousDelta = previousDelta;
    this.#maxTimestampDelta = maxTimestampDelta;
    if (to < recordCount) return false;
    checkWalked(this.#records.length, this.#header, this.#limits);
    return true;
  }
}

/** Over the records from the `from`th to before the `to`th. */
function walk(
  bytes: Uint8Array,
  end: number,
  { recordCount }: BatchHeader,
  limits: BatchLimits,
  from: number,
  to: number,
): void {
  const whole = limits.records === 'whole';
  for (let index = from; index < to; index++) {
    if (place >= end) refuse('BAD_COUNT', index, `${recordCount} were promised`);
    const length = readVarint(bytes, end, index);
    const recordEnd = place + length;
    if (length < 1 || recordEnd > end) refuse('BAD_LENGTH', index, `length ${length}`);
    if (bytes[place++] !== 0) refuse('BAD_RECORD', index, 'attributes are set');
    const timestampDelta = readVarlong(bytes, recordEnd, index);
    if (timestampDelta > maxTimestampDelta) maxTimestampDelta = timestampDelta;
    const offsetDelta = readVarint(bytes, recordEnd, index);
    if (whole ? offsetDelta !== index : offsetDelta <= previousDelta) {
      refuse('BAD_OFFSET', index, `offset delta ${offsetDelta} after ${previousDelta}`);
    }
    previousDelta = offsetDelta;
    skipField(bytes, recordEnd, index);
    skipField(bytes, recordEnd, index);
    skipHeaders(bytes, recordEnd, index);
    if (place !== recordEnd) {
      refuse('BAD_LENGTH', index, `${recordEnd - place} bytes left over`);
    }
  }
}

/** What can be said when all records have been walked over. */
function checkWalked(end: number, header: BatchHeader, limits: BatchLimits): void {
  const { recordCount, lastOffsetDelta } = header;
  if (place !== end) {
    throw new BatchError(
      'BAD_COUNT',
      `${end - place} bytes follow the ${recordCount} records that were promised`,
    );
  }
  if (previousDelta > lastOffsetDelta) {
    throw new BatchError('BAD_OFFSET', `delta ${previousDelta} is above ${lastOffsetDelta}`);
  }
  checkTimestamps(header, maxTimestampDelta, limits.records === 'whole');
}

/** Only create times can be checked: after an append with log append time the deltas mean nothing. */
function checkTimestamps(header: BatchHeader, maxDelta: number, whole: boolean): void {
  if (header.timestampType !== 'createTime' || header.recordCount === 0) return;
  if ((header.attributes & DELETE_HORIZON_BIT) !== 0) return;
  const actual = header.baseTimestamp + maxDelta;
  if (whole ? actual !== header.maxTimestamp : actual > header.maxTimestamp) {
    throw new BatchError(
      'BAD_TIMESTAMP',
      `the latest record is of ${actual}, the header says ${header.maxTimestamp}`,
    );
  }
}

function refuse(code: BatchErrorCode, index: number, what: string): never {
  throw new BatchError(code, `record ${index}: ${what}`);
}

/** A key or a value: a length, -1 for null, and the bytes. */
function skipField(bytes: Uint8Array, end: number, index: number): void {
  const length = readVarint(bytes, end, index);
  if (length < -1 || length > end - place) refuse('BAD_LENGTH', index, `field of ${length} bytes`);
  if (length > 0) place += length;
}

function skipHeaders(bytes: Uint8Array, end: number, index: number): void {
  const count = readVarint(bytes, end, index);
  // Each takes two bytes at least: a count above that is a lie, found before the loop runs.
  if (count < 0 || count * 2 > end - place) refuse('BAD_COUNT', index, `${count} headers`);
  for (let header = 0; header < count; header++) {
    const keyLength = readVarint(bytes, end, index);
    if (keyLength < 0 || keyLength > end - place) {
      refuse('BAD_LENGTH', index, `header name of ${keyLength} bytes`);
    }
    place += keyLength;
    skipField(bytes, end, index);
  }
}

function readVarint(bytes: Uint8Array, end: number, index: number): number {
  let value = 0;
  for (let shift = 0; shift < 35; shift += 7) {
    if (place >= end) refuse('BAD_LENGTH', index, 'it ends within a field');
    const byte = bytes[place++] ?? 0;
    value |= (byte & 0x7f) << shift;
    if (byte < 0x80) return (value >>> 1) ^ -(value & 1);
  }
  refuse('BAD_RECORD', index, 'a varint has more than five bytes');
}

function readVarlong(bytes: Uint8Array, end: number, index: number): number {
  let value = 0;
  let scale = 1;
  for (let count = 0; count < 10; count++) {
    if (place >= end) refuse('BAD_LENGTH', index, 'it ends within a field');
    const byte = bytes[place++] ?? 0;
    value += (byte & 0x7f) * scale;
    if (byte < 0x80) {
      if (value > 2 ** 53) break;
      return value % 2 === 0 ? value / 2 : -(value + 1) / 2;
    }
    scale *= 128;
  }
  refuse('BAD_TIMESTAMP', index, 'the timestamp delta is beyond 2^52');
}

/** Where a batch lies in a run of batches. */
export interface BatchSlice {
  readonly at: number;
  /** As its length field says, or what is there of it when even that field is cut off. */
  readonly sizeInBytes: number;
  /** False for the last one of a run that was cut within a batch. */
  readonly complete: boolean;
}

/**
 * The batches in a run of them, by their length fields alone. A partial last batch is yielded with
 * `complete: false`. Throws a BatchError (TOO_SMALL) at a length that no batch has.
 */
export function* batchesOf(
  bytes: Uint8Array,
  start = 0,
  end: number = bytes.length,
): Generator<BatchSlice, void, undefined> {
  let at = start;
  while (at < end) {
    if (end - at < LOG_OVERHEAD) {
      yield { at, sizeInBytes: end - at, complete: false };
      return;
    }
    const sizeInBytes = sizeInBytesAt(bytes, at);
    if (sizeInBytes < BATCH_OVERHEAD) throw tooSmall(sizeInBytes - LOG_OVERHEAD);
    const complete = sizeInBytes <= end - at;
    yield { at, sizeInBytes, complete };
    if (!complete) return;
    at += sizeInBytes;
  }
}
