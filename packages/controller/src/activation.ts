/**
 * The first decision of an active controller. Its predecessor may have been cut off between two entries
 * of one decision, or the node may have other defaults: whatever is not as an election would have it is
 * put right, in one pass over all partitions.
 */
import { RelevoError } from '@relevo/base/errors';
import type { Activate, ClusterDefaults, Decision, Nothing } from './commands.ts';
import { changePartition, conditionsOf, rulesOf } from './elections.ts';
import type { ClusterImage } from './image.ts';
import type { MetadataRecord } from './records.ts';

export function decideActivation(
  image: ClusterImage,
  command: Activate,
  defaults: ClusterDefaults,
): Decision<Nothing> {
  const records: MetadataRecord[] = [];
  if (image.clusterId === undefined) {
    records.push({ kind: 'clusterIdentity', clusterId: command.clusterId });
  } else if (image.clusterId !== command.clusterId) {
    throw new RelevoError(
      'INCONSISTENT_CLUSTER_ID',
      `the metadata log is of cluster "${image.clusterId}", this node is configured for ` +
        `"${command.clusterId}": correct cluster.id, or give the node an empty data directory`,
    );
  }
  const conditions = conditionsOf(image);
  for (const topic of image.topicsById.values()) {
    const rules = rulesOf(topic.config, defaults.topic);
    topic.partitions.forEach((partition, number) => {
      const change = changePartition({
        topicId: topic.id,
        partition: number,
        image: partition,
        conditions,
        rules,
      });
      if (change !== undefined) records.push(change);
    });
  }
  return { records, atomic: false, response: {} };
}
