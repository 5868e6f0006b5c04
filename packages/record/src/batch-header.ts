/**
 * The header of a RecordBatch, format version (magic) 2, as Kafka defines it. Big-endian:
 *
 *     0 baseOffset int64          21 attributes int16        43 producerId int64
 *     8 batchLength int32         23 lastOffsetDelta int32   51 producerEpoch int16
 *    12 leaderEpoch int32         27 baseTimestamp int64     53 baseSequence int32
 *    16 magic int8                35 maxTimestamp int64      57 recordCount int32
 *    17 crc uint32                                           61 records
 *
 * `batchLength` counts from byte 12. The CRC-32C covers byte 21 to the end: base offset and leader
 * epoch lie outside, so a broker sets them in place without touching the checksum.
 */
import type { LeaderEpoch, Offset, ProducerEpoch, ProducerId } from '@relevo/base/ids';
import type { Crc32c } from '@relevo/base/ports';
import { BatchError } from './batch-error.ts';
import { compressionOf } from './compression.ts';
import type { CompressionType } from './compression.ts';
import {
  int16At,
  int32At,
  int64At,
  int8At,
  setInt16,
  setInt32,
  setInt64,
  uint32At,
} from './ints.ts';

/** Bytes before the records. */
export const BATCH_OVERHEAD = 61;
/** Bytes that `batchLength` does not count: base offset and the length itself. */
export const LOG_OVERHEAD = 12;
export const MAGIC = 2;

export const BASE_OFFSET_AT = 0;
export const BATCH_LENGTH_AT = 8;
export const LEADER_EPOCH_AT = 12;
export const MAGIC_AT = 16;
export const CRC_AT = 17;
export const ATTRIBUTES_AT = 21;
export const LAST_OFFSET_DELTA_AT = 23;
export const BASE_TIMESTAMP_AT = 27;
export const MAX_TIMESTAMP_AT = 35;
export const PRODUCER_ID_AT = 43;
export const PRODUCER_EPOCH_AT = 51;
export const BASE_SEQUENCE_AT = 53;
export const RECORD_COUNT_AT = 57;

export const COMPRESSION_MASK = 0x07;
export const LOG_APPEND_TIME_BIT = 0x08;
export const TRANSACTIONAL_BIT = 0x10;
export const CONTROL_BIT = 0x20;
/** Set by compaction: `baseTimestamp` is then when tombstones may go (KIP-534). */
export const DELETE_HORIZON_BIT = 0x40;
export const UNKNOWN_ATTRIBUTES_MASK = 0xff80;

/** Sequence numbers run from 0 to this and wrap to 0. */
export const SEQUENCE_MAX: number = 2 ** 31 - 1;

/** Stands for "no timestamp" and, for a sequence, for "none". */
export const NO_TIMESTAMP = -1;
export const NO_SEQUENCE = -1;

/** Latest timestamp that a batch may begin at so that every delta is exact: the year 144,683. */
export const TIMESTAMP_MAX_MS: number = 2 ** 52;

export type TimestampType = 'createTime' | 'logAppendTime';

export interface BatchHeader {
  readonly baseOffset: Offset;
  /** As on the wire: bytes after the length field. */
  readonly batchLength: number;
  /** The whole batch: `batchLength` + 12. */
  readonly sizeInBytes: number;
  readonly partitionLeaderEpoch: LeaderEpoch;
  readonly magic: number;
  readonly crc: number;
  readonly attributes: number;
  readonly compression: CompressionType;
  readonly timestampType: TimestampType;
  readonly isTransactional: boolean;
  readonly isControl: boolean;
  readonly lastOffsetDelta: number;
  readonly lastOffset: Offset;
  /** The offset after the batch. */
  readonly nextOffset: Offset;
  /** Ms since 1970 UTC; the timestamps of the records count from it. */
  readonly baseTimestamp: number;
  readonly maxTimestamp: number;
  readonly producerId: ProducerId;
  readonly producerEpoch: ProducerEpoch;
  /** Of the first record; -1: none. */
  readonly baseSequence: number;
  readonly lastSequence: number;
  readonly recordCount: number;
}

