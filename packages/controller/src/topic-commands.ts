/** Topics: their names, sizes, placement and settings. */
import { RelevoError } from '@relevo/base/errors';
import {
  NO_BROKER,
  NO_LEADER_EPOCH,
  QUORUM_LOG_ID,
  ZERO_UUID,
  leaderEpoch,
  partitionEpoch,
} from '@relevo/base/ids';
import type { BrokerId, Uuid } from '@relevo/base/ids';
import { isMutated } from '@relevo/base/mutations';
import type {
  AlterTopicConfig,
  ClusterDefaults,
  CreatePartitions,
  CreatePartitionsAnswer,
  CreateTopic,
  CreateTopicAnswer,
  Decision,
  DeleteTopic,
  DeleteTopicAnswer,
  Nothing,
} from './commands.ts';
import { changePartition, conditionsOf, electLeader, rulesOf } from './elections.ts';
import type { ElectionRules } from './elections.ts';
import type { BrokerImage, ClusterImage, TopicImage } from './image.ts';
import { isEligible } from './image.ts';
import { placeReplicas } from './placement.ts';
import type { MetadataRecord, PartitionCreationRecord } from './records.ts';
import { topicNamed } from './refusals.ts';
import { MIN_INSYNC_REPLICAS, checkTopicSetting, checkTopicSettingName } from './topic-config.ts';

export const TOPIC_NAME_MAX = 249;
/** Its creation goes into one entry of the log, which stays below a few mebibytes. */
export const PARTITIONS_PER_TOPIC_MAX = 10_000;
export const REPLICATION_FACTOR_MAX = 50;

const TOPIC_NAME = /^[A-Za-z0-9._-]+$/;
/** Names that Kafka's tools and clients know as the cluster's own, and ours to come. */
const RESERVED_NAMES: ReadonlySet<string> = new Set([
  '__cluster_metadata',
  '__consumer_offsets',
  '__transaction_state',
  '__share_group_state',
]);
const RESERVED_PREFIX = '__relevo_';

export function decideCreateTopic(
  image: ClusterImage,
  command: CreateTopic,
  defaults: ClusterDefaults,
): Decision<CreateTopicAnswer> {
  const { name, topicId, config } = command;
  checkTopicName(name);
  checkNotReserved(name);
  checkTopicId(image, command);
  const existing = image.topicsByName.get(name);
  if (existing !== undefined && existing.id === topicId) return alreadyCreated(existing);
  if (existing !== undefined) {
    throw new RelevoError('TOPIC_ALREADY_EXISTS', `topic "${name}" exists already`);
  }
  for (const [setting, value] of config) checkTopicSetting(setting, value);
  const assignment =
    command.assignment.length > 0
      ? checkedAssignment(image, command)
      : chosenAssignment(image, command, defaults);
  const replicationFactor = assignment[0]?.length ?? 0;
  checkMinInSync(config.get(MIN_INSYNC_REPLICAS), replicationFactor);
  const response = { topicId, partitions: assignment.length, replicationFactor };
  if (command.validateOnly) return { records: [], atomic: true, response };
  const settings = [...config].map(([setting, value]): MetadataRecord => ({
    kind: 'topicSetting',
    topicId,
    name: setting,
    value,
  }));
  const partitions = assignment.map((replicas, partition) =>
    newPartition(image, { topicId, partition, replicas }),
  );
  const records = [{ kind: 'topicCreation', topicId, name } as const, ...settings, ...partitions];
  return { records, atomic: true, response };
}

/** The same call again: its caller did not hear the first answer. */
const alreadyCreated = (topic: TopicImage): Decision<CreateTopicAnswer> => ({
  records: [],
  atomic: true,
  response: {
    topicId: topic.id,
    partitions: topic.partitions.length,
    replicationFactor: topic.partitions[0]?.replicas.length ?? 0,
  },
});

/** Refuses with INVALID_TOPIC_EXCEPTION what Kafka refuses. */
export function checkTopicName(name: string): void {
  const rule = `a topic name has 1 to ${TOPIC_NAME_MAX} of A-Z a-z 0-9 . _ - and is not . or ..`;
  if (name.length > TOPIC_NAME_MAX) {
    throw new RelevoError(
      'INVALID_TOPIC_EXCEPTION',
      `the topic name "${name.slice(0, 40)}…" has ${name.length} characters: ${rule}`,
    );
  }
  if (!TOPIC_NAME.test(name) || name === '.' || name === '..') {
    throw new RelevoError(
      'INVALID_TOPIC_EXCEPTION',
      `the topic name "${name}" is illegal: ${rule}`,
    );
  }
}

