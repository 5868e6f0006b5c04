/**
 * Managing topics and the cluster. Any broker takes a call and hands it to the active controller; calls
 * are retried at other brokers until their deadline. A call whose answer was lost is repeated, and the
 * repetition's "exists already" or "does not exist" is then taken for what the first one did.
 */
import { ERRORS } from '@relevo/base/errors';
import type { ErrorCode } from '@relevo/base/errors';
import type { Method } from '@relevo/base/ports';
import { RpcError } from '@relevo/base/ports';
import { AdminService } from '@relevo/rpc/gen/client/admin';
import type { DescribeClusterResponse, TopicDescription } from '@relevo/rpc/gen/client/admin';
import { MetadataService } from '@relevo/rpc/gen/client/metadata';
import {
  checkCall,
  checkConfigChange,
  checkElection,
  checkNewTopic,
  checkOffsetsQuery,
  checkTopic,
  checkTotal,
} from './admin-options.ts';
import type { AnyBrokerAnswer } from './any-broker.ts';
import { CallFailure } from './any-broker.ts';
import type { ClientPorts } from './client-ports.ts';
import type { TopicView } from './cluster-view.ts';
import type { Connections } from './connections.ts';
import { ClientError, brokerError, callError } from './errors.ts';
import type { Metadata } from './metadata.ts';
import { EARLIEST_TIMESTAMP, LATEST_TIMESTAMP, lookUpOffsets } from './offset-lookup.ts';
import type { FoundOffset, OffsetQuery } from './offset-lookup.ts';
import { bounded, deferred } from './waiting.ts';

/** What every call of the admin takes. */
export interface AdminCallOptions {
  /** Default: 30,000 ms. */
  readonly timeoutMs?: number;
  readonly signal?: AbortSignal;
}

/** Kafka's names: `retention.ms`, `min.insync.replicas` and so on. */
export type TopicConfig = Readonly<Record<string, string | number | boolean>>;

export interface NewTopic extends AdminCallOptions {
  readonly topic: string;
  /** Default: the cluster's num.partitions. */
  readonly partitions?: number;
  /** Default: the cluster's default.replication.factor. */
  readonly replicationFactor?: number;
  readonly config?: TopicConfig;
  /** Brokers by partition, the preferred leader first; in place of the two counts. */
  readonly assignment?: readonly (readonly number[])[];
  /** Check all, change nothing. */
  readonly validateOnly?: boolean;
}

export interface CreatedTopic {
  readonly topic: string;
  /** Empty when only validated. */
  readonly topicId: string;
  readonly partitions: number;
  readonly replicationFactor: number;
}

export interface ListedTopic {
  readonly topic: string;
  readonly topicId: string;
  readonly partitions: number;
  readonly replicationFactor: number;
}

export interface DescribedPartition {
  readonly partition: number;
  /** Undefined: nobody leads it now. */
  readonly leader: number | undefined;
  readonly leaderEpoch: number;
  /** The first is the preferred leader. */
  readonly replicas: readonly number[];
  readonly isr: readonly number[];
  /** Not in sync, yet with every acknowledged record: one of them leads when nobody in sync can. */
  readonly elr: readonly number[];
  /** Whose logs cannot be used: damaged, or on a disk that fails. Their brokers' logs say why. */
  readonly offline: readonly number[];
}

export interface DescribedTopic {
  readonly topic: string;
  readonly topicId: string;
  readonly partitions: readonly DescribedPartition[];
  readonly config: readonly {
    readonly name: string;
    readonly value: string;
    /** False: set on the topic. */
    readonly isDefault: boolean;
  }[];
}

export type DescribedCluster = DescribeClusterResponse;

export interface ConfigChange extends AdminCallOptions {
  readonly topic: string;
  readonly set?: TopicConfig;
  /** Back to the default. */
  readonly unset?: readonly string[];
}

