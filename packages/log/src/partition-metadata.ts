/**
 * `partition.metadata`, Kafka's format: `version: 0` and `topic_id: …`. It ties a directory to one
 * incarnation of a topic: a topic that was deleted and made again has another id. Where the directory's
 * name does not tell the topic (`partition-directory.ts`), a third line does, `topic: …`.
 */
import { utf8Decode, utf8Encode } from '@relevo/base/bytes';
import { uuid } from '@relevo/base/ids';
import type { Uuid } from '@relevo/base/ids';
import type { Disk } from '@relevo/base/ports';
import { readFile, replaceFileNow, writeFile } from './checkpoint-file.ts';
import { METADATA_FILE } from './file-names.ts';

const FORMAT =
  /^version: 0\ntopic_id: ([A-Za-z0-9_-]{22})(?:\ntopic: ([A-Za-z0-9._-]{1,249})\n|\n?)$/;

export interface PartitionMetadata {
  /** Undefined when no intact metadata is there. */
  readonly topicId: Uuid | undefined;
  /** Undefined where the directory's name tells it, and when no intact metadata is there. */
  readonly topic: string | undefined;
}

export function readMetadata(disk: Disk, directory: string): PartitionMetadata {
  const bytes = readFile(disk, `${directory}/${METADATA_FILE}`);
  const [, id, topic] = FORMAT.exec(utf8Decode(bytes ?? NOTHING)) ?? [];
  return { topicId: id === undefined ? undefined : uuid(id), topic };
}

/** The topic id that the directory belongs to; undefined when no intact metadata is there. */
export const readTopicId = (disk: Disk, directory: string): Uuid | undefined =>
  readMetadata(disk, directory).topicId;

/** For a new directory; what a crash leaves of it passes for none. */
export function writeTopicId(disk: Disk, directory: string, topicId: Uuid, topic?: string): void {
  writeFile(disk, `${directory}/${METADATA_FILE}`, encodeMetadata(topicId, topic));
}

/** In a directory that has metadata. Durable when it returns. */
export function replaceMetadataNow(
  disk: Disk,
  directory: string,
  metadata: { readonly topicId: Uuid; readonly topic: string },
): void {
  const { topicId, topic } = metadata;
  replaceFileNow(disk, `${directory}/${METADATA_FILE}`, encodeMetadata(topicId, topic));
}

/** `topic`: where the directory's name does not tell it. */
export const encodeMetadata = (topicId: Uuid, topic: string | undefined): Uint8Array =>
  utf8Encode(`version: 0\ntopic_id: ${topicId}${topic === undefined ? '' : `\ntopic: ${topic}\n`}`);

const NOTHING = new Uint8Array(0);
