/**
 * A cluster of broker containers on a network of their own, each under a name, with a volume and one
 * client port published on the loopback. Made and removed by testcontainers; faults go through the
 * engine's own interface, as an operator's hands would.
 */
import { execFile, spawn } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { promisify } from 'node:util';
import { Network, getContainerRuntimeClient, type StartedNetwork } from 'testcontainers';
import { freePorts } from '../../lib/ports.ts';
import { until } from '../../lib/wait.ts';
import {
  BrokerContainer,
  CLOCK_FILE,
  IMAGE,
  OUTSIDE_PORT,
  SECRET_FILE,
} from './broker-container.ts';

const run = promisify(execFile);

export interface ContainerClusterOptions {
  /** Default 3. The first three are controllers as well. */
  readonly brokers?: number;
  readonly image?: string;
  /** By name in the configuration, added to every broker's. */
  readonly settings?: Readonly<Record<string, string>>;
  /** A data directory of so many bytes in memory, instead of a volume: to be filled. */
  readonly dataBytes?: number;
  /** Where libfaketime is on this host: brokers are started with a clock that `setClock` can set. */
  readonly fakeClock?: string;
}

/** Something was to fail, and did not. */
export class FaultMissed extends Error {
  override readonly name = 'FaultMissed';
}

/** Where a proxy listens that stands in for the broker's own port. */
export const PROXY_PORT = '29093';
const TO_BROKER = ['--protocol', 'tcp', '--destination-port', '9093'];
const WITH_RESET = ['--reject-with', 'tcp-reset'];

export class ContainerBroker {
  readonly id: number;
  /** From this host. */
  readonly address: string;
  readonly name: string;
  readonly hostPort: number;
  readonly volume: string | undefined;
  readonly #cluster: ContainerCluster;
  container = '';

  constructor(
    cluster: ContainerCluster,
    facts: { id: number; hostPort: number; volume: string | undefined },
  ) {
    this.#cluster = cluster;
    this.id = facts.id;
    this.name = `broker-${facts.id}`;
    this.hostPort = facts.hostPort;
    this.address = `127.0.0.1:${facts.hostPort}`;
    this.volume = facts.volume;
  }

  kill(): Promise<void> {
    return this.#engine('kill', '--signal', 'KILL', this.container);
  }

  /** SIGTERM, and SIGKILL when it has not ended after half a minute. */
  stop(): Promise<void> {
    return this.#engine('stop', '--time', '30', this.container);
  }

  start(): Promise<void> {
    return this.#engine('start', this.container);
  }

  freeze(): Promise<void> {
    return this.#engine('pause', this.container);
  }

  thaw(): Promise<void> {
    return this.#engine('unpause', this.container);
  }

  disconnect(): Promise<void> {
    return this.#engine('network', 'disconnect', this.#cluster.network, this.container);
  }

  connect(): Promise<void> {
    const { network } = this.#cluster;
    return this.#engine('network', 'connect', '--alias', this.name, network, this.container);
  }

  /** Stops it, and starts another image on its volume. */
  async upgrade(image: string): Promise<void> {
    await this.stop();
    const old = this.container;
    await this.#engine('rm', old);
    await this.#cluster.launch(this, image);
  }

  /** Removes all in the data directory; the broker must not run. */
  async wipe(): Promise<void> {
    if (this.volume === undefined) throw new Error(`${this.name} has no volume to be wiped`);
    await run('docker', [
      ...['run', '--rm', '--user', '0', '--entrypoint', 'sh', '--volume', `${this.volume}:/data`],
      ...[IMAGE, '-c', 'rm -rf /data/* /data/.[!.]*'],
    ]);
  }

  /** In the container. */
  async exec(...command: string[]): Promise<string> {
    return (await run('docker', ['exec', this.container, ...command])).stdout;
  }

