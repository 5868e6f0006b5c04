/**
 * All that a broker does with the partitions it holds: the parts of this folder, joined.
 *
 *     image ──> reconciler ──> partitions (log + leader or follower) <── produce, fetch
 *                                  │    ↑
 *       replication server <───────┘    └─────── replication client
 *     (pushes to followers)                     (copies from leaders)
 */
import { RelevoError } from '@relevo/base/errors';
import type { BrokerEpoch, BrokerId, Offset } from '@relevo/base/ids';
import type { Ports, Route } from '@relevo/base/ports';
import type { BrokerView } from '@relevo/broker/leader-replica';
import type { ClusterImage } from '@relevo/controller/image';
import type { MetadataDelta } from '@relevo/controller/replay';
import type { TopicSettings } from '@relevo/controller/topic-config';
import type { LogDirectory } from '@relevo/log/log-directory';
import type { CompressionCodecs } from '@relevo/record/compression';
import type {
  FetchRequest,
  ListOffsetsRequest,
  ListOffsetsResponse,
} from '@relevo/rpc/gen/client/fetch';
import type { ProduceRequest } from '@relevo/rpc/gen/client/produce';
import type {
  ReportReplicasRequest,
  ReportReplicasResponse,
} from '@relevo/rpc/gen/cluster/controller';
import { partitionImage } from './current-leader.ts';
import { DamageChecks } from './damage-checks.ts';
import { FetchService } from './fetch-service.ts';
import type { FetchReply } from './fetch-service.ts';
import { IsrProposals } from './isr-proposals.ts';
import type { AlterPartitions } from './isr-proposals.ts';
import { adviceFor } from './offline-advice.ts';
import type { Partition, PartitionDeps, PartitionEvents, ProduceReply } from './partition.ts';
import type { Lease } from './lease.ts';
import { PartitionMetrics } from './partition-metrics.ts';
import { PartitionTable } from './partition-table.ts';
import { IN_HAND_BYTES_MAX, ProduceService } from './produce-service.ts';
import { ProducerIds } from './producer-ids.ts';
import type { ProducerIdBlock } from './producer-ids.ts';
import { Reconciler } from './reconciler.ts';
import type { RecoveryProgress } from './recoveries.ts';
import { ReplicaReports } from './replica-reports.ts';
import { ReplicationClient } from './replication-client.ts';
import { ReplicationServer } from './replication-server.ts';
import { StrayDirectories } from './stray-directories.ts';
import { Turn } from './turn.ts';
import { Upkeep } from './upkeep.ts';

export interface PartitionManagerDeps extends Ports {
  readonly codecs: Pick<CompressionCodecs, 'decompress'>;
  /** Opened and closed by the owner. */
  readonly directory: LogDirectory;
  /** Proposes in-sync sets to the active controller; rejects when the outcome is not known. */
  readonly alterPartitions: AlterPartitions;
  /** Tells the active controller which replicas here are offline; rejects likewise. */
  readonly reportReplicas: (request: ReportReplicasRequest) => Promise<ReportReplicasResponse>;
  readonly allocateProducerIds: (broker: {
    readonly brokerId: BrokerId;
    readonly brokerEpoch: BrokerEpoch;
  }) => Promise<ProducerIdBlock>;
  readonly image: () => ClusterImage;
  /** Of this life of the broker; undefined until it is registered. */
  readonly brokerEpoch: () => BrokerEpoch | undefined;
  /** The controller has answered a heartbeat within the session timeout. */
  readonly lease: Lease;
  /** A log has been synced, in so many ms: proof that the disk works. */
  readonly synced: (tookMs: number) => void;
}

export interface PartitionManagerOptions {
  readonly brokerId: BrokerId;
  readonly clusterId: string;
  readonly topicDefaults: TopicSettings;
  /** `replica.lag.time.max.ms`. */
  readonly replicaLagMs: number;
  /** `log.retention.check.interval.ms`. */
  readonly retentionCheckMs: number;
  /** `deleted.topic.directory.retention.ms`. */
  readonly strayDelayMs: number;
  /** Bytes appended and not yet answered above which producers are paused; default: 64 MiB. */
  readonly inHandBytesMax?: number;
}

export interface PartitionsStatus {
  readonly partitions: number;
  readonly leading: number;
  readonly following: number;
  /** By name, with the reason. */
  readonly offline: readonly { readonly partition: string; readonly reason: string }[];
  readonly stray: readonly string[];
  /** Partitions that the image has changed and that have not been looked at yet. */
  readonly pending: number;
  /** Logs of the last run that are not open yet; undefined: none. */
  readonly recovering: RecoveryProgress | undefined;
  /** False until the image shows this broker as registered in this life. */
  readonly isRegistered: boolean;
  readonly inHandBytes: number;
  readonly waitingFetches: number;
  readonly links: readonly {
    readonly leader: BrokerId;
    readonly isUp: boolean;
    readonly partitions: number;
  }[];
  readonly followers: readonly BrokerId[];
}

