import { NO_BROKER } from '@relevo/base/ids';
import type { ClusterImage } from '@relevo/controller/image';
import { preferredLeader } from '@relevo/controller/image';
import { minInSync, topicSettings, type TopicSettings } from '@relevo/controller/topic-config';

/** How many partitions there are, and what ails how many of them. */
export interface ClusterTotals {
  readonly partitions: number;
  /** Fewer replicas in sync than there are. */
  readonly underReplicated: number;
  /** Without a leader. */
  readonly offline: number;
  /** Replicas whose log cannot be used. */
  readonly offlineReplicas: number;
  /** Too few replicas in sync for acks=all. */
  readonly underMinIsr: number;
  /** Led by another replica than the first, or by none. */
  readonly notPreferred: number;
}

/** One pass over all partitions. */
export function clusterTotals(image: ClusterImage, topicDefaults: TopicSettings): ClusterTotals {
  const total = {
    ...{ partitions: 0, underReplicated: 0, offline: 0, underMinIsr: 0, notPreferred: 0 },
    offlineReplicas: 0,
  };
  for (const topic of image.topicsById.values()) {
    const settings = topicSettings(topic.config, topicDefaults);
    for (const partition of topic.partitions) {
      const { replicas, isr, leader } = partition;
      total.partitions++;
      if (isr.length < replicas.length) total.underReplicated++;
      if (isr.length < minInSync(settings, replicas.length)) total.underMinIsr++;
      if (leader === NO_BROKER) total.offline++;
      total.offlineReplicas += partition.offline.length;
      if (leader !== preferredLeader(partition)) total.notPreferred++;
    }
  }
  return total;
}
