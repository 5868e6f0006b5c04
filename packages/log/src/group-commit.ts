/**
 * Shares a costly action among its callers: each is served by a run that began after its call. While a
 * run is under way, all who call wait together for one more.
 */
export class GroupCommit {
  readonly #run: () => Promise<void>;
  #running: Promise<void> | undefined;
  #next: Promise<void> | undefined;

  constructor(run: () => Promise<void>) {
    this.#run = run;
  }

  request(): Promise<void> {
    if (this.#running === undefined) return this.#start();
    const start = (): Promise<void> => this.#start();
    this.#next ??= this.#running.then(start, start);
    return this.#next;
  }

  /** Resolves when no run is under way. */
  async idle(): Promise<void> {
    while (this.#running !== undefined) await this.#running.catch(() => undefined);
  }

  #start(): Promise<void> {
    this.#next = undefined;
    const running = this.#run();
    this.#running = running;
    void this.#settle(running);
    return running;
  }

  async #settle(running: Promise<void>): Promise<void> {
    await running.catch(() => undefined);
    if (this.#running === running && this.#next === undefined) this.#running = undefined;
  }
}
