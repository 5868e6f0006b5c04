/**
 * `npm run chaos -- [--kills N] [--only NAME] [--rate R] [--partitions P] [--losses-only] [--json FILE] [--keep]`
 *
 * Starts three broker processes on this machine, keeps a steady acks=all load on them, and kills, freezes
 * and restarts them for real. Prints how long each failover took and whether anything was lost.
 */
import { writeFileSync } from 'node:fs';
import { parseArgs } from 'node:util';
import { Relevo } from '@relevo/client';
import Table from 'cli-table3';
import { TestCluster } from '../lib/cluster.ts';
import { freeze } from './freeze.ts';
import { leaderKills } from './leader-kills.ts';
import { rollingRestart } from './rolling-restart.ts';
import { wholeClusterKill } from './whole-cluster-kill.ts';
import { bars, judge, type Context, type Figures } from './figures.ts';

const { values } = parseArgs({
  options: {
    kills: { type: 'string', default: '20' },
    only: { type: 'string' },
    rate: { type: 'string', default: '2400' },
    partitions: { type: 'string', default: '6' },
    freezes: { type: 'string', default: '1' },
    json: { type: 'string' },
    keep: { type: 'boolean', default: false },
    /** A bar that is missed counts as a failure only where it is about records, not about speed. */
    'losses-only': { type: 'boolean', default: false },
  },
});

const kills = Number(values.kills);
const SCENARIOS: Readonly<Record<string, (context: Context) => Promise<Figures>>> = {
  leader: (context) => leaderKills(context, { kills, controllerToo: false }),
  controller: (context) => leaderKills(context, { kills, controllerToo: true }),
  freeze: (context) => freeze(context, { freezes: Number(values.freezes), frozenMs: 20_000 }),
  rolling: (context) => rollingRestart(context),
  whole: (context) => wholeClusterKill(context),
};

const names = values.only === undefined ? Object.keys(SCENARIOS) : values.only.split(',');
const all: Record<string, number> = {};
let missed = 0;
for (const name of names) {
  const scenario = SCENARIOS[name];
  if (scenario === undefined) {
    console.error(`no scenario "${name}"; there are: ${Object.keys(SCENARIOS).join(', ')}`);
    process.exit(2);
  }
  console.log(`\n${name} …`);
  const cluster = await TestCluster.start();
  let failed = false;
  try {
    const relevo = await Relevo.connect({ brokers: cluster.bootstrap });
    const figures = await scenario({
      cluster,
      relevo,
      topic: `chaos-${name}`,
      partitions: Number(values.partitions),
      ratePerSecond: Number(values.rate),
      say: (line) => console.log(`  ${line}`),
    });
    await relevo.close();
    missed += print(name, figures);
    Object.assign(all, figures);
  } catch (error) {
    failed = true;
    missed++;
    console.error(`${name} failed:`, error);
    console.error(`the brokers' data and logs are kept in ${cluster.directory}`);
  } finally {
    await cluster.destroy({ keep: failed || values.keep });
  }
}

function print(name: string, figures: Figures): number {
  const table = new Table({ head: [name, 'seen', 'bar', ''] });
  let misses = 0;
  for (const [figure, value] of Object.entries(figures)) {
    const verdict = judge(figure, value);
    const counts = !values['losses-only'] || !figure.includes('Ms');
    if (verdict === 'missed' && counts) misses++;
    table.push([figure, Math.round(value * 10) / 10, bars[figure]?.text ?? '', verdict]);
  }
  console.log(table.toString());
  return misses;
}

if (values.json !== undefined) writeFileSync(values.json, `${JSON.stringify(all, null, 2)}\n`);
console.log(missed === 0 ? '\nevery bar was met' : `\n${missed} bar(s) were missed`);
process.exit(missed === 0 ? 0 : 1);
