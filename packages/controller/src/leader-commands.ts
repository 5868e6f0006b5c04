/** Leadership back to preferred replicas: asked for by people, or by the hand-back. */
import { RelevoError } from '@relevo/base/errors';
import { NO_BROKER, partitionName } from '@relevo/base/ids';
import type { BrokerId } from '@relevo/base/ids';
import type {
  ClusterDefaults,
  Decision,
  ElectPreferred,
  ElectPreferredAnswer,
  ElectionOutcome,
  HandBack,
  HandBackAnswer,
} from './commands.ts';
import { changePartition, conditionsOf, isLedByPreferred, rulesOf } from './elections.ts';
import type { Conditions } from './elections.ts';
import type { ClusterImage, PartitionImage, TopicImage } from './image.ts';
import { preferredLeader } from './image.ts';
import type { PartitionChangeRecord } from './records.ts';
import { topicNamed } from './refusals.ts';

export function decideElectPreferred(
  image: ClusterImage,
  command: ElectPreferred,
  defaults: ClusterDefaults,
): Decision<ElectPreferredAnswer> {
  const all = command.topic === '';
  if (all && command.partitions.length > 0) {
    throw new RelevoError('INVALID_REQUEST', 'partitions are named without their topic: name it');
  }
  const topics = all ? [...image.topicsById.values()] : [topicNamed(image, command.topic)];
  const conditions = conditionsOf(image);
  const records: PartitionChangeRecord[] = [];
  const results: ElectionOutcome[] = [];
  for (const topic of topics) {
    const wanted = command.partitions.length > 0 ? command.partitions : topic.partitions.keys();
    for (const partition of new Set(wanted)) {
      const known = topic.partitions[partition];
      const outcome = { topic: topic.name, partition };
      if (known === undefined) {
        results.push({ ...outcome, ...noSuchPartition(topic, partition) });
        continue;
      }
      if (isLedByPreferred(known)) continue;
      const preferred = preferredLeader(known);
      const change = towardsPreferred(topic, partition, conditions, defaults);
      if (change?.leader === preferred) {
        records.push(change);
        results.push({ ...outcome, error: 'NONE', message: '', leader: preferred });
      } else {
        const name = partitionName(topic.name, partition);
        const message = `broker ${preferred}, which should lead ${name}, ${notYet(known, preferred, conditions)}`;
        const error = 'PREFERRED_LEADER_NOT_AVAILABLE';
        results.push({ ...outcome, error, message, leader: known.leader });
      }
    }
  }
  return { records, atomic: false, response: { results } };
}

/** Why the preferred replica cannot lead. */
function notYet(partition: PartitionImage, preferred: BrokerId, conditions: Conditions): string {
  if (conditions(preferred) !== 'eligible') return 'is not live yet';
  if (!partition.offline.includes(preferred)) return 'is not in sync yet';
  return 'cannot use its log: its own log tells why, and relevo doctor shows it';
}

function noSuchPartition(
  topic: TopicImage,
  partition: number,
): Pick<ElectionOutcome, 'error' | 'message' | 'leader'> {
  return {
    error: 'UNKNOWN_TOPIC_OR_PARTITION',
    message: `"${topic.name}" has partitions 0 to ${topic.partitions.length - 1}, not ${partition}`,
    leader: NO_BROKER,
  };
}

export function decideHandBack(
  image: ClusterImage,
  command: HandBack,
  defaults: ClusterDefaults,
): Decision<HandBackAnswer> {
  const conditions = conditionsOf(image);
  const records: PartitionChangeRecord[] = [];
  for (const { topicId, partition } of command.partitions) {
    const topic = image.topicsById.get(topicId);
    if (topic === undefined) continue;
    const change = towardsPreferred(topic, partition, conditions, defaults);
    if (change !== undefined) records.push(change);
  }
  return { records, atomic: false, response: { moved: records.length } };
}

function towardsPreferred(
  topic: TopicImage,
  partition: number,
  conditions: Conditions,
  defaults: ClusterDefaults,
): PartitionChangeRecord | undefined {
  const image = topic.partitions[partition];
  if (image === undefined) return undefined;
  return changePartition({
    topicId: topic.id,
    partition,
    image,
    conditions,
    rules: rulesOf(topic.config, defaults.topic),
    wantPreferred: true,
  });
}
