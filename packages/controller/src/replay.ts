/**
 * Replay: folds records into an image, and says what they changed.
 *
 * One `ImageDelta` takes the records of one or more log entries. It copies a topic's array of partitions
 * at the first change to it and never again, so an entry that moves 5,000 leaders costs one pass. What
 * it yields names the changed brokers, topics and partitions, so that whoever follows the log acts on
 * exactly these.
 *
 * Only the controller writes records, and it has checked them; what contradicts the image here is a bug
 * or a forgery, and asserts (K6).
 */
import { assert, unreachable } from '@relevo/base/assert';
import { NO_BROKER, NO_LEADER_EPOCH } from '@relevo/base/ids';
import type { BrokerId, LeaderEpoch, LogIndex, PartitionEpoch, Term, Uuid } from '@relevo/base/ids';
import { EMPTY_IMAGE } from './image.ts';
import type { BrokerImage, ClusterImage, PartitionImage, TopicImage } from './image.ts';
import type {
  BrokerRegistrationRecord,
  BrokerStateRecord,
  MetadataRecord,
  PartitionChangeRecord,
  PartitionCreationRecord,
  TopicCreationRecord,
  TopicSettingRecord,
} from './records.ts';

const EPOCH_MAX = 2 ** 31 - 1;

export interface PartitionDelta {
  readonly topic: TopicImage;
  readonly partition: number;
  /** Undefined: created. */
  readonly before: PartitionImage | undefined;
  readonly after: PartitionImage;
}

export interface BrokerDelta {
  /** Undefined: registered for the first time. */
  readonly before: BrokerImage | undefined;
  readonly after: BrokerImage;
}

/** What changed from one image to a later one. Topics are as after the change, removed ones as before. */
export interface MetadataDelta {
  readonly from: LogIndex;
  readonly to: LogIndex;
  readonly brokers: readonly BrokerDelta[];
  readonly createdTopics: readonly TopicImage[];
  readonly removedTopics: readonly TopicImage[];
  /** Topics that were there before, and whose settings changed. */
  readonly reconfiguredTopics: readonly TopicImage[];
  /** In topics created or kept, new ones included. */
  readonly partitions: readonly PartitionDelta[];
}

interface TopicDraft {
  readonly id: Uuid;
  readonly name: string;
  /** As in the base image; undefined when created since. */
  readonly before: TopicImage | undefined;
  config: ReadonlyMap<string, string>;
  configChanged: boolean;
  partitions: PartitionImage[];
  /** Numbers of changed and new partitions. */
  readonly touched: Set<number>;
}

type Mutable<Type> = { -readonly [Key in keyof Type]: Type[Key] };

export class ImageDelta {
  readonly #base: ClusterImage;
  readonly #scalars: Mutable<
    Pick<ClusterImage, 'clusterId' | 'nextProducerId' | 'nextBrokerEpoch'>
  >;
  #brokers: Map<BrokerId, BrokerImage> | undefined;
  readonly #drafts = new Map<Uuid, TopicDraft>();
  readonly #removed = new Map<Uuid, TopicImage>();
  readonly #createdNames = new Set<string>();
  readonly #deleted: Uuid[] = [];