export interface OffsetsQuery extends AdminCallOptions {
  readonly topic: string;
  /** Default: all. */
  readonly partitions?: readonly number[];
  /** An end of the log, or ms since 1970: the first record at or after it. Default: latest. */
  readonly at?: 'earliest' | 'latest' | number;
}

export interface ListedOffset {
  readonly partition: number;
  /** -1: no record is that late. Latest is the offset that the next record will get. */
  readonly offset: number;
  /** Of the record found; -1 at the ends of the log. */
  readonly timestamp: number;
  readonly leaderEpoch: number;
}

export interface ElectionRequest extends AdminCallOptions {
  /** Default: all. */
  readonly topic?: string;
  /** Default: all of the topic. */
  readonly partitions?: readonly number[];
}

export interface ElectionOutcome {
  readonly topic: string;
  readonly partition: number;
  /** The leader now; undefined: none. */
  readonly leader: number | undefined;
  /** Why it could not be moved. */
  readonly error: ClientError | undefined;
}

export interface AdminDeps {
  readonly ports: ClientPorts;
  readonly metadata: Metadata;
  readonly connections: Connections;
}

const TIMEOUT_MS = 30_000;
/** How long a change may take to reach this client's own view. */
const SEEN_TIMEOUT_MS = 5_000;
/** Making thousands of partitions takes its time. */
const ATTEMPT_MS = 15_000;

export class Admin {
  readonly #deps: AdminDeps;

  /** Made by `Relevo`. */
  constructor(deps: AdminDeps) {
    this.#deps = deps;
  }