/** Of a topic that is to be made: one that was made before names were reserved stays. */
function checkNotReserved(name: string): void {
  const isReserved = RESERVED_NAMES.has(name) || name.startsWith(RESERVED_PREFIX);
  if (!isReserved || isMutated('quorum-among-partitions')) return;
  const reserved = [...RESERVED_NAMES, `${RESERVED_PREFIX}*`].join(', ');
  throw new RelevoError(
    'INVALID_TOPIC_EXCEPTION',
    `the topic name "${name}" is reserved for the cluster itself (as are ${reserved}): choose another`,
  );
}

/** An id names one topic for ever: directories and clients tell topics by it. */
function checkTopicId(image: ClusterImage, { topicId, name }: CreateTopic): void {
  if (topicId === ZERO_UUID || topicId === QUORUM_LOG_ID) {
    throw new RelevoError('INVALID_REQUEST', `the topic id ${topicId} is kept for the cluster`);
  }
  if (image.deletedTopics.has(topicId)) {
    const message = `the topic id ${topicId} is that of a topic that was deleted: take a new one`;
    throw new RelevoError('INVALID_REQUEST', message);
  }
  const holder = image.topicsById.get(topicId);
  if (holder === undefined || holder.name === name) return;
  throw new RelevoError(
    'INVALID_REQUEST',
    `the topic id ${topicId} is that of "${holder.name}": "${name}" needs an id of its own`,
  );
}

function chosenAssignment(
  image: ClusterImage,
  command: CreateTopic,
  defaults: ClusterDefaults,
): BrokerId[][] {
  const asksForDefault = command.partitions === 0 || command.partitions === -1;
  const count = asksForDefault ? defaults.partitions : command.partitions;
  checkPartitionCount(count);
  const given = command.replicationFactor !== 0 && command.replicationFactor !== -1;
  const replicationFactor = given ? command.replicationFactor : defaults.replicationFactor;
  const brokers = liveBrokers(image);
  checkReplicationFactor(replicationFactor, brokers.length, given);
  const { seed } = command;
  return placeReplicas(image, { count, replicationFactor, brokers, existing: [], seed });
}

function checkPartitionCount(count: number): void {
  if (Number.isInteger(count) && count >= 1 && count <= PARTITIONS_PER_TOPIC_MAX) return;
  throw new RelevoError(
    'INVALID_PARTITIONS',
    `${count} partitions are not possible: ask for 1 to ${PARTITIONS_PER_TOPIC_MAX}`,
  );
}

function checkReplicationFactor(wanted: number, live: number, given: boolean): void {
  const most = Math.min(live, REPLICATION_FACTOR_MAX);
  if (Number.isInteger(wanted) && wanted >= 1 && wanted <= most) return;
  const factor = `replication factor ${wanted}${given ? '' : ' (the default)'}`;
  if (wanted <= live) {
    throw new RelevoError(
      'INVALID_REPLICATION_FACTOR',
      `${factor} is not possible: ask for 1 to ${most}`,
    );
  }
  const brokers = live === 1 ? 'there is 1 live broker' : `there are ${live} live brokers`;
  throw new RelevoError(
    'INVALID_REPLICATION_FACTOR',
    `${factor} needs ${wanted} live brokers, but ${brokers}: ` +
      (live === 0 ? 'start some' : `start more, or ask for a replication factor up to ${live}`),
  );
}

const liveBrokers = (image: ClusterImage): BrokerImage[] =>
  [...image.brokers.values()].filter((broker) => isEligible(image, broker.id));

function checkedAssignment(
  image: ClusterImage,
  command: CreateTopic,
): readonly (readonly BrokerId[])[] {
  const { assignment } = command;
  const refuse = (what: string): RelevoError =>
    new RelevoError('INVALID_REPLICA_ASSIGNMENT', `the assignment of "${command.name}" ${what}`);
  if (command.partitions > 0 || command.replicationFactor > 0) {
    throw new RelevoError(
      'INVALID_REQUEST',
      'either counts or an assignment: leave the partition count and the replication factor out',
    );
  }
  checkPartitionCount(assignment.length);
  const factor = assignment[0]?.length ?? 0;
  assignment.forEach((replicas, partition) => {
    if (replicas.length === 0) throw refuse(`names no replica of partition ${partition}`);
    if (replicas.length > REPLICATION_FACTOR_MAX) {
      throw refuse(`has more than ${REPLICATION_FACTOR_MAX} replicas of partition ${partition}`);
    }
    if (replicas.length !== factor) {
      throw refuse(`has ${factor} replicas of partition 0 but ${replicas.length} of ${partition}`);
    }
    if (new Set(replicas).size !== replicas.length) {
      throw refuse(`names a broker twice for partition ${partition}`);
    }
    const stranger = replicas.find((id) => !image.brokers.has(id));
    if (stranger !== undefined) throw refuse(`names broker ${stranger}, which does not exist`);
    if (!replicas.some((id) => isEligible(image, id))) {
      throw refuse(`names only brokers that are not live for partition ${partition}`);
    }
  });
  return assignment;
}

