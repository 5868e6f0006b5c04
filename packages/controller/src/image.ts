/**
 * The state of the cluster: the fold of the metadata log up to `index`. Immutable, so that whoever holds
 * one holds a consistent view for as long as it likes; two images share all that did not change.
 */
import type {
  BrokerEpoch,
  BrokerId,
  LeaderEpoch,
  LogIndex,
  PartitionEpoch,
  ProducerId,
  Term,
  Uuid,
} from '@relevo/base/ids';
import { DeletedTopics } from './deleted-topics.ts';
import type { ListenerAddress } from './records.ts';

export interface ClusterImage {
  /** Of the last log entry in it; 0: nothing. */
  readonly index: LogIndex;
  /** Of that entry. */
  readonly term: Term;
  /** Undefined until the first active controller has written it. */
  readonly clusterId: string | undefined;
  readonly brokers: ReadonlyMap<BrokerId, BrokerImage>;
  readonly topicsById: ReadonlyMap<Uuid, TopicImage>;
  readonly topicsByName: ReadonlyMap<string, TopicImage>;
  /** None of them is among the topics, nor will be. */
  readonly deletedTopics: DeletedTopics;
  /** The first id that has not been given out. */
  readonly nextProducerId: ProducerId;
  /** The first epoch that has not been given out. */
  readonly nextBrokerEpoch: BrokerEpoch;
}

export interface BrokerImage {
  readonly id: BrokerId;
  readonly epoch: BrokerEpoch;
  readonly incarnationId: string;
  readonly directoryId: string;
  readonly clientAddress: string;
  readonly peerAddress: string;
  /** Empty: none. */
  readonly rack: string;
  readonly listeners: readonly ListenerAddress[];
  /**
   * Leads nothing. In in-sync sets only since its registration, until it serves or its session ends, and
   * where it was the last.
   */
  readonly fenced: boolean;
  /** Serves on, but is given no leadership and enters no in-sync set. */
  readonly shuttingDown: boolean;
}

export interface TopicImage {
  readonly id: Uuid;
  readonly name: string;
  /** What was set on the topic itself; see `topic-config.ts`. */
  readonly config: ReadonlyMap<string, string>;
  readonly partitions: readonly PartitionImage[];
}

export interface PartitionImage {
  /** The first is the preferred leader. Never empty. */
  readonly replicas: readonly BrokerId[];
  /**
   * In the order of `replicas`. Empty only when the last member lost its copy: it came back with another
   * disk, or its log is damaged and others have all of it (`elr`).
   */
  readonly isr: readonly BrokerId[];
  /**
   * Eligible leaders beside the in-sync set (KIP-966): replicas that left it when it fell below
   * min.insync.replicas, or later. Since then nothing was acknowledged with acks=all, so they have all that
   * was. Empty when the in-sync set has that many members. While it is not, the leader acknowledges nothing.
   */
  readonly elr: readonly BrokerId[];
  /** Replicas whose brokers say that the log cannot be used: damaged, or its disk fails. They lead nothing. */
  readonly offline: readonly BrokerId[];
  /** In the in-sync set, or `NO_BROKER`. */
  readonly leader: BrokerId;
  readonly leaderEpoch: LeaderEpoch;
  readonly partitionEpoch: PartitionEpoch;
  /**
   * The leader epoch of the last unclean election, or `NO_LEADER_EPOCH`. A replica that last followed an
   * older epoch may have to truncate below its high watermark; any other never does (invariant P5).
   */
  readonly uncleanEpoch: LeaderEpoch;
}

/** Before the first record. Broker epochs begin at 1, producer ids at 1: 0 is never given out. */
export const EMPTY_IMAGE: ClusterImage = {
  index: 0 as LogIndex,
  term: 0 as Term,
  clusterId: undefined,
  brokers: new Map(),
  topicsById: new Map(),
  topicsByName: new Map(),
  deletedTopics: DeletedTopics.of([]),
  nextProducerId: 0 as ProducerId,
  nextBrokerEpoch: 1 as BrokerEpoch,
};

/** The replica that leads when all is well. */
export function preferredLeader(partition: PartitionImage): BrokerId {
  const [first] = partition.replicas;
  if (first === undefined) throw new RangeError('a partition has at least one replica');
  return first;
}

/** Whether the broker may be given leadership and enter in-sync sets. */
export function isEligible(image: ClusterImage, id: BrokerId): boolean {
  const broker = image.brokers.get(id);
  return broker !== undefined && !broker.fenced && !broker.shuttingDown;
}
