/** The cluster as a whole: its id, its controllers, its partitions. */
import type { DescribeClusterResponse, QuorumVoter } from '@relevo/rpc/gen/client/admin';
import type { ClusterMetadata, PartitionMetadata } from '@relevo/rpc/gen/client/metadata';
import { knownNodes, toldMetadata, type Facts } from './facts.ts';
import { trouble, well, type Finding } from './findings.ts';
import { durationText, plural } from '../units.ts';

/** The leader hears from each voter several times a second. */
const VOTER_SILENT_MS = 2000;
/** Entries of the controllers' log; a heartbeat's worth of them is no news. */
const BEHIND_WARN = 1000;
/** The most items that one finding lists by name. */
const NAMED_MAX = 5;

// -------------------------------------------------------------------------------------- cluster id

export function judgeClusterId(facts: Facts): Finding[] {
  const byId = new Map<string, string[]>();
  for (const { address, metadata } of facts.given) {
    const service = facts.addresses.get(address)?.service;
    const id = service?.kind === 'relevo' ? service.node.clusterId : metadata?.clusterId;
    if (id !== undefined) byId.set(id, [...(byId.get(id) ?? []), address]);
  }
  const [only] = byId.keys();
  if (only === undefined) return [];
  if (byId.size === 1) {
    const brokers = toldMetadata(facts)?.brokers.map(({ id }) => id) ?? [];
    const listed = brokers.toSorted((a, b) => a - b).join(', ');
    const found = brokers.length === 0 ? only : `${only}, with the brokers ${listed}`;
    return [well('cluster-id', 'cluster', found)];
  }
  const told = [...byId].map(([id, addresses]) => `${id} (${addresses.join(', ')})`).join(', ');
  const found = `the given addresses are of several clusters: ${told}`;
  const change = 'begin with brokers of one cluster; see cluster.id of each broker';
  return [trouble('fail', 'cluster-id', 'cluster', { found, change })];
}

// ------------------------------------------------------------------------------------------ quorum

export function judgeQuorum(facts: Facts): Finding[] {
  const cluster = facts.given.find((given) => given.cluster !== undefined)?.cluster;
  if (cluster !== undefined && cluster.controllerId >= 0) return judgeVoters(cluster);
  const refusal = facts.given.find((given) => given.clusterRefusal !== undefined)?.clusterRefusal;
  if (cluster === undefined && refusal === undefined) return [];
  const nodes = knownNodes(facts).map(({ node }) => node);
  const voters = [...new Set(nodes.flatMap((node) => node.voters))].sort();
  const seen = nodes.find(({ controllerId }) => controllerId >= 0)?.controllerId;
  if (cluster === undefined && seen !== undefined) {
    const address = voters.find((voter) => voter.startsWith(`${seen}@`)) ?? seen;
    const found = `controller ${seen}, the active one, was asked in vain: ${refusal}`;
    const change =
      `see whether the brokers reach it at ${address} (controller.quorum.voters), and its log; where ` +
      'it has just gone another is elected within seconds: run it again';
    return [trouble('fail', 'quorum', 'cluster', { found, change })];
  }
  const found = `no active controller: ${refusal ?? 'none is elected'}`;
  const change =
    `start a majority of the controllers` +
    (voters.length === 0 ? '' : ` (controller.quorum.voters: ${voters.join(', ')})`);
  return [trouble('fail', 'quorum', 'cluster', { found, change })];
}

const isHeard = ({ silentForMs }: QuorumVoter): boolean =>
  silentForMs >= 0 && silentForMs <= VOTER_SILENT_MS;

const majorityOf = (voters: readonly QuorumVoter[]): number => Math.floor(voters.length / 2) + 1;

/** Whether nothing that is told of the cluster is kept up to date any more. */
function hasNoMajority(facts: Facts): boolean {
  const cluster = facts.given.find((given) => given.cluster !== undefined)?.cluster;
  if (cluster !== undefined && cluster.controllerId >= 0) {
    return cluster.voters.filter(isHeard).length < majorityOf(cluster.voters);
  }
  const refused = facts.given.some(({ clusterRefusal }) => clusterRefusal !== undefined);
  const seen = knownNodes(facts).some(({ node }) => node.controllerId >= 0);
  return cluster !== undefined || (refused && !seen);
}

