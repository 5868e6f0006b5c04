import { readFileSync } from 'node:fs';
import { describe, expect, test } from 'vitest';
import { failoverRun } from '@relevo/simulation/failover-run';

interface KeptSeed {
  readonly seed: number;
  readonly why: string;
}

const kept = JSON.parse(
  readFileSync(new URL('./seeds.json', import.meta.url), 'utf8'),
) as readonly KeptSeed[];

describe('the production cluster in the simulated world', () => {
  test.each(kept.map(({ seed, why }) => [seed, why]))('seed %i: %s', async (seed) => {
    const figures = await failoverRun(seed);
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
