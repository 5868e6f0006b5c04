/**
 * A broker's data directory: a directory per partition replica, and what is kept for all of them.
 *
 *     .lock                             one process at a time
 *     meta.properties                   whose it is
 *     incarnations                      its last starts, by which an older copy of it is told
 *     .kafka_cleanshutdown              all logs were closed in order; deleted before any is opened
 *     recovery-point-offset-checkpoint  what needs no check after a crash
 *     replication-offset-checkpoint     high watermarks
 *     log-start-offset-checkpoint       where logs begin, if not with their first segment
 *     durable-logs                      which logs hold records: such a one is lost if it is missing
 *     failed-logs                       which logs met a failed write: such a one is not trusted
 *     young-logs.N                      the first records of logs that have no directory yet
 *     quorum                            what a controller keeps; nothing here reads it
 *
 * The checkpoints are written by `checkpoint`, which the owner calls now and then: the more often, the
 * less is read after a crash, and the surer damage is told from a torn tail.
 */
import { messageOf } from '@relevo/base/errors';
import { isMutated } from '@relevo/base/mutations';
import { partitionName } from '@relevo/base/ids';
import type { BrokerId, Offset, Uuid } from '@relevo/base/ids';
import type { Incarnation } from '@relevo/base/incarnation';
import { DiskError } from '@relevo/base/ports';
import type { Clock, Crc32c, Disk, Logger } from '@relevo/base/ports';
import { utf8Encode } from '@relevo/base/bytes';
import { replaceFileDurably } from './checkpoint-file.ts';
import { makeDurably, sweep, takeCleanMark, takeOwnership, takeStock } from './directory-start.ts';
import { DurableLogs, lostLogs } from './durable-logs.ts';
import type { LostLog } from './durable-logs.ts';
import {
  CLEAN_SHUTDOWN_FILE,
  DELETED_SUFFIX,
  HIGH_WATERMARKS_FILE,
  LOG_STARTS_FILE,
  RECOVERY_POINTS_FILE,
  SET_ASIDE_SUFFIX,
  isLogFile,
  parsePartitionName,
} from './file-names.ts';
import { FailedLogs } from './failed-logs.ts';
import { FreeSpace } from './free-space.ts';
import { GroupCommit } from './group-commit.ts';
import type { LogConfig } from './log-config.ts';
import type { LogCheckpoint, YoungHome } from './log-types.ts';
import { LogError } from './log-error.ts';
import { YoungLogs } from './young-logs.ts';
import { beginIncarnation } from './incarnations.ts';
import { OffsetCheckpoint } from './offset-checkpoint.ts';
import type { PartitionOffsets } from './offset-checkpoint.ts';
import {
  deletedDirectory,
  identifyPartition,
  isOrdinaryTopic,
  partitionDirectory,
  setAsideTopicId,
} from './partition-directory.ts';
import type { Leftover, PartitionDirectory } from './partition-directory.ts';
import { readTopicId } from './partition-metadata.ts';
import { PartitionLog } from './partition-log.ts';
import { WriteCount } from './recent-writes.ts';
import { SegmentCache } from './segment-cache.ts';
import { Slots } from './slots.ts';
import { runInSlices, runNow } from './steps.ts';
import type { Pace, Steps } from './steps.ts';
import type { Decompressor } from './time-lookup.ts';

const LOGS_AT_A_TIME = 32;
/** New logs that are made or synced for the first time at once: others have threads of the disk left. */
const YOUNG_LOGS_AT_A_TIME = 6;

/** Young logs that are given files of their own, in each call and after a pause. */
const SETTLED_A_CALL = 5;
const SETTLED_AT_ONCE = 100;
/** Young logs of the last life that nobody has opened, in each look at what is left over. */
const LEFTOVERS_MADE_MAX = 20;
/** Calls of `settleSome` by when those that are wanted are open. */
const LEFT_AFTER_CALLS = 300;

const ZERO = 0 as Offset;

