/**
 * One node, built from ports alone: what `main.ts` runs on a machine and `simulation` in a seeded world.
 *
 *   start: data directory ─> listener ─> quorum (controllers) ─> metadata ─> partitions ─> registration
 *   stop:  leaderships away ─> quorum leadership away ─> partitions ─> listener ─> quorum ─> directory
 */
import { assert } from '@relevo/base/assert';
import { RelevoError, messageOf } from '@relevo/base/errors';
import { brokerId, uuidFromBytes } from '@relevo/base/ids';
import type { BrokerId, Uuid } from '@relevo/base/ids';
import { DiskError } from '@relevo/base/ports';
import type { Listener, Ports, Route } from '@relevo/base/ports';
import type { ClusterImage } from '@relevo/controller/image';
import { LogDirectory } from '@relevo/log/log-directory';
import { LogError } from '@relevo/log/log-error';
import type { CompressionCodecs } from '@relevo/record/compression';
import { AdminService } from './api/admin-service.ts';
import { ControllerAdmin, type Execute } from './api/controller-admin.ts';
import { ControllerCalls } from './api/controller-calls.ts';
import type { QuorumView } from './api/describe-cluster.ts';
import { describeNode } from './api/describe-node.ts';
import { MetadataService } from './api/metadata-service.ts';
import { UnadvertisedNames } from './api/unadvertised-names.ts';
import { PlainRecords } from './plain/plain-records.ts';
import { notController } from './controller/controller-errors.ts';
import { ControllerService } from './controller/controller-service.ts';
import { clusterDefaultsOf } from './config/defaults.ts';
import type { NodeConfig } from './config/node-config.ts';
import { BrokerLifecycle, type BrokerLifecycleOptions } from './lifecycle/broker-lifecycle.ts';
import { ControllerClient } from './lifecycle/controller-client.ts';
import { DiskProof } from './lifecycle/disk-proof.ts';
import { MetadataFollower } from './metadata/metadata-follower.ts';
import { flawOfData, flawOfSnapshot } from './metadata/record-codec.ts';
import { MetadataPublisher } from './metadata/metadata-publisher.ts';
import { PartitionManager } from './partitions/partition-manager.ts';
import { ProducerIds, type ProducerIdBlock } from './partitions/producer-ids.ts';
import { Quorum } from './quorum/quorum.ts';
import { QuorumNames } from './quorum/quorum-names.ts';
import { quorumView } from './quorum/quorum-view.ts';
import { routesOn, tellAudience } from './security/listener-audience.ts';
import { Members } from './security/members.ts';

/** Why a node cannot start. `configuration`: a retry as it is cannot help. */
export class StartError extends Error {
  override readonly name = 'StartError';
  readonly kind: 'configuration' | 'failed';

  constructor(kind: 'configuration' | 'failed', message: string, options?: ErrorOptions) {
    super(message, options);
    this.kind = kind;
  }
}

/** How long calls under way may take to end when the listener closes. */
const LISTENER_GRACE_MS = 500;
/** The quorum's leadership moves within a round trip, or not at all. */
const TRANSFER_LIMIT_MS = 1000;

export interface Node {
  /** Rejects with a StartError. Resolves when the node listens; see `unready` for when it serves. */
  start(): Promise<void>;
  /** In order, moving leadership away first; may be called at any time, also when `start` failed. */
  stop(): Promise<void>;
  /** Why it should be given no work at present; undefined: it serves. */
  unready(): string | undefined;
  /** Why it should be restarted; undefined: it is well. */
  unhealthy(): string | undefined;
  /** What this node knows of the quorum; undefined: it is no controller, or has not started. */
  quorum(): QuorumView | undefined;
  /** What people should see to though it serves, a line each: replicas whose logs cannot be used. */
  warnings(): readonly string[];
  /** Called once when the node cannot go on. */
  onFatal(listener: (reason: StartError) => void): void;
}

/** What a node is built from: the ports, its secrets, and the codecs to check and to read batches with. */
export interface NodePorts extends Ports {
  /** By which the nodes of the cluster know one another, one or two; the first proves. Empty: none. */
  readonly clusterSecrets: readonly Uint8Array[];
  readonly codecs: Pick<CompressionCodecs, 'decompress'>;
}

