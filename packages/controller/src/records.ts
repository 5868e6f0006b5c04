/**
 * The records of the metadata log: the only thing that changes a `ClusterImage`. The controller decides
 * on records, the quorum replicates them, and every node folds the same ones into the same image.
 * `proto/relevo/cluster/v1/metadata_records.proto` has their form on the wire and on disk.
 */
import type {
  BrokerEpoch,
  BrokerId,
  LeaderEpoch,
  PartitionEpoch,
  ProducerId,
  Uuid,
} from '@relevo/base/ids';

export type MetadataRecord =
  | ClusterIdentityRecord
  | BrokerEpochsRecord
  | ProducerIdsRecord
  | BrokerRegistrationRecord
  | BrokerStateRecord
  | TopicCreationRecord
  | TopicRemovalRecord
  | DeletedTopicsRecord
  | TopicSettingRecord
  | PartitionCreationRecord
  | PartitionChangeRecord;

/** The first record of the log, written by the first active controller. */
export interface ClusterIdentityRecord {
  readonly kind: 'clusterIdentity';
  readonly clusterId: string;
}

/** The first broker epoch that has not been given out. In snapshots only. */
export interface BrokerEpochsRecord {
  readonly kind: 'brokerEpochs';
  readonly next: BrokerEpoch;
}

/** The first producer id that has not been given out. */
export interface ProducerIdsRecord {
  readonly kind: 'producerIds';
  readonly next: ProducerId;
}

/** Under which address clients that come to one of a broker's listeners reach it there. */
export interface ListenerAddress {
  /** The listener's name, the same on all brokers. */
  readonly listener: string;
  /** host:port. */
  readonly address: string;
}

/** A broker as it starts: fenced, and under a new epoch. */
export interface BrokerRegistrationRecord {
  readonly kind: 'brokerRegistration';
  readonly brokerId: BrokerId;
  readonly brokerEpoch: BrokerEpoch;
  /** New at each start of the process. */
  readonly incarnationId: string;
  /** Of the data directory; a wiped or swapped disk has another. */
  readonly directoryId: string;
  /** host:port, on the first listener. */
  readonly clientAddress: string;
  /** host:port. */
  readonly peerAddress: string;
  /** Empty: none. */
  readonly rack: string;
  readonly listeners: readonly ListenerAddress[];
}

export interface BrokerStateRecord {
  readonly kind: 'brokerState';
  readonly brokerId: BrokerId;
  readonly brokerEpoch: BrokerEpoch;
  readonly fenced: boolean;
  readonly shuttingDown: boolean;
}

export interface TopicCreationRecord {
  readonly kind: 'topicCreation';
  readonly topicId: Uuid;
  readonly name: string;
}

/** With all its partitions and settings. */
export interface TopicRemovalRecord {
  readonly kind: 'topicRemoval';
  readonly topicId: Uuid;
}

/** Ids of topics that were deleted before, the oldest first. In snapshots only. */
export interface DeletedTopicsRecord {
  readonly kind: 'deletedTopics';
  readonly topicIds: readonly Uuid[];
}

export interface TopicSettingRecord {
  readonly kind: 'topicSetting';
  readonly topicId: Uuid;
  readonly name: string;
  /** Undefined: back to the default. */
  readonly value: string | undefined;
}

export interface PartitionCreationRecord {
  readonly kind: 'partitionCreation';
  readonly topicId: Uuid;
  /** From 0, without gaps. */
  readonly partition: number;
  /** The first is the preferred leader. */
  readonly replicas: readonly BrokerId[];
  readonly isr: readonly BrokerId[];
  /** As in `PartitionImage`; empty in a new one. */
  readonly elr: readonly BrokerId[];
  readonly offline: readonly BrokerId[];
  /** `NO_BROKER`: none could be elected. */
  readonly leader: BrokerId;
  readonly leaderEpoch: LeaderEpoch;
  readonly partitionEpoch: PartitionEpoch;
  /** The leader epoch of the last unclean election; `NO_LEADER_EPOCH`: there was none. */
  readonly uncleanEpoch: LeaderEpoch;
}

/**
 * What is undefined stays as it is. The partition epoch grows by one with each change, the leader epoch
 * with each one that names a leader (`NO_BROKER`: none can be elected).
 */
export interface PartitionChangeRecord {
  readonly kind: 'partitionChange';
  readonly topicId: Uuid;
  readonly partition: number;
  readonly leader: BrokerId | undefined;
  readonly isr: readonly BrokerId[] | undefined;
  readonly elr: readonly BrokerId[] | undefined;
  readonly offline: readonly BrokerId[] | undefined;
  /** The leader was not in sync, or crashed without having synced: records may have been lost. */
  readonly unclean: boolean;
}
