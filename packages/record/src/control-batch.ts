/**
 * Control batches: one record whose key says what it marks (Kafka's `ControlRecordType`). Key: version
 * int16 (0), type int16. Value of a commit or abort: version int16 (0), coordinator epoch int32. Value
 * of a leader change (KIP-595): version int16 (0), leader int32, voters and granting voters as compact
 * arrays of int32 with tagged fields.
 */
import { ByteReader, ByteWriter, BytesError } from '@relevo/base/bytes';
import { brokerId } from '@relevo/base/ids';
import type { BrokerId, LeaderEpoch, Offset, ProducerEpoch, ProducerId } from '@relevo/base/ids';
import type { Crc32c } from '@relevo/base/ports';
import { BatchBuilder, NO_HEADERS } from './batch-builder.ts';
import { BatchError } from './batch-error.ts';
import { readBatchHeader } from './batch-header.ts';
import { decodeRecords } from './records.ts';

export type ControlRecord =
  | { readonly type: 'commit' | 'abort'; readonly coordinatorEpoch: number }
  | {
      readonly type: 'leaderChange';
      readonly leader: BrokerId;
      readonly voters: readonly BrokerId[];
      readonly grantingVoters: readonly BrokerId[];
    }
  /** A kind that we do not write; readers pass over it. */
  | { readonly type: 'other'; readonly number: number };

const TYPE_NUMBERS = { abort: 0, commit: 1, leaderChange: 2 } as const;

export interface ControlBatchOptions {
  readonly baseOffset?: Offset;
  readonly leaderEpoch?: LeaderEpoch;
  /** Of the transaction that a commit or abort ends; a leader change has none. */
  readonly producerId?: ProducerId;
  readonly producerEpoch?: ProducerEpoch;
  readonly timestampMs: number;
}

/** A whole control batch with the one record. */
export function encodeControlBatch(
  record: Exclude<ControlRecord, { type: 'other' }>,
  options: ControlBatchOptions,
  crc32c: Crc32c,
): Uint8Array {
  const key = new ByteWriter(4).int16(0).int16(TYPE_NUMBERS[record.type]).finish();
  const { timestampMs, ...batch } = options;
  const builder = new BatchBuilder(256);
  builder.append(key, encodeValue(record), NO_HEADERS, timestampMs);
  const isTransactional = record.type !== 'leaderChange';
  return builder.build({ ...batch, isControl: true, isTransactional }, crc32c);
}

/** Reads the marker of the control batch at `at`. Throws a BatchError when it holds none. */
export function decodeControlBatch(bytes: Uint8Array, at = 0): ControlRecord {
  const header = readBatchHeader(bytes, at);
  const [record] = decodeRecords(bytes, at, header);
  const key = record?.key ?? null;
  if (!header.isControl || record === undefined || key === null) {
    throw new BatchError('BAD_RECORD', 'it is not a control batch with a record');
  }
  try {
    const reader = new ByteReader(key);
    reader.int16();
    return decodeValue(reader.int16(), record.value ?? new Uint8Array(0));
  } catch (error) {
    if (!(error instanceof BytesError)) throw error;
    throw new BatchError('BAD_RECORD', `control record: ${error.message}`, { cause: error });
  }
}

function encodeValue(record: Exclude<ControlRecord, { type: 'other' }>): Uint8Array {
  const writer = new ByteWriter(32).int16(0);
  if (record.type !== 'leaderChange') return writer.int32(record.coordinatorEpoch).finish();
  writer.int32(record.leader);
  for (const voters of [record.voters, record.grantingVoters]) {
    writeUnsignedVarint(writer, voters.length + 1);
    for (const voter of voters) writer.int32(voter).int8(0);
  }
  return writer.int8(0).finish();
}

function decodeValue(type: number, value: Uint8Array): ControlRecord {
  const reader = new ByteReader(value);
  switch (type) {
    case TYPE_NUMBERS.abort:
    case TYPE_NUMBERS.commit:
      reader.int16();
      return {
        type: type === TYPE_NUMBERS.commit ? 'commit' : 'abort',
        coordinatorEpoch: reader.int32(),
      };
    case TYPE_NUMBERS.leaderChange: {
      reader.int16();
      const leader = brokerId(reader.int32());
      return {
        type: 'leaderChange',
        leader,
        voters: readVoters(reader),
        grantingVoters: readVoters(reader),
      };
    }
    default:
      return { type: 'other', number: type };
  }
}

function readVoters(reader: ByteReader): BrokerId[] {
  const count = readUnsignedVarint(reader) - 1;
  const voters: BrokerId[] = [];
  for (let index = 0; index < count; index++) {
    voters.push(brokerId(reader.int32()));
    skipTaggedFields(reader);
  }
  return voters;
}

function skipTaggedFields(reader: ByteReader): void {
  const count = readUnsignedVarint(reader);
  for (let index = 0; index < count; index++) {
    readUnsignedVarint(reader);
    reader.skip(readUnsignedVarint(reader));
  }
}

function writeUnsignedVarint(writer: ByteWriter, value: number): void {
  let rest = value;
  while (rest > 0x7f) {
    writer.int8((rest & 0x7f) | 0x80);
    rest >>>= 7;
  }
  writer.int8(rest);
}

function readUnsignedVarint(reader: ByteReader): number {
  let value = 0;
  for (let shift = 0; shift < 35; shift += 7) {
    const byte = reader.uint8();
    value |= (byte & 0x7f) << shift;
    if (byte < 0x80) return value >>> 0;
  }
  throw new BytesError('an unsigned varint has more than five bytes');
}
