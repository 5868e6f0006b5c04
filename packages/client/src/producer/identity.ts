/**
 * The producer's id and epoch. The id is asked for once, before the first batch. When a partition lost
 * count of its sequence, the producer goes on under the next epoch of its id (KIP-360): what is still on
 * its way under the last one is refused from then on. The id is its own, so it counts the epoch up by
 * itself; where that cannot be it asks for another id.
 */
import type { ProducerEpoch, ProducerId } from '@relevo/base/ids';
import { producerEpoch, producerId } from '@relevo/base/ids';
import type { Logger } from '@relevo/base/ports';
import { ProduceService, initProducerIdRequest } from '@relevo/rpc/gen/client/produce';
import type { AnyBroker } from '../any-broker.ts';
import { callError } from '../errors.ts';
import type { ClientError } from '../errors.ts';

/** Batches wait for it: a broker that hangs is not waited for. */
const ATTEMPT_MS = 1_000;
const EPOCH_MAX = 32_767;

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

  /**
   * Gets another identity than `stale`, unless there is one already: the next epoch, or another id where
   * somebody else has used this one (`isTaken`).
   */
  renew(stale: ProducerIdentity, isTaken: boolean): void {
    if (this.#current === stale) void this.#ask(stale, isTaken);
  }

  close(): void {
    this.#closed = true;
    this.#abort.abort();
  }

  async #ask(stale: ProducerIdentity | undefined, isTaken = false): Promise<void> {
    if (this.#asking || this.#closed) return;
    this.#asking = true;
    try {
      // Awaited in any case: `onReady` is not called from within `renew`.
      this.#current = await (stale === undefined || isTaken || stale.producerEpoch >= EPOCH_MAX
        ? this.#init()
        : Promise.resolve(nextEpochOf(stale)));
    } catch (error) {
      if (!this.#closed) this.#events.onFailed(callError('getting a producer id', error));
      return;
    } finally {
      this.#asking = false;
    }
    if (this.#closed) return;
    if (stale !== undefined) this.#logger.info('producer goes on anew', { ...this.#current });
    this.#events.onReady();
  }

  async #init(): Promise<ProducerIdentity> {
    const options = {
      what: 'getting a producer id',
      timeoutMs: this.#timeoutMs,
      attemptMs: ATTEMPT_MS,
      signal: this.#abort.signal,
    };
    const { initProducerId } = ProduceService;
    const made = await this.#anyBroker.call(initProducerId, initProducerIdRequest(), options);
    return {
      producerId: producerId(made.producerId),
      producerEpoch: producerEpoch(made.producerEpoch),
    };
  }
}

const nextEpochOf = (stale: ProducerIdentity): ProducerIdentity => ({
  producerId: stale.producerId,
  producerEpoch: producerEpoch(stale.producerEpoch + 1),
});
