/**
 * The files of a log, how they come and how they go. A new log has none before its first records come: a
 * partition that nobody writes to costs the disk nothing. The first records go to the journal of young logs,
 * where there is one (`young-logs.ts`):
 *
 *     unmade ──(first records)──> young ──(its turn, or it has grown)──> made
 *        └──────────────(no journal, or it takes no more)─────────────────^
 *
 * Files are made off the loop, many logs in turn; who appends without waiting for that makes them at once,
 * blocking. Of a young log they are made aside and get their name when they hold all that it has, durably.
 * Where no journal is, both ways may come to the same file: each keeps what it finds.
 */
import { messageOf } from '@relevo/base/errors';
import type { Uuid } from '@relevo/base/ids';
import { DiskError } from '@relevo/base/ports';
import type { DiskFile } from '@relevo/base/ports';
import { parentOf, syncFileNow } from './checkpoint-file.ts';
import type { Durability } from './durability.ts';
import { LOG_SUFFIX, METADATA_FILE, TEMPORARY_SUFFIX, offsetFileName } from './file-names.ts';
import { LogError, isDiskError } from './log-error.ts';
import type { LogHealth } from './log-health.ts';
import type { PartitionLogDeps } from './log-types.ts';
import { deletedDirectory } from './partition-directory.ts';
import { encodeMetadata, writeTopicId } from './partition-metadata.ts';
import type { SegmentList } from './segment-list.ts';
import type { Urgency } from './slots.ts';
import type { YoungFile } from './young-file.ts';

const NOTHING = new Uint8Array(0);
/** Syncs off the loop of what was appended while the files of a young log were made; then one that blocks. */
const CATCH_UP_ROUNDS = 3;

export interface LogFilesDeps {
  readonly directory: string;
  readonly topicId: Uuid;
  /** Where the directory's name does not tell it. */
  readonly topic: string | undefined;
  readonly deps: Pick<PartitionLogDeps, 'disk' | 'space' | 'young' | 'youngLogs'>;
  readonly segments: SegmentList;
  readonly health: LogHealth;
  readonly durability: Durability;
  readonly isMade: boolean;
}

export interface RemovalSteps {
  /** Nobody uses the files when it resolves. */
  readonly idle: () => Promise<void>;
  /** The directory's name tells durably that the log is deleted; its files go when this has resolved. */
  readonly renamed: () => Promise<void>;
}

export class LogFiles {
  readonly #host: LogFilesDeps;
  #isMade: boolean;
  #making: Promise<void> | undefined;
  /** Undefined: it is unmade, or made. */
  #young: YoungFile | undefined;
  /** Has its own file, whose directory's name is not durable yet. */
  #unsettled: YoungFile | undefined;
  /** Its directory may be there, though it is not made. */
  #isBegun = false;
  #isClosed = false;

  constructor(host: LogFilesDeps) {
    this.#host = host;
    this.#isMade = host.isMade;
  }

  get isMade(): boolean {
    return this.#isMade;
  }

  /** Its records are in the journal alone. */
  get isYoung(): boolean {
    return this.#young !== undefined;
  }

