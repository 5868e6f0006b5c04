/**
 * A cluster of brokers in a simulated world that keeps just what an SDK can see of one: leaders that
 * move, brokers that learn of it late, logs that take each batch once and in order. Replication is
 * taken for granted: the logs are shared, and only the true leader can write to them. What brokers do
 * beyond that is for the tests of the server.
 */
import { ERRORS } from '@relevo/base/errors';
import type { ErrorCode } from '@relevo/base/errors';
import { leaderEpoch, offset, uuidFromBytes } from '@relevo/base/ids';
import { RpcError, route } from '@relevo/base/ports';
import type { MessageStream, Ports, Route, StreamEvents } from '@relevo/base/ports';
import { patchBatch, readBatchHeader } from '@relevo/record/batch-header';
import { crc32c } from '@relevo/record/crc32c';
import { decodeRecords } from '@relevo/record/records';
import { validateBatch } from '@relevo/record/validate';
import { AdminService } from '@relevo/rpc/gen/client/admin';
import { FetchService, fetchedPartition, listedOffset } from '@relevo/rpc/gen/client/fetch';
import type { FetchPartition, FetchRequest, FetchResponse } from '@relevo/rpc/gen/client/fetch';
import { MetadataService, clusterMetadata, metadataUpdate } from '@relevo/rpc/gen/client/metadata';
import type { MetadataUpdate, TopicMetadata } from '@relevo/rpc/gen/client/metadata';
import { ProduceService, produceResponse } from '@relevo/rpc/gen/client/produce';
import type { ProduceRequest, ProduceResponse } from '@relevo/rpc/gen/client/produce';
import { simulatedCodecs } from '@relevo/simulation/simulated-codecs';
import type { World } from '@relevo/simulation/world';
import { Relevo } from '@relevo/client';

export interface ModelPartition {
  readonly topicId: string;
  readonly partition: number;
  leader: number;
  leaderEpoch: number;
  readonly batches: Uint8Array[];
  endOffset: number;
  startOffset: number;
  /** By producer id: its epoch, the next sequence and the last batches. */
  readonly producers: Map<number, ProducerEntry>;
}

interface ProducerEntry {
  epoch: number;
  next: number;
  last: { sequence: number; baseOffset: number }[];
}

interface ModelTopic {
  readonly name: string;
  readonly topicId: string;
  readonly partitions: ModelPartition[];
}

/** What a broker does other than it should; changed by tests as they go. */
export interface Faults {
  /** Answer a produce request with this instead, before anything is appended. */
  refuse?: (request: ProduceRequest) => ErrorCode | undefined;
  /** Append, but do not answer. */
  loseAnswer?: (request: ProduceRequest) => boolean;
  /** Answer nothing at all. */
  mute?: boolean;
}

const HEARTBEAT_MS = 500;

export class ModelCluster {
  readonly world: World;
  readonly topics = new Map<string, ModelTopic>();
  readonly brokers: readonly ModelBroker[];
  readonly produceRequests: ProduceRequest[] = [];
  /** How late brokers learn of a change, ms. */
  lagMs = 2;
  /** How long a write takes to be acknowledged, ms. */
  ackMs = 1;
  /** The topics' max.message.bytes. */
  maxMessageBytes = 1 << 20;
  faults: Faults = {};
  version = 1;
  #nextProducerId = 100;
  #nextTopic = 1;

  constructor(world: World, brokerCount = 3) {
    this.world = world;
    this.brokers = Array.from(
      { length: brokerCount },
      (_, index) => new ModelBroker(this, index + 1),
    );
    for (const broker of this.brokers) broker.boot();
  }

  get addresses(): string[] {
    return this.brokers.map(({ address }) => address);
  }

  /** A client in a process of its own. */
  async connect(name = 'client', at = this.addresses, codecs = simulatedCodecs): Promise<Relevo> {
    const ports = await new Promise<Ports>((resolve) => this.world.process(name).boot(resolve));
    return Relevo.over({ ...ports, codecs }, { brokers: at });
  }

