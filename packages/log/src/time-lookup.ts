/** Finds the first record of a segment that is as late as a timestamp, off the loop. */
import { BATCH_OVERHEAD, readBatchHeader } from '@relevo/record/batch-header';
import type { BatchHeader } from '@relevo/record/batch-header';
import type { CompressionCodecs } from '@relevo/record/compression';
import { decodeRecords, unpackRecords } from '@relevo/record/records';
import type { RecordView } from '@relevo/record/records';
import type { LeaderEpoch, Offset } from '@relevo/base/ids';
import { ReadFault } from './read-plan.ts';
import type { Segment } from './segment.ts';
import type { TimeIndexEntry } from './time-index.ts';

const WINDOW_BYTES = 65_536;
/** What a compressed batch may unpack to; beyond it, its first offset is the answer. */
const UNPACKED_BYTES_MAX = 64 * 2 ** 20;

export type Decompressor = Pick<CompressionCodecs, 'decompress'>;

export interface TimestampedOffset {
  readonly offset: Offset;
  readonly timestamp: number;
  readonly leaderEpoch: LeaderEpoch;
}

/**
 * Of a compressed batch the first offset is given where no codec is at hand: the reader then begins a
 * little early. Throws a BatchError where the bytes are no batches, a ReadFault where the index lies.
 */
export async function firstRecordSince(
  segment: Segment,
  timestampMs: number,
  codecs: Decompressor | undefined,
): Promise<TimestampedOffset | undefined> {
  const entry = segment.indexes.times.floor(timestampMs);
  let { position } = segment.locate(entry?.offset ?? segment.baseOffset);
  const end = segment.sizeBytes;
  while (position < end) {
    const window = await segment.file().read(position, Math.min(WINDOW_BYTES, end - position));
    let at = 0;
    while (at < window.length && (at === 0 || window.length - at >= BATCH_OVERHEAD)) {
      const header = readBatchHeader(window, at);
      if (entry !== undefined) checkEntry(entry, header);
      if (header.maxTimestamp >= timestampMs) {
        const batch =
          window.length - at >= header.sizeInBytes
            ? window.subarray(at, at + header.sizeInBytes)
            : await segment.file().read(position + at, header.sizeInBytes);
        return firstIn(batch, header, timestampMs, codecs);
      }
      at += header.sizeInBytes;
    }
    position += at;
  }
  return undefined;
}

/** The batch that an entry is of ends at its offset and has its timestamp, or the index lies. */
function checkEntry(entry: TimeIndexEntry, header: BatchHeader): void {
  const { baseOffset, lastOffset, maxTimestamp } = header;
  const isOf = lastOffset === entry.offset && maxTimestamp === entry.timestamp;
  if (isOf || lastOffset < entry.offset || baseOffset > entry.offset) return;
  const what = `offset ${entry.offset}, timestamp ${entry.timestamp}`;
  throw new ReadFault(`the time index has ${what}, the batch ${lastOffset}, ${maxTimestamp}`, true);
}

async function firstIn(
  batch: Uint8Array,
  header: BatchHeader,
  timestampMs: number,
  codecs: Decompressor | undefined,
): Promise<TimestampedOffset> {
  const leaderEpoch = header.partitionLeaderEpoch;
  const records = await recordsOf(batch, header, codecs);
  const found = records.find((record) => record.timestamp >= timestampMs);
  return {
    offset: found?.offset ?? header.baseOffset,
    timestamp: found?.timestamp ?? header.maxTimestamp,
    leaderEpoch,
  };
}

async function recordsOf(
  batch: Uint8Array,
  header: BatchHeader,
  codecs: Decompressor | undefined,
): Promise<readonly RecordView[]> {
  if (header.timestampType === 'logAppendTime') return [];
  if (header.compression === 'none') return decodeRecords(batch, 0, header);
  if (codecs === undefined) return [];
  return unpackRecords(batch, 0, codecs, UNPACKED_BYTES_MAX);
}
