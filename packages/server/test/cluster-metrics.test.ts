/** What the active controller measures of the cluster, and a voter of its quorum. */
import { brokerId } from '@relevo/base/ids';
import { describe, expect, test } from 'vitest';
import { ControllerWorld } from './controller-world.ts';
import { QuorumWorld } from './quorum/quorum-world.ts';

const ids = (...values: number[]): ReturnType<typeof brokerId>[] => values.map(brokerId);

const FIGURES = [
  'brokers',
  'brokers_fenced',
  'topics',
  'partitions',
  'offline_partitions',
  'under_replicated_partitions',
  'under_min_isr_partitions',
  'not_preferred_partitions',
];

/** In the order of FIGURES. */
const figures = (cluster: ControllerWorld, id: number): (number | undefined)[] =>
  FIGURES.map((figure) => {
    const name = `relevo_controller_${figure}`;
    return cluster.node(id).process.metrics.measured(name).get(name);
  });

describe('the cluster, as the active controller measures it', () => {
  test('a dead broker shows as fenced, offline and under-replicated, until it is back', async () => {
    const cluster = new ControllerWorld({ controllers: [1, 2] });
    await cluster.run(async () => {
      await cluster.start([1, 2, 3]);
      await cluster.create('whole', { assignment: [ids(3, 1, 2), ids(1, 2, 3)] });
      await cluster.create('single', { assignment: [ids(3)] });
      await cluster.create('strict', {
        assignment: [ids(1, 3)],
        config: new Map([['min.insync.replicas', '2']]),
      });
      const active = cluster.active().id;
      const standby = active === 1 ? 2 : 1;
      expect(figures(cluster, active)).toEqual([3, 0, 3, 4, 0, 0, 0, 0]);
      expect(figures(cluster, standby)).toEqual([0, 0, 0, 0, 0, 0, 0, 0]);

      await cluster.kill(3);
      await cluster.until('3 is fenced', () => cluster.broker(3)?.fenced === true);
      // The last in sync stays in the in-sync set of a partition that it alone can lead.
      expect(figures(cluster, active)).toEqual([3, 1, 3, 4, 1, 3, 1, 2]);

      await cluster.boot([3]);
      await cluster.until('3 serves', () => cluster.broker(3)?.fenced === false);
      expect(figures(cluster, active).slice(0, 5)).toEqual([3, 0, 3, 4, 0]);
    });
  });

  test('is 0 on a controller that was deposed', async () => {
    const cluster = new ControllerWorld({ controllers: [1, 2] });
    await cluster.run(async () => {
      await cluster.start([1, 2, 3]);
      const before = cluster.active().id;
      const after = before === 1 ? 2 : 1;
      expect(figures(cluster, before)[0]).toBe(3);
      cluster.quorum.lead(brokerId(after));
      await cluster.until(
        'another is active',
        () => cluster.node(after).service?.isActive() === true,
      );
      expect(figures(cluster, before)[0]).toBe(0);
      expect(figures(cluster, after)[0]).toBe(3);
    });
  });
});

test('a voter tells who leads, and the leader how far behind and how silent the others are', async () => {
  const it = new QuorumWorld([1, 2, 3]);
  await it.world.run(async () => {
    const measured = (id: number, name: string): Map<string, number> =>
      it.voter(id).process.metrics.measured(`relevo_quorum_${name}`);
    const one = (id: number, name: string): number | undefined =>
      measured(id, name).get(`relevo_quorum_${name}`);
    await it.boot(1);
    expect(one(1, 'known_leader')).toBe(-1);
    expect(one(1, 'voters')).toBe(3);
    await it.boot(2, 3);
    const { id } = await it.untilLed();
    const dead = id === 3 ? 2 : 3;
    await it.until('all know it', () =>
      [1, 2, 3].every((each) => one(each, 'known_leader') === id),
    );
    expect(measured(dead, 'voter_lag_entries').size).toBe(0);

    await it.voter(dead).process.kill({ unsynced: 'keep' });
    for (const text of ['a', 'b', 'c']) await it.propose(it.voter(id), text);
    await it.world.sleep(1000);
    const lags = measured(id, 'voter_lag_entries');
    expect(new Set(lags.values())).toEqual(new Set([0, 3]));
    expect(lags.get(`relevo_quorum_voter_lag_entries{voter="${dead}"}`)).toBe(3);
    const silence = measured(id, 'voter_silent_seconds');
    expect(silence.get(`relevo_quorum_voter_silent_seconds{voter="${dead}"}`)).toBeGreaterThan(0.9);
    expect(Math.min(...silence.values())).toBeLessThan(0.5);
    expect(one(id, 'commit_index')).toBe(it.voter(id).live.status().commitIndex);
  });
});
