/** A user's record, serialized and checked: as it goes into a batch. */
import { utf8Encode } from '@relevo/base/bytes';
import { messageOf } from '@relevo/base/errors';
import { NO_HEADERS } from '@relevo/record/batch-builder';
import type { FieldInput, HeaderInput } from '@relevo/record/batch-builder';
import { TIMESTAMP_MAX_MS } from '@relevo/record/batch-header';
import { ClientError } from '../errors.ts';
import { invalid, unknownName, wholeWithin } from '../options.ts';
import type { NamesOf } from '../options.ts';
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
const PARTITION_MAX = 2 ** 31 - 1;

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
    checkFields(input);
    const { topic, key, value, headers, partition } = input;
    const timestamp = input.timestamp ?? this.#clock.wallMs();
    if (!Number.isInteger(timestamp) || timestamp < 0 || timestamp > TIMESTAMP_MAX_MS) {
      throw new ClientError('INVALID_ARGUMENT', `timestamp ${timestamp} is not in ms since 1970`);
    }
    return {
      topic,
      key: key === undefined || key === null ? null : field(this.#key, key, 'key'),
      value: value === null ? null : field(this.#value, value, 'value'),
      headers: headers === undefined ? NO_HEADERS : headerInputs(headers),
      timestamp,
      partition,
    };
  }
}

const FIELDS: NamesOf<ProducerRecord<never, never>> = {
  topic: true,
  key: true,
  value: true,
  headers: true,
  partition: true,
  timestamp: true,
};
/** What other clients' habits are to be here. */
const HINTS: Readonly<Record<string, string>> = {
  messages: 'one record is sent at a time, so call this for each of them, and await them together',
};

/** As `FIELDS` has it, and five times as fast. */
function isField(name: string): boolean {
  switch (name) {
    case 'topic':
    case 'key':
    case 'value':
    case 'headers':
    case 'partition':
    case 'timestamp':
      return true;
    default:
      return false;
  }
}

/** Once for each record: nothing is allocated where all is well. */
function checkFields<Key, Value>(input: ProducerRecord<Key, Value>): void {
  if (typeof input !== 'object' || input === null || Array.isArray(input)) {
    throw invalid('a record', 'an object such as { topic, key, value }', input);
  }
  for (const name in input) {
    if (isField(name) || !Object.hasOwn(input, name)) continue;
    throw unknownName('a record has no field', name, Object.keys(FIELDS), HINTS[name]);
  }
  const { topic, value, partition } = input;
  if (typeof topic !== 'string' || topic === '') throw invalid('topic', 'a name', topic);
  if (value === undefined) {
    throw new ClientError(
      'INVALID_ARGUMENT',
      `a record for "${topic}" has no value: give it one, or null for a tombstone`,
    );
  }
  if (partition !== undefined) wholeWithin('partition', partition, 0, PARTITION_MAX);
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
  // A Map has no names of its own: what is in it would go unnoticed.
  if (!isList(headers) && Object.prototype.toString.call(headers) !== '[object Object]') {
    throw invalid('headers', 'an object, or a list of [name, value]', headers);
  }
  const entries = isList(headers) ? headers : Object.entries(headers);
  return entries.map((entry): HeaderInput => {
    if (!Array.isArray(entry) || entry.length !== 2 || typeof entry[0] !== 'string') {
      throw invalid('a header', '[name, value]', entry);
    }
    const [name, value] = entry as readonly [string, unknown];
    if (typeof value === 'string') return [name, utf8Encode(value)];
    if (value === null || value instanceof Uint8Array) return [name, value];
    throw new ClientError('SERIALIZATION_FAILED', `header "${name}" is neither text nor bytes`);
  });
}

const isList = (
  headers: RecordHeaders,
): headers is readonly (readonly [string, string | Uint8Array | null])[] => Array.isArray(headers);
