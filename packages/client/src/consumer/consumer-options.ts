import type { Buffer } from 'node:buffer';
import { ClientError } from '../errors.ts';
import { within } from '../producer/producer-options.ts';
import type { Serializer } from '../serializers.ts';

/** Where to begin: an end of the log, an offset, or the first record at or after a time. */
export type StartPosition =
  | 'earliest'
  | 'latest'
  | { readonly offset: number }
  /** Ms since 1970 UTC; where no record is that late, what comes next. */
  | { readonly timestamp: number };

export interface TopicPartition {
  readonly topic: string;
  readonly partition: number;
}

export interface PartitionStart extends TopicPartition {
  /** Default: the consumer's `from`. */
  readonly from?: StartPosition;
}

export interface ConsumedRecord<Key, Value> {
  readonly topic: string;
  readonly partition: number;
  readonly offset: number;
  /** Ms since 1970 UTC. */
  readonly timestamp: number;
  /** Of the leader that took the record. */
  readonly leaderEpoch: number;
  readonly key: Key;
  readonly value: Value;
  /** In the producer's order; a name may occur more than once. */
  readonly headers: readonly (readonly [name: string, value: Uint8Array | null])[];
}

/** Records that were lost to the consumer, because they left the log before it read them. */
export interface Gap extends TopicPartition {
  /** The offset that should have come next. */
  readonly from: number;
  /** Where it goes on. */
  readonly to: number;
}

export interface ConsumerOptions<Key, Value> {
  /** All partitions of these, those made later too. */
  readonly topics?: readonly string[];
  /** These and no others. Either this or `topics`. */
  readonly partitions?: readonly PartitionStart[];
  /** Default: latest. Partitions that are added to a topic later are read from their beginning. */
  readonly from?: StartPosition;
  /** Fetched ahead and not yet read, bytes, 64 KiB to 1 GiB. Default: 16 MiB. */
  readonly bufferBytes?: number;
  /** At most so much of one partition in one answer, bytes. Default: 1 MiB. */
  readonly fetchBytes?: number;
  /** How long a broker may hold an answer back for want of records, ms. Default: 500. */
  readonly maxWaitMs?: number;
  /**
   * When the wanted offset is not in the log: fail with OFFSET_OUT_OF_RANGE, or go on at one end; that
   * is logged and told to `onGap`. Default: error.
   */
  readonly onOutOfRange?: 'error' | 'earliest' | 'latest';
  readonly onGap?: (gap: Gap) => void;
  /** Whether to hold the records against their checksums. Default: true. */
  readonly checkCrc?: boolean;
  /** Default: Buffers. */
  readonly key?: Serializer<never, Key>;
  readonly value?: Serializer<never, Value>;
  /** Ends the iteration with ABORTED. */
  readonly signal?: AbortSignal;
}

/** What a consumer gives without serializers. */
export type DefaultData = Buffer | null;

export interface ConsumerSettings {
  readonly from: StartPosition;
  readonly bufferBytes: number;
  readonly fetchBytes: number;
  readonly maxWaitMs: number;
  readonly onOutOfRange: 'error' | 'earliest' | 'latest';
  readonly checkCrc: boolean;
}

const KIB = 1024;
const MIB = 1024 * KIB;

export function consumerSettings<Key, Value>(
  options: ConsumerOptions<Key, Value>,
): ConsumerSettings {
  const { topics, partitions } = options;
  if ((topics === undefined) === (partitions === undefined)) {
    throw new ClientError('INVALID_ARGUMENT', 'give a consumer either topics or partitions');
  }
  if ((topics ?? partitions ?? []).length === 0) {
    throw new ClientError('INVALID_ARGUMENT', 'a consumer needs at least one topic or partition');
  }
  const bufferBytes = within('bufferBytes', options.bufferBytes ?? 16 * MIB, 64 * KIB, 1024 * MIB);
  return {
    from: checkedStart(options.from ?? 'latest'),
    bufferBytes,
    fetchBytes: within('fetchBytes', options.fetchBytes ?? MIB, KIB, 256 * MIB),
    maxWaitMs: within('maxWaitMs', options.maxWaitMs ?? 500, 0, 60_000),
    onOutOfRange: options.onOutOfRange ?? 'error',
    checkCrc: options.checkCrc ?? true,
  };
}

/** The position, or an INVALID_ARGUMENT. */
export function checkedStart(from: StartPosition): StartPosition {
  if (from === 'earliest' || from === 'latest') return from;
  if ('offset' in from) return { offset: checkedOffset(from.offset) };
  within('from.timestamp', from.timestamp, 0, 2 ** 52);
  return from;
}

export function checkedOffset(offset: number): number {
  if (Number.isSafeInteger(offset) && offset >= 0) return offset;
  throw new ClientError('INVALID_ARGUMENT', `${offset} is no offset: a whole number from 0 on is`);
}
