import { BATCH_BYTES_MAX } from '@relevo/base/limits';
import { RelevoError } from '@relevo/base/errors';
import { QUORUM_LOG_ID, ZERO_UUID } from '@relevo/base/ids';
import type { CreateTopic } from '@relevo/controller/commands';
import { decide } from '@relevo/controller/decide';
import { flawOfRecord } from '@relevo/controller/record-limits';
import {
  TOPIC_DEFAULTS,
  TOPIC_SETTING_NAMES,
  describeTopicSettings,
  minInSync,
  checkTopicSetting,
  topicSettings,
} from '@relevo/controller/topic-config';
import { describe, expect, test } from 'vitest';
import { Cluster, DEFAULTS, creation, ids, topicId } from './cluster.ts';

const three = (): Cluster => new Cluster().start(1, 2, 3);

describe('creating a topic', () => {
  test('with counts, or with the defaults of the cluster', () => {
    const cluster = three();
    const answer = cluster.run(creation('orders', 1, { partitions: 6 }));
    expect(answer).toMatchObject({ partitions: 6, replicationFactor: 3 });
    cluster.create('one');
    expect(cluster.topic('one').partitions.length).toBe(1);
    expect(cluster.partition('orders', 5)).toMatchObject({ leaderEpoch: 0, partitionEpoch: 0 });
    expect(cluster.partition('orders', 5).isr).toEqual(cluster.partition('orders', 5).replicas);
  });

  test('again under the same id is the same request: it gets the same answer', () => {
    const cluster = three();
    const command = creation('orders', 1, { partitions: 6 });
    const answer = cluster.run(command);
    const entries = cluster.log.length;
    expect(cluster.run(command)).toEqual(answer);
    expect(cluster.log.length).toBe(entries);
    expect(cluster.refusal(creation('orders', 2))).toBe('TOPIC_ALREADY_EXISTS');
  });

  test('only to validate changes nothing', () => {
    const cluster = three();
    const answer = cluster.run(creation('orders', 1, { partitions: 2, validateOnly: true }));
    expect(answer.partitions).toBe(2);
    expect(cluster.image.topicsByName.size).toBe(0);
  });

  test('on named brokers, of which those that are live are in sync', () => {
    const cluster = three();
    cluster.fence(1);
    cluster.create('orders', { assignment: [ids(1, 2), ids(3, 1)] });
    expect(cluster.show('orders', 0)).toBe('(1) 2* e0 v0');
    expect(cluster.show('orders', 1)).toBe('3* (1) e0 v0');
  });

  const refused: [string, Partial<CreateTopic>, string, RegExp][] = [
    ['no name', { name: '' }, 'INVALID_TOPIC_EXCEPTION', /1 to 249/],
    ['a dot', { name: '.' }, 'INVALID_TOPIC_EXCEPTION', /illegal/],
    ['two dots', { name: '..' }, 'INVALID_TOPIC_EXCEPTION', /illegal/],
    [
      'the name of the quorum’s log',
      { name: '__cluster_metadata' },
      'INVALID_TOPIC_EXCEPTION',
      /"__cluster_metadata" is reserved for the cluster itself .*: choose another/,
    ],
    ['Kafka’s own', { name: '__consumer_offsets' }, 'INVALID_TOPIC_EXCEPTION', /reserved/],
    ['Kafka’s own', { name: '__transaction_state' }, 'INVALID_TOPIC_EXCEPTION', /reserved/],
    ['Kafka’s own', { name: '__share_group_state' }, 'INVALID_TOPIC_EXCEPTION', /reserved/],
    ['one of ours', { name: '__relevo_groups' }, 'INVALID_TOPIC_EXCEPTION', /reserved/],
    ['no topic id', { topicId: ZERO_UUID }, 'INVALID_REQUEST', /kept for the cluster/],
    ['the quorum’s id', { topicId: QUORUM_LOG_ID }, 'INVALID_REQUEST', /kept for the cluster/],
    ['a slash', { name: 'a/b' }, 'INVALID_TOPIC_EXCEPTION', /"a\/b" is illegal/],
    ['a long name', { name: 'x'.repeat(250) }, 'INVALID_TOPIC_EXCEPTION', /250 characters/],
    ['a name taken', { name: 'taken' }, 'TOPIC_ALREADY_EXISTS', /"taken" exists/],
    ['too many replicas', { replicationFactor: 4 }, 'INVALID_REPLICATION_FACTOR', /up to 3/],
    ['too many partitions', { partitions: 10_001 }, 'INVALID_PARTITIONS', /1 to 10000/],
    [
      'an unknown setting',
      set('retension.ms', '1'),
      'INVALID_CONFIG',
      /did you mean retention\.ms/,
    ],
    ['no number', set('retention.ms', 'a week'), 'INVALID_CONFIG', /whole number from -1/],
    ['a number out of range', set('segment.bytes', '1'), 'INVALID_CONFIG', /from 65536/],
    ['no number at all', set('retention.ms', ''), 'INVALID_CONFIG', /whole number/],
    ['a word that is not one', set('flush.mode', 'never'), 'INVALID_CONFIG', /sync or os/],
    ['compaction', set('cleanup.policy', 'compact'), 'INVALID_CONFIG', /delete/],
    ['more in sync than there are', set('min.insync.replicas', '4'), 'INVALID_CONFIG', /at most 3/],
    ['a broker twice', { assignment: [ids(1, 1)] }, 'INVALID_REPLICA_ASSIGNMENT', /twice/],
    ['a stranger', { assignment: [ids(9)] }, 'INVALID_REPLICA_ASSIGNMENT', /broker 9/],
    ['no replica', { assignment: [[]] }, 'INVALID_REPLICA_ASSIGNMENT', /no replica/],
    ['uneven', { assignment: [ids(1), ids(1, 2)] }, 'INVALID_REPLICA_ASSIGNMENT', /2 of 1/],
    ['counts too', { assignment: [ids(1)], partitions: 1 }, 'INVALID_REQUEST', /either/],
  ];
  test.each(refused)('%s: refused with what to do', (_, more, code, message) => {
    const cluster = three();
    cluster.create('taken');
    const error = thrownBy(() => decide(cluster.image, creation('new', 9, more), DEFAULTS));
    expect(error.code).toBe(code);
    expect(error.message).toMatch(message);
  });

  test('the default replication factor is not lowered in silence', () => {
    const cluster = new Cluster().start(1);
    const error = thrownBy(() => decide(cluster.image, creation('new', 9), DEFAULTS));
    expect(error.message).toBe(
      'replication factor 3 (the default) needs 3 live brokers, but there is 1 live broker: ' +
        'start more, or ask for a replication factor up to 1',
    );
  });
});