function newPartition(
  image: ClusterImage,
  where: {
    readonly topicId: Uuid;
    readonly partition: number;
    readonly replicas: readonly BrokerId[];
  },
): PartitionCreationRecord {
  const isr = where.replicas.filter((id) => isEligible(image, id));
  const { leader } = electLeader({
    replicas: where.replicas,
    isr,
    leader: NO_BROKER,
    conditions: conditionsOf(image),
    uncleanAllowed: false,
  });
  return {
    kind: 'partitionCreation',
    ...where,
    isr,
    elr: [],
    offline: [],
    leader,
    leaderEpoch: leaderEpoch(0),
    partitionEpoch: partitionEpoch(0),
    uncleanEpoch: NO_LEADER_EPOCH,
  };
}

function checkMinInSync(setting: string | undefined, replicationFactor: number): void {
  if (setting === undefined || Number(setting) <= replicationFactor) return;
  throw new RelevoError(
    'INVALID_CONFIG',
    `${MIN_INSYNC_REPLICAS}=${setting} could never be met by ${replicationFactor} replica(s): ` +
      `set it to at most ${replicationFactor}`,
  );
}

export function decideDeleteTopic(
  image: ClusterImage,
  command: DeleteTopic,
): Decision<DeleteTopicAnswer> {
  const { id: topicId } = topicNamed(image, command.name);
  return { records: [{ kind: 'topicRemoval', topicId }], atomic: true, response: { topicId } };
}

export function decideCreatePartitions(
  image: ClusterImage,
  command: CreatePartitions,
): Decision<CreatePartitionsAnswer> {
  const topic = topicNamed(image, command.topic);
  const had = topic.partitions.length;
  checkPartitionCount(command.partitions);
  if (command.partitions <= had) {
    throw new RelevoError(
      'INVALID_PARTITIONS',
      `"${topic.name}" has ${had} partitions and the number can only grow: ask for more than ${had}`,
    );
  }
  const replicationFactor = topic.partitions[0]?.replicas.length ?? 1;
  const brokers = liveBrokers(image);
  checkReplicationFactor(replicationFactor, brokers.length, true);
  const placed = placeReplicas(image, {
    count: command.partitions - had,
    replicationFactor,
    brokers,
    existing: topic.partitions,
    seed: command.seed,
  });
  const records = placed.map((replicas, offset) =>
    newPartition(image, { topicId: topic.id, partition: had + offset, replicas }),
  );
  return { records, atomic: true, response: { partitions: command.partitions } };
}

export function decideAlterTopicConfig(
  image: ClusterImage,
  command: AlterTopicConfig,
  defaults: ClusterDefaults,
): Decision<Nothing> {
  const topic = topicNamed(image, command.topic);
  const { set, unset } = command;
  for (const [name, value] of set) checkTopicSetting(name, value);
  for (const name of unset) {
    checkTopicSettingName(name);
    if (set.has(name)) {
      throw new RelevoError('INVALID_REQUEST', `${name} cannot be both set and unset: decide`);
    }
  }
  const replicationFactor = topic.partitions[0]?.replicas.length ?? 1;
  checkMinInSync(set.get(MIN_INSYNC_REPLICAS), replicationFactor);
  const config = new Map(topic.config);
  const records: MetadataRecord[] = [];
  const change = (name: string, value: string | undefined): void => {
    if (config.get(name) === value) return;
    if (value === undefined) config.delete(name);
    else config.set(name, value);
    records.push({ kind: 'topicSetting', topicId: topic.id, name, value });
  };
  for (const [name, value] of set) change(name, value);
  for (const name of unset) change(name, undefined);
  records.push(...electionsAfter(image, topic, rulesOf(config, defaults.topic)));
  return { records, atomic: true, response: {} };
}

/**
 * Unclean elections that a setting has just allowed; and with fewer replicas needed in sync, eligible
 * leaders are none any more before anything is acknowledged without them.
 */
function electionsAfter(
  image: ClusterImage,
  topic: TopicImage,
  rules: ElectionRules,
): readonly MetadataRecord[] {
  const conditions = conditionsOf(image);
  return topic.partitions.flatMap((partition, number) => {
    const change = changePartition({
      topicId: topic.id,
      partition: number,
      image: partition,
      conditions,
      rules,
    });
    return change === undefined ? [] : [change];
  });
}
