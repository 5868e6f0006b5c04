import type { BrokerId } from '@relevo/base/ids';
import { NO_BROKER } from '@relevo/base/ids';
import type { ClusterImage } from '@relevo/controller/image';
import { preferredLeader } from '@relevo/controller/image';
import { minInSync, topicSettings, type TopicSettings } from '@relevo/controller/topic-config';
import {
  describeClusterResponse,
  type DescribeClusterResponse,
  type QuorumVoter,
} from '@relevo/rpc/gen/client/admin';

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

/** The cluster in figures: one pass over all partitions. */
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
  const total = { partitions: 0, underReplicated: 0, offline: 0, underMinIsr: 0, notPreferred: 0 };
  for (const topic of image.topicsById.values()) {
    const settings = topicSettings(topic.config, options.topicDefaults);
    for (const partition of topic.partitions) {
      const { replicas, isr, leader } = partition;
      total.partitions++;
      if (isr.length < replicas.length) total.underReplicated++;
      if (isr.length < minInSync(settings, replicas.length)) total.underMinIsr++;
      if (leader === NO_BROKER) total.offline++;
      else countsOf(leader).leaders++;
      if (leader !== preferredLeader(partition)) total.notPreferred++;
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
    ...total,
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
