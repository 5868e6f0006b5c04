/**
 * How fast batches are written, checked and read on one core:
 *
 *     node --import tsx --conditions=@relevo/source packages/record/test/encode-speed.ts
 */
import { BatchBuilder } from '@relevo/record/batch-builder';
import type { FieldInput } from '@relevo/record/batch-builder';
import { crc32c } from '@relevo/record/crc32c';
import { decodeRecords } from '@relevo/record/records';
import { validateBatch } from '@relevo/record/validate';

const RECORDS = 1_000_000;
const ROUNDS = 4;
const BATCH_BYTES = 65_536;
const KEY = 'key-1234567';
const VALUE = 'x'.repeat(89);
const bytesOf = (text: string): Uint8Array => new TextEncoder().encode(text);

/** Of the last round, when the code is warm: records and bytes per second of CPU. */
function measure(name: string, round: () => { records: number; bytes: number }): void {
  let line = '';
  for (let index = 0; index < ROUNDS; index++) {
    const before = process.cpuUsage();
    const { records, bytes } = round();
    const { user, system } = process.cpuUsage(before);
    const seconds = (user + system) / 1e6;
    const millions = (records / seconds / 1e6).toFixed(2);
    line = `${name.padEnd(28)} ${millions.padStart(6)} M records/s ${(bytes / seconds / 1e6).toFixed(0).padStart(6)} MB/s`;
  }
  console.log(line);
}

function encode(key: FieldInput, value: FieldInput): { records: number; bytes: number } {
  const builder = new BatchBuilder(BATCH_BYTES + 64);
  let bytes = 0;
  for (let index = 0; index < RECORDS; index++) {
    const timestamp = 1_700_000_000_000 + (index >> 10);
    if (builder.tryAppend(key, value, [], timestamp, BATCH_BYTES)) continue;
    bytes += builder.build({}, crc32c).length;
    builder.append(key, value, [], timestamp);
  }
  return { records: RECORDS, bytes };
}

function fullBatch(): { batch: Uint8Array; records: number } {
  const builder = new BatchBuilder(BATCH_BYTES + 64);
  while (builder.tryAppend(KEY, VALUE, [], 1_700_000_000_000, BATCH_BYTES));
  const records = builder.count;
  return { batch: builder.build({}, crc32c), records };
}

const { batch, records } = fullBatch();
const TIMES = 1000;
const limits = { maxBytes: 1 << 20, records: 'whole' } as const;

measure('encode text', () => encode(KEY, VALUE));
measure('encode bytes', () => encode(bytesOf(KEY), bytesOf(VALUE)));
measure('encode 1 KiB of bytes', () => encode(null, new Uint8Array(1024)));
measure('validate', () => {
  for (let index = 0; index < TIMES; index++) validateBatch(batch, 0, batch.length, crc32c, limits);
  return { records: records * TIMES, bytes: batch.length * TIMES };
});
measure('decode', () => {
  let sum = 0;
  for (let index = 0; index < TIMES; index++) {
    for (const view of decodeRecords(batch)) sum += view.offset;
  }
  return { records: records * TIMES, bytes: sum === 0 ? 0 : batch.length * TIMES };
});
