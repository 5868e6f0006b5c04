/**
 * How the directory of a partition is called. No two partitions share a name, and none is above the 255
 * bytes that file systems allow, with what is appended to it either:
 *
 *     orders-3                       Kafka's way, for a topic of up to 180 characters
 *     BEGINNING~SHA256-3             for a longer one: 100 of its characters, and the digest of them all;
 *                                    its partition.metadata has the whole name
 *     orders-3~TOPICID.deleted       renamed to be removed
 *     orders-3~TOPICID~MS.set-aside  kept for people to look at, since that time
 *
 * A tilde stands in no topic's name, so that no topic can be called like a directory of another kind.
 */
import { partitionName, uuid } from '@relevo/base/ids';
import type { Uuid } from '@relevo/base/ids';
import { utf8Encode } from '@relevo/base/bytes';
import { isMutated } from '@relevo/base/mutations';
import { DiskError } from '@relevo/base/ports';
import type { Disk } from '@relevo/base/ports';
import { sha256Hex } from '@relevo/base/sha256';
import { DELETED_SUFFIX, SET_ASIDE_SUFFIX, parsePartitionName } from './file-names.ts';
import { readMetadata } from './partition-metadata.ts';
import type { PartitionMetadata } from './partition-metadata.ts';

/** 180 + 11 of the partition + 23 of the topic id + 14 of the time + 10 of the suffix are below 255. */
export const ORDINARY_TOPIC_MAX = 180;
const BEGINNING_CHARS = 100;
const LONG_NAME = /^([A-Za-z0-9._-]{1,249}~[0-9a-f]{64})-(0|[1-9]\d{0,9})$/;
const SEPARATOR = '~';

/** Whether a directory's name tells the topic; else its `partition.metadata` does. */
export const isOrdinaryTopic = (topic: string): boolean =>
  topic.length <= ORDINARY_TOPIC_MAX || isMutated('long-names-as-they-are');

/** The name of the directory of a partition. */
export function partitionDirectory(topic: string, partition: number): string {
  if (isOrdinaryTopic(topic)) return partitionName(topic, partition);
  const digest = sha256Hex(utf8Encode(topic));
  return `${topic.slice(0, BEGINNING_CHARS)}${SEPARATOR}${digest}-${partition}`;
}

/** As it is called while it is removed. */
export const deletedDirectory = (directory: string, topicId: Uuid | undefined): string =>
  `${directory}${SEPARATOR}${topicId ?? ''}${DELETED_SUFFIX}`;

/** As it is called when it is kept for people to look at. */
export const setAsideDirectory = (directory: string, topicId: Uuid, nowMs: number): string =>
  `${directory}${SEPARATOR}${topicId}${SEPARATOR}${Math.trunc(nowMs)}${SET_ASIDE_SUFFIX}`;

/** Whose log was set aside there; undefined where nothing tells. */
export function setAsideTopicId(disk: Disk, root: string, directory: string): Uuid | undefined {
  const named = /~([A-Za-z0-9_-]{22})~\d+\.set-aside$/.exec(directory)?.[1];
  return named === undefined ? readMetadata(disk, `${root}/${directory}`).topicId : uuid(named);
}

/** The name is that of a partition's directory, of either kind. */
export const isPartitionDirectory = (name: string): boolean =>
  LONG_NAME.test(name) || parsePartitionName(name) !== undefined;

/** A partition's directory as it was found. */
export interface PartitionDirectory {
  /** `orders-3`, with the topic's whole name. */
  readonly name: string;
  /** What the directory is called; not its path. */
  readonly directory: string;
  readonly topic: string;
  readonly partition: number;
  /** Undefined: it has no intact metadata, so nothing in it was ever synced. */
  readonly topicId: Uuid | undefined;
}

/** A directory without an open log. */
export interface Leftover {
  /** What it is called; not its path. */
  readonly directory: string;
  /** Undefined: it cannot be told. */
  readonly topicId: Uuid | undefined;
  /** Of the partition; undefined where it was set aside. */
  readonly name: string | undefined;
  /** A crash has left it when it was being made: nothing in it was ever synced, not its metadata either. */
  readonly isStillborn: boolean;
}

/**
 * Whose the directory is; undefined for one that is not called like a partition's. `known`: names of
 * partitions, among which that of a long one is looked up whose metadata is lost; where it is not among
 * them the directory's own name stands for the topic's.
 */
export function identifyPartition(
  disk: Disk,
  root: string,
  directory: string,
  known: Iterable<string> = [],
): PartitionDirectory | undefined {
  const parsed = parsePartitionName(directory);
  const long = LONG_NAME.exec(directory);
  if (parsed === undefined && long === null) return undefined;
  const { topicId, topic: stated } = metadataIn(disk, `${root}/${directory}`);
  if (parsed !== undefined) return { name: directory, directory, ...parsed, topicId };
  if (long === null) return undefined;
  const partition = Number(long[2]);
  const topic = [stated, ...(stated === undefined ? topicsOf(known) : [])].find(
    (each) => each !== undefined && partitionDirectory(each, partition) === directory,
  );
  const name = topic === undefined ? directory : partitionName(topic, partition);
  return { name, directory, topic: topic ?? long[1] ?? '', partition, topicId };
}

/** What cannot be read counts as missing here; whoever opens the log meets the error. */
function metadataIn(disk: Disk, directory: string): PartitionMetadata {
  try {
    return readMetadata(disk, directory);
  } catch (error) {
    if (error instanceof DiskError) return { topicId: undefined, topic: undefined };
    throw error;
  }
}

function* topicsOf(names: Iterable<string>): Generator<string> {
  for (const name of names) {
    const parsed = parsePartitionName(name);
    if (parsed !== undefined && !isOrdinaryTopic(parsed.topic)) yield parsed.topic;
  }
}
