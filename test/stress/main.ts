/**
 * `npm run stress -- [--only idle,followers,fuzz,fuzz-open] [--streams N] [--followers N] [--connections N] [--messages N] [--seed S] [--quick] [--json FILE]`
 *
 * Three broker processes on this machine, and a client that holds thousands of idle streams and
 * connections, follows one topic hundreds of times, or sends what no client should. Nobody may be fenced, brokers stay ready, memory comes back.
 */
import { writeFileSync } from 'node:fs';
import { parseArgs } from 'node:util';
import { Relevo } from '@relevo/client';
import { createPorts } from '@relevo/runtime/ports';
import Table from 'cli-table3';
import type { Figures } from '../chaos/figures.ts';
import { TestCluster } from '../lib/cluster.ts';
import { fuzz } from './fuzz.ts';
import { followers, idleClients } from './idle.ts';
import { MEMORY_SLACK_BYTES } from './probe.ts';

const { values } = parseArgs({
  options: {
    only: { type: 'string', default: 'idle,followers,fuzz,fuzz-open' },
    streams: { type: 'string', default: '3000' },
    connections: { type: 'string', default: '2000' },
    followers: { type: 'string', default: '500' },
    messages: { type: 'string', default: '100000' },
    seed: { type: 'string', default: '1' },
    quick: { type: 'boolean', default: false },
    json: { type: 'string' },
  },
});

/** The largest value of each figure that is no failure; others are told and not judged. */
const BARS: Readonly<Record<string, number>> = {
  idleReadyzMsMax: 100,
  idleUnready: 0,
  idleFenced: 0,
  idleMemoryOverMiB: MEMORY_SLACK_BYTES / 2 ** 20,
  idleFailed: 0,
  idleLost: 0,
  idleDuplicated: 0,
  followersEnded: 0,
  followersUnready: 0,
  followersFenced: 0,
  followersMemoryOverMiB: MEMORY_SLACK_BYTES / 2 ** 20,
  followersFailed: 0,
  followersLost: 0,
  followersDuplicated: 0,
  fuzzBrokersLost: 0,
  fuzzReadyzMsMax: 100,
  fuzzUnready: 0,
  fuzzFenced: 0,
  fuzzMemoryOverMiB: MEMORY_SLACK_BYTES / 2 ** 20,
  fuzzOpenBrokersLost: 0,
  fuzzOpenMemoryOverMiB: MEMORY_SLACK_BYTES / 2 ** 20,
};
/** With --quick the machine is shared with whatever else is under way: times are told, not judged. */
const isJudged = (figure: string): boolean => !(values.quick && figure.includes('Ms'));

const quickly = (full: string, quick: number): number => (values.quick ? quick : Number(full));
const { transport } = createPorts({ logger: { level: 'silent' } });
const SCENARIOS: Readonly<
  Record<string, (cluster: TestCluster, relevo: Relevo) => Promise<Figures>>
> = {
  idle: (cluster, relevo) =>
    idleClients(cluster, relevo, transport, {
      streams: quickly(values.streams, 1_000),
      connections: quickly(values.connections, 500),
      streamConnections: 6,
      heldMs: quickly('20000', 5_000),
    }),
  followers: (cluster, relevo) =>
    followers(cluster, relevo, transport, {
      followers: quickly(values.followers, 200),
      connections: 6,
      heldMs: quickly('20000', 5_000),
    }),
  fuzz: (cluster, relevo) =>
    fuzz(cluster, relevo, transport, {
      messages: quickly(values.messages, 5_000),
      seed: values.seed,
      prefix: 'fuzz',
      restart: false,
    }),
  'fuzz-open': (cluster, relevo) =>
    fuzz(cluster, relevo, transport, {
      messages: quickly(values.messages, 5_000),
      seed: values.seed,
      prefix: 'fuzzOpen',
      restart: true,
    }),
};

/**
 * Without a secret nobody is asked for a proof: what the fuzzer sends reaches the cluster's services. It may
 * speak for any broker then, and have it fenced; yet no broker may end, or be unable to start.
 */
const WITHOUT_SECRET: ReadonlySet<string> = new Set(['fuzz-open']);

const all: Record<string, number> = {};
let missed = 0;
for (const name of values.only.split(',')) {
  const scenario = SCENARIOS[name];
  if (scenario === undefined) {
    console.error(`no scenario "${name}"; there are: ${Object.keys(SCENARIOS).join(', ')}`);
    process.exit(2);
  }
  console.log(`\n${name} …`);
  const cluster = await TestCluster.start({ secret: !WITHOUT_SECRET.has(name) });
  let failed = false;
  try {
    const relevo = await Relevo.connect({ brokers: cluster.bootstrap });
    const figures = await scenario(cluster, relevo);
    await relevo.close();
    missed += print(name, figures);
    Object.assign(all, figures);
  } catch (error) {
    failed = true;
    missed++;
    console.error(`${name} failed:`, error);
    console.error(`the brokers' data and logs are kept in ${cluster.directory}`);
  } finally {
    await cluster.destroy({ keep: failed });
  }
}

function print(name: string, figures: Figures): number {
  const table = new Table({ head: [name, 'seen', 'bar', ''] });
  let misses = 0;
  for (const [figure, value] of Object.entries(figures)) {
    const bar = isJudged(figure) ? BARS[figure] : undefined;
    const verdict = bar === undefined ? '' : value <= bar ? 'met' : 'missed';
    if (verdict === 'missed') misses++;
    table.push([figure, Math.round(value * 10) / 10, bar === undefined ? '' : `≤ ${bar}`, verdict]);
  }
  console.log(table.toString());
  return misses;
}

if (values.json !== undefined) writeFileSync(values.json, `${JSON.stringify(all, null, 2)}\n`);
console.log(missed === 0 ? '\nevery bar was met' : `\n${missed} bar(s) were missed`);
process.exit(missed === 0 ? 0 : 1);
