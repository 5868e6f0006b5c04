/**
 * `npm run bench:scale -- [--partitions 1000,5000] [--json FILE]`
 *
 * What many partitions cost: three broker processes on this machine, one topic with RF 3; how soon its
 * leaders and in-sync sets are in the metadata, how soon a record is acknowledged on every partition, what the
 * idle brokers use, and how soon a killed broker's leaders have moved.
 */
import { writeFileSync } from 'node:fs';
import { parseArgs } from 'node:util';
import { Relevo } from '@relevo/client';
import Table from 'cli-table3';
import { nowMs, processCost, TestCluster } from '../lib/cluster.ts';
import { pause, until } from '../lib/wait.ts';
import { leaderTable } from '../lib/workload.ts';

const { values } = parseArgs({
  options: {
    partitions: { type: 'string', default: '1000,5000' },
    json: { type: 'string' },
    'idle-seconds': { type: 'string', default: '10' },
  },
});

const MB = 1_000_000;

interface Cost {
  readonly metadataMs: number;
  readonly allAckedMs: number;
  readonly idleCpuPercentOfACore: number;
  readonly rssMbPerBrokerMax: number;
  readonly leadersMovedMs: number;
}

/** Bars for 1,000 partitions; for more they grow in proportion, but for the idle figures' fixed part. */
const BARS: Cost = {
  metadataMs: 1000,
  allAckedMs: 5000,
  idleCpuPercentOfACore: 10,
  rssMbPerBrokerMax: 250,
  leadersMovedMs: 2000,
};

async function measure(partitions: number): Promise<Cost> {
  const cluster = await TestCluster.start();
  try {
    const relevo = await Relevo.connect({ brokers: cluster.bootstrap });
    const topic = 'wide';
    const startMs = nowMs();
    await relevo.admin.createTopic({ topic, partitions, replicationFactor: 3 });
    await until(
      'leaders and full in-sync sets',
      async () => {
        const { leaders, underReplicated } = await leaderTable(relevo, topic);
        const led = leaders.length === partitions && leaders.every((leader) => leader >= 0);
        return led && underReplicated === 0;
      },
      { deadlineMs: 60_000, everyMs: 10 },
    );
    const metadataMs = nowMs() - startMs;
    const producer = relevo.producer({ lingerMs: 0 });
    await Promise.all(
      Array.from({ length: partitions }, (_, partition) =>
        producer.send({ topic, partition, value: `first of ${partition}` }),
      ),
    );
    const allAckedMs = nowMs() - startMs;
    await producer.close();
    await relevo.close();
    await pause(3000);
    const pids = cluster.brokers.flatMap(({ pid }) => (pid === undefined ? [] : [pid]));
    const idleFromMs = nowMs();
    const cpuBefore = pids.map((pid) => processCost(pid).cpuMs);
    await pause(Number(values['idle-seconds']) * 1000);
    const cpuMs = pids.reduce(
      (sum, pid, i) => sum + processCost(pid).cpuMs - (cpuBefore[i] ?? 0),
      0,
    );
    const idleCpuPercentOfACore = (cpuMs / (nowMs() - idleFromMs)) * 100;
    const rssMbPerBrokerMax = Math.max(...pids.map((pid) => processCost(pid).rssBytes / MB));
    const leadersMovedMs = await killOne(cluster, topic);
    return { metadataMs, allAckedMs, idleCpuPercentOfACore, rssMbPerBrokerMax, leadersMovedMs };
  } finally {
    await cluster.destroy();
  }
}

async function killOne(cluster: TestCluster, topic: string): Promise<number> {
  const watching = await Relevo.connect({ brokers: cluster.bootstrap });
  const { controllerId } = await watching.admin.describeCluster();
  await watching.close();
  const victim =
    cluster.brokers.find(({ id }) => id !== controllerId) ?? cluster.broker(controllerId);
  const survivors = cluster.bootstrap.filter((address) => address !== victim.address);
  const relevo = await Relevo.connect({ brokers: survivors });
  const killedMs = nowMs();
  await victim.kill();
  await until(
    'the leaders of the killed broker to have moved',
    async () => {
      const { leaders } = await leaderTable(relevo, topic);
      return leaders.every((leader) => leader >= 0 && leader !== victim.id);
    },
    { deadlineMs: 60_000, everyMs: 10 },
  );
  const movedMs = nowMs() - killedMs;
  await relevo.close();
  return movedMs;
}

const figures: Record<string, number> = {};
let missed = 0;
for (const partitions of values.partitions.split(',').map(Number)) {
  const cost = await measure(partitions);
  const table = new Table({ head: [`${partitions} partitions`, 'seen', 'bar', ''] });
  for (const [name, value] of Object.entries(cost) as [keyof Cost, number][]) {
    const bar = BARS[name] * Math.max(1, partitions / 1000);
    if (value > bar) missed++;
    table.push([name, Math.round(value * 10) / 10, `≤ ${bar}`, value <= bar ? 'met' : 'missed']);
    figures[`${name}With${partitions}`] = value;
  }
  console.log(table.toString());
}
if (values.json !== undefined) writeFileSync(values.json, `${JSON.stringify(figures, null, 2)}\n`);
process.exit(missed === 0 ? 0 : 1);
