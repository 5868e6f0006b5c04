import type { Timers } from '@relevo/base/ports';

/**
 * Gathers work until all that is at hand in this turn of the loop has been handled: messages that come
 * in together are then answered, pushed and synced together. A task asked for several times runs once.
 */
export class Turn {
  readonly #timers: Timers;
  #tasks = new Set<() => void>();
  #scheduled = false;
  #closed = false;

  constructor(timers: Timers) {
    this.#timers = timers;
  }

  /** Runs `task` when this turn ends, in the order of the first calls. */
  atEnd(task: () => void): void {
    this.#tasks.add(task);
    if (this.#scheduled || this.#closed) return;
    this.#scheduled = true;
    this.#timers.soon(this.#run);
  }

  close(): void {
    this.#closed = true;
    this.#tasks.clear();
  }

  readonly #run = (): void => {
    const tasks = this.#tasks;
    this.#tasks = new Set();
    this.#scheduled = false;
    for (const task of tasks) if (!this.#closed) task();
  };
}
