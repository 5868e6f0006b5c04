/**
 * Names of files and directories, Kafka's: `orders-3/00000000000000000042.log`. The number of a segment
 * is its base offset, that of a producer snapshot or of a recovery start the offset after the last batch it
 * knows.
 */
import type { Offset } from '@relevo/base/ids';

export const LOG_SUFFIX = '.log';
export const OFFSET_INDEX_SUFFIX = '.index';
export const TIME_INDEX_SUFFIX = '.timeindex';
export const SNAPSHOT_SUFFIX = '.snapshot';
/** Tells that the segment of that number was synced; see `known-extent.ts`. */
export const SYNCED_SUFFIX = '.synced';
/** Where a recovery may begin to read; see `recovery-start.ts`. */
export const RECOVERY_SUFFIX = '.recovery';
/** Renamed to be removed; whatever bears it is removed at start. */
export const DELETED_SUFFIX = '.deleted';
/** A directory that is kept for people to look at. */
export const SET_ASIDE_SUFFIX = '.set-aside';
/** Being written; what bears it was never completed. */
export const TEMPORARY_SUFFIX = '.tmp';
/**
 * Of the data directory: what a controller keeps. A partition's directory ends with a hyphen and a number,
 * so no topic can be called so that its directory is this one.
 */
export const QUORUM_DIRECTORY = 'quorum';
/** Of the data directory: all logs were closed in order. */
export const CLEAN_SHUTDOWN_FILE = '.kafka_cleanshutdown';
/** Of the data directory: below these offsets everything was synced. */
export const RECOVERY_POINTS_FILE = 'recovery-point-offset-checkpoint';
/** Of the data directory: high watermarks, up to what was synced. */
export const HIGH_WATERMARKS_FILE = 'replication-offset-checkpoint';
/** Of the data directory: where the logs begin. */
export const LOG_STARTS_FILE = 'log-start-offset-checkpoint';
export const EPOCH_FILE = 'leader-epoch-checkpoint';
export const METADATA_FILE = 'partition.metadata';
/** Lowers the recovery point that the data directory's checkpoint names; see `recovery.ts`. */
export const TRUNCATION_FILE = 'truncation-checkpoint';

const OFFSET_DIGITS = 20;
const OFFSET_NAME = /^(\d{20})(\.log|\.index|\.timeindex|\.snapshot|\.synced|\.recovery)$/;
const PARTITION_NAME = /^([A-Za-z0-9._-]{1,249})-(0|[1-9]\d{0,9})$/;

/** `00000000000000000042.log` */
export const offsetFileName = (offset: number, suffix: string): string =>
  String(offset).padStart(OFFSET_DIGITS, '0') + suffix;

/** The parts of such a name, or undefined for any other. */
export function parseOffsetFileName(
  name: string,
): { readonly offset: Offset; readonly suffix: string } | undefined {
  const match = OFFSET_NAME.exec(name);
  if (match === null) return undefined;
  const offset = Number(match[1]);
  if (!Number.isSafeInteger(offset)) return undefined;
  return { offset: offset as Offset, suffix: match[2] ?? '' };
}

/** The name is that of a file which a log makes in its directory. */
export const isLogFile = (name: string): boolean =>
  parseOffsetFileName(name) !== undefined ||
  [METADATA_FILE, EPOCH_FILE, TRUNCATION_FILE].includes(name) ||
  name.endsWith(TEMPORARY_SUFFIX) ||
  name.endsWith(DELETED_SUFFIX);

/** Topic and partition of a partition's name, or undefined for any other text. */
export function parsePartitionName(
  name: string,
): { readonly topic: string; readonly partition: number } | undefined {
  const match = PARTITION_NAME.exec(name);
  if (match === null) return undefined;
  return { topic: match[1] ?? '', partition: Number(match[2]) };
}