  createTopic(name: string, partitionCount: number): ModelTopic {
    const topicId = uuidFromBytes(new Uint8Array(16).fill(this.#nextTopic++));
    const topic: ModelTopic = { name, topicId, partitions: [] };
    this.topics.set(name, topic);
    this.addPartitions(topic, partitionCount);
    return topic;
  }

  addPartitions(topic: ModelTopic, total: number): void {
    for (let partition = topic.partitions.length; partition < total; partition++) {
      topic.partitions.push({
        topicId: topic.topicId,
        partition,
        leader: (partition % this.brokers.length) + 1,
        leaderEpoch: 0,
        batches: [],
        endOffset: 0,
        startOffset: 0,
        producers: new Map(),
      });
    }
    this.publish();
  }

  deleteTopic(name: string): void {
    this.topics.delete(name);
    this.publish();
  }

  partition(topic: string, partition: number): ModelPartition {
    const found = this.topics.get(topic)?.partitions[partition];
    if (found === undefined) throw new Error(`no ${topic}-${partition}`);
    return found;
  }

  /** Gives the partition another leader; brokers learn of it after `lagMs`. */
  move(partition: ModelPartition, leader: number): void {
    partition.leader = leader;
    partition.leaderEpoch++;
    this.publish();
  }

  /** Moves what the broker leads to the next one that is alive. */
  moveAllFrom(id: number): void {
    const alive = this.brokers.filter((broker) => broker.id !== id && broker.isAlive);
    let next = 0;
    for (const topic of this.topics.values()) {
      for (const partition of topic.partitions) {
        if (partition.leader !== id) continue;
        partition.leader = alive[next++ % alive.length]?.id ?? -1;
        partition.leaderEpoch++;
      }
    }
    this.publish();
  }

  publish(): void {
    this.version++;
    for (const broker of this.brokers) broker.learn(this.lagMs);
  }

  nextProducerId(): number {
    return this.#nextProducerId++;
  }

  /** Every record of the partition, in its order. */
  records(topic: string, partition: number): { offset: number; value: string }[] {
    return this.partition(topic, partition).batches.flatMap((batch) =>
      decodeRecords(batch).map((view) => ({
        offset: view.offset,
        value: Buffer.from(view.value ?? []).toString(),
      })),
    );
  }

  values(topic: string, partition: number): string[] {
    return this.records(topic, partition).map(({ value }) => value);
  }

  /** Writes values as one batch, past all clients. */
  write(topic: string, partition: number, batch: Uint8Array): void {
    const model = this.partition(topic, partition);
    append(model, batch);
    for (const broker of this.brokers) broker.wakeFetches();
  }
}

function append(model: ModelPartition, batch: Uint8Array): number {
  const baseOffset = model.endOffset;
  patchBatch(batch, 0, {
    baseOffset: offset(baseOffset),
    leaderEpoch: leaderEpoch(model.leaderEpoch),
  });
  model.batches.push(batch);
  model.endOffset = readBatchHeader(batch).nextOffset;
  return baseOffset;
}

/** What a broker knows of who leads. */
interface Picture {
  version: number;
  topics: TopicMetadata[];
}

interface WaitingFetch {
  readonly request: FetchRequest;
  readonly stream: MessageStream<FetchResponse>;
  readonly timer: { cancel(): void };
}

interface WaitingProduce {
  readonly request: ProduceRequest;
  readonly stream: MessageStream<ProduceResponse>;
}

export class ModelBroker {
  readonly id: number;
  readonly address: string;
  readonly #cluster: ModelCluster;
  #picture: Picture = { version: 0, topics: [] };
  #watchers = new Set<MessageStream<MetadataUpdate>>();
  #fetches = new Set<WaitingFetch>();
  /** Sent to a broker that leads no more, and does not know it. */
  #stranded: WaitingProduce[] = [];
  #ports: Ports | undefined;
  fetchRequests: FetchRequest[] = [];

  constructor(cluster: ModelCluster, id: number) {
    this.#cluster = cluster;
    this.id = id;
    this.address = `broker-${id}:9093`;
  }

  get #process(): ReturnType<World['process']> {
    return this.#cluster.world.process(`broker-${this.id}`);
  }

  get isAlive(): boolean {
    return this.#process.alive && !this.#process.paused;
  }

  boot(): void {
    this.#ports = undefined;
    this.#watchers = new Set();
    this.#fetches = new Set();
    this.#stranded = [];
    this.#process.boot((ports) => {
      this.#ports = ports;
      this.#picture = this.#truth();
      void ports.transport.listen(this.address, this.#routes());
      this.#beat();
    });
  }

  async kill(): Promise<void> {
    await this.#process.kill({ unsynced: 'keep' });
  }

  pause(): void {
    this.#process.pause();
  }

  resume(): void {
    this.#process.resume();
  }