function judgeVoters({ voters, controllerId, committedIndex }: DescribeClusterResponse): Finding[] {
  const heard = voters.filter(isHeard);
  const majority = majorityOf(voters);
  const spare = heard.length - majority;
  const found =
    `controller ${controllerId} leads, ${heard.length} of ${plural(voters.length, 'voter')} heard, ` +
    (spare < 0
      ? `${majority} are a majority`
      : `survives ${plural(spare, 'more failure', 'more failures')}`);
  const silent = voters.filter((voter) => !isHeard(voter));
  const quorum = judgeMajority(voters.length, silent, found, spare);
  const behind = heard
    .map(({ id, matchIndex }) => ({ id, entries: committedIndex - matchIndex }))
    .filter(({ entries }) => entries > BEHIND_WARN);
  const lags = behind.map(({ id, entries }) =>
    trouble('warn', 'quorum', `controller ${id}`, {
      found: `${plural(entries, 'entry', 'entries')} of the controllers' log behind`,
      change: 'see its log, its disk and the network to it: it cannot take over before it has them',
    }),
  );
  return [quorum, ...lags];
}

function judgeMajority(
  count: number,
  silent: readonly QuorumVoter[],
  found: string,
  spare: number,
): Finding {
  if (silent.length > 0) {
    const named = silent
      .map(({ id, address, silentForMs }) => {
        const since =
          silentForMs < 0 ? 'never heard of' : `heard of ${durationText(silentForMs)} ago`;
        return `${id} at ${address} (${since})`;
      })
      .join(', ');
    const change = `start controller ${named}, or correct its address in controller.quorum.voters`;
    return trouble(spare < 0 ? 'fail' : 'warn', 'quorum', 'cluster', { found, change });
  }
  if (count % 2 === 0) {
    const change =
      `an even number of voters survives no more than ${count - 1} do: take one out of ` +
      'controller.quorum.voters, or add one';
    return trouble('warn', 'quorum', 'cluster', { found, change });
  }
  return well('quorum', 'cluster', found);
}

// -------------------------------------------------------------------------------------- controller

/** Whether all brokers see the same controller, were set up with the same voters, and are up to date. */
export function judgeController(facts: Facts): Finding[] {
  const nodes = knownNodes(facts);
  if (nodes.length === 0) return [];
  const views = grouped(
    nodes.map(({ node: { nodeId, controllerId } }) => [
      nodeId,
      controllerId < 0 ? 'none' : `${controllerId}`,
    ]),
  );
  const findings: Finding[] = [];
  if (views.size > 1) {
    findings.push(
      trouble('warn', 'controller', 'cluster', {
        found: `the brokers see different controllers: ${viewsText(views)}`,
        change:
          'run it again: an election takes a second; if it stays, see the log of those that see none or ' +
          'an old one, they are cut off from the controllers',
      }),
    );
  } else {
    const [seen = 'none'] = views.keys();
    const who =
      nodes.length === 1
        ? `node ${nodes[0]?.node.nodeId}`
        : `all ${nodes.length} nodes that answer`;
    const found = `the active one is ${seen}, say ${who}`;
    if (seen !== 'none') findings.push(well('controller', 'cluster', found));
  }
  const voters = grouped(nodes.map(({ node }) => [node.nodeId, node.voters.toSorted().join(', ')]));
  if (voters.size > 1) {
    findings.push(
      trouble('warn', 'controller', 'cluster', {
        found: `controller.quorum.voters differs: ${viewsText(voters)}`,
        change: 'set controller.quorum.voters to the same on every node',
      }),
    );
  }
  return [...findings, ...judgeLag(facts)];
}

function judgeLag(facts: Facts): Finding[] {
  const nodes = knownNodes(facts);
  const newest = Math.max(...nodes.map(({ node }) => node.metadataVersion));
  return nodes
    .filter(({ node }) => newest - node.metadataVersion > BEHIND_WARN)
    .map(({ node }) =>
      trouble('warn', 'controller', `broker ${node.nodeId}`, {
        found: `its view of the cluster is ${plural(newest - node.metadataVersion, 'entry', 'entries')} old`,
        change: 'see its log: it sends clients to brokers that lead no longer',
      }),
    );
}

