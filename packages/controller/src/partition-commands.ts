/**
 * Changes of in-sync sets, proposed by the leaders of the partitions (Kafka's AlterPartition, KIP-497).
 *
 * A proposal is taken only if it was made on what holds now (K7): by the leader, under the leader epoch
 * and on the partition epoch of the image, and with every member named under the broker epoch that it
 * has: a member that has registered anew since may have lost what the leader saw it hold (KIP-903).
 *
 * A leader whose log has no room *resigns*: it proposes members of the in-sync set without itself, and one
 * of them is elected. It cannot vouch for anybody new.
 *
 * A broker whose own replica is damaged, or on a disk that fails, *reports* it, leader or not. It is then
 * `offline`: it leads nothing, and leaves the in-sync set as soon as somebody else has all that was
 * acknowledged; the last one stays, for nobody else is sure to. It counts again when its broker says that the
 * log is in order, or registers anew.
 */
import { RelevoError } from '@relevo/base/errors';
import type { ErrorCode } from '@relevo/base/errors';
import { NO_LEADER_EPOCH, partitionEpoch } from '@relevo/base/ids';
import type { BrokerId, Uuid } from '@relevo/base/ids';
import type {
  AlterPartitions,
  AlterPartitionsAnswer,
  ClusterDefaults,
  Decision,
  PartitionOutcome,
  PartitionProposal,
  ReportReplicas,
  ReportReplicasAnswer,
} from './commands.ts';
import { changePartition, conditionsOf, rulesOf } from './elections.ts';
import type { ClusterImage, PartitionImage } from './image.ts';
import type { PartitionChangeRecord } from './records.ts';
import { checkBroker } from './refusals.ts';

/** Proposals in one request. */
export const PROPOSALS_MAX = 100_000;

export function decideAlterPartitions(
  image: ClusterImage,
  command: AlterPartitions,
  defaults: ClusterDefaults,
): Decision<AlterPartitionsAnswer> {
  checkBroker(image, command);
  if (command.partitions.length > PROPOSALS_MAX) {
    throw new RelevoError(
      'INVALID_REQUEST',
      `${command.partitions.length} proposals in one request: at most ${PROPOSALS_MAX}`,
    );
  }
  const conditions = conditionsOf(image);
  const records: PartitionChangeRecord[] = [];
  const seen = new Set<string>();
  const partitions = command.partitions.map((proposal): PartitionOutcome => {
    const topic = image.topicsById.get(proposal.topicId);
    const known = topic?.partitions[proposal.partition];
    const key = `${proposal.topicId}-${proposal.partition}`;
    const error = seen.has(key) ? 'INVALID_REQUEST' : refusal(image, command.brokerId, proposal);
    seen.add(key);
    if (topic === undefined || known === undefined || error !== 'NONE') return refused(error);
    const change = changePartition({
      topicId: topic.id,
      partition: proposal.partition,
      image: known,
      isr: proposal.isr.map((member) => member.brokerId),
      conditions,
      rules: rulesOf(topic.config, defaults.topic),
    });
    const record = change ?? unchanged(topic.id, proposal.partition, known);
    records.push(record);
    // The proposer is about to stop, and its proposal made somebody else fit to lead.
    if (record.leader !== undefined) return refused('NEW_LEADER_ELECTED');
    return accepted(known, record);
  });
  return { records, atomic: false, response: { partitions } };
}

function refusal(image: ClusterImage, proposer: BrokerId, proposal: PartitionProposal): ErrorCode {
  const topic = image.topicsById.get(proposal.topicId);
  if (topic === undefined) return 'UNKNOWN_TOPIC_ID';
  const known = topic.partitions[proposal.partition];
  if (known === undefined) return 'UNKNOWN_TOPIC_OR_PARTITION';
  if (proposal.leaderEpoch < known.leaderEpoch) return 'FENCED_LEADER_EPOCH';
  if (proposal.leaderEpoch > known.leaderEpoch) return 'UNKNOWN_LEADER_EPOCH';
  if (proposer !== known.leader) return 'NOT_LEADER_OR_FOLLOWER';
  if (proposal.partitionEpoch !== known.partitionEpoch) return 'INVALID_UPDATE_VERSION';
  const members = proposal.isr.map((member) => member.brokerId);
  const resigns = members.length > 0 && members.every((member) => known.isr.includes(member));
  const possible =
    (members.includes(proposer) || resigns) &&
    members.every((member) => known.replicas.includes(member)) &&
    new Set(members).size === members.length;
  if (!possible) return 'INVALID_REQUEST';
  return proposal.isr.every((member) => mayBeInSync(image, known, member))
    ? 'NONE'
    : 'INELIGIBLE_REPLICA';
}

