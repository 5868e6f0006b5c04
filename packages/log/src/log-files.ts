/**
 * The files of a log, how they come and how they go. A new log has none before its first records come: a partition that nobody writes to
 * costs the disk nothing. Then they are made off the loop, many logs in turn; who appends without waiting for
 * that makes them at once, blocking. Both may come to the same file: each keeps what it finds.
 */
import { messageOf } from '@relevo/base/errors';
import type { Uuid } from '@relevo/base/ids';
import { parentOf } from './checkpoint-file.ts';
import type { Durability } from './durability.ts';
import { LOG_SUFFIX, METADATA_FILE, offsetFileName } from './file-names.ts';
import { LogError, isDiskError } from './log-error.ts';
import type { LogHealth } from './log-health.ts';
import type { PartitionLogDeps } from './log-types.ts';
import { deletedDirectory } from './partition-directory.ts';
import { encodeMetadata, writeTopicId } from './partition-metadata.ts';
import type { SegmentList } from './segment-list.ts';
import type { Urgency } from './slots.ts';

const NOTHING = new Uint8Array(0);

export interface LogFilesDeps {
  readonly directory: string;
  readonly topicId: Uuid;
  /** Where the directory's name does not tell it. */
  readonly topic: string | undefined;
  readonly deps: Pick<PartitionLogDeps, 'disk' | 'space' | 'young'>;
  readonly segments: SegmentList;
  readonly health: LogHealth;
  readonly durability: Durability;
  readonly isMade: boolean;
}

export class LogFiles {
  readonly #host: LogFilesDeps;
  #isMade: boolean;
  #making: Promise<void> | undefined;

  constructor(host: LogFilesDeps) {
    this.#host = host;
    this.#isMade = host.isMade;
  }

  get isMade(): boolean {
    return this.#isMade;
  }

  /** See `PartitionLog.make`. */
  make(urgency: Urgency): Promise<void> {
    if (this.#isMade) return Promise.resolve();
    this.#making ??= this.#make(urgency);
    return this.#making;
  }

  /** Resolves when no making is under way; undefined when none is. */
  settled(): Promise<void> | undefined {
    return this.#making?.catch(() => undefined);
  }

  /** Blocking; nothing where they are made already. Throws as `make` rejects. */
  makeNow(): void {
    if (this.#isMade) return;
    const { directory, topicId, topic, deps, segments } = this.#host;
    try {
      deps.disk.makeDirectory(directory);
      writeTopicId(deps.disk, directory, topicId, topic);
      segments.active.create();
    } catch (error) {
      throw this.#notMade(error);
    }
    this.#made();
  }

  /** See `PartitionLog.delete`. `idle`: nobody uses the files when it resolves. */
  remove(idle: () => Promise<void>): Promise<void> {
    const making = this.settled();
    return making === undefined ? this.#remove(idle) : making.then(() => this.#remove(idle));
  }

  #remove(idle: () => Promise<void>): Promise<void> {
    const { directory, topicId, deps } = this.#host;
    const { disk } = deps;
    if (!this.#isMade && !disk.exists(directory)) return Promise.resolve();
    const deleted = deletedDirectory(directory, topicId);
    disk.removeTree(deleted);
    disk.rename(directory, deleted);
    return this.#removeAll(deleted, idle);
  }

  async #removeAll(deleted: string, idle: () => Promise<void>): Promise<void> {
    const { directory, deps } = this.#host;
    await idle();
    await deps.disk.syncDirectory(parentOf(directory));
    deps.disk.removeTree(deleted);
  }

  async #make(urgency: Urgency): Promise<void> {
    const { directory, topicId, topic, deps, segments } = this.#host;
    const { disk, young } = deps;
    const files = new Map([
      [METADATA_FILE, encodeMetadata(topicId, topic)],
      [offsetFileName(segments.active.baseOffset, LOG_SUFFIX), NOTHING],
    ]);
    const make = (): Promise<void> => disk.makeFiles(directory, files);
    try {
      await (young === undefined ? make() : young.run(urgency, make));
    } catch (error) {
      throw this.#notMade(error);
    } finally {
      this.#making = undefined;
    }
    this.#made();
  }

  #made(): void {
    if (this.#isMade) return;
    this.#isMade = true;
    this.#host.durability.created();
  }

  #notMade(error: unknown): LogError {
    const { directory, deps, health } = this.#host;
    if (!isDiskError(error, 'FULL')) return health.fail('its files could not be made', error);
    deps.space?.exhausted(0);
    const message = `no room for the files of ${directory}: ${messageOf(error)}`;
    return new LogError('diskFull', message, { cause: error });
  }
}