/** Who says what. */
function grouped(views: readonly (readonly [number, string])[]): Map<string, number[]> {
  const groups = new Map<string, number[]>();
  for (const [id, view] of views) groups.set(view, [...(groups.get(view) ?? []), id]);
  return groups;
}

const viewsText = (views: ReadonlyMap<string, readonly number[]>): string =>
  [...views].map(([view, ids]) => `${view} (as node ${ids.join(', ')} has it)`).join('; ');

// -------------------------------------------------------------------------------------- partitions

interface NamedPartition extends PartitionMetadata {
  readonly name: string;
  readonly topic: string;
}

export function judgePartitions(facts: Facts): Finding[] {
  const metadata = toldMetadata(facts);
  if (metadata === undefined) return [];
  const partitions = metadata.topics.flatMap((topic) =>
    topic.partitions.map((partition) => ({
      ...partition,
      topic: topic.name,
      name: `${topic.name}-${partition.partition}`,
    })),
  );
  const all = `${plural(metadata.topics.length, 'topic')}, ${plural(partitions.length, 'partition')}`;
  if (partitions.length === 0) return [well('partitions', 'cluster', 'no topics yet')];
  const findings = [
    ...judgeAge(facts, metadata, all),
    ...judgeLeaders(facts, metadata, partitions),
    ...ailments(facts, metadata, partitions),
  ];
  if (findings.length > 0) return findings;
  return [well('partitions', 'cluster', `${all}: all in sync and led as they should be`)];
}

/** Who leads and who is in sync is the controllers' to say. */
function judgeAge(facts: Facts, metadata: ClusterMetadata, all: string): Finding[] {
  if (!hasNoMajority(facts)) return [];
  const gone = goneBrokers(facts, metadata);
  const also = gone.length === 0 ? '' : `; broker ${gone.join(', ')} does not answer here`;
  const found = `${all}: what is told of them is old, no majority of the controllers keeps it${also}`;
  const change =
    'start a majority of the controllers (see quorum), then run it again: until then no partition ' +
    'gets another leader, and acks=all waits in vain for replicas that are gone';
  return [trouble('warn', 'partitions', 'cluster', { found, change })];
}

/** Clients are sent to a leader whatever became of it. */
function judgeLeaders(
  facts: Facts,
  metadata: ClusterMetadata,
  partitions: readonly NamedPartition[],
): Finding[] {
  const gone = goneBrokers(facts, metadata);
  const led = partitions.filter(({ leader }) => gone.includes(leader));
  if (led.length === 0) return [];
  const leaders = sorted(led.map(({ leader }) => leader)).join(', ');
  const found =
    `${led.length} of ${plural(partitions.length, 'partition')} led by broker ${leaders}, which does not ` +
    `answer here, neither written nor read from here: ${named(led)}`;
  const change =
    `start broker ${leaders}, or correct what is advertised (see advertised); where a broker has just ` +
    'gone, others lead within seconds if the quorum is well: run it again';
  return [trouble('fail', 'partitions', 'cluster', { found, change })];
}

/** Those that the cluster counts as alive, yet that answered at no address that was looked at. */
function goneBrokers(facts: Facts, { brokers, clusterId }: ClusterMetadata): readonly number[] {
  const looks = [...facts.addresses.values()];
  const answering = new Set(
    looks.flatMap(({ service, answerers }) =>
      [...(service?.kind === 'relevo' ? [service.node] : []), ...answerers]
        .filter((one) => one.clusterId === clusterId)
        .map(({ nodeId }) => nodeId),
    ),
  );
  return brokers
    .filter(({ id, fenced, address }) => {
      const look = facts.addresses.get(address);
      const isOlder = look?.service?.kind === 'older';
      return !fenced && look !== undefined && !isOlder && !answering.has(id);
    })
    .map(({ id }) => id)
    .toSorted((a, b) => a - b);
}

const sorted = (ids: readonly number[]): readonly number[] =>
  [...new Set(ids)].toSorted((a, b) => a - b);

/** Status, what is the matter with these, what to change, and these. */
type Ailment = readonly ['warn' | 'fail', string, string, readonly NamedPartition[]];

