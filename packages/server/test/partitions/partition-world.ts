/**
 * Brokers that hold partitions, in a simulated world: the production partition managers, logs and streams.
 * The controller alone is a stand-in: the production decisions, made at one place, told to each broker
 * after a delay of its own; a scenario fences and unfences by hand.
 */
import { gzipSync } from 'node:zlib';
import { utf8Decode } from '@relevo/base/bytes';
import { ERRORS, RelevoError } from '@relevo/base/errors';
import {
  brokerEpoch,
  brokerId,
  logIndex,
  producerEpoch,
  producerId,
  term,
  uuidFromBytes,
} from '@relevo/base/ids';
import type { BrokerEpoch, BrokerId, Offset, Uuid } from '@relevo/base/ids';
import { RpcError } from '@relevo/base/ports';
import type { Listener, MessageStream, Ports } from '@relevo/base/ports';
import type {
  AnswerOf,
  ClusterDefaults,
  CommandKind,
  CommandOf,
} from '@relevo/controller/commands';
import { decide } from '@relevo/controller/decide';
import { EMPTY_IMAGE } from '@relevo/controller/image';
import type { ClusterImage, PartitionImage } from '@relevo/controller/image';
import { violationsOf } from '@relevo/controller/invariants';
import { ImageDelta, difference } from '@relevo/controller/replay';
import { TOPIC_DEFAULTS } from '@relevo/controller/topic-config';
import { LogDirectory } from '@relevo/log/log-directory';
import { BatchBuilder, NO_HEADERS } from '@relevo/record/batch-builder';
import type { BatchOptions } from '@relevo/record/batch-builder';
import type { CompressionCodecs } from '@relevo/record/compression';
import { batchesOf } from '@relevo/record/validate';
import { BATCH_OVERHEAD, readBatchHeader } from '@relevo/record/batch-header';
import { unpackRecords } from '@relevo/record/records';
import { FetchService, fetchPartition, fetchRequest } from '@relevo/rpc/gen/client/fetch';
import type { FetchPartition, FetchRequest, FetchResponse } from '@relevo/rpc/gen/client/fetch';
import {
  ProduceService,
  initProducerIdRequest,
  produceRequest,
} from '@relevo/rpc/gen/client/produce';
import type { ProduceRequest, ProduceResponse } from '@relevo/rpc/gen/client/produce';
import { alterPartitionsResponse } from '@relevo/rpc/gen/cluster/controller';
import type { AlterPartitionsRequest } from '@relevo/rpc/gen/cluster/controller';
import type { AlterPartitions } from '@relevo/server/partitions/isr-proposals';
import type { Partition } from '@relevo/server/partitions/partition';
import { PartitionManager } from '@relevo/server/partitions/partition-manager';
import { simulatedCodecs } from '@relevo/simulation/simulated-codecs';
import type { SimulatedProcess } from '@relevo/simulation/simulated-process';
import { World } from '@relevo/simulation/world';
import type { LogLine } from '@relevo/simulation/world';

export const LAG_MS = 500;
/** After which a late proposal is decided. */
export const LATE_MS = 600;
const CLUSTER = 'test-cluster';
/** From a decision to the brokers. */
const PUBLISH_MAX_MS = 5;
const DEFAULTS: ClusterDefaults = { partitions: 1, replicationFactor: 3, topic: TOPIC_DEFAULTS };

export interface Broker {
  readonly id: BrokerId;
  readonly ports: Ports;
  readonly manager: PartitionManager;
  readonly directory: LogDirectory;
  image: ClusterImage;
  epoch: BrokerEpoch | undefined;
  leaseValid: boolean;
  listener: Listener | undefined;
  syncs: number;
}

export class PartitionWorld {
  readonly world: World;
  readonly lines: LogLine[] = [];
  readonly brokers = new Map<number, Broker>();
  image: ClusterImage = EMPTY_IMAGE;
  /** Proposals may be lost on their way, or their answers, or they come long after they were given up. */
  proposals: 'answered' | 'late' | 'lost' | 'unanswered' = 'answered';
  #directories = 0;

  readonly #options: { readonly inHandBytesMax?: number };
  readonly #codecs: Pick<CompressionCodecs, 'decompress'>;

