import { readFileSync } from 'node:fs';
import { describe, expect, test } from 'vitest';
import { failoverRun } from '@relevo/simulation/failover-run';
import { runScenario } from '@relevo/simulation/scenarios';
import type { ScenarioName } from '@relevo/simulation/scenarios';

interface KeptSeed {
  readonly scenario: ScenarioName;
  readonly seed: number;
  readonly why: string;
}

const kept = JSON.parse(
  readFileSync(new URL('./seeds.json', import.meta.url), 'utf8'),
) as readonly KeptSeed[];

describe('the production cluster in the simulated world', () => {
  const cases = kept.map(({ scenario, seed, why }) => [scenario, seed, why] as const);
  test.each(cases)('%s, seed %i: %s', async (scenario, seed) => {
    const figures = await runScenario(scenario, seed);
    expect(figures.acknowledged).toBeGreaterThan(0);
  });

  test('one seed takes one course', async () => {
    const one = await failoverRun(1);
    const two = await failoverRun(1);
    expect(two.fingerprint).toBe(one.fingerprint);
    expect((await failoverRun(2)).fingerprint).not.toBe(one.fingerprint);
    expect(one.failoverMs.length).toBeGreaterThan(0);
  });
});
