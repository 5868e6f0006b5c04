/** What the tests of this package build their batches with. */
import fc from 'fast-check';
import { BatchBuilder } from '@relevo/record/batch-builder';
import { TIMESTAMP_MAX_MS } from '@relevo/record/batch-header';
import type { BatchOptions, FieldInput, HeaderInput } from '@relevo/record/batch-builder';
import { crc32c } from '@relevo/record/crc32c';

export interface InputRecord {
  readonly key: FieldInput;
  readonly value: FieldInput;
  readonly headers: readonly HeaderInput[];
  readonly timestamp: number;
}

export const record = (
  value: FieldInput,
  more: Partial<Omit<InputRecord, 'value'>> = {},
): InputRecord => ({ key: null, headers: [], timestamp: 1_700_000_000_000, ...more, value });

export function batchOf(records: readonly InputRecord[], options: BatchOptions = {}): Uint8Array {
  const builder = new BatchBuilder();
  for (const { key, value, headers, timestamp } of records) {
    builder.append(key, value, headers, timestamp);
  }
  return builder.build(options, crc32c);
}

const field = fc.oneof(
  fc.constant(null),
  fc.uint8Array({ maxLength: 300 }),
  fc.string({ unit: 'grapheme', maxLength: 100 }),
  fc.string({ maxLength: 100 }),
);

const header: fc.Arbitrary<HeaderInput> = fc.tuple(
  fc.string({ unit: 'grapheme', maxLength: 20 }),
  fc.oneof(fc.constant(null), fc.uint8Array({ maxLength: 100 })),
);

export const anyRecord: fc.Arbitrary<InputRecord> = fc.record({
  key: field,
  value: field,
  headers: fc.oneof(fc.constant([]), fc.array(header, { maxLength: 5 })),
  timestamp: fc.oneof(
    fc.integer({ min: 1_700_000_000_000, max: 1_700_000_100_000 }),
    fc.integer({ min: -1, max: TIMESTAMP_MAX_MS }),
  ),
});

export const anyRecords: fc.Arbitrary<InputRecord[]> = fc.array(anyRecord, {
  minLength: 1,
  maxLength: 80,
});
