/**
 * `npm run observability -- [--required] [--keep]`
 *
 * A real Prometheus, with the rules of deploy/observability, watches three real brokers under load. Every
 * query of the dashboards and every expression of the rules must give data. Then the broker that is the
 * active controller is killed: alerts must fire, and clear when it is back. See faster.ts for the time.
 *
 * Without `prometheus` and `promtool` it is skipped, and fails with --required or CI=true.
 */
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { Relevo } from '@relevo/client';
import { nowMs, TestCluster } from '../lib/cluster.ts';
import { freePorts } from '../lib/ports.ts';
import { until } from '../lib/wait.ts';
import { untilHandedBack, Workload } from '../lib/workload.ts';
import { RATE_INTERVAL, fasterConfig, fasterRules } from './faster.ts';
import { findProgram, Prometheus, promtool } from './prometheus.ts';
import { dashboards, filledIn, FOLDER, metricsIn, queriesOf, read } from './sources.ts';

const JOB = 'relevo';
/** What the loss of a broker must raise, and its return clear. */
const RAISED = ['RelevoBrokerDown', 'RelevoUnderReplicated', 'RelevoOfflinePartitions'];
/** These tell of the machine, which others may use at the time. */
const OF_THE_MACHINE = /Disk|Fsync|Produce|EventLoop|Memory/;
const TOPIC = 'observed';
const FIRE_DEADLINE_MS = 30_000;
const CLEAR_DEADLINE_MS = 40_000;

const { values } = parseArgs({
  options: {
    required: { type: 'boolean', default: false },
    /** Leaves the directory with logs and data. */
    keep: { type: 'boolean', default: false },
  },
});

process.exit(await main());

async function main(): Promise<number> {
  const program = findProgram('prometheus');
  const tool = findProgram('promtool');
  if (program === undefined || tool === undefined) {
    const required = values.required || process.env['CI'] === 'true';
    console.log(
      `${required ? 'FAILED' : 'SKIPPED'}: no prometheus and promtool on the PATH, so no alert and no ` +
        'dashboard was tried. Install them (Debian: apt-get install prometheus) and run this again.',
    );
    return required ? 1 : 0;
  }
  const startedMs = nowMs();
  const problems = [
    ...promtool(tool, FOLDER, ['check', 'config', 'prometheus.yml']),
    ...promtool(tool, FOLDER, ['check', 'rules', 'alerts.yml']),
    ...promtool(tool, FOLDER, ['test', 'rules', 'alerts.test.yml']),
  ];
  if (problems.length === 0) {
    console.log('promtool: configuration, rules and their tests are in order');
  }
  problems.push(...(await watched(program)));
  for (const problem of problems) console.log(`FAILED: ${problem}`);
  const seconds = ((nowMs() - startedMs) / 1000).toFixed(0);
  console.log(problems.length === 0 ? `all is well, ${seconds} s` : `${problems.length} problems`);
  return problems.length === 0 ? 0 : 1;
}

/** Starts everything, and ends it whatever happens. Gives what is wrong, in words. */
async function watched(program: string): Promise<string[]> {
  const directory = mkdtempSync(join(tmpdir(), 'relevo-observability-'));
  const cluster = await TestCluster.create();
  let prometheus: Prometheus | undefined;
  let relevo: Relevo | undefined;
  try {
    for (const broker of cluster.brokers) broker.start();
    await cluster.ready();
    relevo = await Relevo.connect({ brokers: cluster.bootstrap });
    await relevo.admin.createTopic({ topic: TOPIC, partitions: 6, replicationFactor: 3 });
    await relevo.admin.createTopic({ topic: 'single', partitions: 3, replicationFactor: 1 });
    await untilHandedBack(relevo, 20_000);
    const workload = new Workload(relevo, { topic: TOPIC, partitions: 6, ratePerSecond: 200 });
    workload.start();
    prometheus = await startPrometheus(program, directory, cluster);
    const problems = [
      ...(await withoutData(prometheus)),
      ...(await alertsFireAndClear(prometheus, cluster, relevo)),
    ];
    await workload.stop();
    const { acked, lost } = await workload.verify(relevo);
    if (acked === 0 || lost > 0) problems.push(`of ${acked} acknowledged records ${lost} are lost`);
    return problems;
  } finally {
    await prometheus?.stop();
    await relevo?.close();
    await cluster.destroy({ keep: values.keep });
    if (values.keep) console.log(`left behind: ${directory} ${cluster.directory}`);
    else rmSync(directory, { recursive: true, force: true });
  }
}

async function startPrometheus(
  program: string,
  directory: string,
  cluster: TestCluster,
): Promise<Prometheus> {
  const [port] = await freePorts(1);
  const address = `127.0.0.1:${port}`;
  const addresses = new Map([['localhost:9090', address]]);
  for (const { id, httpAddress } of cluster.brokers)
    addresses.set(`broker-${id}:9094`, httpAddress);
  const configFile = join(directory, 'prometheus.yml');
  writeFileSync(configFile, fasterConfig(read('prometheus.yml'), addresses));
  writeFileSync(join(directory, 'alerts.yml'), fasterRules(read('alerts.yml')));
  const data = join(directory, 'data');
  mkdirSync(data);
  return Prometheus.start({ program, configFile, directory: data, address });
}

