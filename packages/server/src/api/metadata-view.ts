/** The cluster image as clients are told it. */
import { ERRORS } from '@relevo/base/errors';
import type { BrokerImage, ClusterImage, TopicImage } from '@relevo/controller/image';
import {
  brokerMetadata,
  metadataUpdate,
  partitionMetadata,
  topicMetadata,
  type BrokerMetadata,
  type MetadataUpdate,
  type PartitionMetadata,
  type TopicMetadata,
} from '@relevo/rpc/gen/client/metadata';
import type { MetadataDelta } from '@relevo/controller/replay';
import { addressOn } from '../partitions/current-leader.ts';

/** Kafka's rule: 1 to 249 of letters, digits, `.`, `_` and `-`, but not `.` or `..`. */
const LEGAL_TOPIC_NAME = /^(?!\.{1,2}$)[A-Za-z0-9._-]{1,249}$/;

/** As callers of that listener see it. */
const viewBroker = (broker: BrokerImage, listener: string): BrokerMetadata =>
  brokerMetadata({
    id: broker.id,
    address: addressOn(broker, listener),
    rack: broker.rack,
    fenced: broker.fenced,
  });

export const viewBrokers = (image: ClusterImage, listener: string): BrokerMetadata[] =>
  [...image.brokers.values()].map((broker) => viewBroker(broker, listener));

function viewPartition(topic: TopicImage, partition: number): PartitionMetadata {
  const image = topic.partitions[partition];
  if (image === undefined) throw new RangeError(`${topic.name} has no partition ${partition}`);
  return partitionMetadata({
    partition,
    leader: image.leader,
    leaderEpoch: image.leaderEpoch,
    replicas: image.replicas,
    isr: image.isr,
    elr: image.elr,
    offline: image.offline,
    partitionEpoch: image.partitionEpoch,
  });
}

/** The topic with all its partitions, or with those numbered. */
export const viewTopic = (topic: TopicImage, partitions?: readonly number[]): TopicMetadata =>
  topicMetadata({
    name: topic.name,
    topicId: topic.id,
    partitionCount: topic.partitions.length,
    partitions: (partitions ?? topic.partitions.map((_, number) => number)).map((number) =>
      viewPartition(topic, number),
    ),
  });

/** All topics, or those named; for a name without a topic an entry with the error `absent`. */
export function viewTopics(
  image: ClusterImage,
  names: readonly string[],
  absent: 'UNKNOWN_TOPIC_OR_PARTITION' | 'LEADER_NOT_AVAILABLE',
): TopicMetadata[] {
  if (names.length === 0) return [...image.topicsById.values()].map((topic) => viewTopic(topic));
  return names.map((name) => {
    const topic = image.topicsByName.get(name);
    if (topic !== undefined) return viewTopic(topic);
    const legal = LEGAL_TOPIC_NAME.test(name);
    const code = legal ? absent : 'INVALID_TOPIC_EXCEPTION';
    return topicMetadata({ name, error: ERRORS[code].number });
  });
}

/** What a watcher of `names` (empty: of all) on a listener must hear of a delta; undefined: nothing. */
export function viewDelta(
  delta: MetadataDelta,
  image: ClusterImage,
  names: ReadonlySet<string>,
  listener: string,
): MetadataUpdate | undefined {
  const watched = (topic: TopicImage): boolean => names.size === 0 || names.has(topic.name);
  const created = delta.createdTopics.filter(watched);
  const createdIds = new Set(created.map(({ id }) => id));
  const changed = new Map<TopicImage, number[]>();
  for (const { topic, partition } of delta.partitions) {
    if (createdIds.has(topic.id) || !watched(topic)) continue;
    const numbers = changed.get(topic);
    if (numbers === undefined) changed.set(topic, [partition]);
    else numbers.push(partition);
  }
  const topics = [
    ...created.map((topic) => viewTopic(topic)),
    ...[...changed].map(([topic, numbers]) => viewTopic(topic, numbers)),
  ];
  const deletedTopicIds = delta.removedTopics.filter(watched).map(({ id }) => id);
  const brokers = delta.brokers.length > 0 ? viewBrokers(image, listener) : [];
  if (topics.length + deletedTopicIds.length + brokers.length === 0) return undefined;
  return metadataUpdate({ topics, deletedTopicIds, brokers });
}