  constructor(
    seed: number | string = 1,
    options: { readonly inHandBytesMax?: number } = {},
    codecs: Pick<CompressionCodecs, 'decompress'> = simulatedCodecs,
  ) {
    this.#options = options;
    this.#codecs = codecs;
    this.world = new World({ seed, onLog: (line) => this.lines.push(line), limitMs: 600_000 });
    this.decide({ kind: 'activate', clusterId: CLUSTER });
  }

  run(scenario: () => Promise<void>): Promise<void> {
    return this.world.run(scenario);
  }

  broker(id: number): Broker {
    const broker = this.brokers.get(id);
    if (broker === undefined) throw new Error(`broker ${id} was never booted`);
    return broker;
  }

  process(id: number): SimulatedProcess {
    return this.world.process(`broker-${id}`);
  }

  partition(id: number, topic: string, number = 0): Partition {
    const topicId = this.topicId(topic);
    const partition = this.broker(id).manager.partition(topicId, number);
    if (partition === undefined) throw new Error(`broker ${id} does not hold ${topic}-${number}`);
    return partition;
  }

  topicId(topic: string): Uuid {
    const found = this.image.topicsByName.get(topic);
    if (found === undefined) throw new Error(`no topic ${topic}`);
    return found.id;
  }

  state(topic: string, number = 0): PartitionImage {
    const found = this.image.topicsByName.get(topic)?.partitions[number];
    if (found === undefined) throw new Error(`no partition ${topic}-${number}`);
    return found;
  }

  // ------------------------------------------------------------------------------ the controller

  /** Decides and publishes; throws where it is refused. */
  decide<Kind extends CommandKind>(
    command: CommandOf<Kind> & { readonly kind: Kind },
  ): AnswerOf<Kind> {
    const { records, response } = decide<Kind>(this.image, command, DEFAULTS);
    if (records.length > 0) {
      const delta = new ImageDelta(this.image);
      for (const record of records) delta.apply(record);
      this.image = delta.finish(logIndex(this.image.index + 1), term(1)).image;
      const violations = violationsOf(this.image);
      if (violations.length > 0) throw new Error(violations.join('; '));
      for (const broker of this.brokers.values()) this.#publish(broker);
    }
    return response;
  }

  fence(id: number): void {
    const epoch = this.image.brokers.get(brokerId(id))?.epoch;
    if (epoch === undefined) throw new Error(`broker ${id} is not registered`);
    this.decide({
      kind: 'fenceBrokers',
      brokers: [{ brokerId: brokerId(id), brokerEpoch: epoch }],
    });
  }

  unfence(id: number): void {
    const epoch = this.broker(id).epoch ?? brokerEpoch(-1);
    this.decide({ kind: 'unfenceBroker', brokerId: brokerId(id), brokerEpoch: epoch });
  }

  createTopic(
    name: string,
    assignment: readonly (readonly number[])[],
    config: Readonly<Record<string, string>> = {},
  ): void {
    const topicId = uuidFromBytes(this.world.prng.bytes(16));
    this.decide({
      kind: 'createTopic',
      topicId,
      name,
      partitions: -1,
      replicationFactor: -1,
      config: new Map(Object.entries(config)),
      assignment: assignment.map((replicas) => replicas.map(brokerId)),
      validateOnly: false,
      seed: 1,
    });
  }

