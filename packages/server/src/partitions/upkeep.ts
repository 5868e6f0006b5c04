/**
 * What is done for all replicas now and then, by one timer each: requests that have waited too long,
 * followers that lag, room on the disk, high watermarks to be written down, old segments to be deleted.
 */
import { messageOf } from '@relevo/base/errors';
import { NO_BROKER } from '@relevo/base/ids';
import type { BrokerId, Offset } from '@relevo/base/ids';
import { DiskError } from '@relevo/base/ports';
import type { Clock, Logger, TimerHandle, Timers } from '@relevo/base/ports';
import type { ClusterImage } from '@relevo/controller/image';
import type { LogDirectory } from '@relevo/log/log-directory';
import { LogError } from '@relevo/log/log-error';
import { partitionImage } from './current-leader.ts';
import type { IsrProposals } from './isr-proposals.ts';
import type { Partition } from './partition.ts';
import type { PartitionMetrics } from './partition-metrics.ts';
import type { PartitionTable } from './partition-table.ts';
import type { ProduceService } from './produce-service.ts';
import type { Reconciler } from './reconciler.ts';
import type { ReplicaReports } from './replica-reports.ts';

export const TICK_MS = 500;
export const CHECKPOINT_INTERVAL_MS = 5_000;
/** How often young logs are given files of their own. */
const SETTLE_INTERVAL_MS = 1_000;
/** How often the disk is asked for its room where nothing is appended. */
export const SPACE_CHECK_MS = 5_000;
/**
 * A failed replica is copied anew at once, and again, should it fail once more, after a pause that doubles: a
 * disk that fails, or damages all that it is given, must not be copied to without end.
 */
const REBUILD_PAUSE_MIN_MS = 10_000;
const REBUILD_PAUSE_MAX_MS = 3_600_000;
/** Replicas whose retention is looked at before the loop turns. */
const RETENTION_PER_TURN = 100;

export interface UpkeepDeps {
  readonly clock: Clock;
  readonly timers: Timers;
  readonly logger: Logger;
  readonly metrics: PartitionMetrics;
  readonly directory: LogDirectory;
  readonly table: PartitionTable;
  readonly produce: ProduceService;
  readonly proposals: IsrProposals;
  readonly reports: ReplicaReports;
  readonly reconciler: Reconciler;
  readonly image: () => ClusterImage;
  readonly localId: BrokerId;
  readonly reviewIsr: (partition: Partition) => void;
  readonly retentionCheckMs: number;
}

export class Upkeep {
  readonly #deps: UpkeepDeps;
  readonly #written = new Map<string, Offset>();
  /** When damaged replicas that were copied anew may be once more. */
  readonly #rebuilt = new Map<string, { readonly pauseMs: number; readonly notBeforeMs: number }>();
  #timers: TimerHandle[] = [];
  #closed = false;

  constructor(deps: UpkeepDeps) {
    this.#deps = deps;
  }

  start(): void {
    this.#every(TICK_MS, () => this.#tick());
    this.#every(CHECKPOINT_INTERVAL_MS, () => this.#checkpoint());
    this.#every(SPACE_CHECK_MS, () => this.#deps.directory.space.check());
    this.#every(SETTLE_INTERVAL_MS, () => this.#deps.directory.settleSome());
    this.#every(this.#deps.retentionCheckMs, () => this.#retention());
  }

  close(): void {
    this.#closed = true;
    for (const timer of this.#timers) timer.cancel();
  }

  /** Of all replicas whose log is in order. */
  highWatermarks(): Map<string, Offset> {
    const all = new Map<string, Offset>();
    for (const partition of this.#deps.table.values()) {
      if (partition.isOpen && partition.failure === undefined) {
        all.set(partition.name, partition.highWatermark);
      }
    }
    return all;
  }

  #every(intervalMs: number, run: () => void): void {
    const slot = this.#timers.length;
    const again = (): void => {
      if (this.#closed) return;
      run();
      this.#timers[slot] = this.#deps.timers.after(intervalMs, again);
    };
    this.#timers.push(this.#deps.timers.after(intervalMs, again));
  }

  // ------------------------------------------------------------------------------------ the tick

  #tick(): void {
    const { clock, table, produce, metrics, reviewIsr, directory } = this.#deps;
    const nowMs = clock.monotonicMs();
    produce.expire(nowMs);
    const counts = { partitions: 0, leaders: 0, underReplicated: 0, underMinIsr: 0, offline: 0 };
    let lag = 0;
    for (const partition of table.values()) {
      counts.partitions += 1;
      if (partition.failure !== undefined) {
        counts.offline += 1;
        this.#seeToFailed(partition, nowMs);
        continue;
      }
      this.#deps.reports.review(partition);
      const role = partition.leader;
      if (role === undefined) continue;
      const { replica } = role;
      counts.leaders += 1;
      lag = Math.max(lag, replica.logEndOffset - replica.highWatermark);
      const isSmall = replica.isr.length < replica.replicas.length;
      if (isSmall) counts.underReplicated += 1;
      if (!replica.hasEnoughInSync) counts.underMinIsr += 1;
      // Without traffic it would stay in sync, be handed back the leadership, and resign again, for ever.
      const mustMakeWay = role.lacksRoom && directory.space.isExhausted;
      if (mustMakeWay && replica.isDispensable) this.#makeWay(partition);
      if (isSmall || nowMs >= replica.nextDeadlineMs()) reviewIsr(partition);
    }
    metrics.partitions.set(counts.partitions);
    metrics.leaders.set(counts.leaders);
    metrics.underReplicated.set(counts.underReplicated);
    metrics.underMinIsr.set(counts.underMinIsr);
    metrics.offline.set(counts.offline);
    metrics.appendsRefused.set(directory.space.isShort ? 1 : 0);
    metrics.diskFree.set(directory.space.freeBytes);
    metrics.diskReserve.set(directory.space.reserveBytes);
    metrics.watermarkLag.set(lag);
    metrics.inHandBytes.set(produce.inHandBytes);
  }

