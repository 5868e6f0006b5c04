/** What real brokers expose is what METRICS.md says, and all that rules and dashboards name. */
import { afterAll, beforeAll, expect, test } from 'vitest';
import { TestCluster } from '../lib/cluster.ts';
import { until } from '../lib/wait.ts';
import {
  dashboards,
  documentedMetrics,
  exposedMetrics,
  metricsIn,
  queriesOf,
  read,
} from '../observability/sources.ts';

let cluster: TestCluster;
/** Of all brokers together: one of them leads the quorum, and tells of its voters. */
let exposition: string;

beforeAll(async () => {
  cluster = await TestCluster.start();
  exposition = await until('the leader of the quorum to tell of its voters', async () => {
    const texts = await Promise.all(
      cluster.brokers.map(async ({ httpAddress }) =>
        (await fetch(`http://${httpAddress}/metrics`)).text(),
      ),
    );
    const voters = texts.join('\n').match(/^relevo_quorum_voter_lag_entries\{/gm) ?? [];
    return voters.length === 2 && texts.join('\n');
  });
});

afterAll(() => cluster.destroy());

const byName = (a: { readonly name: string }, b: { readonly name: string }): number =>
  a.name < b.name ? -1 : 1;

test('the table is complete, with types and labels', () => {
  const exposed = new Map(exposedMetrics(exposition).map((facts) => [facts.name, facts]));
  const documented = documentedMetrics().map(({ name, type, labels }) => ({
    name,
    type,
    labels: labels === 'none' ? '' : labels,
  }));
  expect(documented.toSorted(byName)).toEqual([...exposed.values()].toSorted(byName));
});

test('each metric has the help text that the table gives', () => {
  const table = read('METRICS.md');
  for (const [, name, help = ''] of exposition.matchAll(/^# HELP (\S+) (.*)$/gm)) {
    const row = table.split('\n').find((line) => line.startsWith(`| \`${name}\` `)) ?? '';
    expect(row).toContain(`| ${help.replace(/\.$/, '')}`);
  }
});

test('rules and dashboards name no metric that brokers do not expose', () => {
  const exposed = new Set(exposedMetrics(exposition).map(({ name }) => name));
  const named = metricsIn(
    [
      read('alerts.yml'),
      ...dashboards().flatMap((dashboard) => [
        ...queriesOf(dashboard).map(({ expr }) => expr),
        JSON.stringify(dashboard.templating),
      ]),
    ].join('\n'),
  );
  expect(named.size).toBeGreaterThan(40);
  expect([...named].filter((name) => !exposed.has(name))).toEqual([]);
});
