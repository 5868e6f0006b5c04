/** Where clients begin, and where they are sent from there. */
import type { ListenerAddress } from '@relevo/rpc/gen/common/listeners';
import type { BrokerMetadata, NodeDescription } from '@relevo/rpc/gen/client/metadata';
import { knownNodes, type AddressFacts, type Facts, type GivenFacts } from './facts.ts';
import { trouble, well, type Finding, type Trouble } from './findings.ts';
import {
  connectionAdvice,
  endpointsText,
  isConnected,
  isLoopback,
  isNode,
  nameTrouble,
  strangerAdvice,
  strangerText,
} from './troubles.ts';

type Severity = 'warn' | 'fail';

/** The name of a listener that its configuration gives none. */
const DEFAULT_LISTENER = 'default';

// ---------------------------------------------------------------------------------- what was given

/** Name, connection and service of each of the addresses that clients begin with. */
export function judgeGiven(facts: Facts): Finding[] {
  const works = ({ metadata }: GivenFacts): boolean => metadata !== undefined;
  // Clients try one after the other.
  const severity: Severity = facts.given.some(works) ? 'warn' : 'fail';
  return facts.given.flatMap((given) => {
    const address = facts.addresses.get(given.address);
    return address === undefined ? [] : judgeEntry(given, address, severity);
  });
}

function judgeEntry(given: GivenFacts, facts: AddressFacts, severity: Severity): Finding[] {
  const { address, endpoints } = facts;
  const noName = nameTrouble(facts);
  if (noName !== undefined) {
    const change =
      'correct the name, or make it resolve here (DNS, /etc/hosts); names of a container network are ' +
      'known inside it only';
    return [trouble(severity, 'resolve', address, { found: noName, change })];
  }
  const resolved = well('resolve', address, endpoints.map(({ ip }) => ip).join(', '));
  if (!endpoints.some(isConnected)) {
    const found = endpointsText(endpoints);
    const unconnected = trouble(severity, 'connect', address, {
      found,
      change: connectionAdvice(facts),
    });
    return [resolved, unconnected];
  }
  return [resolved, judgeEndpoints(facts), judgeService(given, facts, severity)];
}

/** Some address of the name takes connections. */
function judgeEndpoints({ address, endpoints, port }: AddressFacts): Finding {
  const found = endpointsText(endpoints);
  const slow = endpoints.filter(({ connection }) => connection.kind === 'silent');
  if (slow.length === 0) return well('connect', address, found);
  const change =
    `take ${slow.map(({ ip }) => ip).join(', ')} out of the name, or let TCP port ${port} through to ` +
    `it: clients that try it first wait in vain`;
  return trouble('warn', 'connect', address, { found, change });
}

function judgeService(given: GivenFacts, facts: AddressFacts, severity: Severity): Finding {
  const { address, service, answerers } = facts;
  if (service === undefined) return well('service', address, 'nothing was asked');
  if (service.kind === 'older') return judgeOlder(given, severity);
  if (service.kind !== 'relevo') {
    const [found, change] = [strangerText(service), strangerAdvice(service)];
    return trouble(severity, 'service', address, { found, change });
  }
  const { node } = service;
  if (given.metadata === undefined) {
    const why = node.unready === '' ? '' : ` (${node.unready})`;
    const found = `${nodeText(node)} answers, but tells nothing of the cluster: ${given.refusal}${why}`;
    return trouble(severity, 'service', address, { found, change: uninformedAdvice(node) });
  }
  const ids = [...new Set([node.nodeId, ...answerers.map(({ nodeId }) => nodeId)])].toSorted(
    (a, b) => a - b,
  );
  if (ids.length > 1) {
    const found = `brokers ${ids.join(', ')} answer by turns: fine to begin with`;
    return well('service', address, found);
  }
  if (!node.roles.includes('broker')) {
    const brokers = given.metadata.brokers.map((broker) => broker.address).join(', ');
    const found = `${nodeText(node)} answers: it tells of the cluster, but keeps no records`;
    const change = `begin with the brokers, so that controllers are left alone: ${brokers}`;
    return trouble('warn', 'service', address, { found, change });
  }
  const listener = node.advertised.length > 1 ? `, listener ${node.listener}` : '';
  return well('service', address, `${nodeText(node)} of cluster ${node.clusterId}${listener}`);
}

