/**
 * Writes batches to the active segment of a log, and begins the next one where that is full or old. What
 * fails for want of room leaves the log as it was; what else fails takes it offline (L3).
 */
import { messageOf } from '@relevo/base/errors';
import type { Offset } from '@relevo/base/ids';
import type { Durability } from './durability.ts';
import type { FreeSpace } from './free-space.ts';
import type { LogCheckpoints } from './log-checkpoints.ts';
import type { LogConfig } from './log-config.ts';
import { LogError, isDiskError } from './log-error.ts';
import type { LogFiles } from './log-files.ts';
import type { LogHealth } from './log-health.ts';
import type { SegmentList } from './segment-list.ts';
import type { Segment } from './segment.ts';

export interface SegmentWriterHost {
  readonly directory: string;
  readonly segments: SegmentList;
  readonly files: LogFiles;
  readonly health: LogHealth;
  readonly durability: Durability;
  readonly checkpoints: LogCheckpoints;
  readonly space: FreeSpace | undefined;
  readonly config: () => LogConfig;
  readonly logEnd: () => Offset;
  /** The log has a second segment: from now on the first one may be missed. */
  readonly hasSecond: () => void;
}

export class SegmentWriter {
  readonly #host: SegmentWriterHost;

  constructor(host: SegmentWriterHost) {
    this.#host = host;
  }

  /**
   * Writes whole batches that fit one segment, and gives that. `timestamp`: the latest of the first of them.
   * Throws a LogError: `diskFull`, and nothing was written; `offline`.
   */
  write(bytes: Uint8Array, lastOffset: Offset, timestamp: number): Segment {
    const { space, files, segments } = this.#host;
    if (space?.take(bytes.length) === false) throw this.#full(space.shortage);
    files.prepare(bytes.length);
    this.#rollIfNeeded(bytes.length, lastOffset, timestamp);
    const segment = segments.active;
    try {
      segment.write(bytes);
    } catch (error) {
      throw this.#writeFailed(segment, bytes.length, error);
    }
    return segment;
  }

  /** Begins a new segment; throws as `write`. */
  roll(): void {
    const { segments, files, space, health, checkpoints } = this.#host;
    files.makeNow();
    try {
      segments.add();
    } catch (error) {
      if (isDiskError(error, 'FULL')) {
        space?.exhausted(0);
        throw this.#full(messageOf(error));
      }
      throw health.fail('a segment could not be made', error);
    }
    try {
      segments.sealPrevious();
      checkpoints.writeSnapshot();
    } catch (error) {
      throw health.fail('indexes could not be written', error);
    }
    if (segments.all.length === 2) this.#host.hasSecond();
  }

  #rollIfNeeded(bytes: number, lastOffset: Offset, timestamp: number): void {
    const { segments, files, durability } = this.#host;
    const segment = segments.active;
    if (segment.sizeBytes === 0 && lastOffset - segment.baseOffset < 2 ** 31) return;
    const { segmentBytes, segmentMs } = this.#host.config();
    const fits = segment.hasRoomFor(bytes, lastOffset, segmentBytes);
    const inTime = timestamp - (segment.firstTimestamp ?? timestamp) <= segmentMs;
    // The journal's entries are in order: one that is lost takes nothing that came after it for its own.
    const mayGrow = files.isYoung || !durability.isTruncationPending(segment);
    if (!fits || !inTime || !mayGrow) this.roll();
  }

  #writeFailed(segment: Segment, bytes: number, error: unknown): LogError {
    const { health, durability, space } = this.#host;
    if (!isDiskError(error, 'FULL')) return health.fail('a write failed', error);
    try {
      segment.discardTornWrite();
      // The next append goes to this file, having no other: what was torn must be gone for good.
      if (segment.sizeBytes === 0) segment.file().datasyncNow();
    } catch (cause) {
      return health.fail('a torn write could not be taken back', cause);
    }
    durability.truncated(segment, this.#host.logEnd());
    space?.exhausted(bytes);
    return this.#full(messageOf(error));
  }

  #full(why: string): LogError {
    return new LogError('diskFull', `no room to append to ${this.#host.directory}: ${why}`);
  }
}
