/**
 * `npm run bench -- [--quick] [--rounds N] [--only a,b] [--json FILE]`
 *
 * Speed as ratios within one run: what Relevo moves against what a bare @grpc/grpc-js stream moves between two
 * processes on the same machine, in turns, and the median of the rounds. Latency end to end at 1,000 records/s.
 */
import { spawn } from 'node:child_process';
import { writeFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { Relevo } from '@relevo/client';
import Table from 'cli-table3';
import { TestCluster } from '../lib/cluster.ts';
import { sinkMbPerS, sourceMbPerS } from './baseline.ts';

const { values } = parseArgs({
  options: {
    quick: { type: 'boolean', default: false },
    rounds: { type: 'string' },
    only: { type: 'string' },
    json: { type: 'string' },
  },
});

const rounds = Number(values.rounds ?? (values.quick ? 1 : 3));
const seconds = values.quick ? 1 : 3;
/** Written per produce run, MB: long enough for the rate to settle. */
const produceMb = values.quick ? 150 : 1000;
const KIB = 1024;
const CLI = fileURLToPath(new URL('../../packages/cli/bin/launch.cjs', import.meta.url));
const SMALL_RECORDS = fileURLToPath(new URL('./small-records.ts', import.meta.url));

type Figures = Record<string, number>;

/** Runs a program that writes one flat JSON object to its standard output. */
function measured(command: readonly string[]): Promise<Figures> {
  return new Promise((resolve, reject) => {
    const child = spawn(process.execPath, command, { stdio: ['ignore', 'pipe', 'pipe'] });
    let output = '';
    let errors = '';
    child.stdout.on('data', (chunk: Buffer) => (output += chunk.toString()));
    child.stderr.on('data', (chunk: Buffer) => (errors += chunk.toString()));
    child.once('error', reject);
    child.once('close', (code) => {
      if (code !== 0) reject(new Error(`${command.join(' ')} ended with ${code}: ${errors}`));
      else resolve(JSON.parse(output) as Figures);
    });
  });
}

const cliBench = (cluster: TestCluster, ...command: string[]): Promise<Figures> =>
  measured([CLI, 'bench', ...command, '--json', '--bootstrap', cluster.bootstrap.join(',')]);

const source = (file: string): string[] => ['--import', 'tsx', '--conditions=@relevo/source', file];

/** Produces 1 KiB records in 64 KiB batches, then reads them back if asked. */
async function throughput(
  brokers: number,
  read: boolean,
): Promise<{ produce: number; consume: number }> {
  const cluster = await TestCluster.start({ brokers });
  try {
    const relevo = await Relevo.connect({ brokers: cluster.bootstrap });
    const topic = 'bench';
    await relevo.admin.createTopic({ topic, partitions: 6, replicationFactor: brokers });
    await relevo.close();
    const count = String(Math.round((produceMb * 1e6) / KIB));
    const load = ['--topic', topic, '--record-bytes', String(KIB)];
    // The first run warms up the brokers' code.
    await cliBench(cluster, 'produce', ...load, '--records', '50000');
    const produced = await cliBench(cluster, 'produce', ...load, '--records', count);
    if (!read) return { produce: at(produced, 'mbPerS'), consume: NaN };
    const consumed = await cliBench(cluster, 'consume', '--topic', topic, '--records', count);
    return { produce: at(produced, 'mbPerS'), consume: at(consumed, 'mbPerS') };
  } finally {
    await cluster.destroy();
  }
}

function at(figures: Figures, name: string): number {
  const value = figures[name];
  if (value === undefined) throw new Error(`no figure ${name} in ${JSON.stringify(figures)}`);
  return value;
}

/**
 * Both ways: grpc-js leaves a server's HTTP/2 windows at 64 KiB, so that a bare stream is slower towards the
 * server than from it. Relevo is held against the better of the two.
 */
async function baseline64Kib(): Promise<{ up: number; down: number }> {
  const up = await sinkMbPerS(64 * KIB, seconds);
  return { up, down: await sourceMbPerS(64 * KIB, seconds) };
}

const PARTS: Readonly<Record<string, () => Promise<Figures>>> = {
  async rf1() {
    const baseline = await baseline64Kib();
    const sources = [];
    for (const size of [256 * KIB, 1024 * KIB]) sources.push(await sourceMbPerS(size, seconds));
    const best = Math.max(...sources);
    const { produce, consume } = await throughput(1, true);
    return {
      baseline64KibUpMbPerS: baseline.up,
      baseline64KibDownMbPerS: baseline.down,
      produceRf1MbPerS: produce,
      produceRf1Ratio: produce / Math.max(baseline.up, baseline.down),
      baselineBestReadMbPerS: best,
      consumeMbPerS: consume,
      consumeRatio: consume / best,
    };
  },
  async rf3() {
    const baseline = await baseline64Kib();
    const { produce } = await throughput(3, false);
    return {
      produceRf3MbPerS: produce,
      produceRf3Ratio: produce / Math.max(baseline.up, baseline.down),
    };
  },
  async small() {
    const cluster = await TestCluster.start({ brokers: 1 });
    try {
      const address = cluster.bootstrap.join(',');
      return await measured([...source(SMALL_RECORDS), address, String(seconds)]);
    } finally {
      await cluster.destroy();
    }
  },
  async latency() {
    const cluster = await TestCluster.start({ brokers: 3 });
    try {
      const duration = values.quick ? '5' : '15';
      const figures = await cliBench(
        cluster,
        ...['end-to-end', '--rate', '1000', '--record-bytes', '100', '--linger', '0'],
        ...['--duration', duration, '--warm-up', '3', '--replication-factor', '3'],
      );
      return {
        endToEndP50Ms: at(figures, 'p50Ms'),
        endToEndP99Ms: at(figures, 'p99Ms'),
        endToEndP999Ms: at(figures, 'p999Ms'),
        endToEndMaxMs: at(figures, 'maxMs'),
        ackP50Ms: at(figures, 'ackP50Ms'),
        ackP99Ms: at(figures, 'ackP99Ms'),
      };
    } finally {
      await cluster.destroy();
    }
  },
};

const BARS: Readonly<Record<string, { text: string; met: (value: number) => boolean }>> = {
  produceRf1Ratio: { text: '≥ 0.5', met: (value) => value >= 0.5 },
  produceRf3Ratio: { text: '≥ 0.2', met: (value) => value >= 0.2 },
  consumeRatio: { text: '≥ 0.7', met: (value) => value >= 0.7 },
  smallRecordsRatio: { text: '≥ 0.5', met: (value) => value >= 0.5 },
  endToEndP50Ms: { text: '≤ 2.5', met: (value) => value <= 2.5 },
  endToEndP99Ms: { text: '≤ 10', met: (value) => value <= 10 },
};

const median = (list: readonly number[]): number => {
  const sorted = list.toSorted((a, b) => a - b);
  return sorted[Math.floor(sorted.length / 2)] ?? NaN;
};

const names = values.only?.split(',') ?? Object.keys(PARTS);
const seen = new Map<string, number[]>();
for (let round = 1; round <= rounds; round++) {
  for (const name of names) {
    const part = PARTS[name];
    if (part === undefined) {
      console.error(`no part "${name}"; there are: ${Object.keys(PARTS).join(', ')}`);
      process.exit(2);
    }
    console.log(`round ${round} of ${rounds}: ${name} …`);
    for (const [figure, value] of Object.entries(await part())) {
      seen.set(figure, [...(seen.get(figure) ?? []), value]);
    }
  }
}

const table = new Table({ head: ['', 'median', 'least', 'most', 'bar', ''] });
const figures: Figures = {};
let missed = 0;
for (const [figure, list] of seen) {
  const value = median(list);
  figures[figure] = value;
  const bar = BARS[figure];
  if (bar !== undefined && !bar.met(value)) missed++;
  const verdict = bar === undefined ? '' : bar.met(value) ? 'met' : 'missed';
  const round = (x: number): string => (x >= 1000 ? x.toFixed(0) : x.toPrecision(3));
  const [least, most] = [Math.min(...list), Math.max(...list)];
  table.push([figure, round(value), round(least), round(most), bar?.text ?? '', verdict]);
}
console.log(table.toString());
if (values.json !== undefined) writeFileSync(values.json, `${JSON.stringify(figures, null, 2)}\n`);
// A quick run is too short to judge by.
process.exit(missed === 0 || values.quick ? 0 : 1);
