/** Whatever is asked in whatever order, the invariants hold, and all nodes come to the same image. */
import { logIndex, term } from '@relevo/base/ids';
import { RelevoError } from '@relevo/base/errors';
import { EMPTY_IMAGE } from '@relevo/controller/image';
import { imageHash } from '@relevo/controller/image-hash';
import { replay } from '@relevo/controller/replay';
import { imageFromRecords, imageToRecords } from '@relevo/controller/snapshot';
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { Cluster, creation, ids, topicId } from './cluster.ts';

type Step = (cluster: Cluster, number: number) => void;

const BROKERS = [1, 2, 3, 4];
const TOPICS = ['a', 'b', 'c'];
const broker = fc.constantFrom(...BROKERS);
const topic = fc.constantFrom(...TOPICS);

const known = (cluster: Cluster, id: number): boolean =>
  [...cluster.image.brokers.keys()].some((brokerId) => brokerId === id);

const step: fc.Arbitrary<Step> = fc.oneof(
  broker.map((id): Step => (cluster) => {
    cluster.register(id);
  }),
  fc
    .record({ id: broker, wiped: fc.boolean(), lost: fc.boolean() })
    .map(({ id, wiped, lost }): Step => (cluster, number) => {
      cluster.register(id, {
        incarnationId: `${id} ${number}`,
        directoryId: wiped ? `disk ${number}` : `disk of ${id}`,
        predecessorGone: true,
        nothingLost: !lost,
      });
    }),
  fc
    .record({ id: broker, what: fc.constantFrom('unfence', 'fence', 'shutDown') })
    .map(({ id, what }): Step => (cluster) => {
      if (!known(cluster, id)) return;
      if (what === 'unfence') cluster.unfence(id);
      else if (what === 'fence') cluster.fence(id);
      else cluster.shutDown(id);
    }),
  fc
    .record({
      name: topic,
      partitions: fc.integer({ min: 1, max: 4 }),
      factor: fc.integer({ min: 1, max: 4 }),
    })
    .map(({ name, partitions, factor }): Step => (cluster, number) => {
      cluster.run(
        creation(name, number + 1000, { partitions, replicationFactor: factor, seed: number }),
      );
    }),
  topic.map((name): Step => (cluster) => {
    cluster.run({ kind: 'deleteTopic', name });
  }),
  fc
    .record({ name: topic, seed: fc.nat(), more: fc.integer({ min: 1, max: 3 }) })
    .map(({ name, seed, more }): Step => (cluster) => {
      const partitions = (cluster.image.topicsByName.get(name)?.partitions.length ?? 0) + more;
      cluster.run({ kind: 'createPartitions', topic: name, partitions, seed });
    }),
  fc.record({ name: topic, unclean: fc.boolean() }).map(({ name, unclean }): Step => (cluster) => {
    const set = new Map([['unclean.leader.election.enable', String(unclean)]]);
    cluster.run({ kind: 'alterTopicConfig', topic: name, set, unset: [] });
  }),
  fc
    .record({ name: topic, isr: fc.subarray(BROKERS), off: fc.constantFrom(0, 0, 0, -1) })
    .map(({ name, isr, off }): Step => (cluster) => {
      const partition = cluster.image.topicsByName.get(name)?.partitions[0];
      if (partition === undefined || partition.leader < 0) return;
      const before = cluster.partition(name);
      const error = cluster.propose(name, isr, { partitionEpoch: off });
      if (error !== 'NONE' && error !== 'NEW_LEADER_ELECTED') {
        expect(cluster.partition(name)).toBe(before);
      }
    }),
  fc.constant<Step>((cluster) => {
    cluster.run({ kind: 'electPreferred', topic: '', partitions: [] });
  }),
  fc.constant<Step>((cluster) => {
    cluster.run({ kind: 'activate', clusterId: 'test' });
  }),
  broker.map((id): Step => (cluster) => {
    if (known(cluster, id)) cluster.run({ kind: 'allocateProducerIds', ...cluster.named(id) });
  }),
);

function runAll(steps: readonly Step[]): Cluster {
  const cluster = new Cluster().start(1, 2, 3);
  steps.forEach((take, number) => {
    try {
      take(cluster, number);
    } catch (error) {
      if (!(error instanceof RelevoError)) throw error;
    }
  });
  return cluster;
}

const steps = fc.array(step, { minLength: 1, maxLength: 60, size: 'max' });

test('after any sequence of commands the invariants hold, and epochs never fell', () => {
  // `Cluster.apply` checks both after each entry.
  fc.assert(
    fc.property(steps, (taken) => {
      runAll(taken);
    }),
    { numRuns: 300 },
  );
});

test('two nodes that replay the same records hold the same image, entry by entry or all at once', () => {
  fc.assert(
    fc.property(steps, fc.nat({ max: 5 }), (taken, joined) => {
      const { image, log } = runAll(taken);
      let one = EMPTY_IMAGE;
      log.forEach((records, at) => {
        one = replay(one, records, { index: logIndex(at + 1), term: term(1) }).image;
      });
      let other = EMPTY_IMAGE;
      for (let at = 0; at < log.length; at += joined + 1) {
        const group = log.slice(at, at + joined + 1);
        const end = { index: logIndex(at + group.length), term: term(1) };
        other = replay(other, group.flat(), end).image;
      }
      expect(imageHash(one)).toBe(imageHash(image));
      expect(imageHash(other)).toBe(imageHash(image));
      expect(imageToRecords(other)).toEqual(imageToRecords(image));
    }),
    { numRuns: 100 },
  );
});

test('a snapshot and what follows give the same image as the whole log', () => {
  fc.assert(
    fc.property(steps, fc.double({ min: 0, max: 1, noNaN: true }), (taken, where) => {
      const { image, log } = runAll(taken);
      const cut = Math.floor(where * log.length);
      const before = imageAfter(log.slice(0, cut));
      let restored = imageFromRecords(imageToRecords(before), before);
      expect(imageHash(restored)).toBe(imageHash(before));
      log.slice(cut).forEach((records, at) => {
        restored = replay(restored, records, {
          index: logIndex(cut + at + 1),
          term: term(1),
        }).image;
      });
      expect(imageHash(restored)).toBe(imageHash(image));
    }),
    { numRuns: 100 },
  );
});

function imageAfter(log: readonly (readonly unknown[])[]): typeof EMPTY_IMAGE {
  let image = EMPTY_IMAGE;
  log.forEach((records, at) => {
    image = replay(image, records as never, { index: logIndex(at + 1), term: term(1) }).image;
  });
  return image;
}

test('the hash tells images apart that differ in one thing', () => {
  const make = (change: (cluster: Cluster) => void): string => {
    const cluster = new Cluster().start(1, 2, 3);
    cluster.run(
      creation('a', 1, { topicId: topicId(1), assignment: [ids(1, 2, 3), ids(2, 3, 1)] }),
    );
    change(cluster);
    return imageHash({ ...cluster.image, index: logIndex(100) });
  };
  const hashes = [
    make(() => undefined),
    make((cluster) => cluster.fence(1)),
    make((cluster) => cluster.shutDown(2)),
    make((cluster) => cluster.propose('a', [1, 2])),
    make((cluster) => cluster.propose('a', [1, 3])),
    make((cluster) => cluster.run({ kind: 'deleteTopic', name: 'a' })),
    make((cluster) => cluster.run({ kind: 'allocateProducerIds', ...cluster.named(1) })),
  ];
  expect(new Set(hashes).size).toBe(hashes.length);
});
