/**
 * What the client knows of the cluster: the fold of what brokers tell it. Brokers lag behind one
 * another by different amounts, so what arrives later may be older. Two rules keep the view from going
 * back: a partition never returns to a lower leader epoch (nor, within one, to a lower partition
 * epoch), and a whole picture with a lower version than one seen before only adds.
 */
import { brokerId, leaderEpoch, partitionEpoch } from '@relevo/base/ids';
import type { BrokerId, LeaderEpoch, PartitionEpoch } from '@relevo/base/ids';
import type {
  BrokerMetadata,
  ClusterMetadata,
  MetadataUpdate,
  PartitionMetadata,
  TopicMetadata,
} from '@relevo/rpc/gen/client/metadata';
import type { CurrentLeader } from '@relevo/rpc/gen/common/errors';

export interface PartitionView {
  readonly topicId: string;
  readonly partition: number;
  /** -1: none. */
  readonly leader: BrokerId;
  readonly leaderEpoch: LeaderEpoch;
  readonly partitionEpoch: PartitionEpoch;
  readonly replicas: readonly number[];
  readonly isr: readonly number[];
  /** Not in sync, yet with every acknowledged record. */
  readonly elr: readonly number[];
  /** Whose logs cannot be used. */
  readonly offline: readonly number[];
}

export interface TopicView {
  readonly name: string;
  readonly topicId: string;
  readonly partitionCount: number;
  /** By partition number; one that has not been told of yet is missing. */
  readonly partitions: readonly (PartitionView | undefined)[];
}

export interface BrokerView {
  readonly id: BrokerId;
  readonly address: string;
  readonly rack: string;
  readonly fenced: boolean;
}

/** What an update changed, for those who act on it. */
export interface ViewChange {
  /** New ones, and those whose leader or leader epoch changed. */
  readonly partitions: readonly PartitionView[];
  /** Those of which only the in-sync set or the replicas changed. */
  readonly inSync: readonly PartitionView[];
  /** New ones, and those that have more partitions now. */
  readonly topics: readonly TopicView[];
  readonly deleted: readonly TopicView[];
  readonly brokersChanged: boolean;
}

export const NO_CHANGE: ViewChange = {
  partitions: [],
  inSync: [],
  topics: [],
  deleted: [],
  brokersChanged: false,
};

interface MutableTopic {
  readonly name: string;
  readonly topicId: string;
  partitionCount: number;
  readonly partitions: (PartitionView | undefined)[];
}

interface MutableChange {
  readonly partitions: PartitionView[];
  readonly inSync: PartitionView[];
  readonly topics: TopicView[];
  readonly deleted: TopicView[];
  brokersChanged: boolean;
}

export class ClusterView {
  readonly #brokers = new Map<BrokerId, BrokerView>();
  readonly #byName = new Map<string, MutableTopic>();
  readonly #byId = new Map<string, MutableTopic>();
  clusterId = '';
  controllerId: BrokerId = brokerId(-1);
  /** The highest that any broker told. */
  version = 0;

