/** Runs many seeds, holds a sample of them against themselves, and sums up. */
import type { Mutation } from '@relevo/base/mutations';
import type { RunFigures } from './failover-run.ts';
import { runScenario } from './scenarios.ts';
import type { ScenarioName } from './scenarios.ts';
import { SimulationFailure } from './world.ts';

export interface RunnerOptions {
  readonly seeds: readonly (number | string)[];
  readonly scenario: ScenarioName;
  /** A mistake to bring back in every run. */
  readonly mutation?: Mutation | undefined;
  /** Every so-manieth seed is run twice and must take the same course; 0: none. */
  readonly repeatEvery: number;
  readonly onSeed: (outcome: SeedOutcome) => void;
  readonly hostNowMs: () => number;
  readonly hostCpuMs: () => number;
  /** Stop at the first seed that fails. */
  readonly bail: boolean;
}

export interface SeedOutcome {
  readonly seed: number | string;
  readonly realMs: number;
  /** Of the processor, for this run alone. */
  readonly cpuMs: number;
  readonly figures: RunFigures | undefined;
  readonly failure: SimulationFailure | undefined;
}

/** One flat object, units in the names: what `--json` writes. */
export interface Summary {
  readonly seeds: number;
  readonly failedSeeds: number;
  readonly repeatedSeeds: number;
  readonly acked: number;
  readonly unknown: number;
  readonly failed: number;
  readonly failovers: number;
  readonly failoverMsP50: number;
  readonly failoverMsMax: number;
  readonly wholeMsP50: number;
  readonly wholeMsMax: number;
  readonly elections: number;
  readonly events: number;
  readonly virtualSeconds: number;
  readonly realSeconds: number;
  readonly cpuSeconds: number;
  readonly virtualPerCpu: number;
  readonly eventsPerCpuSecond: number;
}

/** For each thing that is counted: in how many runs it came up, and how often in all. */
export type Coverage = ReadonlyMap<string, { readonly runs: number; readonly times: number }>;

export async function runSeeds(options: RunnerOptions): Promise<Summary> {
  const outcomes: SeedOutcome[] = [];
  let repeated = 0;
  for (const [at, seed] of options.seeds.entries()) {
    let outcome = await runOne(seed, options);
    if (options.repeatEvery > 0 && at % options.repeatEvery === 0) {
      repeated++;
      outcome = await repeat(outcome, options);
    }
    outcomes.push(outcome);
    options.onSeed(outcome);
    if (options.bail && outcome.failure !== undefined) break;
  }
  return summarize(outcomes, repeated);
}

type OneRun = Pick<RunnerOptions, 'scenario' | 'mutation' | 'hostNowMs' | 'hostCpuMs'>;

async function runOne(seed: number | string, run: OneRun): Promise<SeedOutcome> {
  const startedMs = run.hostNowMs();
  const startedCpuMs = run.hostCpuMs();
  const outcome = await runScenario(run.scenario, seed, { mutation: run.mutation }).then(
    (figures) => ({ figures, failure: undefined }),
    (error: unknown) => {
      if (!(error instanceof SimulationFailure)) throw error;
      return { figures: undefined, failure: error };
    },
  );
  const cpuMs = run.hostCpuMs() - startedCpuMs;
  return { seed, realMs: run.hostNowMs() - startedMs, cpuMs, ...outcome };
}

/** The outcome, or a failure where a second run takes another course than the first. */
async function repeat(first: SeedOutcome, run: OneRun): Promise<SeedOutcome> {
  const second = await runOne(first.seed, run);
  const course = ({ figures, failure }: SeedOutcome): string =>
    figures?.fingerprint ?? `${failure?.message}`;
  if (course(first) === course(second)) return first;
  const cause = new Error(
    `the same seed took two courses: ${course(first)} and ${course(second)}; something reaches ` +
      'around the ports, or keeps state from one run to the next',
  );
  const facts = { seed: String(first.seed), timeMs: 0, transcript: [] };
  return { ...first, failure: new SimulationFailure(cause, facts) };
}

export function coverageOf(outcomes: readonly SeedOutcome[]): Coverage {
  const all = new Map<string, { runs: number; times: number }>();
  for (const { figures } of outcomes) {
    for (const [name, times] of Object.entries(figures?.coverage ?? {})) {
      const entry = all.get(name) ?? { runs: 0, times: 0 };
      all.set(name, entry);
      entry.times += times;
      if (times > 0) entry.runs++;
    }
  }
  return new Map([...all].sort(([a], [b]) => (a < b ? -1 : 1)));
}

const percentile = (sorted: readonly number[], share: number): number =>
  sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))] ?? 0;

function summarize(outcomes: readonly SeedOutcome[], repeatedSeeds: number): Summary {
  const all = outcomes.flatMap(({ figures }) => (figures === undefined ? [] : [figures]));
  const sum = (pick: (figures: RunFigures) => number): number =>
    all.reduce((total, figures) => total + pick(figures), 0);
  const sorted = (pick: (figures: RunFigures) => readonly number[]): number[] =>
    all.flatMap(pick).sort((a, b) => a - b);
  const failoverMs = sorted((figures) => figures.failoverMs);
  const wholeMs = sorted((figures) => figures.wholeMs);
  const virtualSeconds = sum((figures) => figures.virtualMs) / 1000;
  const realSeconds = outcomes.reduce((total, { realMs }) => total + realMs, 0) / 1000;
  const cpuSeconds = outcomes.reduce((total, { cpuMs }) => total + cpuMs, 0) / 1000;
  const events = sum((figures) => figures.events);
  return {
    seeds: outcomes.length,
    failedSeeds: outcomes.filter(({ failure }) => failure !== undefined).length,
    repeatedSeeds,
    acked: sum((figures) => figures.acknowledged),
    unknown: sum((figures) => figures.unknown),
    failed: sum((figures) => figures.failed),
    failovers: failoverMs.length,
    failoverMsP50: percentile(failoverMs, 0.5),
    failoverMsMax: failoverMs.at(-1) ?? 0,
    wholeMsP50: percentile(wholeMs, 0.5),
    wholeMsMax: wholeMs.at(-1) ?? 0,
    elections: sum((figures) => figures.elections),
    events,
    virtualSeconds,
    realSeconds,
    cpuSeconds,
    virtualPerCpu: virtualSeconds / Math.max(cpuSeconds, 0.001),
    eventsPerCpuSecond: events / Math.max(cpuSeconds, 0.001),
  };
}
