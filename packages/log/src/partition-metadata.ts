/**
 * `partition.metadata`, Kafka's format: `version: 0` and `topic_id: …`. It ties a directory to one
 * incarnation of a topic: a topic that was deleted and made again has another id.
 */
import { utf8Decode, utf8Encode } from '@relevo/base/bytes';
import { uuid } from '@relevo/base/ids';
import type { Uuid } from '@relevo/base/ids';
import type { Disk } from '@relevo/base/ports';
import { readFile, writeFile } from './checkpoint-file.ts';
import { METADATA_FILE } from './file-names.ts';

/** The topic id that the directory belongs to; undefined when no intact metadata is there. */
export function readTopicId(disk: Disk, directory: string): Uuid | undefined {
  const bytes = readFile(disk, `${directory}/${METADATA_FILE}`);
  const id = /^version: 0\ntopic_id: ([A-Za-z0-9_-]{22})\n?$/.exec(
    utf8Decode(bytes ?? NOTHING),
  )?.[1];
  return id === undefined ? undefined : uuid(id);
}

/** For a new directory; what a crash leaves of it passes for none. */
export function writeTopicId(disk: Disk, directory: string, topicId: Uuid): void {
  const text = `version: 0\ntopic_id: ${topicId}`;
  writeFile(disk, `${directory}/${METADATA_FILE}`, utf8Encode(text));
}

const NOTHING = new Uint8Array(0);
