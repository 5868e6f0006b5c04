/**
 * The produce stream to one broker, shared by the partitions that it leads. Answers are matched to what
 * they answer by correlation id. When the stream breaks, every partition with something under way on
 * it is told, and it is opened again when it is next used, after a backoff.
 */
import { backoffMs } from '@relevo/base/retry';
import { RpcError } from '@relevo/base/ports';
import type { MessageStream, TimerHandle } from '@relevo/base/ports';
import { ProduceService } from '@relevo/rpc/gen/client/produce';
import type { ProduceRequest, ProduceResponse } from '@relevo/rpc/gen/client/produce';
import type { ClientPorts } from '../client-ports.ts';
import { RECONNECT_RETRY } from '../connections.ts';
import type { Connections } from '../connections.ts';
import { deferred } from '../waiting.ts';
import type { ProducerBatch } from './producer-batch.ts';

/** From here on an answer is late: meanwhile others are asked who leads, ms. */
const LATE_MS = 1_000;
/** The broker's own time-out comes first: it knows more. */
const GRACE_MS = 1_000;
/** How long the broker has to take the last of what it does not answer. */
const FAREWELL_MS = 500;

/** Who sends on the channel: a partition's writer. */
export interface ChannelUser {
  onAnswer(sent: SentBatch, answer: ProduceResponse): void;
  onBroken(sent: SentBatch): void;
  /** The channel may take something again. */
  onChannelReady(): void;
}

/** One sending of a batch. */
export interface SentBatch {
  readonly user: ChannelUser;
  readonly batch: ProducerBatch;
  /** Of the user, when it was sent: an answer to an older one is ignored. */
  readonly generation: number;
  readonly sentMs: number;
}

export interface ChannelOptions {
  readonly requestTimeoutMs: number;
  /** With acks "none" nothing is answered. */
  readonly answered: boolean;
  /** The broker cannot be reached again and again, or answers late: it may lead nothing any more. */
  readonly onTrouble: () => void;
}

export class ProduceChannel {
  readonly address: string;
  readonly #ports: ClientPorts;
  readonly #connections: Connections;
  readonly #options: ChannelOptions;
  readonly #sent = new Map<number, SentBatch>();
  readonly #waiting = new Set<ChannelUser>();
  #stream: MessageStream<ProduceRequest> | undefined;
  #nextCorrelationId = 1;
  #isFull = false;
  #reopenTimer: TimerHandle | undefined;
  #watchdog: TimerHandle | undefined;
  #failedInARow = 0;
  #closed = false;
  /** The stream, after we closed it. */
  readonly #ended = deferred<void>();

  constructor(
    address: string,
    ports: ClientPorts,
    connections: Connections,
    options: ChannelOptions,
  ) {
    this.address = address;
    this.#ports = ports;
    this.#connections = connections;
    this.#options = options;
  }

  /** False: not now; `onChannelReady` will be called. */
  accepts(user: ChannelUser): boolean {
    if (this.#closed) return false;
    if (!this.#isFull && this.#reopenTimer === undefined) return true;
    this.#waiting.add(user);
    return false;
  }

  /** The broker is known to be back: it is dialled without waiting any longer. */
  hurry(): void {
    if (this.#reopenTimer === undefined) return;
    this.#reopenTimer.cancel();
    this.#reopenTimer = undefined;
    this.#wake();
  }

  /** To be called after `accepts` only. */
  send(sent: Omit<SentBatch, 'sentMs'>, request: Omit<ProduceRequest, 'correlationId'>): void {
    const stream = this.#stream ?? this.#open();
    const correlationId = this.#nextCorrelationId++;
    if (this.#options.answered) {
      this.#sent.set(correlationId, { ...sent, sentMs: this.#ports.clock.monotonicMs() });
      this.#watchdog ??= this.#watchFor(LATE_MS);
    }
    if (!stream.send({ ...request, correlationId })) this.#isFull = true;
  }

  /** Resolves when what needs no answer has been passed on, or will not be soon. */
  async close(): Promise<void> {
    this.#closed = true;
    this.#reopenTimer?.cancel();
    this.#watchdog?.cancel();
    this.#sent.clear();
    this.#waiting.clear();
    const stream = this.#stream;
    this.#stream = undefined;
    stream?.end();
    if (stream === undefined || this.#options.answered) return;
    const timer = this.#ports.timers.after(FAREWELL_MS, () => this.#ended.resolve());
    await this.#ended.promise;
    timer.cancel();
  }

  #open(): MessageStream<ProduceRequest> {
    const channel = this.#connections.channel(this.address);
    const stream: MessageStream<ProduceRequest> = channel.open(ProduceService.stream, {
      onMessage: (answer) => {
        if (this.#stream === stream) this.#onAnswer(answer);
      },
      onDrain: () => {
        if (this.#stream !== stream) return;
        this.#isFull = false;
        this.#wake();
      },
      onEnd: (error) => {
        if (this.#stream === stream) this.#onEnd(error);
        else if (this.#closed) this.#ended.resolve();
      },
    });
    this.#stream = stream;
    return stream;
  }

  #onAnswer(answer: ProduceResponse): void {
    this.#failedInARow = 0;
    const sent = this.#sent.get(answer.correlationId);
    if (sent === undefined) return;
    this.#sent.delete(answer.correlationId);
    sent.user.onAnswer(sent, answer);
  }

  #onEnd(error: RpcError | undefined): void {
    const { logger, random, timers } = this.#ports;
    const { address } = this;
    logger.debug('produce stream ended', { address, error: error?.message, sent: this.#sent.size });
    const broken = [...this.#sent.values()];
    this.#sent.clear();
    this.#stream = undefined;
    this.#isFull = false;
    this.#watchdog?.cancel();
    this.#watchdog = undefined;
    // A stream may end for no lasting reason, so the first attempt to open it anew is made at once.
    const attempt = this.#failedInARow++;
    const waitMs = attempt === 0 ? 0 : backoffMs(RECONNECT_RETRY, attempt - 1, random);
    this.#reopenTimer = timers.after(waitMs, () => {
      this.#reopenTimer = undefined;
      this.#wake();
    });
    if (attempt > 0) this.#options.onTrouble();
    for (const sent of broken) sent.user.onBroken(sent);
  }

  #wake(): void {
    const waiting = [...this.#waiting];
    this.#waiting.clear();
    for (const user of waiting) user.onChannelReady();
  }

  #watchFor(ms: number): TimerHandle {
    return this.#ports.timers.after(ms, () => {
      this.#watchdog = undefined;
      const [oldest] = this.#sent.values();
      if (oldest === undefined) return;
      const limitMs = this.#options.requestTimeoutMs + GRACE_MS;
      const ageMs = this.#ports.clock.monotonicMs() - oldest.sentMs;
      if (ageMs < limitMs) {
        // A leader that is cut off keeps what it is sent, and says nothing.
        if (ageMs >= LATE_MS) this.#options.onTrouble();
        this.#watchdog = this.#watchFor(Math.min(LATE_MS, limitMs - ageMs));
        return;
      }
      const error = new RpcError('DEADLINE_EXCEEDED', `no answer for ${Math.round(ageMs)} ms`);
      this.#stream?.cancel(error);
      if (this.#stream !== undefined) this.#onEnd(error);
    });
  }
}
