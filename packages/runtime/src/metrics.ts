/**
 * The `Metrics` port: plain numbers, so that counting costs next to nothing, which prom-client writes in
 * Prometheus' format. It is loaded when somebody asks for the first time.
 */
import { assert } from '@relevo/base/assert';
import type { Counter, Gauge, Histogram, Measured, Metrics } from '@relevo/base/ports';
import type { MetricObject, Registry } from 'prom-client';
import { processMetrics } from './process-metrics.ts';

type Labels = Readonly<Record<string, string>>;

/** One line of the exposition. */
interface Sample {
  /** Where it is not the family's: `…_bucket`, `…_sum`, `…_count`. */
  readonly metricName?: string;
  readonly labels: Readonly<Record<string, string | number>>;
  readonly value: number;
}

interface Series {
  samples(name: string, labels: Labels): readonly Sample[];
}

/** All series of one name. */
interface Family {
  readonly name: string;
  readonly help: string;
  readonly type: 'counter' | 'gauge' | 'histogram';
  readonly labelNames: string;
  readonly series: Map<string, { readonly labels: Labels; readonly series: Series }>;
}

export class PromMetrics implements Metrics {
  readonly #families: Map<string, Family> = new Map();
  #registry: Promise<Registry> | undefined;

  counter(name: string, help: string, labels: Labels = {}): Counter {
    return this.#series(name, help, 'counter', labels, () => new CounterSeries());
  }

  gauge(name: string, help: string, labels: Labels = {}): Gauge {
    return this.#series(name, help, 'gauge', labels, () => new GaugeSeries());
  }

  histogram(
    name: string,
    help: string,
    buckets: readonly number[],
    labels: Labels = {},
  ): Histogram {
    return this.#series(name, help, 'histogram', labels, () => new HistogramSeries(buckets));
  }

  measure(name: string, help: string, read: () => readonly Measured[]): void {
    assert(!this.#families.has(name), 'what is measured has a name of its own', { name });
    const samples = (): readonly Sample[] =>
      read().map(({ labels = {}, value }) => ({ labels, value }));
    this.#series(name, help, 'gauge', {}, () => ({ samples }));
  }

  /** All of it, and what the process tells of itself, in Prometheus' text format. */
  async text(): Promise<{ readonly contentType: string; readonly body: string }> {
    this.#registry ??= this.#makeRegistry();
    const registry = await this.#registry;
    for (const family of this.#families.values()) {
      if (registry.getSingleMetric(family.name) !== undefined) continue;
      // A registry asks its metrics for nothing but their names and `get`.
      registry.registerMetric(
        exposed(family) as unknown as Parameters<Registry['registerMetric']>[0],
      );
    }
    return { contentType: registry.contentType, body: await registry.metrics() };
  }

  async #makeRegistry(): Promise<Registry> {
    const { Registry: PromRegistry } = await import('prom-client');
    for (const { name, help, type, read } of processMetrics()) {
      const series = { samples: (): readonly Sample[] => [{ labels: {}, value: read() }] };
      this.#series(name, help, type, {}, () => series);
    }
    return new PromRegistry();
  }

  /** A series is known by its name and labels: asking again gives the same one. */
  #series<One extends Series>(
    name: string,
    help: string,
    type: Family['type'],
    labels: Labels,
    make: () => One,
  ): One {
    const labelNames = Object.keys(labels).sort().join();
    const family = this.#families.get(name) ?? { name, help, type, labelNames, series: new Map() };
    this.#families.set(name, family);
    assert(
      family.type === type && family.labelNames === labelNames,
      'the series of a metric are of one type and have the same label names',
      { name, type, labelNames, before: `${family.type} ${family.labelNames}` },
    );
    const key = JSON.stringify(Object.entries(labels).sort(([a], [b]) => (a < b ? -1 : 1)));
    const known = family.series.get(key);
    // Of the family's type, which was asserted.
    if (known !== undefined) return known.series as One;
    const series = make();
    family.series.set(key, { labels: { ...labels }, series });
    return series;
  }
}

class CounterSeries implements Counter, Series {
  #value = 0;

  add(amount: number): void {
    assert(amount >= 0, 'a counter only grows', { amount });
    this.#value += amount;
  }

  samples(_name: string, labels: Labels): readonly Sample[] {
    return [{ labels, value: this.#value }];
  }
}

class GaugeSeries implements Gauge, Series {
  #value = 0;

  set(value: number): void {
    this.#value = value;
  }

  samples(_name: string, labels: Labels): readonly Sample[] {
    return [{ labels, value: this.#value }];
  }
}

class HistogramSeries implements Histogram, Series {
  readonly #bounds: readonly number[];
  /** How many were in each bucket and in none before it; the last one has no bound. */
  readonly #counts: number[];
  #sum = 0;

  constructor(bounds: readonly number[]) {
    this.#bounds = bounds;
    this.#counts = Array.from({ length: bounds.length + 1 }, () => 0);
  }

  observe(value: number): void {
    const bounds = this.#bounds;
    let bucket = 0;
    while (bucket < bounds.length && value > (bounds[bucket] ?? 0)) bucket++;
    this.#counts[bucket] = (this.#counts[bucket] ?? 0) + 1;
    this.#sum += value;
  }

  samples(name: string, labels: Labels): readonly Sample[] {
    let count = 0;
    const buckets = this.#counts.map((inBucket, i) => {
      count += inBucket;
      const le = this.#bounds[i] ?? '+Inf';
      return { metricName: `${name}_bucket`, labels: { ...labels, le }, value: count };
    });
    return [
      ...buckets,
      { metricName: `${name}_sum`, labels, value: this.#sum },
      { metricName: `${name}_count`, labels, value: count },
    ];
  }
}

/** A family as prom-client's registry takes it. */
function exposed({ name, help, type, series }: Family): MetricObject & {
  get(): Promise<MetricObject & { readonly values: readonly Sample[] }>;
} {
  // The type as prom-client's text formatter compares it, whose enumeration is not there at run time.
  const facts = { name, help, type: type as unknown as MetricObject['type'] } as MetricObject;
  return {
    ...facts,
    get: () =>
      Promise.resolve({
        ...facts,
        values: [...series.values()].flatMap((one) => one.series.samples(name, one.labels)),
      }),
  };
}
