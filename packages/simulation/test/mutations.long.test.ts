/**
 * Each known mistake, brought back, is caught: a seed fails with the mutation, for its sake, and passes without.
 * The seed of the table is tried first. Where a change of the schedules has moved it, others are, up to
 * OTHER_SEEDS, and the one that was found is printed: write it into the table.
 */
import { MUTATIONS } from '@relevo/base/mutations';
import type { Mutation } from '@relevo/base/mutations';
import { runScenario } from '@relevo/simulation/scenarios';
import type { ScenarioName } from '@relevo/simulation/scenarios';
import { SimulationFailure } from '@relevo/simulation/world';
import { describe, expect, test } from 'vitest';

interface Caught {
  readonly mutation: Mutation;
  readonly scenario: ScenarioName;
  /** The first that is tried. */
  readonly seed: number;
  /** A part of what the failure says: it fails for the mistake's sake. */
  readonly says: RegExp;
}

const OTHER_SEEDS = 500;
const SEARCH_MS = 300_000;

/** Two leaders a term, two entries an index, or a voter that the leader takes for further than it is. */
const WRONG_VOTER = /K1|K2|all vote and have applied all/;

/** One line a mutation, sorted by name. */
const CAUGHT: readonly Caught[] = [
  { mutation: 'absent-is-deleted', scenario: 'names', seed: 1, says: /N1|P6/ },
  {
    mutation: 'any-proof-is-taken',
    scenario: 'forging-outsider',
    seed: 3,
    says: /an outsider was heard \((otherSecret|madeUp)/,
  },
  {
    mutation: 'callers-prove-nothing',
    scenario: 'forging-outsider',
    seed: 2,
    says: /an outsider was heard \(plain/,
  },
  {
    mutation: 'damage-reads-as-end',
    scenario: 'log-injuries',
    seed: 343,
    says: /nothing says why/,
  },
  {
    mutation: 'damage-untold',
    scenario: 'flipped-bits',
    seed: 1,
    says: /hears that what it sent to .* arrived damaged/,
  },
  { mutation: 'damage-unreported', scenario: 'damaged-restart', seed: 1, says: /are in sync/ },
  { mutation: 'failed-write-forgotten', scenario: 'log-injuries', seed: 3, says: /is trusted/ },
  {
    mutation: 'fenced-before-all-are-heard',
    scenario: 'damaged-restart',
    seed: 8,
    says: /leader -1/,
  },
  { mutation: 'follower-reports-unsynced', scenario: 'failover', seed: 2, says: /P6/ },
  { mutation: 'heartbeats-unconfirmed', scenario: 'stale-reads', seed: 1, says: /P7/ },
  {
    mutation: 'impossible-messages-are-taken',
    scenario: 'forging-outsider',
    seed: 1,
    says: /the quorum has ended/,
  },
  { mutation: 'long-names-as-they-are', scenario: 'names', seed: 2, says: /N1/ },
  {
    mutation: 'lost-learner-stays',
    scenario: 'damaged-voters',
    seed: 7,
    says: /all vote and have applied all/,
  },
  { mutation: 'missing-segment-passes', scenario: 'log-injuries', seed: 14, says: /it begins at/ },
  { mutation: 'no-eligible-leaders', scenario: 'damaged-restart', seed: 1, says: /leader -1/ },
  {
    mutation: 'nonces-come-again',
    scenario: 'forging-outsider',
    seed: 2,
    says: /an outsider was heard \(replayed/,
  },
  { mutation: 'older-disk-registers', scenario: 'older-disk', seed: 5, says: /L6/ },
  { mutation: 'older-voter-is-heard', scenario: 'damaged-voters', seed: 1, says: WRONG_VOTER },
  {
    mutation: 'only-segment-not-read',
    scenario: 'log-injuries',
    seed: 140,
    says: /its leader epoch is/,
  },
  {
    mutation: 'producer-id-given-twice',
    scenario: 'numbered-sends',
    seed: 2,
    says: /lost-write|inconsistent-offsets|producer \d+ .*sequence/,
  },
  {
    mutation: 'producer-id-to-come-taken',
    scenario: 'numbered-sends',
    seed: 1,
    says: /lost-write/,
  },
  {
    mutation: 'producers-expire-by-record-time',
    scenario: 'numbered-sends',
    seed: 4,
    says: /a repeat was told .*\(I2\)|must begin at 0/,
  },
  { mutation: 'quorum-among-partitions', scenario: 'names', seed: 4, says: /__cluster_metadata/ },
  { mutation: 'quorum-founded-without-all', scenario: 'damaged-voters', seed: 1, says: /K1/ },
  { mutation: 'reads-without-lease', scenario: 'stale-reads', seed: 1, says: /P7/ },
  {
    mutation: 'recovery-in-one-piece',
    scenario: 'large-logs',
    seed: 2,
    says: /a heartbeat of broker-2 was \d+ ms late/,
  },
  {
    mutation: 'recovery-start-not-durable',
    scenario: 'log-injuries',
    seed: 1538,
    says: /nothing was injured, yet/,
  },
  { mutation: 'refusals-unconfirmed', scenario: 'controller-answers', seed: 1, says: /K3/ },
  { mutation: 'registration-leaves-isr', scenario: 'damaged-restart', seed: 1, says: /leader -1/ },
  {
    mutation: 'segments-go-before-known',
    scenario: 'log-injuries',
    seed: 1,
    says: /nothing was injured, yet/,
  },
  {
    mutation: 'stored-batches-unchecked',
    scenario: 'flipped-bits',
    seed: 2,
    says: /BAD_CRC|L5/,
  },
  { mutation: 'stored-epochs-trusted', scenario: 'flipped-bits', seed: 6, says: /of epoch .*L5/ },
  { mutation: 'truncation-untold', scenario: 'truncations', seed: 3, says: /gone/ },
  { mutation: 'unfenced-unaware', scenario: 'stale-reads', seed: 41, says: /P7/ },
  {
    mutation: 'voter-keeps-identity-without-log',
    scenario: 'damaged-voters',
    seed: 3,
    says: /K1|K2/,
  },
  {
    mutation: 'voter-trusts-shortened-log',
    scenario: 'damaged-voters',
    seed: 1,
    says: WRONG_VOTER,
  },
  { mutation: 'watermark-below-min-isr', scenario: 'failover', seed: 152, says: /P6/ },
  {
    mutation: 'young-log-unsynced',
    scenario: 'log-injuries',
    seed: 13,
    says: /is lost|was synced/,
  },
];

describe('known mistakes are caught', () => {
  test('every mutation has a seed', () => {
    const named = CAUGHT.map(({ mutation }) => mutation);
    expect([...new Set(named)].sort()).toEqual(Object.keys(MUTATIONS).sort());
  });

  test.each(CAUGHT.map((row) => [row.mutation, row] as const))(
    '%s',
    async (mutation, row) => {
      const { scenario, seed, says } = row;
      const others = Array.from({ length: OTHER_SEEDS }, (_, index) => index + 1);
      for (const each of [seed, ...others]) {
        const said = await failureOf(row, each);
        if (said === undefined || !says.test(said)) continue;
        await runScenario(scenario, each);
        if (each !== seed) console.warn(`${mutation}: seed ${each} of ${scenario}, not ${seed}`);
        return;
      }
      expect.fail(`no seed of ${scenario} is caught by ${mutation} with ${String(says)}`);
    },
    SEARCH_MS,
  );
});

async function failureOf(
  { mutation, scenario }: Caught,
  seed: number,
): Promise<string | undefined> {
  try {
    await runScenario(scenario, seed, { mutation });
    return undefined;
  } catch (error) {
    if (!(error instanceof SimulationFailure)) throw error;
    return String(error);
  }
}
