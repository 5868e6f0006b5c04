import { VERSION } from '@relevo/base/version';
import { nodeDescription, type NodeDescription } from '@relevo/rpc/gen/client/metadata';
import type { NodeConfig } from '../config/node-config.ts';

/** What changes while the node runs. */
export interface NodeState {
  readonly clockMs: number;
  readonly controllerId: number | undefined;
  readonly metadataVersion: number;
  /** Why it should be given no work; undefined: it serves. */
  readonly unready: string | undefined;
  readonly membership: 'secret' | 'auto' | 'none';
  /** Replicas whose logs cannot be used, with the reason. */
  readonly offline: readonly { readonly partition: string; readonly reason: string }[];
}

/** The most unusable replicas that an answer lists by name. */
const OFFLINE_MAX = 20;

/** The node as whoever comes to `listener` is told. */
export const describeNode = (
  config: NodeConfig,
  listener: string,
  state: NodeState,
): NodeDescription =>
  nodeDescription({
    nodeId: config['node.id'],
    clusterId: config['cluster.id'],
    version: VERSION,
    roles: config['process.roles'],
    clockMs: state.clockMs,
    listener,
    advertised: config['advertised.grpc'],
    controllerId: state.controllerId ?? -1,
    metadataVersion: state.metadataVersion,
    voters: config['controller.quorum.voters'].map(({ id, address }) => `${id}@${address}`),
    unready: state.unready ?? '',
    interBrokerListener: config['inter.broker.listener.name'],
    clusterListeners: config['cluster.listener.names'],
    membership: state.membership,
    offlineReplicas: state.offline
      .slice(0, OFFLINE_MAX)
      .map(({ partition, reason }) => `${partition}: ${reason}`),
  });
