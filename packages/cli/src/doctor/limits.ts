/**
 * How long the doctor waits, ms. Brokers are looked at side by side, so that a run takes as long as its
 * slowest address: about 2 s where one is a black hole, and never longer than RUN_MS.
 */
import { performance } from 'node:perf_hooks';

export const RESOLVE_MS = 2000;
export const CONNECT_MS = 1500;
/** One call. */
export const CALL_MS = 2000;
/** What listens has so long to show what it is. */
export const RECOGNISE_MS = 1000;
/** For all samples of one broker's clock and round trip. */
export const SAMPLING_MS = 2000;
export const RUN_MS = 12_000;

/** Samples of each broker, and the connections on which it must be itself. */
export const SAMPLES = 6;
export const FURTHER_CONNECTIONS = 3;
/** Of the addresses of a name, so many are tried. */
export const IPS_MAX = 8;

export class Deadline {
  readonly #endMs: number;

  constructor(limitMs: number) {
    this.#endMs = performance.now() + limitMs;
  }

  /** So much of `wantedMs` as is left; at least 1. */
  left(wantedMs: number): number {
    return Math.max(1, Math.min(wantedMs, this.#endMs - performance.now()));
  }
}
