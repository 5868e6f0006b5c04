/** What must lie on the disks at the end of a hostile run, and what must not. */
import type { Relevo } from '@relevo/client/relevo';
import { QUORUM_DIRECTORY } from '@relevo/log/file-names';
import { partitionDirectory } from '@relevo/log/partition-directory';
import { readTopicId } from '@relevo/log/partition-metadata';
import type { ReplicaOnDisk } from '../replica-checker.ts';
import type { SimulatedDisk } from '../simulated-disk.ts';
import type { World } from '../world.ts';
import type { HostileTopics } from './hostile-topics.ts';

const TIDY_WITHIN_MS = 30_000;
const LIST_WITHIN_MS = 30_000;

export interface TidyOptions {
  readonly topics: HostileTopics;
  readonly client: Relevo;
  readonly replicas: readonly ReplicaOnDisk[];
  /** Whether the broker has told people of the directory, by its name. */
  readonly isTold: (broker: number, directory: string) => boolean;
}

/**
 * Topics that were made are there, deleted ones are not, and leave no directory. One whose metadata are damaged
 * cannot be proved to be of a deleted topic: it is kept, and a line says so.
 */
export async function checkTidy(
  world: World,
  { topics, client, replicas, isTold }: TidyOptions,
): Promise<void> {
  const listing = client.admin.listTopics();
  const listed = await world.within('topics are listed', LIST_WITHIN_MS, listing);
  for (const { name, topicId } of topics.live) {
    if (listed.some((one) => one.topicId === topicId)) continue;
    throw new Error(`${name} was made, and is not there`);
  }
  const revived = listed.find(({ topicId }) => topics.deletedIds.has(topicId));
  if (revived !== undefined) throw new Error(`${revived.topic} was deleted, and is there`);
  const known = new Set<string>([QUORUM_DIRECTORY]);
  for (const { topic, partitions } of listed) {
    for (let at = 0; at < partitions; at++) known.add(partitionDirectory(topic, at));
  }
  const strange = (): string[] =>
    replicas.flatMap(({ broker, disk, dataDir }) =>
      disk
        .list(dataDir)
        .filter(({ name, directory }) => directory && !known.has(name) && !isAsideOf(name, known))
        .filter(
          ({ name }) => !isTold(broker, name) || ownerOf(disk, `${dataDir}/${name}`) !== undefined,
        )
        .map(({ name }) => `${name} on broker ${broker}`),
    );
  const isTidy = (): boolean => strange().length === 0;
  const what = 'deleted topics have left no directory';
  await world.until(what, isTidy, TIDY_WITHIN_MS, () => strange().join(', '));
}

/** The topic id that the directory states; undefined: nobody can read whose it is. */
function ownerOf(disk: SimulatedDisk, directory: string): string | undefined {
  if (/~[A-Za-z0-9_-]{22}~\d+\.set-aside$/.test(directory)) return directory;
  return readTopicId(disk.port(), directory);
}

/** A set-aside directory of an existing topic, or of the quorum: kept for people to look at. */
const isAsideOf = (name: string, known: ReadonlySet<string>): boolean =>
  /^quorum\.damaged(\.\d+)?$/.test(name) ||
  (name.endsWith('.set-aside') && [...known].some((each) => name.startsWith(`${each}~`)));
