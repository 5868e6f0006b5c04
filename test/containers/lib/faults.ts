/** What is done to containers, each with what undoes it. */
import type { Relevo } from '@relevo/client';
import type { ContainerBroker, ContainerCluster } from './container-cluster.ts';

/** Whom a fault strikes, found out when it strikes. */
export type Role = 'leader' | 'controller' | 'follower' | 'leaderAndController' | 'all';

export interface FaultKind {
  readonly name: string;
  readonly role: Role;
  /** Resolves with what undoes it. */
  readonly strike: (victim: ContainerBroker, cluster: ContainerCluster) => Promise<Undo>;
  /** From the strike to the undoing, ms; shorter or longer in random plans. */
  readonly lastsMs: number;
  /** Producers may find their sends refused or out of time. */
  readonly mayFail?: boolean;
}

export type Undo = () => Promise<void>;

const kill = async (victim: ContainerBroker): Promise<Undo> => {
  await victim.kill();
  return () => victim.start();
};
const freeze = async (victim: ContainerBroker): Promise<Undo> => {
  await victim.freeze();
  return () => victim.thaw();
};
const cutOff = async (victim: ContainerBroker): Promise<Undo> => {
  await victim.disconnect();
  return () => victim.connect();
};
/** It hears the other brokers no more, or is not heard by them. */
const oneWay =
  (chain: 'INPUT' | 'OUTPUT') =>
  async (victim: ContainerBroker, cluster: ContainerCluster): Promise<Undo> => {
    const side = chain === 'INPUT' ? '--source' : '--destination';
    const rules: string[][] = [];
    for (const other of cluster.brokers) {
      if (other !== victim) rules.push([chain, side, await other.ip(), '--jump', 'DROP']);
    }
    return victim.filter(...rules);
  };
const lossy = (victim: ContainerBroker): Promise<Undo> =>
  victim.filter([
    ...['INPUT', '--protocol', 'tcp', '--match', 'statistic', '--mode', 'random'],
    ...['--probability', '0.05', '--jump', 'DROP'],
  ]);
const narrow = (victim: ContainerBroker): Promise<Undo> =>
  victim.filter([
    ...['INPUT', '--protocol', 'tcp', '--match', 'hashlimit', '--hashlimit-above', '512kb/s'],
    ...['--hashlimit-mode', 'srcip', '--hashlimit-name', `relevo-${victim.id}`, '--jump', 'DROP'],
  ]);
const restart = async (victim: ContainerBroker): Promise<Undo> => {
  await victim.stop();
  return () => victim.start();
};
const restartEmpty = async (victim: ContainerBroker): Promise<Undo> => {
  await victim.kill();
  await victim.wipe();
  return () => victim.start();
};
const killAll = async (_: ContainerBroker, cluster: ContainerCluster): Promise<Undo> => {
  await Promise.all(cluster.brokers.map((broker) => broker.kill()));
  return async () => {
    await Promise.all(cluster.brokers.map((broker) => broker.start()));
  };
};

export const FAULTS: readonly FaultKind[] = [
  { name: 'kill-leader', role: 'leader', strike: kill, lastsMs: 3_000 },
  { name: 'kill-controller', role: 'controller', strike: kill, lastsMs: 3_000 },
  { name: 'kill-both', role: 'leaderAndController', strike: kill, lastsMs: 3_000 },
  { name: 'freeze-leader', role: 'leader', strike: freeze, lastsMs: 6_000 },
  { name: 'cut-off-leader', role: 'leader', strike: cutOff, lastsMs: 6_000 },
  { name: 'cut-off-follower', role: 'follower', strike: cutOff, lastsMs: 6_000 },
  { name: 'cut-off-controller', role: 'controller', strike: cutOff, lastsMs: 6_000 },
  { name: 'leader-hears-nobody', role: 'leader', strike: oneWay('INPUT'), lastsMs: 6_000 },
  { name: 'leader-is-not-heard', role: 'leader', strike: oneWay('OUTPUT'), lastsMs: 6_000 },
  { name: 'lossy-leader', role: 'leader', strike: lossy, lastsMs: 6_000 },
  { name: 'narrow-leader', role: 'leader', strike: narrow, lastsMs: 6_000 },
  { name: 'restart-leader', role: 'leader', strike: restart, lastsMs: 500 },
  { name: 'empty-volume', role: 'leader', strike: restartEmpty, lastsMs: 1_000 },
  { name: 'kill-all', role: 'all', strike: killAll, lastsMs: 1_000 },
];

/** The broker that fits, as the cluster is now. */
export async function victimOf(
  role: Role,
  cluster: ContainerCluster,
  relevo: Relevo,
  topic: string,
  pick: (count: number) => number,
): Promise<ContainerBroker> {
  const { controllerId } = await relevo.admin.describeCluster();
  const { partitions } = await relevo.admin.describeTopic(topic);
  const leaders = [...new Set(partitions.map(({ leader }) => leader ?? -1))].filter((id) => id > 0);
  const chosen = (ids: readonly number[]): ContainerBroker =>
    cluster.broker(ids[pick(ids.length)] ?? controllerId);
  switch (role) {
    case 'leader':
      return chosen(leaders.filter((id) => id !== controllerId));
    case 'follower': {
      const ids = cluster.brokers.map(({ id }) => id);
      const quiet = ids.filter((id) => !leaders.includes(id));
      return chosen(quiet.length > 0 ? quiet : ids.filter((id) => id !== controllerId));
    }
    case 'controller':
    case 'leaderAndController':
    case 'all':
      return cluster.broker(controllerId);
  }
}
