/** The SDK's public face. */
export { Relevo } from './relevo.ts';
export type { DefaultInput, RelevoOptions } from './relevo.ts';
export { ClientError, OWN_ERRORS } from './errors.ts';
export type { ClientErrorCode, OwnErrorCode } from './errors.ts';
export * as serializers from './serializers.ts';
export type { Serializer } from './serializers.ts';
export type { Producer } from './producer/producer.ts';
export type {
  Delivery,
  HeaderValue,
  ProducerOptions,
  ProducerRecord,
  Receipt,
  RecordHeaders,
} from './producer/producer-options.ts';
export type { Consumer, PartitionOffset } from './consumer/consumer.ts';
export type {
  ConsumedRecord,
  ConsumerOptions,
  DefaultData,
  Gap,
  Stall,
  Truncation,
  PartitionStart,
  StartPosition,
  TopicPartition,
} from './consumer/consumer-options.ts';
export type {
  Admin,
  AdminCallOptions,
  ConfigChange,
  CreatedTopic,
  DescribedCluster,
  DescribedPartition,
  DescribedTopic,
  ElectionOutcome,
  ElectionRequest,
  ListedOffset,
  ListedTopic,
  NewTopic,
  OffsetsQuery,
  TopicConfig,
} from './admin.ts';