function judgeOlder({ address, metadata, refusal }: GivenFacts, severity: Severity): Finding {
  if (metadata === undefined) {
    const found = `a Relevo broker answers, but tells nothing of the cluster: ${refusal}`;
    return trouble(severity, 'service', address, { found, change: 'see the log of that broker' });
  }
  const found =
    'a Relevo broker answers that is older than this program: it does not say which it is';
  const change = 'upgrade the broker; until then some checks are left out';
  return trouble('warn', 'service', address, { found, change });
}

const nodeText = ({ nodeId, roles }: NodeDescription): string =>
  roles.includes('broker') ? `broker ${nodeId}` : `controller ${nodeId}, which is no broker,`;

const uninformedAdvice = ({ nodeId, voters }: NodeDescription): string =>
  `see the log of node ${nodeId}: it must reach the controllers that its controller.quorum.voters ` +
  `names (${voters.join(', ')}), and a majority of them must run`;

// ------------------------------------------------------------------------------ what is advertised

interface Advertised {
  readonly broker: BrokerMetadata;
  /** The listener on which it was told; '' where that is not known. */
  readonly listener: string;
  readonly clusterId: string;
}

/** Every broker's address, as told on each listener that was reached. */
export function judgeAdvertised(facts: Facts): Finding[] {
  const told = new Map<string, Advertised>();
  for (const { address, metadata } of facts.given) {
    const service = facts.addresses.get(address)?.service;
    const listener = service?.kind === 'relevo' ? service.node.listener : '';
    for (const broker of metadata?.brokers ?? []) {
      const { clusterId = '' } = metadata ?? {};
      const key = `${clusterId} ${broker.id} ${broker.address}`;
      if (!told.has(key)) told.set(key, { broker, listener, clusterId });
    }
  }
  const all = [...told.values()].sort((a, b) => a.broker.id - b.broker.id);
  return all.map((advertised) => judgeAdvertisedAddress(facts, all, advertised));
}

function judgeAdvertisedAddress(
  facts: Facts,
  all: readonly Advertised[],
  advertised: Advertised,
): Finding {
  const { broker } = advertised;
  const subject = `broker ${broker.id} at ${broker.address}`;
  const address = facts.addresses.get(broker.address);
  const sharers = all.filter(
    (other) => other.broker.address === broker.address && other.broker.id !== broker.id,
  );
  if (address === undefined) return well('advertised', subject, 'not looked at');
  const wrong =
    (sharers.length > 0 ? sharedTrouble(facts, advertised, sharers) : undefined) ??
    reachTrouble(facts, advertised, address) ??
    identityTrouble(facts, advertised, address);
  // Nothing is led by a fenced broker, so that no client misses it.
  if (wrong !== undefined) {
    return trouble(broker.fenced ? 'warn' : 'fail', 'advertised', subject, wrong);
  }
  return judgeListener(advertised, subject, address);
}

function sharedTrouble(
  facts: Facts,
  advertised: Advertised,
  sharers: readonly Advertised[],
): Trouble {
  const { broker } = advertised;
  const ids = [broker.id, ...sharers.map((other) => other.broker.id)].sort((a, b) => a - b);
  const found = `brokers ${ids.join(' and ')} advertise the same address`;
  const answering = answeringIds(facts.addresses.get(broker.address));
  const who =
    answering.length === 0
      ? 'nobody answers there'
      : `broker ${answering.join(', ')} answers there`;
  const change =
    answering.length === 1 && answering[0] === broker.id
      ? `it is right for this one: change that of ${others(ids, broker.id)}`
      : `give it an address that leads to it alone: ${setAdvertised(facts, advertised)}`;
  return { found: `${found}; ${who}`, change };
}

const others = (ids: readonly number[], id: number): string =>
  `broker ${ids.filter((other) => other !== id).join(', ')}`;

function reachTrouble(
  facts: Facts,
  advertised: Advertised,
  address: AddressFacts,
): Trouble | undefined {
  const { broker } = advertised;
  const other = betterBeginning(facts, advertised);
  const own = setAdvertised(facts, advertised);
  const set = other === undefined ? own : `${other}; or ${own}`;
  const noName = nameTrouble(address);
  const fenced = broker.fenced ? ', and the cluster counts it as gone' : '';
  if (noName !== undefined) {
    const found = `${noName}${fenced}`;
    const change = broker.fenced
      ? `start broker ${broker.id}; a container's name is known only while it runs`
      : `${set}, or make ${address.host} resolve here (DNS, /etc/hosts); a container's name is known ` +
        `only while it runs: if it is one, start broker ${broker.id}`;
    return { found, change };
  }
  if (!address.endpoints.some(isConnected)) {
    const found = `${endpointsText(address.endpoints)}${fenced}`;
    return { found, change: unconnectedAdvice(address, broker, other, own) };
  }
  const { service } = address;
  if (service === undefined || service.kind === 'relevo' || service.kind === 'older') {
    return undefined;
  }
  const silent = service.kind === 'mute' || service.kind === 'closes';
  const change = silent ? strangerAdvice(service) : set;
  return { found: `${strangerText(service)}${fenced}`, change };
}

