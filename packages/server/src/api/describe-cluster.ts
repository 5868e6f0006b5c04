import type { BrokerId } from '@relevo/base/ids';
import { NO_BROKER } from '@relevo/base/ids';
import type { ClusterImage } from '@relevo/controller/image';
import { preferredLeader } from '@relevo/controller/image';
import type { TopicSettings } from '@relevo/controller/topic-config';
import {
  ailingPartition,
  describeClusterResponse,
  type AilingPartition,
  type DescribeClusterResponse,
  type QuorumVoter,
} from '@relevo/rpc/gen/client/admin';
import { clusterTotals } from '../metadata/cluster-totals.ts';
import { whyNoLeader } from '../partitions/current-leader.ts';

/** The most partitions with a problem that an answer lists by name. */
const AILING_MAX = 20;

/** What the active controller's quorum says of itself. */
export interface QuorumView {
  readonly controllerId: number;
  readonly term: number;
  readonly committedIndex: number;
  readonly voters: readonly QuorumVoter[];
}

interface Counts {
  leaders: number;
  preferred: number;
  replicas: number;
  inSync: number;
}

/** The cluster in figures. */
export function describeCluster(
  image: ClusterImage,
  quorum: QuorumView,
  options: { readonly clusterId: string; readonly topicDefaults: TopicSettings },
): DescribeClusterResponse {
  const counts = new Map<BrokerId, Counts>();
  const countsOf = (id: BrokerId): Counts => {
    const known = counts.get(id) ?? { leaders: 0, preferred: 0, replicas: 0, inSync: 0 };
    counts.set(id, known);
    return known;
  };
  for (const topic of image.topicsById.values()) {
    for (const partition of topic.partitions) {
      const { replicas, isr, leader } = partition;
      if (leader !== NO_BROKER) countsOf(leader).leaders++;
      countsOf(preferredLeader(partition)).preferred++;
      for (const replica of replicas) countsOf(replica).replicas++;
      for (const member of isr) countsOf(member).inSync++;
    }
  }
  return describeClusterResponse({
    clusterId: options.clusterId,
    controllerId: quorum.controllerId,
    controllerTerm: quorum.term,
    committedIndex: quorum.committedIndex,
    voters: quorum.voters,
    topics: image.topicsById.size,
    ...clusterTotals(image, options.topicDefaults),
    ailing: ailing(image),
    brokers: [...image.brokers.values()].map((broker) => {
      const { leaders, preferred, replicas, inSync } = countsOf(broker.id);
      return {
        id: broker.id,
        address: broker.clientAddress,
        rack: broker.rack,
        brokerEpoch: broker.epoch,
        fenced: broker.fenced,
        shuttingDown: broker.shuttingDown,
        leaders,
        preferredLeaders: preferred,
        replicas,
        inSync,
      };
    }),
  });
}

/** Those without a leader, then those with a replica that cannot be used. */
function ailing(image: ClusterImage): AilingPartition[] {
  const leaderless: AilingPartition[] = [];
  const others: AilingPartition[] = [];
  for (const { name, partitions } of image.topicsById.values()) {
    for (const [number, known] of partitions.entries()) {
      const { leader, offline } = known;
      const isLed = leader !== NO_BROKER;
      if (isLed && offline.length === 0) continue;
      const why = isLed ? '' : whyNoLeader(known);
      const found = ailingPartition({ topic: name, partition: number, leader, offline, why });
      const list = isLed ? others : leaderless;
      if (list.length < AILING_MAX) list.push(found);
    }
  }
  return [...leaderless, ...others].slice(0, AILING_MAX);
}