export interface LogDirectoryOptions {
  /** The data directory, without a trailing slash; made if it is missing. */
  readonly root: string;
  readonly brokerId: BrokerId;
  /** Default: the one that the directory has; a new directory needs one. */
  readonly clusterId?: string | undefined;
  /** For a new directory, and for each start of it. */
  readonly newDirectoryId: () => Uuid;
  /** Kept free on the disk; default: 64 MiB. */
  readonly reserveBytes?: number;
  /** Old segments kept open, over all logs; default: 256. */
  readonly openSegmentsMax?: number;
  /** Bytes of young logs that have no files of their own; default: 32 MiB. 0: all have, at once. */
  readonly youngBytesMax?: number | undefined;
}

export interface LogDirectoryDeps {
  readonly disk: Disk;
  readonly crc32c: Crc32c;
  readonly logger: Logger;
  readonly clock: Pick<Clock, 'monotonicMs'>;
  readonly codecs?: Decompressor;
}

export interface OpenLogOptions {
  readonly topic: string;
  readonly partition: number;
  readonly topicId: Uuid;
  readonly config: LogConfig;
  readonly nowMs: number;
  readonly onOffline?: (reason: LogError) => void;
}

export class LogDirectory {
  readonly root: string;
  readonly clusterId: string;
  readonly directoryId: Uuid;
  /** The last starts of this directory, oldest first; this one is the last. */
  readonly incarnations: readonly Incarnation[];
  /** The broker stopped in order last time: logs are opened without recovery. */
  readonly wasCleanShutdown: boolean;
  /** What was found at the start, whether it is opened or not. */
  readonly partitions: readonly PartitionDirectory[];
  /** Logs that held records and whose directories were gone at the start; see `openLog`. */
  readonly lost: readonly LostLog[];
  /** Of the disk; its `check` is the owner's to call. */
  readonly space: FreeSpace;
  readonly #deps: LogDirectoryDeps;
  readonly #durableLogs: DurableLogs;
  /** What `delete` has begun: `close` waits for it. */
  readonly #deleting: Set<Promise<void>> = new Set();
  readonly #failedLogs: FailedLogs;
  readonly #lock: { release(): void };
  readonly #cache: SegmentCache;
  readonly #writes: WriteCount = new WriteCount();
  readonly #young: Slots = new Slots(YOUNG_LOGS_AT_A_TIME);
  readonly #youngLogs: YoungLogs;
  /** Young logs that are to be given files of their own, the oldest first; with the call that may. */
  readonly #toSettle: Map<string, number> = new Map();
  #settlings = 0;
  #mayBeSettled: number = SETTLED_AT_ONCE;
  readonly #namesSync: GroupCommit;
  readonly #logs: Map<string, PartitionLog> = new Map();
  readonly #recoveryPoints: OffsetCheckpoint;
  readonly #highWatermarks: OffsetCheckpoint;
  readonly #logStarts: OffsetCheckpoint;
  readonly #opening: Map<string, Promise<PartitionLog>> = new Map();
  readonly #found: Map<string, PartitionDirectory>;
  #closing = false;
  #checkpointing: Promise<void> = Promise.resolve();
  /** Logs that could not be opened, or closed, in order: the next start has to look at them. */
  readonly #outOfOrder: Set<string> = new Set();

  /**
   * Throws a LogError: `locked`, `foreign` for another cluster's or broker's directory, `offline` where
   * the disk fails.
   */
  static open(options: LogDirectoryOptions, deps: LogDirectoryDeps): LogDirectory {
    let lock: { release(): void } | undefined;
    try {
      makeDurably(options.root, deps.disk);
      lock = deps.disk.lock(options.root);
      return new LogDirectory(options, deps, lock);
    } catch (error) {
      lock?.release();
      if (!(error instanceof DiskError)) throw error;
      const kind = error.code === 'LOCKED' ? 'locked' : 'offline';
      const message = `cannot use the data directory ${options.root}: ${error.message}`;
      throw new LogError(kind, message, { cause: error });
    }
  }

