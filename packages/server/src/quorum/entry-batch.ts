/**
 * An entry of the quorum's log as a RecordBatch of one record, so that the log is an ordinary partition
 * log and every tool for those reads it: offset = index, leader epoch = term, value = the entry's data.
 * A batch's CRC does not cover its offset and epoch, which a consensus log cannot do without: the key
 * repeats them (kind int8, index int64, term int32).
 */
import { ByteReader, ByteWriter, BytesError } from '@relevo/base/bytes';
import { logIndex, term as toTerm } from '@relevo/base/ids';
import type { LeaderEpoch, Offset } from '@relevo/base/ids';
import type { Crc32c } from '@relevo/base/ports';
import type { Entry } from '@relevo/raft/messages';
import { BatchBuilder, NO_HEADERS } from '@relevo/record/batch-builder';
import { BatchError } from '@relevo/record/batch-error';
import { NO_TIMESTAMP, readBatchHeader } from '@relevo/record/batch-header';
import { decodeRecords } from '@relevo/record/records';
import { ENTRY_KINDS } from './quorum-messages.ts';

const KEY_BYTES = 13;
/** Bytes of a batch besides the entry's data, at most. */
const OVERHEAD_BYTES_MAX = 128;

/** The same bytes on every node: no timestamp. */
export function entryToBatch(entry: Entry, crc32c: Crc32c): Uint8Array {
  const { index, term, kind, data } = entry;
  const key = new ByteWriter(KEY_BYTES)
    .int8(ENTRY_KINDS.indexOf(kind))
    .int64(index)
    .int32(term)
    .written();
  const builder = new BatchBuilder(OVERHEAD_BYTES_MAX + data.length);
  builder.append(key, data, NO_HEADERS, NO_TIMESTAMP);
  const baseOffset: Offset = index as number as Offset;
  const leaderEpoch: LeaderEpoch = term as number as LeaderEpoch;
  return builder.build({ baseOffset, leaderEpoch }, crc32c);
}

/**
 * The entries of whole batches whose CRCs have been checked. Throws a RangeError where they are not such
 * as `entryToBatch` makes, or where offset and key differ.
 */
export function entriesOfBatches(bytes: Uint8Array): Entry[] {
  const entries: Entry[] = [];
  try {
    for (let at = 0; at < bytes.length;) {
      const header = readBatchHeader(bytes, at);
      const [record, ...more] = decodeRecords(bytes, at, header);
      const { key, value } = record ?? { key: null, value: null };
      if (key === null || value === null || more.length > 0) {
        throw new RangeError(`the batch at offset ${header.baseOffset} holds no entry`);
      }
      const entry = entryOf(key, value);
      const offset: number = header.baseOffset;
      const epoch: number = header.partitionLeaderEpoch;
      if (entry.index !== offset || entry.term !== epoch) {
        const claims = `offset ${offset} and epoch ${epoch}`;
        throw new RangeError(`entry ${entry.index}@${entry.term} stands in a batch with ${claims}`);
      }
      entries.push(entry);
      at += header.sizeInBytes;
    }
  } catch (error) {
    if (!(error instanceof BatchError) && !(error instanceof BytesError)) throw error;
    throw new RangeError(error.message, { cause: error });
  }
  return entries;
}

function entryOf(key: Uint8Array, value: Uint8Array): Entry {
  const reader = new ByteReader(key);
  const kind = ENTRY_KINDS[reader.int8()];
  const index = logIndex(reader.int64());
  const term = toTerm(reader.int32());
  if (kind === undefined || reader.remaining > 0) {
    throw new RangeError(`the key of entry ${index} is of an unknown kind`);
  }
  return { index, term, kind, data: value.slice() };
}
