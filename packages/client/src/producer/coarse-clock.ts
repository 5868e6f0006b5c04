/** The wall clock, read once for records that come in one go: reading it costs as much as encoding. */
import type { Clock } from '@relevo/base/ports';

/** Records of one turn of the loop that may share a reading. */
const USES_MAX = 64;

export class CoarseClock {
  readonly #clock: Clock;
  #nowMs = 0;
  #usesLeft = 0;
  #isFresh = false;

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  wallMs(): number {
    if (this.#usesLeft === 0) this.#read();
    this.#usesLeft--;
    return this.#nowMs;
  }

  #read(): void {
    this.#nowMs = this.#clock.wallMs();
    this.#usesLeft = USES_MAX;
    if (this.#isFresh) return;
    this.#isFresh = true;
    // The reading ends with the turn, at the latest.
    void Promise.resolve().then(() => {
      this.#isFresh = false;
      this.#usesLeft = 0;
    });
  }
}