  /**
   * Rules of iptables in the container's network. Returns what takes them away again, and then throws a
   * `FaultMissed` when one of them has met no packet: a fault that did not take hold proves nothing.
   */
  async filter(...rules: readonly (readonly string[])[]): Promise<() => Promise<void>> {
    const { pid } = await this.state();
    const iptables = async (...command: string[]): Promise<string> => {
      const inside = ['--target', String(pid), '--net', 'iptables', '--wait'];
      return (await run('nsenter', [...inside, ...command])).stdout;
    };
    const change = async (how: '--append' | '--delete'): Promise<void> => {
      for (const [chain = '', ...rest] of rules) await iptables(how, chain, ...rest);
    };
    await change('--append');
    return async () => {
      const counted = await iptables('--list', '--numeric', '--verbose', '--exact');
      await change('--delete');
      const dropped = [...counted.matchAll(/^\s*(\d+)\s+\d+\s+DROP\s/gm)];
      if (dropped.length > 0 && dropped.every(([, packets]) => Number(packets) > 0)) return;
      throw new FaultMissed(`a rule has met no packet of ${this.name}:\n${counted}`);
    };
  }

  /**
   * Other brokers' connections to it go through a proxy from now on, started by `command` in the
   * container's network, on PROXY_PORT. Returns what takes it away, and then throws a `FaultMissed` when
   * there was no connection.
   */
  async intercept(command: string, ...args: string[]): Promise<() => Promise<void>> {
    const { pid } = await this.state();
    const inside = ['--target', String(pid), '--net'];
    const proxy = spawn('nsenter', [...inside, command, ...args], { stdio: 'ignore' });
    const ended = new Promise<void>((resolve) => proxy.once('exit', () => resolve()));
    // New connections are led to the proxy; those that there are get a reset, and come anew.
    const rules = [
      [
        'PREROUTING',
        '--table',
        'nat',
        ...TO_BROKER,
        '--jump',
        'REDIRECT',
        '--to-ports',
        PROXY_PORT,
      ],
      ['INPUT', '!', '--in-interface', 'lo', ...TO_BROKER, '--jump', 'REJECT', ...WITH_RESET],
    ];
    const change = async (how: '--append' | '--delete'): Promise<void> => {
      for (const [chain = '', ...rest] of rules)
        await run('nsenter', [...inside, 'iptables', '--wait', how, chain, ...rest]);
    };
    await change('--append');
    return async () => {
      const list = ['--table', 'nat', '--list', 'PREROUTING', '--verbose', '--exact'];
      const { stdout: counted } = await run('nsenter', [...inside, 'iptables', '--wait', ...list]);
      await change('--delete');
      proxy.kill('SIGKILL');
      await ended;
      if (/^\s*[1-9]\d*\s+\d+\s+REDIRECT\s/m.test(counted)) return;
      throw new FaultMissed(`no connection to ${this.name} went through the proxy:\n${counted}`);
    };
  }

  /** The clock of a broker in a cluster with `fakeClock`, seconds from the true time. */
  async setClock(offsetSeconds: number): Promise<void> {
    const sign = offsetSeconds < 0 ? '-' : '+';
    const text = `${sign}${Math.abs(offsetSeconds)}s`;
    await this.exec('sh', '-c', `echo '${text}' >${CLOCK_FILE}`);
  }

  async state(): Promise<{ running: boolean; pid: number; exitCode: number; restarts: number }> {
    const { container } = await getContainerRuntimeClient();
    const facts = await container.getById(this.container).inspect();
    const { Running: running, Pid: pid, ExitCode: exitCode } = facts.State;
    return { running, pid, exitCode, restarts: facts.RestartCount };
  }

  async imageId(): Promise<string> {
    const { container } = await getContainerRuntimeClient();
    return (await container.getById(this.container).inspect()).Image;
  }

  /** Its address in the cluster's network. */
  async ip(): Promise<string> {
    const { container } = await getContainerRuntimeClient();
    const { NetworkSettings } = await container.getById(this.container).inspect();
    const [network] = Object.values(NetworkSettings.Networks);
    if (network === undefined || network.NetworkID !== this.#cluster.network)
      throw new Error(`${this.name} is on no network`);
    return network.IPAddress;
  }

  async logs(): Promise<string> {
    const { stdout, stderr } = await run('docker', ['logs', this.container], {
      maxBuffer: 256 * 1024 * 1024,
    });
    return `${stdout}${stderr}`;
  }

  /** Resident bytes of the process and its children. */
  async memoryBytes(): Promise<number> {
    const text = await this.exec('cat', '/proc/1/task/1/children');
    const child = text.trim().split(' ')[0] ?? '1';
    const status = await this.exec('cat', `/proc/${child === '' ? '1' : child}/status`);
    const [, kib] = /VmRSS:\s+(\d+)/.exec(status) ?? [];
    if (kib === undefined) throw new Error(`${this.name} does not tell its memory:\n${status}`);
    return Number(kib) * 1024;
  }

  async #engine(...command: string[]): Promise<void> {
    await run('docker', command);
  }
}

