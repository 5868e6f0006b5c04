/**
 * The layout of a data directory, and how an older one is taken over.
 *
 *     layout 1   the quorum's files lay in `__cluster_metadata-0`, among the directories of partitions
 *     layout 2   they lie in `quorum`, a name that no partition's directory can have, and directories of
 *                topics with long names are called otherwise (`partition-directory.ts`)
 *
 * A take-over first writes the new version into `meta.properties`, so that a program that knows layout 1
 * only does not begin an empty quorum's log beside the moved one. Then it renames, and syncs the data
 * directory before anything in it is opened. Every start looks for old names, whatever version it finds:
 * a crash at any step leaves a directory that the next start completes.
 */
import { QUORUM_LOG_ID } from '@relevo/base/ids';
import type { Disk, Logger } from '@relevo/base/ports';
import { QUORUM_DIRECTORY, parsePartitionName } from './file-names.ts';
import { LogError } from './log-error.ts';
import { writeMetaProperties } from './meta-properties.ts';
import type { FoundProperties } from './meta-properties.ts';
import { isOrdinaryTopic, partitionDirectory } from './partition-directory.ts';
import { readTopicId, replaceMetadataNow } from './partition-metadata.ts';

/** The quorum's directory in layout 1. */
const OLD_QUORUM_DIRECTORY = '__cluster_metadata-0';
const QUORUM_FILE = /^quorum-state$|\.checkpoint$/;

/** Named in the log. */
const NAMES_MAX = 5;

interface Move {
  readonly from: string;
  readonly to: string;
  /** Of a partition. */
  readonly topic?: string;
}

/**
 * Gives what lies in `root` under an old name its new one; durable when this returns. `root` must be
 * locked, and known to be this broker's. Throws a LogError (`foreign`) where both names are taken.
 */
export function takeOverLayout(
  disk: Disk,
  root: string,
  found: FoundProperties,
  logger: Logger,
): void {
  const moves = movesOf(disk, root);
  for (const move of moves) refuseTaken(disk, root, move);
  if (found.isOldLayout) writeMetaProperties(disk, root, found);
  if (moves.length === 0) return;
  for (const { from, to, topic } of moves) {
    const topicId = readTopicId(disk, `${root}/${from}`);
    // The topic's name is written down before the directory's name ceases to tell it.
    if (topic !== undefined && topicId !== undefined) {
      replaceMetadataNow(disk, `${root}/${from}`, { topicId, topic });
    }
    disk.rename(`${root}/${from}`, `${root}/${to}`);
  }
  disk.syncDirectoryNow(root);
  logger.info('the data directory was brought to the present layout', {
    directory: root,
    renamed: moves.length,
    names: moves.slice(0, NAMES_MAX).map(({ from, to }) => `${from} to ${to}`),
  });
}

function movesOf(disk: Disk, root: string): Move[] {
  const moves: Move[] = [];
  if (isOldQuorum(disk, `${root}/${OLD_QUORUM_DIRECTORY}`)) {
    moves.push({ from: OLD_QUORUM_DIRECTORY, to: QUORUM_DIRECTORY });
  }
  for (const { name, directory } of disk.list(root)) {
    const parsed = directory ? parsePartitionName(name) : undefined;
    if (parsed === undefined || isOrdinaryTopic(parsed.topic)) continue;
    const { topic, partition } = parsed;
    moves.push({ from: name, to: partitionDirectory(topic, partition), topic });
  }
  return moves;
}

/** The quorum's, and not that of a topic which somebody called so. */
const isOldQuorum = (disk: Disk, directory: string): boolean =>
  disk.exists(directory) &&
  (readTopicId(disk, directory) === QUORUM_LOG_ID ||
    disk.list(directory).some(({ name }) => QUORUM_FILE.test(name)));

function refuseTaken(disk: Disk, root: string, { from, to }: Move): void {
  if (!disk.exists(`${root}/${to}`)) return;
  throw new LogError(
    'foreign',
    `${root} holds both ${from}, of an older layout, and ${to}: an older version of relevo ran here ` +
      `after a newer one. Nothing was changed; move ${from} out of ${root} to go on from ${to}`,
  );
}