  private constructor(
    options: LogDirectoryOptions,
    deps: LogDirectoryDeps,
    lock: { release(): void },
  ) {
    const { root } = options;
    const { disk } = deps;
    this.root = root;
    this.#deps = deps;
    this.#lock = lock;
    this.#cache = new SegmentCache(options.openSegmentsMax);
    this.#namesSync = new GroupCommit(() => disk.syncDirectory(root));
    this.space = new FreeSpace(disk, root, options.reserveBytes, deps.logger);
    const { clusterId, directoryId } = takeOwnership(options, disk, deps.logger);
    this.clusterId = clusterId;
    this.directoryId = directoryId;
    this.incarnations = beginIncarnation(disk, root, options.newDirectoryId());
    this.wasCleanShutdown = takeCleanMark(root, disk);
    sweep(root, disk, deps.logger);
    this.#youngLogs = new YoungLogs(root, deps, options.youngBytesMax);
    this.partitions = [...takeStock(root, disk), ...youngPartitions(this.#youngLogs)];
    this.#durableLogs = new DurableLogs(disk, root);
    this.#failedLogs = new FailedLogs(disk, root, deps.logger);
    this.lost = lostLogs(disk, root, this.#youngLogs.found);
    // What is lost may be put back.
    const found = [...this.partitions, ...this.lost];
    this.#found = new Map(this.partitions.map((each) => [each.name, each]));
    const names = new Set(found.map(({ name }) => name));
    const stored = (file: string): OffsetCheckpoint =>
      new OffsetCheckpoint(disk, `${root}/${file}`, names, deps.logger);
    this.#recoveryPoints = stored(RECOVERY_POINTS_FILE);
    this.#highWatermarks = stored(HIGH_WATERMARKS_FILE);
    this.#logStarts = stored(LOG_STARTS_FILE);
  }

  /**
   * Opens the log of a partition, or makes it; see `PartitionLog.open` for what it throws. A log of this
   * topic id that held records and whose directory is missing or empty is not made anew but `corrupt`,
   * until it is put back, or `forget` is called.
   */
  openLog(options: OpenLogOptions): PartitionLog {
    const name = this.#nameOf(options);
    try {
      return runNow(this.#openSteps(name, options));
    } catch (error) {
      throw openError(name, error);
    }
  }

  /**
   * `openLog` for a log whose recovery may take long: reads and syncs are off the loop, and between them it
   * goes by `pace`. When the directory is closed, it ends with a LogError, `closed`.
   */
  async openLogInSlices(options: OpenLogOptions, pace: Pace): Promise<PartitionLog> {
    const name = this.#nameOf(options);
    const breathe = (): Promise<void> | undefined => {
      if (this.#closing) throw new LogError('closed', `${this.root} is closed`);
      return pace.breathe();
    };
    const opening = runInSlices(this.#openSteps(name, options), { breathe });
    this.#opening.set(name, opening);
    try {
      return await opening;
    } catch (error) {
      throw openError(name, error);
    } finally {
      this.#opening.delete(name);
    }
  }

  #nameOf({ topic, partition }: OpenLogOptions): string {
    const name = partitionName(topic, partition);
    const isOpen = this.#logs.has(name) || this.#opening.has(name);
    if (isOpen) throw new RangeError(`the log of ${name} is open already`);
    return name;
  }

  /** Whether a directory of the partition was there at the start. */
  found(name: string): PartitionDirectory | undefined {
    return this.#found.get(name);
  }

  *#openSteps(name: string, options: OpenLogOptions): Steps<PartitionLog> {
    const { topic, partition: _, onOffline, ...rest } = options;
    if (parsePartitionName(name) === undefined) {
      const message = `"${topic}" cannot be the name of a topic: it has no log in ${this.root}`;
      throw new LogError('foreign', message);
    }
    const directory = this.pathOf(name);
    const { topicId } = options;
    const heldRecords = this.#durableLogs.has(name, topicId);
    const isTrusted = isMutated('failed-write-forgotten') || !this.#failedLogs.has(name, topicId);
    const isYoung = this.#youngLogs.has(name, topicId);
    const isThere = this.#youngLogs.found.has(name) || this.#deps.disk.exists(directory);
    if (!isTrusted && isThere) throw notTrusted(this.root, name);
    if (!heldRecords && !isThere) {
      this.#forget(name);
      this.#failedLogs.strikeLater(name);
    }
    this.#outOfOrder.add(name);
    yield* this.#youngLogs.makeDirectory(name);
    const holdsRecords = (): Promise<void> => this.#durableLogs.note(name, topicId);
    const writeFailed = (): void => this.#failedLogs.note(name, topicId, 'failed');
    const beginsAt = (start: Offset): Promise<void> => {
      this.#logStarts.set(name, start);
      return this.#logStarts.write();
    };
    const log = yield* PartitionLog.openSteps(
      {
        ...rest,
        directory,
        topic: isOrdinaryTopic(topic) ? undefined : topic,
        makeLater: true,
        // A log that was in the journal has no indexes.
        cleanShutdown: this.wasCleanShutdown && !isYoung,
        heldRecords,
        recoveryPoint: this.#recoveryPoints.get(name),
        highWatermark: this.#highWatermarks.proof(name),
        logStartOffset: this.#logStarts.get(name),
        startProof: this.#logStarts.proof(name),
      },
      {
        ...this.#deps,
        cache: this.#cache,
        writes: this.#writes,
        space: this.space,
        young: this.#young,
        youngLogs: this.#youngHome(options, name),
        syncParent: () => this.#namesSync.request(),
        holdsRecords,
        beginsAt,
        writeFailed,
        ...(onOffline === undefined ? {} : { onOffline }),
      },
    );
    this.#outOfOrder.delete(name);
    this.#logs.set(name, log);
    if (log.logEndOffset > log.logStartOffset) {
      // Noted before but by an older version; should it fail, it is tried again with the next records.
      holdsRecords().catch((error: unknown) => {
        const facts = { log: name, why: messageOf(error) };
        this.#deps.logger.warn('that a log holds records could not be noted', facts);
      });
    }
    return log;
  }

  #youngHome({ topic, partition, topicId }: OpenLogOptions, name: string): YoungHome {
    const young = this.#youngLogs;
    const key = { name, topic, partition, topicId };
    return {
      takes: (bytes) => young.takes(bytes),
      hasRoomFor: (file, bytes) => young.hasRoomFor(file, bytes),
      begin: (path) => {
        this.#toSettle.set(name, this.#settlings + 2);
        return young.begin(key, path);
      },
      settled: (file) => young.settled(file),
      gone: (file) => young.gone(file),
    };
  }

  /**
   * Lets go of all that is known of a log that is not open: the next `openLog` may make a new one where
   * the directory is missing. For a log that others have, or that nobody wants any more. In force at
   * once; durable when this resolves.
   */
  async forget(name: string): Promise<void> {
    if (this.#logs.has(name)) throw new RangeError(`the log of ${name} is open`);
    this.#outOfOrder.delete(name);
    const struck = Promise.all([
      this.#durableLogs.strike(name),
      this.#failedLogs.strike(name),
      this.#youngLogs.drop(name),
    ]);
    try {
      if (!this.#deps.disk.exists(this.pathOf(name))) this.#forget(name);
    } finally {
      await struck;
    }
  }

  /** The directory of the partition of that name, whether it is there or not. */
  pathOf(name: string): string {
    const parsed = parsePartitionName(name);
    if (parsed === undefined) throw new RangeError(`"${name}" is no name of a partition`);
    return `${this.root}/${partitionDirectory(parsed.topic, parsed.partition)}`;
  }

  /**
   * The replica is offline, for whatever reason; where a write of it failed, that is noted already. For
   * `isNoted`, after a restart.
   */
  noteOffline(name: string, topicId: Uuid): void {
    this.#failedLogs.note(name, topicId, 'other');
  }

  /** A line says why the log went offline, if not of late, or that the loss was accepted. */
  isNoted(name: string, topicId: Uuid): boolean {
    return this.#failedLogs.isNoted(name, topicId);
  }

  /** Others know that the log went offline, but here that was lost: it is not trusted any more. */
  distrust(name: string, topicId: Uuid): void {
    const isThere = this.#youngLogs.has(name, topicId) || this.#deps.disk.exists(this.pathOf(name));
    if (isThere) this.#failedLogs.note(name, topicId, 'failed');
  }

  /** The replica is in order, and nobody says otherwise: what `noteOffline` noted has done its work. */
  settled(name: string): void {
    this.#failedLogs.settled(name);
  }

  /** The log of that name and topic id has held records. */
  heldRecords(name: string, topicId: Uuid): boolean {
    return this.#durableLogs.has(name, topicId);
  }

  /** The log, if it is open. */
  log(name: string): PartitionLog | undefined {
    return this.#logs.get(name);
  }

  /** The high watermark that the last checkpoint knew; never above the end of an open log. */
  highWatermark(name: string): Offset {
    const stored = this.#highWatermarks.get(name) ?? ZERO;
    const end = this.#logs.get(name)?.logEndOffset ?? stored;
    return Math.min(stored, end) as Offset;
  }

  /** Deletes an open log, or a directory of `partitions` that nobody wants any more. */
  async delete(name: string): Promise<void> {
    const deleting = this.#delete(name);
    this.#deleting.add(deleting);
    try {
      await deleting;
    } finally {
      this.#deleting.delete(deleting);
    }
  }

  async #delete(name: string): Promise<void> {
    if (this.#opening.has(name)) await this.#opening.get(name)?.catch(() => undefined);
    const log = this.#logs.get(name);
    this.#outOfOrder.delete(name);
    if (log !== undefined) {
      this.#logs.delete(name);
      // No sync of it is under way by then, which might note it again. As long as it is noted, the name of
      // the directory must tell that it was deleted and not lost.
      try {
        await log.delete(() => this.#durableLogs.strike(name));
      } finally {
        await this.#durableLogs.strike(name);
        await this.#failedLogs.strike(name);
      }
      return;
    }
    if (parsePartitionName(name) === undefined) return;
    const { disk } = this.#deps;
    const directory = this.pathOf(name);
    if (disk.exists(directory)) {
      const deleted = deletedDirectory(directory, readTopicId(disk, directory));
      disk.removeTree(deleted);
      disk.rename(directory, deleted);
      await disk.syncDirectory(this.root);
      await this.#durableLogs.strike(name);
      disk.removeTree(deleted);
    }
    await this.#youngLogs.drop(name);
    await this.#durableLogs.strike(name);
    await this.#failedLogs.strike(name);
  }

  /**
   * Gives some of the young logs files of their own, off the loop. To be called every second: some hundred
   * logs are seen to soon, and thousands little by little, for that costs more than their records did.
   */
  settleSome(): void {
    this.#settlings++;
    this.#mayBeSettled = Math.min(SETTLED_AT_ONCE, this.#mayBeSettled + SETTLED_A_CALL);
    for (const [name, from] of this.#toSettle) {
      if (from > this.#settlings || this.#mayBeSettled < 1) return;
      this.#toSettle.delete(name);
      const log = this.#logs.get(name);
      if (log?.isInJournal !== true || log.state !== 'online') continue;
      this.#mayBeSettled--;
      void this.#settle(name, log);
    }
    if (this.#settlings > LEFT_AFTER_CALLS) this.#makeLeftovers(1);
  }

  async #settle(name: string, log: PartitionLog): Promise<void> {
    await log.settle();
    const mustTryAgain = log.isInJournal && log.state === 'online' && this.#logs.get(name) === log;
    if (mustTryAgain) this.#toSettle.set(name, this.#settlings + SETTLED_AT_ONCE);
  }

  /** Something has to be written that no checkpoint of an offset is about. */
  get mustWrite(): boolean {
    return this.#failedLogs.isChanged;
  }

  /** Directories of partitions whose logs are not open, and those that were set aside. */
  leftovers(): Leftover[] {
    const { disk } = this.#deps;
    const found: Leftover[] = [];
    this.#makeLeftovers(LEFTOVERS_MADE_MAX);
    for (const { name: directory, directory: isDirectory } of disk.list(this.root)) {
      if (!isDirectory) continue;
      if (directory.endsWith(SET_ASIDE_SUFFIX)) {
        const topicId = setAsideTopicId(disk, this.root, directory);
        found.push({ directory, topicId, name: undefined, isStillborn: false });
        continue;
      }
      const partition = identifyPartition(disk, this.root, directory);
      if (partition === undefined || this.#logs.has(partition.name)) continue;
      const { topicId, name } = partition;
      found.push({ directory, topicId, name, isStillborn: this.#isStillborn(partition) });
    }
    return found;
  }

  /** Young logs that nobody has opened become directories like any other. */
  #makeLeftovers(max: number): void {
    let made = 0;
    for (const { name, isDamaged } of this.#youngLogs.found.values()) {
      if (isDamaged || this.#opening.has(name)) continue;
      if (made++ === max) return;
      runNow(this.#youngLogs.makeDirectory(name));
    }
  }

  /** Has the directory of a log that is not open, and was young, made. Durable when this returns. */
  makeDirectory(name: string): void {
    if (this.#youngLogs.found.get(name)?.isDamaged === false) {
      runNow(this.#youngLogs.makeDirectory(name));
    }
  }

  #isStillborn({ name, directory, topicId }: PartitionDirectory): boolean {
    const { disk } = this.#deps;
    const path = `${this.root}/${directory}`;
    if (topicId !== undefined || !this.#durableLogs.isWritten) return false;
    if (this.#durableLogs.isNoted(name) || (this.#recoveryPoints.get(name) ?? 0) > 0) return false;
    // What people keep under such a name is theirs.
    if (!disk.list(path).every((entry) => isLogFile(entry.name))) return false;
    try {
      return readTopicId(disk, path) === undefined;
    } catch (error) {
      if (error instanceof DiskError) return false;
      throw error;
    }
  }

  /** Removes one of them; false where it is gone or in use by now. Durable when it resolves. */
  async removeLeftover({ directory, topicId, name }: Leftover): Promise<boolean> {
    const { disk } = this.#deps;
    const path = `${this.root}/${directory}`;
    const isOpen = name !== undefined && this.#logs.has(name);
    if (isOpen || !disk.exists(path)) return false;
    const deleted =
      name === undefined
        ? path.slice(0, -SET_ASIDE_SUFFIX.length) + DELETED_SUFFIX
        : deletedDirectory(path, topicId);
    disk.removeTree(deleted);
    disk.rename(path, deleted);
    // Before anything is waited for: a new log may get the name meanwhile.
    if (name !== undefined) this.#outOfOrder.delete(name);
    const struck = name === undefined ? Promise.resolve() : this.#durableLogs.strike(name);
    await Promise.all([struck, disk.syncDirectory(this.root)]);
    disk.removeTree(deleted);
    return true;
  }

  /** Lets go of a log that went offline, so that it can be opened anew. */
  async drop(name: string): Promise<void> {
    const log = this.#logs.get(name);
    if (log === undefined) return;
    this.#logs.delete(name);
    this.#outOfOrder.add(name);
    if (await log.close()) this.#outOfOrder.delete(name);
  }

  /**
   * Writes the checkpoints: high watermarks as given, recovery points up to them. Logs that the map does
   * not name keep what they had. One at a time; a failing log does not keep the others from it.
   */
  checkpoint(highWatermarks: PartitionOffsets): Promise<void> {
    const run = (): Promise<void> => this.#checkpoint(highWatermarks);
    const next = this.#checkpointing.then(run, run);
    this.#checkpointing = next;
    return next;
  }

  /**
   * Closes all logs and writes the checkpoints and, if every log was in order, the mark that spares the
   * next start its recovery. Logs that were found and never opened do not stand in the way.
   */
  async close(highWatermarks: PartitionOffsets): Promise<void> {
    this.#closing = true;
    await Promise.allSettled(this.#opening.values());
    await Promise.allSettled(this.#deleting);
    await this.#checkpointing.catch(() => undefined);
    this.#toSettle.clear();
    const logs = [...this.#logs];
    const inOrder: boolean[] = [];
    await forSome(logs, async ([, log]) => {
      inOrder.push(await log.close());
    });
    this.#logs.clear();
    const noted = logs.map(([name, log]) => this.#note(name, log, highWatermarks.get(name)));
    await this.#writeAll();
    for (const { written } of noted) written();
    await this.#durableLogs.close();
    await this.#youngLogs.close();
    // What was found and not opened was not recovered either, unless the last end was clean too.
    const opened = new Set(logs.map(([name]) => name));
    const isTaken = ({ name, directory }: PartitionDirectory): boolean =>
      opened.has(name) || !this.#deps.disk.exists(`${this.root}/${directory}`);
    const allTaken = this.wasCleanShutdown || this.partitions.every(isTaken);
    if (allTaken && inOrder.every(Boolean) && this.#outOfOrder.size === 0) {
      const path = `${this.root}/${CLEAN_SHUTDOWN_FILE}`;
      await replaceFileDurably(this.#deps.disk, path, utf8Encode('{"version":0}\n'));
    }
    this.#lock.release();
  }

  async #checkpoint(highWatermarks: PartitionOffsets): Promise<void> {
    const noted: LogCheckpoint[] = [];
    await forSome([...this.#logs], async ([name, log]) => {
      const highWatermark = highWatermarks.get(name);
      if (highWatermark === undefined || log.state !== 'online') return;
      try {
        await log.advanceRecoveryPoint(highWatermark);
      } catch (error) {
        if (!(error instanceof LogError)) throw error;
      }
      if (this.#logs.get(name) === log) noted.push(this.#note(name, log, highWatermark));
    });
    await this.#writeAll();
    for (const { written } of noted) written();
  }

  /** All of one moment: a truncation changes all three. */
  #note(name: string, log: PartitionLog, highWatermark: Offset | undefined): LogCheckpoint {
    const noted = log.checkpoint();
    this.#recoveryPoints.set(name, noted.recoveryPoint);
    this.#logStarts.set(name, noted.logStartOffset);
    // It is to tell what must be there, and so never of more than was synced.
    const told = highWatermark ?? this.#highWatermarks.get(name) ?? ZERO;
    this.#highWatermarks.set(name, Math.min(told, noted.recoveryPoint) as Offset);
    return noted;
  }

  /** One that fails does not keep the others from it. */
  async #writeAll(): Promise<void> {
    const failures: unknown[] = [];
    const offsets = [this.#recoveryPoints, this.#highWatermarks, this.#logStarts];
    for (const file of [this.#failedLogs, ...offsets]) {
      await file.write().catch((error: unknown) => failures.push(error));
    }
    if (failures.length > 0) throw failures[0];
  }

  /** A new log does not inherit the offsets of one of its name that was deleted. */
  #forget(name: string): void {
    this.#recoveryPoints.forget(name);
    this.#highWatermarks.forget(name);
    this.#logStarts.forget(name);
  }
}

const notTrusted = (root: string, name: string): LogError =>
  new LogError(
    'corrupt',
    `the log of ${name} in ${root} is not trusted: a write or a sync of it has failed, and what can be ` +
      'read of it may not be on the disk. Where another in-sync replica has the log, it is copied anew ' +
      'from there. Where there is none, the partition stays offline until you accept that records may be ' +
      `lost: stop the broker, and run relevo log accept-loss ${root} ${name}`,
  );

function openError(name: string, error: unknown): unknown {
  if (!(error instanceof DiskError)) return error;
  const message = `cannot open the log of ${name}: ${error.message}`;
  return new LogError('offline', message, { cause: error });
}

/** A few at a time: each log under way has files open and syncs waiting. */
async function forSome<Item>(
  items: readonly Item[],
  run: (item: Item) => Promise<void>,
): Promise<void> {
  for (let from = 0; from < items.length; from += LOGS_AT_A_TIME) {
    await Promise.all(items.slice(from, from + LOGS_AT_A_TIME).map(run));
  }
}

const youngPartitions = (young: YoungLogs): PartitionDirectory[] =>
  [...young.found.values()].map(({ name, topic, partition, topicId }) => {
    const directory = partitionDirectory(topic, partition);
    return { name, directory, topic, partition, topicId };
  });