  constructor(base: ClusterImage) {
    this.#base = base;
    this.#scalars = {
      clusterId: base.clusterId,
      nextProducerId: base.nextProducerId,
      nextBrokerEpoch: base.nextBrokerEpoch,
    };
  }

  apply(record: MetadataRecord): void {
    switch (record.kind) {
      case 'clusterIdentity':
        assert(
          this.#scalars.clusterId === undefined || this.#scalars.clusterId === record.clusterId,
          'a cluster keeps its id',
          { was: this.#scalars.clusterId, record: record.clusterId },
        );
        this.#scalars.clusterId = record.clusterId;
        return;
      case 'brokerEpochs':
        assert(record.next >= this.#scalars.nextBrokerEpoch, 'broker epochs never fall');
        this.#scalars.nextBrokerEpoch = record.next;
        return;
      case 'producerIds':
        assert(record.next >= this.#scalars.nextProducerId, 'producer ids are never used twice');
        this.#scalars.nextProducerId = record.next;
        return;
      case 'brokerRegistration':
        this.#register(record);
        return;
      case 'brokerState':
        this.#setBrokerState(record);
        return;
      case 'topicCreation':
        this.#createTopic(record);
        return;
      case 'topicRemoval':
        this.#removeTopic(record.topicId);
        return;
      case 'deletedTopics':
        this.#deleted.push(...record.topicIds);
        return;
      case 'topicSetting':
        this.#set(record);
        return;
      case 'partitionCreation':
        this.#createPartition(record);
        return;
      case 'partitionChange':
        this.#changePartition(record);
        return;
      default:
        unreachable(record, 'an unknown metadata record');
    }
  }

  /** The image after everything applied, as of the log entry `index` of `term`, and what changed. */
  finish(index: LogIndex, term: Term): { image: ClusterImage; delta: MetadataDelta } {
    const base = this.#base;
    assert(index >= base.index, 'an image only goes forward', { from: base.index, to: index });
    const topics = this.#finishTopics();
    const image: ClusterImage = {
      index,
      term,
      ...this.#scalars,
      brokers: this.#brokers ?? base.brokers,
      topicsById: topics.byId,
      topicsByName: topics.byName,
      deletedTopics: base.deletedTopics.with(this.#deleted),
    };
    const brokers: BrokerDelta[] = [];
    for (const after of this.#brokers?.values() ?? []) {
      const before = base.brokers.get(after.id);
      if (before !== after) brokers.push({ before, after });
    }
    return { image, delta: { from: base.index, to: index, brokers, ...topics.changes } };
  }

  #finishTopics(): {
    byId: ReadonlyMap<Uuid, TopicImage>;
    byName: ReadonlyMap<string, TopicImage>;
    changes: Omit<MetadataDelta, 'from' | 'to' | 'brokers'>;
  } {
    const createdTopics: TopicImage[] = [];
    const reconfiguredTopics: TopicImage[] = [];
    const partitions: PartitionDelta[] = [];
    const removedTopics = [...this.#removed.values()];
    if (this.#drafts.size === 0 && removedTopics.length === 0) {
      return {
        byId: this.#base.topicsById,
        byName: this.#base.topicsByName,
        changes: { createdTopics, removedTopics, reconfiguredTopics, partitions },
      };
    }
    const byId = new Map(this.#base.topicsById);
    const byName = new Map(this.#base.topicsByName);
    for (const topic of removedTopics) {
      byId.delete(topic.id);
      byName.delete(topic.name);
    }
    for (const draft of this.#drafts.values()) {
      const { id, name, config, before } = draft;
      const topic: TopicImage = { id, name, config, partitions: draft.partitions };
      byId.set(id, topic);
      byName.set(name, topic);
      if (before === undefined) createdTopics.push(topic);
      else if (draft.configChanged) reconfiguredTopics.push(topic);
      for (const partition of draft.touched) {
        const after = topic.partitions[partition];
        assert(after !== undefined, 'a touched partition exists');
        partitions.push({ topic, partition, before: before?.partitions[partition], after });
      }
    }
    return {
      byId,
      byName,
      changes: { createdTopics, removedTopics, reconfiguredTopics, partitions },
    };
  }

  #broker(id: BrokerId): BrokerImage | undefined {
    return (this.#brokers ?? this.#base.brokers).get(id);
  }

  #setBroker(broker: BrokerImage): void {
    this.#brokers ??= new Map(this.#base.brokers);
    this.#brokers.set(broker.id, broker);
  }

  #register(record: BrokerRegistrationRecord): void {
    const { kind: _, brokerId, brokerEpoch, ...rest } = record;
    const known = this.#broker(brokerId);
    assert(
      brokerEpoch >= 1 && (known === undefined || brokerEpoch > known.epoch),
      'broker epochs grow',
      {
        broker: brokerId,
        was: known?.epoch,
        record: brokerEpoch,
      },
    );
    this.#setBroker({
      id: brokerId,
      epoch: brokerEpoch,
      ...rest,
      fenced: true,
      shuttingDown: false,
    });
    if (brokerEpoch >= this.#scalars.nextBrokerEpoch) {
      this.#scalars.nextBrokerEpoch = (brokerEpoch + 1) as typeof brokerEpoch;
    }
  }

  #setBrokerState(record: BrokerStateRecord): void {
    const broker = this.#broker(record.brokerId);
    assert(broker?.epoch === record.brokerEpoch, 'a state is of the registered broker', {
      broker: record.brokerId,
      registered: broker?.epoch,
      record: record.brokerEpoch,
    });
    const { fenced, shuttingDown } = record;
    this.#setBroker({ ...broker, fenced, shuttingDown });
  }

  #draft(id: Uuid): TopicDraft {
    const known = this.#drafts.get(id);
    if (known !== undefined) return known;
    const before = this.#removed.has(id) ? undefined : this.#base.topicsById.get(id);
    assert(before !== undefined, 'a record is about a topic that exists', { topicId: id });
    const draft: TopicDraft = {
      id,
      name: before.name,
      before,
      config: before.config,
      configChanged: false,
      partitions: [...before.partitions],
      touched: new Set(),
    };
    this.#drafts.set(id, draft);
    return draft;
  }

  #createTopic(record: TopicCreationRecord): void {
    const { topicId: id, name } = record;
    const { topicsById, topicsByName, deletedTopics } = this.#base;
    const isUsed = this.#drafts.has(id) || topicsById.has(id) || deletedTopics.has(id);
    assert(!isUsed, 'topic ids are never used twice', { id });
    const namesake = topicsByName.get(name);
    assert(
      (namesake === undefined || this.#removed.has(namesake.id)) && !this.#createdNames.has(name),
      'topic names are unique',
      { name },
    );
    this.#createdNames.add(name);
    this.#drafts.set(id, {
      id,
      name,
      before: undefined,
      config: new Map(),
      configChanged: false,
      partitions: [],
      touched: new Set(),
    });
  }

  #removeTopic(id: Uuid): void {
    const { before, name } = this.#draft(id);
    this.#drafts.delete(id);
    this.#deleted.push(id);
    if (before === undefined) this.#createdNames.delete(name);
    else this.#removed.set(id, before);
  }

  #set(record: TopicSettingRecord): void {
    const draft = this.#draft(record.topicId);
    const config = new Map(draft.config);
    if (record.value === undefined) config.delete(record.name);
    else config.set(record.name, record.value);
    draft.config = config;
    draft.configChanged = true;
  }

  #createPartition(record: PartitionCreationRecord): void {
    const { kind: _, topicId, partition, ...image } = record;
    const draft = this.#draft(topicId);
    assert(partition === draft.partitions.length, 'partitions are numbered without gaps', {
      topic: draft.name,
      partition,
      count: draft.partitions.length,
    });
    this.#check(draft, partition, image);
    draft.partitions.push(image);
    draft.touched.add(partition);
  }

  #changePartition(record: PartitionChangeRecord): void {
    const { partition, leader } = record;
    const draft = this.#draft(record.topicId);
    const before = draft.partitions[partition];
    assert(before !== undefined, 'a changed partition exists', { topic: draft.name, partition });
    const leaderEpoch =
      leader === undefined ? before.leaderEpoch : ((before.leaderEpoch + 1) as LeaderEpoch);
    const after: PartitionImage = {
      replicas: before.replicas,
      isr: record.isr ?? before.isr,
      elr: record.elr ?? before.elr,
      offline: record.offline ?? before.offline,
      leader: leader ?? before.leader,
      leaderEpoch,
      partitionEpoch: (before.partitionEpoch + 1) as PartitionEpoch,
      uncleanEpoch: record.unclean ? leaderEpoch : before.uncleanEpoch,
    };
    assert(
      !record.unclean || (leader !== undefined && after.isr.length === 1),
      'an unclean change names a leader, or nobody, and leaves one in sync',
      { topic: draft.name, partition },
    );
    assert(
      leaderEpoch <= EPOCH_MAX && after.partitionEpoch <= EPOCH_MAX,
      'an epoch fits into 32 bits',
      { topic: draft.name, partition },
    );
    this.#check(draft, partition, after);
    draft.partitions[partition] = after;
    draft.touched.add(partition);
  }

  /** K6: leader ∈ in-sync set ⊆ replicas, and the leader is registered and not fenced. */
  #check(draft: TopicDraft, partition: number, after: PartitionImage): void {
    const { leader, isr, elr, offline, replicas } = after;
    const holds =
      replicas.length > 0 &&
      isr.every((member) => replicas.includes(member)) &&
      elr.every((member) => replicas.includes(member) && !isr.includes(member)) &&
      !offline.includes(leader) &&
      (leader === NO_BROKER || (isr.includes(leader) && this.#broker(leader)?.fenced === false)) &&
      after.leaderEpoch > NO_LEADER_EPOCH;
    assert(holds, 'the leader is live and in sync, and who is in sync is a replica', {
      partition: `${draft.name}-${partition}`,
      leader,
      isr,
      elr,
      offline,
      replicas,
    });
  }
}

