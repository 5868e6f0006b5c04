/**
 * Brokers and controllers in a simulated world, with the production controller, publisher and lifecycle.
 * The quorum is the production one too, or a stand-in: one log for all, a leader that the scenario names.
 */
import { RelevoError } from '@relevo/base/errors';
import { brokerId, logIndex, term } from '@relevo/base/ids';
import type { BrokerId, LogIndex, Term, Uuid } from '@relevo/base/ids';
import type { Ports } from '@relevo/base/ports';
import type { CreateTopic } from '@relevo/controller/commands';
import type { BrokerImage, ClusterImage, PartitionImage } from '@relevo/controller/image';
import { imageHash } from '@relevo/controller/image-hash';
import { violationsOf } from '@relevo/controller/invariants';
import { TOPIC_DEFAULTS } from '@relevo/controller/topic-config';
import { ControllerService } from '@relevo/server/controller/controller-service';
import { BrokerLifecycle } from '@relevo/server/lifecycle/broker-lifecycle';
import { ControllerClient } from '@relevo/server/lifecycle/controller-client';
import { DiskProof } from '@relevo/server/lifecycle/disk-proof';
import { MetadataFollower } from '@relevo/server/metadata/metadata-follower';
import { MetadataPublisher } from '@relevo/server/metadata/metadata-publisher';
import type { CommittedEntry } from '@relevo/server/metadata/metadata-publisher';
import { Quorum } from '@relevo/server/quorum/quorum';
import type { SimulatedProcess } from '@relevo/simulation/simulated-process';
import { World } from '@relevo/simulation/world';
import type { LogLine } from '@relevo/simulation/world';

export const SESSION_MS = 1500;
/** From a proposal to its commit. */
const COMMIT_MS = 2;
/** By how much other controllers may hear of it later. */
const LAG_MAX_MS = 10;

export interface Node {
  readonly id: BrokerId;
  readonly process: SimulatedProcess;
  readonly ports: Ports;
  readonly publisher: MetadataPublisher;
  readonly client: ControllerClient;
  readonly lifecycle: BrokerLifecycle;
  readonly service: ControllerService | undefined;
  /** Undefined with the stand-in. */
  readonly voter: Quorum | undefined;
  fatal: RelevoError | undefined;
}

export interface BootOptions {
  readonly controller?: boolean;
  readonly directoryId?: string;
  /** Another process with the id of this node, at an address of its own. */
  readonly impostorOf?: number;
}

/** One log, and a leader who alone may propose. What is proposed is committed unless the leader changes. */
class StandInQuorum {
  readonly log: CommittedEntry[] = [];
  readonly #world: ControllerWorld;
  /** By process. */
  readonly #underWay = new Map<Ports, (() => void)[]>();
  leader: BrokerId | undefined;
  term: Term = term(0);

  constructor(world: ControllerWorld) {
    this.#world = world;
  }

  lead(leader: BrokerId | undefined): void {
    this.leader = leader;
    this.term = term(this.term + 1);
    for (const node of this.#world.nodes.values()) this.tell(node);
  }

  tell(node: Node): void {
    if (!node.process.alive) return;
    node.ports.timers.soon(() => {
      const { leader, term: now } = this;
      node.service?.onLeadership({ isLeader: leader === node.id, term: now, leaderId: leader });
    });
  }

  propose(from: BrokerId, ports: Ports, data: Uint8Array): Promise<LogIndex> {
    const at = this.term;
    return new Promise((resolve, reject) => {
      const lost = (): void => reject(new RelevoError('NOT_CONTROLLER', 'another leads'));
      if (this.leader !== from) {
        lost();
        return;
      }
      const underWay = this.#underWay.get(ports) ?? [];
      this.#underWay.set(ports, underWay);
      underWay.push(() => {
        if (this.leader !== from || this.term !== at) lost();
        else resolve(this.#commit(from, { term: at, data }));
      });
      // Timers may overtake each other, entries may not.
      ports.timers.after(COMMIT_MS, () => underWay.shift()?.());
    });
  }

  confirm(from: BrokerId, ports: Ports): Promise<void> {
    const at = this.term;
    return new Promise((resolve, reject) => {
      ports.timers.after(COMMIT_MS, () => {
        if (this.leader === from && this.term === at) resolve();
        else reject(new RelevoError('NOT_CONTROLLER', 'another leads'));
      });
    });
  }

  #commit(from: BrokerId, content: { readonly term: Term; readonly data: Uint8Array }): LogIndex {
    const entry = { index: logIndex(this.log.length + 1), ...content };
    this.log.push(entry);
    for (const node of this.#world.nodes.values()) {
      if (!node.process.alive || node.service === undefined || node.id === from) continue;
      const delayMs = this.#world.world.prng.between(0, LAG_MAX_MS);
      node.ports.timers.after(delayMs, () => this.catchUp(node, entry.index));
    }
    const leader = this.#world.nodes.get(from);
    if (leader !== undefined) this.catchUp(leader, entry.index);
    return entry.index;
  }

  /** Up to the entry of that index, where the node has not applied it yet. */
  catchUp(node: Node, index: number): void {
    const applied = node.publisher.image().index;
    if (index > applied) node.service?.onCommitted(this.log.slice(applied, index));
  }
}

export class ControllerWorld {
  readonly world: World;
  readonly quorum: StandInQuorum;
  readonly nodes = new Map<BrokerId, Node>();
  readonly impostors: Node[] = [];
  readonly lines: LogLine[] = [];
  readonly #controllers: readonly number[];
  readonly #realQuorum: boolean;