  brokers(): readonly BrokerView[] {
    return [...this.#brokers.values()];
  }

  topics(): readonly TopicView[] {
    return [...this.#byName.values()];
  }

  topic(name: string): TopicView | undefined {
    return this.#byName.get(name);
  }

  topicById(topicId: string): TopicView | undefined {
    return this.#byId.get(topicId);
  }

  partition(topicId: string, partition: number): PartitionView | undefined {
    return this.#byId.get(topicId)?.partitions[partition];
  }

  /** Where to reach a broker; undefined when it is not known. */
  addressOf(id: BrokerId): string | undefined {
    return this.#brokers.get(id)?.address;
  }

  apply(update: MetadataUpdate): ViewChange {
    const change: MutableChange = {
      partitions: [],
      inSync: [],
      topics: [],
      deleted: [],
      brokersChanged: false,
    };
    const isCurrent = update.version >= this.version;
    if (isCurrent) {
      this.version = update.version;
      if (update.clusterId !== '') this.clusterId = update.clusterId;
      if (update.full || update.controllerId >= 0)
        this.controllerId = brokerId(update.controllerId);
    }
    if (update.brokers.length > 0 && (isCurrent || this.#brokers.size === 0)) {
      this.#replaceBrokers(update.brokers, change);
    }
    for (const topic of update.topics) this.#mergeTopic(topic, isCurrent, change);
    if (isCurrent && update.full) {
      const told = new Set(update.topics.map(({ topicId }) => topicId));
      for (const topic of [...this.#byId.values()]) {
        if (!told.has(topic.topicId)) this.#delete(topic, change);
      }
    }
    if (isCurrent) {
      for (const topicId of update.deletedTopicIds) {
        const topic = this.#byId.get(topicId);
        if (topic !== undefined) this.#delete(topic, change);
      }
    }
    return change;
  }

  /** An answer to GetMetadata; `full` when it was asked for everything. */
  applyMetadata(metadata: ClusterMetadata, full: boolean): ViewChange {
    const known = metadata.topics.filter(({ error, topicId }) => error === 0 && topicId !== '');
    return this.apply({ ...metadata, full, topics: known, deletedTopicIds: [] });
  }

  /** What an error told of a partition's leader; nothing changes when it is no news. */
  applyHint(topicId: string, partition: number, hint: CurrentLeader): ViewChange {
    const topic = this.#byId.get(topicId);
    const known = topic?.partitions[partition];
    if (topic === undefined || known === undefined) return NO_CHANGE;
    if (hint.leaderEpoch <= known.leaderEpoch) return NO_CHANGE;
    const leader = brokerId(hint.brokerId);
    const brokersChanged = leader >= 0 && hint.address !== '' && !this.#brokers.has(leader);
    if (brokersChanged) {
      this.#brokers.set(leader, { id: leader, address: hint.address, rack: '', fenced: false });
    }
    const told = { ...known, leader, leaderEpoch: leaderEpoch(hint.leaderEpoch) };
    topic.partitions[partition] = told;
    return { ...NO_CHANGE, partitions: [told], brokersChanged };
  }

  #replaceBrokers(brokers: readonly BrokerMetadata[], change: MutableChange): void {
    const before = new Map(this.#brokers);
    this.#brokers.clear();
    for (const { id, address, rack, fenced } of brokers) {
      const view = { id: brokerId(id), address, rack, fenced };
      this.#brokers.set(view.id, view);
      const old = before.get(view.id);
      if (old?.address !== address || old.fenced !== fenced) change.brokersChanged = true;
    }
    if (before.size !== this.#brokers.size) change.brokersChanged = true;
  }

  #mergeTopic(told: TopicMetadata, isCurrent: boolean, change: MutableChange): void {
    const namesake = this.#byName.get(told.name);
    if (namesake !== undefined && namesake.topicId !== told.topicId) {
      // The same name with another id: made anew, unless it is an older picture that says so.
      if (!isCurrent) return;
      this.#delete(namesake, change);
    }
    let topic = this.#byId.get(told.topicId);
    if (topic === undefined) {
      topic = { name: told.name, topicId: told.topicId, partitionCount: 0, partitions: [] };
      this.#byName.set(topic.name, topic);
      this.#byId.set(topic.topicId, topic);
    }
    for (const partition of told.partitions) mergePartition(topic, partition, change);
    const count = Math.max(told.partitionCount, topic.partitions.length);
    if (count > topic.partitionCount) {
      topic.partitionCount = count;
      change.topics.push(topic);
    }
  }

  #delete(topic: MutableTopic, change: MutableChange): void {
    this.#byId.delete(topic.topicId);
    if (this.#byName.get(topic.name) === topic) this.#byName.delete(topic.name);
    change.deleted.push(topic);
  }
}

/** Why a partition has no leader: which brokers could lead it, as far as the metadata tell, and what keeps them. */
export function whyNoLeader({ isr, elr, offline }: PartitionView): string {
  const whole = [...isr, ...elr];
  const away = whole.filter((id) => !offline.includes(id));
  if (away.length > 0) return `it has no leader until broker ${away.join(', ')} serves again`;
  if (whole.length === 0) return 'it has no leader, and nobody is sure to have all its records';
  return `it has no leader: the log of broker ${whole.join(', ')} cannot be used`;
}

function mergePartition(topic: MutableTopic, told: PartitionMetadata, change: MutableChange): void {
  const known = topic.partitions[told.partition];
  if (known !== undefined) {
    if (told.leaderEpoch < known.leaderEpoch) return;
    const sameReign = told.leaderEpoch === known.leaderEpoch;
    if (sameReign && told.partitionEpoch < known.partitionEpoch) return;
  }
  const view: PartitionView = {
    topicId: topic.topicId,
    partition: told.partition,
    leader: brokerId(told.leader),
    leaderEpoch: leaderEpoch(told.leaderEpoch),
    partitionEpoch: partitionEpoch(told.partitionEpoch),
    replicas: told.replicas,
    isr: told.isr,
    elr: told.elr,
    offline: told.offline,
  };
  while (topic.partitions.length <= told.partition) topic.partitions.push(undefined);
  topic.partitions[told.partition] = view;
  if (known?.leader !== view.leader || known.leaderEpoch !== view.leaderEpoch) {
    change.partitions.push(view);
  } else if (known.partitionEpoch !== view.partitionEpoch) {
    change.inSync.push(view);
  }
}
