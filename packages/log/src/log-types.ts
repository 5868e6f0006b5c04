/** How a partition log is opened, and what its calls give. */
import type { Offset } from '@relevo/base/ids';
import type { Clock, Crc32c, Disk, Logger } from '@relevo/base/ports';
import type { FreeSpace } from './free-space.ts';
import type { LogError } from './log-error.ts';
import type { WriteCount } from './recent-writes.ts';
import type { RecoveryOptions } from './recovery.ts';
import type { SegmentCache } from './segment-cache.ts';
import type { Slots } from './slots.ts';
import type { Decompressor } from './time-lookup.ts';
import type { YoungFile } from './young-file.ts';

export interface PartitionLogOptions extends RecoveryOptions {
  /** Wall clock, for messages only. */
  readonly nowMs: number;
}

export interface PartitionLogDeps {
  readonly disk: Disk;
  readonly crc32c: Crc32c;
  readonly logger: Logger;
  /** Tells when producers have been silent for too long; default: never. */
  readonly clock?: Pick<Clock, 'monotonicMs'>;
  /** Shared by the logs of a broker; each defaults to one of the log's own. */
  readonly cache?: SegmentCache;
  readonly writes?: WriteCount;
  /** Appends are refused where it says no. Default: only where the disk does. */
  readonly space?: FreeSpace;
  /** For the timestamps in compressed batches; without it they are told by the batch. */
  readonly codecs?: Decompressor;
  /**
   * Many logs that are made, or made durable for the first time, wait here for their turn. Default: nobody
   * waits.
   */
  readonly young?: Slots;
  /** Where the first records of a new log go. Default: it has files of its own at once. */
  readonly youngLogs?: YoungHome;
  /** Makes the names in the directory around the log's durable. Default: by a sync of the log's own. */
  readonly syncParent?: () => Promise<void>;
  /**
   * Called when the first records that this process has appended are synced, before they count as such:
   * makes it known, durably, that the log holds records. Default: nobody needs to know.
   */
  readonly holdsRecords?: () => Promise<void>;
  /**
   * Called when the log has a second segment, and before old ones go: makes it known, durably, that the log
   * begins at `start`, so that just what is below is not missed. Default: nobody needs to know, and old
   * segments go one by one.
   */
  readonly beginsAt?: (start: Offset) => Promise<void>;
  /** A write or a sync failed: makes it known, durably. Default: nobody needs to know. */
  readonly writeFailed?: () => void;
  /** Called once, when the log goes offline. */
  readonly onOffline?: (reason: LogError) => void;
}

/** The journal of young logs, as one log sees it. */
export interface YoungHome {
  /** Whether a new log that begins with so many bytes is to be young. */
  takes(bytes: number): boolean;
  hasRoomFor(file: YoungFile, bytes: number): boolean;
  /** The first segment, whose file will be in `path`. */
  begin(path: string): YoungFile;
  /** It has a file of its own, for good: the journal need not keep it any more. */
  settled(file: YoungFile): void;
  /** The log is deleted; durable when this resolves. */
  gone(file: YoungFile): Promise<void>;
}

export interface Appended {
  readonly kind: 'appended';
  readonly baseOffset: Offset;
  readonly nextOffset: Offset;
  readonly bytes: number;
}

/** The batch was appended before; nothing was done. */
export interface Duplicate {
  readonly kind: 'duplicate';
  readonly baseOffset: Offset;
  readonly nextOffset: Offset;
  /** The latest timestamp of the batch that was appended. */
  readonly timestamp: number;
}

export type AppendResult = Appended | Duplicate;

/** What the checkpoints of the data directory are to say of a log. */
export interface LogCheckpoint {
  readonly recoveryPoint: Offset;
  readonly logStartOffset: Offset;
  /** To be called when all of them durably do. */
  readonly written: () => void;
}

export interface SegmentInfo {
  readonly baseOffset: Offset;
  readonly nextOffset: Offset;
  readonly sizeBytes: number;
}

export const appended = (baseOffset: Offset, nextOffset: Offset, bytes: number): Appended => ({
  kind: 'appended',
  baseOffset,
  nextOffset,
  bytes,
});