/** The sequence number `by` records after `sequence`: 2^31-1 wraps to 0. */
export const sequenceAfter = (sequence: number, by: number): number =>
  sequence > SEQUENCE_MAX - by ? by - (SEQUENCE_MAX - sequence) - 1 : sequence + by;

/**
 * Reads the header at `at`. The CRC is not checked and the records need not be at hand.
 * Throws a BatchError when fewer than 61 bytes are, or when a field has a value that no batch can
 * have; `compression` and `magic` included.
 */
export function readBatchHeader(bytes: Uint8Array, at = 0): BatchHeader {
  if (at < 0 || bytes.length - at < BATCH_OVERHEAD) {
    throw new BatchError(
      'TRUNCATED',
      `a batch header has ${BATCH_OVERHEAD} bytes, ${bytes.length - at} are at hand`,
    );
  }
  const magic = int8At(bytes, at + MAGIC_AT);
  if (magic !== MAGIC) throw new BatchError('BAD_MAGIC', `magic is ${magic}, expected ${MAGIC}`);
  const batchLength = int32At(bytes, at + BATCH_LENGTH_AT);
  if (batchLength < BATCH_OVERHEAD - LOG_OVERHEAD) throw tooSmall(batchLength);
  const attributes = int16At(bytes, at + ATTRIBUTES_AT);
  const compression = compressionOf(attributes & COMPRESSION_MASK);
  if (compression === undefined) {
    throw new BatchError('BAD_COMPRESSION', `no codec ${attributes & COMPRESSION_MASK}`);
  }
  const baseOffset = int64At(bytes, at + BASE_OFFSET_AT);
  const lastOffsetDelta = int32At(bytes, at + LAST_OFFSET_DELTA_AT);
  const nextOffset = baseOffset + lastOffsetDelta + 1;
  if (baseOffset < 0 || lastOffsetDelta < 0 || !Number.isSafeInteger(nextOffset)) {
    throw new BatchError('BAD_OFFSET', `base offset ${baseOffset}, last delta ${lastOffsetDelta}`);
  }
  const recordCount = int32At(bytes, at + RECORD_COUNT_AT);
  if (recordCount < 0) throw new BatchError('BAD_COUNT', `record count ${recordCount}`);
  const baseTimestamp = int64At(bytes, at + BASE_TIMESTAMP_AT);
  const maxTimestamp = int64At(bytes, at + MAX_TIMESTAMP_AT);
  if (!isTimestamp(baseTimestamp) || !isTimestamp(maxTimestamp)) {
    throw new BatchError('BAD_TIMESTAMP', `base ${baseTimestamp}, max ${maxTimestamp}`);
  }
  const producerId = int64At(bytes, at + PRODUCER_ID_AT);
  const producerEpoch = int16At(bytes, at + PRODUCER_EPOCH_AT);
  const baseSequence = int32At(bytes, at + BASE_SEQUENCE_AT);
  if (!(producerId >= -1 && Number.isSafeInteger(producerId))) {
    throw new BatchError('BAD_SEQUENCE', `producer id ${producerId}`);
  }
  if (producerEpoch < -1 || baseSequence < NO_SEQUENCE) {
    throw new BatchError('BAD_SEQUENCE', `epoch ${producerEpoch}, sequence ${baseSequence}`);
  }
  // The brands below are granted here: each value has just been checked.
  return {
    baseOffset: baseOffset as Offset,
    batchLength,
    sizeInBytes: batchLength + LOG_OVERHEAD,
    partitionLeaderEpoch: int32At(bytes, at + LEADER_EPOCH_AT) as LeaderEpoch,
    magic,
    crc: uint32At(bytes, at + CRC_AT),
    attributes,
    compression,
    timestampType: (attributes & LOG_APPEND_TIME_BIT) === 0 ? 'createTime' : 'logAppendTime',
    isTransactional: (attributes & TRANSACTIONAL_BIT) !== 0,
    isControl: (attributes & CONTROL_BIT) !== 0,
    lastOffsetDelta,
    lastOffset: (nextOffset - 1) as Offset,
    nextOffset: nextOffset as Offset,
    baseTimestamp,
    maxTimestamp,
    producerId: producerId as ProducerId,
    producerEpoch: producerEpoch as ProducerEpoch,
    baseSequence,
    lastSequence:
      baseSequence === NO_SEQUENCE ? NO_SEQUENCE : sequenceAfter(baseSequence, lastOffsetDelta),
    recordCount,
  };
}

