/**
 * Hands out producer ids from a block that the controller has given to this broker. A block is asked for
 * when the last one is used up; those who come meanwhile wait for the same answer. Ids of a block that a
 * stopping broker has left over are lost, never used twice (I3).
 */
import { RelevoError } from '@relevo/base/errors';
import { initProducerIdResponse } from '@relevo/rpc/gen/client/produce';
import type { InitProducerIdRequest, InitProducerIdResponse } from '@relevo/rpc/gen/client/produce';

export interface ProducerIdBlock {
  readonly first: number;
  readonly count: number;
}

/** From there on an id is replaced by a new one, as Kafka does. */
const PRODUCER_EPOCH_MAX = 32_767;

export class ProducerIds {
  readonly #allocate: () => Promise<ProducerIdBlock>;
  #next = 0;
  #end = 0;
  #asking: Promise<void> | undefined;

  constructor(allocate: () => Promise<ProducerIdBlock>) {
    this.#allocate = allocate;
  }

  /** A new id under epoch 0, or the id that the caller has under the next epoch. */
  async init(request: InitProducerIdRequest): Promise<InitProducerIdResponse> {
    const { producerId, producerEpoch } = request;
    if (producerId < 0 !== producerEpoch < 0) {
      throw new RelevoError(
        'INVALID_REQUEST',
        `producer id ${producerId} with epoch ${producerEpoch}: give both, or -1 for both`,
      );
    }
    if (producerId >= 0 && producerEpoch < PRODUCER_EPOCH_MAX) {
      return initProducerIdResponse({ producerId, producerEpoch: producerEpoch + 1 });
    }
    return initProducerIdResponse({ producerId: await this.#take(), producerEpoch: 0 });
  }

  async #take(): Promise<number> {
    while (this.#next >= this.#end) {
      this.#asking ??= this.#refill().finally(() => {
        this.#asking = undefined;
      });
      await this.#asking;
    }
    return this.#next++;
  }

  async #refill(): Promise<void> {
    const { first, count } = await this.#allocate();
    this.#next = first;
    this.#end = first + count;
  }
}
