/** Latencies in an HDR histogram: 1 µs to an hour, three significant digits. */
import { build, type Histogram } from 'hdr-histogram-js';

const HIGHEST_US = 3_600_000_000;
const PERCENTILES = [50, 99, 99.9] as const;

export interface LatencySummary {
  readonly p50Ms: number;
  readonly p99Ms: number;
  readonly p999Ms: number;
  readonly maxMs: number;
}

export class Latencies {
  readonly #histogram: Histogram = build({
    lowestDiscernibleValue: 1,
    highestTrackableValue: HIGHEST_US,
    numberOfSignificantValueDigits: 3,
  });

  add(ms: number): void {
    this.#histogram.recordValue(Math.min(HIGHEST_US, Math.max(1, Math.round(ms * 1000))));
  }

  get count(): number {
    return this.#histogram.totalCount;
  }

  summary(): LatencySummary {
    const [p50Ms = 0, p99Ms = 0, p999Ms = 0] = PERCENTILES.map(
      (percentile) => this.#histogram.getValueAtPercentile(percentile) / 1000,
    );
    // The histogram rounds to its buckets' upper ends, the greatest value included.
    return { p50Ms, p99Ms, p999Ms, maxMs: this.count === 0 ? 0 : this.#histogram.maxValue / 1000 };
  }
}
