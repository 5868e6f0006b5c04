/** The scenarios that `npm run simulate -- --scenario NAME` can run, each for any seed. */
import { withMutation } from '@relevo/base/mutations';
import type { Mutation } from '@relevo/base/mutations';
import { failoverRun } from './failover-run.ts';
import type { RunFigures, RunOptions } from './failover-run.ts';
import { controllerAnswersRun } from './scenarios/controller-answers.ts';
import { damagedRestartRun } from './scenarios/damaged-restart.ts';
import { damagedVotersRun } from './scenarios/damaged-voters.ts';
import { flippedBitsRun } from './scenarios/flipped-bits.ts';
import { forgingOutsiderRun } from './scenarios/forging-outsider.ts';
import { hostileRun } from './scenarios/hostile.ts';
import { largeLogsRun } from './scenarios/large-logs.ts';
import { logInjuriesRun } from './scenarios/log-injuries.ts';
import { namesRun } from './scenarios/names.ts';
import { numberedSendsRun } from './scenarios/numbered-sends.ts';
import { olderDiskRun } from './scenarios/older-disk.ts';
import { staleReadsRun } from './scenarios/stale-reads.ts';
import { truncationsRun } from './scenarios/truncations.ts';

export type Scenario = (seed: number | string, options?: RunOptions) => Promise<RunFigures>;

/** `failover` is the swarm: all kinds of faults under load. The others go for one kind. */
export type ScenarioName =
  | 'controller-answers'
  | 'damaged-restart'
  | 'damaged-voters'
  | 'failover'
  | 'flipped-bits'
  | 'forging-outsider'
  | 'hostile'
  | 'large-logs'
  | 'log-injuries'
  | 'names'
  | 'numbered-sends'
  | 'older-disk'
  | 'stale-reads'
  | 'truncations';

export const SCENARIOS: Readonly<Record<ScenarioName, Scenario>> = {
  'controller-answers': controllerAnswersRun,
  'damaged-restart': damagedRestartRun,
  'damaged-voters': damagedVotersRun,
  failover: failoverRun,
  'flipped-bits': flippedBitsRun,
  'forging-outsider': forgingOutsiderRun,
  hostile: hostileRun,
  'large-logs': largeLogsRun,
  'log-injuries': logInjuriesRun,
  names: namesRun,
  'numbered-sends': numberedSendsRun,
  'older-disk': olderDiskRun,
  'stale-reads': staleReadsRun,
  truncations: truncationsRun,
};

/** Rejects with a SimulationFailure that tells what went wrong. */
export const runScenario = (
  name: ScenarioName,
  seed: number | string,
  options: RunOptions & { readonly mutation?: Mutation | undefined } = {},
): Promise<RunFigures> => {
  const scenario = SCENARIOS[name];
  return withMutation(options.mutation, () => scenario(seed, options));
};
