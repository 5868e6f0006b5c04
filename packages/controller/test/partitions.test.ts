import { describe, expect, test } from 'vitest';
import { Cluster, id, ids, topicId } from './cluster.ts';

const withTopic = (): Cluster => {
  const cluster = new Cluster().start(1, 2, 3, 4);
  cluster.create('t', { assignment: [ids(1, 2, 3)] });
  return cluster;
};

describe('a proposal of the leader', () => {
  test('shrinks and grows the in-sync set, keeping the leader epoch', () => {
    const cluster = withTopic();
    expect(cluster.propose('t', [3, 1])).toBe('NONE');
    expect(cluster.show('t')).toBe('1* (2) 3 e0 v1');
    expect(cluster.propose('t', [1, 3, 2])).toBe('NONE');
    expect(cluster.show('t')).toBe('1* 2 3 e0 v2');
  });

  test('of what holds already moves the partition epoch: earlier proposals are over', () => {
    const cluster = withTopic();
    expect(cluster.propose('t', [3, 2, 1])).toBe('NONE');
    expect(cluster.show('t')).toBe('1* 2 3 e0 v1');
    expect(cluster.propose('t', [1, 2], { partitionEpoch: -1 })).toBe('INVALID_UPDATE_VERSION');
  });

  test.each([
    ['by another than the leader', [1, 2], { by: 2 }, 'NOT_LEADER_OR_FOLLOWER'],
    ['under an old leader epoch', [1, 2], { leaderEpoch: -1 }, 'FENCED_LEADER_EPOCH'],
    ['under a leader epoch to come', [1, 2], { leaderEpoch: 1 }, 'UNKNOWN_LEADER_EPOCH'],
    ['on an old partition epoch', [1, 2], { partitionEpoch: -1 }, 'INVALID_UPDATE_VERSION'],
    ['of nobody', [], {}, 'INVALID_REQUEST'],
    ['with a stranger', [1, 4], {}, 'INVALID_REQUEST'],
    ['with a member twice', [1, 2, 2], {}, 'INVALID_REQUEST'],
    ['for a partition that is not', [1], { partition: 7 }, 'UNKNOWN_TOPIC_OR_PARTITION'],
    ['with a member under an old epoch', [1, 2], { epochs: { 2: -1 } }, 'INELIGIBLE_REPLICA'],
  ] as const)('%s is refused (K7)', (_, isr, lies, expected) => {
    const cluster = withTopic();
    expect(cluster.propose('t', [...isr], lies)).toBe(expected);
    expect(cluster.show('t')).toBe('1* 2 3 e0 v0');
  });

  test('without itself is a resignation: another of the in-sync set leads', () => {
    const cluster = withTopic();
    expect(cluster.propose('t', [1, 3])).toBe('NONE');
    expect(cluster.propose('t', [2, 3])).toBe('INVALID_REQUEST');
    expect(cluster.propose('t', [3])).toBe('NEW_LEADER_ELECTED');
    expect(cluster.show('t')).toBe('[1] (2) 3* e1 v2');
  });

  test('does not bring in a broker that is fenced or stopping', () => {
    const cluster = withTopic();
    cluster.fence(2);
    expect(cluster.propose('t', [1, 2, 3])).toBe('INELIGIBLE_REPLICA');
    cluster.shutDown(3);
    expect(cluster.propose('t', [1, 3])).toBe('INELIGIBLE_REPLICA');
  });

  test('does not bring back a broker that has restarted, though it names it as it was (KIP-903)', () => {
    const cluster = withTopic();
    expect(cluster.propose('t', [1, 3])).toBe('NONE');
    const seen = cluster.epoch(2);
    cluster.register(2, { incarnationId: 'second', predecessorGone: true });
    cluster.unfence(2);
    const off = seen - cluster.epoch(2);
    expect(cluster.propose('t', [1, 2, 3], { epochs: { 2: off } })).toBe('INELIGIBLE_REPLICA');
    expect(cluster.propose('t', [1, 2, 3])).toBe('NONE');
  });

  test('from a broker under an old epoch is refused whole', () => {
    const cluster = withTopic();
    const request = { kind: 'alterPartitions', ...cluster.named(1), partitions: [] } as const;
    expect(cluster.refusal({ ...request, brokerId: id(9) })).toBe('BROKER_ID_NOT_REGISTERED');
    cluster.register(1, { incarnationId: 'second', predecessorGone: true });
    expect(cluster.refusal(request)).toBe('STALE_BROKER_EPOCH');
  });

  test('naming one partition twice counts once', () => {
    const cluster = withTopic();
    const { id: topic } = cluster.topic('t');
    const proposal = {
      topicId: topic,
      partition: 0,
      leaderEpoch: 0 as never,
      partitionEpoch: 0 as never,
      isr: [cluster.named(1)],
    };
    const unknown = { ...proposal, topicId: topicId(77) };
    const { partitions } = cluster.run({
      kind: 'alterPartitions',
      ...cluster.named(1),
      partitions: [proposal, proposal, unknown],
    });
    expect(partitions.map(({ error }) => error)).toEqual([
      'NONE',
      'INVALID_REQUEST',
      'UNKNOWN_TOPIC_ID',
    ]);
    expect(cluster.show('t')).toBe('1* [2] [3] e0 v1');
  });

  test('keeps a member that has registered anew and does not serve yet, and lets none such join', () => {
    const cluster = withTopic();
    cluster.propose('t', [1, 2]);
    cluster.restart(2);
    cluster.restart(3);
    expect(cluster.propose('t', [1, 2, 3])).toBe('INELIGIBLE_REPLICA');
    cluster.unfence(3);
    expect(cluster.propose('t', [1, 2, 3])).toBe('NONE');
    expect(cluster.show('t')).toBe('1* 2 3 e0 v2');
  });
});

