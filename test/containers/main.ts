/**
 * `npm run chaos:containers -- [--minutes M] [--seed S] [--brokers N] [--only a,b] [--previous IMAGE] [--logs] [--json FILE]`
 *
 * Brokers in containers, each a host of its own, under a recorded load of several producers and consumers.
 * Without --minutes each fault strikes once; with it faults drawn from the seed strike for so long. Each
 * fault is undone, and the cluster must then be whole within its bar. At the end the record is checked.
 *
 * The image is `relevo:local`, or what RELEVO_IMAGE says. --previous names the image that a rolling upgrade
 * starts from. --logs keeps what the brokers have logged even when all is well.
 */
import { writeFileSync } from 'node:fs';
import { parseArgs } from 'node:util';
import { messageOf } from '@relevo/base/errors';
import Table from 'cli-table3';
import { chaos, type ChaosResult, type FaultOutcome, type Totals } from './lib/chaos.ts';
import { assertEngine } from './lib/engine.ts';
import type { FaultKind, Setting } from './lib/faults.ts';
import { faultsNamed, fixedPlan, randomPlan } from './lib/plan.ts';

const { values } = parseArgs({
  options: {
    minutes: { type: 'string' },
    seed: { type: 'string', default: '1' },
    brokers: { type: 'string', default: '3' },
    only: { type: 'string' },
    previous: { type: 'string' },
    logs: { type: 'boolean', default: false },
    json: { type: 'string' },
  },
});

await assertEngine().catch((error: unknown) => {
  console.error(messageOf(error));
  process.exit(1);
});
const minutes = values.minutes === undefined ? undefined : positive('minutes', values.minutes);
const brokers = positive('brokers', values.brokers);
const chosen = chosenFaults();
console.log(
  `${brokers} brokers, ` +
    (minutes === undefined ? 'each fault once' : `seed ${values.seed}, ${minutes} min`),
);
const skipped: string[] = [];
const results: ChaosResult[] = [];
for (const setting of ['plain', 'laboratory', 'previous'] satisfies Setting[]) {
  const kinds = chosen.filter((kind) => kind.setting === setting);
  if (kinds.length > 0) await suffer(setting, kinds);
}
report();

/** Faults of one setting, on a cluster of their own. */
async function suffer(setting: Setting, kinds: readonly FaultKind[]): Promise<void> {
  if (setting === 'previous') {
    if (minutes !== undefined) {
      skipped.push('rolling-upgrade: it is none of those that strike again and again');
      return;
    }
    if (values.previous === undefined) {
      skipped.push('rolling-upgrade: --previous does not say which image to upgrade from');
      return;
    }
  }
  const drawn = chosen.filter((kind) => kind.setting !== 'previous');
  const seconds = minutes === undefined ? Infinity : (minutes * 60 * kinds.length) / drawn.length;
  const result = await chaos({
    ...{ brokers, seconds, setting, previousImage: values.previous, keepLogs: values.logs },
    plan: minutes === undefined ? fixedPlan(kinds) : randomPlan(values.seed, kinds),
    say: (line) => console.log(`  ${line}`),
  });
  results.push(result);
}

function report(): never {
  const figures: Record<string, number> = {};
  const table = new Table({
    head: ['fault, most of', 'times', 'first new ack ms', 'whole again ms', 'memory MB'],
  });
  for (const [name, outcomes] of grouped(results.flatMap(({ faults }) => faults))) {
    const most = (of: (outcome: FaultOutcome) => number): number =>
      Math.round(Math.max(...outcomes.map(of)));
    const row = [
      most(({ firstNewAckMs }) => firstNewAckMs),
      most(({ wholeMs }) => wholeMs),
      most(({ memoryMb }) => memoryMb),
    ];
    table.push([name, outcomes.length, ...row]);
    for (const [index, what] of ['FirstNewAckMsMax', 'WholeMsMax', 'MemoryMbMax'].entries()) {
      figures[`${camelCase(name)}${what}`] = row[index] ?? NaN;
    }
  }
  console.log(table.toString());
  const totals = new Table();
  for (const [name, value] of Object.entries(totalsOf(results.map((result) => result.totals)))) {
    totals.push([name, value]);
    figures[name] = value;
  }
  console.log(totals.toString());
  const anomalies = results.flatMap((result) => result.anomalies);
  const problems = results.flatMap((result) => result.problems);
  for (const { kind, text } of anomalies.slice(0, 20)) console.log(`${kind}: ${text}`);
  for (const problem of problems) console.log(problem);
  for (const what of skipped) console.log(`SKIPPED ${what}`);
  if (results.length === 0) {
    console.log('nothing was tried');
    process.exit(2);
  }
  if (values.json !== undefined) {
    writeFileSync(values.json, `${JSON.stringify(figures, null, 2)}\n`);
  }
  const failed = anomalies.length + problems.length;
  console.log(failed === 0 ? 'no anomaly, and all bars met' : `${failed} anomalies and problems`);
  process.exit(failed === 0 ? 0 : 1);
}

/** Counts are added up; of what is called Max the most counts. */
function totalsOf(all: readonly Totals[]): Record<string, number> {
  const sum: Record<string, number> = {};
  for (const [name, value] of all.flatMap((totals) => Object.entries(totals))) {
    const before = sum[name] ?? 0;
    sum[name] = name.endsWith('Max') ? Math.max(before, value) : before + value;
  }
  return sum;
}

function chosenFaults(): readonly FaultKind[] {
  try {
    return faultsNamed(values.only?.split(','));
  } catch (error) {
    console.error(messageOf(error));
    process.exit(2);
  }
}

function positive(name: string, text: string): number {
  const value = Number(text);
  if (value > 0) return value;
  console.error(`--${name} is a number above 0, not "${text}"`);
  process.exit(2);
}

function grouped(faults: readonly FaultOutcome[]): Map<string, FaultOutcome[]> {
  const groups = new Map<string, FaultOutcome[]>();
  for (const fault of faults) groups.set(fault.name, [...(groups.get(fault.name) ?? []), fault]);
  return groups;
}

function camelCase(name: string): string {
  return name.replace(/-(.)/g, (_, letter: string) => letter.toUpperCase());
}
