/**
 * How `consume` shows a record. A format is text with fields, kcat's letters where they are the same:
 *
 *     %o offset      %p partition   %t topic      %k key     %v value (also %s)
 *     %h headers     %T timestamp in ms           %d the same as ISO 8601
 *     %K key bytes, -1 for none     %S value bytes, -1 for none      %% a percent sign
 *
 * and the escapes of escapes.ts. Keys and values are written as the bytes they are; none is written
 * as nothing.
 */
import { isUtf8 } from 'node:buffer';
import { concatBytes, utf8Decode, utf8Encode } from '@relevo/base/bytes';
import { unescapeBytes } from './escapes.ts';
import { usageError } from './exit-codes.ts';

export type ShownHeader = readonly [name: string, value: Uint8Array | null];

export interface ShownRecord {
  readonly topic: string;
  readonly partition: number;
  readonly offset: number;
  readonly timestamp: number;
  readonly key: Uint8Array | null;
  readonly value: Uint8Array | null;
  readonly headers: readonly ShownHeader[];
}

type Field = (record: ShownRecord) => Uint8Array;
export type RecordFormat = (record: ShownRecord) => Uint8Array;

const NOTHING = new Uint8Array(0);

const FIELDS: Readonly<Record<string, Field>> = {
  o: (record) => utf8Encode(String(record.offset)),
  p: (record) => utf8Encode(String(record.partition)),
  t: (record) => utf8Encode(record.topic),
  k: (record) => record.key ?? NOTHING,
  v: (record) => record.value ?? NOTHING,
  s: (record) => record.value ?? NOTHING,
  h: (record) => headersText(record.headers),
  T: (record) => utf8Encode(String(record.timestamp)),
  d: (record) => utf8Encode(isoTime(record.timestamp)),
  K: (record) => utf8Encode(String(record.key?.length ?? -1)),
  S: (record) => utf8Encode(String(record.value?.length ?? -1)),
  '%': () => utf8Encode('%'),
};

/** Compiles `text`; `json` stands for one JSON object a line. */
export function compileFormat(text: string): RecordFormat {
  if (text === 'json') return (record) => utf8Encode(`${JSON.stringify(recordJson(record))}\n`);
  const fields: Field[] = [];
  for (const part of text.split(/(%.?)/su).filter((piece) => piece !== '')) {
    if (!part.startsWith('%')) {
      const literal = unescapeBytes(part);
      fields.push(() => literal);
      continue;
    }
    const field = FIELDS[part.slice(1)];
    if (field === undefined) {
      const known = Object.keys(FIELDS).map((letter) => `%${letter}`);
      throw usageError(`"${part}" in --format is no field; there are ${known.join(' ')}`);
    }
    fields.push(field);
  }
  return (record) => concatBytes(fields.map((field) => field(record)));
}

/** A record as JSON; bytes that are not UTF-8 come as base64 and say so beside. */
export function recordJson(record: ShownRecord): Readonly<Record<string, unknown>> {
  return {
    topic: record.topic,
    partition: record.partition,
    offset: record.offset,
    timestamp: record.timestamp,
    ...bytesJson('key', record.key),
    ...bytesJson('value', record.value),
    headers: record.headers.map(([key, value]) => ({ key, ...bytesJson('value', value) })),
  };
}

function bytesJson(name: string, bytes: Uint8Array | null): Readonly<Record<string, unknown>> {
  if (bytes === null) return { [name]: null };
  if (isUtf8(bytes)) return { [name]: utf8Decode(bytes) };
  return { [name]: Buffer.from(bytes).toString('base64'), [`${name}Encoding`]: 'base64' };
}

function headersText(headers: readonly ShownHeader[]): Uint8Array {
  const parts = headers.flatMap(([name, value], index) => [
    utf8Encode(`${index === 0 ? '' : ','}${name}=`),
    value ?? NOTHING,
  ]);
  return concatBytes(parts);
}

/** Timestamps come from producers: what is no date is shown as the number it is. */
const isoTime = (timestamp: number): string =>
  Math.abs(timestamp) <= 8.64e15 ? new Date(timestamp).toISOString() : String(timestamp);
