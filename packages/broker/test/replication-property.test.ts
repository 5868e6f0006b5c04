import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { ToyCluster } from './toy-cluster.ts';

type Step = (cluster: ToyCluster, a: number, b: number) => void;

/** One thing that may happen, and how often; `a` and `b` choose whom and how. */
const WEIGHTED: readonly (readonly [number, Step])[] = [
  [3, (cluster, a) => cluster.append(a)],
  [6, (cluster, a) => cluster.append(cluster.truth.leader > 0 ? cluster.truth.leader : a)],
  [8, (cluster, a) => cluster.sync(a)],
  [4, (cluster, a) => cluster.connect(a)],
  [8, (cluster, a) => cluster.deliverToLeader(a)],
  [6, (cluster, a) => cluster.push(a)],
  [8, (cluster, a) => cluster.deliverToFollower(a)],
  [6, (cluster, a) => cluster.applyImage(a)],
  [4, (cluster, a) => cluster.propose(a)],
  [4, (cluster, a, b) => cluster.decide(a, b > 1)],
  [4, (cluster, a, b) => cluster.passTime(a * b * 10)],
  [2, (cluster, a) => cluster.checkpointWatermark(a)],
  [3, (cluster, a) => cluster.restart(a)],
  [4, (cluster, a) => cluster.unfence(a)],
  [1, (cluster, a, b) => (b === 0 ? cluster.damage(a) : undefined)],
  [3, (cluster, a) => cluster.report(a)],
  [10, (cluster, a) => flow(cluster, a)],
  [1, (cluster, a, b) => (b < 2 ? cluster.disconnect(a) : undefined)],
  [1, (cluster, a, b) => (b === 0 ? cluster.fence(a) : undefined)],
  [1, (cluster, a, b) => (b < 2 ? cluster.moveLeader(a) : undefined)],
  [1, (cluster, a, b) => (b < 3 ? cluster.crash(a, b === 1) : undefined)],
];
const STEPS: readonly Step[] = WEIGHTED.flatMap(([weight, step]) =>
  Array.from({ length: weight }, () => step),
);

const schedule = fc.array(
  fc.tuple(fc.nat(STEPS.length - 1), fc.integer({ min: 1, max: 3 }), fc.nat(5)),
  { minLength: 200, maxLength: 600, size: 'max' },
);

describe('three replicas under any schedule', () => {
  test('keep P1 to P6', () => {
    const total = { acked: 0, elections: 0, truncations: 0, shrinks: 0, grows: 0 };
    fc.assert(
      fc.property(schedule, (steps) => {
        const cluster = new ToyCluster();
        for (const [step, a, b] of steps) {
          STEPS[step]?.(cluster, a, b);
          cluster.check();
        }
        for (const key of Object.keys(total) as (keyof typeof total)[]) {
          total[key] += cluster.counts[key];
        }
      }),
      { numRuns: 600, seed: 20261121 },
    );
    // A schedule generator that never gets anywhere proves nothing.
    expect(total.acked).toBeGreaterThan(300);
    expect(total.elections).toBeGreaterThan(300);
    expect(total.truncations).toBeGreaterThan(10);
    expect(total.shrinks).toBeGreaterThan(10);
    expect(total.grows).toBeGreaterThan(10);
  });

  test('acknowledge everything once the faults end', () => {
    fc.assert(
      fc.property(schedule, (steps) => {
        const cluster = new ToyCluster();
        for (const [step, a, b] of steps) STEPS[step]?.(cluster, a, b);
        heal(cluster);
        const before = cluster.counts.acked;
        cluster.append(cluster.truth.leader);
        for (let round = 0; round < 60 && cluster.counts.acked === before; round++) turn(cluster);
        expect(cluster.counts.acked, describeCluster(cluster)).toBeGreaterThan(before);
        expect(cluster.truth.isr).toHaveLength(3);
      }),
      { numRuns: 150, seed: 7 },
    );
  });
});

function heal(cluster: ToyCluster): void {
  for (const { id, epoch, alive } of cluster.brokers) {
    // Whoever was cut off or restarted dials again, and a heartbeat unfences it.
    if (!alive || cluster.truth.brokers.get(id)?.epoch !== epoch) cluster.restart(id);
    cluster.unfence(id);
  }
  for (let round = 0; round < 200; round++) turn(cluster);
}

function turn(cluster: ToyCluster): void {
  cluster.passTime(300);
  for (const { id } of cluster.brokers) {
    while (cluster.images.at(-1) !== cluster.broker(id).image) cluster.applyImage(id);
    cluster.report(id);
    flow(cluster, id);
    cluster.propose(id);
    cluster.decide(0, true);
  }
}

/** What happens by itself between a follower and its leader where nothing disturbs it. */
function flow(cluster: ToyCluster, id: number): void {
  cluster.connect(id);
  cluster.sync(id);
  for (let message = 0; message < 4; message++) cluster.deliverToLeader(id);
  cluster.push(id);
  for (let message = 0; message < 4; message++) cluster.deliverToFollower(id);
}

const describeCluster = (cluster: ToyCluster): string =>
  JSON.stringify({
    truth: { ...cluster.truth, brokers: [...cluster.truth.brokers] },
    brokers: cluster.brokers.map(({ id, follower, leader, log, link }) => ({
      id,
      phase: follower?.phase,
      isr: leader?.isr,
      pending: leader?.pendingProposal,
      highWatermark: leader?.highWatermark,
      end: log.logEndOffset,
      synced: log.syncedEnd,
      connected: link !== undefined,
    })),
  });