/** What is not a setting: it holds for one start. */
export interface StartOptions {
  /** A person has decided that this voter goes on without the others; see `QuorumOptions.bootstrap`. */
  readonly bootstrap?: boolean;
  /** A snapshot of the metadata is due after so many entries; default: see `QuorumOptions`. */
  readonly snapshotEntries?: number;
}

export const createNode = (
  config: NodeConfig,
  ports: NodePorts,
  options: StartOptions = {},
): Node => new RelevoNode(config, ports, options);

class RelevoNode implements Node {
  readonly #config: NodeConfig;
  readonly #ports: NodePorts;
  readonly #options: StartOptions;
  #parts: Parts | undefined;
  #starting = false;
  #stopping: Promise<void> | undefined;
  #fatal: StartError | undefined;
  readonly #fatalListeners: ((reason: StartError) => void)[] = [];

  constructor(config: NodeConfig, ports: NodePorts, options: StartOptions) {
    this.#config = config;
    this.#options = options;
    this.#ports = { ...ports, logger: ports.logger.child({ node: config['node.id'] }) };
  }

  async start(): Promise<void> {
    this.#starting = true;
    const directory = openDirectory(this.#config, this.#ports);
    let parts: Parts;
    try {
      parts = new Parts(this.#config, this.#ports, directory, this.#options, (reason) =>
        this.#failed(reason),
      );
    } catch (error) {
      await directory.close(new Map());
      throw startError(error);
    }
    this.#parts = parts;
    try {
      await parts.start();
    } catch (error) {
      throw startError(error);
    }
  }

  stop(): Promise<void> {
    this.#stopping ??= this.#parts?.stop(this.#fatal !== undefined) ?? Promise.resolve();
    return this.#stopping;
  }

  unready(): string | undefined {
    if (this.#stopping !== undefined) return 'the node is stopping';
    if (this.#parts === undefined) return this.#starting ? 'the node is starting' : 'not started';
    return this.#parts.unready();
  }

  unhealthy(): string | undefined {
    return this.#fatal?.message;
  }

  quorum(): QuorumView | undefined {
    return this.#parts?.quorum();
  }

  warnings(): readonly string[] {
    return this.#parts?.warnings() ?? [];
  }

  onFatal(listener: (reason: StartError) => void): void {
    this.#fatalListeners.push(listener);
  }

  #failed(reason: StartError): void {
    if (this.#fatal !== undefined) return;
    this.#fatal = reason;
    for (const listener of this.#fatalListeners) listener(reason);
  }
}

/** Everything that exists once the data directory is open. */
class Parts {
  readonly #config: NodeConfig;
  readonly #ports: NodePorts;
  readonly #directory: LogDirectory;
  /** Undefined: the cluster has no secret. */
  readonly #members: Members | undefined;
  readonly #publisher: MetadataPublisher;
  readonly #quorum: Quorum | undefined;
  readonly #controller: ControllerService | undefined;
  readonly #follower: MetadataFollower | undefined;
  readonly #client: ControllerClient;
  readonly #diskProof: DiskProof;
  readonly #names: QuorumNames;
  readonly #lifecycle: BrokerLifecycle | undefined;
  readonly #partitions: PartitionManager | undefined;
  readonly #calls: ControllerCalls;
  readonly #admin: AdminService;
  readonly #controllerAdmin: ControllerAdmin;
  readonly #metadata: MetadataService;
  readonly #plain: PlainRecords | undefined;
  readonly #listeners: Listener[] = [];
  /** Has caught up with the cluster since its start: what it tells of it is no news of yesterday. */
  #informed = false;
  #stopping = false;

  constructor(
    config: NodeConfig,
    given: NodePorts,
    directory: LogDirectory,
    options: StartOptions,
    onFatal: (reason: StartError) => void,
  ) {
    this.#members = this.#makeMembers(config, given);
    const ports = { ...given, transport: this.#members?.transport ?? given.transport };
    this.#config = config;
    this.#ports = ports;
    this.#directory = directory;
    const isController = config['process.roles'].includes('controller');
    const isBroker = config['process.roles'].includes('broker');
    const nodeId = brokerId(config['node.id']);
    const clusterId = config['cluster.id'];
    const controllers = config['controller.quorum.voters'].map(({ address }) => address);
    const sessionTimeoutMs = config['broker.session.timeout.ms'];
    const defaults = clusterDefaultsOf(config);

    this.#publisher = new MetadataPublisher(ports);
    const publisher = this.#publisher;
    const image = (): ReturnType<MetadataPublisher['image']> => publisher.image();
    if (isController) {
      const controller = new ControllerService(
        {
          ...ports,
          publisher,
          propose: (data) => quorum.propose(data),
          confirm: () => quorum.readBarrier(),
        },
        {
          nodeId,
          clusterId,
          sessionTimeoutMs,
          handBackDelayMs: config['leader.handback.delay.ms'],
          defaults,
          addressOf: (id) =>
            config['controller.quorum.voters'].find((voter) => voter.id === id)?.address,
        },
      );
      const quorum = this.#makeQuorum(controller, options, onFatal);
      this.#controller = controller;
      this.#quorum = quorum;
    } else {
      this.#follower = new MetadataFollower(
        { ...ports, publisher },
        { nodeId, clusterId, controllers },
      );
    }
    this.#client = new ControllerClient({ ...ports, publisher }, { controllers, sessionTimeoutMs });
    this.#diskProof = new DiskProof(ports, { directory: directory.root });
    this.#names = new QuorumNames(ports, {
      voters: config['controller.quorum.voters'],
      timeoutMs: config['controller.quorum.resolve.timeout.ms'],
      onUnknown: (reason) => onFatal(new StartError('failed', reason)),
    });
    if (isBroker) {
      this.#lifecycle = this.#makeLifecycle(onFatal);
      this.#partitions = this.#makePartitions(this.#lifecycle);
    }
    this.#calls = new ControllerCalls({
      ...ports,
      isActive: () => this.#controller?.isActive() ?? false,
      controllerAddress: () => {
        const known = publisher.controller();
        return known?.id === nodeId ? undefined : known?.address;
      },
    });
    this.#controllerAdmin = new ControllerAdmin({
      ...ports,
      execute: this.#execute(),
      confirmed: () => this.#confirmed(),
      image,
      quorum: () => quorumView(this.#quorum),
      clusterId,
      topicDefaults: defaults.topic,
    });
    this.#admin = new AdminService({
      ...ports,
      calls: this.#calls,
      controller: this.#controllerAdmin,
      image,
      topicDefaults: defaults.topic,
      replicationFactorDefault: defaults.replicationFactor,
      assertCurrent: () => this.#assertCurrent(),
    });
    const names = new UnadvertisedNames(ports.logger, config['advertised.grpc']);
    this.#metadata = new MetadataService({
      timers: ports.timers,
      clusterId,
      image,
      controllerId: () => publisher.controller()?.id ?? -1,
      assertInformed: () => this.#assertInformed(),
      isCurrent: () => this.#lifecycle?.fenced !== true,
      reached: (peer) => names.reached(peer),
      describeNode: (listener) =>
        describeNode(config, listener, {
          clockMs: ports.clock.wallMs(),
          controllerId: publisher.controller()?.id,
          metadataVersion: image().index,
          unready: this.#stopping ? 'the node is stopping' : this.unready(),
          membership: this.#membership,
          offline: this.#partitions?.status().offline ?? [],
        }),
    });
    if (this.#partitions !== undefined) {
      this.#plain = this.#makePlainRecords();
    }
    // The partitions act before anybody is told.
    publisher.subscribe((delta, changed) => {
      this.#partitions?.applyImage(delta, changed);
      this.#metadata.imageChanged(delta, changed);
      this.#admin.imageChanged(changed);
    });
    publisher.onController(() => this.#metadata.controllerChanged());
    this.#lifecycle?.onFenced((fenced) => {
      if (fenced) this.#metadata.sendElsewhere();
    });
  }

  async start(): Promise<void> {
    const { transport, logger } = this.#ports;
    const routes = this.#routes();
    const advertised = this.#config['advertised.grpc'];
    for (const [index, { listener: name, address }] of this.#config['listener.grpc'].entries()) {
      const served = routesOn(name, this.#config['cluster.listener.names'], routes);
      const listener = await transport.listen(address, served, name);
      this.#listeners.push(listener);
      logger.info('listening', {
        listener: name,
        address: listener.address,
        advertised: advertised[index]?.address,
        cluster: this.#config['cluster.id'],
        directory: this.#directory.root,
      });
    }
    tellAudience(this.#config, this.#members !== undefined, logger);
    this.#members?.start();
    await this.#quorum?.start();
    this.#names.start();
    this.#follower?.start();
    this.#partitions?.start();
    // Registration waits for a controller for as long as it takes; the node is up all the same.
    void this.#lifecycle?.start();
  }

  async stop(abrupt: boolean): Promise<void> {
    this.#stopping = true;
    const { logger } = this.#ports;
    const timeoutMs = abrupt ? 0 : this.#config['controlled.shutdown.timeout.ms'];
    if (this.#lifecycle !== undefined) {
      const outcome = await this.#lifecycle.shutdown(timeoutMs);
      if (outcome === 'timedOut' && !abrupt) {
        logger.warn('stopping without having been let go: leaderships move by failover', {
          waitedMs: timeoutMs,
        });
      }
    }
    this.#names.close();
    this.#members?.close();
    await this.#leaveQuorum();
    this.#metadata.close();
    this.#plain?.close();
    const highWatermarks = (await this.#partitions?.close()) ?? new Map();
    this.#follower?.close();
    await Promise.all(this.#listeners.map((listener) => listener.close(LISTENER_GRACE_MS)));
    this.#controller?.close();
    await this.#quorum?.stop();
    this.#client.close();
    this.#calls.close();
    this.#diskProof.close();
    await this.#directory.close(highWatermarks);
  }

  /** The image on disk is as of the last run; a broker is let in only when it has caught up. */
  #assertInformed(): void {
    if (!this.#informed) {
      const lifecycle = this.#lifecycle;
      this.#informed =
        lifecycle === undefined ? this.#publisher.controller() !== undefined : !lifecycle.fenced;
    }
    if (this.#informed) return;
    throw new RelevoError('LEADER_NOT_AVAILABLE', this.#outOfTouch());
  }

  /** What the image does not hold may have come since: only a broker with a lease can say that it is not. */
  #assertCurrent(): void {
    this.#assertInformed();
    if (this.#lifecycle?.fenced === true) {
      throw new RelevoError('LEADER_NOT_AVAILABLE', this.#outOfTouch());
    }
  }

  /** Why this broker, being fenced, can tell nothing. */
  #outOfTouch(): string {
    if (!this.#informed) {
      return 'this broker is starting and does not know the cluster yet: ask another one';
    }
    return (
      'this broker is fenced, or no controller has heard it for longer than its session: ' +
      'refresh the metadata, and ask another one'
    );
  }

  unready(): string | undefined {
    const why = this.#cutOff();
    if (why !== undefined) {
      const trouble = this.#members?.trouble;
      return trouble === undefined ? why : `${why}: ${trouble}`;
    }
    const recovering = this.#partitions?.recovering;
    if (recovering !== undefined) {
      return `logs are being opened: ${recovering.open} of ${recovering.of} are open`;
    }
    const { space } = this.#directory;
    // It lives, and reads go on: only `unhealthy` asks for a restart, which makes no room.
    if (space.isShort) return `appends are refused: ${space.shortage}`;
    return undefined;
  }

  quorum(): QuorumView | undefined {
    return this.#quorum === undefined ? undefined : quorumView(this.#quorum);
  }

  #cutOff(): string | undefined {
    if (this.#publisher.controller() === undefined) return 'no active controller is known';
    if (this.#lifecycle === undefined) return undefined;
    if (this.#lifecycle.brokerEpoch === undefined) return 'the broker is not registered yet';
    return this.#lifecycle.fenced ? 'the broker is fenced' : undefined;
  }

  /** What is not well though it serves, a line each. */
  warnings(): string[] {
    const { offline = [] } = this.#partitions?.status() ?? {};
    return offline.map(({ partition, reason }) => `${partition} is offline here: ${reason}`);
  }

  get #membership(): 'secret' | 'auto' | 'none' {
    if (this.#members === undefined) return 'none';
    return this.#members.required ? 'secret' : 'auto';
  }

  async #leaveQuorum(): Promise<void> {
    const quorum = this.#quorum;
    if (quorum === undefined || !quorum.status().isLeader) return;
    const { timers, logger } = this.#ports;
    const limit = new Promise<void>((resolve) => timers.after(TRANSFER_LIMIT_MS, resolve));
    const transfer = quorum.transferLeadership().catch((error: unknown) => {
      logger.warn('leadership of the quorum could not be handed over', { error: messageOf(error) });
    });
    await Promise.race([transfer, limit]);
  }

  #routes(): readonly Route[] {
    const routes = [
      ...this.#metadata.routes(),
      ...this.#admin.routes(),
      ...(this.#controller?.routes() ?? []),
      ...(this.#controller === undefined ? [] : this.#controllerAdmin.routes()),
      ...(this.#quorum?.routes() ?? []),
      ...(this.#partitions?.routes() ?? []),
      ...(this.#plain?.routes() ?? []),
    ];
    return this.#members?.guard(routes) ?? routes;
  }

  #makeMembers(config: NodeConfig, ports: NodePorts): Members | undefined {
    if (ports.clusterSecrets.length === 0) return undefined;
    const nodeId = config['node.id'];
    const others = (): ReadonlyMap<BrokerId, string> => {
      const found = new Map<BrokerId, string>();
      for (const { id, address } of config['controller.quorum.voters']) {
        if (id !== nodeId) found.set(brokerId(id), address);
      }
      for (const { id, fenced, peerAddress } of this.#publisher.image().brokers.values()) {
        if (id !== nodeId && !fenced) found.set(id, peerAddress);
      }
      return found;
    };
    return new Members(
      { ...ports, others },
      {
        nodeId,
        clusterId: config['cluster.id'],
        secrets: ports.clusterSecrets,
        required: config['cluster.auth.required'],
      },
    );
  }

  #execute(): Execute {
    const controller = this.#controller;
    if (controller !== undefined) return controller.execute.bind(controller);
    return () => Promise.reject(notController(this.#publisher.controller()));
  }

  #confirmed(): Promise<void> {
    return (
      this.#controller?.confirmed() ?? Promise.reject(notController(this.#publisher.controller()))
    );
  }

  #makePlainRecords(): PlainRecords {
    const image = (): ClusterImage => this.#publisher.image();
    const allocate = (): Promise<ProducerIdBlock> => this.#allocateProducerIds();
    const producerIds = new ProducerIds({ allocate, image });
    return new PlainRecords({
      ...this.#ports,
      image,
      topicDefaults: clusterDefaultsOf(this.#config).topic,
      newProducerId: () => producerIds.take(),
      assertCurrent: () => this.#assertCurrent(),
    });
  }

  #allocateProducerIds(): Promise<ProducerIdBlock> {
    const epoch = this.#lifecycle?.brokerEpoch;
    if (epoch === undefined) {
      const message = 'this broker is not registered with the controller yet: try again shortly';
      return Promise.reject(new RelevoError('LEADER_NOT_AVAILABLE', message));
    }
    const broker = { brokerId: brokerId(this.#config['node.id']), brokerEpoch: epoch };
    return this.#client.allocateProducerIds(broker);
  }

  #makeQuorum(
    controller: ControllerService,
    { bootstrap = false, snapshotEntries }: StartOptions,
    onFatal: (reason: StartError) => void,
  ): Quorum {
    const config = this.#config;
    return new Quorum(
      {
        ...this.#ports,
        onCommitted: (entries) => controller.onCommitted(entries),
        restoreSnapshot: (bytes, index) => controller.restoreSnapshot(bytes, index),
        takeSnapshot: () => controller.takeSnapshot(),
        flawOfData,
        flawOfSnapshot,
        onLeadership: (leadership) => controller.onLeadership(leadership),
        onFailure: (error) => onFatal(quorumEnded(error)),
      },
      {
        nodeId: brokerId(config['node.id']),
        clusterId: config['cluster.id'],
        directoryId: this.#directory.directoryId,
        directory: this.#directory.root,
        voters: config['controller.quorum.voters'],
        bootstrap,
        ...(snapshotEntries !== undefined && { snapshotEntries }),
        incarnations: this.#directory.incarnations,
        electionTimeoutMs: config['controller.quorum.election.timeout.ms'],
        heartbeatIntervalMs: config['controller.quorum.heartbeat.interval.ms'],
      },
    );
  }

  #makeLifecycle(onFatal: (reason: StartError) => void): BrokerLifecycle {
    const config = this.#config;
    return new BrokerLifecycle(
      {
        ...this.#ports,
        publisher: this.#publisher,
        client: this.#client,
        diskProof: this.#diskProof,
        onFatal: (error: RelevoError) => onFatal(new StartError('configuration', error.message)),
      },
      {
        clusterId: config['cluster.id'],
        brokerId: brokerId(config['node.id']),
        incarnations: this.#directory.incarnations,
        directoryId: this.#directory.directoryId,
        ...addressesOf(config),
        rack: config['broker.rack'],
        nothingLost: this.#directory.wasCleanShutdown,
        heartbeatIntervalMs: config['broker.heartbeat.interval.ms'],
        sessionTimeoutMs: config['broker.session.timeout.ms'],
      },
    );
  }

  #makePartitions(lifecycle: BrokerLifecycle): PartitionManager {
    const config = this.#config;
    return new PartitionManager(
      {
        ...this.#ports,
        directory: this.#directory,
        alterPartitions: (request) => this.#client.alterPartitions(request),
        reportReplicas: (request) => this.#client.reportReplicas(request),
        allocateProducerIds: (broker) => this.#client.allocateProducerIds(broker),
        image: () => this.#publisher.image(),
        brokerEpoch: () => lifecycle.brokerEpoch,
        lease: {
          isValid: () => !lifecycle.fenced,
          isCertain: () => lifecycle.certain,
          untilCertain: () => lifecycle.untilCertain(),
          outOfTouch: () => this.#outOfTouch(),
        },
        synced: (tookMs) => this.#diskProof.synced(tookMs),
      },
      {
        brokerId: brokerId(config['node.id']),
        clusterId: config['cluster.id'],
        topicDefaults: clusterDefaultsOf(config).topic,
        replicaLagMs: config['replica.lag.time.max.ms'],
        retentionCheckMs: config['log.retention.check.interval.ms'],
        strayDelayMs: config['deleted.topic.directory.retention.ms'],
      },
    );
  }
}

function addressesOf(
  config: NodeConfig,
): Pick<BrokerLifecycleOptions, 'clientAddress' | 'peerAddress' | 'listeners'> {
  const listeners = config['advertised.grpc'];
  const peers = listeners.find(({ listener }) => listener === config['inter.broker.listener.name']);
  const [first] = listeners;
  assert(first !== undefined && peers !== undefined, 'a node has listeners, and one for its peers');
  return { clientAddress: first.address, peerAddress: peers.address, listeners };
}

const randomUuid = (ports: Pick<Ports, 'random'>): Uuid => uuidFromBytes(ports.random.bytes(16));

function openDirectory(config: NodeConfig, ports: NodePorts): LogDirectory {
  try {
    return LogDirectory.open(
      {
        root: config['log.dir'].replace(/\/+$/, ''),
        brokerId: brokerId(config['node.id']),
        clusterId: config['cluster.id'],
        newDirectoryId: () => randomUuid(ports),
        reserveBytes: config['log.disk.reserve.bytes'],
        youngBytesMax: config['log.young.bytes.max'],
      },
      ports,
    );
  } catch (error) {
    throw startError(error);
  }
}

function quorumEnded(error: unknown): StartError {
  const known = startError(error);
  if (known.kind === 'configuration') return known;
  return new StartError('failed', `the quorum has ended: ${known.message}`, { cause: error });
}

function startError(error: unknown): StartError {
  if (error instanceof StartError) return error;
  const foreign = error instanceof LogError && error.kind === 'foreign';
  const cause = error instanceof LogError ? error.cause : error;
  const denied = cause instanceof DiskError && cause.code === 'DENIED';
  const kind = foreign || denied ? 'configuration' : 'failed';
  const message = messageOf(error);
  const full = fullPath(error);
  const advice = full === undefined ? '' : `: free space on the disk of ${full}, then start again`;
  return new StartError(kind, message + advice, { cause: error });
}

/** What there was no room for; undefined: the error has another cause. */
function fullPath(error: unknown): string | undefined {
  if (error instanceof DiskError) return error.code === 'FULL' ? error.path : undefined;
  return error instanceof Error && error.cause !== undefined ? fullPath(error.cause) : undefined;
}
