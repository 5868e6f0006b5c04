/**
 * The producer's id and epoch. Asked for once, before the first batch; asked for anew (the epoch grows)
 * when a partition lost count of its sequence.
 */
import type { ProducerEpoch, ProducerId } from '@relevo/base/ids';
import { producerEpoch, producerId } from '@relevo/base/ids';
import type { Logger } from '@relevo/base/ports';
import { ProduceService } from '@relevo/rpc/gen/client/produce';
import type { AnyBroker } from '../any-broker.ts';
import { CallFailure } from '../any-broker.ts';
import { callError } from '../errors.ts';
import type { ClientError } from '../errors.ts';

/** Batches wait for it: a broker that hangs is not waited for. */
const ATTEMPT_MS = 1_000;

export interface ProducerIdentity {
  readonly producerId: ProducerId;
  readonly producerEpoch: ProducerEpoch;
}

export interface IdentityEvents {
  /** There is another `current` than before. */
  onReady(): void;
  /** None will be had. */
  onFailed(error: ClientError): void;
}

export class IdentitySource {
  readonly #anyBroker: AnyBroker;
  readonly #logger: Logger;
  readonly #events: IdentityEvents;
  readonly #timeoutMs: number;
  #current: ProducerIdentity | undefined;
  #asking = false;
  #closed = false;
  readonly #abort = new AbortController();

  constructor(
    anyBroker: AnyBroker,
    logger: Logger,
    options: { readonly timeoutMs: number },
    events: IdentityEvents,
  ) {
    this.#anyBroker = anyBroker;
    this.#logger = logger;
    this.#timeoutMs = options.timeoutMs;
    this.#events = events;
  }

  /** Undefined until there is one: then `onReady` tells. */
  get(): ProducerIdentity | undefined {
    if (this.#current === undefined) void this.#ask(undefined);
    return this.#current;
  }

  /** Asks for a later epoch than `stale`, unless there is one already. */
  renew(stale: ProducerIdentity): void {
    if (this.#current === stale) void this.#ask(stale);
  }

  close(): void {
    this.#closed = true;
    this.#abort.abort();
  }

  async #ask(stale: ProducerIdentity | undefined): Promise<void> {
    if (this.#asking || this.#closed) return;
    this.#asking = true;
    try {
      this.#current = await this.#init(stale);
    } catch (error) {
      if (!this.#closed) this.#events.onFailed(callError('getting a producer id', error));
      return;
    } finally {
      this.#asking = false;
    }
    if (this.#closed) return;
    if (stale !== undefined) this.#logger.info('producer epoch bumped', { ...this.#current });
    this.#events.onReady();
  }

  async #init(stale: ProducerIdentity | undefined): Promise<ProducerIdentity> {
    const options = {
      what: 'getting a producer id',
      timeoutMs: this.#timeoutMs,
      attemptMs: ATTEMPT_MS,
      signal: this.#abort.signal,
    };
    const request = {
      producerId: stale?.producerId ?? -1,
      producerEpoch: stale?.producerEpoch ?? -1,
    };
    try {
      const { initProducerId } = ProduceService;
      const { response } = await this.#anyBroker.attempt(initProducerId, request, options);
      return {
        producerId: producerId(response.producerId),
        producerEpoch: producerEpoch(response.producerEpoch),
      };
    } catch (thrown) {
      if (!(thrown instanceof CallFailure)) throw thrown;
      const failure = callError(options.what, thrown.error);
      if (stale !== undefined && LOST_IDENTITY.has(failure.code)) return this.#init(undefined);
      throw failure;
    }
  }
}

/** The id cannot be carried on, a new one can be had: an earlier bump's answer was lost, or it expired. */
const LOST_IDENTITY: ReadonlySet<string> = new Set([
  'INVALID_PRODUCER_EPOCH',
  'UNKNOWN_PRODUCER_ID',
]);
