/**
 * Runs the cluster in a simulated world, one seed after the other.
 *
 *     npm run simulate -- --seeds 100 [--from 1] [--bail] [--json FILE]
 *     npm run simulate -- --seed 42 [--verbose]
 *     npm run simulate -- --scenario NAME --mutation NAME --seeds 100 [--bail]
 *
 * Exit code 1 when a seed fails.
 */
import { execFileSync } from 'node:child_process';
import { writeFileSync } from 'node:fs';
import { parseArgs } from 'node:util';
import { MUTATIONS } from '@relevo/base/mutations';
import type { Mutation } from '@relevo/base/mutations';
import { coverageOf, runSeeds } from '@relevo/simulation/runner';
import type { SeedOutcome, Summary } from '@relevo/simulation/runner';
import { SCENARIOS, runScenario } from '@relevo/simulation/scenarios';
import type { ScenarioName } from '@relevo/simulation/scenarios';
import type { SimulationFailure } from '@relevo/simulation/world';
import { printFields } from '@relevo/simulation/world';

const hostNowMs = performance.now.bind(performance);
const hostCpuMs = (): number => {
  const { user, system } = process.cpuUsage();
  return (user + system) / 1000;
};
/** Every so-manieth seed is run twice. */
const REPEAT_EVERY = 10;
/** Lines of the transcript that a failure prints. */
const TRANSCRIPT_LINES = 120;

const { values } = parseArgs({
  options: {
    seeds: { type: 'string', default: '100' },
    from: { type: 'string', default: '1' },
    seed: { type: 'string' },
    scenario: { type: 'string', default: 'failover' },
    mutation: { type: 'string' },
    json: { type: 'string' },
    bail: { type: 'boolean', default: false },
    verbose: { type: 'boolean', default: false },
  },
});

/** The value of an option that takes one of some names. */
function oneOf<Name extends string>(
  option: string,
  names: Readonly<Record<Name, unknown>>,
  given: string,
): Name {
  const name = (Object.keys(names) as Name[]).find((each) => each === given);
  if (name !== undefined) return name;
  const known = Object.keys(names).join(', ');
  process.stderr.write(`--${option} ${given} is not known; known are: ${known}\n`);
  process.exit(2);
}

const scenario: ScenarioName = oneOf('scenario', SCENARIOS, values.scenario);
const mutation: Mutation | undefined =
  values.mutation === undefined ? undefined : oneOf('mutation', MUTATIONS, values.mutation);

function commit(): string {
  try {
    return execFileSync('git', ['rev-parse', '--short', 'HEAD'], { encoding: 'utf8' }).trim();
  } catch {
    return 'unknown (no git here)';
  }
}

/** The options of this run that a replay needs too. */
const replayed = (): string =>
  [
    ...(values.scenario === 'failover' ? [] : [`--scenario ${values.scenario} `]),
    ...(values.mutation === undefined ? [] : [`--mutation ${values.mutation} `]),
  ].join('');

function printFailure(seed: number | string, failure: SimulationFailure): void {
  const lines = [
    '',
    `seed ${seed} FAILED: ${failure.message}`,
    ...failure.transcript.slice(-TRANSCRIPT_LINES),
    `${failure.cause instanceof Error ? (failure.cause.stack ?? '') : ''}`,
    `seed ${seed}, commit ${commit()}, Node.js ${process.version}`,
    `replay: npm run simulate -- ${replayed()}--seed ${seed}`,
    'keep:   add the seed to packages/simulation/test/seeds.json',
    '',
  ];
  process.stdout.write(`${lines.join('\n')}\n`);
}

const outcomes: SeedOutcome[] = [];

function onSeed(outcome: SeedOutcome): void {
  const { seed, realMs, figures, failure } = outcome;
  outcomes.push(outcome);
  if (failure !== undefined) printFailure(seed, failure);
  if (figures === undefined) return;
  const { acknowledged, failoverMs, wholeMs, events, virtualMs, fingerprint } = figures;
  const ms = (list: readonly number[]): string => list.map((one) => one.toFixed(0)).join(' ');
  process.stdout.write(
    `seed ${String(seed).padStart(4)}  ${String(acknowledged).padStart(6)} acked` +
      `  failover ms ${ms(failoverMs).padEnd(20)}  whole ms ${ms(wholeMs).padEnd(16)}` +
      `  ${String(events).padStart(7)} events  ${(virtualMs / 1000).toFixed(1)} s in ` +
      `${(realMs / 1000).toFixed(2)} s  ${fingerprint}\n`,
  );
}

function printSummary(summary: Summary): void {
  const rows = Object.entries(summary).map(([name, value]: [string, number]) => {
    const shown = Number.isInteger(value) ? String(value) : value.toFixed(1);
    return `  ${name.padEnd(18)} ${shown.padStart(12)}`;
  });
  process.stdout.write(`\n${rows.join('\n')}\n`);
}

/** Prints, for each thing that the scenario counts, in how many passed runs it came up, and how often in all. */
function printCoverage(): void {
  const coverage = coverageOf(outcomes);
  if (coverage.size === 0) return;
  process.stdout.write(`\n${'came up'.padEnd(90)}    runs    times\n`);
  for (const [name, { runs, times }] of coverage) {
    const row = [name.slice(0, 90).padEnd(90), String(runs).padStart(7), String(times).padStart(8)];
    process.stdout.write(`${row.join(' ')}\n`);
  }
}

/** One seed, every log line as it comes. */
async function verboseRun(seed: string): Promise<void> {
  await runScenario(scenario, seed, {
    mutation,
    onLog: ({ timeMs, process: name, level, event, fields }) => {
      const time = timeMs.toFixed(3).padStart(11);
      process.stdout.write(`${time} ${name.padEnd(10)} ${level} ${event} ${printFields(fields)}\n`);
    },
  });
}

const first = Number(values.from);
const seeds =
  values.seed === undefined
    ? Array.from({ length: Number(values.seeds) }, (_, index) => first + index)
    : [values.seed];
if (values.verbose && values.seed !== undefined) {
  await verboseRun(values.seed).catch(() => undefined);
}
const summary = await runSeeds({
  seeds,
  scenario,
  mutation,
  repeatEvery: REPEAT_EVERY,
  onSeed,
  hostNowMs,
  hostCpuMs,
  bail: values.bail,
});
printCoverage();
printSummary(summary);
if (values.json !== undefined) writeFileSync(values.json, `${JSON.stringify(summary, null, 2)}\n`);
process.exitCode = summary.failedSeeds > 0 ? 1 : 0;
