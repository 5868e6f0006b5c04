/** What is done to containers, each with what undoes it. */
import type { Relevo } from '@relevo/client';
import { until } from '../../lib/wait.ts';
import { DATA } from './broker-container.ts';
import { FaultMissed, PROXY_PORT } from './container-cluster.ts';
import type { ContainerBroker, ContainerCluster } from './container-cluster.ts';
import { toxiproxy } from './tools.ts';

/** Whom a fault strikes, found out when it strikes. */
export type Role = 'leader' | 'controller' | 'follower' | 'leaderAndController' | 'all';

/** What a fault needs of the cluster that it strikes. */
export type Setting =
  /** Volumes, nothing else. */
  | 'plain'
  /** Data directories in memory, and clocks that can be set. */
  | 'laboratory'
  /** Brokers that run the image of the previous commit. */
  | 'previous';

export interface FaultKind {
  readonly name: string;
  readonly role: Role;
  readonly setting: Setting;
  /** Resolves with what undoes it. */
  readonly strike: (victim: ContainerBroker, scene: Scene) => Promise<Undo>;
  /** From the strike to the undoing, ms; shorter or longer in random plans. */
  readonly lastsMs: number;
  /** So soon every partition must acknowledge again, ms from its last acknowledgement. */
  readonly ackWithinMs: number;
}

export interface Scene {
  readonly cluster: ContainerCluster;
  /** All replicas are in sync again, all preferred leaders lead. */
  readonly untilWhole: () => Promise<void>;
  /** What a rolling upgrade leads to. */
  readonly image: string;
}