/** `other`: how to begin elsewhere; `own`: what to set. */
function unconnectedAdvice(
  address: AddressFacts,
  { id, fenced }: BrokerMetadata,
  other: string | undefined,
  own: string,
): string {
  if (fenced) return `start broker ${id}`;
  const set = other === undefined ? own : `${other}; or ${own}`;
  const itself = isLoopback(address.host)
    ? `${address.host} is the machine or container that each caller is on: ${set}`
    : set;
  // Nothing listens: more often the broker has ended than its address is wrong.
  const refused = address.endpoints.some(({ connection }) => connection.kind === 'refused');
  if (refused) return `start broker ${id}, if it does not run; if it does: ${itself}`;
  if (other !== undefined || isLoopback(address.host)) return itself;
  return `see that broker ${id} runs; ${connectionAdvice(address)}; or ${set}`;
}

/** Whether the right broker answers, and always. */
function identityTrouble(
  facts: Facts,
  advertised: Advertised,
  address: AddressFacts,
): Trouble | undefined {
  const { broker, clusterId } = advertised;
  if (address.service?.kind !== 'relevo') return undefined;
  const foreign = clusterIds(address).filter((id) => id !== clusterId);
  const set = setAdvertised(facts, advertised);
  if (foreign.length > 0) {
    const found = `a broker of another cluster answers (${foreign.join(', ')}, not ${clusterId})`;
    return { found, change: set };
  }
  const ids = answeringIds(address);
  if (ids.length > 1) {
    const found = `brokers ${ids.join(', ')} answer by turns: a load balancer, or a name of several`;
    return { found, change: `give it an address that leads to it alone: ${set}` };
  }
  const [id] = ids;
  if (id === undefined || id === broker.id) return undefined;
  return { found: `broker ${id} answers there`, change: set };
}

function judgeListener(
  { broker, listener }: Advertised,
  subject: string,
  { service, endpoints }: AddressFacts,
): Finding {
  const slow = endpoints.filter((endpoint) => !isConnected(endpoint));
  const also = slow.length === 0 ? '' : ` (of its addresses: ${endpointsText(endpoints)})`;
  if (service?.kind !== 'relevo') return well('advertised', subject, `it answers${also}`);
  const { advertised } = service.node;
  const known = advertised.map((one) => one.listener);
  if (listener !== '' && !known.includes(listener)) {
    const found = `it has no listener "${listener}", only ${known.join(', ')}`;
    const change =
      `give all brokers listeners of the same names: add ${listener}:// to listener.grpc and ` +
      `advertised.grpc of broker ${broker.id}`;
    return trouble('warn', 'advertised', subject, { found, change });
  }
  return well('advertised', subject, `it answers as broker ${broker.id}${also}`);
}

const answeringIds = (address: AddressFacts | undefined): readonly number[] => {
  const first = address?.service?.kind === 'relevo' ? [address.service.node.nodeId] : [];
  const further = (address?.answerers ?? []).map(({ nodeId }) => nodeId);
  return [...new Set([...first, ...further])].sort((a, b) => a - b);
};

const clusterIds = ({ service, answerers }: AddressFacts): readonly string[] => {
  const first = service?.kind === 'relevo' ? [service.node.clusterId] : [];
  return [...new Set([...first, ...answerers.map(({ clusterId }) => clusterId)])];
};

// ------------------------------------------------------------------- names that are not advertised

/** Whether clients stay with the name that was given, or are sent on to another. */
export function judgeNames(facts: Facts): Finding[] {
  return facts.given.flatMap((given) => {
    const entry = facts.addresses.get(given.address);
    if (entry?.service?.kind !== 'relevo' || answeringIds(entry).length > 1) return [];
    const { node } = entry.service;
    const told = given.metadata?.brokers.find(({ id }) => id === node.nodeId);
    if (told === undefined || told.address === given.address) return [];
    return [judgeName(facts, given.address, node, told.address)];
  });
}

