/** More of them: `npm run simulate -- --scenario log-injuries --seeds 1000`. */
import { describe, expect, test } from 'vitest';
import { logInjuriesRun } from '@relevo/simulation/scenarios/log-injuries';

const SEEDS = 25;

describe('injured files of a log', () => {
  test('no loss passes in silence, and what is whole is not called damaged', async () => {
    let injuries = 0;
    let noticed = 0;
    for (let seed = 1; seed <= SEEDS; seed++) {
      const { unknown, failed } = await logInjuriesRun(seed);
      injuries += unknown;
      noticed += failed;
    }
    expect(injuries).toBeGreaterThan(SEEDS);
    expect(noticed).toBeGreaterThan(SEEDS / 2);
  });

  test('one seed takes one course', async () => {
    const { fingerprint } = await logInjuriesRun(1);
    expect((await logInjuriesRun(1)).fingerprint).toBe(fingerprint);
    expect((await logInjuriesRun(2)).fingerprint).not.toBe(fingerprint);
  });
});
