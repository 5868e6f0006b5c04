import type { Relevo } from '@relevo/client';
import type { TestCluster } from '../lib/cluster.ts';
import { Workload, untilHandedBack, type Verdict } from '../lib/workload.ts';
import { until } from '../lib/wait.ts';

export interface Context {
  readonly cluster: TestCluster;
  readonly relevo: Relevo;
  readonly topic: string;
  readonly partitions: number;
  readonly ratePerSecond: number;
  readonly say: (line: string) => void;
}

/** Names carry the scenario and the unit, so that all scenarios fit one flat object. */
export type Figures = Record<string, number>;

const atMost = (limit: number): { text: string; met: (value: number) => boolean } => ({
  text: `≤ ${limit}`,
  met: (value) => value <= limit,
});

/** What each figure is held against. */
export const bars: Readonly<Record<string, { text: string; met: (value: number) => boolean }>> = {
  failoverMsP50: atMost(150),
  failoverMsMax: atMost(1000),
  controllerFailoverMsP50: atMost(500),
  controllerFailoverMsMax: atMost(2000),
  freezeFailoverMsMax: atMost(3000),
  freezeStaleAcks: atMost(0),
  handBackMsMax: atMost(10_000),
  controllerHandBackMsMax: atMost(10_000),
  handBackProducerStallMsMax: atMost(500),
  handBackConsumerStallMsMax: atMost(500),
  controllerHandBackProducerStallMsMax: atMost(500),
  controllerHandBackConsumerStallMsMax: atMost(500),
  leaderSpreadMax: atMost(1),
  controllerLeaderSpreadMax: atMost(1),
  rollingProducerStallMsMax: atMost(500),
  rollingConsumerStallMsMax: atMost(500),
  ...Object.fromEntries(
    ['', 'controller', 'freeze', 'rolling', 'whole'].flatMap((prefix) =>
      ['failed', 'lost', 'duplicated', 'reordered', 'misplaced', 'consumerAnomalies'].map(
        (name) => [named(prefix, name), atMost(0)],
      ),
    ),
  ),
};

export const judge = (figure: string, value: number): 'met' | 'missed' | '' => {
  const bar = bars[figure];
  if (bar === undefined) return '';
  return bar.met(value) ? 'met' : 'missed';
};

export function named(prefix: string, name: string): string {
  return prefix === '' ? name : `${prefix}${name.charAt(0).toUpperCase()}${name.slice(1)}`;
}

export const verdictFigures = (prefix: string, verdict: Verdict): Figures =>
  Object.fromEntries(
    Object.entries(verdict).map(([name, value]: [string, number]) => [named(prefix, name), value]),
  );

export function percentile(values: readonly number[], share: number): number {
  const sorted = values.toSorted((a, b) => a - b);
  return sorted[Math.min(sorted.length - 1, Math.ceil(sorted.length * share) - 1)] ?? NaN;
}

/** Makes the topic, starts the load, and waits until every partition has acknowledged something. */
export async function underLoad(context: Context): Promise<Workload> {
  const { relevo, topic, partitions, ratePerSecond } = context;
  await relevo.admin.createTopic({ topic, partitions, replicationFactor: 3 });
  const workload = new Workload(relevo, { topic, partitions, ratePerSecond });
  workload.start();
  await until(
    'an acknowledgement from every partition',
    () => new Set(workload.acks.map(({ partition }) => partition)).size === partitions,
  );
  await untilHandedBack(relevo, 20_000);
  return workload;
}