function set(name: string, value: string): Partial<CreateTopic> {
  return { config: new Map([[name, value]]) };
}

function thrownBy(run: () => unknown): RelevoError {
  try {
    run();
  } catch (error) {
    if (error instanceof RelevoError) return error;
    throw error;
  }
  throw new Error('nothing was refused');
}

describe('names under __', () => {
  test.each(['__debezium-heartbeat.orders', '__', '__relevo', '__cluster_metadata2'])(
    '%s may be a topic',
    (name) => {
      const cluster = three();
      cluster.create(name);
      expect(cluster.topic(name).name).toBe(name);
    },
  );
});

describe('a topic that exists', () => {
  test('under a name that was reserved later stays, and can be deleted', () => {
    const cluster = three();
    const record = {
      kind: 'topicCreation',
      topicId: topicId(1),
      name: '__consumer_offsets',
    } as const;
    expect(flawOfRecord(record)).toBeUndefined();
    cluster.apply([record]);
    cluster.run({ kind: 'deleteTopic', name: '__consumer_offsets' });
    expect(cluster.image.topicsById.size).toBe(0);
  });

  test('keeps its id from others', () => {
    const cluster = three();
    cluster.run(creation('orders', 1));
    const other = creation('others', 1);
    expect(() => cluster.run(other)).toThrow(/id A{21}1 is that of "orders": "others" needs an id/);
    expect(cluster.refusal(other)).toBe('INVALID_REQUEST');
  });

  test('can be deleted and created again under another id', () => {
    const cluster = three();
    const first = cluster.create('orders').id;
    expect(cluster.run({ kind: 'deleteTopic', name: 'orders' }).topicId).toBe(first);
    expect(cluster.image.topicsById.size).toBe(0);
    expect(cluster.create('orders').id).not.toBe(first);
    const missing = { kind: 'deleteTopic', name: 'order' } as const;
    const error = thrownBy(() => decide(cluster.image, missing, DEFAULTS));
    expect(error.message).toBe('topic "order" does not exist: did you mean "orders"?');
  });

  test('can grow, never shrink', () => {
    const cluster = three();
    cluster.create('orders', { partitions: 2 });
    const grow = { kind: 'createPartitions', topic: 'orders', partitions: 5, seed: 1 } as const;
    expect(cluster.refusal({ ...grow, partitions: 2 })).toBe('INVALID_PARTITIONS');
    expect(cluster.run(grow).partitions).toBe(5);
    expect(cluster.topic('orders').partitions.map((p) => p.replicas.length)).toEqual([
      3, 3, 3, 3, 3,
    ]);
    const leaders = cluster.topic('orders').partitions.map((p) => p.leader);
    expect(new Set(leaders.slice(0, 3)).size).toBe(3);
  });

  test('its settings change, and fall back to the defaults', () => {
    const cluster = three();
    cluster.create('orders', set('retention.ms', '1000'));
    const alter = { kind: 'alterTopicConfig', topic: 'orders', set: new Map(), unset: [] } as const;
    cluster.run({ ...alter, set: new Map([['flush.mode', 'os']]), unset: ['retention.ms'] });
    expect([...cluster.topic('orders').config]).toEqual([['flush.mode', 'os']]);
    expect(cluster.refusal({ ...alter, unset: ['retention'] })).toBe('INVALID_CONFIG');
    expect(
      cluster.refusal({ ...alter, set: new Map([['flush.mode', 'os']]), unset: ['flush.mode'] }),
    ).toBe('INVALID_REQUEST');
    expect(cluster.refusal({ ...alter, set: new Map([['min.insync.replicas', '4']]) })).toBe(
      'INVALID_CONFIG',
    );
    const entries = cluster.log.length;
    cluster.run({ ...alter, set: new Map([['flush.mode', 'os']]) });
    expect(cluster.log.length).toBe(entries);
  });
});