  /** A leader that can append nothing, where others can: it resigns, and leads again when it has room. */
  #makeWay(partition: Partition): void {
    const { image, localId, proposals, logger } = this.#deps;
    const known = partitionImage(image(), partition.topicId, partition.number);
    if (known?.leader !== localId) return;
    logger.warn('the disk is full: another replica is to lead', { partition: partition.name });
    proposals.resign(partition);
  }

  /**
   * The controller is told. A replica whose log is damaged, gone or may lack what was synced, which is in no
   * set that may lead, and while another leads, loses nothing that others do not have: its log is set aside
   * and copied anew. What of a failed sync lies in the page cache alone goes with the old files.
   */
  #seeToFailed(partition: Partition, nowMs: number): void {
    const { image, localId, reports } = this.#deps;
    reports.review(partition);
    const known = partitionImage(image(), partition.topicId, partition.number);
    if (known === undefined || !partition.isCopiedAnew) return;
    const { leader, isr, elr, offline } = known;
    const isOut = offline.includes(localId) && !isr.includes(localId) && !elr.includes(localId);
    const before = this.#rebuilt.get(partition.name);
    if (!isOut || leader === NO_BROKER || nowMs < (before?.notBeforeMs ?? 0)) return;
    const isOld = before !== undefined && nowMs > before.notBeforeMs + REBUILD_PAUSE_MAX_MS;
    const doubledMs = before === undefined || isOld ? REBUILD_PAUSE_MIN_MS : 2 * before.pauseMs;
    const pauseMs = Math.min(doubledMs, REBUILD_PAUSE_MAX_MS);
    this.#rebuilt.set(partition.name, { pauseMs, notBeforeMs: nowMs + pauseMs });
    void this.#rebuild(partition);
  }

  async #rebuild(partition: Partition): Promise<void> {
    const { directory, reconciler, table, logger } = this.#deps;
    const { name, topicId } = partition;
    try {
      partition.forget();
      await directory.drop(name);
      if (this.#closed || table.find(partition.topicId, partition.number) !== partition) return;
      reconciler.setAside(name, topicId, 'its log has failed; it is copied anew from the leader');
      reconciler.forgetLog(name);
      reconciler.again(partition);
    } catch (error) {
      logger.error('a damaged log could not be set aside', {
        partition: name,
        why: messageOf(error),
      });
    }
  }

  // --------------------------------------------------------------------- checkpoints, retention

  #checkpoint(): void {
    const changed = new Map<string, Offset>();
    for (const [name, highWatermark] of this.highWatermarks()) {
      if (this.#written.get(name) !== highWatermark) changed.set(name, highWatermark);
    }
    const { directory, logger } = this.#deps;
    if (changed.size === 0 && !directory.mustWrite) return;
    directory.checkpoint(changed).then(
      () => {
        for (const [name, highWatermark] of changed) this.#written.set(name, highWatermark);
      },
      (error: unknown) => {
        if (!this.#closed)
          logger.error('checkpoints could not be written', { why: messageOf(error) });
      },
    );
  }

  #retention(): void {
    this.#retainSome([...this.#deps.table.values()], 0);
  }

  #retainSome(partitions: readonly Partition[], from: number): void {
    if (this.#closed) return;
    const { clock, timers, logger } = this.#deps;
    const end = Math.min(from + RETENTION_PER_TURN, partitions.length);
    for (let at = from; at < end; at++) {
      const partition = partitions[at];
      if (partition?.isOpen !== true || partition.failure !== undefined) continue;
      try {
        partition.log.applyRetention(clock.wallMs(), partition.highWatermark);
      } catch (error) {
        // What the disk does to one partition stays with that one.
        if (!(error instanceof LogError || error instanceof DiskError)) throw error;
        logger.error('retention failed', { partition: partition.name, why: error.message });
      }
    }
    if (end < partitions.length) timers.soon(() => this.#retainSome(partitions, end));
  }
}
