/** From what was seen to what it means: no I/O, no clock. */
import type { Facts } from './facts.ts';
import type { Finding } from './findings.ts';
import { judgeClusterId, judgeController, judgePartitions, judgeQuorum } from './judge-cluster.ts';
import { judgeListeners, judgeSecret } from './judge-listeners.ts';
import { judgeBrokers, judgeClocks, judgeRoundTrips, judgeVersions } from './judge-nodes.ts';
import { judgeAdvertised, judgeGiven, judgeNames } from './judge-addresses.ts';

export const judge = (facts: Facts): readonly Finding[] => [
  ...judgeGiven(facts),
  ...judgeClusterId(facts),
  ...judgeAdvertised(facts),
  ...judgeNames(facts),
  ...judgeBrokers(facts),
  ...judgeVersions(facts),
  ...judgeClocks(facts),
  ...judgeQuorum(facts),
  ...judgeController(facts),
  ...judgePartitions(facts),
  ...judgeListeners(facts),
  ...judgeSecret(facts),
  ...judgeRoundTrips(facts),
];