  constructor(options: {
    readonly seed?: number;
    readonly controllers: readonly number[];
    readonly realQuorum?: boolean;
  }) {
    this.#realQuorum = options.realQuorum ?? false;
    this.world = new World({
      seed: options.seed ?? 1,
      onLog: (line) => this.lines.push(line),
      limitMs: 600_000,
    });
    this.quorum = new StandInQuorum(this);
    this.#controllers = options.controllers;
  }

  run(scenario: () => Promise<void>): Promise<void> {
    return this.world.run(async () => {
      await scenario();
      this.check();
    });
  }

  node(id: number): Node {
    const node = this.nodes.get(brokerId(id));
    if (node === undefined) throw new Error(`node ${id} was never booted`);
    return node;
  }

  /** Starts nodes; those named as controllers in the constructor are also controllers. */
  async boot(ids: readonly number[], options: BootOptions = {}): Promise<void> {
    await Promise.all(ids.map((id) => this.#bootOne(brokerId(id), options)));
  }

  /** Boots all, makes the first controller lead, waits until all serve. */
  async start(ids: readonly number[]): Promise<void> {
    await this.boot(ids);
    if (!this.#realQuorum) this.quorum.lead(brokerId(this.#controllers[0] ?? 0));
    await this.until('all serve', () => ids.every((id) => !this.node(id).lifecycle.fenced));
  }

  async #bootOne(id: BrokerId, options: BootOptions): Promise<void> {
    const name = options.impostorOf === undefined ? `node-${id}` : `impostor-of-${id}`;
    const process = this.world.process(name);
    const ports = await new Promise<Ports>((resolve) => process.boot(resolve));
    const node = this.#make(id, process, ports, options);
    if (options.impostorOf === undefined) this.nodes.set(id, node);
    else this.impostors.push(node);
    const routes = [...(node.service?.routes() ?? []), ...(node.voter?.routes() ?? [])];
    await ports.transport.listen(`${name}:1`, routes);
    if (node.service === undefined) {
      const controllers = this.#addresses();
      const follower = new MetadataFollower(
        { ...ports, publisher: node.publisher },
        { clusterId: 'test', nodeId: id, controllers },
      );
      follower.start();
    } else if (node.voter !== undefined) {
      await node.voter.start();
    } else {
      this.quorum.catchUp(node, this.quorum.log.length);
      this.quorum.tell(node);
    }
    void node.lifecycle.start();
  }

  #addresses(): string[] {
    return this.#controllers.map((id) => `node-${id}:1`);
  }

  #make(id: BrokerId, process: SimulatedProcess, ports: Ports, options: BootOptions): Node {
    ports.disk.makeDirectory('/data');
    ports.disk.syncDirectoryNow('/');
    const publisher = new MetadataPublisher(ports);
    const isController = options.impostorOf === undefined && this.#controllers.includes(id);
    const service: ControllerService | undefined = isController
      ? new ControllerService(
          {
            ...ports,
            publisher,
            propose: (data) => voter?.propose(data) ?? this.quorum.propose(id, ports, data),
            confirm: () => voter?.readBarrier() ?? this.quorum.confirm(id, ports),
          },
          {
            nodeId: id,
            clusterId: 'test',
            sessionTimeoutMs: SESSION_MS,
            handBackDelayMs: 2000,
            defaults: { partitions: 1, replicationFactor: 3, topic: TOPIC_DEFAULTS },
            addressOf: (controller) => `node-${controller}:1`,
          },
        )
      : undefined;
    const voter: Quorum | undefined =
      service !== undefined && this.#realQuorum ? this.#voter(id, ports, service) : undefined;
    const client = new ControllerClient(
      { ...ports, publisher },
      { controllers: this.#addresses(), sessionTimeoutMs: SESSION_MS },
    );
    const address = `${process.name}:1`;
    const lifecycle = new BrokerLifecycle(
      {
        ...ports,
        publisher,
        client,
        diskProof: new DiskProof(ports, { directory: '/data' }),
        onFatal: (error) => (node.fatal = error),
      },
      {
        clusterId: 'test',
        brokerId: id,
        incarnations: [`${process.name} ${process.incarnation}`],
        directoryId: options.directoryId ?? `disk of ${process.name}`,
        clientAddress: address,
        peerAddress: address,
        listeners: [],
        rack: '',
        nothingLost: true,
        heartbeatIntervalMs: 250,
        sessionTimeoutMs: SESSION_MS,
      },
    );
    const node: Node = {
      id,
      process,
      ports,
      publisher,
      client,
      lifecycle,
      service,
      voter,
      fatal: undefined,
    };
    return node;
  }

  #voter(id: BrokerId, ports: Ports, service: ControllerService): Quorum {
    return new Quorum(
      {
        ...ports,
        onCommitted: (entries) => service.onCommitted(entries),
        restoreSnapshot: (bytes, index) => service.restoreSnapshot(bytes, index),
        takeSnapshot: () => service.takeSnapshot(),
        onLeadership: (leadership) => service.onLeadership(leadership),
        onFailure: (error) => this.world.fail(error),
      },
      {
        nodeId: id,
        clusterId: 'test',
        directoryId: String(id).padStart(22, 'D') as Uuid,
        directory: '/data',
        voters: this.#controllers.map((voter) => ({ id: voter, address: `node-${voter}:1` })),
        snapshotEntries: 20,
      },
    );
  }

