/**
 * The log of one partition replica: segments in a directory, and what follows from them.
 *
 *     log start ≤ … ≤ synced end ≤ log end
 *
 * Appends go to the page cache at once and count as *synced* when `sync` has covered them. An operation
 * that fails in a way that leaves the file in doubt takes the log offline for good (L3): it is opened
 * anew, and recovered, or rebuilt from its peers.
 */
import { assert, defined } from '@relevo/base/assert';
import { messageOf } from '@relevo/base/errors';
import { NO_LEADER_EPOCH } from '@relevo/base/ids';
import type { LeaderEpoch, Offset, Uuid } from '@relevo/base/ids';
import { DiskError } from '@relevo/base/ports';
import type { BatchHeader } from '@relevo/record/batch-header';
import { Durability } from './durability.ts';
import { EpochFile } from './epoch-file.ts';
import { checkFollowerBatches, segmentRuns } from './follower-batches.ts';
import { GroupCommit } from './group-commit.ts';
import { prepareBatch } from './leader-batch.ts';
import type { EpochEntry, LeaderEpochCache } from './leader-epoch-cache.ts';
import type { LogConfig } from './log-config.ts';
import { LogError } from './log-error.ts';
import { LogCheckpoints } from './log-checkpoints.ts';
import { LogFiles } from './log-files.ts';
import { LogHealth } from './log-health.ts';
import type { LogState } from './log-health.ts';
import { LogReads } from './log-reads.ts';
import { appended } from './log-types.ts';
import type {
  AppendResult,
  Appended,
  LogCheckpoint,
  PartitionLogDeps,
  PartitionLogOptions,
  SegmentInfo,
} from './log-types.ts';
import { OldSegments } from './old-segments.ts';
import { encodeSnapshot } from './producer-snapshot.ts';
import type { ProducerSnapshots } from './producer-snapshots.ts';
import { duplicateOf } from './producer-state.ts';
import type { ProducerState } from './producer-state.ts';
import { RecentWrites, WriteCount } from './recent-writes.ts';
import { RecoveryPoint } from './recovery-point.ts';
import { recoverLog } from './recovery.ts';
import type { RecoveredLog } from './recovery.ts';
import { isOverAge, segmentsToDrop } from './retention.ts';
import { SegmentCache } from './segment-cache.ts';
import { SegmentList } from './segment-list.ts';
import { SegmentWriter } from './segment-writer.ts';
import { Segment } from './segment.ts';
import type { Urgency } from './slots.ts';
import { runNow } from './steps.ts';
import type { Steps } from './steps.ts';
import { SyncedSegment } from './synced-segment.ts';
import type { TimestampedOffset } from './time-lookup.ts';
import { YOUNG_LOG_BYTES } from './young-logs.ts';

const ZERO = 0 as Offset;
const EPOCH_MAX = (2 ** 31 - 1) as LeaderEpoch;

export class PartitionLog {
  readonly directory: string;
  readonly topicId: Uuid;
  readonly #deps: PartitionLogDeps;
  readonly #segments: SegmentList;
  readonly #epochs: LeaderEpochCache;
  readonly #producers: ProducerState;
  readonly #snapshots: ProducerSnapshots;
  readonly #durability: Durability;
  readonly #commit: GroupCommit;
  readonly #checkpoints: LogCheckpoints;
  readonly #writer: SegmentWriter;
  readonly #health: LogHealth;
  readonly #recent: RecentWrites;
  readonly #reads: LogReads;
  #config: LogConfig;
  #startOffset: Offset;
  #endOffset: Offset;
  readonly #recoveryPoint: RecoveryPoint;
  readonly #syncedSegment: SyncedSegment;
  readonly #oldSegments: OldSegments;
  /** Counts truncations, for reads that were under way. */
  #generation = 0;
  readonly #files: LogFiles;

  /**
   * Opens the log in `directory`, or makes a new one; blocking, recovery included. A torn tail is cut
   * and reported to the logger. Throws a LogError: `corrupt` where what was durable is damaged or gone,
   * `foreign` where the directory is another topic's, `offline` where the disk fails.
   */
  static open(options: PartitionLogOptions, deps: PartitionLogDeps): PartitionLog {
    return runNow(PartitionLog.openSteps(options, deps));
  }

