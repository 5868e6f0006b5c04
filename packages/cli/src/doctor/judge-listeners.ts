/** Whom listeners serve, and whether whoever calls the cluster's own services must prove to belong to it. */
import type { NodeDescription } from '@relevo/rpc/gen/client/metadata';
import { knownNodes, type Facts, type KnownNode } from './facts.ts';
import { trouble, well, type Finding } from './findings.ts';
import { hostAndPort } from './reach.ts';
import { isLoopback } from './troubles.ts';

// --------------------------------------------------------------------------------------- listeners

/** Nodes that tell of it; older ones do not. */
const telling = (facts: Facts): readonly KnownNode[] =>
  knownNodes(facts).filter(({ node }) => node.membership !== '');

export function judgeListeners(facts: Facts): Finding[] {
  const nodes = telling(facts);
  if (nodes.length === 0) return [];
  const findings = nodes.flatMap(({ node }) => [...missingListener(node), ...wideListener(node)]);
  if (findings.length > 0) return findings;
  return [
    well('listeners', 'cluster', 'each node has one that nodes dial, and says whom it serves'),
  ];
}

/** The nodes dial one that does not serve what they call there. */
function missingListener(node: NodeDescription): Finding[] {
  const { nodeId, interBrokerListener: dialled, clusterListeners } = node;
  if (clusterListeners.includes(dialled)) return [];
  const found =
    `other nodes dial its listener "${dialled}", which serves clients alone ` +
    `(cluster.listener.names: ${clusterListeners.join(', ') || 'none'})`;
  const change = `add "${dialled}" to cluster.listener.names of node ${nodeId}, or set inter.broker.listener.name to one of those`;
  return [trouble('fail', 'listeners', `node ${nodeId}`, { found, change })];
}

/** One listener for all, though there are others: the cluster's own services are where clients come. */
function wideListener(node: NodeDescription): Finding[] {
  const { nodeId, clusterListeners, interBrokerListener, advertised } = node;
  const wide = advertised.filter(
    ({ listener, address }) =>
      listener !== interBrokerListener &&
      clusterListeners.includes(listener) &&
      !isLoopback(hostAndPort(address)?.host ?? ''),
  );
  if (wide.length === 0) return [];
  const names = wide.map(({ listener, address }) => `"${listener}" (${address})`).join(', ');
  const found = `its listener ${names} serves the cluster's own services too, and no node has to dial it`;
  const change = `take it out of cluster.listener.names of node ${nodeId}: then it serves clients alone`;
  return [trouble('warn', 'listeners', `node ${nodeId}`, { found, change })];
}

// ------------------------------------------------------------------------------------------ secret

export function judgeSecret(facts: Facts): Finding[] {
  const nodes = telling(facts);
  if (nodes.length === 0) return [];
  const open = nodes.filter(({ node }) => node.membership === 'none');
  const auto = nodes.filter(({ node }) => node.membership === 'auto');
  const ids = (some: readonly KnownNode[]): string =>
    some.map(({ node }) => node.nodeId).join(', ');
  const how = 'put the same cluster.secret.file on every node and restart them one after the other';
  if (open.length > 0 && open.length < nodes.length) {
    const found = `node ${ids(open)} has no secret, the others have: they do not work together`;
    return [trouble('fail', 'secret', 'cluster', { found, change: `${how} (deploy/README.md)` })];
  }
  if (open.length > 0) {
    const isLocal = open.every(({ node }) => isOnLoopback(node));
    if (isLocal) {
      const found =
        'there is none, and the nodes listen on this machine alone: every process here is taken';
      return [well('secret', 'cluster', found)];
    }
    const found =
      'there is none: whoever reaches a listener of the nodes can change or destroy the cluster';
    return [trouble('fail', 'secret', 'cluster', { found, change: `${how} (deploy/README.md)` })];
  }
  if (auto.length > 0) {
    const found = `node ${ids(auto)} still takes callers that prove nothing (cluster.auth.required)`;
    const change =
      'once all nodes have the secret, take cluster.auth.required out of their configuration';
    return [trouble('warn', 'secret', 'cluster', { found, change })];
  }
  return [well('secret', 'cluster', `the nodes prove to one another that they hold it`)];
}

/** As far as the addresses tell that it advertises. */
const isOnLoopback = ({ advertised, clusterListeners }: NodeDescription): boolean =>
  advertised
    .filter(({ listener }) => clusterListeners.includes(listener))
    .every(({ address }) => isLoopback(hostAndPort(address)?.host ?? ''));
