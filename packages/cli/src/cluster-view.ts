/** A cluster as tables: what `cluster status` and `start` show. */
import type { DescribedCluster } from '@relevo/client';
import { table } from './output.ts';
import { durationText, plural } from './units.ts';

/** Brokers, with what each leads and holds. */
export const brokersTable = (cluster: DescribedCluster): string =>
  table(
    ['broker', 'address', 'rack', 'state', 'leads', 'preferred', 'replicas', 'in sync', 'epoch'],
    cluster.brokers
      .toSorted((a, b) => a.id - b.id)
      .map((broker) => [
        broker.id,
        broker.address,
        broker.rack === '' ? '-' : broker.rack,
        brokerState(broker),
        broker.leaders,
        broker.preferredLeaders,
        broker.replicas,
        broker.inSync,
        broker.brokerEpoch,
      ]),
  );

type BrokerFacts = DescribedCluster['brokers'][number];

const brokerState = ({ fenced, shuttingDown }: BrokerFacts): string => {
  if (shuttingDown) return 'stopping';
  return fenced ? 'fenced' : 'serving';
};

/** The controllers, their leader first. */
export const quorumTable = (cluster: DescribedCluster): string =>
  table(
    ['controller', 'address', 'role', 'log index', 'behind', 'heard of'],
    cluster.voters
      .toSorted((a, b) => a.id - b.id)
      .map((voter) => {
        const leads = voter.id === cluster.controllerId;
        return [
          voter.id,
          voter.address,
          leads ? 'leader' : 'follower',
          voter.matchIndex,
          Math.max(0, cluster.committedIndex - voter.matchIndex),
          leads ? '-' : heardOf(voter.silentForMs),
        ];
      }),
  );

const heardOf = (silentForMs: number): string =>
  silentForMs < 0 ? 'never' : `${durationText(silentForMs)} ago`;

/** One line on how the partitions are. */
export function partitionsLine(cluster: DescribedCluster): string {
  const ailments = (
    [
      ['without a leader', cluster.offline],
      ['under min.insync.replicas', cluster.underMinIsr],
      ['under-replicated', cluster.underReplicated],
      ['not led by the preferred leader', cluster.notPreferred],
    ] as const
  )
    .filter(([, number]) => number > 0)
    .map(([what, number]) => `${number} ${what}`);
  if (cluster.offlineReplicas > 0) {
    ailments.push(`${plural(cluster.offlineReplicas, 'replica')} offline`);
  }
  const health =
    ailments.length === 0 ? 'all in sync and led as they should be' : ailments.join(', ');
  const { topics, partitions } = cluster;
  if (topics === 0) return 'no topics yet';
  return `${plural(topics, 'topic')}, ${plural(partitions, 'partition')}: ${health}`;
}

/** Which partitions have no leader, or replicas that cannot be used, and what keeps them, a line each. */
function ailingLines({ ailing }: DescribedCluster): string[] {
  return ailing.map(({ topic, partition, offline, why }) => {
    const name = `${topic}-${partition}`;
    if (why !== '') return `${name} has no leader: ${why}`;
    const who = `broker ${offline.join(', ')}`;
    return `${name}: the log of ${who} cannot be used; it is copied anew by itself where it is damaged, else see the log of ${who}`;
  });
}

export const clusterText = (cluster: DescribedCluster): string =>
  [
    `cluster ${cluster.clusterId}, ${quorumLine(cluster)}`,
    '',
    brokersTable(cluster),
    '',
    quorumTable(cluster),
    '',
    partitionsLine(cluster),
    ...ailingLines(cluster),
  ].join('\n');

export const quorumLine = ({
  controllerId,
  controllerTerm,
  committedIndex,
}: DescribedCluster): string =>
  controllerId < 0
    ? 'no controller is elected'
    : `controller ${controllerId} (term ${controllerTerm}, committed index ${committedIndex})`;