  /** Of the active controller. */
  image(): ClusterImage {
    return this.active().publisher.image();
  }

  active(): Node {
    for (const node of this.nodes.values()) {
      if (node.process.alive && node.service?.isActive() === true) return node;
    }
    throw new Error('no controller is active');
  }

  /** Of the newest active controller, where there is one. */
  hasActive(): boolean {
    return [...this.nodes.values()].some(
      ({ process, service }) => process.alive && service?.isActive() === true,
    );
  }

  broker(id: number): BrokerImage | undefined {
    return this.image().brokers.get(brokerId(id));
  }

  partition(name: string, partition = 0): PartitionImage {
    const known = this.image().topicsByName.get(name)?.partitions[partition];
    if (known === undefined) throw new Error(`no partition ${name}-${partition}`);
    return known;
  }

  async create(name: string, more: Partial<CreateTopic> = {}): Promise<void> {
    await this.active().service?.execute({
      kind: 'createTopic',
      topicId: `${name}${'A'.repeat(22 - name.length)}` as Uuid,
      name,
      partitions: -1,
      replicationFactor: -1,
      config: new Map(),
      assignment: [],
      validateOnly: false,
      seed: 1,
      ...more,
    });
  }

  kill(id: number, options: { silent?: boolean } = {}): Promise<void> {
    return this.node(id).process.kill({ unsynced: 'keep', ...options });
  }

  /** How long until it holds, in virtual ms. */
  async until(what: string, condition: () => boolean, withinMs = 20_000): Promise<number> {
    const fromMs = this.world.nowMs;
    await this.world.until(what, condition, withinMs, () => this.#state());
    return this.world.nowMs - fromMs;
  }

  said(event: string): LogLine[] {
    return this.lines.filter((line) => line.event === event);
  }

  /** K4 and K6, on all nodes. */
  check(): void {
    const hashes = new Map<number, string>();
    for (const { process, publisher } of this.nodes.values()) {
      if (!process.alive) continue;
      const image = publisher.image();
      const broken = violationsOf(image);
      if (broken.length > 0) throw new Error(`${process.name}: ${broken.join('\n')}`);
      const hash = imageHash(image);
      if ((hashes.get(image.index) ?? hash) !== hash) throw new Error('two images of one index');
      hashes.set(image.index, hash);
    }
  }

  #state(): string {
    const lines = this.lines.slice(-15).map((line) => {
      return `${line.timeMs.toFixed(0)} ${line.process} ${line.event} ${JSON.stringify(line.fields)}`;
    });
    return `\n${lines.join('\n')}`;
  }
}
