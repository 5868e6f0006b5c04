/**
 * Keeps the client's view of the cluster fresh.
 *
 * One broker at a time is watched. It tells of each change as it learns of it, and says something at
 * least every 500 ms; when nothing is heard for a second, or the stream breaks, another broker is
 * watched. Errors that name a new leader, and answers to GetMetadata, go into the same view.
 *
 *   picking --subscribe--> watching --end | silence--> picking (next broker; backoff after a full round)
 *
 * The watched broker may be cut off from the controllers and not know it. So whoever meets errors asks
 * for a `refresh` from another one; when that keeps being ahead, it is watched instead.
 */
import { backoffMs } from '@relevo/base/retry';
import { errorCodeOf, messageOf } from '@relevo/base/errors';
import { nearest } from '@relevo/base/nearest';
import { RpcError } from '@relevo/base/ports';
import type { MessageStream, TimerHandle } from '@relevo/base/ports';
import { MetadataService } from '@relevo/rpc/gen/client/metadata';
import type { MetadataUpdate } from '@relevo/rpc/gen/client/metadata';
import type { CurrentLeader } from '@relevo/rpc/gen/common/errors';
import { AnyBroker } from './any-broker.ts';
import type { ClientPorts } from './client-ports.ts';
import { ClusterView } from './cluster-view.ts';
import type { PartitionView, TopicView, ViewChange } from './cluster-view.ts';
import { RECONNECT_RETRY } from './connections.ts';
import type { Connections } from './connections.ts';
import { ClientError, abortedError, closedError } from './errors.ts';
import { bounded, deferred, sleep } from './waiting.ts';
import type { Deferred } from './waiting.ts';

/** Twice the interval at which a watched broker speaks. */
const SILENCE_MS = 1_000;
/** When this process itself stood still, what came meanwhile is read within so long. */
const SECOND_LOOK_MS = 50;
/** At least so long between two refreshes that were asked for. */
const REFRESH_INTERVAL_MS = 100;
const REFRESH_TIMEOUT_MS = 2_000;
/** How long a topic that nobody knows may take to become known: brokers learn of it at different times. */
const UNKNOWN_TOPIC_MS = 1_500;
const UNKNOWN_TOPIC_RETRY_MS = 50;

export type ViewListener = (change: ViewChange) => void;

export interface WaitForTopic {
  readonly timeoutMs: number;
  readonly signal?: AbortSignal | undefined;
}

export class Metadata {
  readonly view: ClusterView = new ClusterView();
  readonly anyBroker: AnyBroker;
  readonly #ports: ClientPorts;
  readonly #connections: Connections;
  readonly #bootstrap: readonly string[];
  readonly #listeners = new Set<ViewListener>();
  readonly #failures = new Map<string, string>();
  #ready: Deferred<void> = deferred();
  #watch: Watch | undefined;
  #retryTimer: TimerHandle | undefined;
  #failedInARow = 0;
  #nextCandidate: number;
  #lastRefreshMs = -Infinity;
  #refreshing = false;
  /** What another broker told, when the watched one was behind it. */
  #aheadVersion: number | undefined;
  #closed = false;

