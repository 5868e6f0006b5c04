/** Producer ids are given to brokers in blocks, so that a new producer seldom waits for the quorum. */
import { producerId } from '@relevo/base/ids';
import type { ProducerId } from '@relevo/base/ids';
import type { AllocateProducerIds, AllocateProducerIdsAnswer, Decision } from './commands.ts';
import type { ClusterImage } from './image.ts';
import { checkBroker } from './refusals.ts';

/** Kafka's size; what a broker leaves unused when it stops is lost. */
export const PRODUCER_ID_BLOCK = 1000;

/** 0 is what a caller sends who fills in every field and has no id: it is nobody's. */
export const FIRST_PRODUCER_ID: ProducerId = producerId(1);

/** Whether the id was given to somebody, or may have been, by a broker that has a block with it. */
export const isProducerIdIssued = (image: ClusterImage, id: number): boolean =>
  id >= FIRST_PRODUCER_ID && id < image.nextProducerId;

export function decideAllocateProducerIds(
  image: ClusterImage,
  command: AllocateProducerIds,
): Decision<AllocateProducerIdsAnswer> {
  checkBroker(image, command);
  const first = producerId(Math.max(image.nextProducerId, FIRST_PRODUCER_ID));
  return {
    records: [{ kind: 'producerIds', next: producerId(first + PRODUCER_ID_BLOCK) }],
    atomic: true,
    response: { first, count: PRODUCER_ID_BLOCK },
  };
}
