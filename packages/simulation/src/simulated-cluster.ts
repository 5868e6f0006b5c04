/** Brokers of the production node on simulated hosts. */
import { assert } from '@relevo/base/assert';
import { utf8Encode } from '@relevo/base/bytes';
import type { Ports } from '@relevo/base/ports';
import { resolveConfig } from '@relevo/server/config/node-config';
import type { NodeConfig } from '@relevo/server/config/node-config';
import { createNode } from '@relevo/server/node';
import type { Node, StartOptions } from '@relevo/server/node';
import { simulatedCodecs } from './simulated-codecs.ts';
import type { ReplicaOnDisk } from './replica-checker.ts';
import type { SimulatedProcess } from './simulated-process.ts';
import type { World } from './world.ts';

const DATA_DIR = '/var/lib/relevo';
const GRPC_PORT = 9093;

export interface ClusterOptions {
  /** Default: 3. */
  readonly brokers?: number;
  /** A broker's settings that differ from the defaults, under their names in the configuration. */
  readonly settings?: (id: number) => Readonly<Record<string, string>>;
  /** A broker's secrets, as of each start; the first proves. Default: none. */
  readonly secrets?: (id: number) => readonly string[];
  /** A snapshot of the metadata is due after so many entries. Default: the product's. */
  readonly snapshotEntries?: number | undefined;
  /** Called where a broker cannot start or go on; default: the run has failed. */
  readonly onEnded?: (id: number, reason: unknown) => void;
}

/** For those that are to share one. */
export const CLUSTER_SECRET = 'the secret of the simulated cluster';

interface Broker {
  readonly id: number;
  readonly process: SimulatedProcess;
  readonly config: NodeConfig;
  node: Node | undefined;
  stopping: boolean;
}

export class SimulatedCluster {
  readonly #brokers: readonly Broker[];
  readonly #secrets: (id: number) => readonly string[];
  readonly #network: World['network'];
  readonly #onEnded: (id: number, reason: unknown) => void;
  readonly #startOptions: StartOptions;

  constructor(world: World, options: ClusterOptions = {}) {
    this.#network = world.network;
    this.#secrets = options.secrets ?? (() => []);
    const { snapshotEntries } = options;
    this.#startOptions = snapshotEntries === undefined ? {} : { snapshotEntries };
    this.#onEnded = options.onEnded ?? ((_, reason): void => world.fail(reason));
    const ids = Array.from({ length: options.brokers ?? 3 }, (_, id) => id);
    const voters = ids.map((id) => `${id}@${addressOf(id)}`).join(',');
    this.#brokers = ids.map((id) => ({
      id,
      process: world.process(hostOf(id)),
      config: resolveConfig({
        flags: {
          'cluster.id': 'simulated',
          'node.id': String(id),
          'log.dir': DATA_DIR,
          'listener.grpc': addressOf(id),
          'listener.http': 'none',
          'controller.quorum.voters': voters,
          'cluster.secret.file': 'given',
          ...options.settings?.(id),
        },
      }),
      node: undefined,
      stopping: false,
    }));
  }

  get ids(): readonly number[] {
    return this.#brokers.map((broker) => broker.id);
  }

  get addresses(): readonly string[] {
    return this.ids.map(addressOf);
  }

  get hosts(): readonly string[] {
    return this.ids.map(hostOf);
  }

  process(id: number): SimulatedProcess {
    return this.#broker(id).process;
  }

  node(id: number): Node | undefined {
    return this.#broker(id).node;
  }

  replicas(): ReplicaOnDisk[] {
    return this.#brokers.map(({ id, process: { disk } }) => ({
      broker: id,
      disk,
      dataDir: DATA_DIR,
    }));
  }

  /** Boots a broker that is not running, on the disk it left. */
  boot(id: number): void {
    const broker = this.#broker(id);
    broker.stopping = false;
    broker.node = undefined;
    broker.process.boot((ports: Ports) => {
      const clusterSecrets = this.#secrets(id).map(utf8Encode);
      const nodePorts = { ...ports, codecs: simulatedCodecs, clusterSecrets };
      const node = createNode(broker.config, nodePorts, this.#startOptions);
      node.onFatal((reason) => this.#onEnded(id, reason));
      broker.node = node;
      node.start().catch((error: unknown) => {
        // The process would end here with an exit code; no plan of ours makes a start fail.
        if (!broker.stopping) this.#onEnded(id, error);
      });
    });
  }

  bootAll(): void {
    for (const id of this.ids) this.boot(id);
  }

  /** SIGTERM: resolves when the node has stopped. */
  async stop(id: number): Promise<void> {
    const broker = this.#broker(id);
    assert(broker.node !== undefined, 'a broker that stops runs', { id });
    broker.stopping = true;
    await broker.node.stop();
    broker.node = undefined;
    await broker.process.kill({ unsynced: 'keep' });
  }

  /**
   * Blocks a broker's links to the other brokers and to `outsiders`: `out` of it, `into` it, or both. Returns
   * the undo.
   */
  cut(
    id: number,
    { out, into }: { readonly out: boolean; readonly into: boolean },
    outsiders: readonly string[] = ['client', 'watcher'],
  ): () => void {
    const host = hostOf(id);
    const set = (blocked: boolean): void => {
      for (const other of [...this.hosts, ...outsiders]) {
        if (other === host) continue;
        if (out) this.#network.setBlocked(host, other, blocked);
        if (into) this.#network.setBlocked(other, host, blocked);
      }
    };
    set(true);
    return () => set(false);
  }

  #broker(id: number): Broker {
    const broker = this.#brokers[id];
    assert(broker !== undefined, 'the broker is one of the cluster', { id });
    return broker;
  }
}

export const hostOf = (id: number): string => `broker-${id}`;
export const addressOf = (id: number): string => `${hostOf(id)}:${GRPC_PORT}`;
