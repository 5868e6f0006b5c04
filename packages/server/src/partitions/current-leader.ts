import { NO_BROKER } from '@relevo/base/ids';
import type { BrokerId, Uuid } from '@relevo/base/ids';
import type { BrokerImage, ClusterImage, PartitionImage } from '@relevo/controller/image';
import { currentLeader } from '@relevo/rpc/gen/common/errors';
import type { CurrentLeader } from '@relevo/rpc/gen/common/errors';
import type { Partition } from './partition.ts';

/** What the image says of a partition; `topicId` comes from a client and may be anything. */
export function partitionImage(
  image: ClusterImage,
  topicId: string,
  partition: number,
): PartitionImage | undefined {
  // A map is asked with a key that it may not hold: no harm in an id that is none.
  return image.topicsById.get(topicId as Uuid)?.partitions[partition];
}

/** Where clients that come to that listener reach the broker. */
export const addressOn = (broker: BrokerImage, listener: string): string =>
  broker.listeners.find((one) => one.listener === listener)?.address ?? broker.clientAddress;

/**
 * An answer that may name a leader, for a caller of that listener: it cannot dial what other networks
 * are told.
 */
export function answerOn<Answer extends { readonly currentLeader: CurrentLeader | undefined }>(
  image: ClusterImage,
  listener: string,
  answer: Answer,
): Answer {
  const { currentLeader: told } = answer;
  const leader = told === undefined ? undefined : image.brokers.get(told.brokerId as BrokerId);
  if (told === undefined || leader === undefined) return answer;
  return { ...answer, currentLeader: { ...told, address: addressOn(leader, listener) } };
}

/**
 * Who leads the partition, as far as this broker knows: goes with errors, so that callers find it. The
 * address is that of the first listener; see `answerOn`.
 */
export function leaderOf(
  image: ClusterImage,
  topicId: string,
  partition: number,
): CurrentLeader | undefined {
  const known = partitionImage(image, topicId, partition);
  if (known === undefined) return undefined;
  const { leader: brokerId, leaderEpoch } = known;
  const broker = brokerId === NO_BROKER ? undefined : image.brokers.get(brokerId);
  return currentLeader({ brokerId, leaderEpoch, address: broker?.clientAddress ?? '' });
}

export interface Refusal {
  readonly code:
    | 'UNKNOWN_TOPIC_ID'
    | 'UNKNOWN_TOPIC_OR_PARTITION'
    | 'NOT_LEADER_OR_FOLLOWER'
    | 'LEADER_NOT_AVAILABLE'
    | 'FENCED_LEADER_EPOCH'
    | 'UNKNOWN_LEADER_EPOCH'
    | 'STORAGE_ERROR';
  readonly message: string;
}

/**
 * Why a request that names a leader epoch (-1: none) cannot be served by this broker's replica of the
 * partition; undefined: it leads it under that epoch.
 */
export function refusalOf(
  image: ClusterImage,
  target: { readonly topicId: string; readonly partition: number; readonly leaderEpoch: number },
  replica: Partition | undefined,
): Refusal | undefined {
  const leader = replica?.leader;
  if (replica === undefined || leader === undefined) return notLed(image, target, replica);
  const { leaderEpoch } = leader.replica;
  if (target.leaderEpoch < 0 || target.leaderEpoch === leaderEpoch) return undefined;
  const what = `epoch ${target.leaderEpoch} of ${replica.name}`;
  return target.leaderEpoch < leaderEpoch
    ? {
        code: 'FENCED_LEADER_EPOCH',
        message: `${what} is over, it is ${leaderEpoch} now: refresh the metadata`,
      }
    : {
        code: 'UNKNOWN_LEADER_EPOCH',
        message: `${what} is not known here yet, only ${leaderEpoch}: try again shortly`,
      };
}

/** Who could lead and what keeps each from it, and what to do. */
export function whyNoLeader(known: PartitionImage): string {
  const { isr, elr, offline, replicas } = known;
  const whole = [...isr, ...elr];
  const damaged = whole.filter((id) => offline.includes(id));
  const away = whole.filter((id) => !damaged.includes(id));
  if (away.length > 0) {
    const why = `all acknowledged records are on broker ${away.join(', ')}, which does not serve now`;
    return `${why}: start it, or wait until it is up`;
  }
  if (damaged.length > 0) {
    const why = `the log on broker ${damaged.join(', ')}, the only one sure to have all, cannot be used`;
    return `${why}: that broker's log tells why and what to do`;
  }
  return `no replica (${replicas.join(', ')}) is sure to have all acknowledged records: only an unclean election helps`;
}

function notLed(
  image: ClusterImage,
  target: { readonly topicId: string; readonly partition: number },
  replica: Partition | undefined,
): Refusal {
  const topic = image.topicsById.get(target.topicId as Uuid);
  if (topic === undefined) {
    const message = `no topic has the id "${target.topicId}": it was deleted, or is not known yet`;
    return { code: 'UNKNOWN_TOPIC_ID', message };
  }
  const known = topic.partitions[target.partition];
  if (known === undefined) {
    const message = `"${topic.name}" has partitions 0 to ${topic.partitions.length - 1}, not ${target.partition}`;
    return { code: 'UNKNOWN_TOPIC_OR_PARTITION', message };
  }
  const name = `${topic.name}-${target.partition}`;
  if (replica?.failure !== undefined) {
    return { code: 'STORAGE_ERROR', message: `${name} is offline here: ${replica.failure}` };
  }
  if (known.leader === NO_BROKER) {
    const message = `${name} has no leader: ${whyNoLeader(known)}`;
    return { code: 'LEADER_NOT_AVAILABLE', message };
  }
  const { leader, leaderEpoch } = known;
  const message = `${name} is led by broker ${leader} (epoch ${leaderEpoch}): go there`;
  return { code: 'NOT_LEADER_OR_FOLLOWER', message };
}
