/**
 * Hands out producer ids from a block that the controller has given to this broker. A block is asked for
 * when the last one is used up; those who come meanwhile wait for the same answer. Ids of a block that a
 * stopping broker has left over are lost, never used twice (I3).
 *
 * An id is given to one caller, once, whatever anybody says (I0): no broker could tell its holder from
 * somebody who guesses it. So nobody is given the next epoch of an id either; a holder counts it up
 * by itself, as Kafka's producers without a transactional id do (KIP-360), and the partitions fence what
 * comes under an earlier one.
 */
import { RelevoError } from '@relevo/base/errors';
import { isMutated } from '@relevo/base/mutations';
import type { ClusterImage } from '@relevo/controller/image';
import { FIRST_PRODUCER_ID, isProducerIdIssued } from '@relevo/controller/producer-id-commands';
import { initProducerIdResponse } from '@relevo/rpc/gen/client/produce';
import type { InitProducerIdRequest, InitProducerIdResponse } from '@relevo/rpc/gen/client/produce';

export interface ProducerIdBlock {
  readonly first: number;
  readonly count: number;
}

export interface ProducerIdsDeps {
  readonly allocate: () => Promise<ProducerIdBlock>;
  readonly image: () => ClusterImage;
}

export class ProducerIds {
  readonly #deps: ProducerIdsDeps;
  #next = 0;
  #end = 0;
  #asking: Promise<void> | undefined;

  constructor(deps: ProducerIdsDeps) {
    this.#deps = deps;
  }

  /** A new id under epoch 0. Rejects with a RelevoError a request that names an id or an epoch. */
  async init(request: InitProducerIdRequest): Promise<InitProducerIdResponse> {
    const { producerId: id = -1, producerEpoch: epoch = -1 } = request;
    if (id !== -1) throw this.#refusal(id);
    if (epoch !== -1) {
      const message = `producer epoch ${epoch} without an id: send neither for a new producer id`;
      throw new RelevoError('INVALID_REQUEST', message);
    }
    return initProducerIdResponse({ producerId: await this.take(), producerEpoch: 0 });
  }

  /** An id that nobody else has. */
  async take(): Promise<number> {
    while (this.#next >= this.#end) {
      this.#asking ??= this.#refill().finally(() => {
        this.#asking = undefined;
      });
      await this.#asking;
    }
    return isMutated('producer-id-given-twice') ? this.#next : this.#next++;
  }

  async #refill(): Promise<void> {
    const { first, count } = await this.#deps.allocate();
    this.#next = Math.max(first, FIRST_PRODUCER_ID);
    this.#end = first + count;
  }

  #refusal(id: number): RelevoError {
    if (!isProducerIdIssued(this.#deps.image(), id)) {
      const message = `producer id ${id} has not been given to anybody: send none for a new one`;
      return new RelevoError('UNKNOWN_PRODUCER_ID', message);
    }
    const message =
      `producer id ${id} is taken, and is given to nobody again: its holder goes on under the next ` +
      'epoch by itself (sequences begin at 0); send no id for a new one';
    return new RelevoError('INVALID_PRODUCER_EPOCH', message);
  }
}