describe('settings', () => {
  test('each has a default that it would accept', () => {
    const all = describeTopicSettings(new Map());
    expect(all.map(({ name }) => name)).toEqual(TOPIC_SETTING_NAMES);
    const cluster = three();
    const config = new Map(all.map(({ name, value }) => [name, value]));
    cluster.create('orders', { config });
    expect(topicSettings(cluster.topic('orders').config)).toEqual(TOPIC_DEFAULTS);
  });

  test('no batch may be larger than the wire takes, and what was set before is held to it', () => {
    const name = 'max.message.bytes';
    expect(() => checkTopicSetting(name, String(BATCH_BYTES_MAX))).not.toThrow();
    expect(() => checkTopicSetting(name, String(BATCH_BYTES_MAX + 1))).toThrow(
      `set it to a whole number from 1024 to ${BATCH_BYTES_MAX}`,
    );
    const before = new Map([[name, String(64 * 1024 * 1024)]]);
    expect(topicSettings(before).maxMessageBytes).toBe(BATCH_BYTES_MAX);
  });

  test('those of the topic win over those of the node', () => {
    const node = { ...TOPIC_DEFAULTS, retentionMs: 5, flushMode: 'os' } as const;
    const settings = topicSettings(
      new Map([
        ['retention.ms', '7'],
        ['unclean.leader.election.enable', 'true'],
      ]),
      node,
    );
    expect(settings).toMatchObject({
      retentionMs: 7,
      flushMode: 'os',
      uncleanLeaderElectionEnable: true,
    });
  });

  test('min.insync.replicas is never more than there are replicas', () => {
    expect([1, 2, 3].map((replicas) => minInSync(TOPIC_DEFAULTS, replicas))).toEqual([1, 2, 2]);
  });
});
