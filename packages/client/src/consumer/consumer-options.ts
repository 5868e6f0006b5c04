import type { Buffer } from 'node:buffer';
import type { ErrorCode } from '@relevo/base/errors';
import { TIMESTAMP_MAX_MS } from '@relevo/record/batch-header';
import { ClientError } from '../errors.ts';
import { EARLIEST_TIMESTAMP, LATEST_TIMESTAMP } from '../offset-lookup.ts';
import {
  checkFunction,
  checkMethods,
  checkNames,
  flag,
  list,
  oneOf,
  text,
  wholeWithin,
} from '../options.ts';
import type { NamesOf } from '../options.ts';
import type { Serializer } from '../serializers.ts';

/** Where to begin: an end of the log, an offset, or the first record at or after a time. */
export type StartPosition =
  | 'earliest'
  | 'latest'
  | {
      readonly offset: number;
      /** Of the record before it, as `ConsumedRecord` told: a log that was truncated meanwhile is noticed. */
      readonly leaderEpoch?: number;
    }
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

/** Records that were read and are in the log no more, because a leader was elected that lacked them. */
export interface Truncation extends TopicPartition {
  /** The offset after the last record that was read. */
  readonly position: number;
  /** From here on the log holds other records than those that were read, or none yet. */
  readonly divergence: number;
}

/** A partition that cannot be read at present, though the consumer goes on trying. */
export interface Stall extends TopicPartition {
  /** The reason; LEADER_NOT_AVAILABLE where the partition has no leader. */
  readonly code: ErrorCode;
  /** For people. */
  readonly message: string;
  /** For how long it could not be read, ms. */
  readonly forMs: number;
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
  /**
   * When records that were read are gone from the log (after an unclean election, say): fail with
   * LOG_TRUNCATED, or seek to where the log parts from what was read, and read on. Default: error.
   */
  readonly onTruncation?: 'error' | 'seek';
  /** Told in both cases, before the error or the records that follow. */
  readonly onTruncated?: (truncation: Truncation) => void;
  /**
   * Told when a partition could not be read for 5 s, and every 30 s from then on: it has no leader, or that
   * one cannot be reached. The consumer goes on trying; the log tells the same, and when it reads again.
   */
  readonly onStalled?: (stall: Stall) => void;
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
  readonly onTruncation: 'error' | 'seek';
  readonly checkCrc: boolean;
}

const KIB = 1024;
const MIB = 1024 * KIB;

const NAMES: NamesOf<ConsumerOptions<never, never>> = {
  topics: true,
  partitions: true,
  from: true,
  bufferBytes: true,
  fetchBytes: true,
  maxWaitMs: true,
  onOutOfRange: true,
  onGap: true,
  onTruncation: true,
  onTruncated: true,
  onStalled: true,
  checkCrc: true,
  key: true,
  value: true,
  signal: true,
};
const START_NAMES: NamesOf<PartitionStart> = { topic: true, partition: true, from: true };
const PARTITION_MAX = 2 ** 31 - 1;

/** Throws INVALID_ARGUMENT. */
export function consumerSettings<Key, Value>(
  options: ConsumerOptions<Key, Value>,
): ConsumerSettings {
  checkNames('consumer', options, NAMES);
  checkWhat(options);
  checkMethods('key', options.key, ['deserialize']);
  checkMethods('value', options.value, ['deserialize']);
  checkMethods('signal', options.signal, ['addEventListener', 'removeEventListener']);
  checkFunction('onGap', options.onGap);
  checkFunction('onTruncated', options.onTruncated);
  checkFunction('onStalled', options.onStalled);
  const { bufferBytes = 16 * MIB, fetchBytes = MIB, maxWaitMs = 500 } = options;
  const { onOutOfRange = 'error', onTruncation = 'error', checkCrc = true } = options;
  return {
    from: checkedStart(options.from ?? 'latest'),
    bufferBytes: wholeWithin('bufferBytes', bufferBytes, 64 * KIB, 1024 * MIB),
    fetchBytes: wholeWithin('fetchBytes', fetchBytes, KIB, 256 * MIB),
    maxWaitMs: wholeWithin('maxWaitMs', maxWaitMs, 0, 60_000),
    onOutOfRange: oneOf('onOutOfRange', onOutOfRange, ['error', 'earliest', 'latest']),
    onTruncation: oneOf('onTruncation', onTruncation, ['error', 'seek']),
    checkCrc: flag('checkCrc', checkCrc),
  };
}

/** What is to be read. */
function checkWhat({
  topics,
  partitions,
}: Pick<ConsumerOptions<never, never>, 'topics' | 'partitions'>): void {
  if ((topics === undefined) === (partitions === undefined)) {
    throw new ClientError('INVALID_ARGUMENT', 'give a consumer either topics or partitions');
  }
  for (const topic of list('topics', topics ?? [])) text('a topic', topic);
  for (const start of list('partitions', partitions ?? [])) {
    checkNames('partition of a consumer', start, START_NAMES);
    text('the topic of a partition', start.topic);
    wholeWithin(`a partition of ${start.topic}`, start.partition, 0, PARTITION_MAX);
    if (start.from !== undefined) checkedStart(start.from);
  }
  if ((topics ?? partitions ?? []).length === 0) {
    throw new ClientError('INVALID_ARGUMENT', 'a consumer needs at least one topic or partition');
  }
}

/** The position, or an INVALID_ARGUMENT. */
export function checkedStart(from: StartPosition): StartPosition {
  if (typeof from !== 'object' || from === null)
    return oneOf<'earliest' | 'latest'>('from', from, ['earliest', 'latest']);
  if ('offset' in from) {
    checkNames('start by offset', from, { offset: true, leaderEpoch: true });
    checkedOffset(from.offset);
    checkedEpoch(from.leaderEpoch);
    return from;
  }
  checkNames('start by time', from, { timestamp: true });
  wholeWithin('from.timestamp', from.timestamp, 0, TIMESTAMP_MAX_MS);
  return from;
}

/** Of `Consumer.stream`, in records; default: 64. */
export function highWaterMarkOf(options: { readonly highWaterMark?: number }): number {
  checkNames('stream', options, { highWaterMark: true });
  return wholeWithin('highWaterMark', options.highWaterMark ?? 64, 0, 2 ** 31 - 1);
}

export function checkedEpoch(epoch: number | undefined): void {
  if (epoch === undefined || (Number.isSafeInteger(epoch) && epoch >= -1)) return;
  throw new ClientError('INVALID_ARGUMENT', `${epoch} is no leader epoch: a whole number is`);
}

export function checkedOffset(offset: number): number {
  if (Number.isSafeInteger(offset) && offset >= 0) return offset;
  throw new ClientError('INVALID_ARGUMENT', `${offset} is no offset: a whole number from 0 on is`);
}

export function wireTimestamp(
  start: 'earliest' | 'latest' | { readonly timestamp: number },
): number {
  if (start === 'earliest') return EARLIEST_TIMESTAMP;
  return start === 'latest' ? LATEST_TIMESTAMP : start.timestamp;
}

export function notRead({ topic, partition }: TopicPartition): ClientError {
  return new ClientError(
    'INVALID_ARGUMENT',
    `the consumer does not read ${topic}-${partition}: it is not among its topics and partitions`,
  );
}