  constructor(ports: ClientPorts, connections: Connections, bootstrap: readonly string[]) {
    this.#ports = ports;
    this.#connections = connections;
    this.#bootstrap = bootstrap;
    this.anyBroker = new AnyBroker(ports, connections, () => this.#candidates());
    this.#nextCandidate = Math.floor(ports.random.float() * 1024);
    this.#ready.promise.catch(() => undefined);
  }

  /** Begins to watch; resolves with the first picture of the cluster. */
  start(timeoutMs: number, signal?: AbortSignal): Promise<void> {
    this.#watchNext();
    const { timers } = this.#ports;
    const onTimeout = (): ClientError => this.#unreachable(timeoutMs);
    return bounded(this.#ready, { timers, timeoutMs, onTimeout, signal });
  }

  close(): void {
    this.#closed = true;
    this.anyBroker.close();
    this.#retryTimer?.cancel();
    this.#watch?.cancel();
    this.#listeners.clear();
  }

  /** Calls `listener` after each change of the view; returns how to stop that. */
  onChange(listener: ViewListener): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /** The address of the partition's leader, when there is one that can be reached. */
  leaderAddress(partition: PartitionView): string | undefined {
    return partition.leader < 0 ? undefined : this.view.addressOf(partition.leader);
  }

  applyHint(topicId: string, partition: number, hint: CurrentLeader | undefined): void {
    if (hint !== undefined) this.#publish(this.view.applyHint(topicId, partition, hint));
  }

  /** Asks a broker other than the watched one soon; many requests within a short time are one. */
  refresh(): void {
    const now = this.#ports.clock.monotonicMs();
    if (this.#closed || this.#refreshing || now - this.#lastRefreshMs < REFRESH_INTERVAL_MS) return;
    this.#lastRefreshMs = now;
    this.#refreshing = true;
    const avoid = this.#watch?.address;
    const options = { what: 'refreshing the metadata', timeoutMs: REFRESH_TIMEOUT_MS, avoid };
    this.anyBroker
      .call(MetadataService.getMetadata, { topics: [] }, options)
      .then((metadata) => {
        if (this.#closed) return;
        this.#leaveWatchBehind(metadata.version);
        this.#publish(this.view.applyMetadata(metadata, true));
      })
      .catch((error: unknown) => {
        this.#ports.logger.debug('metadata refresh failed', { error: messageOf(error) });
      })
      .finally(() => {
        this.#refreshing = false;
      });
  }

  /**
   * The topic, waiting for it to become known. Rejects with UNKNOWN_TOPIC_OR_PARTITION when brokers
   * say for a while that there is none.
   */
  async waitForTopic(name: string, options: WaitForTopic): Promise<TopicView> {
    const known = this.view.topic(name);
    if (known !== undefined) return known;
    const { clock, timers } = this.#ports;
    const startMs = clock.monotonicMs();
    const giveUpMs = startMs + Math.min(options.timeoutMs, UNKNOWN_TOPIC_MS);
    for (;;) {
      const left = startMs + options.timeoutMs - clock.monotonicMs();
      const metadata = await this.anyBroker.call(
        MetadataService.getMetadata,
        { topics: [name] },
        {
          what: `looking up topic "${name}"`,
          timeoutMs: Math.max(1, left),
          signal: options.signal,
        },
      );
      if (this.#closed) throw closedError('the client');
      this.#publish(this.view.applyMetadata(metadata, false));
      const found = this.view.topic(name);
      if (found !== undefined) return found;
      // A broker that is out of touch with the controllers cannot say that there is none.
      const told = metadata.topics.find((topic) => topic.name === name);
      const isSure = told === undefined || errorCodeOf(told.error) !== 'LEADER_NOT_AVAILABLE';
      const nowMs = clock.monotonicMs();
      if (isSure && nowMs >= giveUpMs) throw this.unknownTopic(name);
      if (nowMs >= startMs + options.timeoutMs) {
        const message = `no broker could say within ${options.timeoutMs} ms whether there is a topic "${name}"`;
        throw new ClientError('TIMED_OUT', message);
      }
      await sleep(timers, UNKNOWN_TOPIC_RETRY_MS, options.signal);
    }
  }

  /** Waits until the view changes, or `ms` have passed. Rejects with ABORTED. */
  async nextChange(ms: number, signal?: AbortSignal): Promise<void> {
    const { timers } = this.#ports;
    const change = deferred<void>();
    const timer = timers.after(ms, () => change.resolve());
    const stop = this.onChange(() => change.resolve());
    const abort = (): void => change.reject(abortedError('the wait', { cause: signal?.reason }));
    if (signal?.aborted === true) abort();
    signal?.addEventListener('abort', abort, { once: true });
    try {
      await change.promise;
    } finally {
      timer.cancel();
      stop();
      signal?.removeEventListener('abort', abort);
    }
  }

  unknownTopic(name: string): ClientError {
    const near = nearest(
      name,
      this.view.topics().map((topic) => topic.name),
    );
    return new ClientError(
      'UNKNOWN_TOPIC_OR_PARTITION',
      `topic "${name}" does not exist${near === undefined ? '' : ` (known: "${near}")`}; create it ` +
        `with admin.createTopic or \`relevo topic create\``,
    );
  }

  /** Unfenced brokers first, then those given at the start. */
  #candidates(): readonly string[] {
    const addresses = new Set<string>();
    for (const broker of this.view.brokers()) if (!broker.fenced) addresses.add(broker.address);
    for (const address of this.#bootstrap) addresses.add(address);
    return [...addresses];
  }

  #watchNext(): void {
    if (this.#closed) return;
    const candidates = this.#candidates();
    const last = this.#watch?.address;
    const others = candidates.filter((address) => address !== last);
    const choice = others.length > 0 ? others : candidates;
    const address = choice[this.#nextCandidate++ % choice.length];
    if (address === undefined) throw new ClientError('NO_BROKER', 'no broker is given');
    this.#watch = new Watch(this.#ports, this.#connections, address, {
      onUpdate: (update) => this.#onUpdate(address, update),
      onEnd: (reason) => this.#onWatchEnd(address, reason),
    });
  }

  #onUpdate(address: string, update: MetadataUpdate): void {
    const known = this.view.clusterId;
    if (known !== '' && update.clusterId !== '' && update.clusterId !== known) {
      const reason = `it belongs to another cluster (${update.clusterId}, not ${known})`;
      this.#ports.logger.error('broker of another cluster', { address, reason });
      this.#watch?.cancel(reason);
      return;
    }
    this.#failedInARow = 0;
    this.#failures.delete(address);
    this.#publish(this.view.apply(update));
    if (update.full) this.#ready.resolve();
  }

  #onWatchEnd(address: string, reason: string): void {
    if (this.#closed) return;
    this.#failures.set(address, reason);
    this.#failedInARow++;
    this.#ports.logger.debug('metadata watch ended', { address, reason });
    const rounds = Math.floor(this.#failedInARow / Math.max(1, this.#candidates().length));
    const waitMs = rounds === 0 ? 0 : backoffMs(RECONNECT_RETRY, rounds - 1, this.#ports.random);
    this.#retryTimer = this.#ports.timers.after(waitMs, () => this.#watchNext());
  }

  /** Moves the watch when another broker was ahead of it at two refreshes, with no progress between. */
  #leaveWatchBehind(version: number): void {
    const watched = this.#watch?.version ?? 0;
    if (this.#aheadVersion !== undefined && watched < this.#aheadVersion) {
      this.#aheadVersion = undefined;
      this.#watch?.cancel('it is behind the other brokers');
      return;
    }
    this.#aheadVersion = version > watched ? version : undefined;
  }

  #publish(change: ViewChange): void {
    const { partitions, inSync, topics, deleted, brokersChanged } = change;
    if (brokersChanged) {
      const addresses = this.view.brokers().map((broker) => broker.address);
      this.#connections.keepOnly(new Set([...addresses, ...this.#bootstrap]));
    }
    const count = partitions.length + inSync.length + topics.length + deleted.length;
    if (count === 0 && !brokersChanged) return;
    for (const listener of [...this.#listeners]) listener(change);
  }

  #unreachable(timeoutMs: number): ClientError {
    const tried = this.#bootstrap.map(
      (address) => `${address}: ${this.#failures.get(address) ?? 'no answer'}`,
    );
    return new ClientError(
      'NO_BROKER',
      `no broker answered within ${timeoutMs} ms (${tried.join('; ')}); is the cluster running, and ` +
        `are these the addresses of its gRPC ports?`,
    );
  }
}

interface WatchEvents {
  onUpdate(update: MetadataUpdate): void;
  /** Called once, last. */
  onEnd(reason: string): void;
}

/** The watch of one broker, with its liveness. */
class Watch {
  readonly address: string;
  /** The last that this broker told. */
  version = 0;
  readonly #ports: ClientPorts;
  readonly #events: WatchEvents;
  readonly #stream: MessageStream<never>;
  #timer: TimerHandle;
  #lastHeardMs: number;
  #ended = false;

  constructor(ports: ClientPorts, connections: Connections, address: string, events: WatchEvents) {
    this.address = address;
    this.#ports = ports;
    this.#events = events;
    this.#lastHeardMs = ports.clock.monotonicMs();
    this.#timer = ports.timers.after(SILENCE_MS, () => this.#checkSilence());
    this.#stream = connections.channel(address).subscribe(
      MetadataService.watchMetadata,
      { topics: [] },
      {
        onMessage: (update) => this.#onMessage(update),
        onEnd: (error) => this.#finish(error?.message ?? 'it ended the stream'),
      },
    );
  }

  cancel(reason = 'closed'): void {
    if (this.#ended) return;
    this.#stream.cancel(new RpcError('CANCELLED', reason));
    this.#finish(reason);
  }

  #onMessage(update: MetadataUpdate): void {
    if (this.#ended) return;
    this.#lastHeardMs = this.#ports.clock.monotonicMs();
    this.version = update.version;
    this.#events.onUpdate(update);
  }

  #checkSilence(): void {
    if (this.#ended) return;
    const silentMs = this.#ports.clock.monotonicMs() - this.#lastHeardMs;
    if (silentMs >= SILENCE_MS + SECOND_LOOK_MS) {
      this.cancel(`nothing was heard for ${SILENCE_MS} ms`);
      return;
    }
    const waitMs = silentMs >= SILENCE_MS ? SECOND_LOOK_MS : SILENCE_MS - silentMs;
    this.#timer = this.#ports.timers.after(waitMs, () => this.#checkSilence());
  }

  #finish(reason: string): void {
    if (this.#ended) return;
    this.#ended = true;
    this.#timer.cancel();
    this.#events.onEnd(reason);
  }
}
