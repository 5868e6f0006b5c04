/**
 * What must hold of every image at the end of every log entry (K6). Replay asserts what is cheap as it
 * goes; this looks at everything, for tests and for the simulator's checker.
 */
import { NO_BROKER } from '@relevo/base/ids';
import type { ClusterImage, PartitionImage, TopicImage } from './image.ts';

/** One sentence per violation; empty when all holds. */
export function violationsOf(image: ClusterImage): string[] {
  const found: string[] = [];
  const incarnations = new Set<number>();
  for (const broker of image.brokers.values()) {
    if (broker.epoch >= image.nextBrokerEpoch) {
      found.push(`broker ${broker.id} has an epoch that was not given out`);
    }
    if (incarnations.has(broker.epoch)) found.push(`two brokers have the epoch ${broker.epoch}`);
    incarnations.add(broker.epoch);
  }
  if (image.topicsById.size !== image.topicsByName.size) found.push('topic names are not unique');
  for (const topic of image.topicsById.values()) {
    if (image.deletedTopics.has(topic.id))
      found.push(`${topic.name} has the id of a deleted topic`);
    if (image.topicsByName.get(topic.name) !== topic)
      found.push(`${topic.name} is not under its name`);
    topic.partitions.forEach((partition, number) => {
      for (const violation of partitionViolations(image, partition)) {
        found.push(`${topic.name}-${number} ${violation}: ${JSON.stringify(partition)}`);
      }
    });
  }
  return found;
}

function partitionViolations(image: ClusterImage, partition: PartitionImage): string[] {
  const { leader, isr, elr, offline, replicas } = partition;
  const found: string[] = [];
  if (replicas.length === 0) found.push('has no replica');
  if (new Set(replicas).size !== replicas.length) found.push('names a replica twice');
  if (new Set(isr).size !== isr.length) found.push('names an in-sync replica twice');
  if (!isr.every((member) => replicas.includes(member))) found.push('is in sync on a stranger');
  if (leader !== NO_BROKER && !isr.includes(leader)) found.push('is led by one not in sync');
  if (leader !== NO_BROKER && image.brokers.get(leader)?.fenced !== false) {
    found.push('is led by a fenced broker');
  }
  if (!elr.every((member) => replicas.includes(member))) found.push('would be led by a stranger');
  if (elr.some((member) => isr.includes(member)))
    found.push('has a member twice, in sync and beside');
  if (new Set([...elr, ...offline]).size !== elr.length + offline.length) {
    found.push('may be led by a replica whose log cannot be used');
  }
  if (offline.includes(leader)) found.push('is led by a replica whose log cannot be used');
  if (offline.some((member) => isr.includes(member)) && isr.length > 1) {
    found.push('counts on a replica whose log cannot be used');
  }
  if (partition.uncleanEpoch > partition.leaderEpoch) found.push('has an unclean epoch to come');
  return found;
}

/** Violations between an image and a later one of the same log: epochs never fall. */
export function regressionsOf(before: ClusterImage, after: ClusterImage): string[] {
  const found: string[] = [];
  if (after.nextBrokerEpoch < before.nextBrokerEpoch) found.push('broker epochs fell');
  if (after.nextProducerId < before.nextProducerId) found.push('producer ids fell');
  for (const broker of before.brokers.values()) {
    const now = after.brokers.get(broker.id);
    if (now !== undefined && now.epoch < broker.epoch) found.push(`the epoch of ${broker.id} fell`);
  }
  for (const topic of before.topicsById.values()) {
    const isGone = !after.topicsById.has(topic.id);
    if (isGone && !after.deletedTopics.has(topic.id))
      found.push(`${topic.name} is not said deleted`);
    const now = after.topicsById.get(topic.id);
    if (now !== undefined) found.push(...topicRegressions(topic, now));
  }
  return found;
}

function topicRegressions(before: TopicImage, after: TopicImage): string[] {
  const found: string[] = [];
  if (after.partitions.length < before.partitions.length) found.push(`${before.name} shrank`);
  before.partitions.forEach((was, number) => {
    const now = after.partitions[number];
    if (now === undefined || now === was) return;
    const name = `${before.name}-${number}`;
    if (now.leaderEpoch < was.leaderEpoch) found.push(`${name}: the leader epoch fell`);
    if (now.partitionEpoch < was.partitionEpoch) found.push(`${name}: the partition epoch fell`);
    if (now.leader !== was.leader && now.leaderEpoch === was.leaderEpoch) {
      found.push(`${name}: another leader under the same epoch`);
    }
  });
  return found;
}
