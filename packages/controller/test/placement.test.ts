import { placeReplicas } from '@relevo/controller/placement';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import type { BrokerId } from '@relevo/base/ids';
import type { BrokerImage, ClusterImage } from '@relevo/controller/image';
import { Cluster, id } from './cluster.ts';

const spread = (counts: Iterable<number>): number => {
  const all = [...counts];
  return Math.max(...all) - Math.min(...all);
};

const leadersOf = (image: ClusterImage): number[] =>
  [...image.brokers.keys()].map(
    (broker) =>
      [...image.topicsById.values()].flatMap((topic) =>
        topic.partitions.filter((partition) => partition.replicas[0] === broker),
      ).length,
  );

const live = (cluster: Cluster): BrokerImage[] => [...cluster.image.brokers.values()];

function cluster(racks: readonly string[]): Cluster {
  const made = new Cluster();
  racks.forEach((rack, broker) => {
    made.register(broker, { rack });
    made.unfence(broker);
  });
  return made;
}

describe('placement', () => {
  test('leaders and replicas are spread evenly, whatever is created', () => {
    const topics = fc.array(fc.record({ count: fc.integer({ min: 1, max: 20 }), seed: fc.nat() }), {
      maxLength: 8,
    });
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 7 }), topics, (brokers, wanted) => {
        const made = cluster(Array.from({ length: brokers }, () => ''));
        const replicationFactor = Math.min(3, brokers);
        wanted.forEach(({ count, seed }, number) => {
          const more = { partitions: count, replicationFactor, seed };
          const topic = made.create(`t${number}`, more);
          const own = live(made).map(
            (broker) => topic.partitions.filter((p) => p.replicas[0] === broker.id).length,
          );
          expect(spread(own)).toBeLessThanOrEqual(1);
          const replicas = live(made).map(
            (broker) => topic.partitions.filter((p) => p.replicas.includes(broker.id)).length,
          );
          // Leaders come first, so replicas may be one further apart.
          expect(spread(replicas)).toBeLessThanOrEqual(2);
        });
        expect(spread(leadersOf(made.image))).toBeLessThanOrEqual(1);
      }),
    );
  });

  test('when a broker dies, its leaderships go to all the others alike', () => {
    const made = cluster(['', '', '']);
    made.create('t', { partitions: 300 });
    made.fence(0);
    const now = [1, 2].map(
      (broker) => made.topic('t').partitions.filter((p) => p.leader === broker).length,
    );
    expect(now).toEqual([150, 150]);
  });

  test('replicas go to as many racks as there are', () => {
    const made = cluster(['a', 'a', 'b', 'b', 'c', 'c']);
    made.create('t', { partitions: 60 });
    const rackOf = (broker: BrokerId): string => made.image.brokers.get(broker)?.rack ?? '';
    for (const { replicas } of made.topic('t').partitions) {
      expect(new Set(replicas.map(rackOf)).size).toBe(3);
    }
    expect(spread(leadersOf(made.image))).toBe(0);
  });

  test('a broker that joined is not given all of the next topic', () => {
    const made = cluster(['', '', '']);
    made.create('t', { partitions: 30 });
    made.register(3);
    made.unfence(3);
    const next = made.create('u', { partitions: 8 });
    expect(next.partitions.filter((p) => p.leader === id(3)).length).toBe(2);
    const single = made.create('v', { partitions: 1 });
    expect(single.partitions[0]?.leader).toBe(3);
  });

  test('fenced and stopping brokers are given nothing', () => {
    const made = cluster(['', '', '', '', '']);
    made.fence(0);
    made.shutDown(1);
    made.create('t', { partitions: 9 });
    for (const { replicas } of made.topic('t').partitions) {
      expect([...replicas].toSorted((a, b) => a - b)).toEqual([2, 3, 4]);
    }
  });

  test('the same image and seed give the same placement; seeds differ', () => {
    const made = cluster(['', '', '', '', '']);
    const place = (seed: number): BrokerId[][] =>
      placeReplicas(made.image, {
        count: 1,
        replicationFactor: 3,
        brokers: live(made),
        existing: [],
        seed,
      });
    expect(place(7)).toEqual(place(7));
    const seen = new Set(Array.from({ length: 50 }, (_, seed) => JSON.stringify(place(seed))));
    expect(seen.size).toBeGreaterThan(10);
  });
});
