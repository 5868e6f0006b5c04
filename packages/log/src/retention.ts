import type { Offset } from '@relevo/base/ids';
import type { LogConfig } from './log-config.ts';
import type { Segment } from './segment.ts';

export interface RetentionLimits {
  readonly config: LogConfig;
  readonly nowMs: number;
  /** No segment goes that reaches above. */
  readonly highWatermark: Offset;
  readonly logStartOffset: Offset;
}

/** Whether all records of the segment are over age. Records without timestamps have no age. */
export function isOverAge(segment: Segment, config: LogConfig, nowMs: number): boolean {
  if (config.retentionMs < 0) return false;
  return segment.isAllBefore(nowMs - config.retentionMs);
}

/** How many of the oldest are over age, over size or below the log start; never the active one. */
export function segmentsToDrop(segments: readonly Segment[], limits: RetentionLimits): number {
  const { config, nowMs, highWatermark, logStartOffset } = limits;
  const sizeBytes = segments.reduce((sum, segment) => sum + segment.sizeBytes, 0);
  let spareBytes = config.retentionBytes < 0 ? -1 : sizeBytes - config.retentionBytes;
  let count = 0;
  for (const segment of segments.slice(0, -1)) {
    if (segment.nextOffset > highWatermark) break;
    const isOverSize = spareBytes >= segment.sizeBytes;
    const isBelow = segment.nextOffset <= logStartOffset;
    if (!isOverSize && !isBelow && !isOverAge(segment, config, nowMs)) break;
    count++;
    spareBytes -= segment.sizeBytes;
  }
  return count;
}