function judgeName(
  facts: Facts,
  address: string,
  node: NodeDescription,
  advertised: string,
): Finding {
  const elsewhere = node.advertised.find(
    (one) => one.address === address && one.listener !== node.listener,
  );
  if (elsewhere !== undefined) {
    const found =
      `broker ${node.nodeId} advertises it on listener ${elsewhere.listener}, but it leads to ` +
      `listener ${node.listener}, whose callers are sent to ${advertised}`;
    const change = `let it lead to the port that listener.grpc of broker ${node.nodeId} has for ${elsewhere.listener}`;
    return trouble(
      leadsTo(facts, advertised, node.nodeId) ? 'warn' : 'fail',
      'advertised-name',
      address,
      { found, change },
    );
  }
  const sent = `broker ${node.nodeId} does not advertise it: all further calls go to ${advertised}`;
  const set = `advertised.grpc: ${withListener(node.advertised, node.listener, address)}`;
  if (leadsTo(facts, advertised, node.nodeId)) {
    const found = `${sent}, which is reached from here (to keep callers at ${address}: ${set})`;
    return well('advertised-name', address, found);
  }
  return trouble('fail', 'advertised-name', address, {
    found: `${sent}, which does not lead to it from here`,
    change: nameAdvice(facts, address, node),
  });
}

function nameAdvice(facts: Facts, address: string, node: NodeDescription): string {
  const { nodeId, listener, advertised } = node;
  const set = `set advertised.grpc of broker ${nodeId} to ${withListener(advertised, listener, address)}`;
  const other = betterBeginning(facts, node);
  const advice = other === undefined ? set : `${other}; or ${set}`;
  if (!isForPeers(facts, node)) return advice;
  return (
    `${advice}, if the other brokers reach it there, too; else give this network a listener of its ` +
    `own: NAME://0.0.0.0:PORT in listener.grpc, NAME://${address} in advertised.grpc`
  );
}

type OnListener = Pick<Advertised, 'clusterId' | 'listener'>;

/** Whether the other brokers come to that listener, too. */
const isForPeers = (facts: Facts, { clusterId, listener }: OnListener): boolean =>
  knownNodes(facts).some(
    ({ node }) => node.clusterId === clusterId && node.interBrokerListener === listener,
  );

/** Another listener that is there for callers from here: it was reached as it is advertised. */
function betterBeginning(facts: Facts, { clusterId, listener }: OnListener): string | undefined {
  for (const looked of facts.addresses.values()) {
    if (looked.service?.kind !== 'relevo' || answeringIds(looked).length > 1) continue;
    const { node } = looked.service;
    if (node.clusterId !== clusterId || node.listener === listener) continue;
    const own = node.advertised.find((one) => one.listener === node.listener);
    if (own?.address !== looked.address) continue;
    return (
      `begin with ${looked.address} instead: it leads to the listener ${node.listener}, which is for ` +
      'callers from here'
    );
  }
  return undefined;
}

const leadsTo = (facts: Facts, address: string, nodeId: number): boolean => {
  const looked = facts.addresses.get(address);
  if (!isNode(looked?.service)) return false;
  return looked?.service?.kind === 'older' || answeringIds(looked).every((id) => id === nodeId);
};

/** What advertised.grpc comes to when `listener` advertises `address` instead. */
const withListener = (
  advertised: readonly ListenerAddress[],
  listener: string,
  address: string,
): string =>
  advertised
    .map((one) => (one.listener === listener ? { ...one, address } : one))
    .map((one) => (advertised.length > 1 ? `${one.listener}://${one.address}` : one.address))
    .join(', ');

/** What to set at the broker: the very value where it was met somewhere, else its form. */
function setAdvertised(facts: Facts, { broker, listener, clusterId }: Advertised): string {
  const { id } = broker;
  for (const looked of facts.addresses.values()) {
    const ids = answeringIds(looked);
    if (looked.service?.kind !== 'relevo' || ids.length > 1 || ids[0] !== id) continue;
    const { node } = looked.service;
    if (node.clusterId !== clusterId || node.listener !== listener) continue;
    const value = withListener(node.advertised, listener, looked.address);
    const set = `set advertised.grpc of broker ${id} to ${value}, where it answers`;
    return isForPeers(facts, node) ? `${set}, if the other brokers reach it there, too` : set;
  }
  const who = isForPeers(facts, { clusterId, listener })
    ? 'clients here and the other brokers'
    : 'clients here';
  const named = listener === '' || listener === DEFAULT_LISTENER ? '' : `${listener}://`;
  return `set advertised.grpc of broker ${id} to ${named}HOST:PORT, under which ${who} reach it`;
}