  /** An append of so many bytes does not have to make files first. */
  takes(bytes: number): boolean {
    if (this.#isMade) return true;
    const { youngLogs } = this.#host.deps;
    if (youngLogs === undefined) return false;
    if (this.#young !== undefined) return youngLogs.hasRoomFor(this.#young, bytes);
    // Where a directory is, the journal is void.
    return !this.#isBegun && youngLogs.takes(bytes);
  }

  /** Before an append of so many bytes. Throws as `makeNow`. */
  prepare(bytes: number): void {
    if (this.#isMade) return;
    if (!this.takes(bytes)) {
      this.makeNow();
      return;
    }
    if (this.#young !== undefined) return;
    const { deps, segments, directory } = this.#host;
    const { active } = segments;
    const path = `${directory}/${offsetFileName(active.baseOffset, LOG_SUFFIX)}`;
    this.#young = deps.youngLogs?.begin(path);
    if (this.#young !== undefined) active.beginIn(this.#young);
  }

  /** See `PartitionLog.make`. */
  make(urgency: Urgency = 'begins'): Promise<void> {
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
      if (this.#young !== undefined) {
        this.#moveNow(this.#young);
        return;
      }
      this.#isBegun = true;
      deps.disk.makeDirectory(directory);
      writeTopicId(deps.disk, directory, topicId, topic);
      segments.active.create();
    } catch (error) {
      throw this.#notMade(error);
    }
    this.#made();
  }

  /** It is closed or deleted: files that are being made are not taken. */
  close(): void {
    this.#isClosed = true;
  }

  /** See `PartitionLog.delete`. */
  remove(steps: RemovalSteps): Promise<void> {
    const making = this.settled();
    return making === undefined ? this.#remove(steps) : making.then(() => this.#remove(steps));
  }

  #remove(steps: RemovalSteps): Promise<void> {
    const { directory, topicId, deps } = this.#host;
    const { disk } = deps;
    if (this.#young !== undefined) return this.#removeYoung(this.#young, steps);
    if (!this.#isMade && !disk.exists(directory)) return steps.renamed();
    const deleted = deletedDirectory(directory, topicId);
    disk.removeTree(deleted);
    disk.rename(directory, deleted);
    return this.#removeAll(deleted, steps);
  }

  async #removeYoung(young: YoungFile, { idle, renamed }: RemovalSteps): Promise<void> {
    const { deps, directory } = this.#host;
    deps.disk.removeTree(directory + TEMPORARY_SUFFIX);
    const gone = deps.youngLogs?.gone(young);
    await Promise.all([idle(), gone]);
    await renamed();
  }

  async #removeAll(deleted: string, { idle, renamed }: RemovalSteps): Promise<void> {
    const { directory, deps } = this.#host;
    await idle();
    await deps.disk.syncDirectory(parentOf(directory));
    await renamed();
    deps.disk.removeTree(deleted);
  }

  async #make(urgency: Urgency): Promise<void> {
    const { directory, topicId, topic, deps, segments } = this.#host;
    const { disk, young } = deps;
    const own = this.#young;
    this.#isBegun = own === undefined;
    const make = async (): Promise<void> => {
      if (own !== undefined) {
        await this.#move(own);
        return;
      }
      const files = new Map([
        [METADATA_FILE, encodeMetadata(topicId, topic)],
        [offsetFileName(segments.active.baseOffset, LOG_SUFFIX), NOTHING],
      ]);
      await disk.makeFiles(directory, files);
    };
    try {
      await (young === undefined ? make() : young.run(urgency, make));
    } catch (error) {
      throw this.#notMade(error);
    } finally {
      this.#making = undefined;
    }
    if (own === undefined) this.#made();
  }

  // ---------------------------------------------------------------- the files of a young log

  async #move(young: YoungFile): Promise<void> {
    const { directory, topicId, topic, deps } = this.#host;
    const { disk } = deps;
    const aside = directory + TEMPORARY_SUFFIX;
    const segment = asideOf(young, aside);
    const { cuts } = young;
    disk.removeTree(aside);
    const content = young.content();
    const files = new Map([
      [METADATA_FILE, encodeMetadata(topicId, topic)],
      [segment.slice(aside.length + 1), content],
    ]);
    try {
      await disk.makeFiles(aside, files);
    } catch (error) {
      this.#removeAside(aside);
      throw error;
    }
    if (this.#isOver(young)) {
      disk.removeTree(aside);
      return;
    }
    const [metadata, real] = [
      disk.open(`${aside}/${METADATA_FILE}`, 'existing'),
      disk.open(segment, 'existing'),
    ];
    let isNamed = false;
    try {
      await Promise.all([metadata.datasync(), real.datasync(), disk.syncDirectory(aside)]);
      let size = content.length;
      // What was cut meanwhile is made anew another time.
      for (let round = 0; !this.#isOver(young) && young.cuts === cuts; round++) {
        if (young.size() === size) {
          this.#nameIt(young, real, aside);
          isNamed = true;
          return;
        }
        real.write(young.content(size), size);
        size = young.size();
        // A log that grows all the time would be followed for ever.
        if (round < CATCH_UP_ROUNDS) await real.datasync();
        else real.datasyncNow();
      }
    } finally {
      metadata.close();
      // `makeNow` may have named its own meanwhile.
      if (!isNamed) {
        real.close();
        this.#removeAside(aside);
      }
    }
  }

  /** The next start would remove it too. */
  #removeAside(aside: string): void {
    const { disk } = this.#host.deps;
    try {
      disk.removeTree(aside);
    } catch (error) {
      if (!(error instanceof DiskError)) throw error;
    }
  }

  /** Somebody else has made the files meanwhile, or the log is closed. */
  #isOver(young: YoungFile): boolean {
    return this.#isClosed || young.hasOwnFile;
  }

  /** Blocking; beside a `#move` that is under way, and then instead of it. */
  #moveNow(young: YoungFile): void {
    const { directory, topicId, topic, deps } = this.#host;
    const { disk } = deps;
    const aside = `${directory}.now${TEMPORARY_SUFFIX}`;
    let real: DiskFile | undefined;
    try {
      disk.removeTree(aside);
      disk.makeDirectory(aside);
      writeTopicId(disk, aside, topicId, topic);
      syncFileNow(disk, `${aside}/${METADATA_FILE}`);
      real = disk.open(asideOf(young, aside), 'create');
      real.write(young.content(), 0);
      real.datasyncNow();
      disk.syncDirectoryNow(aside);
      this.#nameIt(young, real, aside);
    } finally {
      if (!young.hasOwnFile) {
        real?.close();
        this.#removeAside(aside);
      }
    }
  }

  /** What was made aside is durable and holds all of the log: from now on it is the log. */
  #nameIt(young: YoungFile, real: DiskFile, aside: string): void {
    const { directory, deps, durability } = this.#host;
    deps.disk.rename(aside, directory);
    this.#young = undefined;
    this.#unsettled = young;
    this.#isMade = true;
    durability.named();
    young.moveTo(real);
  }

  /** The directory's name is durable: the journal may forget the log. */
  named(): void {
    if (this.#unsettled !== undefined) this.#host.deps.youngLogs?.settled(this.#unsettled);
    this.#unsettled = undefined;
  }

  #made(): void {
    if (this.#isMade || this.#young !== undefined) return;
    this.#isMade = true;
    this.#host.durability.created();
  }

  #notMade(error: unknown): LogError {
    const { directory, deps, health } = this.#host;
    if (error instanceof LogError) return error;
    if (!isDiskError(error, 'FULL')) return health.fail('its files could not be made', error);
    deps.space?.exhausted(0);
    const message = `no room for the files of ${directory}: ${messageOf(error)}`;
    return new LogError('diskFull', message, { cause: error });
  }
}

const asideOf = ({ path }: YoungFile, aside: string): string =>
  aside + path.slice(parentOf(path).length);
