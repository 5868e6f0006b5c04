/** The metadata log on its way: encoded, published, followed. */
import { brokerId, leaderEpoch, logIndex, partitionEpoch, term } from '@relevo/base/ids';
import type { Uuid } from '@relevo/base/ids';
import type { MessageStream, Metrics } from '@relevo/base/ports';
import { EMPTY_IMAGE } from '@relevo/controller/image';
import { imageHash } from '@relevo/controller/image-hash';
import type { MetadataRecord } from '@relevo/controller/records';
import type { MetadataDelta } from '@relevo/controller/replay';
import { replay } from '@relevo/controller/replay';
import { followMetadataRequest } from '@relevo/rpc/gen/cluster/controller';
import type { MetadataLogPart } from '@relevo/rpc/gen/cluster/controller';
import { MetadataStreams } from '@relevo/server/controller/metadata-streams';
import { MetadataPublisher } from '@relevo/server/metadata/metadata-publisher';
import type { CommittedEntry } from '@relevo/server/metadata/metadata-publisher';
import {
  decodeRecords,
  decodeSnapshot,
  encodeRecords,
  encodeSnapshot,
  imageOf,
} from '@relevo/server/metadata/record-codec';
import { World } from '@relevo/simulation/world';
import { describe, expect, test } from 'vitest';

const TOPIC = 'tttttttttttttttttttttt' as Uuid;
const ids = (...values: number[]): ReturnType<typeof brokerId>[] => values.map(brokerId);

/** One of each kind, in an order that replays. */
const RECORDS: readonly MetadataRecord[] = [
  { kind: 'clusterIdentity', clusterId: 'test' },
  { kind: 'brokerEpochs', next: 5 as never },
  { kind: 'producerIds', next: 3000 as never },
  {
    kind: 'brokerRegistration',
    brokerId: brokerId(0),
    brokerEpoch: 7 as never,
    incarnationId: 'incarnation',
    directoryId: 'disk',
    clientAddress: 'host:1',
    peerAddress: 'host:2',
    listeners: [{ listener: 'outside', address: 'host:3' }],
    rack: 'r1',
  },
  {
    kind: 'brokerState',
    brokerId: brokerId(0),
    brokerEpoch: 7 as never,
    fenced: false,
    shuttingDown: false,
  },
  { kind: 'topicCreation', topicId: TOPIC, name: 'orders' },
  { kind: 'topicSetting', topicId: TOPIC, name: 'retention.ms', value: '1000' },
  { kind: 'topicSetting', topicId: TOPIC, name: 'flush.mode', value: undefined },
  {
    kind: 'partitionCreation',
    topicId: TOPIC,
    partition: 0,
    replicas: ids(0, 1),
    isr: ids(0),
    elr: ids(1),
    offline: ids(1),
    leader: brokerId(-1),
    leaderEpoch: leaderEpoch(0),
    partitionEpoch: partitionEpoch(0),
    uncleanEpoch: leaderEpoch(-1),
  },
  {
    kind: 'partitionChange',
    topicId: TOPIC,
    partition: 0,
    leader: brokerId(0),
    isr: undefined,
    elr: undefined,
    offline: undefined,
    unclean: false,
  },
  {
    kind: 'partitionChange',
    topicId: TOPIC,
    partition: 0,
    leader: brokerId(-1),
    isr: [],
    elr: ids(1),
    offline: [],
    unclean: false,
  },
  { kind: 'topicRemoval', topicId: TOPIC },
];

describe('records', () => {
  test('come back as they were written, absent fields and the broker 0 included', () => {
    expect(decodeRecords(encodeRecords(RECORDS))).toEqual(RECORDS);
    expect(decodeRecords(new Uint8Array())).toEqual([]);
  });

  test('of a newer version are refused, not passed over', () => {
    // Field 99 of a record, with an empty message in it.
    const unknown = Uint8Array.of(0x0a, 0x03, 0x9a, 0x06, 0x00);
    expect(() => decodeRecords(unknown)).toThrow(/newer/);
  });

  test('a snapshot comes back as the same image; equal images give equal bytes', () => {
    const at = { index: logIndex(9), term: term(2) };
    const { image } = replay(EMPTY_IMAGE, RECORDS.slice(0, -1), at);
    const bytes = encodeSnapshot(image);
    const restored = decodeSnapshot(bytes);
    expect(imageHash(restored)).toBe(imageHash(image));
    expect(encodeSnapshot(restored)).toEqual(bytes);
    expect(restored.index).toBe(9);
  });
});

const NO_METRICS: Metrics = {
  counter: () => ({ add: () => undefined }),
  gauge: () => ({ set: () => undefined }),
  histogram: () => ({ observe: () => undefined }),
  measure: () => undefined,
};

const entry = (index: number, records: readonly MetadataRecord[] = []): CommittedEntry => ({
  index: logIndex(index),
  term: term(1),
  data: records.length === 0 ? new Uint8Array() : encodeRecords(records),
});

/** One entry per kind of record. */
const LOG = RECORDS.map((record, at) => entry(at + 1, [record]));

