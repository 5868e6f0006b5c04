/**
 * Logs that were there when the broker started are opened beside everything else: after a crash that is a
 * recovery, which may read much. A few at a time, their reads and syncs off the loop, and what they compute in
 * slices, so that heartbeats and Raft have their turn. The one that a client wants is next.
 */
import type { Clock, Logger, Timers } from '@relevo/base/ports';
import type { LogDirectory, OpenLogOptions } from '@relevo/log/log-directory';
import type { PartitionLog } from '@relevo/log/partition-log';
import type { Pace } from '@relevo/log/steps';
import type { Partition } from './partition.ts';

/** While one waits for the disk another computes. */
const AT_ONCE = 3;
/** Of computing, before the loop turns. */
const SLICE_MS = 8;
/** How often the log tells how far it is. */
const TOLD_EVERY_MS = 2_000;

export interface RecoveriesDeps {
  readonly clock: Clock;
  readonly timers: Timers;
  readonly logger: Logger;
  readonly directory: LogDirectory;
  /** May not throw. */
  readonly opened: (partition: Partition, log: PartitionLog) => void;
  readonly failed: (partition: Partition, error: unknown) => void;
}

export interface RecoveryProgress {
  readonly open: number;
  readonly of: number;
}

export class Recoveries {
  readonly #deps: RecoveriesDeps;
  readonly #waiting = new Map<Partition, OpenLogOptions>();
  readonly #wanted = new Set<Partition>();
  readonly #running = new Set<Partition>();
  readonly #pace: Pace;
  #turnedMs = 0;
  #done = 0;
  #startedMs = 0;
  #toldMs = 0;
  #closed = false;

  constructor(deps: RecoveriesDeps) {
    this.#deps = deps;
    this.#pace = { breathe: () => this.#breathe() };
  }

  /** Undefined: none is under way. */
  get progress(): RecoveryProgress | undefined {
    const left = this.#waiting.size + this.#running.size;
    return left === 0 ? undefined : { open: this.#done, of: this.#done + left };
  }

  has(partition: Partition): boolean {
    return this.#waiting.has(partition) || this.#running.has(partition);
  }

  add(partition: Partition, options: OpenLogOptions): void {
    if (this.progress === undefined) {
      this.#startedMs = this.#deps.clock.monotonicMs();
      this.#toldMs = this.#startedMs;
      this.#done = 0;
    }
    this.#waiting.set(partition, options);
    this.#startMore();
  }

  /** It is the next to have its turn, if it waits for one. */
  want(partition: Partition): void {
    if (this.#waiting.has(partition)) this.#wanted.add(partition);
  }

  /** Nobody needs it any more; one that is under way comes to its end. */
  drop(partition: Partition): void {
    this.#waiting.delete(partition);
    this.#wanted.delete(partition);
  }

  close(): void {
    this.#closed = true;
    this.#waiting.clear();
    this.#wanted.clear();
  }

  #startMore(): void {
    while (this.#running.size < AT_ONCE && !this.#closed) {
      const [partition] = this.#wanted.size > 0 ? this.#wanted : this.#waiting.keys();
      const options = partition === undefined ? undefined : this.#waiting.get(partition);
      if (partition === undefined || options === undefined) return;
      this.drop(partition);
      this.#running.add(partition);
      void this.#open(partition, options);
    }
  }

  async #open(partition: Partition, options: OpenLogOptions): Promise<void> {
    const { directory, opened, failed } = this.#deps;
    let outcome: () => void;
    try {
      const log = await directory.openLogInSlices(options, this.#pace);
      outcome = () => opened(partition, log);
    } catch (error) {
      outcome = () => failed(partition, error);
    }
    this.#running.delete(partition);
    this.#done += 1;
    if (this.#closed) return;
    outcome();
    this.#tell();
    this.#startMore();
  }

  #breathe(): Promise<void> | undefined {
    const { clock, timers } = this.#deps;
    if (clock.monotonicMs() - this.#turnedMs < SLICE_MS) return undefined;
    return new Promise((resume) => {
      timers.soon(() => {
        this.#turnedMs = clock.monotonicMs();
        resume();
      });
    });
  }

  #tell(): void {
    const { clock, logger } = this.#deps;
    const nowMs = clock.monotonicMs();
    const { progress } = this;
    if (progress === undefined) {
      const tookMs = Math.round(nowMs - this.#startedMs);
      logger.info('logs are open', { logs: this.#done, tookMs });
    } else if (nowMs - this.#toldMs >= TOLD_EVERY_MS) {
      this.#toldMs = nowMs;
      logger.info('opening logs', { ...progress });
    }
  }
}
