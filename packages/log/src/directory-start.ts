/** What a start of a data directory does before any log is opened: it takes it over, and stock of it. */
import type { Uuid } from '@relevo/base/ids';
import { DiskError } from '@relevo/base/ports';
import type { Disk, Logger } from '@relevo/base/ports';
import { takeOverLayout } from './data-layout.ts';
import { knownLogs } from './durable-logs.ts';
import {
  CLEAN_SHUTDOWN_FILE,
  DELETED_SUFFIX,
  LOG_SUFFIX,
  QUORUM_DIRECTORY,
  TEMPORARY_SUFFIX,
} from './file-names.ts';
import type { LogDirectoryOptions } from './log-directory.ts';
import { LogError } from './log-error.ts';
import { checkOwner, readMetaProperties, writeMetaProperties } from './meta-properties.ts';
import { identifyPartition } from './partition-directory.ts';
import type { PartitionDirectory } from './partition-directory.ts';

/** Makes the directory and those above it, and their names durable: with the name goes all that is in it. */
export function makeDurably(root: string, disk: Disk): void {
  const made: string[] = [];
  for (let path = root; path !== '' && !disk.exists(path); path = parentOf(path)) made.push(path);
  disk.makeDirectory(root);
  for (const path of made.reverse()) {
    const parent = parentOf(path);
    disk.syncDirectoryNow(parent === '' ? (path.startsWith('/') ? '/' : '.') : parent);
  }
}

const parentOf = (path: string): string => path.slice(0, Math.max(0, path.lastIndexOf('/')));

export function takeOwnership(
  options: LogDirectoryOptions,
  disk: Disk,
  logger: Logger,
): { readonly clusterId: string; readonly directoryId: Uuid } {
  const { root, brokerId, clusterId, newDirectoryId } = options;
  const found = readMetaProperties(disk, root);
  if (found !== undefined) {
    checkOwner(root, found, { clusterId, nodeId: brokerId });
    takeOverLayout(disk, root, found, logger);
    return found;
  }
  const isUsed = disk.exists(`${root}/${QUORUM_DIRECTORY}`) || takeStock(root, disk).length > 0;
  if (isUsed) {
    const message = `${root} holds data but no meta.properties; restore it, or use another`;
    throw new LogError('foreign', message);
  }
  if (clusterId === undefined) {
    throw new LogError('foreign', `${root} is new: the cluster id must be given`);
  }
  const made = { clusterId, nodeId: brokerId, directoryId: newDirectoryId() };
  writeMetaProperties(disk, root, made);
  return made;
}

/** The mark is gone for good before any log is opened: what it says holds only once. */
export function takeCleanMark(root: string, disk: Disk): boolean {
  const path = `${root}/${CLEAN_SHUTDOWN_FILE}`;
  if (!disk.exists(path)) return false;
  disk.remove(path);
  disk.syncDirectoryNow(root);
  return true;
}

/** Removes what was being deleted or made; what cannot be removed goes at a later start. */
export function sweep(root: string, disk: Disk, logger: Logger): void {
  for (const { name, directory } of disk.list(root)) {
    const isOver = name.endsWith(DELETED_SUFFIX) || name.endsWith(TEMPORARY_SUFFIX);
    if (!directory || !isOver) continue;
    try {
      disk.removeTree(`${root}/${name}`);
    } catch (error) {
      if (!(error instanceof DiskError)) throw error;
      logger.warn('a deleted log could not be removed', { path: error.path, why: error.message });
    }
  }
}

/** The partitions' directories. */
export function takeStock(root: string, disk: Disk): PartitionDirectory[] {
  const found: PartitionDirectory[] = [];
  const known = knownLogs(disk, root);
  for (const { name, directory } of disk.list(root)) {
    const partition = directory ? identifyPartition(disk, root, name, known) : undefined;
    if (partition === undefined) continue;
    const isLog = partition.topicId !== undefined || holdsSegments(disk, `${root}/${name}`);
    if (isLog) found.push(partition);
  }
  return found;
}

/** A directory that cannot be read may: what is wrong with it is met when its log is opened. */
function holdsSegments(disk: Disk, directory: string): boolean {
  try {
    return disk.list(directory).some(({ name }) => name.endsWith(LOG_SUFFIX));
  } catch (error) {
    if (error instanceof DiskError) return true;
    throw error;
  }
}