  /**
   * Resolves when the topic exists and this client knows of it. Rejects with TOPIC_ALREADY_EXISTS,
   * INVALID_TOPIC_EXCEPTION (also for names that the cluster keeps for itself, such as `__consumer_offsets`),
   * INVALID_PARTITIONS, INVALID_REPLICATION_FACTOR, INVALID_CONFIG and the like.
   */
  async createTopic(options: NewTopic): Promise<CreatedTopic> {
    checkNewTopic(options);
    const { topic, partitions = -1, replicationFactor = -1, validateOnly = false } = options;
    const request = {
      name: topic,
      partitions,
      replicationFactor,
      config: configMap(options.config),
      validateOnly,
      assignment: (options.assignment ?? []).map((replicas) => ({ replicas })),
    };
    const what = `creating topic "${topic}"`;
    const answer = await this.#change(
      AdminService.createTopic,
      request,
      what,
      options,
      'TOPIC_ALREADY_EXISTS',
    );
    if (validateOnly)
      return { topic, ...(answer ?? { topicId: '', partitions, replicationFactor }) };
    const view = await this.#seen(options, () => this.#deps.metadata.view.topic(topic), what);
    return {
      topic,
      topicId: view.topicId,
      partitions: answer?.partitions ?? view.partitionCount,
      replicationFactor: answer?.replicationFactor ?? replicationFactorOf(view),
    };
  }

  /** Rejects with UNKNOWN_TOPIC_OR_PARTITION when there is none. */
  async deleteTopic(topic: string, options: AdminCallOptions = {}): Promise<void> {
    checkTopic(topic);
    checkCall('deletion', options);
    const request = { name: topic };
    const what = `deleting topic "${topic}"`;
    const { deleteTopic } = AdminService;
    const gone = 'UNKNOWN_TOPIC_OR_PARTITION';
    const answer = await this.#change(deleteTopic, request, what, options, gone);
    const { view } = this.#deps.metadata;
    await this.#seen(
      options,
      () => (isGone(view.topic(topic), answer?.topicId) ? true : undefined),
      what,
    );
  }

  /** Gives the topic more partitions, `total` in all; there is no way back. */
  async createPartitions(
    topic: string,
    total: number,
    options: AdminCallOptions = {},
  ): Promise<void> {
    checkTopic(topic);
    checkTotal(total);
    checkCall('growth', options);
    const request = { topic, partitions: total };
    const what = `giving topic "${topic}" ${total} partitions`;
    await this.#call(AdminService.createPartitions, request, what, options);
    const { view } = this.#deps.metadata;
    const isThere = (): true | undefined =>
      (view.topic(topic)?.partitionCount ?? 0) >= total ? true : undefined;
    await this.#seen(options, isThere, what);
  }

  async alterTopicConfig(options: ConfigChange): Promise<void> {
    checkConfigChange(options);
    const { topic } = options;
    const request = {
      topic,
      set: configMap(options.set),
      unset: options.unset ?? [],
    };
    const what = `changing the settings of topic "${topic}"`;
    await this.#call(AdminService.alterTopicConfig, request, what, options);
  }

  /** By name. */
  async listTopics(options: AdminCallOptions = {}): Promise<readonly ListedTopic[]> {
    checkCall('list of topics', options);
    const request = { topics: [] };
    const { getMetadata } = MetadataService;
    const { topics } = await this.#call(getMetadata, request, 'listing the topics', options);
    return topics
      .map(({ name, topicId, partitionCount, partitions }) => ({
        topic: name,
        topicId,
        partitions: partitionCount,
        replicationFactor: partitions[0]?.replicas.length ?? 0,
      }))
      .sort((a, b) => (a.topic < b.topic ? -1 : 1));
  }

  /** Rejects with UNKNOWN_TOPIC_OR_PARTITION when there is none. */
  async describeTopic(topic: string, options: AdminCallOptions = {}): Promise<DescribedTopic> {
    checkTopic(topic);
    checkCall('description', options);
    const request = { topics: [topic] };
    const what = `describing topic "${topic}"`;
    const { topics } = await this.#call(AdminService.describeTopics, request, what, options);
    const found = topics.find((description) => description.topic?.name === topic);
    if (found?.topic === undefined || found.topic.error !== 0) {
      throw this.#deps.metadata.unknownTopic(topic);
    }
    return describedTopic(found, found.topic);
  }

  /** Brokers, controllers and their states, as the active controller sees them. */
  async describeCluster(options: AdminCallOptions = {}): Promise<DescribedCluster> {
    checkCall('description', options);
    const request = {};
    const what = 'describing the cluster';
    return await this.#call(AdminService.describeCluster, request, what, options);
  }

  /**
   * Gives leadership to the preferred replicas where they are in sync. Partitions that are led as they
   * should be are left out of the result.
   */
  async electLeaders(options: ElectionRequest = {}): Promise<readonly ElectionOutcome[]> {
    checkElection(options);
    const request = {
      topic: options.topic ?? '',
      partitions: options.partitions ?? [],
    };
    const what = 'electing preferred leaders';
    const { electPreferredLeaders } = AdminService;
    const { results } = await this.#call(electPreferredLeaders, request, what, options);
    return results.map(({ topic, partition, leader, error, message }) => ({
      topic,
      partition,
      leader: leader < 0 ? undefined : leader,
      error: error === 0 ? undefined : brokerError(`${topic}-${partition}`, error, message),
    }));
  }

  /** By partition. */
  async listOffsets(options: OffsetsQuery): Promise<readonly ListedOffset[]> {
    checkOffsetsQuery(options);
    const { topic, at = 'latest', timeoutMs = TIMEOUT_MS, signal } = options;
    const view = await this.#deps.metadata.waitForTopic(topic, { timeoutMs, signal });
    const wanted = options.partitions ?? Array.from({ length: view.partitionCount }, (_, p) => p);
    const queries = wanted.map((partition): OffsetQuery => {
      if (partition >= 0 && partition < view.partitionCount) {
        const name = `${topic}-${partition}`;
        return { name, topicId: view.topicId, partition, timestampMs: wireTime(at) };
      }
      const message = `topic "${topic}" has ${view.partitionCount} partitions, not one ${partition}`;
      throw new ClientError('UNKNOWN_TOPIC_OR_PARTITION', message);
    });
    const found = new Map<OffsetQuery, FoundOffset>();
    await lookUpOffsets(this.#deps, queries, { timeoutMs, signal }, (query, offset) =>
      found.set(query, offset),
    );
    return queries.map((query) => {
      const answer = found.get(query) ?? { offset: -1, timestamp: -1, leaderEpoch: -1 };
      return { partition: query.partition, ...answer };
    });
  }

  async #call<Request, Response>(
    method: Method<Request, Response, 'unary'>,
    request: Request,
    what: string,
    { timeoutMs = TIMEOUT_MS, signal }: AdminCallOptions,
  ): Promise<Response> {
    const { anyBroker } = this.#deps.metadata;
    return anyBroker.call(method, request, { what, timeoutMs, attemptMs: ATTEMPT_MS, signal });
  }

  /** Undefined: an attempt whose answer was lost has done it. */
  async #change<Request, Response>(
    method: Method<Request, Response, 'unary'>,
    request: Request,
    what: string,
    { timeoutMs = TIMEOUT_MS, signal }: AdminCallOptions,
    doneBefore: ErrorCode,
  ): Promise<Response | undefined> {
    const { anyBroker } = this.#deps.metadata;
    try {
      const options = { what, timeoutMs, attemptMs: ATTEMPT_MS, signal };
      const answer: AnyBrokerAnswer<Response> = await anyBroker.attempt(method, request, options);
      return answer.response;
    } catch (thrown) {
      if (!(thrown instanceof CallFailure)) throw thrown;
      const { error, retriedBlindly } = thrown;
      if (retriedBlindly && error instanceof RpcError && error.code === doneBefore)
        return undefined;
      throw callError(what, error, retriedBlindly && !isDefinite(error));
    }
  }

  /** Waits until this client's own view shows what was done, so that the next call can build on it. */
  async #seen<Value>(
    { signal }: AdminCallOptions,
    look: () => Value | undefined,
    what: string,
  ): Promise<Value> {
    const { metadata, ports } = this.#deps;
    const now = look();
    if (now !== undefined) return now;
    const wait = deferred<Value>();
    const stop = metadata.onChange(() => {
      const value = look();
      if (value !== undefined) wait.resolve(value);
    });
    metadata.refresh();
    const onTimeout = (): ClientError =>
      new ClientError('TIMED_OUT', `${what}: done, but it did not show up in the metadata`);
    const options = { timers: ports.timers, timeoutMs: SEEN_TIMEOUT_MS, onTimeout, signal };
    return bounded(wait, options).finally(stop);
  }
}

