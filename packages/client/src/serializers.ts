/**
 * How keys and values become bytes and back. A producer's and a consumer's types follow from the
 * serializers given to them; without any, producers take text and bytes, consumers give Buffers.
 */
import { Buffer } from 'node:buffer';
import { messageOf } from '@relevo/base/errors';
import { ClientError } from './errors.ts';

export interface Serializer<In, Out = In> {
  /** Text is written as UTF-8. Null stays null: a tombstone in a compacted topic. */
  serialize(data: In): Uint8Array | string | null;
  /** `bytes` share memory with the rest of the batch: copy what is to be kept for long. */
  deserialize(bytes: Buffer | null): Out;
}

/** Takes text and bytes as they are, gives bytes. The default. */
export const bytes: Serializer<Uint8Array | string | null | undefined, Buffer | null> = {
  serialize: (data) => data ?? null,
  deserialize: (data) => data,
};

/** UTF-8 text. */
export const string: Serializer<string | null | undefined, string | null> = {
  serialize: (data) => data ?? null,
  deserialize: (data) => data?.toString('utf8') ?? null,
};

/** Any value that JSON can hold; `undefined` is null. The type is taken on trust when reading. */
export const json = <Value>(): Serializer<Value | null | undefined, Value | null> => ({
  serialize: (data) => (data === null || data === undefined ? null : JSON.stringify(data)),
  deserialize: (data) => {
    if (data === null) return null;
    try {
      // What the writer put there is what the caller's type says: nothing here can check it.
      return JSON.parse(data.toString('utf8')) as Value;
    } catch (error) {
      throw new ClientError('SERIALIZATION_FAILED', `not JSON: ${messageOf(error)}`, {
        cause: error,
      });
    }
  },
});

const INT32_MIN = -(2 ** 31);
const INT32_MAX = 2 ** 31 - 1;

/** A 32-bit integer, big-endian, as Kafka's IntegerSerializer writes it. */
export const int32: Serializer<number | null | undefined, number | null> = {
  serialize: (data) => {
    if (data === null || data === undefined) return null;
    if (!Number.isInteger(data) || data < INT32_MIN || data > INT32_MAX) {
      throw new ClientError('SERIALIZATION_FAILED', `${data} is no 32-bit integer`);
    }
    const buffer = Buffer.allocUnsafe(4);
    buffer.writeInt32BE(data);
    return buffer;
  },
  deserialize: (data) => (data === null ? null : sized(data, 4, 'a 32-bit integer').readInt32BE()),
};

/** A 64-bit integer, big-endian, as Kafka's LongSerializer writes it. */
export const int64: Serializer<bigint | number | null | undefined, bigint | null> = {
  serialize: (data) => {
    if (data === null || data === undefined) return null;
    if (typeof data === 'number' && !Number.isSafeInteger(data)) {
      throw new ClientError('SERIALIZATION_FAILED', `${data} is no exact integer; give a bigint`);
    }
    const buffer = Buffer.allocUnsafe(8);
    const value = BigInt(data);
    if (BigInt.asIntN(64, value) !== value) {
      throw new ClientError('SERIALIZATION_FAILED', `${data} does not fit into 64 bits`);
    }
    buffer.writeBigInt64BE(value);
    return buffer;
  },
  deserialize: (data) =>
    data === null ? null : sized(data, 8, 'a 64-bit integer').readBigInt64BE(),
};

/** A 64-bit floating-point number, as Kafka's DoubleSerializer writes it. */
export const double: Serializer<number | null | undefined, number | null> = {
  serialize: (data) => {
    if (data === null || data === undefined) return null;
    const buffer = Buffer.allocUnsafe(8);
    buffer.writeDoubleBE(data);
    return buffer;
  },
  deserialize: (data) => (data === null ? null : sized(data, 8, 'a double').readDoubleBE()),
};

function sized(data: Buffer, length: number, what: string): Buffer {
  if (data.length !== length) {
    throw new ClientError(
      'SERIALIZATION_FAILED',
      `${what} has ${length} bytes, not ${data.length}`,
    );
  }
  return data;
}
