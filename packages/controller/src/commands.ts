/**
 * What the controller can be asked, and what it answers. A decision changes nothing: it is records that,
 * once replicated, are replayed into the image, and the answer that is good once they are.
 */
import type { ErrorCode } from '@relevo/base/errors';
import type {
  BrokerEpoch,
  BrokerId,
  LeaderEpoch,
  PartitionEpoch,
  ProducerId,
  Uuid,
} from '@relevo/base/ids';
import type { ListenerAddress, MetadataRecord } from './records.ts';
import type { TopicSettings } from './topic-config.ts';

/** What the node that decides has in its configuration; only ever read while deciding. */
export interface ClusterDefaults {
  /** num.partitions. */
  readonly partitions: number;
  /** default.replication.factor. */
  readonly replicationFactor: number;
  readonly topic: TopicSettings;
}

export interface Decision<Response> {
  /** In an order in which every prefix keeps the invariants, so that they may go into several entries. */
  readonly records: readonly MetadataRecord[];
  /** All records must go into one entry. */
  readonly atomic: boolean;
  /** To be given only once the records, and those that the image held, are committed. */
  readonly response: Response;
}

/** A node has become the active controller: names the cluster, finishes what its predecessor left. */
export interface Activate {
  readonly kind: 'activate';
  readonly clusterId: string;
}

export interface RegisterBroker {
  readonly kind: 'registerBroker';
  readonly clusterId: string;
  readonly brokerId: BrokerId;
  readonly incarnationId: string;
  /** The last starts of the data directory, oldest first, this one last. */
  readonly incarnations: readonly string[];
  readonly directoryId: string;
  readonly clientAddress: string;
  readonly peerAddress: string;
  readonly rack: string;
  readonly listeners: readonly ListenerAddress[];
  /** The session of the incarnation before has ended, or cannot be alive any more. */
  readonly predecessorGone: boolean;
  /** The last run ended well; else what was not fsynced (flush.mode=os) may be lost. */
  readonly nothingLost: boolean;
}

export interface RegisterBrokerAnswer {
  readonly brokerEpoch: BrokerEpoch;
}

/** A named broker under the epoch that it is believed to have; under another nothing is done. */
export interface OfBroker {
  readonly brokerId: BrokerId;
  readonly brokerEpoch: BrokerEpoch;
}

/** Those that are found gone together are fenced together: an in-sync set loses them at once, or none of them. */
export interface FenceBrokers {
  readonly kind: 'fenceBrokers';
  readonly brokers: readonly OfBroker[];
}

export interface UnfenceBroker extends OfBroker {
  readonly kind: 'unfenceBroker';
}

/** Moves leadership away from the broker and takes it out of in-sync sets; may be repeated. */
export interface ShutDownBroker extends OfBroker {
  readonly kind: 'shutDownBroker';
}

export interface BrokerStateAnswer {
  /** False: it was so already, or the broker has another epoch by now. */
  readonly changed: boolean;
}

export interface CreateTopic {
  readonly kind: 'createTopic';
  /** Drawn by the caller. */
  readonly topicId: Uuid;
  readonly name: string;
  /** -1 or 0: the cluster's default. Not together with `assignment`. */
  readonly partitions: number;
  /** -1 or 0: the cluster's default. Not together with `assignment`. */
  readonly replicationFactor: number;
  readonly config: ReadonlyMap<string, string>;
  /** Replicas by partition; empty: chosen by the controller. */
  readonly assignment: readonly (readonly BrokerId[])[];
  readonly validateOnly: boolean;
  /** Drawn by the caller; breaks ties of the placement. */
  readonly seed: number;
}

export interface CreateTopicAnswer {
  readonly topicId: Uuid;
  readonly partitions: number;
  readonly replicationFactor: number;
}

export interface DeleteTopic {
  readonly kind: 'deleteTopic';
  readonly name: string;
}

export interface DeleteTopicAnswer {
  readonly topicId: Uuid;
}

export interface CreatePartitions {
  readonly kind: 'createPartitions';
  readonly topic: string;
  /** The new total. */
  readonly partitions: number;
  /** Drawn by the caller. */
  readonly seed: number;
}

export interface CreatePartitionsAnswer {
  readonly partitions: number;
}

