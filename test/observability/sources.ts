/** What lies in deploy/observability, read as data: dashboards, the metrics that are named, their table. */
import { readFileSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

export const FOLDER = fileURLToPath(new URL('../../deploy/observability', import.meta.url));

export const read = (name: string): string => readFileSync(join(FOLDER, name), 'utf8');

export interface Target {
  readonly refId: string;
  readonly expr: string;
  readonly legendFormat: string;
  readonly datasource: { readonly uid: string };
}

export interface Panel {
  readonly id: number;
  readonly type: string;
  readonly title: string;
  readonly description?: string;
  readonly datasource?: { readonly uid: string };
  readonly gridPos: {
    readonly x: number;
    readonly y: number;
    readonly w: number;
    readonly h: number;
  };
  readonly targets?: readonly Target[];
  readonly fieldConfig?: { readonly defaults: { readonly unit?: string } };
}

export interface Variable {
  readonly name: string;
  readonly type: string;
  /** `label_values(metric, label)`, or the kind of datasource. */
  readonly query: string | { readonly query: string };
}

export interface Dashboard {
  readonly file: string;
  readonly uid: string;
  readonly title: string;
  readonly description: string;
  readonly panels: readonly Panel[];
  readonly templating: { readonly list: readonly Variable[] };
  readonly annotations: {
    readonly list: readonly { readonly name: string; readonly expr: string }[];
  };
}

export const dashboards = (): Dashboard[] =>
  readdirSync(join(FOLDER, 'dashboards'))
    .toSorted()
    .map((file) => {
      const parsed = JSON.parse(read(`dashboards/${file}`)) as Omit<Dashboard, 'file'>;
      return { file, ...parsed };
    });

export interface Query {
  readonly where: string;
  readonly expr: string;
}

export const queriesOf = ({ title, panels }: Dashboard): Query[] =>
  panels.flatMap((panel) =>
    (panel.targets ?? []).map(({ expr, refId }) => ({
      where: `${title}, ${panel.title}, ${refId}`,
      expr,
    })),
  );

/** As Grafana fills it in: one cluster, the broker or brokers chosen, and its rule for rates. */
export const filledIn = (
  expr: string,
  values: { readonly job: string; readonly broker: string; readonly rateInterval: string },
): string =>
  expr
    .replaceAll('$__rate_interval', values.rateInterval)
    .replaceAll('$job', values.job)
    .replaceAll('$broker', values.broker);

/** Names of metrics in PromQL or in text; what a histogram adds to its name is taken off. */
export const metricsIn = (text: string): Set<string> =>
  new Set(
    [...text.matchAll(/\b(?:relevo|process|nodejs)_[a-z0-9_]+\b/g)].map(([name]) =>
      name.replace(/_seconds_(bucket|sum|count)$/, '_seconds'),
    ),
  );

export interface MetricFacts {
  readonly name: string;
  readonly type: string;
  /** Sorted, with ", " between them. */
  readonly labels: string;
}

/** The rows of METRICS.md. */
export const documentedMetrics = (): MetricFacts[] =>
  [...read('METRICS.md').matchAll(/^\| `([a-z0-9_]+)` +\| (\w+) +\| ([^|]*?) +\| \S/gm)].map(
    ([, name = '', type = '', labels = '']) => ({ name, type, labels: labels.replaceAll('`', '') }),
  );

/** What a process exposes, in Prometheus' text format. */
export function exposedMetrics(exposition: string): MetricFacts[] {
  const types = [...exposition.matchAll(/^# TYPE (\S+) (\w+)$/gm)];
  return types.map(([, name = '', type = '']) => {
    const labels = new Set<string>();
    for (const [, list = ''] of exposition.matchAll(
      new RegExp(`^${name}(?:_bucket|_sum|_count)?\\{(.*)\\} `, 'gm'),
    )) {
      for (const [, label = ''] of list.matchAll(/(\w+)="/g)) if (label !== 'le') labels.add(label);
    }
    return { name, type, labels: [...labels].toSorted().join(', ') };
  });
}