// ------------------------------------------------------------------------------- queries give data

/** Every query of the dashboards, every variable, every expression of the rules. */
async function withoutData(prometheus: Prometheus): Promise<string[]> {
  const brokers = await until(
    'rates of all brokers',
    async () => {
      const found = await prometheus.query(
        `rate(relevo_fsync_seconds_count[${RATE_INTERVAL}]) > 0`,
      );
      return found.length === 3 && found.map(({ metric }) => metric['instance'] ?? '');
    },
    { deadlineMs: 20_000 },
  );
  const one = (brokers[0] ?? '').replaceAll('.', String.raw`\\.`);
  const problems: string[] = [];
  const needsData = async (where: string, expr: string): Promise<void> => {
    try {
      const samples = await prometheus.query(expr);
      if (samples.every(({ value }) => Number.isNaN(value))) {
        problems.push(`${where}: ${samples.length === 0 ? 'no data' : 'only NaN'}: ${expr}`);
      }
    } catch (error) {
      problems.push(`${where}: ${error instanceof Error ? error.message : String(error)}`);
    }
  };
  let asked = 0;
  for (const dashboard of dashboards()) {
    for (const { where, expr } of queriesOf(dashboard)) {
      for (const broker of ['.+', one]) {
        asked++;
        const filled = filledIn(expr, { job: JOB, broker, rateInterval: RATE_INTERVAL });
        await needsData(where, filled);
      }
    }
    for (const { name, query } of dashboard.templating.list) {
      if (typeof query === 'string') continue;
      const [, metric = '', label = ''] = /^label_values\((.+), (\w+)\)$/.exec(query.query) ?? [];
      const found = await prometheus.labelValues(metric.replaceAll('$job', JOB), label);
      if (found.length === 0) problems.push(`${dashboard.title}, variable ${name}: no values`);
    }
  }
  const rules = await prometheus.rules();
  for (const { name, query } of rules) {
    await needsData(name, answering(query));
    for (const metric of metricsIn(query)) {
      const histogram = metric.endsWith('_seconds') && query.includes(`${metric}_bucket`);
      await needsData(`${name} names ${metric}`, histogram ? `${metric}_count` : metric);
    }
  }
  console.log(
    `${asked} queries of dashboards, ${rules.length} rules: ${problems.length} without data`,
  );
  return problems;
}

/** A condition that does not hold gives nothing; with `bool` it gives 0, if there is data. */
function answering(query: string): string {
  return query.replaceAll(/ (==|!=|>=|<=|>|<) /g, ' $1 bool ').replaceAll(/\babsent\(/g, '(');
}

// ------------------------------------------------------------------------------ alerts fire and clear

async function alertsFireAndClear(
  prometheus: Prometheus,
  cluster: TestCluster,
  relevo: Relevo,
): Promise<string[]> {
  const ours = async (): Promise<string[]> =>
    [...(await prometheus.firing())].filter((name) => !OF_THE_MACHINE.test(name)).toSorted();
  const atRest = await ours();
  const problems = atRest.map((name) => `${name} fires though all is well`);

  const { controllerId } = await relevo.admin.describeCluster();
  const victim = cluster.broker(controllerId);
  const killedMs = nowMs();
  await victim.kill();
  const fired = await untilEach('to fire', FIRE_DEADLINE_MS, killedMs, async () => {
    const firing = await prometheus.firing();
    return RAISED.filter((name) => firing.has(name));
  });
  const during = await ours();

  const returnedMs = nowMs();
  victim.start();
  const cleared = await untilEach('to clear', CLEAR_DEADLINE_MS, returnedMs, async () => {
    const firing = await prometheus.firing();
    return RAISED.filter((name) => !firing.has(name));
  });
  await until('no alert to fire', async () => (await ours()).length === 0, {
    deadlineMs: CLEAR_DEADLINE_MS,
  }).catch(async () => problems.push(`still firing at the end: ${(await ours()).join(', ')}`));

  console.log(`broker ${controllerId}, the active controller, was killed, and started again:`);
  for (const name of RAISED) {
    const [after, back] = [fired.get(name), cleared.get(name)];
    console.log(
      `  ${name}: fired after ${after ?? '-'} s, cleared ${back ?? '-'} s after the return`,
    );
    if (after === undefined) problems.push(`${name} did not fire`);
    else if (back === undefined) problems.push(`${name} did not clear`);
  }
  console.log(`  firing before the return: ${during.join(', ')}`);
  for (const { name, health, lastError } of await prometheus.rules()) {
    if (health !== 'ok') problems.push(`${name} could not be evaluated: ${lastError ?? health}`);
  }
  return problems;
}

/** When each of RAISED was among those that `reached` gives for the first time, in seconds. */
async function untilEach(
  what: string,
  deadlineMs: number,
  sinceMs: number,
  reached: () => Promise<string[]>,
): Promise<Map<string, string>> {
  const seen = new Map<string, string>();
  await until(
    `the alerts ${what}`,
    async () => {
      for (const name of await reached()) {
        if (!seen.has(name)) seen.set(name, ((nowMs() - sinceMs) / 1000).toFixed(1));
      }
      return seen.size === RAISED.length;
    },
    { deadlineMs, everyMs: 200 },
  ).catch(() => undefined);
  return seen;
}
