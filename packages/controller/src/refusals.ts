/** Checks that several commands share. */
import { RelevoError } from '@relevo/base/errors';
import type { BrokerEpoch, BrokerId } from '@relevo/base/ids';
import { nearest } from '@relevo/base/nearest';
import type { ClusterImage, TopicImage } from './image.ts';

/** Refuses a broker that is not registered, or has another epoch by now. */
export function checkBroker(
  image: ClusterImage,
  { brokerId, brokerEpoch }: { readonly brokerId: BrokerId; readonly brokerEpoch: BrokerEpoch },
): void {
  const broker = image.brokers.get(brokerId);
  if (broker === undefined) {
    throw new RelevoError('BROKER_ID_NOT_REGISTERED', `broker ${brokerId} is not registered`);
  }
  if (broker.epoch !== brokerEpoch) {
    throw new RelevoError(
      'STALE_BROKER_EPOCH',
      `broker ${brokerId} asks under epoch ${brokerEpoch} but is registered under ${broker.epoch}`,
    );
  }
}

/** The topic of that name, or a refusal that names the nearest one. */
export function topicNamed(image: ClusterImage, name: string): TopicImage {
  const topic = image.topicsByName.get(name);
  if (topic !== undefined) return topic;
  const guess = nearest(name, image.topicsByName.keys());
  const hint =
    guess === undefined ? 'relevo topic list shows those that do' : `did you mean "${guess}"?`;
  throw new RelevoError('UNKNOWN_TOPIC_OR_PARTITION', `topic "${name}" does not exist: ${hint}`);
}
