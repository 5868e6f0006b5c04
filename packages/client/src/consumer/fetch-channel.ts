/**
 * The fetch stream to one broker. A partition is in at most one request at a time; partitions that are
 * ready to be fetched together share one. A request that is held back for want of records does not
 * hold back others: each partition's next request goes out as soon as there is room for its answer.
 */
import { DEFAULT_RETRY, backoffMs } from '@relevo/base/retry';
import { RpcError } from '@relevo/base/ports';
import type { MessageStream, TimerHandle } from '@relevo/base/ports';
import { FetchService } from '@relevo/rpc/gen/client/fetch';
import type { FetchRequest, FetchResponse } from '@relevo/rpc/gen/client/fetch';
import type { ClientPorts } from '../client-ports.ts';
import type { Connections } from '../connections.ts';
import type { PartitionReader } from './partition-reader.ts';

/** Beyond what the broker may hold an answer back, ms. */
const GRACE_MS = 5_000;

export interface SentFetch {
  readonly readers: readonly { readonly reader: PartitionReader; readonly generation: number }[];
  readonly sentMs: number;
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

  /** Requests that have not been answered. */
  get requestCount(): number {
    return this.#sent.size;
  }

  send(sent: SentFetch, request: Omit<FetchRequest, 'correlationId'>): void {
    const stream = this.#stream ?? this.#open();
    const correlationId = this.#nextCorrelationId++;
    this.#sent.set(correlationId, sent);
    stream.send({ ...request, correlationId });
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
    const waitMs = attempt === 0 ? 0 : backoffMs(DEFAULT_RETRY, attempt - 1, random);
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