export interface AlterTopicConfig {
  readonly kind: 'alterTopicConfig';
  readonly topic: string;
  readonly set: ReadonlyMap<string, string>;
  /** Back to the default. */
  readonly unset: readonly string[];
}

export interface AlterPartitions extends OfBroker {
  readonly kind: 'alterPartitions';
  readonly partitions: readonly PartitionProposal[];
}

/** An in-sync set that the leader of a partition wants. */
export interface PartitionProposal {
  readonly topicId: Uuid;
  readonly partition: number;
  readonly leaderEpoch: LeaderEpoch;
  readonly partitionEpoch: PartitionEpoch;
  readonly isr: readonly { readonly brokerId: BrokerId; readonly brokerEpoch: BrokerEpoch }[];
}

/** In the order of the proposals. With an error: what holds instead is in the metadata. */
export interface PartitionOutcome {
  readonly error: ErrorCode;
  readonly isr: readonly BrokerId[];
  readonly elr: readonly BrokerId[];
  readonly leaderEpoch: LeaderEpoch;
  readonly partitionEpoch: PartitionEpoch;
}

export interface AlterPartitionsAnswer {
  readonly partitions: readonly PartitionOutcome[];
}

/** A broker says which of its replicas cannot be used, and which can be again. */
export interface ReportReplicas extends OfBroker {
  readonly kind: 'reportReplicas';
  readonly replicas: readonly {
    readonly topicId: Uuid;
    readonly partition: number;
    readonly offline: boolean;
  }[];
}

export interface ReportReplicasAnswer {
  /** Partitions that were not so already. */
  readonly changed: number;
}

export interface ElectPreferred {
  readonly kind: 'electPreferred';
  /** Empty: all topics. */
  readonly topic: string;
  /** Empty: all partitions of the topic. */
  readonly partitions: readonly number[];
}

export interface ElectionOutcome {
  readonly topic: string;
  readonly partition: number;
  /** NONE: moved. */
  readonly error: ErrorCode;
  readonly message: string;
  readonly leader: BrokerId;
}

export interface ElectPreferredAnswer {
  /** Those moved and those that could not be; partitions led as they should be are left out. */
  readonly results: readonly ElectionOutcome[];
}

/** Leadership goes back to the preferred replicas of these partitions, where that is still possible. */
export interface HandBack {
  readonly kind: 'handBack';
  readonly partitions: readonly { readonly topicId: Uuid; readonly partition: number }[];
}

export interface HandBackAnswer {
  readonly moved: number;
}

export interface AllocateProducerIds extends OfBroker {
  readonly kind: 'allocateProducerIds';
}

export interface AllocateProducerIdsAnswer {
  readonly first: ProducerId;
  readonly count: number;
}

export type Nothing = Readonly<Record<never, never>>;

/** Each command with its answer. */
export interface Commands {
  readonly activate: { command: Activate; answer: Nothing };
  readonly registerBroker: { command: RegisterBroker; answer: RegisterBrokerAnswer };
  readonly fenceBrokers: { command: FenceBrokers; answer: BrokerStateAnswer };
  readonly unfenceBroker: { command: UnfenceBroker; answer: BrokerStateAnswer };
  readonly shutDownBroker: { command: ShutDownBroker; answer: BrokerStateAnswer };
  readonly createTopic: { command: CreateTopic; answer: CreateTopicAnswer };
  readonly deleteTopic: { command: DeleteTopic; answer: DeleteTopicAnswer };
  readonly createPartitions: { command: CreatePartitions; answer: CreatePartitionsAnswer };
  readonly alterTopicConfig: { command: AlterTopicConfig; answer: Nothing };
  readonly alterPartitions: { command: AlterPartitions; answer: AlterPartitionsAnswer };
  readonly reportReplicas: { command: ReportReplicas; answer: ReportReplicasAnswer };
  readonly electPreferred: { command: ElectPreferred; answer: ElectPreferredAnswer };
  readonly handBack: { command: HandBack; answer: HandBackAnswer };
  readonly allocateProducerIds: {
    command: AllocateProducerIds;
    answer: AllocateProducerIdsAnswer;
  };
}

export type CommandKind = keyof Commands;
export type CommandOf<Kind extends CommandKind> = Commands[Kind]['command'];
export type AnswerOf<Kind extends CommandKind> = Commands[Kind]['answer'];
