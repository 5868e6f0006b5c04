/**
 * Brings Readies to the disk, in order, off the loop: all that came while the last write ran go together.
 * What holds nothing to write is done as soon as its predecessors are. Where the disk is full it tries
 * again; after any other failure it takes nothing more (L3).
 */
import { messageOf } from '@relevo/base/errors';
import type { Clock, Logger, TimerHandle, Timers } from '@relevo/base/ports';
import type { Ready } from '@relevo/raft/ready';
import { isFull } from './quorum-files.ts';
import type { QuorumStorage } from './quorum-storage.ts';

const FULL_RETRY_MS = 500;

export interface ReadyWriterDeps {
  readonly clock: Clock;
  readonly timers: Timers;
  readonly logger: Logger;
  readonly storage: QuorumStorage;
}

export interface ReadyWriterEvents {
  /** Called for each Ready, in order. */
  readonly onDurable: (ready: Ready) => void;
  readonly onFailure: (error: unknown) => void;
}

export class ReadyWriter {
  readonly #deps: ReadyWriterDeps;
  readonly #events: ReadyWriterEvents;
  readonly #queue: Ready[] = [];
  #writingSinceMs: number | undefined;
  #retry: TimerHandle | undefined;
  #idle: (() => void)[] = [];
  #stopped = false;

  constructor(deps: ReadyWriterDeps, events: ReadyWriterEvents) {
    this.#deps = deps;
    this.#events = events;
  }

  /** May call `onDurable` before it returns. */
  add(ready: Ready): void {
    if (this.#stopped) return;
    if (this.#writingSinceMs === undefined && !needsWrite(ready)) {
      this.#events.onDurable(ready);
      return;
    }
    this.#queue.push(ready);
    if (this.#writingSinceMs === undefined) void this.#run();
  }

  /** How long the write under way has taken; 0 when none is. */
  stalledForMs(): number {
    if (this.#writingSinceMs === undefined) return 0;
    return this.#deps.clock.monotonicMs() - this.#writingSinceMs;
  }

  /** Takes nothing more; resolves when no write is under way. */
  stop(): Promise<void> {
    this.#stopped = true;
    this.#retry?.cancel();
    if (this.#retry !== undefined || this.#writingSinceMs === undefined) return Promise.resolve();
    return new Promise((resolve) => this.#idle.push(resolve));
  }

  async #run(): Promise<void> {
    while (this.#queue.length > 0 && !this.#stopped) {
      const readies = this.#queue.splice(0);
      this.#writingSinceMs ??= this.#deps.clock.monotonicMs();
      const work = readies.filter(needsWrite);
      try {
        if (work.length > 0) await this.#deps.storage.write(work);
      } catch (error) {
        this.#failed(error, readies);
        return;
      }
      this.#writingSinceMs = undefined;
      for (const ready of readies) if (!this.#stopped) this.#durable(ready);
    }
    this.#nowIdle();
  }

  #durable(ready: Ready): void {
    // Readies that come of it wait for their turn in the queue.
    this.#writingSinceMs = this.#deps.clock.monotonicMs();
    this.#events.onDurable(ready);
    this.#writingSinceMs = undefined;
  }

  #failed(error: unknown, readies: readonly Ready[]): void {
    if (!isFull(error) || this.#stopped) {
      this.#stopped = true;
      this.#nowIdle();
      this.#events.onFailure(error);
      return;
    }
    this.#deps.logger.error('no room for the log of the quorum; free some space', {
      error: messageOf(error),
      retryInMs: FULL_RETRY_MS,
    });
    this.#queue.unshift(...readies);
    this.#retry = this.#deps.timers.after(FULL_RETRY_MS, () => {
      this.#retry = undefined;
      void this.#run();
    });
  }

  #nowIdle(): void {
    this.#writingSinceMs = undefined;
    for (const resolve of this.#idle.splice(0)) resolve();
  }
}

const needsWrite = (ready: Ready): boolean =>
  ready.hardState !== undefined ||
  ready.snapshot !== undefined ||
  ready.truncateFrom !== undefined ||
  ready.entries.length > 0;
