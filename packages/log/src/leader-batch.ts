import type { LeaderEpoch, Offset } from '@relevo/base/ids';
import type { Crc32c } from '@relevo/base/ports';
import { BatchError } from '@relevo/record/batch-error';
import {
  patchBatch,
  patchLogAppendTime,
  readBatchHeader,
  sizeInBytesAt,
} from '@relevo/record/batch-header';
import type { BatchHeader } from '@relevo/record/batch-header';
import { TIMESTAMP_AFTER_MAX_MS } from './log-config.ts';
import type { LogConfig } from './log-config.ts';
import { LogError } from './log-error.ts';

/**
 * Makes a producer's batch one of the log's: base offset, leader epoch and, where the topic wants it, the
 * append time are set in place. Throws a LogError: `tooLarge`, `badBatch`, `badTimestamp`.
 */
export function prepareBatch(
  batch: Uint8Array,
  place: { readonly baseOffset: Offset; readonly leaderEpoch: LeaderEpoch },
  nowMs: number,
  config: LogConfig,
  crc32c: Crc32c,
): BatchHeader {
  const { maxMessageBytes, timestampType } = config;
  if (batch.length > maxMessageBytes) {
    const message = `the batch has ${batch.length} bytes, max.message.bytes is ${maxMessageBytes}`;
    throw new LogError('tooLarge', message);
  }
  try {
    checkTimestamp(readBatchHeader(batch), nowMs, config);
    if (sizeInBytesAt(batch) !== batch.length) {
      throw new BatchError('BAD_LENGTH', `${batch.length} bytes for ${sizeInBytesAt(batch)}`);
    }
    patchBatch(batch, 0, place);
    if (timestampType === 'LogAppendTime') patchLogAppendTime(batch, 0, nowMs, crc32c);
    return readBatchHeader(batch);
  } catch (error) {
    if (!(error instanceof BatchError)) throw error;
    throw new LogError('badBatch', `the batch is bad: ${error.message}`, { cause: error });
  }
}

function checkTimestamp(header: BatchHeader, nowMs: number, config: LogConfig): void {
  if (config.timestampType === 'LogAppendTime') return;
  if (header.timestampType !== 'createTime') {
    throw new LogError('badTimestamp', 'the topic wants create times, the batch has append times');
  }
  const aheadMs = header.maxTimestamp - nowMs;
  const aheadMaxMs = config.timestampAfterMaxMs ?? TIMESTAMP_AFTER_MAX_MS;
  if (aheadMs > aheadMaxMs) {
    const message = `a timestamp is ${aheadMs} ms ahead of the leader's clock, at most ${aheadMaxMs}`;
    throw new LogError('badTimestamp', `${message} may be (message.timestamp.after.max.ms)`);
  }
}
