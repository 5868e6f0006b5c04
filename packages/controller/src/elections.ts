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
 *   none elig.  │ other          │ one in it that stops; else the first eligible one of `elr`, which alone
 *               │                │ then is the in-sync set; else unclean: the first eligible replica,
 *               │                │ alone likewise; where that is not allowed: nobody
 *
 * Eligible: registered, not fenced, not shutting down, and the log of this partition is not offline.
 *
 * Why an election from `elr` is clean: a replica is in it since it left an in-sync set that fell below
 * min.insync.replicas. A leader moves its high watermark only while it sees an in-sync set of that size and
 * an empty `elr`, and until it has seen the change it waits for the replica that left. So nothing was
 * acknowledged (acks=all) that the replica has not fsynced. Whoever may have lost what it had (another
 * disk, a damaged log, a crash under flush.mode=os) leaves both sets at once.
 */
import { assert } from '@relevo/base/assert';
import { NO_BROKER } from '@relevo/base/ids';
import type { BrokerId, Uuid } from '@relevo/base/ids';
import { isMutated } from '@relevo/base/mutations';
import type { ClusterImage, PartitionImage } from './image.ts';
import { preferredLeader } from './image.ts';
import type { PartitionChangeRecord } from './records.ts';
import { minInSync, topicSettings } from './topic-config.ts';
import type { TopicSettings } from './topic-config.ts';

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
  /** Default: nobody. */
  readonly elr?: readonly BrokerId[];
  /** Whose log cannot be used; default: nobody's. */
  readonly offline?: readonly BrokerId[];
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
  /** The in-sync set is to be the leader alone. */
  readonly alone: boolean;
  /** Records may have been lost. */
  readonly unclean: boolean;
}

export function electLeader(candidacy: Candidacy): Elected {
  const { replicas, isr, elr = [], offline = [], leader, conditions } = candidacy;
  const clean = (id: BrokerId): Elected => ({ leader: id, alone: false, unclean: false });
  const isFit = (id: BrokerId): boolean => conditions(id) === 'eligible' && !offline.includes(id);
  const may = (id: BrokerId): boolean => isr.includes(id) && isFit(id);
  const [preferred] = replicas;
  assert(preferred !== undefined, 'a partition has replicas');
  if (candidacy.wantPreferred === true && may(preferred)) return clean(preferred);
  if (leader !== NO_BROKER && may(leader)) return clean(leader);
  const first = replicas.find(may);
  if (first !== undefined) return clean(first);
  const lingers = (id: BrokerId): boolean =>
    isr.includes(id) && conditions(id) === 'stopping' && !offline.includes(id);
  if (leader !== NO_BROKER && lingers(leader)) return clean(leader);
  const lingering = replicas.find(lingers);
  if (lingering !== undefined) return clean(lingering);
  const whole = replicas.find((id) => elr.includes(id) && isFit(id));
  if (whole !== undefined) return { leader: whole, alone: true, unclean: false };
  const anyone = candidacy.uncleanAllowed ? replicas.find(isFit) : undefined;
  if (anyone === undefined) return clean(NO_BROKER);
  return { leader: anyone, alone: true, unclean: true };
}

/** The settings of a topic that elections go by. */
export interface ElectionRules {
  /** unclean.leader.election.enable. */
  readonly uncleanAllowed: boolean;
  /** How many replicas acks=all needs, of so many. */
  minIsr(replicas: number): number;
}

export function rulesOf(
  config: ReadonlyMap<string, string>,
  defaults: TopicSettings,
): ElectionRules {
  const settings = topicSettings(config, defaults);
  return {
    uncleanAllowed: settings.uncleanLeaderElectionEnable,
    minIsr: (replicas) => minInSync(settings, replicas),
  };
}

export interface PartitionChange {
  readonly topicId: Uuid;
  readonly partition: number;
  readonly image: PartitionImage;
  /** Default: as it is. */
  readonly isr?: readonly BrokerId[];
  /** Default: as it is. */
  readonly offline?: readonly BrokerId[];
  /** Who may lack something that it had; default: nobody. Unless `isr` keeps it. */
  readonly lost?: readonly BrokerId[];
  readonly conditions: Conditions;
  readonly rules: ElectionRules;
  readonly wantPreferred?: boolean;
}

/** The record that brings the partition to the in-sync set wanted and the leader due; none if it is so. */
export function changePartition(change: PartitionChange): PartitionChangeRecord | undefined {
  const { image, conditions, rules, lost = [], wantPreferred = false } = change;
  const { replicas } = image;
  const wanted = inAssignmentOrder(replicas, change.isr ?? image.isr);
  const offline = inAssignmentOrder(replicas, change.offline ?? image.offline);
  const minIsr = rules.minIsr(replicas.length);
  const sure = [...image.isr, ...image.elr].filter((id) => !lost.includes(id));
  const { leader, alone, unclean } = electLeader({
    replicas,
    isr: wanted,
    elr: wanted.length < minIsr ? sure : [],
    offline,
    leader: image.leader,
    conditions,
    uncleanAllowed: rules.uncleanAllowed,
    wantPreferred,
  });
  const isr = alone ? [leader] : wanted;
  const keepsElr = isr.length < minIsr && !unclean && !isMutated('no-eligible-leaders');
  const elr = keepsElr ? inAssignmentOrder(replicas, sure).filter((id) => !isr.includes(id)) : [];
  const isrChanged = !sameMembers(isr, image.isr);
  const elrChanged = !sameMembers(elr, image.elr);
  const offlineChanged = !sameMembers(offline, image.offline);
  const leaderChanged = leader !== image.leader;
  if (!isrChanged && !elrChanged && !offlineChanged && !leaderChanged) return undefined;
  return {
    kind: 'partitionChange',
    topicId: change.topicId,
    partition: change.partition,
    leader: leaderChanged ? leader : undefined,
    isr: isrChanged ? isr : undefined,
    elr: elrChanged ? elr : undefined,
    offline: offlineChanged ? offline : undefined,
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
