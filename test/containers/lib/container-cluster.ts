/**
 * A cluster of broker containers on a network of their own, each under a name, with a volume and one
 * client port published on the loopback. Made and removed by testcontainers; faults go through the
 * engine's own interface, as an operator's hands would.
 */
import { execFile } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { promisify } from 'node:util';
import {
  GenericContainer,
  Network,
  Wait,
  getContainerRuntimeClient,
  type StartedNetwork,
} from 'testcontainers';
import { freePorts } from '../../lib/ports.ts';
import { pause, until } from '../../lib/wait.ts';

export const IMAGE = process.env['RELEVO_IMAGE'] ?? 'relevo:local';
const DATA = '/var/lib/relevo';
const OUTSIDE_PORT = 19093;
const START_MS = 30_000;

const run = promisify(execFile);

export interface ContainerClusterOptions {
  /** Default 3. The first three are controllers as well. */
  readonly brokers?: number;
  readonly image?: string;
  /** By name in the configuration, added to every broker's. */
  readonly settings?: Readonly<Record<string, string>>;
  /** A data directory of so many bytes in memory, instead of a volume: to be filled. */
  readonly dataBytes?: number;
}

/** What testcontainers has no words for: a fixed port of the loopback, a volume, a read-only root. */
class BrokerContainer extends GenericContainer {
  readonly #hostPort: number;
  readonly #volume: string | undefined;

  constructor(image: string, hostPort: number, volume: string | undefined) {
    super(image);
    this.#hostPort = hostPort;
    this.#volume = volume;
  }

  protected override beforeContainerCreated(): Promise<void> {
    const port = `${OUTSIDE_PORT}/tcp`;
    this.createOpts.ExposedPorts = { [port]: {} };
    this.hostConfig.PortBindings = {
      [port]: [{ HostIp: '127.0.0.1', HostPort: String(this.#hostPort) }],
    };
    this.hostConfig.ReadonlyRootfs = true;
    this.hostConfig.Init = true;
    if (this.#volume !== undefined) {
      this.hostConfig.Mounts = [{ Type: 'volume', Source: this.#volume, Target: DATA }];
    }
    return Promise.resolve();
  }
}

export class ContainerBroker {
  readonly id: number;
  /** From this host. */
  readonly address: string;
  readonly name: string;
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
   * Rules of iptables in the container's network. Returns what takes them away again, and rejects when not
   * one packet has met any of them: a fault that did not take hold proves nothing.
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
      if (dropped.some(([, packets]) => Number(packets) > 0)) return;
      throw new Error(
        `no packet of ${this.name} has met a rule, the fault did not take hold:\n${counted}`,
      );
    };
  }

  async state(): Promise<{ running: boolean; pid: number; exitCode: number; restarts: number }> {
    const { container } = await getContainerRuntimeClient();
    const facts = await container.getById(this.container).inspect();
    const { Running: running, Pid: pid, ExitCode: exitCode } = facts.State;
    return { running, pid, exitCode, restarts: facts.RestartCount };
  }

  /** Its address in the cluster's network. */
  async ip(): Promise<string> {
    const { container } = await getContainerRuntimeClient();
    const { NetworkSettings } = await container.getById(this.container).inspect();
    const [network] = Object.values(NetworkSettings.Networks);
    if (network === undefined) throw new Error(`${this.name} is on no network`);
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
    return Number(/VmRSS:\s+(\d+)/.exec(status)?.[1] ?? 0) * 1024;
  }

  async #engine(...command: string[]): Promise<void> {
    await run('docker', command);
  }
}

export class ContainerCluster {
  readonly brokers: ContainerBroker[] = [];
  readonly #network: StartedNetwork;
  readonly #volumes: string[] = [];

  private constructor(network: StartedNetwork) {
    this.#network = network;
  }

  static async start(options: ContainerClusterOptions = {}): Promise<ContainerCluster> {
    const cluster = new ContainerCluster(await new Network().start());
    try {
      await cluster.#start(options);
    } catch (error) {
      await cluster.destroy();
      throw error;
    }
    return cluster;
  }

  async #start(options: ContainerClusterOptions): Promise<void> {
    const count = options.brokers ?? 3;
    const run = randomUUID().slice(0, 8);
    const ports = await freePorts(count);
    const ids = Array.from({ length: count }, (_, index) => index + 1);
    const voters = ids.slice(0, 3).map((id) => `${id}@broker-${id}:9093`);
    await Promise.all(
      ids.map(async (id, index) => {
        const volume = options.dataBytes === undefined ? `relevo-test-${run}-${id}` : undefined;
        if (volume !== undefined) this.#volumes.push(volume);
        const hostPort = ports[index] ?? 0;
        const broker = new ContainerBroker(this, { id, hostPort, volume });
        this.brokers[index] = broker;
        const container = new BrokerContainer(options.image ?? IMAGE, hostPort, volume)
          .withNetwork(this.#network)
          .withNetworkAliases(broker.name)
          .withHostname(broker.name)
          .withEnvironment({
            RELEVO_CLUSTER_ID: 'containers',
            RELEVO_NODE_ID: String(id),
            RELEVO_PROCESS_ROLES: id <= 3 ? 'broker,controller' : 'broker',
            RELEVO_CONTROLLER_QUORUM_VOTERS: voters.join(','),
            RELEVO_LISTENER_GRPC: `inside://0.0.0.0:9093,outside://0.0.0.0:${OUTSIDE_PORT}`,
            RELEVO_ADVERTISED_GRPC: `inside://${broker.name}:9093,outside://${broker.address}`,
            RELEVO_LOG_DISK_RESERVE_BYTES: '0',
            ...environmentOf(options.settings ?? {}),
          })
          .withTmpFs({
            '/tmp': 'size=16m',
            ...(options.dataBytes !== undefined && {
              [DATA]: `size=${options.dataBytes},uid=1000,gid=1000`,
            }),
          })
          .withDroppedCapabilities('ALL')
          .withWaitStrategy(Wait.forHealthCheck())
          .withStartupTimeout(START_MS);
        const started = await container.start();
        broker.container = started.getId();
      }),
    );
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
    for (const { container } of this.brokers.filter(Boolean)) {
      if (container !== '') await tried('rm', '--force', '--volumes', container);
    }
    for (const volume of this.#volumes) await tried('volume', 'rm', '--force', volume);
    // The engine lets go of a network's ends a moment after their containers.
    await until('the network to be removed', async () => {
      await this.#network.stop();
      return true;
    }).catch(() => pause(0));
  }
}

const environmentOf = (settings: Readonly<Record<string, string>>): Record<string, string> =>
  Object.fromEntries(
    Object.entries(settings).map(([key, value]) => [
      `RELEVO_${key.toUpperCase().replaceAll('.', '_')}`,
      value,
    ]),
  );
