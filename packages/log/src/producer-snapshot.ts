/**
 * Producer state as a file, `00000000000000000042.snapshot`: all that batches below offset 42 tell.
 * Kafka's format, version 1, with a tail of our own that Kafka's reader passes over (its CRC covers it):
 *
 *     version int16 (1), crc uint32 (CRC-32C of all that follows), count int32, then per producer
 *       producerId int64, epoch int16, lastSequence int32, lastOffset int64, offsetDelta int32,
 *       timestamp int64, coordinatorEpoch int32 (-1), currentTransactionFirstOffset int64 (-1)
 *     tail: mark "RLV2", then per producer, in the same order
 *       count int8 of batches before the last, and for each, oldest first,
 *         firstSequence int32, lastSequence int32, firstOffset int64, lastOffset int64, timestamp int64
 *
 * Kafka remembers one batch per producer over a restart; the tail makes it five. The mark "RLV1" stands
 * in files of earlier versions: an int64 follows it, and one stands before each count; both are skipped.
 *
 * No time of the append is in it: whoever reads a snapshot learns of its batches then, and counts the
 * expiration from there.
 */
import { ByteReader, ByteWriter, BytesError } from '@relevo/base/bytes';
import type { Offset, ProducerEpoch, ProducerId } from '@relevo/base/ids';
import type { Crc32c } from '@relevo/base/ports';
import { SEQUENCE_MAX } from '@relevo/record/batch-header';
import { REMEMBERED_BATCHES } from './producer-state.ts';
import type { ProducerBatch, ProducerEntry, ProducerState } from './producer-state.ts';
import { PAUSE, runNow } from './steps.ts';
import type { Steps } from './steps.ts';

const VERSION = 1;
const CRC_AT = 2;
const BODY_AT = 6;
const TAIL_MARK = 0x524c5632;
/** With times after it that are not used any more. */
const OLD_TAIL_MARK = 0x524c5631;
/** Between two pauses: about a millisecond. */
const PAUSE_ENTRIES = 2_000;

export type SnapshotEntry = Omit<ProducerEntry, 'learntMs'>;

export const encodeSnapshot = (state: ProducerState, crc32c: Crc32c): Uint8Array =>
  runNow(encodeSnapshotSteps(state, crc32c));

/** The state may not change meanwhile. */
export function* encodeSnapshotSteps(state: ProducerState, crc32c: Crc32c): Steps<Uint8Array> {
  const entries = state.entries();
  const writer = new ByteWriter(64 + entries.length * 256);
  writer.int16(VERSION).uint32(0).int32(entries.length);
  for (const [at, entry] of entries.entries()) {
    if (at % PAUSE_ENTRIES === PAUSE_ENTRIES - 1) yield PAUSE;
    writeEntry(writer, entry);
  }
  writer.uint32(TAIL_MARK);
  for (const [at, entry] of entries.entries()) {
    if (at % PAUSE_ENTRIES === PAUSE_ENTRIES - 1) yield PAUSE;
    const older = entry.batches.slice(0, -1);
    writer.int8(older.length);
    for (const batch of older) writeBatch(writer, batch);
  }
  writer.setUint32(CRC_AT, crc32c(writer.written().subarray(BODY_AT)));
  return writer.finish();
}

/** Undefined when the bytes are damaged, or of another version. */
export const decodeSnapshot = (
  bytes: Uint8Array,
  crc32c: Crc32c,
): readonly SnapshotEntry[] | undefined => runNow(decodeSnapshotSteps(bytes, crc32c));

export function* decodeSnapshotSteps(
  bytes: Uint8Array,
  crc32c: Crc32c,
): Steps<readonly SnapshotEntry[] | undefined> {
  try {
    const reader = new ByteReader(bytes);
    if (reader.int16() !== VERSION) return undefined;
    if (reader.uint32() !== crc32c(bytes.subarray(BODY_AT))) return undefined;
    const count = reader.int32();
    const last: SnapshotEntry[] = [];
    for (let index = 0; index < count; index++) {
      if (index % PAUSE_ENTRIES === 0) yield PAUSE;
      last.push(readEntry(reader));
    }
    const mark = reader.uint32();
    if (mark !== TAIL_MARK && mark !== OLD_TAIL_MARK) return undefined;
    const timeBytes = mark === OLD_TAIL_MARK ? 8 : 0;
    reader.skip(timeBytes);
    for (const [at, entry] of last.entries()) {
      if (at % PAUSE_ENTRIES === 0) yield PAUSE;
      reader.skip(timeBytes);
      const olderCount = reader.int8();
      if (olderCount < 0 || olderCount >= REMEMBERED_BATCHES) return undefined;
      const older = Array.from({ length: olderCount }, () => readBatch(reader));
      entry.batches.unshift(...older);
    }
    return reader.remaining === 0 ? last : undefined;
  } catch (error) {
    if (error instanceof BytesError) return undefined;
    throw error;
  }
}

function writeEntry(writer: ByteWriter, entry: ProducerEntry): void {
  const last = entry.batches.at(-1);
  if (last === undefined) throw new RangeError(`producer ${entry.producerId} has no batch`);
  writer.int64(entry.producerId).int16(entry.epoch).int32(last.lastSequence);
  writer.int64(last.lastOffset).int32(last.lastOffset - last.firstOffset);
  writer.int64(last.timestamp).int32(-1).int64(-1);
}

// The CRC has vouched for the values: the brands are granted as they are read.

function readEntry(reader: ByteReader): SnapshotEntry {
  const producerId = reader.int64() as ProducerId;
  const epoch = reader.int16() as ProducerEpoch;
  const lastSequence = reader.int32();
  const lastOffset = reader.int64() as Offset;
  const delta = reader.int32();
  const timestamp = reader.int64();
  reader.skip(4 + 8);
  const behind = lastSequence - delta;
  const last: ProducerBatch = {
    firstSequence: behind >= 0 ? behind : behind + SEQUENCE_MAX + 1,
    lastSequence,
    firstOffset: (lastOffset - delta) as Offset,
    lastOffset,
    timestamp,
  };
  return { producerId, epoch, batches: [last] };
}

function writeBatch(writer: ByteWriter, batch: ProducerBatch): void {
  writer.int32(batch.firstSequence).int32(batch.lastSequence);
  writer.int64(batch.firstOffset).int64(batch.lastOffset).int64(batch.timestamp);
}

const readBatch = (reader: ByteReader): ProducerBatch => ({
  firstSequence: reader.int32(),
  lastSequence: reader.int32(),
  firstOffset: reader.int64() as Offset,
  lastOffset: reader.int64() as Offset,
  timestamp: reader.int64(),
});