/** Throws a `FaultMissed` when the fault has not taken hold. */
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
  async (victim: ContainerBroker, { cluster }: Scene): Promise<Undo> => {
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
    ...['INPUT', '--protocol', 'tcp', '--match', 'hashlimit', '--hashlimit-above', '16kb/s'],
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
const killAll = async (_: ContainerBroker, { cluster }: Scene): Promise<Undo> => {
  await Promise.all(cluster.brokers.map((broker) => broker.kill()));
  return async () => {
    await Promise.all(cluster.brokers.map((broker) => broker.start()));
  };
};

/** What others send to it, and what it answers, comes after 100 to 200 ms. */
const slow = async (victim: ContainerBroker): Promise<Undo> => {
  const api = ['-host', '127.0.0.1', '-port', PROXY_API_PORT];
  const undo = await victim.intercept(await toxiproxy(), ...api);
  const listen = `0.0.0.0:${PROXY_PORT}`;
  const proxy = { name: 'broker', listen, upstream: '127.0.0.1:9093', enabled: true };
  const latency = { type: 'latency', attributes: { latency: 150, jitter: 50 } };
  await until('the proxy to answer', async () => {
    await ask(victim, '/proxies', proxy);
    return true;
  });
  for (const stream of ['upstream', 'downstream']) {
    await ask(victim, '/proxies/broker/toxics', { ...latency, name: stream, stream });
  }
  return undo;
};
const PROXY_API_PORT = '29094';

/** Of the proxy's interface, from within the container. */
const ask = (victim: ContainerBroker, path: string, body: object): Promise<string> =>
  fetchInside(victim, `http://127.0.0.1:${PROXY_API_PORT}${path}`, {
    method: 'POST',
    body: JSON.stringify(body),
  });

const fetchInside = (victim: ContainerBroker, url: string, options: object): Promise<string> =>
  victim.exec(
    ...['node', '--input-type=module', '--eval'],
    `const answer = await fetch(${JSON.stringify(url)}, ${JSON.stringify(options)});
     console.log(await answer.text());
     process.exit(answer.ok ? 0 : 1);`,
  );

/** Somebody else fills the disk to the last byte. */
const fillDisk = async (victim: ContainerBroker): Promise<Undo> => {
  // Ends with an error, as the disk is full.
  await victim.exec('sh', '-c', `cat /dev/zero >${DATA}/ballast || true`);
  return async () => {
    const metrics = await fetchInside(victim, 'http://127.0.0.1:9094/metrics', {});
    await victim.exec('rm', `${DATA}/ballast`);
    if (/^relevo_appends_refused\S* [1-9]/m.test(metrics)) return;
    throw new FaultMissed(`${victim.name} has not refused an append:\n${metrics}`);
  };
};

const setClock =
  (offsetSeconds: number) =>
  async (victim: ContainerBroker): Promise<Undo> => {
    await victim.setClock(offsetSeconds);
    return async () => {
      const told = Number(await victim.exec('node', '--print', 'Date.now()'));
      await victim.setClock(0);
      if (Math.abs(told - Date.now() - offsetSeconds * 1000) < 10_000) return;
      throw new FaultMissed(`the clock of ${victim.name} tells ${new Date(told).toISOString()}`);
    };
  };

/** One broker after the other, each when the cluster is whole again. */
const upgrade = async (_: ContainerBroker, scene: Scene): Promise<Undo> => {
  for (const broker of scene.cluster.brokers) {
    const before = await broker.imageId();
    await broker.upgrade(scene.image);
    if ((await broker.imageId()) === before) {
      throw new FaultMissed(`${broker.name} ran ${scene.image} before it was upgraded to it`);
    }
    await scene.untilWhole();
  }
  return () => Promise.resolve();
};

/** Less than faults last, so that it is the others that acknowledge. */
const plain = { setting: 'plain', lastsMs: 6_000, ackWithinMs: 5_000 } as const;
const laboratory = { setting: 'laboratory', lastsMs: 5_000, ackWithinMs: 4_000 } as const;
/** Nobody is left to acknowledge before they are back. */
const ALL_ACK_WITHIN_MS = 20_000;
const HOUR_S = 3600;

export const FAULTS: readonly FaultKind[] = [
  { ...plain, name: 'kill-leader', role: 'leader', strike: kill, lastsMs: 3_000 },
  { ...plain, name: 'kill-controller', role: 'controller', strike: kill, lastsMs: 3_000 },
  { ...plain, name: 'kill-both', role: 'leaderAndController', strike: kill, lastsMs: 3_000 },
  { ...plain, name: 'freeze-leader', role: 'leader', strike: freeze },
  { ...plain, name: 'cut-off-leader', role: 'leader', strike: cutOff },
  { ...plain, name: 'cut-off-follower', role: 'follower', strike: cutOff },
  { ...plain, name: 'cut-off-controller', role: 'controller', strike: cutOff },
  { ...plain, name: 'leader-hears-nobody', role: 'leader', strike: oneWay('INPUT') },
  { ...plain, name: 'leader-is-not-heard', role: 'leader', strike: oneWay('OUTPUT') },
  { ...plain, name: 'lossy-leader', role: 'leader', strike: lossy },
  { ...plain, name: 'narrow-leader', role: 'leader', strike: narrow },
  { ...plain, name: 'slow-leader', role: 'leader', strike: slow },
  { ...plain, name: 'restart-leader', role: 'leader', strike: restart, lastsMs: 500 },
  { ...plain, name: 'empty-volume', role: 'leader', strike: restartEmpty, lastsMs: 1_000 },
  {
    ...{ setting: 'plain', name: 'kill-all', role: 'all', strike: killAll },
    ...{ lastsMs: 1_000, ackWithinMs: ALL_ACK_WITHIN_MS },
  },
  { ...laboratory, name: 'disk-full-leader', role: 'leader', strike: fillDisk },
  { ...laboratory, name: 'disk-full-follower', role: 'follower', strike: fillDisk },
  { ...laboratory, name: 'disk-full-controller', role: 'controller', strike: fillDisk },
  { ...laboratory, name: 'clock-ahead', role: 'leader', strike: setClock(HOUR_S) },
  { ...laboratory, name: 'clock-behind', role: 'leader', strike: setClock(-HOUR_S) },
  { ...laboratory, name: 'clock-of-controller', role: 'controller', strike: setClock(HOUR_S) },
  {
    ...{ setting: 'previous', name: 'rolling-upgrade', role: 'all', strike: upgrade },
    ...{ lastsMs: 0, ackWithinMs: 3_000 },
  },
];

export interface Stage {
  readonly cluster: ContainerCluster;
  readonly relevo: Relevo;
  readonly topic: string;
  readonly untilWhole: () => Promise<void>;
}

/** Elections that may be held until the active controller is one that fits. */
const ELECTIONS_MAX = 10;

/** The broker that fits; where none does, the active controller is stopped and started until one does. */
export async function victimOf(
  role: Role,
  { cluster, relevo, topic, untilWhole }: Stage,
  pick: (count: number) => number,
): Promise<ContainerBroker> {
  for (let election = 0; election < ELECTIONS_MAX; election++) {
    const { controllerId } = await relevo.admin.describeCluster();
    const { partitions } = await relevo.admin.describeTopic(topic);
    const leaders = new Set(partitions.map(({ leader }) => leader));
    const fits = cluster.brokers.filter(({ id }) => {
      const [leads, controls] = [leaders.has(id), id === controllerId];
      switch (role) {
        case 'leader':
          return leads && !controls;
        case 'follower':
          return !leads && !controls;
        case 'leaderAndController':
          return controls && leads;
        case 'controller':
        case 'all':
          return controls;
      }
    });
    const victim = fits[pick(fits.length)];
    if (victim !== undefined) return victim;
    const controller = cluster.broker(controllerId);
    await controller.stop();
    await controller.start();
    await untilWhole();
  }
  throw new Error(`no broker is ${role} after ${ELECTIONS_MAX} elections`);
}
