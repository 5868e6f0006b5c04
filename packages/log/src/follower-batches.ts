import { isMutated } from '@relevo/base/mutations';
import { BatchError } from '@relevo/record/batch-error';
import { readBatchHeader } from '@relevo/record/batch-header';
import type { BatchHeader } from '@relevo/record/batch-header';
import { verifyCrc } from '@relevo/record/validate';
import type { LeaderEpoch, Offset } from '@relevo/base/ids';
import type { Crc32c } from '@relevo/base/ports';
import { LogError } from './log-error.ts';

/**
 * The headers of the batches that a leader sent, after their checks: whole batches with right CRCs that
 * continue the log (L1). Throws a LogError.
 */
export function checkFollowerBatches(
  bytes: Uint8Array,
  after: {
    readonly logEndOffset: Offset;
    readonly latestEpoch: LeaderEpoch;
    /** The leader's own: it can have no record of a later one. */
    readonly leaderEpoch: LeaderEpoch;
  },
  crc32c: Crc32c,
): BatchHeader[] {
  const headers: BatchHeader[] = [];
  let expected = after.logEndOffset;
  let epoch = after.latestEpoch;
  let at = 0;
  while (at < bytes.length) {
    const header = headerAt(bytes, at, crc32c);
    if (header.baseOffset !== expected) {
      const message = `the leader sent offset ${header.baseOffset}, expected ${expected}`;
      throw new LogError('notNext', message);
    }
    if (header.partitionLeaderEpoch < epoch) {
      const message = `batch at ${expected} has epoch ${header.partitionLeaderEpoch} after ${epoch}`;
      throw new LogError('oldLeaderEpoch', message);
    }
    if (header.partitionLeaderEpoch > after.leaderEpoch && !isMutated('stored-epochs-trusted')) {
      const { partitionLeaderEpoch } = header;
      const message = `batch at ${expected} has epoch ${partitionLeaderEpoch}, the leader ${after.leaderEpoch}`;
      throw new LogError('badBatch', message);
    }
    headers.push(header);
    expected = header.nextOffset;
    epoch = header.partitionLeaderEpoch;
    at += header.sizeInBytes;
  }
  return headers;
}

function headerAt(bytes: Uint8Array, at: number, crc32c: Crc32c): BatchHeader {
  try {
    const header = readBatchHeader(bytes, at);
    const size = header.sizeInBytes;
    if (size > bytes.length - at) throw new BatchError('TRUNCATED', `it has ${size} bytes`);
    if (verifyCrc(bytes, at, size, crc32c)) return header;
    throw new BatchError('BAD_CRC', 'the CRC does not match');
  } catch (error) {
    if (!(error instanceof BatchError)) throw error;
    const message = `the batch at byte ${at} that the leader sent is bad: ${error.message}`;
    throw new LogError('badBatch', message, { cause: error });
  }
}

/**
 * Cuts the batches where the segment at hand would be full: each run goes into one, be it a single batch
 * that is larger. `fits` is asked of the segment that is there when the run before it has been taken.
 */
export function* segmentRuns(
  batches: Uint8Array,
  headers: readonly BatchHeader[],
  fits: (bytes: number, lastOffset: Offset) => boolean,
): Generator<{ readonly bytes: Uint8Array; readonly headers: readonly BatchHeader[] }> {
  let from = 0;
  let to = 0;
  let run: BatchHeader[] = [];
  for (const header of headers) {
    const bytes = to - from + header.sizeInBytes;
    if (run.length > 0 && !fits(bytes, header.lastOffset)) {
      yield { bytes: batches.subarray(from, to), headers: run };
      run = [];
      from = to;
    }
    run.push(header);
    to += header.sizeInBytes;
  }
  if (run.length > 0) yield { bytes: batches.subarray(from, to), headers: run };
}
