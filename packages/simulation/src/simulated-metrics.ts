/** The `Metrics` port as plain numbers, for checkers. */
import type { Counter, Gauge, Histogram, Measured, Metrics } from '@relevo/base/ports';

type Labels = Readonly<Record<string, string>>;

export class SimulatedMetrics implements Metrics {
  /** By `name{label="value",…}`; a histogram counts its observations. */
  readonly values: Map<string, number> = new Map();
  readonly #measures = new Map<string, () => readonly Measured[]>();

  counter(name: string, _help: string, labels?: Labels): Counter {
    return { add: (amount) => this.#add(keyOf(name, labels), amount) };
  }

  gauge(name: string, _help: string, labels?: Labels): Gauge {
    return { set: (value) => this.values.set(keyOf(name, labels), value) };
  }

  histogram(name: string, _help: string, _buckets: readonly number[], labels?: Labels): Histogram {
    return { observe: () => this.#add(keyOf(name, labels), 1) };
  }

  measure(name: string, _help: string, read: () => readonly Measured[]): void {
    this.#measures.set(name, read);
  }

  /** What a measure of the name gives now, by labels as in `values`. */
  measured(name: string): Map<string, number> {
    const found = this.#measures.get(name)?.() ?? [];
    return new Map(found.map(({ labels, value }) => [keyOf(name, labels), value]));
  }

  #add(key: string, amount: number): void {
    this.values.set(key, (this.values.get(key) ?? 0) + amount);
  }
}

function keyOf(name: string, labels: Labels | undefined): string {
  if (labels === undefined) return name;
  const parts = Object.entries(labels).map(([label, value]) => `${label}="${value}"`);
  return `${name}{${parts.sort().join(',')}}`;
}