export const tooSmall = (batchLength: number): BatchError =>
  new BatchError(
    'TOO_SMALL',
    `the length field says ${batchLength}, a batch has at least ${BATCH_OVERHEAD - LOG_OVERHEAD}`,
  );

const isTimestamp = (value: number): boolean => value >= NO_TIMESTAMP && value <= TIMESTAMP_MAX_MS;

// Single fields, for hot paths. The batch must have been validated before.

export const baseOffsetAt = (bytes: Uint8Array, at = 0): Offset => int64At(bytes, at) as Offset;

/** The whole batch's size. Needs only the first 12 bytes. */
export const sizeInBytesAt = (bytes: Uint8Array, at = 0): number =>
  int32At(bytes, at + BATCH_LENGTH_AT) + LOG_OVERHEAD;

export const leaderEpochAt = (bytes: Uint8Array, at = 0): LeaderEpoch =>
  int32At(bytes, at + LEADER_EPOCH_AT) as LeaderEpoch;

/** The offset after the batch. */
export const nextOffsetAt = (bytes: Uint8Array, at = 0): Offset =>
  (int64At(bytes, at) + int32At(bytes, at + LAST_OFFSET_DELTA_AT) + 1) as Offset;

export const maxTimestampAt = (bytes: Uint8Array, at = 0): number =>
  int64At(bytes, at + MAX_TIMESTAMP_AT);

export const recordCountAt = (bytes: Uint8Array, at = 0): number =>
  int32At(bytes, at + RECORD_COUNT_AT);

/** Sets base offset and leader epoch in place; the CRC stays right, for it covers neither. */
export function patchBatch(
  bytes: Uint8Array,
  at: number,
  fields: { readonly baseOffset: Offset; readonly leaderEpoch: LeaderEpoch },
): void {
  setInt64(bytes, at + BASE_OFFSET_AT, fields.baseOffset);
  setInt32(bytes, at + LEADER_EPOCH_AT, fields.leaderEpoch);
}

/** Makes `timestampMs` the time of all records (`message.timestamp.type=LogAppendTime`); new CRC. */
export function patchLogAppendTime(
  bytes: Uint8Array,
  at: number,
  timestampMs: number,
  crc32c: Crc32c,
): void {
  const attributes = int16At(bytes, at + ATTRIBUTES_AT) | LOG_APPEND_TIME_BIT;
  setInt16(bytes, at + ATTRIBUTES_AT, attributes);
  setInt64(bytes, at + MAX_TIMESTAMP_AT, timestampMs);
  writeCrc(bytes, at, sizeInBytesAt(bytes, at), crc32c);
}

/** Gives a batch that was not accepted yet another producer identity (epoch bump); new CRC. */
export function patchProducer(
  bytes: Uint8Array,
  at: number,
  fields: {
    readonly producerId: ProducerId;
    readonly producerEpoch: ProducerEpoch;
    readonly baseSequence: number;
  },
  crc32c: Crc32c,
): void {
  setInt64(bytes, at + PRODUCER_ID_AT, fields.producerId);
  setInt16(bytes, at + PRODUCER_EPOCH_AT, fields.producerEpoch);
  setInt32(bytes, at + BASE_SEQUENCE_AT, fields.baseSequence);
  writeCrc(bytes, at, sizeInBytesAt(bytes, at), crc32c);
}

/** Computes and writes the CRC of the batch of `size` bytes at `at`. */
export function writeCrc(bytes: Uint8Array, at: number, size: number, crc32c: Crc32c): void {
  setInt32(bytes, at + CRC_AT, crc32c(bytes.subarray(at + ATTRIBUTES_AT, at + size)));
}
