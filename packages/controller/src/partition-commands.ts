/**
 * Changes of in-sync sets, proposed by the leaders of the partitions (Kafka's AlterPartition, KIP-497).
 *
 * A proposal is taken only if it was made on what holds now (K7): by the leader, under the leader epoch
 * and on the partition epoch of the image, and with every member named under the broker epoch that it
 * has: a member that has registered anew since may have lost what the leader saw it hold (KIP-903).
 *
 * A leader whose log has failed or has no room *resigns*: it proposes members of the in-sync set without
 * itself, and one of them is elected. It cannot vouch for anybody new.
 */
import { RelevoError } from '@relevo/base/errors';
import type { ErrorCode } from '@relevo/base/errors';
import { NO_LEADER_EPOCH, partitionEpoch } from '@relevo/base/ids';
import type { BrokerId, PartitionEpoch, Uuid } from '@relevo/base/ids';
import type {
  AlterPartitions,
  AlterPartitionsAnswer,
  ClusterDefaults,
  Decision,
  PartitionOutcome,
  PartitionProposal,
} from './commands.ts';
import { changePartition, conditionsOf } from './elections.ts';
import type { ClusterImage, PartitionImage } from './image.ts';
import type { PartitionChangeRecord } from './records.ts';
import { checkBroker } from './refusals.ts';
import { uncleanAllowed } from './topic-config.ts';

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
      uncleanAllowed: uncleanAllowed(topic.config, defaults.topic),
    });
    records.push(change ?? unchanged(topic.id, proposal.partition, known));
    // The proposer is about to stop, and its proposal made somebody else fit to lead.
    if (change?.leader !== undefined) return refused('NEW_LEADER_ELECTED');
    const next = partitionEpoch(known.partitionEpoch + 1);
    return accepted(known, next, change?.isr ?? known.isr);
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
  return proposal.isr.every((member) => mayBeInSync(image, member, proposer))
    ? 'NONE'
    : 'INELIGIBLE_REPLICA';
}

function mayBeInSync(
  image: ClusterImage,
  member: PartitionProposal['isr'][number],
  leader: BrokerId,
): boolean {
  const broker = image.brokers.get(member.brokerId);
  if (broker?.epoch !== member.brokerEpoch || broker.fenced) return false;
  // A leader that is to stop but found nobody to follow it stays in its in-sync set.
  return !broker.shuttingDown || broker.id === leader;
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
  unclean: false,
});

const accepted = (
  known: PartitionImage,
  epoch: PartitionEpoch,
  isr: readonly BrokerId[],
): PartitionOutcome => ({
  error: 'NONE',
  isr,
  leaderEpoch: known.leaderEpoch,
  partitionEpoch: epoch,
});

const refused = (error: ErrorCode): PartitionOutcome => ({
  error,
  isr: [],
  leaderEpoch: NO_LEADER_EPOCH,
  partitionEpoch: partitionEpoch(-1),
});
