import { BATCH_BYTES_MAX } from '@relevo/base/limits';
import { COMPRESSION_TYPES } from '@relevo/record/compression';
import type { CompressionType } from '@relevo/record/compression';
import { ClientError } from '../errors.ts';
import {
  checkFunction,
  checkMethods,
  checkNames,
  flag,
  oneOf,
  wholeWithin,
  within,
} from '../options.ts';
import type { NamesOf } from '../options.ts';
import type { Serializer } from '../serializers.ts';

export type HeaderValue = string | Uint8Array | null;
export type RecordHeaders =
  Readonly<Record<string, HeaderValue>> | readonly (readonly [name: string, value: HeaderValue])[];

/** A field that is not among these is refused. One that may be left out may also be `undefined`. */
export interface ProducerRecord<Key, Value> {
  readonly topic: string;
  /** Records of one key go to one partition, in order. Default: null. */
  readonly key?: Key;
  /** `null` is a tombstone: it says so explicitly, for a record without a value is refused. */
  readonly value: Exclude<Value, undefined> | null;
  /** A name may occur more than once in the list form. */
  readonly headers?: RecordHeaders;
  /** Default: by the key, or by turns without one. */
  readonly partition?: number;
  /** Ms since 1970 UTC. Default: now. */
  readonly timestamp?: number;
}

/** What became of a record. */
export interface Receipt {
  readonly topic: string;
  readonly partition: number;
  /** -1 with acks "none", and where the broker knows only that it had the record before. */
  readonly offset: number;
  /** The leader's epoch when it was written. */
  readonly leaderEpoch: number;
  /** Ms since 1970 UTC, as stored. */
  readonly timestamp: number;
  /** The brokers on whose stable storage the record was when it was acknowledged. */
  readonly syncedOn: readonly number[];
}

/** What became of a batch of records that were enqueued. */
export type Delivery =
  | {
      readonly topic: string;
      readonly partition: number;
      readonly recordCount: number;
      /** Of the batch's first record; the others follow without gaps. */
      readonly baseOffset: number;
      readonly leaderEpoch: number;
      readonly syncedOn: readonly number[];
      readonly error: undefined;
    }
  | {
      readonly topic: string;
      /** -1: none had been chosen yet. */
      readonly partition: number;
      readonly recordCount: number;
      readonly error: ClientError;
    };

export interface ProducerOptions<Key, Value> {
  /**
   * When a record counts as written: `all`, when it is synced on every in-sync replica; `leader`, when
   * it is on the leader; `none`, when it was sent. Default: all.
   */
  readonly acks?: 'all' | 'leader' | 'none';
  /** Retries write nothing twice and keep the order. Needs acks "all". Default: true with those. */
  readonly idempotent?: boolean;
  /** How long a record may wait for others to share its batch, ms, 0 to 60,000. Default: 5. */
  readonly lingerMs?: number;
  /**
   * A batch is sent when it has so many bytes, 1 KiB to 8 MiB; one that has to wait for earlier ones
   * grows up to four times that, unless it is to be compressed. Default: 64 KiB.
   */
  readonly batchBytes?: number;
  /** Largest record, with its batch's header; the broker's message.max.bytes. Default: 1 MiB. */
  readonly maxRecordBytes?: number;
  /** What may wait here unacknowledged; `send` waits when it is full. Default: 32 MiB. */
  readonly bufferBytes?: number;
  /** Default: none. */
  readonly compression?: CompressionType;
  /** From `send` to its settling, waits and retries included, ms. Default: 120,000. */
  readonly deliveryTimeoutMs?: number;
  /** How long a broker may take over one batch before it is sent again, ms. Default: 10,000. */
  readonly requestTimeoutMs?: number;
  /** Batches of one partition on their way at a time, 1 to 5. Default: 5. */
  readonly maxInFlight?: number;
  /** Default: text and bytes as they are. */
  readonly key?: Serializer<Key, unknown>;
  readonly value?: Serializer<Value, unknown>;
  /** Called for each batch that holds enqueued records, once. Needed by `enqueue`. */
  readonly onDelivery?: (delivery: Delivery) => void;
}

/** The options with their defaults, checked. */
export interface ProducerSettings {
  readonly acks: -1 | 0 | 1;
  readonly idempotent: boolean;
  readonly lingerMs: number;
  readonly batchBytes: number;
  readonly maxRecordBytes: number;
  readonly bufferBytes: number;
  readonly compression: CompressionType;
  readonly deliveryTimeoutMs: number;
  readonly requestTimeoutMs: number;
  readonly maxInFlight: number;
}

const KIB = 1024;
const MIB = 1024 * KIB;
const ACKS = { all: -1, leader: 1, none: 0 } as const;
/** The broker remembers the last five batches of a producer (invariant I2). */
const MAX_IN_FLIGHT = 5;
const DAY_MS = 86_400_000;

const NAMES: NamesOf<ProducerOptions<never, never>> = {
  acks: true,
  idempotent: true,
  lingerMs: true,
  batchBytes: true,
  maxRecordBytes: true,
  bufferBytes: true,
  compression: true,
  deliveryTimeoutMs: true,
  requestTimeoutMs: true,
  maxInFlight: true,
  key: true,
  value: true,
  onDelivery: true,
};

/** Throws INVALID_ARGUMENT. */
export function producerSettings<Key, Value>(
  options: ProducerOptions<Key, Value>,
): ProducerSettings {
  checkNames('producer', options, NAMES);
  const acks = oneOf('acks', options.acks ?? 'all', ['all', 'leader', 'none']);
  const idempotent = flag('idempotent', options.idempotent ?? acks === 'all');
  if (idempotent && acks !== 'all') {
    throw new ClientError('INVALID_ARGUMENT', `idempotent needs acks "all", not "${acks}"`);
  }
  checkMethods('key', options.key, ['serialize']);
  checkMethods('value', options.value, ['serialize']);
  checkFunction('onDelivery', options.onDelivery);
  const { batchBytes = 64 * KIB, bufferBytes = 32 * MIB } = options;
  wholeWithin('batchBytes', batchBytes, KIB, BATCH_BYTES_MAX);
  const { maxRecordBytes = Math.max(batchBytes, MIB), maxInFlight = MAX_IN_FLIGHT } = options;
  const { deliveryTimeoutMs = 120_000, requestTimeoutMs = 10_000 } = options;
  return {
    acks: ACKS[acks],
    idempotent,
    lingerMs: within('lingerMs', options.lingerMs ?? 5, 0, 60_000),
    batchBytes,
    maxRecordBytes: wholeWithin('maxRecordBytes', maxRecordBytes, batchBytes, BATCH_BYTES_MAX),
    bufferBytes: wholeWithin('bufferBytes', bufferBytes, batchBytes, 2 ** 36),
    compression: oneOf('compression', options.compression ?? 'none', COMPRESSION_TYPES),
    deliveryTimeoutMs: within('deliveryTimeoutMs', deliveryTimeoutMs, 1, DAY_MS),
    requestTimeoutMs: wholeWithin('requestTimeoutMs', requestTimeoutMs, 100, DAY_MS),
    maxInFlight: wholeWithin('maxInFlight', maxInFlight, 1, MAX_IN_FLIGHT),
  };
}
