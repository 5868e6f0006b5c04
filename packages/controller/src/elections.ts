/**
 * The one place that decides who leads a partition (K6). Fencing, unfencing, shutdown, changes of the
 * in-sync set, hand-back, topic creation and settings all come through here, so none of them can skip
 * the check that the leader is alive and in sync.
 *
 *   in-sync set │ current leader │ who leads
 *   ────────────┼────────────────┼───────────────────────────────────────────────────────────────────
 *   any         │ eligible, in it│ stays; unless the preferred one is wanted, eligible and in it
 *   eligible(s) │ other          │ the first eligible one in assignment order
 *   none elig.  │ in it, stopping│ stays: a broker that stops serves until it has gone
 *   none elig.  │ other          │ one in it that stops, else unclean: the first eligible replica, which
 *               │                │ alone then is the in-sync set; where that is not allowed: nobody
 *
 * Eligible: registered, not fenced, not shutting down.
 */
import { assert } from '@relevo/base/assert';
import { NO_BROKER } from '@relevo/base/ids';
import type { BrokerId, Uuid } from '@relevo/base/ids';
import type { ClusterImage, PartitionImage } from './image.ts';
import { preferredLeader } from './image.ts';
import type { PartitionChangeRecord } from './records.ts';

export type BrokerCondition = 'eligible' | 'stopping' | 'gone';

/** How each broker is, or will be once the decision being made is in force. */
export type Conditions = (broker: BrokerId) => BrokerCondition;

/** The conditions in the image, except of those in `changed`. */
export function conditionsOf(
  image: ClusterImage,
  changed?: ReadonlyMap<BrokerId, BrokerCondition>,
): Conditions {
  return (id) => {
    const change = changed?.get(id);
    if (change !== undefined) return change;
    const broker = image.brokers.get(id);
    if (broker === undefined || broker.fenced) return 'gone';
    return broker.shuttingDown ? 'stopping' : 'eligible';
  };
}

export interface Candidacy {
  readonly replicas: readonly BrokerId[];
  /** As it will be. */
  readonly isr: readonly BrokerId[];
  /** As it is; `NO_BROKER`: none. */
  readonly leader: BrokerId;
  readonly conditions: Conditions;
  /** The topic's unclean.leader.election.enable. */
  readonly uncleanAllowed: boolean;
  /** Give leadership to the preferred replica where it may have it. */
  readonly wantPreferred?: boolean;
}

export interface Elected {
  readonly leader: BrokerId;
  /** The in-sync set is to be the leader alone, and records may have been lost. */
  readonly unclean: boolean;
}

export function electLeader(candidacy: Candidacy): Elected {
  const { replicas, isr, leader, conditions } = candidacy;
  const clean = (id: BrokerId): Elected => ({ leader: id, unclean: false });
  const may = (id: BrokerId): boolean => isr.includes(id) && conditions(id) === 'eligible';
  const [preferred] = replicas;
  assert(preferred !== undefined, 'a partition has replicas');
  if (candidacy.wantPreferred === true && may(preferred)) return clean(preferred);
  if (leader !== NO_BROKER && may(leader)) return clean(leader);
  const first = replicas.find(may);
  if (first !== undefined) return clean(first);
  const lingers = (id: BrokerId): boolean => isr.includes(id) && conditions(id) === 'stopping';
  if (leader !== NO_BROKER && lingers(leader)) return clean(leader);
  const lingering = replicas.find(lingers);
  if (lingering !== undefined) return clean(lingering);
  const anyone = candidacy.uncleanAllowed
    ? replicas.find((id) => conditions(id) === 'eligible')
    : undefined;
  return anyone === undefined ? clean(NO_BROKER) : { leader: anyone, unclean: true };
}

export interface PartitionChange {
  readonly topicId: Uuid;
  readonly partition: number;
  readonly image: PartitionImage;
  /** Default: as it is. */
  readonly isr?: readonly BrokerId[];
  readonly conditions: Conditions;
  readonly uncleanAllowed: boolean;
  readonly wantPreferred?: boolean;
}

/** The record that brings the partition to the in-sync set wanted and the leader due; none if it is so. */
export function changePartition(change: PartitionChange): PartitionChangeRecord | undefined {
  const { image, conditions, uncleanAllowed, wantPreferred = false } = change;
  const wanted = inAssignmentOrder(image.replicas, change.isr ?? image.isr);
  const { leader, unclean } = electLeader({
    replicas: image.replicas,
    isr: wanted,
    leader: image.leader,
    conditions,
    uncleanAllowed,
    wantPreferred,
  });
  const isr = unclean ? [leader] : wanted;
  const isrChanged = !sameMembers(isr, image.isr);
  const leaderChanged = leader !== image.leader;
  if (!isrChanged && !leaderChanged) return undefined;
  return {
    kind: 'partitionChange',
    topicId: change.topicId,
    partition: change.partition,
    leader: leaderChanged ? leader : undefined,
    isr: isrChanged ? isr : undefined,
    unclean,
  };
}

/** Whether the partition is led by the one that should, as far as that one can. */
export const isLedByPreferred = (partition: PartitionImage): boolean =>
  partition.leader === preferredLeader(partition);

/** In-sync sets are kept in the order of the assignment, so that equal sets are equal lists. */
export const inAssignmentOrder = (
  replicas: readonly BrokerId[],
  members: readonly BrokerId[],
): readonly BrokerId[] => replicas.filter((replica) => members.includes(replica));

const sameMembers = (a: readonly BrokerId[], b: readonly BrokerId[]): boolean =>
  a.length === b.length && a.every((member, index) => member === b[index]);