function mayBeInSync(
  image: ClusterImage,
  known: PartitionImage,
  member: PartitionProposal['isr'][number],
): boolean {
  const broker = image.brokers.get(member.brokerId);
  if (broker?.epoch !== member.brokerEpoch) return false;
  // Who is to go is taken out by a decision of its own; one that has registered anew stays until then.
  if (known.isr.includes(broker.id)) return true;
  return !broker.fenced && !broker.shuttingDown && !known.offline.includes(broker.id);
}

/**
 * The set that is in force: a leader proposes it to move the partition epoch, so that an earlier proposal
 * of its own, of which it does not know what became, can no longer be applied.
 */
const unchanged = (
  topicId: Uuid,
  partition: number,
  { isr }: PartitionImage,
): PartitionChangeRecord => ({
  kind: 'partitionChange',
  topicId,
  partition,
  leader: undefined,
  isr,
  elr: undefined,
  offline: undefined,
  unclean: false,
});

const accepted = (
  known: PartitionImage,
  change: Pick<PartitionChangeRecord, 'isr' | 'elr'>,
): PartitionOutcome => ({
  error: 'NONE',
  isr: change.isr ?? known.isr,
  elr: change.elr ?? known.elr,
  leaderEpoch: known.leaderEpoch,
  partitionEpoch: partitionEpoch(known.partitionEpoch + 1),
});

const refused = (error: ErrorCode): PartitionOutcome => ({
  error,
  isr: [],
  elr: [],
  leaderEpoch: NO_LEADER_EPOCH,
  partitionEpoch: partitionEpoch(-1),
});

/** May be repeated: what is so already changes nothing. */
export function decideReportReplicas(
  image: ClusterImage,
  command: ReportReplicas,
  defaults: ClusterDefaults,
): Decision<ReportReplicasAnswer> {
  checkBroker(image, command);
  const { brokerId, replicas } = command;
  if (replicas.length > PROPOSALS_MAX) {
    throw new RelevoError(
      'INVALID_REQUEST',
      `${replicas.length} replicas in one report: at most ${PROPOSALS_MAX}`,
    );
  }
  const conditions = conditionsOf(image);
  const records = new Map<string, PartitionChangeRecord>();
  for (const { topicId, partition, offline } of replicas) {
    const topic = image.topicsById.get(topicId);
    const known = topic?.partitions[partition];
    const key = `${topicId}-${partition}`;
    // Deleted meanwhile, or placed elsewhere: nothing to be done about it.
    if (topic === undefined || known?.replicas.includes(brokerId) !== true) continue;
    if (records.has(key) || known.offline.includes(brokerId) === offline) continue;
    const change = changePartition({
      topicId,
      partition,
      image: known,
      ...(offline ? withoutReplica(known, brokerId) : {}),
      offline: offline
        ? [...known.offline, brokerId]
        : known.offline.filter((other) => other !== brokerId),
      conditions,
      rules: rulesOf(topic.config, defaults.topic),
    });
    if (change !== undefined) records.set(key, change);
  }
  const changed = records.size;
  return { records: [...records.values()], atomic: false, response: { changed } };
}

/** The in-sync set without a replica that may have lost something, unless nobody else has all. */
export function withoutReplica(
  partition: PartitionImage,
  replica: BrokerId,
): { readonly isr: readonly BrokerId[]; readonly lost: readonly BrokerId[] } {
  const others = partition.isr.filter((member) => member !== replica);
  const isLast = others.length === 0 && partition.elr.every((member) => member === replica);
  return { isr: isLast ? partition.isr : others, lost: [replica] };
}