export class ContainerCluster {
  readonly brokers: ContainerBroker[] = [];
  readonly #network: StartedNetwork;
  readonly #options: ContainerClusterOptions;
  readonly #volumes: string[] = [];
  /** The secret that all its brokers share. */
  readonly secret: string = randomUUID();

  private constructor(network: StartedNetwork, options: ContainerClusterOptions) {
    this.#network = network;
    this.#options = options;
  }

  static async start(options: ContainerClusterOptions = {}): Promise<ContainerCluster> {
    const cluster = new ContainerCluster(await new Network().start(), options);
    try {
      await cluster.#start();
    } catch (error) {
      await cluster.destroy();
      throw error;
    }
    return cluster;
  }

  async #start(): Promise<void> {
    const { brokers: count = 3, dataBytes, image = IMAGE } = this.#options;
    const run = randomUUID().slice(0, 8);
    const ports = await freePorts(count);
    for (const [index, hostPort] of ports.entries()) {
      const id = index + 1;
      const volume = dataBytes === undefined ? `relevo-test-${run}-${id}` : undefined;
      if (volume !== undefined) this.#volumes.push(volume);
      this.brokers.push(new ContainerBroker(this, { id, hostPort, volume }));
    }
    await Promise.all(this.brokers.map((broker) => this.launch(broker, image)));
  }

  /** A new container for a broker that has none, with the volume that it has had. */
  async launch(broker: ContainerBroker, image: string): Promise<void> {
    const { settings = {}, dataBytes, fakeClock } = this.#options;
    const voters = this.brokers.slice(0, 3).map(({ id, name }) => `${id}@${name}:9093`);
    const { id, name, address, hostPort, volume } = broker;
    const { network } = this;
    const options = { network, name, hostPort, volume, dataBytes, fakeClock };
    const container = new BrokerContainer(image, options).withEnvironment({
      RELEVO_CLUSTER_ID: 'containers',
      RELEVO_NODE_ID: String(id),
      RELEVO_PROCESS_ROLES: id <= 3 ? 'broker,controller' : 'broker',
      RELEVO_CONTROLLER_QUORUM_VOTERS: voters.join(','),
      RELEVO_LISTENER_GRPC: `inside://0.0.0.0:9093,outside://0.0.0.0:${OUTSIDE_PORT}`,
      RELEVO_ADVERTISED_GRPC: `inside://${name}:9093,outside://${address}`,
      RELEVO_LOG_DISK_RESERVE_BYTES: '0',
      RELEVO_INTER_BROKER_LISTENER_NAME: 'inside',
      RELEVO_CLUSTER_SECRET_FILE: SECRET_FILE,
      CLUSTER_SECRET: this.secret,
      ...environmentOf(settings),
    });
    broker.container = (await container.start()).getId();
  }

  get network(): string {
    return this.#network.getId();
  }

  get bootstrap(): string[] {
    return this.brokers.map(({ address }) => address);
  }

  broker(id: number): ContainerBroker {
    const found = this.brokers.find((broker) => broker.id === id);
    if (found === undefined) throw new Error(`there is no broker ${id}`);
    return found;
  }

  /** Ends and removes all of it; tries everything even where a part fails. */
  async destroy(): Promise<void> {
    const tried = async (...command: string[]): Promise<void> => {
      await run('docker', command).catch(() => undefined);
    };
    for (const { container } of this.brokers) {
      if (container !== '') await tried('rm', '--force', '--volumes', container);
    }
    for (const volume of this.#volumes) await tried('volume', 'rm', '--force', volume);
    // The engine lets go of a network's ends a moment after their containers.
    await until('the network to be removed', async () => {
      await this.#network.stop();
      return true;
    });
  }
}

const environmentOf = (settings: Readonly<Record<string, string>>): Record<string, string> =>
  Object.fromEntries(
    Object.entries(settings).map(([key, value]) => [
      `RELEVO_${key.toUpperCase().replaceAll('.', '_')}`,
      value,
    ]),
  );