  learn(lagMs: number): void {
    if (this.#process.alive) this.#ports?.timers.after(lagMs, () => this.#learn());
  }

  wakeFetches(): void {
    for (const fetch of [...this.#fetches]) this.#tryFetch(fetch);
  }

  #learn(): void {
    const before = this.#picture;
    this.#picture = this.#truth();
    const { version, topics } = this.#picture;
    const known = new Map(before.topics.map((topic) => [topic.topicId, topic]));
    const deletedTopicIds = before.topics
      .filter(({ topicId }) => !topics.some((topic) => topic.topicId === topicId))
      .map(({ topicId }) => topicId);
    const changed = topics.flatMap((topic) => {
      const old = known.get(topic.topicId);
      const partitions = topic.partitions.filter((partition) => {
        const was = old?.partitions[partition.partition];
        return was?.leaderEpoch !== partition.leaderEpoch;
      });
      return partitions.length === 0 ? [] : [{ ...topic, partitions }];
    });
    const update = metadataUpdate({ version, topics: changed, deletedTopicIds, controllerId: 1 });
    for (const watcher of this.#watchers) watcher.send(update);
    for (const { request, stream } of this.#stranded.splice(0)) {
      this.#refuse(request, stream, 'NOT_LEADER_OR_FOLLOWER');
    }
    this.wakeFetches();
  }

  #truth(): Picture {
    const { topics, version } = this.#cluster;
    return {
      version,
      topics: [...topics.values()].map(({ name, topicId, partitions }) => ({
        error: 0,
        name,
        topicId,
        partitionCount: partitions.length,
        partitions: partitions.map(({ partition, leader, leaderEpoch: epoch }) => ({
          partition,
          leader,
          leaderEpoch: epoch,
          replicas: [1, 2, 3],
          isr: [1, 2, 3],
          elr: [],
          offline: [],
          partitionEpoch: epoch,
        })),
      })),
    };
  }

  #beat(): void {
    this.#ports?.timers.after(HEARTBEAT_MS, () => {
      const { version } = this.#picture;
      if (this.#cluster.faults.mute !== true) {
        for (const watcher of this.#watchers) watcher.send(metadataUpdate({ version }));
      }
      this.#beat();
    });
  }

