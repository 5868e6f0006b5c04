/**
 * `npm run bench:scale -- [--partitions 1000,5000,10000] [--json FILE]`
 *
 * What many partitions cost: three broker processes on this machine, one topic with RF 3 made in one call; how
 * soon after that command a record is acknowledged on the first and on every partition, whether in-sync sets
 * shrink or brokers are fenced meanwhile, what the idle brokers use, and how soon a killed broker's leaders
 * have moved.
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
    partitions: { type: 'string', default: '1000,5000,10000' },
    json: { type: 'string' },
    'idle-seconds': { type: 'string', default: '10' },
  },
});

const MB = 1_000_000;
/** Longer than any bar: what is late is told as a figure, and what fails as a count. */
const DELIVERY_TIMEOUT_MS = 120_000;

interface Cost {
  readonly createdMs: number;
  readonly firstAckMs: number;
  readonly allAckedMs: number;
  readonly unacknowledged: number;
  readonly inSyncSetsShrunk: number;
  readonly brokersFenced: number;
  readonly idleCpuPercentOfACore: number;
  readonly rssMbPerBrokerMax: number;
  readonly leadersMovedMs: number;
}

/** What is asked of so many partitions; between the rows the next larger one counts. */
const BARS: readonly (readonly [number, Cost])[] = [
  [1000, bars({ allAckedMs: 2000, leadersMovedMs: 500, idle: 10, rssMb: 250 })],
  [5000, bars({ allAckedMs: 10_000, leadersMovedMs: 1000, idle: 15, rssMb: 600 })],
  [10_000, bars({ allAckedMs: 20_000, leadersMovedMs: 2000, idle: 20, rssMb: 1000 })],
];

function bars(of: {
  readonly allAckedMs: number;
  readonly leadersMovedMs: number;
  readonly idle: number;
  readonly rssMb: number;
}): Cost {
  return {
    createdMs: 1000,
    firstAckMs: 1000,
    allAckedMs: of.allAckedMs,
    unacknowledged: 0,
    inSyncSetsShrunk: 0,
    brokersFenced: 0,
    idleCpuPercentOfACore: of.idle,
    rssMbPerBrokerMax: of.rssMb,
    leadersMovedMs: of.leadersMovedMs,
  };
}

function barsFor(partitions: number): Cost {
  const row = BARS.find(([upTo]) => partitions <= upTo) ?? BARS.at(-1);
  if (row === undefined) throw new Error('there are bars');
  return row[1];
}

async function measure(partitions: number): Promise<Cost> {
  const cluster = await TestCluster.start();
  try {
    const topic = 'wide';
    const acks = await produceToAll(cluster, topic, partitions);
    const lines = cluster.brokers.flatMap((broker) => broker.logLines());
    const told = (event: string): number => lines.filter((line) => line['event'] === event).length;
    await pause(3000);
    const pids = cluster.brokers.flatMap(({ pid }) => (pid === undefined ? [] : [pid]));
    const idleCpuPercentOfACore = await idleCpu(pids);
    const rssMbPerBrokerMax = Math.max(...pids.map((pid) => processCost(pid).rssBytes / MB));
    return {
      ...acks,
      inSyncSetsShrunk: told('in-sync set shrunk'),
      brokersFenced: told('broker fenced'),
      idleCpuPercentOfACore,
      rssMbPerBrokerMax,
      leadersMovedMs: await killOne(cluster, topic),
    };
  } finally {
    await cluster.destroy();
  }
}

/** Makes the topic and sends a record to each partition; all from the moment of the command. */
async function produceToAll(
  cluster: TestCluster,
  topic: string,
  partitions: number,
): Promise<Pick<Cost, 'createdMs' | 'firstAckMs' | 'allAckedMs' | 'unacknowledged'>> {
  const relevo = await Relevo.connect({ brokers: cluster.bootstrap });
  const startMs = nowMs();
  const sinceStart = (): number => nowMs() - startMs;
  await relevo.admin.createTopic({ topic, partitions, replicationFactor: 3 });
  const createdMs = sinceStart();
  const producer = relevo.producer({ lingerMs: 0, deliveryTimeoutMs: DELIVERY_TIMEOUT_MS });
  let firstAckMs = Infinity;
  let unacknowledged = 0;
  const send = async (partition: number): Promise<void> => {
    try {
      await producer.send({ topic, partition, value: `first of ${partition}` });
      firstAckMs = Math.min(firstAckMs, sinceStart());
    } catch (error) {
      if (unacknowledged++ === 0) console.error(`not acknowledged: ${String(error)}`);
    }
  };
  await Promise.all(Array.from({ length: partitions }, (_, partition) => send(partition)));
  const allAckedMs = sinceStart();
  await producer.close();
  await relevo.close();
  return { createdMs, firstAckMs, allAckedMs, unacknowledged };
}

async function idleCpu(pids: readonly number[]): Promise<number> {
  const fromMs = nowMs();
  const before = pids.map((pid) => processCost(pid).cpuMs);
  await pause(Number(values['idle-seconds']) * 1000);
  const cpuMs = pids.reduce((sum, pid, i) => sum + processCost(pid).cpuMs - (before[i] ?? 0), 0);
  return (cpuMs / (nowMs() - fromMs)) * 100;
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
  const barsOfThese = barsFor(partitions);
  const table = new Table({ head: [`${partitions} partitions`, 'seen', 'bar', ''] });
  for (const [name, value] of Object.entries(cost) as [keyof Cost, number][]) {
    const bar = barsOfThese[name];
    if (value > bar) missed++;
    table.push([name, Math.round(value * 10) / 10, `≤ ${bar}`, value <= bar ? 'met' : 'missed']);
    figures[`${name}With${partitions}`] = value;
  }
  console.log(table.toString());
}
if (values.json !== undefined) writeFileSync(values.json, `${JSON.stringify(figures, null, 2)}\n`);
process.exit(missed === 0 ? 0 : 1);
