import { logIndex, term } from '@relevo/base/ids';
import { decide } from '@relevo/controller/decide';
import { EMPTY_IMAGE } from '@relevo/controller/image';
import { imageHash } from '@relevo/controller/image-hash';
import { difference, replay, wholeOf } from '@relevo/controller/replay';
import type { MetadataDelta } from '@relevo/controller/replay';
import { imageFromRecords, imageToRecords } from '@relevo/controller/snapshot';
import { describe, expect, test } from 'vitest';
import { Cluster, DEFAULTS, ids } from './cluster.ts';

const three = (): Cluster => new Cluster().start(1, 2, 3);

const names = (delta: MetadataDelta): string[] =>
  delta.partitions.map(({ topic, partition }) => `${topic.name}-${partition}`).sort();

describe('the delta', () => {
  test('names what changed and nothing else; the rest is shared', () => {
    const cluster = three();
    cluster.create('a', { assignment: [ids(1, 2), ids(2, 3)] });
    cluster.create('b', { assignment: [ids(2, 3)] });
    const before = cluster.image;
    const { records } = decide(
      before,
      { kind: 'fenceBrokers', brokers: [cluster.named(1)] },
      DEFAULTS,
    );
    const delta = cluster.apply(records);
    expect(names(delta)).toEqual(['a-0']);
    expect(delta.brokers.map(({ after }) => after.id)).toEqual([1]);
    expect(delta.partitions[0]?.before).toBe(before.topicsByName.get('a')?.partitions[0]);
    expect(delta.partitions[0]?.after.leader).toBe(2);
    expect(cluster.topic('b')).toBe(before.topicsByName.get('b'));
    expect(cluster.partition('a', 1)).toBe(before.topicsByName.get('a')?.partitions[1]);
    expect([delta.from, delta.to]).toEqual([before.index, cluster.image.index]);
  });

  test('tells topics created, removed and reconfigured apart', () => {
    const cluster = three();
    const a = cluster.create('a');
    cluster.create('b');
    const created = decide(
      cluster.image,
      {
        kind: 'alterTopicConfig',
        topic: 'b',
        set: new Map([['retention.ms', '1']]),
        unset: [],
      },
      DEFAULTS,
    );
    const removed = decide(cluster.image, { kind: 'deleteTopic', name: 'a' }, DEFAULTS);
    const delta = cluster.apply([...created.records, ...removed.records]);
    expect(delta.removedTopics).toEqual([a]);
    expect(delta.reconfiguredTopics.map(({ name }) => name)).toEqual(['b']);
    expect(delta.createdTopics).toEqual([]);
    expect(names(delta)).toEqual([]);
  });

  test('a topic deleted and created again in one entry is both', () => {
    const cluster = three();
    const old = cluster.create('a');
    const removal = decide(cluster.image, { kind: 'deleteTopic', name: 'a' }, DEFAULTS);
    const other = three();
    other.create('pad');
    const creation = other.create('a');
    const delta = cluster.apply([...removal.records, ...(other.log.at(-1) ?? [])]);
    expect(delta.removedTopics.map(({ id }) => id)).toEqual([old.id]);
    expect(delta.createdTopics.map(({ id }) => id)).toEqual([creation.id]);
    expect(cluster.topic('a').id).toBe(creation.id);
  });

  test('between two images is what the records between them say', () => {
    const cluster = three();
    cluster.create('a', { partitions: 3 });
    cluster.create('gone');
    const before = cluster.image;
    cluster.fence(2);
    cluster.run({ kind: 'deleteTopic', name: 'gone' });
    cluster.create('new', { partitions: 2, replicationFactor: 2 });
    const delta = difference(before, cluster.image);
    expect(delta.brokers.map(({ after }) => after.id)).toEqual([2]);
    expect(delta.removedTopics.map(({ name }) => name)).toEqual(['gone']);
    expect(delta.createdTopics.map(({ name }) => name)).toEqual(['new']);
    expect(names(delta)).toEqual(['a-0', 'a-1', 'a-2', 'new-0', 'new-1']);
    expect(names(wholeOf(cluster.image)).length).toBe(5);
  });
});

describe('records that contradict the image', () => {
  const partitionChange = {
    kind: 'partitionChange',
    partition: 0,
    leader: undefined,
    isr: undefined,
    unclean: false,
  } as const;

  test.each([
    ['a leader that is not in sync', { leader: ids(3)[0], isr: ids(1, 2) }],
    ['a leader that is fenced', { leader: ids(2)[0] }],
    ['in sync on a stranger', { isr: ids(1, 9) }],
    ['unclean without a reset', { leader: ids(3)[0], unclean: true }],
  ])('%s: asserts (K6)', (_, change) => {
    const cluster = three();
    const { id: topicId } = cluster.create('a', { assignment: [ids(1, 2, 3)] });
    cluster.fence(2);
    const record = { ...partitionChange, topicId, ...change };
    expect(() => cluster.apply([record as never])).toThrow(/leader/);
  });

  test('an entry out of order asserts', () => {
    const cluster = three();
    expect(() => replay(cluster.image, [], { index: logIndex(1), term: term(1) })).toThrow(
      /forward/,
    );
  });
});

describe('5,000 partitions', () => {
  const big = (): Cluster => {
    const cluster = three();
    for (let topic = 0; topic < 5; topic++) cluster.create(`t${topic}`, { partitions: 1000 });
    return cluster;
  };

  test('fencing one broker is one decision on all of them', () => {
    const cluster = big();
    const { records } = decide(
      cluster.image,
      { kind: 'fenceBrokers', brokers: [cluster.named(1)] },
      DEFAULTS,
    );
    expect(records.length).toBe(5001);
    const delta = cluster.apply(records);
    expect(delta.partitions.length).toBe(5000);
    const moved = delta.partitions.filter(({ before, after }) => before?.leader !== after.leader);
    expect(Math.abs(moved.length - 5000 / 3)).toBeLessThan(5);
  });

  test('a snapshot gives the same image, by records and by hash', () => {
    const cluster = big();
    cluster.fence(1);
    const records = imageToRecords(cluster.image);
    const restored = imageFromRecords(records, cluster.image);
    expect(imageToRecords(restored)).toEqual(records);
    expect(imageHash(restored)).toBe(imageHash(cluster.image));
    expect(imageHash(restored)).not.toBe(imageHash(EMPTY_IMAGE));
  });
});
