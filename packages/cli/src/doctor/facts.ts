/** What the doctor has seen, before it is judged: plain data, so that each judgement is a table test. */
import type { DescribeClusterResponse } from '@relevo/rpc/gen/client/admin';
import type { ClusterMetadata, NodeDescription } from '@relevo/rpc/gen/client/metadata';

/** What the name service says of a host. */
export type Resolution =
  | { readonly kind: 'resolved'; readonly ips: readonly string[] }
  /** No such name. */
  | { readonly kind: 'unknown' }
  /** No answer in time. */
  | { readonly kind: 'silent'; readonly waitedMs: number }
  | { readonly kind: 'failed'; readonly reason: string };

/** How a TCP connection was met. */
export type Connection =
  | { readonly kind: 'connected' }
  | { readonly kind: 'refused' }
  /** No answer in time: a firewall, or a host that is down. */
  | { readonly kind: 'silent'; readonly waitedMs: number }
  /** No route to the host or network. */
  | { readonly kind: 'unreachable'; readonly reason: string }
  | { readonly kind: 'failed'; readonly reason: string };

/** Something that is no Relevo node, as far as its first words tell. */
export type Stranger =
  /** A gRPC server without Relevo's services. */
  | { readonly kind: 'grpc'; readonly said: string }
  | { readonly kind: 'http2' }
  /** `ofRelevo`: it answers /readyz as a broker's listener.http does. */
  | { readonly kind: 'http'; readonly said: string; readonly ofRelevo: boolean }
  | { readonly kind: 'tls'; readonly protocol: string }
  | { readonly kind: 'kafka' }
  /** It speaks first, or answers in some other language. */
  | { readonly kind: 'other'; readonly said: string }
  /** Takes connections and closes them without a word. */
  | { readonly kind: 'closes' }
  /** Takes connections and says nothing. */
  | { readonly kind: 'mute' };

export type Service =
  | { readonly kind: 'relevo'; readonly node: NodeDescription }
  /** A Relevo broker that knows no GetNode. */
  | { readonly kind: 'older' }
  | Stranger;

/** One call for the node's description. */
export interface Sample {
  /** This machine's wall clock as the call was sent, ms since 1970. */
  readonly sentMs: number;
  readonly roundTripMs: number;
  readonly node: NodeDescription;
}

/** Who answered on a connection of its own. */
export interface Answerer {
  readonly ip: string;
  readonly nodeId: number;
  readonly clusterId: string;
}

export interface Endpoint {
  readonly ip: string;
  readonly connection: Connection;
}

export interface AddressFacts {
  /** host:port */
  readonly address: string;
  readonly host: string;
  readonly port: number;
  readonly resolution: Resolution;
  /** For each address of the name. */
  readonly endpoints: readonly Endpoint[];
  /** Undefined: no connection was made. */
  readonly service: Service | undefined;
  /** On one connection, one after the other; empty unless the service is `relevo`. */
  readonly samples: readonly Sample[];
  /** On further connections. */
  readonly answerers: readonly Answerer[];
}

/** What one of the brokers to begin with told. */
export interface GivenFacts {
  readonly address: string;
  /** As told on the listener behind the address. */
  readonly metadata: ClusterMetadata | undefined;
  /** Why there is none though a Relevo node answers. */
  readonly refusal: string | undefined;
  readonly cluster: DescribeClusterResponse | undefined;
  readonly clusterRefusal: string | undefined;
}

export interface Facts {
  /** Of this program. */
  readonly version: string;
  readonly given: readonly GivenFacts[];
  /** Those given and those advertised. */
  readonly addresses: ReadonlyMap<string, AddressFacts>;
  /** min.insync.replicas of topics that lack replicas, by name. */
  readonly minInSync: ReadonlyMap<string, number>;
}

/** A Relevo node that answered. */
export interface KnownNode {
  readonly address: string;
  readonly node: NodeDescription;
  readonly samples: readonly Sample[];
}

/** Each once, by id. Where one answers at several addresses the one that it advertises counts. */
export function knownNodes(facts: Facts): readonly KnownNode[] {
  const byId = new Map<string, KnownNode>();
  for (const { address, service, samples } of facts.addresses.values()) {
    if (service?.kind !== 'relevo') continue;
    const { node } = service;
    const isAdvertised = node.advertised.some((one) => one.address === address);
    const key = `${node.clusterId} ${node.nodeId}`;
    if (isAdvertised || !byId.has(key)) byId.set(key, { address, node, samples });
  }
  return [...byId.values()].sort((a, b) => a.node.nodeId - b.node.nodeId);
}

/** As told by the first of the given brokers that told anything. */
export const toldMetadata = (facts: Facts): ClusterMetadata | undefined =>
  facts.given.find(({ metadata }) => metadata !== undefined)?.metadata;