export class PartitionManager {
  readonly #deps: PartitionManagerDeps;
  readonly #options: PartitionManagerOptions;
  readonly #table = new PartitionTable();
  readonly #turn: Turn;
  readonly #producerIds: ProducerIds;
  readonly #produce: ProduceService;
  readonly #fetch: FetchService;
  readonly #server: ReplicationServer;
  readonly #client: ReplicationClient;
  readonly #proposals: IsrProposals;
  readonly #reports: ReplicaReports;
  readonly #reconciler: Reconciler;
  readonly #upkeep: Upkeep;
  readonly #strays: StrayDirectories;
  #closed = false;

  constructor(deps: PartitionManagerDeps, options: PartitionManagerOptions) {
    this.#deps = deps;
    this.#options = options;
    const metrics = new PartitionMetrics(deps.metrics);
    const turn = new Turn(deps.timers);
    this.#turn = turn;
    const { brokerId: localId, clusterId } = options;
    const table = this.#table;
    const image = deps.image;
    const reviewIsr = (partition: Partition): void => this.#reviewIsr(partition);
    const checks = new DamageChecks({ ...deps, metrics });
    const shared = { ...deps, turn, metrics, table, localId, clusterId, image, reviewIsr, checks };
    const brokerEpoch = (): BrokerEpoch => deps.brokerEpoch() ?? NOT_REGISTERED;
    this.#producerIds = new ProducerIds({
      allocate: () => this.#allocateProducerIds(),
      image: deps.image,
    });
    this.#produce = new ProduceService({
      ...shared,
      producerIds: this.#producerIds,
      takeUp: (topicId, number) => this.#reconciler.takeUp(topicId, number),
      inHandBytesMax: options.inHandBytesMax ?? IN_HAND_BYTES_MAX,
    });
    this.#fetch = new FetchService(shared);
    this.#server = new ReplicationServer({ ...shared, brokerEpoch });
    this.#client = new ReplicationClient({ ...shared, brokerEpoch });
    this.#proposals = new IsrProposals(shared);
    this.#reports = new ReplicaReports(shared);
    const partition: PartitionDeps = {
      ...shared,
      events: this.#events(),
      synced: deps.synced,
      leaderOptions: { localId, replicaLagMs: options.replicaLagMs },
    };
    this.#strays = new StrayDirectories({ ...deps, delayMs: options.strayDelayMs });
    const strays = this.#strays;
    this.#reconciler = new Reconciler({ ...shared, ...options, partition, strays });
    this.#upkeep = new Upkeep({
      ...shared,
      produce: this.#produce,
      proposals: this.#proposals,
      reports: this.#reports,
      reconciler: this.#reconciler,
      retentionCheckMs: options.retentionCheckMs,
    });
  }

  routes(): Route[] {
    return [...this.#produce.routes(), ...this.#fetch.routes(), ...this.#server.routes()];
  }

  /** Replicas take up their parts once the image shows this broker as registered in this life. */
  start(): void {
    this.#reconciler.start();
    this.#upkeep.start();
    this.#strays.start();
  }

  /** To be called with each change of the image, after `image()` gives the new one. */
  applyImage(delta: MetadataDelta, image: ClusterImage): void {
    if (this.#closed) return;
    this.#reconciler.applyImage(delta);
    this.#strays.imageChanged(image);
    if (delta.brokers.length === 0) return;
    this.#client.applyImage(image);
    const nowMs = this.#deps.clock.monotonicMs();
    const anew = delta.brokers.filter(({ before, after }) => before?.epoch !== after.epoch);
    // Who has come back may join in-sync sets.
    for (const partition of this.#table.values()) {
      const replica = partition.leader?.replica;
      for (const { after } of anew) replica?.restarted(after.id, after.epoch, nowMs);
      if (replica !== undefined && replica.isr.length < replica.replicas.length) {
        this.#reviewIsr(partition);
      }
    }
  }

  /** Takes one batch as leader; see `ProduceService.produce`. For callers on this broker. */
  produce(request: ProduceRequest, reply: ProduceReply): void {
    this.#produce.produce(request, reply);
  }

  /** Reads as leader; what is returned gives the request up. For callers on this broker. */
  fetch(request: FetchRequest, reply: FetchReply): () => void {
    return this.#fetch.fetch(request, reply);
  }

  listOffsets(request: ListOffsetsRequest): Promise<ListOffsetsResponse> {
    return this.#fetch.listOffsets(request);
  }

  /** A producer id that nobody else has. For callers on this broker. */
  newProducerId(): Promise<number> {
    return this.#producerIds.take();
  }

  status(): PartitionsStatus {
    let leading = 0;
    let following = 0;
    const offline: { partition: string; reason: string }[] = [];
    for (const { leader, follower, failure, name } of this.#table.values()) {
      if (failure !== undefined) offline.push({ partition: name, reason: failure });
      else if (leader !== undefined) leading += 1;
      else if (follower !== undefined) following += 1;
    }
    return {
      partitions: this.#table.size,
      leading,
      following,
      offline,
      stray: this.#reconciler.stray,
      pending: this.#reconciler.pending,
      recovering: this.#reconciler.recovering,
      isRegistered: this.#reconciler.isRegistered,
      inHandBytes: this.#produce.inHandBytes,
      waitingFetches: this.#fetch.waiting,
      links: this.#client.links(),
      followers: this.#server.followers,
    };
  }

  /** Logs of the last run that are not open yet; undefined: none. */
  get recovering(): RecoveryProgress | undefined {
    return this.#reconciler.recovering;
  }

  /** One replica on this broker, for tests and for people who look into it. */
  partition(topicId: string, partition: number): Partition | undefined {
    return this.#table.find(topicId, partition);
  }

  /**
   * Ends all parts: waiting requests are answered, streams end. The logs stay open for the owner of the
   * directory to close, with the high watermarks that are returned.
   */
  close(): Promise<Map<string, Offset>> {
    this.#closed = true;
    this.#produce.stop();
    this.#reconciler.close();
    this.#upkeep.close();
    this.#strays.close();
    this.#client.close();
    for (const partition of this.#table.values()) partition.becomeIdle('SHUTTING_DOWN');
    this.#server.close();
    this.#fetch.close();
    this.#proposals.close();
    this.#reports.close();
    this.#turn.close();
    return Promise.resolve(this.#upkeep.highWatermarks());
  }

  #allocateProducerIds(): Promise<ProducerIdBlock> {
    const brokerEpoch = this.#deps.brokerEpoch();
    if (brokerEpoch === undefined) {
      const message = 'this broker is not registered with the controller yet: try again shortly';
      return Promise.reject(new RelevoError('LEADER_NOT_AVAILABLE', message));
    }
    return this.#deps.allocateProducerIds({ brokerId: this.#options.brokerId, brokerEpoch });
  }

  #events(): PartitionEvents {
    return {
      readable: (partition, bytes) => this.#fetch.readable(partition, bytes),
      reviewIsr: (partition) => this.#reviewIsr(partition),
      followerSynced: (partition) => this.#client.synced(partition),
      roleChanged: (partition) => {
        this.#client.roleChanged(partition, this.#deps.image());
        this.#server.roleChanged(partition);
        this.#fetch.roleChanged(partition);
        if (partition.leader !== undefined) this.#reviewIsr(partition);
        this.#reports.review(partition);
      },
      failed: (partition, reason, advice) => {
        const { topicId, number, name } = partition;
        const known = partitionImage(this.#deps.image(), topicId, number);
        this.#deps.logger.error('a replica is offline', {
          partition: name,
          reason,
          do: advice ?? adviceFor(name, known, this.#options.brokerId, partition),
        });
        this.#deps.directory.noteOffline(partition.name, partition.topicId);
        this.#reports.review(partition);
      },
    };
  }

  #reviewIsr(partition: Partition): void {
    const replica = partition.leader?.replica;
    if (replica === undefined || this.#closed) return;
    const proposal = replica.proposeIsr(this.#brokerView, this.#deps.clock.monotonicMs());
    if (proposal !== undefined) this.#proposals.propose(partition, replica, proposal);
  }

  /** All from one image (P4); of itself this broker knows best. */
  readonly #brokerView = (id: BrokerId): BrokerView | undefined => {
    const broker = this.#deps.image().brokers.get(id);
    if (broker === undefined) return undefined;
    if (id === this.#options.brokerId) {
      return { epoch: this.#deps.brokerEpoch() ?? NOT_REGISTERED, fenced: false };
    }
    const fenced = broker.fenced || broker.shuttingDown;
    return { epoch: broker.epoch, fenced, tookUpMs: this.#server.tookUpMs(id) };
  };
}

const NOT_REGISTERED = -1 as BrokerEpoch;