describe('a replica whose log cannot be used', () => {
  test('leaves the in-sync set and the leadership, and does not come back before it is in order', () => {
    const cluster = withTopic();
    cluster.report('t', 1);
    expect(cluster.show('t')).toBe('(1!) 2* 3 e1 v1');
    expect(cluster.propose('t', [1, 2, 3])).toBe('INELIGIBLE_REPLICA');
    cluster.report('t', 1);
    expect(cluster.show('t')).toBe('(1!) 2* 3 e1 v1');
    cluster.report('t', 1, false);
    expect(cluster.propose('t', [1, 2, 3])).toBe('NONE');
    expect(cluster.show('t')).toBe('1 2* 3 e1 v3');
  });

  test('stays offline when its broker registers anew, until that says otherwise', () => {
    const cluster = withTopic();
    cluster.report('t', 1);
    cluster.restart(1);
    expect(cluster.show('t')).toBe('(1!) 2* 3 e1 v1');
    cluster.report('t', 1, false);
    expect(cluster.show('t')).toBe('(1) 2* 3 e1 v2');
  });

  test('gives way to one that left the in-sync set when that fell below the minimum', () => {
    const cluster = withTopic();
    cluster.fence(1);
    cluster.fence(2);
    expect(cluster.show('t')).toBe('(1) [2] 3* e2 v2');
    cluster.report('t', 3);
    expect(cluster.show('t')).toBe('(1) [2] (3!) e3 v3');
    cluster.unfence(1);
    expect(cluster.partition('t').leader).toBe(-1);
    cluster.unfence(2);
    expect(cluster.show('t')).toBe('(1) 2* (3!) e4 v4');
    expect(cluster.partition('t').uncleanEpoch).toBe(-1);
  });

  test('stays in sync where nobody else has all, and leads no more', () => {
    const cluster = withTopic();
    cluster.create('alone', { assignment: [ids(1)] });
    cluster.report('alone', 1);
    expect(cluster.show('alone')).toBe('1! e1 v1');
    cluster.restart(1);
    cluster.unfence(1);
    expect(cluster.show('alone')).toBe('1! e1 v1');
    cluster.report('alone', 1, false);
    expect(cluster.show('alone')).toBe('1* e2 v2');
  });

  test('is nothing that another broker may say, nor an earlier life of its own', () => {
    const cluster = withTopic();
    const replicas = [{ topicId: cluster.topic('t').id, partition: 0, offline: true }];
    const stale = { kind: 'reportReplicas', ...cluster.named(1), replicas } as const;
    cluster.restart(1);
    expect(cluster.refusal(stale)).toBe('STALE_BROKER_EPOCH');
    cluster.create('elsewhere', { assignment: [ids(2)] });
    const topic = cluster.topic('elsewhere').id;
    const foreign = [{ topicId: topic, partition: 0, offline: true }];
    expect(
      cluster.run({ kind: 'reportReplicas', ...cluster.named(1), replicas: foreign }).changed,
    ).toBe(0);
  });
});

