/**
 * An image as records and back. The order is fixed (counters, brokers by id, topics by id, settings by
 * name, partitions by number, deleted topics), so equal images give equal records, and equal bytes.
 */
import type { LogIndex, Term } from '@relevo/base/ids';
import { EMPTY_IMAGE } from './image.ts';
import type { BrokerImage, ClusterImage, TopicImage } from './image.ts';
import { replay } from './replay.ts';
import type { MetadataRecord } from './records.ts';

export function imageToRecords(image: ClusterImage): MetadataRecord[] {
  const records: MetadataRecord[] = [];
  if (image.clusterId !== undefined) {
    records.push({ kind: 'clusterIdentity', clusterId: image.clusterId });
  }
  records.push({ kind: 'brokerEpochs', next: image.nextBrokerEpoch });
  records.push({ kind: 'producerIds', next: image.nextProducerId });
  for (const broker of [...image.brokers.values()].sort((a, b) => a.id - b.id)) {
    brokerRecords(broker, records);
  }
  for (const topic of [...image.topicsById.values()].sort((a, b) => (a.id < b.id ? -1 : 1))) {
    topicRecords(topic, records);
  }
  if (image.deletedTopics.size > 0) {
    records.push({ kind: 'deletedTopics', topicIds: [...image.deletedTopics] });
  }
  return records;
}

export const imageFromRecords = (
  records: readonly MetadataRecord[],
  at: { readonly index: LogIndex; readonly term: Term },
): ClusterImage => replay(EMPTY_IMAGE, records, at).image;

function brokerRecords(broker: BrokerImage, records: MetadataRecord[]): void {
  const { id: brokerId, epoch: brokerEpoch, fenced, shuttingDown, ...rest } = broker;
  records.push({ kind: 'brokerRegistration', brokerId, brokerEpoch, ...rest });
  // A registration alone leaves the broker fenced.
  if (!fenced || shuttingDown) {
    records.push({ kind: 'brokerState', brokerId, brokerEpoch, fenced, shuttingDown });
  }
}

function topicRecords(topic: TopicImage, records: MetadataRecord[]): void {
  const topicId = topic.id;
  records.push({ kind: 'topicCreation', topicId, name: topic.name });
  for (const [name, value] of [...topic.config].sort(([a], [b]) => (a < b ? -1 : 1))) {
    records.push({ kind: 'topicSetting', topicId, name, value });
  }
  topic.partitions.forEach((image, partition) => {
    records.push({ kind: 'partitionCreation', topicId, partition, ...image });
  });
}