  #publish(broker: Broker): void {
    const { image } = this;
    if (!this.process(broker.id).alive) return;
    const delayMs = this.world.prng.between(0, PUBLISH_MAX_MS);
    broker.ports.timers.after(delayMs, () => {
      if (image.index <= broker.image.index) return;
      const delta = difference(broker.image, image);
      broker.image = image;
      broker.manager.applyImage(delta, image);
    });
  }

  #alter(broker: Broker, request: AlterPartitionsRequest): ReturnType<AlterPartitions> {
    const mode = this.proposals;
    return new Promise((resolve, reject) => {
      if (mode === 'lost' || mode === 'late') {
        broker.ports.timers.after(50, () => reject(new RelevoError('REQUEST_TIMED_OUT', 'lost')));
        if (mode === 'lost') return;
      }
      broker.ports.timers.after(mode === 'late' ? LATE_MS : 1, () => {
        const answer = alter(this, request).then((response) => ({ response, triedBefore: false }));
        if (mode === 'answered') answer.then(resolve, reject);
        else reject(new RelevoError('REQUEST_TIMED_OUT', 'the answer was lost'));
      });
    });
  }

  // --------------------------------------------------------------------------------- the brokers

  /** Boots, registers and unfences brokers. */
  async boot(...ids: number[]): Promise<void> {
    for (const id of ids) this.#boot(id);
    await this.world.until(
      `brokers ${ids.join(', ')} are up`,
      () => ids.every((id) => this.brokers.get(id)?.manager.status().isRegistered === true),
      1000,
    );
  }

  #boot(id: number): void {
    this.brokers.delete(id);
    this.process(id).boot((ports) => {
      const directory = LogDirectory.open(
        {
          root: '/data',
          brokerId: brokerId(id),
          clusterId: CLUSTER,
          newDirectoryId: () =>
            uuidFromBytes(Uint8Array.of(...Array(15).fill(0), ++this.#directories)),
          // Faults are those of a log's own files.
          youngBytesMax: 0,
        },
        ports,
      );
      const broker: Broker = {
        id: brokerId(id),
        ports,
        directory,
        image: EMPTY_IMAGE,
        epoch: undefined,
        leaseValid: true,
        listener: undefined,
        syncs: 0,
        manager: new PartitionManager(
          {
            ...ports,
            codecs: this.#codecs,
            directory,
            alterPartitions: (request) => this.#alter(broker, request),
            reportReplicas: async ({ brokerId: of, brokerEpoch: epoch, replicas }) => {
              await Promise.resolve();
              return this.decide({
                kind: 'reportReplicas',
                brokerId: brokerId(of),
                brokerEpoch: brokerEpoch(epoch),
                replicas: replicas as CommandOf<'reportReplicas'>['replicas'],
              });
            },
            allocateProducerIds: async (of) => {
              await Promise.resolve();
              const { first, count } = this.decide({ kind: 'allocateProducerIds', ...of });
              return { first, count };
            },
            image: () => broker.image,
            brokerEpoch: () => broker.epoch,
            lease: {
              isValid: () => broker.leaseValid,
              isCertain: () => broker.leaseValid,
              untilCertain: () => Promise.resolve(),
              outOfTouch: () => 'the scenario has ended the lease of this broker',
            },
            synced: () => (broker.syncs += 1),
          },
          {
            brokerId: brokerId(id),
            clusterId: CLUSTER,
            topicDefaults: TOPIC_DEFAULTS,
            replicaLagMs: LAG_MS,
            retentionCheckMs: 1000,
            strayDelayMs: 60_000,
            ...this.#options,
          },
        ),
      };
      this.brokers.set(id, broker);
      void this.#start(broker);
    });
  }

  async #start(broker: Broker): Promise<void> {
    const { id, ports, manager, directory } = broker;
    const address = `broker-${id}:9093`;
    broker.listener = await ports.transport.listen(address, manager.routes());
    manager.start();
    // The image of the life before comes first, as it does where the metadata log is local.
    this.#publish(broker);
    await new Promise<void>((resume) => ports.timers.after(2 * PUBLISH_MAX_MS, resume));
    const answer = this.decide({
      kind: 'registerBroker',
      clusterId: CLUSTER,
      brokerId: id,
      incarnationId: `${id}-${this.process(id).incarnation}`,
      incarnations: [],
      directoryId: directory.directoryId,
      clientAddress: address,
      peerAddress: address,
      listeners: [],
      rack: '',
      predecessorGone: true,
      nothingLost: true,
    });
    broker.epoch = answer.brokerEpoch;
    this.#publish(broker);
    this.unfence(id);
  }

  /** Ends the process; a dead broker is fenced by hand. */
  async kill(id: number, unsynced: 'keep' | 'lose' = 'lose'): Promise<void> {
    await this.process(id).kill({ unsynced });
  }

  async stop(id: number): Promise<void> {
    const broker = this.broker(id);
    const highWatermarks = await broker.manager.close();
    await broker.listener?.close(0);
    await broker.directory.close(highWatermarks);
    await this.process(id).kill({ unsynced: 'lose' });
  }

  /** A client of its own, on a host of its own. */
  async client(name = 'client'): Promise<TestClient> {
    const process = this.world.process(name);
    let client: TestClient | undefined;
    process.boot((ports) => (client = new TestClient(this, ports)));
    await this.world.until('the client is up', () => client !== undefined, 100);
    if (client === undefined) throw new Error('no client');
    return client;
  }

  /** Resolves when every replica named has the same log, durable and committed to its end. */
  async converge(topic: string, number: number, ids: readonly number[]): Promise<void> {
    const held = (): Partition[] => ids.map((id) => this.partition(id, topic, number));
    await this.world.until(
      `the replicas of ${topic}-${number} agree`,
      () => {
        const [first, ...others] = held();
        if (first?.isOpen !== true) return false;
        const end = first.logEndOffset;
        return [first, ...others].every(
          (each) => each.isOpen && each.logEndOffset === end && each.highWatermark === end,
        );
      },
      10_000,
      () => JSON.stringify(ids.map((id) => this.describe(id, topic, number))),
    );
    const from = Math.max(...held().map(({ logStartOffset }) => logStartOffset));
    const contents = await Promise.all(held().map((partition) => contentOf(partition, from)));
    for (const content of contents.slice(1)) {
      if (content.join() !== contents[0]?.join()) throw new Error('replicas differ below the HW');
    }
  }

  describe(id: number, topic: string, number = 0): Record<string, unknown> {
    const partition = this.broker(id).manager.partition(this.topicId(topic), number);
    return {
      id,
      leading: partition?.leader?.replica.leaderEpoch,
      isr: partition?.leader?.replica.isr,
      phase: partition?.follower?.replica.phase,
      end: partition?.isOpen === true ? partition.logEndOffset : undefined,
      highWatermark: partition?.highWatermark,
      failure: partition?.failure,
      status: this.broker(id).manager.status(),
    };
  }
}

