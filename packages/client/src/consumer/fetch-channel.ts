/**
 * The fetch stream to one broker. A partition is in at most one request at a time; partitions that are
 * ready to be fetched together share one. A request that is held back for want of records does not
 * hold back others: each partition's next request goes out as soon as there is room for its answer.
 * So one request splits into several where some partitions are busy; their waits are chosen so that
 * they become one again when it is quiet.
 */
import { backoffMs } from '@relevo/base/retry';
import { RpcError } from '@relevo/base/ports';
import type { MessageStream, TimerHandle } from '@relevo/base/ports';
import { FetchService } from '@relevo/rpc/gen/client/fetch';
import type { FetchRequest, FetchResponse } from '@relevo/rpc/gen/client/fetch';
import type { ClientPorts } from '../client-ports.ts';
import { RECONNECT_RETRY } from '../connections.ts';
import type { Connections } from '../connections.ts';
import type { PartitionReader } from './partition-reader.ts';

/** Beyond what the broker may hold an answer back, ms. */
const GRACE_MS = 5_000;
/** Requests under way on a stream: one less than a broker takes from it at a time. */
const REQUESTS_MAX = 15;
/** From here on requests wait briefly only. */
const LONG_REQUESTS_MAX = 4;
const BRIEF_WAIT_MS = 25;

export interface SentFetch {
  readonly readers: readonly { readonly reader: PartitionReader; readonly generation: number }[];
  readonly sentMs: number;
  /** How long the broker may hold the answer back. */
  readonly maxWaitMs: number;
}

export interface FetchChannelEvents {
  onAnswer(sent: SentFetch, response: FetchResponse): void;
  onBroken(sent: readonly SentFetch[], failedInARow: number): void;
  /** May be used again after `isReady` was false. */
  onReady(): void;
}

export class FetchChannel {
  readonly address: string;
  readonly #ports: ClientPorts;
  readonly #connections: Connections;
  readonly #events: FetchChannelEvents;
  readonly #maxWaitMs: number;
  readonly #sent = new Map<number, SentFetch>();
  #stream: MessageStream<FetchRequest> | undefined;
  #nextCorrelationId = 1;
  #reopenTimer: TimerHandle | undefined;
  #watchdog: TimerHandle | undefined;
  #failedInARow = 0;

  constructor(
    address: string,
    deps: { readonly ports: ClientPorts; readonly connections: Connections },
    options: { readonly maxWaitMs: number },
    events: FetchChannelEvents,
  ) {
    this.address = address;
    this.#ports = deps.ports;
    this.#connections = deps.connections;
    this.#maxWaitMs = options.maxWaitMs;
    this.#events = events;
  }

  /** False during the backoff after a failure. */
  get isReady(): boolean {
    return this.#reopenTimer === undefined;
  }

  /** The broker is known to be back: it may be dialled without waiting any longer. */
  hurry(): void {
    this.#reopenTimer?.cancel();
    this.#reopenTimer = undefined;
  }

  /** Requests that have not been answered. */
  get requestCount(): number {
    return this.#sent.size;
  }

  /**
   * How long the next request may be held back: so long that it ends together with the oldest, and
   * their partitions can share the one after. While there are many, less: they are to become fewer.
   * Undefined: there are as many as the broker reads at a time; an answer must come first.
   */
  nextWaitMs(): number | undefined {
    const [oldest] = this.#sent.values();
    if (oldest === undefined) return this.#maxWaitMs;
    if (this.#sent.size >= REQUESTS_MAX) return undefined;
    const brief = Math.min(BRIEF_WAIT_MS, this.#maxWaitMs);
    if (this.#sent.size >= LONG_REQUESTS_MAX) return brief;
    const endMs = oldest.sentMs + oldest.maxWaitMs;
    return Math.max(brief, Math.floor(endMs - this.#ports.clock.monotonicMs()));
  }

  send(sent: SentFetch, request: Omit<FetchRequest, 'correlationId' | 'maxWaitMs'>): void {
    const stream = this.#stream ?? this.#open();
    const correlationId = this.#nextCorrelationId++;
    this.#sent.set(correlationId, sent);
    stream.send({ ...request, correlationId, maxWaitMs: sent.maxWaitMs });
    this.#watchdog ??= this.#watchFor(this.#maxWaitMs + GRACE_MS);
  }

  close(): void {
    this.#reopenTimer?.cancel();
    this.#watchdog?.cancel();
    this.#sent.clear();
    const stream = this.#stream;
    this.#stream = undefined;
    stream?.cancel(new RpcError('CANCELLED', 'the consumer was closed'));
  }

  #open(): MessageStream<FetchRequest> {
    const channel = this.#connections.channel(this.address);
    const stream: MessageStream<FetchRequest> = channel.open(FetchService.stream, {
      onMessage: (response) => {
        if (this.#stream === stream) this.#onAnswer(response);
      },
      onEnd: (error) => {
        if (this.#stream === stream) this.#onEnd(error);
      },
    });
    this.#stream = stream;
    return stream;
  }

  #onAnswer(response: FetchResponse): void {
    this.#failedInARow = 0;
    const sent = this.#sent.get(response.correlationId);
    if (sent === undefined) return;
    this.#sent.delete(response.correlationId);
    this.#events.onAnswer(sent, response);
  }

  #onEnd(error: RpcError | undefined): void {
    const { logger, random, timers } = this.#ports;
    logger.debug('fetch stream ended', { address: this.address, error: error?.message });
    const broken = [...this.#sent.values()];
    this.#sent.clear();
    this.#stream = undefined;
    this.#watchdog?.cancel();
    this.#watchdog = undefined;
    // A stream may end for no lasting reason, so the first attempt to open it anew is made at once.
    const attempt = this.#failedInARow++;
    const waitMs = attempt === 0 ? 0 : backoffMs(RECONNECT_RETRY, attempt - 1, random);
    this.#reopenTimer = timers.after(waitMs, () => {
      this.#reopenTimer = undefined;
      this.#events.onReady();
    });
    this.#events.onBroken(broken, this.#failedInARow);
  }

  #watchFor(ms: number): TimerHandle {
    return this.#ports.timers.after(ms, () => {
      this.#watchdog = undefined;
      const [oldest] = this.#sent.values();
      if (oldest === undefined) return;
      const limitMs = this.#maxWaitMs + GRACE_MS;
      const ageMs = this.#ports.clock.monotonicMs() - oldest.sentMs;
      if (ageMs < limitMs) {
        this.#watchdog = this.#watchFor(limitMs - ageMs);
        return;
      }
      const error = new RpcError('DEADLINE_EXCEEDED', `no answer for ${Math.round(ageMs)} ms`);
      this.#stream?.cancel(error);
      if (this.#stream !== undefined) this.#onEnd(error);
    });
  }
}
