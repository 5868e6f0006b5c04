/**
 * `npm run chaos:containers -- [--minutes M] [--seed S] [--brokers N] [--only a,b] [--json FILE]`
 *
 * Brokers in containers, each a host of its own, under a recorded load of several producers and consumers.
 * Without --minutes each fault strikes once; with it faults drawn from the seed strike for so long. Each
 * fault is undone, and the cluster must then be whole within its bar. At the end the record is checked.
 */
import { writeFileSync } from 'node:fs';
import { parseArgs } from 'node:util';
import Table from 'cli-table3';
import { chaos, type FaultOutcome } from './lib/chaos.ts';
import { fixedPlan, randomPlan } from './lib/plan.ts';
import { assertEngine } from './lib/engine.ts';

const { values } = parseArgs({
  options: {
    minutes: { type: 'string' },
    seed: { type: 'string', default: '1' },
    brokers: { type: 'string', default: '3' },
    only: { type: 'string' },
    json: { type: 'string' },
  },
});

await assertEngine();
const only = values.only?.split(',');
const seconds = values.minutes === undefined ? Infinity : Number(values.minutes) * 60;
const plan = values.minutes === undefined ? fixedPlan(only) : randomPlan(values.seed, only);
const brokers = Number(values.brokers);

console.log(
  `${brokers} brokers, ` +
    (values.minutes === undefined
      ? 'each fault once'
      : `seed ${values.seed}, ${values.minutes} min`),
);
const result = await chaos({
  brokers,
  plan,
  seconds,
  say: (line) => console.log(`  ${line}`),
});

const table = new Table({
  head: ['fault', 'times', 'first new ack ms, most', 'longest stall ms', 'whole again ms, most'],
});
const figures: Record<string, number> = {};
for (const [name, outcomes] of grouped(result.faults)) {
  const most = (of: (outcome: FaultOutcome) => number): number =>
    Math.round(Math.max(...outcomes.map(of)));
  const row = [
    most(({ firstNewAckMs }) => firstNewAckMs),
    most(({ stallMs }) => stallMs),
    most(({ wholeMs }) => wholeMs),
  ];
  table.push([name, outcomes.length, ...row]);
  for (const [index, what] of ['FirstNewAckMsMax', 'StallMsMax', 'WholeMsMax'].entries()) {
    figures[`${camelCase(name)}${what}`] = row[index] ?? NaN;
  }
}
console.log(table.toString());
Object.assign(figures, result.totals);
const totals = new Table();
for (const [name, value] of Object.entries(result.totals)) totals.push([name, value]);
console.log(totals.toString());
for (const { kind, text } of result.anomalies.slice(0, 20)) console.log(`${kind}: ${text}`);
if (values.json !== undefined) writeFileSync(values.json, `${JSON.stringify(figures, null, 2)}\n`);
const failed = result.anomalies.length + result.problems.length;
for (const problem of result.problems) console.log(problem);
console.log(failed === 0 ? 'no anomaly, and all bars met' : `${failed} anomalies and problems`);
process.exit(failed === 0 ? 0 : 1);

function grouped(faults: readonly FaultOutcome[]): Map<string, FaultOutcome[]> {
  const groups = new Map<string, FaultOutcome[]>();
  for (const fault of faults) groups.set(fault.name, [...(groups.get(fault.name) ?? []), fault]);
  return groups;
}

function camelCase(name: string): string {
  return name.replace(/-(.)/g, (_, letter: string) => letter.toUpperCase());
}