/** Folds one batch of records, a log entry, into the image. */
export function replay(
  image: ClusterImage,
  records: readonly MetadataRecord[],
  at: { readonly index: LogIndex; readonly term: Term },
): { image: ClusterImage; delta: MetadataDelta } {
  const delta = new ImageDelta(image);
  for (const record of records) delta.apply(record);
  return delta.finish(at.index, at.term);
}

/** What changed between two images of one log, for when a snapshot took the place of records. */
export function difference(before: ClusterImage, after: ClusterImage): MetadataDelta {
  const brokers: BrokerDelta[] = [];
  for (const broker of after.brokers.values()) {
    const known = before.brokers.get(broker.id);
    if (known === undefined || !sameBroker(known, broker)) {
      brokers.push({ before: known, after: broker });
    }
  }
  const createdTopics: TopicImage[] = [];
  const reconfiguredTopics: TopicImage[] = [];
  const partitions: PartitionDelta[] = [];
  for (const topic of after.topicsById.values()) {
    const known = before.topicsById.get(topic.id);
    if (known === undefined) createdTopics.push(topic);
    else if (!sameConfig(known.config, topic.config)) reconfiguredTopics.push(topic);
    topic.partitions.forEach((partition, number) => {
      const was = known?.partitions[number];
      if (was?.partitionEpoch === partition.partitionEpoch) return;
      partitions.push({ topic, partition: number, before: was, after: partition });
    });
  }
  const removedTopics = [...before.topicsById.values()].filter(
    (topic) => !after.topicsById.has(topic.id),
  );
  return {
    from: before.index,
    to: after.index,
    brokers,
    createdTopics,
    removedTopics,
    reconfiguredTopics,
    partitions,
  };
}

const sameBroker = (a: BrokerImage, b: BrokerImage): boolean =>
  a.epoch === b.epoch && a.fenced === b.fenced && a.shuttingDown === b.shuttingDown;

const sameConfig = (a: ReadonlyMap<string, string>, b: ReadonlyMap<string, string>): boolean =>
  a.size === b.size && [...a].every(([name, value]) => b.get(name) === value);

/** Everything in the image as one delta from nothing: for a listener that comes late. */
export const wholeOf = (image: ClusterImage): MetadataDelta => difference(EMPTY_IMAGE, image);
