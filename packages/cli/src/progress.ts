/** Runs `show` at most every `everyMs`, and never from the hot path's own clock reads. */
export class Progress {
  readonly #everyMs: number;
  readonly #show: (elapsedMs: number) => void;
  readonly #startedMs = performance.now();
  #timer: NodeJS.Timeout | undefined;

  constructor(everyMs: number, show: (elapsedMs: number) => void) {
    this.#everyMs = everyMs;
    this.#show = show;
  }

  start(): this {
    this.#timer = setInterval(() => this.#show(this.elapsedMs), this.#everyMs);
    this.#timer.unref();
    return this;
  }

  get elapsedMs(): number {
    return performance.now() - this.#startedMs;
  }

  stop(): void {
    clearInterval(this.#timer);
  }
}
