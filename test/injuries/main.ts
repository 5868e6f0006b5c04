/**
 * `npm run injuries -- [--count N] [--seed S] [--rate R] [--json FILE] [--keep]`
 *
 * Three broker processes under a recorded load. One after the other, a file of one of them is injured at
 * random, while the broker runs, or between a kill or a stop and its next start. After each the cluster
 * must be whole again, every broker must serve every record as it was written, and in the end nothing
 * acknowledged may be lost. Prints a table: what was injured, what came of it, and what the broker said.
 */
import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { fileURLToPath } from 'node:url';
import { Relevo } from '@relevo/client';
import { FetchService, consumeRequest } from '@relevo/rpc/gen/client/fetch';
import { createPorts } from '@relevo/runtime/ports';
import { Prng } from '@relevo/simulation/prng';
import Table from 'cli-table3';
import { TestCluster, nowMs, type BrokerProcess } from '../lib/cluster.ts';
import { until } from '../lib/wait.ts';
import { Workload, untilHandedBack } from '../lib/workload.ts';
import { injure, remember, type Injury } from './injury.ts';

const TOPIC = 'injured';
const PARTITIONS = 4;
/** Within this a broker that goes on by itself must be whole again. */
const WHOLE_MS = 90_000;
const CLI = fileURLToPath(new URL('../../packages/cli/bin/launch.cjs', import.meta.url));

const { values } = parseArgs({
  options: {
    count: { type: 'string', default: '50' },
    seed: { type: 'string', default: '1' },
    rate: { type: 'string', default: '300' },
    json: { type: 'string' },
    keep: { type: 'boolean', default: false },
  },
});

type Moment = 'running' | 'killed' | 'stopped';

interface Row {
  readonly broker: number;
  readonly moment: Moment;
  readonly injury: Injury;
  /** `went on`: the broker serves again by itself; `wiped`: it ended, and its data had to be wiped. */
  readonly outcome: 'went on' | 'wiped';
  readonly wholeMs: number;
  /** What the broker said of it; undefined: nothing. */
  readonly line: string | undefined;
}

const prng = new Prng(values.seed);
const { transport } = createPorts({ logger: { level: 'silent' } });
const memory = mkdtempSync(join(tmpdir(), 'relevo-older-'));
const rows: Row[] = [];
const problems: string[] = [];
const cluster = await TestCluster.start({
  settings: { 'log.segment.bytes': 256 * 1024 },
});
const relevo = await Relevo.connect({ brokers: cluster.bootstrap });
await relevo.admin.createTopic({ topic: TOPIC, partitions: PARTITIONS, replicationFactor: 3 });
const ratePerSecond = Number(values.rate);
const workload = new Workload(relevo, { topic: TOPIC, partitions: PARTITIONS, ratePerSecond });
workload.start();
await until('there are acknowledgements', () => workload.acks.length > 10 * ratePerSecond, {
  deadlineMs: 60_000,
});
try {
  for (let round = 1; round <= Number(values.count); round++) {
    const row = await injureOne(prng.split(`round/${round}`), round);
    rows.push(row);
    const { broker, moment, injury, outcome, wholeMs, line } = row;
    console.log(
      `${String(round).padStart(3)}  broker ${broker} ${moment}: ${injury.file} ${injury.kind} at ${injury.at}` +
        ` -> ${outcome}, whole after ${(wholeMs / 1000).toFixed(1)} s; ${line ?? 'nothing said'}`,
    );
    if (problems.length > 0) break;
  }
  await workload.stop();
  const verdict = await workload.verify(relevo);
  for (const name of ['failed', 'lost', 'duplicated', 'reordered', 'misplaced'] as const) {
    if (verdict[name] > 0) problems.push(`${name}: ${verdict[name]} of ${verdict.acked} records`);
  }
  await relevo.close();
  for (const broker of cluster.brokers) await broker.stop();
  for (const broker of cluster.brokers) problems.push(...verifyFiles(broker));
  summarize(verdict.acked);
} catch (error) {
  problems.push(error instanceof Error ? (error.stack ?? error.message) : String(error));
} finally {
  await cluster.destroy({ keep: problems.length > 0 || values.keep });
  rmSync(memory, { recursive: true, force: true });
}
for (const problem of problems) console.error(`PROBLEM ${problem}`);
if (problems.length > 0) console.error(`data and logs are kept in ${cluster.directory}`);
if (values.json !== undefined) {
  writeFileSync(values.json, `${JSON.stringify({ rows, problems }, null, 2)}\n`);
}
process.exit(problems.length > 0 ? 1 : 0);