describe('the publisher', () => {
  test('publishes what comes at once as one delta, and passes over what it has', () => {
    const publisher = new MetadataPublisher({ metrics: NO_METRICS });
    const deltas: MetadataDelta[] = [];
    publisher.subscribe((delta) => deltas.push(delta));
    publisher.applyCommitted(LOG.slice(0, 6));
    publisher.applyCommitted(LOG.slice(3, 9));
    publisher.applyCommitted(LOG.slice(0, 4));
    expect(deltas.map(({ from, to }) => `${from}-${to}`)).toEqual(['0-6', '6-9']);
    expect(() => publisher.applyCommitted([entry(11)])).toThrow(/no gaps/);
  });

  test('a snapshot takes the place of the log, and what changed is told', () => {
    const whole = new MetadataPublisher({ metrics: NO_METRICS });
    whole.applyCommitted(LOG.slice(0, 10));
    const { bytes, index } = whole.takeSnapshot();
    const publisher = new MetadataPublisher({ metrics: NO_METRICS });
    publisher.applyCommitted(LOG.slice(0, 6));
    const deltas: MetadataDelta[] = [];
    publisher.subscribe((delta) => deltas.push(delta));
    publisher.restoreSnapshot(bytes, index);
    expect(imageHash(publisher.image())).toBe(imageHash(whole.image()));
    expect(deltas[0]?.partitions.length).toBe(1);
    publisher.restoreSnapshot(bytes, index);
    expect(deltas.length).toBe(1);
  });

  test('tells of another controller once', () => {
    const publisher = new MetadataPublisher({ metrics: NO_METRICS });
    const seen: unknown[] = [];
    publisher.onController((controller) => seen.push(controller?.id));
    const controller = { id: brokerId(1), address: 'a:1', term: term(1) };
    publisher.setController(controller);
    publisher.setController({ ...controller });
    publisher.setController(undefined);
    publisher.setController({ ...controller, term: term(2) });
    expect(seen).toEqual([1, undefined, 1]);
  });
});

/** Takes what it is sent, and is full after so many messages. */
class Receiver implements MessageStream<MetadataLogPart> {
  readonly parts: MetadataLogPart[] = [];
  room: number;
  ended = false;

  constructor(room = Infinity) {
    this.room = room;
  }

  send(part: MetadataLogPart): boolean {
    this.parts.push(part);
    return --this.room > 0;
  }

  queuedBytes(): number {
    return 0;
  }

  end(): void {
    this.ended = true;
  }

  cancel(): void {
    this.ended = true;
  }

  pause(): void {}
  resume(): void {}

  /** What a publisher makes of it. */
  publisher(): MetadataPublisher {
    const publisher = new MetadataPublisher({ metrics: NO_METRICS });
    for (const { snapshot, entries } of this.parts) {
      if (snapshot !== undefined) publisher.restoreImage(imageOf(snapshot));
      publisher.applyCommitted(
        entries.map(({ index, term: of, data }) => ({
          index: logIndex(index),
          term: term(of),
          data,
        })),
      );
    }
    return publisher;
  }
}

describe('following the log', () => {
  const setUp = async (
    scenario: (
      streams: MetadataStreams,
      commit: (entries: readonly CommittedEntry[]) => void,
      world: World,
    ) => Promise<void>,
  ): Promise<void> => {
    const world = new World({ seed: 1 });
    await world.run(async () => {
      const ports = await new Promise<{
        timers: ConstructorParameters<typeof MetadataStreams>[0]['timers'];
      }>((resolve) => world.process('c').boot(resolve));
      const publisher = new MetadataPublisher({ metrics: NO_METRICS });
      const streams = new MetadataStreams({ timers: ports.timers, publisher, clusterId: 'test' });
      const commit = (entries: readonly CommittedEntry[]): void => {
        publisher.applyCommitted(entries);
        streams.committed(entries);
      };
      await scenario(streams, commit, world);
      streams.close();
    });
  };
  const request = (afterIndex: number): ReturnType<typeof followMetadataRequest> =>
    followMetadataRequest({ clusterId: 'test', brokerId: 9, afterIndex });

  test('from within the window come entries, from before it a snapshot; then each entry', () =>
    setUp(async (streams, commit) => {
      commit(LOG.slice(0, 4));
      streams.restored();
      commit(LOG.slice(4, 8));
      const [late, near] = [new Receiver(), new Receiver()];
      streams.follow(request(0), late);
      streams.follow(request(5), near);
      commit(LOG.slice(8, 10));
      await Promise.resolve();
      expect(late.parts.filter(({ snapshot }) => snapshot !== undefined).length).toBe(1);
      expect(near.parts.every(({ snapshot }) => snapshot === undefined)).toBe(true);
      expect(near.parts.flatMap(({ entries }) => entries.map(({ index }) => index))).toEqual([
        6, 7, 8, 9, 10,
      ]);
      expect(late.publisher().image().index).toBe(10);
    }));

  test('one that does not keep up is sent what it missed once it has drained', () =>
    setUp(async (streams, commit) => {
      const slow = new Receiver(1);
      const events = streams.follow(request(0), slow);
      for (const one of LOG.slice(0, 10)) commit([one]);
      expect(slow.parts.length).toBe(1);
      slow.room = Infinity;
      events.onDrain?.();
      await Promise.resolve();
      expect(slow.publisher().image().index).toBe(10);
    }));

  test('something comes every 250 ms, so that silence means a controller that hangs', () =>
    setUp(async (streams, _, world) => {
      const receiver = new Receiver();
      streams.follow(request(0), receiver);
      await world.sleep(2000);
      expect(receiver.parts.length).toBeGreaterThan(6);
    }));

  test('another cluster is refused', () =>
    setUp((streams) => {
      const foreign = followMetadataRequest({ clusterId: 'other' });
      expect(() => streams.follow(foreign, new Receiver())).toThrow(/cluster "other"/);
      return Promise.resolve();
    }));
});
