/** Producer ids are given to brokers in blocks, so that a new producer seldom waits for the quorum. */
import { producerId } from '@relevo/base/ids';
import type { AllocateProducerIds, AllocateProducerIdsAnswer, Decision } from './commands.ts';
import type { ClusterImage } from './image.ts';
import { checkBroker } from './refusals.ts';

/** Kafka's size; what a broker leaves unused when it stops is lost. */
export const PRODUCER_ID_BLOCK = 1000;

export function decideAllocateProducerIds(
  image: ClusterImage,
  command: AllocateProducerIds,
): Decision<AllocateProducerIdsAnswer> {
  checkBroker(image, command);
  const first = image.nextProducerId;
  return {
    records: [{ kind: 'producerIds', next: producerId(first + PRODUCER_ID_BLOCK) }],
    atomic: true,
    response: { first, count: PRODUCER_ID_BLOCK },
  };
}