function ailments(
  facts: Facts,
  metadata: ClusterMetadata,
  partitions: readonly NamedPartition[],
): Finding[] {
  const alive = metadata.brokers.filter(({ fenced }) => !fenced).length;
  const underMin = ({ topic, isr, replicas }: NamedPartition): boolean =>
    isr.length < Math.min(facts.minInSync.get(topic) ?? 1, replicas.length);
  const leaderless = partitions.filter(({ leader }) => leader < 0);
  const damaged = partitions.filter(({ leader, offline }) => leader >= 0 && offline.length > 0);
  const under = partitions.filter(underMin);
  const lacking = partitions.filter(({ isr, replicas }) => isr.length < replicas.length);
  const [toLead, toSuffice, toBeWhole] = [leaderless, under, lacking].map((ill) =>
    whoToStart(facts, metadata, ill),
  );
  const kinds: readonly Ailment[] = [
    [
      'fail',
      'without a leader: neither written nor read',
      howToLead(leaderless, toLead),
      leaderless,
    ],
    [
      'warn',
      'with a replica whose log cannot be used',
      `see the log of broker ${sorted(damaged.flatMap(({ offline }) => offline)).join(', ')} for why ` +
        '("a replica is offline"): where another replica has all, a damaged log is copied anew by itself',
      damaged,
    ],
    [
      'fail',
      'with fewer in sync than min.insync.replicas: acks=all is refused',
      `${toSuffice}, or lower min.insync.replicas of the topic for the time being`,
      under,
    ],
    [
      'warn',
      'with a replica that is not in sync',
      `${toBeWhole}; where all run, wait, then see the logs of the followers`,
      lacking,
    ],
    [
      'warn',
      `with more replicas than there are brokers alive (${alive})`,
      'start or add brokers: until then these cannot be in full sync',
      partitions.filter(({ replicas }) => replicas.length > alive),
    ],
    [
      'warn',
      'not led by the preferred leader',
      'it leads again by itself when it is in sync; relevo cluster elect-preferred does it at once',
      partitions.filter(({ leader, replicas }) => leader >= 0 && leader !== replicas[0]),
    ],
  ];
  return kinds
    .filter(([, , , ill]) => ill.length > 0)
    .map(([status, what, change, ill]) =>
      trouble(status, 'partitions', 'cluster', {
        found: `${ill.length} of ${plural(partitions.length, 'partition')} ${what}: ${named(ill)}`,
        change,
      }),
    );
}

/** What brings leaders back: who has all acknowledged records must serve, and with a log that can be used. */
function howToLead(leaderless: readonly NamedPartition[], toLead: string | undefined): string {
  const unusable = leaderless.filter(({ isr, elr, offline }) =>
    [...isr, ...elr].every((id) => offline.includes(id)),
  );
  if (unusable.length === 0) return `${toLead}: a replica that has all records must come back`;
  const ids = sorted(unusable.flatMap(({ offline }) => offline)).join(', ');
  const others = unusable.length < leaderless.length ? `; for the others ${toLead}` : '';
  return (
    `of ${named(unusable)} the only logs that are sure to have all records cannot be used: the log of broker ` +
    `${ids} tells why and what to do ("a replica is offline")${others}`
  );
}

/** Of the brokers that keep replicas of these, those that are down; others would help nothing. */
function whoToStart(
  facts: Facts,
  metadata: ClusterMetadata,
  partitions: readonly NamedPartition[],
): string {
  const gone = goneBrokers(facts, metadata);
  const running = metadata.brokers
    .filter(({ id, fenced }) => !fenced && !gone.includes(id))
    .map(({ id }) => id);
  // Without a leader those that were in sync last are what it waits for.
  const wanted = partitions.flatMap(({ leader, isr, elr, replicas }) =>
    leader < 0 && isr.length + elr.length > 0
      ? [...isr, ...elr]
      : replicas.filter((id) => !isr.includes(id)),
  );
  const down = sorted(wanted.filter((id) => !running.includes(id)));
  if (down.length > 0) return `start broker ${down.join(', ')}`;
  return `see the log of broker ${sorted(wanted).join(', ')}, which runs`;
}

const named = (partitions: readonly NamedPartition[]): string => {
  const first = partitions.slice(0, NAMED_MAX).map(({ name }) => name);
  const more = partitions.length - first.length;
  return more > 0 ? `${first.join(', ')} and ${more} more` : first.join(', ');
};
