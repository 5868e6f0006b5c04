/**
 * `npm run bench:recovery -- [--gib 20] [--partitions 200] [--quick] [--json FILE]`
 *
 * What a crash of all brokers costs: three of them on this machine are filled with so many GiB, replicas
 * counted, and killed with SIGKILL; then all start again. How soon is a record acknowledged on one
 * partition and on each, and are heartbeats late meanwhile? Where this process may, it empties the page cache
 * in between. `--quick`: 0.3 GiB on 12 partitions. The data are removed, whatever ends the run.
 */
import { execFileSync } from 'node:child_process';
import { statfsSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { parseArgs } from 'node:util';
import { Relevo } from '@relevo/client';
import Table from 'cli-table3';
import { nowMs, TestCluster } from '../lib/cluster.ts';

const { values } = parseArgs({
  options: {
    gib: { type: 'string', default: '20' },
    partitions: { type: 'string', default: '200' },
    quick: { type: 'boolean', default: false },
    json: { type: 'string' },
  },
});

const GIB = 2 ** 30;
const REPLICAS = 3;
const VALUE_BYTES = 64 * 1024;
/** Unacknowledged at a time while the logs are filled. */
const IN_FLIGHT_MAX = 256;
const ALL_WITHIN_MS = 120_000;
const TOPIC = 'recovered';

const gib = values.quick ? 0.3 : Number(values.gib);
const partitions = values.quick ? 12 : Number(values.partitions);

interface Figures {
  readonly firstAckMs: number;
  readonly allAckedMs: number;
  readonly heartbeatLateMsMax: number;
  readonly brokersFenced: number;
}

/** Heartbeats that are later than this are told of by the brokers. */
const BARS: Partial<Figures> = { firstAckMs: 15_000, heartbeatLateMsMax: 300 };

function assertRoom(): void {
  const { bavail, bsize } = statfsSync(tmpdir());
  const needed = 1.3 * gib * GIB;
  if (bavail * bsize >= needed) return;
  const has = (bavail * bsize) / GIB;
  console.error(
    `${tmpdir()} has ${has.toFixed(1)} GiB free and this needs ${(needed / GIB).toFixed(1)}: ` +
      'ask for less with --gib, or set TMPDIR to a larger disk',
  );
  process.exit(78);
}

/** Sends until the logs hold so much, all of it acknowledged. */
async function fill(relevo: Relevo): Promise<void> {
  const producer = relevo.producer({ lingerMs: 5 });
  const total = Math.ceil((gib * GIB) / REPLICAS / VALUE_BYTES);
  const value = new Uint8Array(VALUE_BYTES).fill(7);
  let next = 0;
  const lane = async (): Promise<void> => {
    while (next < total) {
      const partition = next++ % partitions;
      await producer.send({ topic: TOPIC, partition, value });
    }
  };
  await Promise.all(Array.from({ length: IN_FLIGHT_MAX }, lane));
  await producer.close();
}

/** True where the page cache could be emptied. */
function emptyPageCache(): boolean {
  try {
    execFileSync('sync');
    writeFileSync('/proc/sys/vm/drop_caches', '1\n');
    return true;
  } catch {
    return false;
  }
}

async function measure(cluster: TestCluster): Promise<Figures> {
  const linesBefore = cluster.brokers.map((broker) => broker.logLines().length);
  const startMs = nowMs();
  for (const broker of cluster.brokers) broker.start();
  const relevo = await Relevo.connect({ brokers: cluster.bootstrap, connectTimeoutMs: 60_000 });
  const producer = relevo.producer({ lingerMs: 0, deliveryTimeoutMs: ALL_WITHIN_MS });
  let firstAckMs = Infinity;
  const send = async (partition: number): Promise<void> => {
    await producer.send({ topic: TOPIC, partition, value: 'after the crash' });
    firstAckMs = Math.min(firstAckMs, nowMs() - startMs);
  };
  await Promise.all(Array.from({ length: partitions }, (_, partition) => send(partition)));
  const allAckedMs = nowMs() - startMs;
  await producer.close();
  await relevo.close();
  const lines = cluster.brokers.flatMap((broker, i) => broker.logLines().slice(linesBefore[i]));
  const late = lines
    .filter((line) => String(line['event']).startsWith('a heartbeat is late'))
    .map((line) => Number(line['lateMs']));
  const brokersFenced = lines.filter((line) => line['event'] === 'broker fenced').length;
  return { firstAckMs, allAckedMs, heartbeatLateMsMax: Math.max(0, ...late), brokersFenced };
}

assertRoom();
const cluster = await TestCluster.start();
let missed = 0;
try {
  const relevo = await Relevo.connect({ brokers: cluster.bootstrap });
  await relevo.admin.createTopic({ topic: TOPIC, partitions, replicationFactor: REPLICAS });
  console.log(`filling ${partitions} partitions with ${gib} GiB on three brokers …`);
  await fill(relevo);
  await relevo.close();
  await Promise.all(cluster.brokers.map((broker) => broker.kill()));
  const cold = emptyPageCache();
  console.log(
    `killed; the page cache is ${cold ? 'cold' : 'warm: it may not be emptied from here'}`,
  );
  const figures = await measure(cluster);
  const table = new Table({ head: [`${gib} GiB, ${partitions} partitions`, 'seen', 'bar', ''] });
  for (const [name, value] of Object.entries(figures) as [keyof Figures, number][]) {
    const bar = BARS[name];
    const isMet = bar === undefined || value <= bar;
    if (!isMet) missed++;
    table.push([
      name,
      Math.round(value),
      bar === undefined ? '' : `≤ ${bar}`,
      isMet ? '' : 'missed',
    ]);
  }
  console.log(table.toString());
  if (values.json !== undefined)
    writeFileSync(values.json, `${JSON.stringify(figures, null, 2)}\n`);
} finally {
  await cluster.destroy();
}
process.exit(missed === 0 ? 0 : 1);
