/**
 * `npm run bench:recovery -- [--gib 20] [--partitions 200] [--quick] [--json FILE]`
 *
 * What a crash of all brokers costs: three of them on this machine are filled with so many GiB, replicas
 * counted, and killed with SIGKILL while producers send on to every partition; then all start again. How
 * soon is a record acknowledged on one partition and on each, and are heartbeats late meanwhile?
 * `--quick`: 0.3 GiB on 12 partitions. The data are removed, whatever ends the run.
 *
 * In between the page cache is emptied: by /proc/sys/vm/drop_caches where this process may write to it, else
 * file by file, with what GNU dd calls `iflag=nocache` (posix_fadvise, POSIX_FADV_DONTNEED), which takes no
 * rights; the output says which. What the kernel had not written by then is written first: a kill takes
 * nothing from the page cache.
 */
import { execFileSync } from 'node:child_process';
import { readdirSync, statfsSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
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
/** The load goes on for so long before the kill: checkpoints are written meanwhile. */
const LOAD_MS = 12_000;
const LOAD_IN_FLIGHT = 64;
const LOAD_DELIVERY_MS = 3_000;
/** Files for one call of dd's shell. */
const FILES_AT_A_TIME = 200;
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

/** Sends to all partitions until the brokers are gone; resolves with how many were acknowledged. */
async function loadUntilKilled(relevo: Relevo, kill: () => Promise<void>): Promise<number> {
  const producer = relevo.producer({ lingerMs: 5, deliveryTimeoutMs: LOAD_DELIVERY_MS });
  const value = new Uint8Array(VALUE_BYTES).fill(9);
  let acknowledged = 0;
  let next = 0;
  let isKilled = false;
  const lane = async (): Promise<void> => {
    while (!isKilled) {
      await producer.send({ topic: TOPIC, partition: next++ % partitions, value });
      acknowledged++;
    }
  };
  const lanes = Array.from({ length: LOAD_IN_FLIGHT }, lane);
  await Promise.race([sleep(LOAD_MS), ...lanes]);
  const killed = kill();
  isKilled = true;
  await killed;
  // What was under way has no answer, and gives up by itself.
  await Promise.allSettled(lanes);
  await producer.close();
  return acknowledged;
}

/** What was done about the page cache. */
function emptyPageCache(directory: string): string {
  execFileSync('sync');
  try {
    writeFileSync('/proc/sys/vm/drop_caches', '1\n');
    return 'emptied (drop_caches)';
  } catch {
    // Files are let go of one by one.
  }
  const files = readdirSync(directory, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => join(entry.parentPath, entry.name));
  try {
    const each = 'for f in "$@"; do dd if="$f" iflag=nocache count=0 status=none || exit 1; done';
    for (let from = 0; from < files.length; from += FILES_AT_A_TIME) {
      execFileSync('sh', ['-c', each, 'sh', ...files.slice(from, from + FILES_AT_A_TIME)]);
    }
    return `emptied of ${files.length} files (posix_fadvise, by dd)`;
  } catch {
    return 'warm: it may not be emptied from here, and there is no GNU dd';
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
  const late = lines.filter((line) => String(line.event).startsWith('a heartbeat is late'));
  for (const line of late) console.log(JSON.stringify(line));
  const lateMs = late.map((line) => Number(line['lateMs']));
  const brokersFenced = lines.filter((line) => line.event === 'broker fenced').length;
  return { firstAckMs, allAckedMs, heartbeatLateMsMax: Math.max(0, ...lateMs), brokersFenced };
}

assertRoom();
const cluster = await TestCluster.start();
let missed = 0;
try {
  const relevo = await Relevo.connect({ brokers: cluster.bootstrap });
  await relevo.admin.createTopic({ topic: TOPIC, partitions, replicationFactor: REPLICAS });
  console.log(`filling ${partitions} partitions with ${gib} GiB on three brokers …`);
  await fill(relevo);
  const acknowledged = await loadUntilKilled(relevo, async () => {
    await Promise.all(cluster.brokers.map((broker) => broker.kill()));
  });
  await relevo.close();
  const cache = emptyPageCache(cluster.directory);
  console.log(`killed after ${acknowledged} more records; the page cache is ${cache}`);
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
