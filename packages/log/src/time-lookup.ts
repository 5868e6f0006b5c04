/** Finds the first record of a segment that is as late as a timestamp, off the loop. */
import { BATCH_OVERHEAD, readBatchHeader } from '@relevo/record/batch-header';
import type { BatchHeader } from '@relevo/record/batch-header';
import type { CompressionCodecs } from '@relevo/record/compression';
import { decodeRecords, unpackRecords } from '@relevo/record/records';
import type { RecordView } from '@relevo/record/records';
import type { LeaderEpoch, Offset } from '@relevo/base/ids';
import { ReadFault } from './read-plan.ts';
import type { BatchPlace, Segment } from './segment.ts';
import { flawOfBatch } from './stored-batch.ts';
import type { BatchCheck } from './stored-batch.ts';
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

export interface LookUpDeps extends BatchCheck {
  readonly codecs: Decompressor | undefined;
}

/**
 * Of a compressed batch the first offset is given where no codec is at hand: the reader then begins a
 * little early. All batches on the way are checked, as one that lies would make records be left out.
 * Throws a BatchError where the bytes are no batches, a ReadFault where they are damaged or the index lies.
 */
export async function firstRecordSince(
  segment: Segment,
  timestampMs: number,
  deps: LookUpDeps,
): Promise<TimestampedOffset | undefined> {
  const entry = segment.indexes.times.floor(timestampMs);
  const place = segment.locate(entry?.offset ?? segment.baseOffset);
  for await (const { bytes, at, header } of batchesFrom(segment, place, deps)) {
    if (entry !== undefined) checkEntry(entry, header);
    if (header.maxTimestamp < timestampMs) continue;
    const batch = bytes.subarray(at, at + header.sizeInBytes);
    return firstIn(batch, header, timestampMs, deps.codecs);
  }
  return undefined;
}

interface BatchIn {
  readonly bytes: Uint8Array;
  readonly at: number;
  readonly header: BatchHeader;
}

/** The batches from a place to the end of a segment, each checked and held against the one before it. */
async function* batchesFrom(
  segment: Segment,
  place: BatchPlace,
  check: BatchCheck,
): AsyncGenerator<BatchIn, void, undefined> {
  const end = segment.sizeBytes;
  let { position, base: expected } = place;
  while (position < end) {
    let bytes = await segment.file().read(position, Math.min(WINDOW_BYTES, end - position));
    const { sizeInBytes: first } = readBatchHeader(bytes);
    if (first > end - position) throw fault(segment, position, `a batch of ${first} bytes`, false);
    if (first > bytes.length) bytes = await segment.file().read(position, first);
    let at = 0;
    while (bytes.length - at >= BATCH_OVERHEAD) {
      const header = readBatchHeader(bytes, at);
      const { sizeInBytes, baseOffset, lastOffset } = header;
      if (sizeInBytes > bytes.length - at) break;
      const isFirst = position + at === place.position;
      const isThere =
        baseOffset === (expected ?? baseOffset) &&
        (!isFirst || lastOffset === (place.last ?? lastOffset));
      const flaw = isThere
        ? flawOfBatch(bytes, at, sizeInBytes, check)
        : `offsets ${baseOffset} to ${lastOffset} do not belong there`;
      if (flaw !== undefined) throw fault(segment, position + at, flaw, isFirst && !place.exact);
      yield { bytes, at, header };
      expected = header.nextOffset;
      at += sizeInBytes;
    }
    position += at;
  }
}

const fault = (segment: Segment, position: number, what: string, byIndex: boolean): ReadFault =>
  new ReadFault(`segment ${segment.baseOffset} at byte ${position}: ${what}`, byIndex);

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