  /** `open`, for who would not be blocked by a long recovery. */
  static *openSteps(options: PartitionLogOptions, deps: PartitionLogDeps): Steps<PartitionLog> {
    const cache = deps.cache ?? new SegmentCache();
    try {
      const recovered = yield* recoverLog(options, { ...deps, cache });
      return new PartitionLog(options, deps, cache, recovered);
    } catch (error) {
      if (!(error instanceof DiskError)) throw error;
      const kind = error.code === 'FULL' ? 'diskFull' : 'offline';
      if (kind === 'diskFull') deps.space?.exhausted(0);
      const message = `cannot open the log in ${options.directory}: ${error.message}`;
      throw new LogError(kind, message, { cause: error });
    }
  }

  private constructor(
    options: PartitionLogOptions,
    deps: PartitionLogDeps,
    cache: SegmentCache,
    recovered: RecoveredLog,
  ) {
    const { disk } = deps;
    const { directory, config } = options;
    const { indexIntervalBytes } = config;
    this.directory = directory;
    this.topicId = options.topicId;
    this.#config = config;
    this.#deps = deps;
    this.#health = new LogHealth(directory, deps.logger, deps);
    this.#epochs = recovered.epochs;
    this.#producers = recovered.producers;
    this.#snapshots = recovered.snapshots;
    this.#recoveryPoint = new RecoveryPoint(disk, directory, recovered);
    this.#syncedSegment = new SyncedSegment(disk, directory, recovered.syncedSegment);
    this.#endOffset = defined(recovered.segments.at(-1), 'the last segment').nextOffset;
    this.#startOffset = Math.min(recovered.startOffset, this.#endOffset) as Offset;
    this.#epochs.advanceStart(this.#startOffset);
    this.#durability = new Durability(disk, directory, this.#endOffset, {
      beforeFirst: deps.holdsRecords,
      syncParent: deps.syncParent,
      named: () => this.#files.named(),
      young: deps.young,
    });
    this.#segments = new SegmentList(recovered.segments, {
      disk,
      directory,
      durability: this.#durability,
      newSegment: (baseOffset) =>
        new Segment({ disk, directory, baseOffset, indexIntervalBytes, cache }),
    });
    if (!recovered.isUnmade && !recovered.isDurable) this.#durability.created();
    this.#files = new LogFiles({
      directory,
      topicId: options.topicId,
      topic: options.topic,
      deps,
      segments: this.#segments,
      health: this.#health,
      durability: this.#durability,
      isMade: !recovered.isUnmade,
    });
    this.#commit = new GroupCommit(() => this.#makeDurable());
    this.#checkpoints = new LogCheckpoints({
      segments: this.#segments,
      epochs: this.#epochs,
      producers: this.#producers,
      snapshots: this.#snapshots,
      starts: recovered.starts,
      recoveryPoint: this.#recoveryPoint,
      epochFile: new EpochFile(disk, directory, this.#epochs, this.#health),
      durability: this.#durability,
      commit: this.#commit,
      health: this.#health,
      hasOwnFiles: () => this.#files.isMade,
      config: () => this.#config,
      logEnd: () => this.#endOffset,
      generation: () => this.#generation,
    });
    this.#writer = new SegmentWriter({
      directory,
      segments: this.#segments,
      files: this.#files,
      health: this.#health,
      durability: this.#durability,
      checkpoints: this.#checkpoints,
      space: deps.space,
      config: () => this.#config,
      logEnd: () => this.#endOffset,
      hasSecond: () => this.#noteStart(deps),
    });
    this.#recent = new RecentWrites(deps.writes ?? new WriteCount());
    this.#oldSegments = new OldSegments({
      directory,
      logger: deps.logger,
      segments: this.#segments,
      syncedSegment: this.#syncedSegment,
      health: this.#health,
      beginsAt: deps.beginsAt,
      generation: () => this.#generation,
      removed: () => {
        this.#checkpoints.prune();
        this.#makeDurableLater();
      },
    });
    this.#reads = new LogReads({
      directory,
      segments: this.#segments,
      recent: this.#recent,
      deps,
      range: () => {
        this.#health.assertOnline();
        return { start: this.#startOffset, end: this.#endOffset };
      },
      generation: () => this.#generation,
      epochAt: (offset) => this.#epochs.epochAt(offset),
      fail: (what, cause) => this.#health.fail(what, cause, 'read'),
    });
  }
  // ------------------------------------------------------------------------------ what is known

  get logStartOffset(): Offset {
    return this.#startOffset;
  }
  /** The offset that the next record gets. */
  get logEndOffset(): Offset {
    return this.#endOffset;
  }
  /** All below is on stable storage; with `flushMode: 'os'` the log end. */
  get syncedEndOffset(): Offset {
    return this.#config.flushMode === 'os' ? this.#endOffset : this.#durability.end;
  }
  /** It is new: a sync waits for its turn among many, and says nothing of the disk. */
  get isYoung(): boolean {
    return !this.#files.isMade || this.#durability.isYoung;
  }
  /** Its records are in the journal of young logs alone. */
  get isInJournal(): boolean {
    return this.#files.isYoung;
  }
  /** For the data directory's checkpoint: after a crash, all below is taken without a check. */
  get recoveryPoint(): Offset {
    return this.#recoveryPoint.offset;
  }
  get latestEpoch(): LeaderEpoch {
    return this.#epochs.latestEpoch;
  }
  /** The epoch of the last record; -1 when there is none. A leader may have opened a later one. */
  get lastRecordEpoch(): LeaderEpoch {
    if (this.#endOffset === this.#startOffset) return NO_LEADER_EPOCH;
    return this.#epochs.epochAt(this.#endOffset - 1);
  }
  get epochEntries(): readonly EpochEntry[] {
    return this.#epochs.entries;
  }
  get sizeBytes(): number {
    return this.#segments.sizeBytes;
  }
  get segments(): readonly SegmentInfo[] {
    return this.#segments.infos();
  }
  get state(): LogState {
    return this.#health.state;
  }
  get offlineReason(): LogError | undefined {
    return this.#health.reason;
  }
  get config(): LogConfig {
    return this.#config;
  }

  /** Settings may change at any time; a new `segmentBytes` holds from the next append. */
  configure(config: LogConfig): void {
    this.#config = config;
  }

  /** As a snapshot file has it: but for producers forgotten, equal at equal offsets everywhere (I3). */
  producerSnapshot(): Uint8Array {
    return encodeSnapshot(this.#producers, this.#deps.crc32c);
  }

  /** False: it is new, and an append of so many bytes makes its files, blocking, where `make` has not. */
  takes(bytes: number): boolean {
    return this.#files.takes(bytes);
  }

  /**
   * Makes the files of a new log, off the loop; callers share. Rejects with a LogError: `diskFull`, and may
   * be asked for again; else the log is offline. `ends`: somebody else has begun what waits for it, a leader
   * for its follower.
   */
  make(urgency: Urgency = 'begins'): Promise<void> {
    return this.#files.make(urgency);
  }

  /** Gives a young log files of its own, off the loop; what cannot be done now is left for another time. */
  async settle(): Promise<void> {
    if (!this.#files.isYoung || this.state !== 'online') return;
    try {
      await this.#files.make();
      if (this.state === 'online' && this.#durability.hasWork) await this.#commit.request();
    } catch (error) {
      if (!(error instanceof LogError)) throw error;
    }
  }

  // ---------------------------------------------------------------------------------- appending

  /**
   * Appends one batch that `validateBatch` has passed; its base offset and epoch are set in place. With
   * `LogAppendTime` its timestamps too. Throws a LogError: `oldLeaderEpoch`, `tooLarge`, `badBatch`,
   * `badTimestamp`, those of the producer's sequence, `diskFull`, `offline`; the log is then as before.
   */
  appendAsLeader(batch: Uint8Array, epoch: LeaderEpoch, nowMs: number): AppendResult {
    this.#health.assertOnline();
    if (epoch < this.latestEpoch) {
      const why = `epoch ${epoch} is below the latest, ${this.latestEpoch}`;
      throw new LogError('oldLeaderEpoch', `${this.directory}: ${why}`);
    }
    const place = { baseOffset: this.#endOffset, leaderEpoch: epoch };
    const header = prepareBatch(batch, place, nowMs, this.#config, this.#deps.crc32c);
    const repeat = this.#producers.check(header);
    if (repeat !== undefined) return duplicateOf(repeat);
    this.#append(batch, [header]);
    return appended(header.baseOffset, header.nextOffset, batch.length);
  }

  /**
   * Appends whole batches as the leader has them: they must continue the log, their epochs may not
   * fall nor be above the leader's, their CRCs must be right. Throws a LogError: `notNext`, `oldLeaderEpoch`, `badBatch`: nothing
   * was appended; `diskFull`: `logEndOffset` tells how far it went; `offline`. (The time plays no part.)
   */
  appendAsFollower(
    batches: Uint8Array,
    _nowMs: number,
    leaderEpoch: LeaderEpoch = EPOCH_MAX,
  ): Appended {
    this.#health.assertOnline();
    const baseOffset = this.#endOffset;
    const after = { logEndOffset: baseOffset, latestEpoch: this.latestEpoch, leaderEpoch };
    const headers = checkFollowerBatches(batches, after, this.#deps.crc32c);
    const { segmentBytes } = this.#config;
    const fits = (bytes: number, lastOffset: Offset): boolean =>
      this.#segments.active.hasRoomFor(bytes, lastOffset, segmentBytes);
    for (const run of segmentRuns(batches, headers, fits)) this.#append(run.bytes, run.headers);
    return appended(baseOffset, this.#endOffset, batches.length);
  }

  /** A leader opens its epoch where the log ends. Epochs never fall. */
  beginEpoch(epoch: LeaderEpoch): void {
    this.#health.assertOnline();
    this.#epochs.begin(epoch, this.#endOffset);
  }

  /** Writes batches that fit one segment, and takes them into account. */
  #append(bytes: Uint8Array, headers: readonly BatchHeader[]): void {
    const first = defined(headers[0], 'the first batch');
    const last = defined(headers.at(-1), 'the last batch');
    assert(first.baseOffset === this.#endOffset, 'offsets are gapless (L1)', {
      baseOffset: first.baseOffset,
      logEndOffset: this.#endOffset,
    });
    const segment = this.#writer.write(bytes, last.lastOffset, first.maxTimestamp);
    for (const header of headers) {
      segment.note(header);
      this.#epochs.begin(header.partitionLeaderEpoch, header.baseOffset);
      this.#producers.note(header);
    }
    this.#endOffset = last.nextOffset;
    this.#durability.changed(segment);
    this.#recent.note(first.baseOffset, bytes.length);
    if (this.#files.isYoung && segment.sizeBytes > YOUNG_LOG_BYTES) void this.settle();
  }

  // --------------------------------------------------------------------------------- durability

  /**
   * Resolves when `syncedEndOffset` has reached what is `logEndOffset` now. Callers share: one sync
   * covers all that came while the last one ran. Rejects with a LogError when the log goes offline.
   */
  sync(): Promise<void> {
    if (this.state !== 'online') return Promise.reject(this.#health.refusal);
    if (this.#endOffset <= this.syncedEndOffset) return Promise.resolve();
    return this.#commit.request();
  }

  async #makeDurable(): Promise<void> {
    if (this.state === 'offline') throw this.#health.refusal;
    const { active, first } = this.#segments;
    const generation = this.#generation;
    try {
      await this.#durability.run(this.#endOffset);
    } catch (error) {
      throw this.#health.fail('a sync failed', error, 'sync');
    }
    // A log's first segment is not missed unless records in it are.
    if (active !== first && generation === this.#generation) {
      this.#syncedSegment.reached(active.baseOffset);
    }
  }

  /** Work that nobody waits for; if it fails, the log goes offline and says so. */
  #makeDurableLater(): void {
    this.#commit.request().catch(() => undefined);
  }

  /**
   * Raises the recovery point to the synced end, or to the high watermark where that is lower: no
   * replica is truncated below that, and so seldom below the recovery point.
   */
  advanceRecoveryPoint(highWatermark: Offset): Promise<void> {
    return this.#checkpoints.advance(highWatermark);
  }

  /** For the checkpoints of the data directory. */
  checkpoint(): LogCheckpoint {
    return this.#checkpoints.checkpoint(this.#startOffset);
  }

  // ------------------------------------------------------------------------------------ reading

  /**
   * Whole batches from the one that holds `from` on, as a slice of the file: up to `maxBytes`, none
   * that reaches above `upTo` (the high watermark or the log end). `atLeastOne`: the first even if it is
   * larger. Answers at once where the bytes are surely in memory. Throws, or rejects with, a LogError:
   * `outOfRange`; `corrupt` or `offline`, and the log is offline.
   */
  read(
    from: Offset,
    maxBytes: number,
    upTo: Offset,
    atLeastOne: boolean,
  ): Uint8Array | Promise<Uint8Array> {
    return this.#reads.read({ from, maxBytes, upTo, atLeastOne });
  }

  /** Reads `maxBytes` from the batch on that holds `offset`, off the loop: damage takes the log offline. */
  check(offset: Offset, maxBytes: number): Promise<void> {
    return this.#reads.check(offset, maxBytes);
  }

  /** The largest epoch at or below `epoch`, and the offset after its last record (KIP-101, KIP-279). */
  endOffsetForEpoch(epoch: LeaderEpoch): ReturnType<LeaderEpochCache['endOffset']> {
    return this.#epochs.endOffset(epoch, this.#endOffset);
  }

  /** The first record with that timestamp or a later one, below `upTo`. Rejects as `read` does. */
  offsetForTimestamp(timestampMs: number, upTo: Offset): Promise<TimestampedOffset | undefined> {
    return this.#reads.offsetForTimestamp(timestampMs, upTo);
  }

  /** The latest timestamp in the log. */
  get latestTimestamp(): number | undefined {
    return this.#orOffline('a segment cannot be read', () => this.#segments.latestTimestamp());
  }

  // ------------------------------------------------------------------------- cutting at the end

  /**
   * Forgets all from `offset` on; from the start of its batch, should it lie within one. Returns the new
   * end. What `sync` said before no longer holds above it.
   */
  truncateTo(offset: Offset): Offset {
    this.#health.assertOnline();
    if (offset >= this.#endOffset) {
      // An epoch of an own leadership without a record is forgotten too.
      this.#epochs.truncateTo(this.#endOffset);
      return this.#endOffset;
    }
    if (offset < this.#startOffset) {
      this.truncateFullyAndStartAt(offset);
      return offset;
    }
    const from = this.#endOffset;
    try {
      const end = this.#segments.of(offset).batchStart(offset);
      // What allows synced records to be missing lies in the log's directory.
      if (end < this.#recoveryPoint.offset) this.#files.makeNow();
      this.#recoveryPoint.lower(end, this.#syncedSegment.needs);
      this.#syncedSegment.truncatedTo(end);
      this.#cut(end);
    } catch (error) {
      if (error instanceof LogError && error.kind === 'diskFull') throw error;
      throw this.#health.fail('a truncation failed', error);
    }
    this.#deps.logger.info('truncated', { directory: this.directory, from, to: this.#endOffset });
    this.#makeDurableLater();
    return this.#endOffset;
  }

  #cut(offset: Offset): void {
    this.#generation++;
    this.#checkpoints.truncatedTo(offset);
    this.#segments.truncateTo(offset);
    this.#endOffset = offset;
    this.#epochs.truncateTo(offset);
    this.#recent.truncateTo(offset);
    runNow(this.#snapshots.load(this.#producers, this.#segments.all, offset));
    if (!this.#files.isYoung) this.#durability.namesChanged();
  }

  /** Empties the log, which then begins and ends at `offset`; blocking. */
  truncateFullyAndStartAt(offset: Offset): void {
    this.#health.assertOnline();
    const facts = { directory: this.directory, from: this.#endOffset, to: offset };
    this.#files.makeNow();
    try {
      this.#recoveryPoint.beginAnew();
      this.#syncedSegment.truncatedTo(ZERO);
      this.#generation++;
      this.#snapshots.clear();
      this.#checkpoints.emptied();
      this.#segments.restartAt(offset);
    } catch (error) {
      if (error instanceof LogError && error.kind === 'diskFull') throw error;
      throw this.#health.fail('emptying the log failed', error);
    }
    this.#startOffset = offset;
    this.#endOffset = offset;
    this.#epochs.clear();
    this.#producers.clear();
    this.#recent.truncateTo(ZERO);
    this.#deps.logger.info('truncated fully', facts);
    this.#makeDurableLater();
  }

  // ------------------------------------------------------------------------ cutting at the start

  /** Nothing below `offset` is read any more; whole segments go with the next `applyRetention`. */
  deleteRecordsBefore(offset: Offset): void {
    this.#health.assertOnline();
    const { directory } = this;
    const end = this.#endOffset;
    if (offset > end)
      throw new LogError('outOfRange', `${directory} ends at ${end}, below ${offset}`);
    this.#advanceStart(offset);
  }

  #advanceStart(offset: Offset): void {
    if (offset <= this.#startOffset) return;
    this.#startOffset = offset;
    this.#epochs.advanceStart(offset);
  }

  /**
   * Deletes the oldest segments that are over age, over size or below the log start, never one that
   * reaches above the high watermark. Records without timestamps have no age. Returns how many went.
   */
  applyRetention(nowMs: number, highWatermark: Offset): number {
    this.#health.assertOnline();
    this.#checkpoints.noteHighWatermark(highWatermark);
    this.#producers.sweep();
    const count = this.#orOffline('a segment cannot be read', () => {
      const config = this.#config;
      const { active } = this.#segments;
      if (active.sizeBytes > 0 && this.#endOffset <= highWatermark) {
        if (isOverAge(active, config, nowMs)) this.#writer.roll();
      }
      const limits = { config, nowMs, highWatermark, logStartOffset: this.#startOffset };
      return segmentsToDrop(this.#segments.all, limits);
    });
    if (count > 0) this.#dropOldest(count);
    return count;
  }

  /** What the disk cannot do takes the log offline, and throws a LogError, never a DiskError. */
  #orOffline<Result>(what: string, run: () => Result): Result {
    try {
      return run();
    } catch (error) {
      if (error instanceof DiskError) throw this.#health.fail(what, error, 'read');
      throw error;
    }
  }

  #dropOldest(count: number): void {
    try {
      // What the batches that go tell of producers must be told by a snapshot.
      const start = defined(this.#segments.all[count], 'a segment that stays').baseOffset;
      if ((this.#snapshots.latest ?? ZERO) < start) this.#checkpoints.writeSnapshot();
      this.#advanceStart(start);
    } catch (error) {
      throw this.#health.fail('old segments could not be deleted', error);
    }
    this.#oldSegments.removeBelow(this.#startOffset);
  }

  // ------------------------------------------------------------------------------------ the end

  /**
   * Makes all durable and lets go of the files. True when the log is in order: with all logs closed so,
   * the next start needs no recovery.
   */
  async close(): Promise<boolean> {
    if (this.state !== 'online') {
      await this.#commit.idle();
      this.#segments.close();
      return false;
    }
    this.#health.close();
    this.#files.close();
    try {
      await this.#files.settled();
      if (this.#files.isYoung) {
        if (this.#durability.hasWork) await this.#commit.request();
        await this.#commit.idle();
      } else {
        if (!this.#files.isMade) return true;
        await this.#checkpoints.writeAll();
      }
      this.#recoveryPoint.raise(this.#endOffset);
      return true;
    } catch (error) {
      const reason = messageOf(error);
      this.#deps.logger.error('log was not closed in order', { directory: this.directory, reason });
      return false;
    } finally {
      this.#segments.close();
    }
  }

  /** Where the log begins is to be known as soon as a first segment could go missing. */
  #noteStart({ beginsAt, logger }: PartitionLogDeps): void {
    beginsAt?.(this.#startOffset).catch((error: unknown) => {
      const facts = { start: this.#startOffset, why: messageOf(error) };
      logger.warn('where a log begins is not noted before the next checkpoint', facts);
    });
  }

  /**
   * Removes the log with all its files. Its directory's name is free when this returns, or, where its files
   * were being made, when it resolves. `renamed` is called when the directory's name tells durably that the
   * log is deleted, and before the files go.
   */
  delete(renamed: () => Promise<void> = () => Promise.resolve()): Promise<void> {
    this.#health.close();
    this.#files.close();
    const idle = async (): Promise<void> => {
      await this.#commit.idle();
      this.#segments.close();
    };
    return this.#files.remove({ idle, renamed });
  }
}