/** The broker's last word was about this very call. */
const isDefinite = (error: unknown): boolean =>
  error instanceof RpcError && error.code !== undefined && !ERRORS[error.code].retriable;

const isGone = (view: TopicView | undefined, deletedId: string | undefined): boolean =>
  view === undefined || (deletedId !== undefined && view.topicId !== deletedId);

const replicationFactorOf = (view: TopicView): number => view.partitions[0]?.replicas.length ?? 0;

const configMap = (config: TopicConfig | undefined): ReadonlyMap<string, string> =>
  new Map(Object.entries(config ?? {}).map(([name, value]) => [name, String(value)]));

function wireTime(at: 'earliest' | 'latest' | number): number {
  if (at === 'earliest') return EARLIEST_TIMESTAMP;
  if (at === 'latest') return LATEST_TIMESTAMP;
  if (Number.isSafeInteger(at) && at >= 0) return at;
  throw new ClientError('INVALID_ARGUMENT', `at: ${at} is no time in ms since 1970`);
}

function describedTopic(
  description: TopicDescription,
  topic: NonNullable<TopicDescription['topic']>,
): DescribedTopic {
  const partitions = topic.partitions
    .map(({ partition, leader, leaderEpoch, replicas, isr, elr, offline }) => ({
      partition,
      leader: leader < 0 ? undefined : leader,
      leaderEpoch,
      replicas,
      isr,
      elr,
      offline,
    }))
    .sort((a, b) => a.partition - b.partition);
  const { name, topicId } = topic;
  return { topic: name, topicId, partitions, config: description.config };
}
