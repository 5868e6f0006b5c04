/** A user's record, serialized and checked: as it goes into a batch. */
import { utf8Encode } from '@relevo/base/bytes';
import { messageOf } from '@relevo/base/errors';
import { NO_HEADERS } from '@relevo/record/batch-builder';
import type { FieldInput, HeaderInput } from '@relevo/record/batch-builder';
import { TIMESTAMP_MAX_MS } from '@relevo/record/batch-header';
import { ClientError } from '../errors.ts';
import { bytes as bytesSerializer } from '../serializers.ts';
import type { Serializer } from '../serializers.ts';
import type { CoarseClock } from './coarse-clock.ts';
import type { ProducerRecord, RecordHeaders } from './producer-options.ts';

export interface PreparedRecord {
  readonly topic: string;
  readonly key: FieldInput;
  readonly value: FieldInput;
  readonly headers: readonly HeaderInput[];
  readonly timestamp: number;
  readonly partition: number | undefined;
}

/** About what a record takes beyond its key and value. */
const RECORD_OVERHEAD_BYTES = 24;

export const roughSize = (record: PreparedRecord): number =>
  (record.key?.length ?? 0) + (record.value?.length ?? 0) + RECORD_OVERHEAD_BYTES;

export class RecordPreparer<Key, Value> {
  readonly #clock: CoarseClock;
  readonly #key: Serializer<Key, unknown>;
  readonly #value: Serializer<Value, unknown>;

  constructor(
    clock: CoarseClock,
    key: Serializer<Key, unknown> | undefined,
    value: Serializer<Value, unknown> | undefined,
  ) {
    this.#clock = clock;
    // The types default to what this serializer takes, and `field` checks what it passes on.
    const plain = bytesSerializer as Serializer<unknown, unknown>;
    this.#key = key ?? (plain as Serializer<Key, unknown>);
    this.#value = value ?? (plain as Serializer<Value, unknown>);
  }

  /** Throws a ClientError: SERIALIZATION_FAILED or INVALID_ARGUMENT. */
  prepare(input: ProducerRecord<Key, Value>): PreparedRecord {
    const { topic, key, value, headers, partition } = input;
    const timestamp = input.timestamp ?? this.#clock.wallMs();
    if (!Number.isInteger(timestamp) || timestamp < 0 || timestamp > TIMESTAMP_MAX_MS) {
      throw new ClientError('INVALID_ARGUMENT', `timestamp ${timestamp} is not in ms since 1970`);
    }
    return {
      topic,
      key: key === undefined || key === null ? null : field(this.#key, key, 'key'),
      value: value === undefined || value === null ? null : field(this.#value, value, 'value'),
      headers: headers === undefined ? NO_HEADERS : headerInputs(headers),
      timestamp,
      partition,
    };
  }
}

function field<Data>(serializer: Serializer<Data, unknown>, data: Data, what: string): FieldInput {
  let out: unknown;
  try {
    out = serializer.serialize(data);
  } catch (error) {
    if (error instanceof ClientError) throw error;
    throw new ClientError('SERIALIZATION_FAILED', `the ${what}: ${messageOf(error)}`, {
      cause: error,
    });
  }
  if (typeof out === 'string' || out instanceof Uint8Array || out === null) return out;
  throw new ClientError(
    'SERIALIZATION_FAILED',
    `the ${what} is ${typeof out}, neither text nor bytes; give the producer a serializer for it`,
  );
}

function headerInputs(headers: RecordHeaders): readonly HeaderInput[] {
  const entries = isList(headers) ? headers : Object.entries(headers);
  return entries.map(([name, value]): HeaderInput => {
    if (typeof value === 'string') return [name, utf8Encode(value)];
    if (value === null || value instanceof Uint8Array) return [name, value];
    throw new ClientError('SERIALIZATION_FAILED', `header "${name}" is neither text nor bytes`);
  });
}

const isList = (
  headers: RecordHeaders,
): headers is readonly (readonly [string, string | Uint8Array | null])[] => Array.isArray(headers);
