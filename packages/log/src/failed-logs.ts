/**
 * Logs of which a write or a sync has failed, in a file of the data directory, `failed-logs`: in the form
 * of a checkpoint, a line `topic partition topic-id` for each.
 *
 * After a failed sync the page cache holds what the disk does not, and counts it as written: what is read
 * looks well, and the next sync succeeds. So a restart proves nothing. A log that is named here is not
 * opened before it has been copied anew from a peer, or a person has accepted the loss
 * (`accept-loss.ts`); the file goes with the last name. Where the file itself is damaged any log may be
 * meant, and all are.
 */
import { uuid } from '@relevo/base/ids';
import { partitionName } from '@relevo/base/ids';
import type { Uuid } from '@relevo/base/ids';
import type { Disk, Logger } from '@relevo/base/ports';
import { messageOf } from '@relevo/base/errors';
import {
  decodeCheckpoint,
  encodeCheckpoint,
  readHint,
  replaceFileDurably,
} from './checkpoint-file.ts';
import { parsePartitionName } from './file-names.ts';
import { GroupCommit } from './group-commit.ts';

export const FAILED_LOGS_FILE = 'failed-logs';

/** Topic ids by partition name; undefined: the file is damaged, and any log may have failed. */
export function readFailedLogs(disk: Disk, root: string): Map<string, Uuid> | undefined {
  const path = `${root}/${FAILED_LOGS_FILE}`;
  const bytes = readHint(disk, path);
  if (bytes === undefined) return disk.exists(path) ? undefined : new Map();
  const lines = decodeCheckpoint(bytes);
  if (lines === undefined) return undefined;
  const found = new Map<string, Uuid>();
  for (const line of lines) {
    const [, topic, partition, id] = /^(\S+) (\d+) ([A-Za-z0-9_-]{22})$/.exec(line) ?? [];
    if (topic === undefined || id === undefined) return undefined;
    found.set(partitionName(topic, Number(partition)), uuid(id));
  }
  return found;
}

export function encodeFailedLogs(logs: ReadonlyMap<string, Uuid>): Uint8Array {
  const lines: string[] = [];
  for (const [name, topicId] of logs) {
    const parsed = parsePartitionName(name);
    if (parsed !== undefined) lines.push(`${parsed.topic} ${parsed.partition} ${topicId}`);
  }
  return encodeCheckpoint(lines.sort());
}

export class FailedLogs {
  readonly #disk: Disk;
  readonly #root: string;
  readonly #logger: Logger;
  readonly #logs: Map<string, Uuid>;
  /** The file is damaged: all logs that it may have named, but for those that are in order again. */
  readonly #sound: Set<string> | undefined;
  readonly #commit: GroupCommit = new GroupCommit(() => this.#write());
  #changes = 0;
  #durableChanges = 0;

  constructor(disk: Disk, root: string, logger: Logger) {
    this.#disk = disk;
    this.#root = root;
    this.#logger = logger;
    const found = readFailedLogs(disk, root);
    this.#logs = found ?? new Map();
    this.#sound = found === undefined ? new Set() : undefined;
    if (found !== undefined) return;
    logger.error('the list of logs of which a write failed is damaged: none is trusted', {
      path: `${root}/${FAILED_LOGS_FILE}`,
    });
  }

  has(name: string, topicId: Uuid): boolean {
    if (this.#sound !== undefined && !this.#sound.has(name)) return true;
    return this.#logs.get(name) === topicId;
  }

  /** What was noted or struck is not durable yet. */
  get isChanged(): boolean {
    return this.#changes !== this.#durableChanges;
  }

  /** In force at once; durable as soon as the disk takes it, with `write` for another attempt. */
  note(name: string, topicId: Uuid): void {
    if (this.#logs.get(name) === topicId) return;
    this.#logs.set(name, topicId);
    this.#changes++;
    this.#commit.request().catch((error: unknown) => {
      const facts = { log: name, why: messageOf(error) };
      this.#logger.error('that a write of a log failed could not be noted: tried again', facts);
    });
  }

  /** The log is another now. In force at once; durable when this resolves. */
  strike(name: string): Promise<void> {
    this.#sound?.add(name);
    if (!this.#logs.delete(name)) return Promise.resolve();
    this.#changes++;
    return this.#commit.request();
  }

  /** Durable when this resolves. Rejects with a DiskError. */
  write(): Promise<void> {
    return this.isChanged ? this.#commit.request() : this.#commit.idle();
  }

  async #write(): Promise<void> {
    const changes = this.#changes;
    if (changes === this.#durableChanges) return;
    const path = `${this.#root}/${FAILED_LOGS_FILE}`;
    // A damaged file stays: it names nobody who could be struck.
    if (this.#sound !== undefined) return;
    if (this.#logs.size === 0) {
      this.#disk.remove(path);
      await this.#disk.syncDirectory(this.#root);
    } else {
      await replaceFileDurably(this.#disk, path, encodeFailedLogs(this.#logs));
    }
    this.#durableChanges = changes;
  }
}
