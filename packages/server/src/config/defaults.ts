import type { ClusterDefaults } from '@relevo/controller/commands';
import { TOPIC_DEFAULTS } from '@relevo/controller/topic-config';
import type { NodeConfig } from './node-config.ts';

/** What topics are created with, and what a setting that a topic does not have follows. */
export const clusterDefaultsOf = (config: NodeConfig): ClusterDefaults => ({
  partitions: config['num.partitions'],
  replicationFactor: config['default.replication.factor'],
  topic: {
    ...TOPIC_DEFAULTS,
    flushMode: config['flush.mode'],
    indexIntervalBytes: config['log.index.interval.bytes'],
    maxMessageBytes: config['message.max.bytes'],
    messageTimestampType: config['log.message.timestamp.type'],
    minInsyncReplicas: config['min.insync.replicas'],
    retentionBytes: config['log.retention.bytes'],
    retentionMs: config['log.retention.ms'],
    segmentBytes: config['log.segment.bytes'],
    segmentMs: config['log.roll.ms'],
    uncleanLeaderElectionEnable: config['unclean.leader.election.enable'],
  },
});