async function alter(
  world: PartitionWorld,
  request: AlterPartitionsRequest,
): Promise<ReturnType<typeof alterPartitionsResponse>> {
  await Promise.resolve();
  const { partitions } = world.decide({
    kind: 'alterPartitions',
    brokerId: brokerId(request.brokerId),
    brokerEpoch: brokerEpoch(request.brokerEpoch),
    partitions: request.partitions as CommandOf<'alterPartitions'>['partitions'],
  });
  return alterPartitionsResponse({
    partitions: partitions.map((outcome) => ({ ...outcome, error: ERRORS[outcome.error].number })),
  });
}

async function contentOf(partition: Partition, start: number): Promise<string[]> {
  const { log } = partition;
  const found: string[] = [];
  let from = start as Offset;
  while (from < partition.highWatermark) {
    const bytes = await log.read(from, 1 << 20, partition.highWatermark, true);
    if (bytes.length === 0) throw new Error(`nothing at ${from}`);
    for (const { at } of batchesOf(bytes)) {
      const header = readBatchHeader(bytes, at);
      from = header.nextOffset;
      found.push(`${header.baseOffset}@${header.partitionLeaderEpoch}:${header.crc}`);
    }
  }
  return found;
}

/** Speaks the gRPC protocol to brokers, as an SDK would. */
export class TestClient {
  readonly ports: Ports;
  readonly #world: PartitionWorld;
  readonly #produces = new Map<number, ProduceStream>();
  readonly #fetches = new Map<number, FetchStream>();

  constructor(world: PartitionWorld, ports: Ports) {
    this.#world = world;
    this.ports = ports;
  }

  /** A producer of its own, which broker `id` and the leaders know of. */
  async producer(
    id: number,
  ): Promise<Required<Pick<BatchOptions, 'producerId' | 'producerEpoch'>>> {
    const channel = this.ports.transport.dial(`broker-${id}:9093`);
    const { initProducerId } = ProduceService;
    const made = await channel.call(initProducerId, initProducerIdRequest(), { deadlineMs: 1000 });
    channel.close();
    const issued = (): boolean =>
      [...this.#world.brokers.values()].every(
        ({ image }) => image.nextProducerId > made.producerId,
      );
    await this.#world.world.until('all know of the producer', issued, 1000);
    return {
      producerId: producerId(made.producerId),
      producerEpoch: producerEpoch(made.producerEpoch),
    };
  }

  /** A batch of records with these values. */
  batch(values: readonly string[], options: BatchOptions = {}): Uint8Array {
    const builder = new BatchBuilder();
    const timestampMs = this.ports.clock.wallMs();
    for (const value of values) builder.append(null, value, NO_HEADERS, timestampMs);
    return builder.build(options, this.ports.crc32c);
  }

