/**
 * Logs that went offline, and why, in a file of the data directory, `failed-logs`: in the form of a
 * checkpoint, a line `topic partition topic-id why` for each.
 *
 *     failed     a write or a sync failed: the log is not trusted
 *     other      something else did: what it is the log itself says when it is opened
 *     accepted   a write had failed, and a person has accepted the loss: the log is trusted
 *
 * After a failed sync the page cache holds what the disk does not, and counts it as written: what is read
 * looks well, and the next sync succeeds. So a restart proves nothing. A log that has failed is not opened
 * before it has been copied anew from a peer, or a person has accepted the loss (`accept-loss.ts`). Where
 * the file itself is damaged any log may be meant, and all are.
 *
 * The disk that fails may lose this file, or never take it. So the cluster's metadata say too which
 * replicas are offline: one that they name and this file does not has lost its line, and has failed.
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

export interface FailedLog {
  readonly topicId: Uuid;
  readonly why: 'failed' | 'other' | 'accepted';
}

/** By partition name; undefined: the file is damaged, and any log may have failed. */
export function readFailedLogs(disk: Disk, root: string): Map<string, FailedLog> | undefined {
  const path = `${root}/${FAILED_LOGS_FILE}`;
  const bytes = readHint(disk, path);
  if (bytes === undefined) return disk.exists(path) ? undefined : new Map();
  const lines = decodeCheckpoint(bytes);
  if (lines === undefined) return undefined;
  const found = new Map<string, FailedLog>();
  for (const line of lines) {
    const match = /^(\S+) (\d+) ([A-Za-z0-9_-]{22}) (failed|other|accepted)$/.exec(line);
    const [, topic, partition, id, stated] = match ?? [];
    const why = WHYS.find((each) => each === stated);
    if (topic === undefined || id === undefined || why === undefined) return undefined;
    found.set(partitionName(topic, Number(partition)), { topicId: uuid(id), why });
  }
  return found;
}

const WHYS = ['failed', 'other', 'accepted'] as const;

export function encodeFailedLogs(logs: ReadonlyMap<string, FailedLog>): Uint8Array {
  const lines: string[] = [];
  for (const [name, { topicId, why }] of logs) {
    const parsed = parsePartitionName(name);
    if (parsed !== undefined) lines.push(`${parsed.topic} ${parsed.partition} ${topicId} ${why}`);
  }
  return encodeCheckpoint(lines.sort());
}

export class FailedLogs {
  readonly #disk: Disk;
  readonly #root: string;
  readonly #logger: Logger;
  readonly #logs: Map<string, FailedLog>;
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
    const log = this.#logs.get(name);
    return log?.topicId === topicId && log.why === 'failed';
  }

  /** There is a line on the log: whatever others know of it, it is no news. */
  isNoted(name: string, topicId: Uuid): boolean {
    return this.has(name, topicId) || this.#logs.get(name)?.topicId === topicId;
  }

  /** What was noted or struck is not durable yet. */
  get isChanged(): boolean {
    return this.#changes !== this.#durableChanges;
  }

  /** In force at once; durable as soon as the disk takes it, with `write` for another attempt. */
  note(name: string, topicId: Uuid, why: 'failed' | 'other'): void {
    const known = this.#logs.get(name);
    if (known?.topicId === topicId && (known.why === why || why === 'other')) return;
    this.#logs.set(name, { topicId, why });
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

  /** The log is in order, and nobody says otherwise. */
  settled(name: string): void {
    const why = this.#logs.get(name)?.why;
    if (why === undefined || why === 'failed') return;
    this.strikeLater(name);
  }

  /** `strike`, for who does not wait: should it fail, the line goes with the next write. */
  strikeLater(name: string): void {
    this.strike(name).catch((error: unknown) => {
      const facts = { log: name, why: messageOf(error) };
      this.#logger.warn('a line on a log could not be taken back: tried again', facts);
    });
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
