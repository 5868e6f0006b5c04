/**
 * The whole cluster loses power, is killed, or stops one broker after the other, and replicas come back damaged, one of each partition.
 * Whichever broker registers first or last, a healthy replica leads, the damaged one is copied anew, and
 * nothing that was acknowledged is lost.
 */
import { failoverRun } from '../failover-run.ts';
import type { RunFigures, RunOptions } from '../failover-run.ts';
import { drawPlan } from '../plan.ts';
import type { FaultPlan } from '../plan.ts';
import { World } from '../world.ts';

export function damagedRestartRun(
  seed: number | string,
  options: RunOptions = {},
): Promise<RunFigures> {
  const prng = new World({ seed }).prng.split('plan');
  const round = (): FaultPlan[] => [
    {
      kind: prng.pick(['damagedRestart', 'damagedRestart', 'stoppedRestart']),
      trigger: 'time',
      afterMs: prng.between(300, 2_000),
      lastsMs: prng.pick([0, 100, 2_000]),
    },
  ];
  const rounds = Array.from({ length: prng.integer(1, 2) }, round);
  return failoverRun(seed, { ...options, plan: { ...drawPlan(prng), rounds } });
}
