/** What the doctor sees of a cluster of three brokers that is well, but for the changes asked for. */
import type { AddressFacts, Connection, Facts, GivenFacts, Sample } from '@relevo/cli/doctor/facts';
import {
  describeClusterResponse,
  quorumVoter,
  type QuorumVoter,
} from '@relevo/rpc/gen/client/admin';
import {
  brokerMetadata,
  clusterMetadata,
  nodeDescription,
  partitionMetadata,
  topicMetadata,
  type NodeDescription,
  type PartitionMetadata,
} from '@relevo/rpc/gen/client/metadata';

export const VOTERS: readonly string[] = ['1@broker-1:9093', '2@broker-2:9093', '3@broker-3:9093'];
export const addressOf = (id: number): string => `broker-${id}:9093`;

export interface Change {
  /** Of each node by id. */
  readonly node?: (id: number) => Partial<NodeDescription>;
  readonly samples?: (id: number) => readonly Partial<Sample>[];
  readonly look?: (id: number) => Partial<AddressFacts>;
  readonly fenced?: readonly number[];
  readonly partition?: Partial<PartitionMetadata>;
  readonly minInSync?: number;
  readonly cluster?: Parameters<typeof describeClusterResponse>[0];
  readonly given?: Partial<GivenFacts>;
  readonly version?: string;
}

export const nodeOf = (id: number, change: Change): NodeDescription =>
  nodeDescription({
    nodeId: id,
    clusterId: 'unit',
    version: '1.0.0',
    roles: ['broker', 'controller'],
    clockMs: 1_000_000,
    listener: 'default',
    advertised: [{ listener: 'default', address: addressOf(id) }],
    controllerId: 1,
    metadataVersion: 5000,
    voters: VOTERS,
    ...change.node?.(id),
  });

function lookAt(id: number, change: Change): AddressFacts {
  const node = nodeOf(id, change);
  const samples = change.samples?.(id) ?? [{}];
  return {
    address: addressOf(id),
    host: `broker-${id}`,
    port: 9093,
    resolution: { kind: 'resolved', ips: [`10.0.0.${id}`] },
    endpoints: [{ ip: `10.0.0.${id}`, connection: { kind: 'connected' } }],
    service: { kind: 'relevo', node },
    samples: samples.map((more) => ({ sentMs: 1_000_000, roundTripMs: 2, node, ...more })),
    answerers: [{ ip: `10.0.0.${id}`, nodeId: id, clusterId: 'unit' }],
    ...change.look?.(id),
  };
}

/** Three brokers, one topic of one partition on all of them, all well but for what `change` says. */
export function factsOf(change: Change = {}): Facts {
  const partition = partitionMetadata({
    partition: 0,
    leader: 1,
    replicas: [1, 2, 3],
    isr: [1, 2, 3],
    ...change.partition,
  });
  const metadata = clusterMetadata({
    clusterId: 'unit',
    controllerId: 1,
    brokers: [1, 2, 3].map((id) =>
      brokerMetadata({
        id,
        address: addressOf(id),
        fenced: change.fenced?.includes(id) ?? false,
      }),
    ),
    topics: [topicMetadata({ name: 'orders', partitionCount: 1, partitions: [partition] })],
  });
  const cluster = describeClusterResponse({
    clusterId: 'unit',
    controllerId: 1,
    committedIndex: 5000,
    voters: [1, 2, 3].map((id) => voter(id)),
    ...change.cluster,
  });
  const given: GivenFacts = {
    address: addressOf(1),
    metadata,
    refusal: undefined,
    cluster,
    clusterRefusal: undefined,
    ...change.given,
  };
  return {
    version: change.version ?? '1.0.0',
    given: [given],
    addresses: new Map([1, 2, 3].map((id) => [addressOf(id), lookAt(id, change)])),
    minInSync: new Map(change.minInSync === undefined ? [] : [['orders', change.minInSync]]),
  };
}

export const voter = (id: number, more: Parameters<typeof quorumVoter>[0] = {}): QuorumVoter =>
  quorumVoter({ id, address: addressOf(id), matchIndex: 5000, silentForMs: 20, ...more });

export const unreached = (id: number, connection: Connection): Partial<AddressFacts> => ({
  endpoints: [{ ip: `10.0.0.${id}`, connection }],
  service: undefined,
  samples: [],
  answerers: [],
});
