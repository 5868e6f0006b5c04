/**
 * What a log keeps so that a crash costs little: the recovery point, and the files from which a recovery
 * takes what lies below it: leader epochs, producer snapshots, recovery starts. The recovery point is raised
 * only when what is needed below it is durable.
 */
import type { Offset } from '@relevo/base/ids';
import type { Durability } from './durability.ts';
import type { EpochFile } from './epoch-file.ts';
import type { GroupCommit } from './group-commit.ts';
import type { LeaderEpochCache } from './leader-epoch-cache.ts';
import type { LogConfig } from './log-config.ts';
import { isDiskError } from './log-error.ts';
import type { LogHealth } from './log-health.ts';
import type { LogCheckpoint } from './log-types.ts';
import type { ProducerSnapshots } from './producer-snapshots.ts';
import type { ProducerState } from './producer-state.ts';
import type { RecoveryPoint } from './recovery-point.ts';
import type { RecoveryStarts } from './recovery-start.ts';
import { sureOfProducers } from './recovery.ts';
import type { SegmentList } from './segment-list.ts';

const ZERO = 0 as Offset;
/** A log grows by so much, or an eighth of its segment, until there is the next recovery start. */
const START_BYTES = 8 * 2 ** 20;
const START_SHARE = 1 / 8;

export interface LogCheckpointsHost {
  readonly segments: SegmentList;
  readonly epochs: LeaderEpochCache;
  readonly producers: ProducerState;
  readonly snapshots: ProducerSnapshots;
  readonly starts: RecoveryStarts;
  readonly recoveryPoint: RecoveryPoint;
  readonly epochFile: EpochFile;
  readonly durability: Durability;
  readonly commit: GroupCommit;
  readonly health: LogHealth;
  /** False: its records are in the journal alone. */
  readonly hasOwnFiles: () => boolean;
  readonly config: () => LogConfig;
  readonly logEnd: () => Offset;
  /** Changes with every truncation. */
  readonly generation: () => number;
}

export class LogCheckpoints {
  readonly #host: LogCheckpointsHost;
  /** The highest that the owner has told. */
  #highWatermark: Offset = ZERO;
  /** Where the last recovery start was taken; it may still be being written. */
  #start: { readonly baseOffset: Offset; readonly position: number } | undefined;
  #isWritingStart = false;

  constructor(host: LogCheckpointsHost) {
    this.#host = host;
  }

  /** See `PartitionLog.advanceRecoveryPoint`. */
  async advance(highWatermark: Offset): Promise<void> {
    const { health, recoveryPoint, durability, commit, segments, epochFile } = this.#host;
    health.assertOnline();
    this.noteHighWatermark(highWatermark);
    // What is appended from here on may have epochs that the file does not have yet.
    const upTo = Math.min(highWatermark, this.#host.logEnd()) as Offset;
    const generation = this.#host.generation();
    if (upTo <= recoveryPoint.offset) return;
    if (durability.end < upTo) await commit.request();
    // The only segment is read after a crash, or a recovery start in it tells its epochs.
    if (segments.all.length > 1) await epochFile.write();
    // What was cut meanwhile has not been synced since, nor does the file tell of what came in its place.
    if (generation !== this.#host.generation()) return;
    recoveryPoint.raise(Math.min(upTo, durability.end) as Offset);
    if (this.#isStartDue()) await this.#writeStart();
  }

  noteHighWatermark(highWatermark: Offset): void {
    if (highWatermark > this.#highWatermark) this.#highWatermark = highWatermark;
  }

  /** For the checkpoints of the data directory. */
  checkpoint(logStartOffset: Offset): LogCheckpoint {
    const { health } = this.#host;
    const { offset, lowerings } = this.#host.recoveryPoint;
    const written = (): void => {
      if (health.state === 'offline') return;
      try {
        this.#host.recoveryPoint.written(offset, lowerings);
      } catch (error) {
        health.fail('a checkpoint could not be removed', error);
      }
    };
    return { recoveryPoint: offset, logStartOffset, written };
  }

  /** The state of producers at the end of the log. Throws a DiskError. */
  writeSnapshot(): void {
    const { snapshots, producers, durability } = this.#host;
    const path = snapshots.write(this.#host.logEnd(), producers);
    if (path !== undefined) durability.replaced(path);
    this.prune();
  }

  /** All that the next start takes at its word after a close in order. Throws a LogError. */
  async writeAll(): Promise<void> {
    const { segments, health, durability, commit, epochFile } = this.#host;
    const segment = segments.active;
    if (segment.indexesChanged) {
      try {
        segment.writeIndexes();
        segments.indexesWritten(segment);
        this.writeSnapshot();
      } catch (error) {
        if (!isDiskError(error, 'FULL')) throw health.fail('indexes could not be written', error);
      }
    }
    if (durability.hasWork) await commit.request();
    await commit.idle();
    await epochFile.write();
  }

  /** A truncation may go back to the high watermark, a crash to the recovery point. */
  prune(): void {
    const { recoveryPoint, segments, snapshots, starts } = this.#host;
    const point = Math.min(recoveryPoint.durableOffset, this.#highWatermark) as Offset;
    snapshots.prune(sureOfProducers(point, segments.first.baseOffset));
    starts.prune(point);
  }

  /** The log was cut, and ends at `end` now. */
  truncatedTo(end: Offset): void {
    this.#highWatermark = Math.min(this.#highWatermark, end) as Offset;
    this.#start = undefined;
    this.#host.starts.truncateTo(end);
  }

  /** The log is emptied. */
  emptied(): void {
    this.#host.starts.clear();
    this.#highWatermark = ZERO;
    this.#start = undefined;
  }

  #isStartDue(): boolean {
    const { active } = this.#host.segments;
    if (this.#isWritingStart || active.sizeBytes === 0 || !this.#host.hasOwnFiles()) return false;
    const { baseOffset, position } = this.#start ?? { baseOffset: -1, position: 0 };
    const from = baseOffset === active.baseOffset ? position : 0;
    const share = Math.max(active.sizeBytes * START_SHARE, this.#smallestStep);
    return active.sizeBytes - from >= share;
  }

  get #smallestStep(): number {
    return Math.min(START_BYTES, this.#host.config().segmentBytes * START_SHARE);
  }

  /** Writes one for the present end of the log; it counts once the recovery point has reached that offset. */
  async #writeStart(): Promise<void> {
    const { segments, epochs, starts, health } = this.#host;
    const { active } = segments;
    const generation = this.#host.generation();
    const told = active.recoveryStart();
    this.#start = { baseOffset: active.baseOffset, position: active.sizeBytes };
    this.#isWritingStart = true;
    try {
      this.writeSnapshot();
    } catch (error) {
      this.#isWritingStart = false;
      throw health.fail('a producer snapshot could not be written', error);
    }
    try {
      const isCurrent = (): boolean =>
        health.state === 'online' && generation === this.#host.generation();
      const known = epochs.entries.filter(({ startOffset }) => startOffset < told.offset);
      await starts.write({ ...told, epochs: known }, isCurrent);
      this.prune();
    } finally {
      this.#isWritingStart = false;
    }
  }
}