async function injureOne(random: Prng, round: number): Promise<Row> {
  const broker = random.pick(cluster.brokers);
  const data = join(cluster.directory, `broker-${broker.id}`);
  const olderFrom = join(memory, String(broker.id));
  if (round % 3 === 1) remember(data, olderFrom);
  const moment = random.pick<Moment>(['running', 'killed', 'stopped']);
  const linesBefore = broker.logText().length;
  if (moment === 'killed') await broker.kill();
  if (moment === 'stopped') await broker.stop();
  const injury = injure(random, data, { running: moment === 'running', olderFrom });
  const injuredMs = nowMs();
  if (moment !== 'running') broker.start();
  let outcome: Row['outcome'] = 'went on';
  const said = (): string => broker.logText().slice(linesBefore);
  for (;;) {
    const whole = await wholeAgain(broker);
    if (whole) break;
    if (broker.running) {
      problems.push(
        `round ${round}: broker ${broker.id} runs, and the cluster does not become whole`,
      );
      break;
    }
    if (outcome === 'wiped') {
      problems.push(`round ${round}: broker ${broker.id} does not come back after a wipe`);
      break;
    }
    outcome = 'wiped';
    rmSync(data, { recursive: true, force: true });
    broker.start();
  }
  return {
    broker: broker.id,
    moment,
    injury,
    outcome,
    wholeMs: nowMs() - injuredMs,
    line: complaint(said(), outcome),
  };
}

/** False: the broker has ended, or time is up. Damage is often found only by who reads it. */
async function wholeAgain(broker: BrokerProcess): Promise<boolean> {
  try {
    await until(
      'every broker serves every record',
      async () => {
        if (!broker.running) return true;
        await untilHandedBack(relevo, 5_000);
        for (const { address } of cluster.brokers) await readAll(address);
        return broker.running;
      },
      { deadlineMs: WHOLE_MS, everyMs: 200 },
    );
    return broker.running;
  } catch (error) {
    console.error(error instanceof Error ? error.message : error);
    return false;
  }
}

/** Reads the topic by a plain call to one broker; each record must be the next of its partition. */
async function readAll(address: string): Promise<void> {
  const channel = transport.dial(address);
  const next = new Map<number, number>();
  try {
    await new Promise<void>((resolve, reject) => {
      channel.subscribe(
        FetchService.consume,
        consumeRequest({ topic: TOPIC, from: { case: 'earliest', value: true }, stopAtEnd: true }),
        {
          onMessage: ({ records }) => {
            for (const { partition, offset, value } of records) {
              const [from, sequence, filler] = Buffer.from(value ?? [])
                .toString()
                .split(':');
              const expected = next.get(partition) ?? 0;
              if (
                from !== `${partition}` ||
                Number(sequence) !== expected ||
                !/^x+$/.test(filler ?? '')
              ) {
                problems.push(
                  `${address} served ${from}:${sequence} in partition ${partition} at offset ${offset}, expected ${expected}`,
                );
              }
              next.set(partition, Number(sequence) + 1);
            }
          },
          onEnd: (error) => (error === undefined ? resolve() : reject(error)),
        },
      );
    });
  } finally {
    channel.close();
  }
}

/** The line by which an operator learns of it: the last one of a broker that ended, else the first warning. */
function complaint(text: string, outcome: Row['outcome']): string | undefined {
  const lines = text.split('\n').filter((line) => line !== '');
  const plain = lines.filter((line) => !line.startsWith('{')).at(-1);
  if (outcome === 'wiped' && plain !== undefined) return plain;
  for (const line of lines) {
    if (!line.startsWith('{')) continue;
    const { level, event, error, reason, why } = JSON.parse(line) as Record<string, string>;
    if (level !== 'warn' && level !== 'error') continue;
    if (!/damage|corrupt|rebuil|offline|incarnation|missing|lost|identity|set aside/i.test(line))
      continue;
    return `${event}: ${error ?? reason ?? why ?? ''}`;
  }
  return undefined;
}

function verifyFiles(broker: BrokerProcess): string[] {
  const data = join(cluster.directory, `broker-${broker.id}`);
  try {
    execFileSync(process.execPath, [CLI, 'log', 'verify', data], { encoding: 'utf8' });
    return [];
  } catch (error) {
    const { stdout = '', stderr = '' } = error as { stdout?: string; stderr?: string };
    return [`broker ${broker.id}: log verify says ${`${stdout}${stderr}`.trim().slice(0, 600)}`];
  }
}

function summarize(acked: number): void {
  const table = new Table({
    head: ['injury', 'moment', 'times', 'told', 'wiped', 'whole at most, s'],
  });
  const groups = new Map<string, Row[]>();
  for (const row of rows) {
    const key = `${row.injury.kind}|${row.moment}`;
    groups.set(key, [...(groups.get(key) ?? []), row]);
  }
  for (const [key, group] of [...groups].toSorted(([a], [b]) => a.localeCompare(b))) {
    const [kind, moment] = key.split('|');
    table.push([
      kind,
      moment,
      group.length,
      group.filter(({ line }) => line !== undefined).length,
      group.filter(({ outcome }) => outcome === 'wiped').length,
      (Math.max(...group.map(({ wholeMs }) => wholeMs)) / 1000).toFixed(1),
    ]);
  }
  console.log(`${table.toString()}\n${rows.length} injuries, ${acked} records acknowledged`);
}