  /** As `batch`, packed with gzip; `pack` makes the records section of the plain one. */
  packedBatch(
    values: readonly string[],
    options: BatchOptions = {},
    pack: (records: Uint8Array) => Uint8Array = gzipSync,
  ): Uint8Array {
    const records = pack(this.batch(values).subarray(BATCH_OVERHEAD));
    const builder = new BatchBuilder();
    const timestampMs = this.ports.clock.wallMs();
    for (const value of values) builder.append(null, value, NO_HEADERS, timestampMs);
    return builder.build({ ...options, compressed: { type: 'gzip', records } }, this.ports.crc32c);
  }

  produce(
    id: number,
    topic: string,
    values: readonly string[] | Uint8Array,
    more: Partial<ProduceRequest> = {},
  ): Promise<ProduceResponse> {
    const request = produceRequest({
      topicId: this.#world.topicId(topic),
      leaderEpoch: -1,
      acks: -1,
      timeoutMs: 3_000,
      batch: values instanceof Uint8Array ? values : this.batch(values),
      ...more,
    });
    return this.produceStream(id).send(request);
  }

  produceStream(id: number): ProduceStream {
    let stream = this.#produces.get(id);
    if (stream === undefined || stream.ended) {
      stream = new ProduceStream(this.ports, `broker-${id}:9093`);
      this.#produces.set(id, stream);
    }
    return stream;
  }

  fetch(
    id: number,
    partitions: readonly (Partial<Omit<FetchPartition, 'topicId'>> & { readonly topic: string })[],
    more: Partial<FetchRequest> = {},
  ): Promise<FetchResponse> {
    let stream = this.#fetches.get(id);
    if (stream === undefined || stream.ended) {
      stream = new FetchStream(this.ports, `broker-${id}:9093`);
      this.#fetches.set(id, stream);
    }
    return stream.send(
      fetchRequest({
        maxWaitMs: 0,
        minBytes: 1,
        maxBytes: 1 << 20,
        partitions: partitions.map(({ topic, ...rest }) =>
          fetchPartition({
            topicId: this.#world.topicId(topic),
            leaderEpoch: -1,
            maxBytes: 1 << 20,
            ...rest,
          }),
        ),
        ...more,
      }),
    );
  }

  async values(id: number, topic: string, partition = 0): Promise<string[]> {
    const values: string[] = [];
    for (let offset = 0; ;) {
      const response = await this.fetch(id, [{ topic, partition, offset }]);
      const part = response.partitions[0];
      if (part === undefined || part.error !== 0) throw new Error(`fetch failed: ${part?.message}`);
      if (part.batches.length === 0) return values;
      for (const { at } of batchesOf(part.batches)) {
        const header = readBatchHeader(part.batches, at);
        offset = header.nextOffset;
        for (const record of await unpackRecords(part.batches, at, simulatedCodecs, 1 << 20)) {
          values.push(utf8Decode(record.value ?? new Uint8Array(0)));
        }
      }
    }
  }
}

abstract class RequestStream<
  Request extends { readonly correlationId: number },
  Response extends { readonly correlationId: number },
> {
  readonly waiting = new Map<
    number,
    { resolve: (response: Response) => void; reject: (error: unknown) => void }
  >();
  protected abstract readonly stream: MessageStream<Request>;
  ended = false;
  #next = 1;

  send(request: Request): Promise<Response> {
    const correlationId = this.#next++;
    return new Promise((resolve, reject) => {
      this.waiting.set(correlationId, { resolve, reject });
      this.stream.send({ ...request, correlationId });
    });
  }

  protected events(): {
    onMessage(response: Response): void;
    onEnd(error: RpcError | undefined): void;
  } {
    return {
      onMessage: (response) => {
        this.waiting.get(response.correlationId)?.resolve(response);
        this.waiting.delete(response.correlationId);
      },
      onEnd: (error) => {
        this.ended = true;
        for (const { reject } of this.waiting.values()) {
          reject(error ?? new RpcError('CANCELLED', 'the stream ended'));
        }
        this.waiting.clear();
      },
    };
  }
}

export class ProduceStream extends RequestStream<ProduceRequest, ProduceResponse> {
  protected readonly stream: MessageStream<ProduceRequest>;
  constructor(ports: Ports, address: string) {
    super();
    this.stream = ports.transport.dial(address).open(ProduceService.stream, this.events());
  }
}

class FetchStream extends RequestStream<FetchRequest, FetchResponse> {
  protected readonly stream: MessageStream<FetchRequest>;
  constructor(ports: Ports, address: string) {
    super();
    this.stream = ports.transport.dial(address).open(FetchService.stream, this.events());
  }
}
