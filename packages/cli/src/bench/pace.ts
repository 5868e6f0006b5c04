/**
 * An open-loop schedule: record n is due at n / rate, whether or not the system keeps up. A load that
 * waits for the system instead hides its stalls ("coordinated omission").
 */

/** A timer fires up to this much late without anything being amiss. */
const TIMER_SLACK_MS = 2;

export class Pace {
  readonly #ratePerS: number;
  readonly #startMs: number;
  #given = 0;

  /** @param ratePerS Records per second, above 0; Infinity: as fast as it goes. */
  constructor(ratePerS: number, startMs: number) {
    this.#ratePerS = ratePerS;
    this.#startMs = startMs;
  }

  /**
   * When the next record counts as sent, if it is due at `nowMs`; undefined if it is not. That is now,
   * unless we are later than a timer may be: then it is when the record was due, so that the delay is
   * part of what is measured.
   */
  take(nowMs: number): number | undefined {
    const dueMs = this.#startMs + (this.#given * 1000) / this.#ratePerS;
    if (nowMs < dueMs) return undefined;
    this.#given++;
    return this.#ratePerS === Infinity || nowMs - dueMs <= TIMER_SLACK_MS ? nowMs : dueMs;
  }

  /** How long until the next record is due; 0 when it is. */
  waitMs(nowMs: number): number {
    return Math.max(0, this.#startMs + (this.#given * 1000) / this.#ratePerS - nowMs);
  }
}
