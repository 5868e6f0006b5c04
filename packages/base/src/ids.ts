/**
 * Branded identifiers. A brand is a compile-time mark only: at run time these are plain numbers and
 * strings. Offsets and epochs are 64- and 32-bit integers on the wire; offsets are held as JavaScript
 * numbers, exact up to 2^53.
 */
declare const brand: unique symbol;
export type Brand<Value, Name extends string> = Value & { readonly [brand]: Name };

/** A broker's configured number, unique in the cluster, 0 to 2^31-1. */
export type BrokerId = Brand<number, 'BrokerId'>;
/** Given by the controller at each registration; grows with every registration of any broker. */
export type BrokerEpoch = Brand<number, 'BrokerEpoch'>;
/** Position of a record in a partition, from 0. */
export type Offset = Brand<number, 'Offset'>;
/** Grows by one with every leader election of a partition (KIP-101). */
export type LeaderEpoch = Brand<number, 'LeaderEpoch'>;
/** Grows by one with every change of a partition's leader, ISR or replicas. */
export type PartitionEpoch = Brand<number, 'PartitionEpoch'>;
/** Raft term. */
export type Term = Brand<number, 'Term'>;
/** Position of an entry in the Raft log, from 1; 0 means "before the first". */
export type LogIndex = Brand<number, 'LogIndex'>;
/** Names a producer; -1 means none. */
export type ProducerId = Brand<number, 'ProducerId'>;
/** 0 to 32767; -1 means none. */
export type ProducerEpoch = Brand<number, 'ProducerEpoch'>;
/** A 128-bit id as 22 characters of URL-safe base64, as Kafka prints it. */
export type Uuid = Brand<string, 'Uuid'>;

/** -1 stands for "no broker": a partition without a leader. */
export const NO_BROKER: BrokerId = -1 as BrokerId;
export const NO_PRODUCER_ID: ProducerId = -1 as ProducerId;
export const NO_PRODUCER_EPOCH: ProducerEpoch = -1 as ProducerEpoch;
export const NO_LEADER_EPOCH: LeaderEpoch = -1 as LeaderEpoch;

const INT32_MAX = 2 ** 31 - 1;

function integer(value: number, min: number, max: number, what: string): number {
  if (!Number.isInteger(value) || value < min || value > max) {
    throw new RangeError(`${what} must be an integer from ${min} to ${max}, got ${value}`);
  }
  return value;
}

export const brokerId = (value: number): BrokerId =>
  integer(value, -1, INT32_MAX, 'broker id') as BrokerId;
export const brokerEpoch = (value: number): BrokerEpoch =>
  integer(value, -1, Number.MAX_SAFE_INTEGER, 'broker epoch') as BrokerEpoch;
export const offset = (value: number): Offset =>
  integer(value, -1, Number.MAX_SAFE_INTEGER, 'offset') as Offset;
export const leaderEpoch = (value: number): LeaderEpoch =>
  integer(value, -1, INT32_MAX, 'leader epoch') as LeaderEpoch;
export const partitionEpoch = (value: number): PartitionEpoch =>
  integer(value, -1, INT32_MAX, 'partition epoch') as PartitionEpoch;
export const term = (value: number): Term => integer(value, 0, INT32_MAX, 'term') as Term;
export const logIndex = (value: number): LogIndex =>
  integer(value, 0, Number.MAX_SAFE_INTEGER, 'log index') as LogIndex;
export const producerId = (value: number): ProducerId =>
  integer(value, -1, Number.MAX_SAFE_INTEGER, 'producer id') as ProducerId;
export const producerEpoch = (value: number): ProducerEpoch =>
  integer(value, -1, 32767, 'producer epoch') as ProducerEpoch;

const UUID_PATTERN = /^[A-Za-z0-9_-]{22}$/;

export function uuid(value: string): Uuid {
  if (!UUID_PATTERN.test(value)) {
    throw new RangeError(`an id must be 22 characters of URL-safe base64, got "${value}"`);
  }
  return value as Uuid;
}

/** Stands for "no id" in Kafka's formats. */
export const ZERO_UUID: Uuid = uuid('AAAAAAAAAAAAAAAAAAAAAA');
/** The id of the quorum's own log, Kafka's. */
export const QUORUM_LOG_ID: Uuid = uuid('AAAAAAAAAAAAAAAAAAAAAQ');

const BASE64_URL = 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_';

/** Makes an id from 16 bytes, most significant first. */
export function uuidFromBytes(bytes: Uint8Array): Uuid {
  if (bytes.length !== 16) throw new RangeError(`an id has 16 bytes, got ${bytes.length}`);
  let text = '';
  let bits = 0;
  let held = 0;
  for (const byte of bytes) {
    held = (held << 8) | byte;
    bits += 8;
    while (bits >= 6) {
      bits -= 6;
      text += BASE64_URL[(held >> bits) & 63];
    }
    held &= (1 << bits) - 1;
  }
  text += BASE64_URL[(held << (6 - bits)) & 63];
  return text as Uuid;
}

/** `orders-3`: how a partition is named in logs, errors and on disk. */
export const partitionName = (topic: string, partition: number): string => `${topic}-${partition}`;
