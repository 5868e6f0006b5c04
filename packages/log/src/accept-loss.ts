/**
 * Accepts that a log of which a write or a sync has failed may lack some of what it held, for a log that
 * no peer can give back. What can be read of it now is written anew and synced: the page cache may hold
 * what the disk does not. Then the log is opened like any other at the next start; what does not check
 * out there is damage still.
 */
import type { Disk } from '@relevo/base/ports';
import { replaceFileNow } from './checkpoint-file.ts';
import { FAILED_LOGS_FILE, encodeFailedLogs, readFailedLogs } from './failed-logs.ts';
import {
  DELETED_SUFFIX,
  LOG_SUFFIX,
  RECOVERY_SUFFIX,
  TEMPORARY_SUFFIX,
  parseOffsetFileName,
  parsePartitionName,
} from './file-names.ts';
import { LogError } from './log-error.ts';
import { partitionDirectory } from './partition-directory.ts';
import { knownExtentOf } from './verify-log.ts';

const COPY_BYTES = 2 ** 20;

export interface AcceptedLoss {
  readonly name: string;
  /** Written anew. */
  readonly bytes: number;
}

/**
 * For a data directory that no broker uses: the caller holds its lock. Throws a LogError where no such
 * log has failed, or a DiskError; then the log is still not trusted, and it may be called again.
 */
export function acceptLoss(disk: Disk, root: string, name: string): AcceptedLoss {
  const failed = readFailedLogs(disk, root);
  if (failed === undefined) {
    const message =
      `${root}/${FAILED_LOGS_FILE} is damaged and tells of no log: remove it to accept the loss in ` +
      'all logs of this data directory, of which any may have failed';
    throw new LogError('corrupt', message);
  }
  const parsed = parsePartitionName(name);
  const log = failed.get(name);
  if (parsed === undefined || log?.why !== 'failed') {
    const all = [...failed].flatMap(([each, { why }]) => (why === 'failed' ? [each] : []));
    const names = all.join(', ') || 'none';
    throw new LogError('foreign', `no write of ${name} has failed (failed: ${names})`);
  }
  const directory = `${root}/${partitionDirectory(parsed.topic, parsed.partition)}`;
  const bytes = disk.exists(directory) ? rewrite(disk, directory) : 0;
  failed.set(name, { topicId: log.topicId, why: 'accepted' });
  replaceFileNow(disk, `${root}/${FAILED_LOGS_FILE}`, encodeFailedLogs(failed));
  return { name, bytes };
}

/** Segments below the recovery point were synced before anything failed. */
function rewrite(disk: Disk, directory: string): number {
  const { recoveryPoint } = knownExtentOf(disk, directory);
  const files = disk
    .list(directory)
    .filter(({ name }) => !name.endsWith(DELETED_SUFFIX) && !name.endsWith(TEMPORARY_SUFFIX));
  const bases = files.flatMap(({ name }) => {
    const parsed = parseOffsetFileName(name);
    return parsed?.suffix === LOG_SUFFIX ? [parsed.offset] : [];
  });
  const from = bases.findLast((base) => base <= recoveryPoint) ?? 0;
  let bytes = 0;
  for (const { name } of files) {
    const parsed = parseOffsetFileName(name);
    if (parsed?.suffix === LOG_SUFFIX && parsed.offset < from) continue;
    if (parsed?.suffix === RECOVERY_SUFFIX) {
      // All of the last segment is to be read.
      disk.remove(`${directory}/${name}`);
      continue;
    }
    bytes += copy(disk, `${directory}/${name}`);
  }
  disk.syncDirectoryNow(directory);
  return bytes;
}

function copy(disk: Disk, path: string): number {
  const from = disk.open(path, 'readOnly');
  const to = disk.open(path + TEMPORARY_SUFFIX, 'create');
  try {
    to.truncate(0);
    const size = from.size();
    const piece = new Uint8Array(Math.min(size, COPY_BYTES));
    for (let at = 0; at < size;) {
      const length = from.readSync(piece.subarray(0, Math.min(piece.length, size - at)), at);
      if (length === 0) break;
      to.write(piece.subarray(0, length), at);
      at += length;
    }
    to.datasyncNow();
    disk.rename(path + TEMPORARY_SUFFIX, path);
    return size;
  } finally {
    from.close();
    to.close();
  }
}