describe('eligible leaders', () => {
  const shrunk = (): Cluster => {
    const cluster = withTopic();
    cluster.propose('t', [1]);
    return cluster;
  };

  test('lead cleanly when nobody in sync is there', () => {
    const cluster = shrunk();
    expect(cluster.show('t')).toBe('1* [2] [3] e0 v1');
    cluster.fence(1);
    expect(cluster.show('t')).toBe('[1] 2* [3] e1 v2');
    expect(cluster.partition('t').uncleanEpoch).toBe(-1);
  });

  test('are none any more once enough replicas are in sync', () => {
    const cluster = shrunk();
    cluster.propose('t', [1, 3]);
    expect(cluster.show('t')).toBe('1* (2) 3 e0 v2');
  });

  test('are none any more before anything is acknowledged without them: with fewer needed in sync', () => {
    const cluster = shrunk();
    const set = new Map([['min.insync.replicas', '1']]);
    cluster.run({ kind: 'alterTopicConfig', topic: 't', set, unset: [] });
    expect(cluster.show('t')).toBe('1* (2) (3) e0 v2');
    cluster.fence(1);
    expect(cluster.partition('t')).toMatchObject({ leader: -1, isr: [1], elr: [] });
  });

  test('are no longer who lost their disk, or crashed with records that were not fsynced', () => {
    const cluster = shrunk();
    cluster.restart(2, { directoryId: 'new disk' });
    expect(cluster.show('t')).toBe('1* (2) [3] e0 v2');
    const os = new Cluster().start(1, 2, 3);
    os.create('t', { assignment: [ids(1, 2, 3)], config: new Map([['flush.mode', 'os']]) });
    os.propose('t', [1]);
    os.restart(3);
    os.restart(2, { nothingLost: true });
    expect(os.show('t')).toBe('1* [2] (3) e0 v2');
  });
});

describe('preferred leaders', () => {
  const moved = (): Cluster => {
    const cluster = withTopic();
    cluster.fence(1);
    cluster.unfence(1);
    return cluster;
  };
  const elect = { kind: 'electPreferred', topic: 't', partitions: [] } as const;

  test('are elected when asked for, once they are in sync', () => {
    const cluster = moved();
    expect(cluster.run(elect).results).toMatchObject([
      { partition: 0, error: 'PREFERRED_LEADER_NOT_AVAILABLE', leader: 2 },
    ]);
    expect(cluster.propose('t', [1, 2, 3])).toBe('NONE');
    expect(cluster.run({ ...elect, topic: '' }).results).toMatchObject([
      { topic: 't', partition: 0, error: 'NONE', leader: 1 },
    ]);
    expect(cluster.show('t')).toBe('1* 2 3 e2 v3');
    expect(cluster.run(elect).results).toEqual([]);
  });

  test('a partition or topic that is not there is named', () => {
    const cluster = moved();
    const [result] = cluster.run({ ...elect, partitions: [5] }).results;
    expect(result).toMatchObject({ error: 'UNKNOWN_TOPIC_OR_PARTITION', partition: 5 });
    expect(cluster.refusal({ ...elect, topic: 'u' })).toBe('UNKNOWN_TOPIC_OR_PARTITION');
  });

  test('the hand-back leaves alone what has changed meanwhile', () => {
    const cluster = moved();
    const partitions = [
      { topicId: cluster.topic('t').id, partition: 0 },
      { topicId: topicId(99), partition: 0 },
    ];
    expect(cluster.run({ kind: 'handBack', partitions }).moved).toBe(0);
    cluster.propose('t', [1, 2, 3]);
    expect(cluster.run({ kind: 'handBack', partitions }).moved).toBe(1);
    expect(cluster.show('t')).toBe('1* 2 3 e2 v3');
  });
});

test('producer ids come in blocks that never meet', () => {
  const cluster = withTopic();
  const request = { kind: 'allocateProducerIds', ...cluster.named(2) } as const;
  expect(cluster.run(request)).toEqual({ first: 1, count: 1000 });
  expect(cluster.run(request)).toEqual({ first: 1001, count: 1000 });
  expect(cluster.image.nextProducerId).toBe(2001);
});