  #brokers(): { id: number; address: string; rack: string; fenced: boolean }[] {
    return this.#cluster.brokers.map(({ id, address }) => ({
      id,
      address,
      rack: '',
      fenced: false,
    }));
  }

  #routes(): Route[] {
    return [
      route(MetadataService.getMetadata, (request) => this.#getMetadata(request.topics)),
      route(MetadataService.watchMetadata, (_request, stream) => this.#watch(stream)),
      route(ProduceService.stream, (stream) => this.#produceStream(stream)),
      route(ProduceService.initProducerId, () =>
        Promise.resolve({ producerId: this.#cluster.nextProducerId(), producerEpoch: 0 }),
      ),
      route(FetchService.stream, (stream) => this.#fetchStream(stream)),
      route(FetchService.listOffsets, ({ partitions }) =>
        Promise.resolve({ partitions: partitions.map((query) => this.#listOffset(query)) }),
      ),
      route(AdminService.createTopic, (request) => {
        if (this.#cluster.topics.has(request.name)) {
          const more = { code: 'TOPIC_ALREADY_EXISTS' } as const;
          return Promise.reject(new RpcError('ALREADY_EXISTS', `there is "${request.name}"`, more));
        }
        const { topicId } = this.#cluster.createTopic(request.name, request.partitions);
        const { partitions } = request;
        return Promise.resolve({ topicId, partitions, replicationFactor: 3 });
      }),
      route(AdminService.deleteTopic, ({ name }) => {
        const topicId = this.#cluster.topics.get(name)?.topicId ?? '';
        this.#cluster.deleteTopic(name);
        return Promise.resolve({ topicId });
      }),
    ];
  }

  #getMetadata(names: readonly string[]): Promise<ReturnType<typeof clusterMetadata>> {
    const { version, topics } = this.#picture;
    const wanted = names.length === 0 ? topics : topics.filter(({ name }) => names.includes(name));
    const brokers = this.#brokers();
    const clusterId = 'model';
    return Promise.resolve(
      clusterMetadata({ clusterId, version, controllerId: 1, brokers, topics: wanted }),
    );
  }

  #watch(stream: MessageStream<MetadataUpdate>): { onEnd(): void } {
    const { version, topics } = this.#picture;
    const brokers = this.#brokers();
    stream.send(
      metadataUpdate({ clusterId: 'model', version, full: true, controllerId: 1, brokers, topics }),
    );
    this.#watchers.add(stream);
    return { onEnd: () => this.#watchers.delete(stream) };
  }

  // ------------------------------------------------------------------------------------------ produce

  #produceStream(stream: MessageStream<ProduceResponse>): StreamEvents<ProduceRequest> {
    return {
      onMessage: (request) => this.#produce(request, stream),
      onEnd: () => {
        this.#stranded = this.#stranded.filter((waiting) => waiting.stream !== stream);
      },
    };
  }

  #produce(request: ProduceRequest, stream: MessageStream<ProduceResponse>): void {
    this.#cluster.produceRequests.push(request);
    const { faults } = this.#cluster;
    if (faults.mute === true) return;
    const refusal = faults.refuse?.(request) ?? this.#refusal(request.topicId, request);
    if (refusal !== undefined) {
      this.#refuse(request, stream, refusal);
      return;
    }
    const model = this.#model(request);
    if (model.leader !== this.id || model.leaderEpoch !== request.leaderEpoch) {
      // We lead no more, and do not know: nothing that we append is ever acknowledged.
      this.#stranded.push({ request, stream });
      return;
    }
    const batch = request.batch.slice();
    if (batch.length > this.#cluster.maxMessageBytes) {
      this.#refuse(request, stream, 'MESSAGE_TOO_LARGE');
      return;
    }
    const header = validateBatch(batch, 0, batch.length, crc32c, {
      maxBytes: 1 << 20,
      records: 'whole',
    });
    const answer = this.#appendOnce(model, batch, header);
    if (faults.loseAnswer?.(request) === true || request.acks === 0) return;
    const { correlationId } = request;
    this.#ports?.timers.after(this.#cluster.ackMs, () => {
      stream.send(
        typeof answer === 'number'
          ? produceResponse({
              correlationId,
              baseOffset: answer,
              leaderEpoch: model.leaderEpoch,
              logAppendTimeMs: -1,
              syncedOn: [1, 2, 3],
            })
          : produceResponse({ correlationId, error: ERRORS[answer].number, baseOffset: -1 }),
      );
    });
    for (const broker of this.#cluster.brokers) if (broker.isAlive) broker.wakeFetches();
  }

  /** Kafka's rules: the next sequence, or one of the last five again, or 0 of a new epoch. */
  #appendOnce(
    model: ModelPartition,
    batch: Uint8Array,
    header: ReturnType<typeof readBatchHeader>,
  ): number | ErrorCode {
    const { producerId, producerEpoch, baseSequence, recordCount } = header;
    if (producerId < 0) return append(model, batch);
    const entry = model.producers.get(producerId) ?? { epoch: -1, next: 0, last: [] };
    model.producers.set(producerId, entry);
    if (producerEpoch < entry.epoch) return 'INVALID_PRODUCER_EPOCH';
    if (producerEpoch > entry.epoch) {
      if (baseSequence !== 0) return 'OUT_OF_ORDER_SEQUENCE_NUMBER';
      Object.assign(entry, { epoch: producerEpoch, next: 0, last: [] });
    }
    const known = entry.last.find(({ sequence }) => sequence === baseSequence);
    if (known !== undefined) return known.baseOffset;
    if (baseSequence !== entry.next) return 'OUT_OF_ORDER_SEQUENCE_NUMBER';
    const baseOffset = append(model, batch);
    entry.next = baseSequence + recordCount;
    entry.last = [...entry.last, { sequence: baseSequence, baseOffset }].slice(-5);
    return baseOffset;
  }

  #refuse(request: ProduceRequest, stream: MessageStream<ProduceResponse>, code: ErrorCode): void {
    const { correlationId, topicId, partition } = request;
    stream.send(
      produceResponse({
        correlationId,
        error: ERRORS[code].number,
        message: `refused with ${code}`,
        baseOffset: -1,
        leaderEpoch: -1,
        currentLeader: this.#hint(topicId, partition),
      }),
    );
  }

  #known(topicId: string, partition: number): { leader: number; leaderEpoch: number } | undefined {
    return this.#picture.topics.find((topic) => topic.topicId === topicId)?.partitions[partition];
  }

  #hint(
    topicId: string,
    partition: number,
  ): { brokerId: number; leaderEpoch: number; address: string } | undefined {
    const known = this.#known(topicId, partition);
    if (known === undefined) return undefined;
    const address = this.#cluster.brokers.find(({ id }) => id === known.leader)?.address ?? '';
    return { brokerId: known.leader, leaderEpoch: known.leaderEpoch, address };
  }

  /** As this broker sees it. */
  #refusal(
    topicId: string,
    target: { readonly partition: number; readonly leaderEpoch: number },
  ): ErrorCode | undefined {
    const known = this.#known(topicId, target.partition);
    if (known === undefined) return 'UNKNOWN_TOPIC_ID';
    if (target.leaderEpoch > known.leaderEpoch) return 'UNKNOWN_LEADER_EPOCH';
    if (known.leader !== this.id) return 'NOT_LEADER_OR_FOLLOWER';
    return target.leaderEpoch < known.leaderEpoch ? 'FENCED_LEADER_EPOCH' : undefined;
  }

  #model(target: { readonly topicId: string; readonly partition: number }): ModelPartition {
    for (const topic of this.#cluster.topics.values()) {
      const model = topic.partitions[target.partition];
      if (topic.topicId === target.topicId && model !== undefined) return model;
    }
    throw new Error(`the model has no partition ${target.partition} of ${target.topicId}`);
  }

  // -------------------------------------------------------------------------------------------- fetch

  #fetchStream(stream: MessageStream<FetchResponse>): StreamEvents<FetchRequest> {
    return {
      onMessage: (request) => {
        this.fetchRequests.push(request);
        if (this.#cluster.faults.mute === true || this.#ports === undefined) return;
        const timer = this.#ports.timers.after(request.maxWaitMs, () => {
          this.#answerFetch(
            fetch,
            request.partitions.map((wanted) => this.#read(wanted)),
          );
        });
        const fetch: WaitingFetch = { request, stream, timer };
        this.#fetches.add(fetch);
        this.#tryFetch(fetch);
      },
      onEnd: () => {
        for (const fetch of [...this.#fetches]) {
          if (fetch.stream === stream) this.#fetches.delete(fetch);
        }
      },
    };
  }

  #tryFetch(fetch: WaitingFetch): void {
    const read = fetch.request.partitions.map((wanted) => this.#read(wanted));
    const found = read.filter(({ error, batches }) => error !== 0 || batches.length > 0);
    if (found.length > 0) this.#answerFetch(fetch, found);
  }

  #answerFetch(fetch: WaitingFetch, partitions: FetchResponse['partitions']): void {
    if (!this.#fetches.delete(fetch)) return;
    fetch.timer.cancel();
    fetch.stream.send({ correlationId: fetch.request.correlationId, partitions });
  }

  #read(wanted: FetchPartition): FetchResponse['partitions'][number] {
    const { topicId, partition } = wanted;
    const refusal = this.#refusal(topicId, wanted);
    const named = { topicId, partition, currentLeader: this.#hint(topicId, partition) };
    if (refusal !== undefined) return fetchedPartition({ ...named, error: ERRORS[refusal].number });
    const model = this.#model(wanted);
    const bounds = { highWatermark: model.endOffset, logStartOffset: model.startOffset };
    if (wanted.offset < model.startOffset || wanted.offset > model.endOffset) {
      const error = ERRORS.OFFSET_OUT_OF_RANGE.number;
      return fetchedPartition({ ...named, ...bounds, error });
    }
    const batches: Uint8Array[] = [];
    let bytes = 0;
    for (const batch of model.batches) {
      if (readBatchHeader(batch).nextOffset <= wanted.offset) continue;
      if (bytes > 0 && bytes + batch.length > wanted.maxBytes) break;
      batches.push(batch);
      bytes += batch.length;
    }
    return fetchedPartition({ ...named, ...bounds, batches: Buffer.concat(batches) });
  }

  #listOffset(query: {
    readonly topicId: string;
    readonly partition: number;
    readonly leaderEpoch: number;
    readonly timestampMs: number;
  }): ReturnType<typeof listedOffset> {
    const { topicId, partition, timestampMs } = query;
    const refusal = this.#refusal(topicId, query);
    const named = { topicId, partition, currentLeader: this.#hint(topicId, partition) };
    if (refusal !== undefined) return listedOffset({ ...named, error: ERRORS[refusal].number });
    const model = this.#model(query);
    const found = { ...named, leaderEpoch: model.leaderEpoch, timestampMs: -1 };
    if (timestampMs === -1) return listedOffset({ ...found, offset: model.endOffset });
    if (timestampMs === -2) return listedOffset({ ...found, offset: model.startOffset });
    const late = model.batches
      .flatMap((batch) => decodeRecords(batch))
      .find((view) => view.timestamp >= timestampMs);
    return listedOffset({
      ...found,
      offset: late?.offset ?? -1,
      timestampMs: late?.timestamp ?? -1,
    });
  }
}
