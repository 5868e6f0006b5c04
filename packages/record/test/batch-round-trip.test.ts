import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { utf8Decode, utf8Encode } from '@relevo/base/bytes';
import { leaderEpoch, offset, producerEpoch, producerId } from '@relevo/base/ids';
import { BatchBuilder } from '@relevo/record/batch-builder';
import type { FieldInput } from '@relevo/record/batch-builder';
import {
  BATCH_OVERHEAD,
  baseOffsetAt,
  leaderEpochAt,
  maxTimestampAt,
  nextOffsetAt,
  patchBatch,
  patchLogAppendTime,
  patchProducer,
  readBatchHeader,
  recordCountAt,
  sequenceAfter,
  sizeInBytesAt,
} from '@relevo/record/batch-header';
import { crc32c } from '@relevo/record/crc32c';
import { decodeRecords } from '@relevo/record/records';
import { ANY_BATCH, validateBatch, verifyCrc } from '@relevo/record/validate';
import type { BatchLimits } from '@relevo/record/validate';
import { anyRecords, batchOf, record } from './batches.ts';

const asBytes = (field: FieldInput): Uint8Array | null =>
  typeof field === 'string' ? utf8Encode(field) : field;
const WHOLE: BatchLimits = { maxBytes: 10_000_000, records: 'whole' };

describe('what the builder writes', () => {
  test('is what the reader gives back', () => {
    fc.assert(
      fc.property(anyRecords, fc.maxSafeNat(), (records, base) => {
        const baseOffset = offset(Math.max(0, base - records.length));
        const batch = batchOf(records, { baseOffset });
        const header = validateBatch(batch, 0, batch.length, crc32c, WHOLE);
        expect(header.sizeInBytes).toBe(batch.length);
        expect(header.recordCount).toBe(records.length);
        const decoded = decodeRecords(batch).map((view) => ({
          offset: view.offset,
          key: view.key && Uint8Array.from(view.key),
          value: view.value && Uint8Array.from(view.value),
          headers: view.headers.map(([name, value]) => [name, value && Uint8Array.from(value)]),
          timestamp: view.timestamp,
        }));
        const expected = records.map((input, index) => ({
          offset: baseOffset + index,
          key: asBytes(input.key),
          value: asBytes(input.value),
          // A lone surrogate becomes U+FFFD, as everywhere in JavaScript.
          headers: input.headers.map(([name, value]) => [utf8Decode(utf8Encode(name)), value]),
          timestamp: input.timestamp,
        }));
        expect(decoded).toEqual(expected);
      }),
    );
  });

  test('has exactly the size that was foretold', () => {
    fc.assert(
      fc.property(anyRecords, (records) => {
        const builder = new BatchBuilder(BATCH_OVERHEAD);
        for (const { key, value, headers, timestamp } of records) {
          const foretold = builder.sizeAfter(key, value, headers, timestamp);
          expect(builder.tryAppend(key, value, headers, timestamp, foretold - 1)).toBe(false);
          expect(builder.tryAppend(key, value, headers, timestamp, foretold)).toBe(true);
          expect(builder.sizeInBytes).toBe(foretold);
        }
        const size = builder.sizeInBytes;
        expect(builder.build({}, crc32c).length).toBe(size);
      }),
    );
  });

  test('is not disturbed by the batch that the builder writes next', () => {
    const builder = new BatchBuilder();
    builder.append('k', 'first', [], 1);
    const first = builder.build({}, crc32c);
    const copy = first.slice();
    builder.append('k', 'second', [], 2);
    builder.build({}, crc32c);
    expect(first).toEqual(copy);
  });

  // Written by hand from the format's definition (KIP-98); the checksum is of the bytes after it.
  test('is Kafka’s format, byte for byte', () => {
    const batch = batchOf(
      [
        record('v0', { key: 'k', timestamp: 1000, headers: [['h', Uint8Array.of(7)]] }),
        record(null, { timestamp: 1100 }),
      ],
      {
        baseOffset: offset(258),
        leaderEpoch: leaderEpoch(3),
        producerId: producerId(4097),
        producerEpoch: producerEpoch(5),
        baseSequence: 6,
        isTransactional: true,
      },
    );
    const afterCrc =
      '0010 00000001 00000000000003e8 000000000000044c 0000000000001001 0005 00000006 00000002' +
      '1a 00 00 00 02 6b 04 7630 02 02 68 02 07' +
      '0e 00 c801 02 01 01 00';
    const body = Buffer.from(afterCrc.replaceAll(' ', ''), 'hex');
    const crc = crc32c(body).toString(16).padStart(8, '0');
    const front = `0000000000000102 ${(body.length + 9).toString(16).padStart(8, '0')} 00000003 02`;
    const whole = (front + crc + afterCrc).replaceAll(' ', '');
    expect(Buffer.from(batch).toString('hex')).toBe(whole);
  });
});

describe('changes in place', () => {
  test('base offset and leader epoch leave the checksum right', () => {
    fc.assert(
      fc.property(
        anyRecords,
        fc.nat(2 ** 31 - 1),
        fc.integer({ min: 0, max: 2 ** 52 }),
        (records, epoch, base) => {
          const batch = batchOf(records);
          const before = readBatchHeader(batch);
          patchBatch(batch, 0, { baseOffset: offset(base), leaderEpoch: leaderEpoch(epoch) });
          const after = validateBatch(batch, 0, batch.length, crc32c, WHOLE);
          expect(after).toEqual({
            ...before,
            baseOffset: base,
            lastOffset: base + records.length - 1,
            nextOffset: base + records.length,
            partitionLeaderEpoch: epoch,
          });
        },
      ),
    );
  });

  test('log append time is every record’s time', () => {
    const batch = batchOf([record('a', { timestamp: 5 }), record('b', { timestamp: 9 })]);
    patchLogAppendTime(batch, 0, 1234, crc32c);
    const header = validateBatch(batch, 0, batch.length, crc32c, WHOLE);
    expect(header.timestampType).toBe('logAppendTime');
    expect(decodeRecords(batch).map((view) => view.timestamp)).toEqual([1234, 1234]);
  });

  test('a producer may be given another epoch', () => {
    const batch = batchOf([record('a'), record('b')], {
      producerId: producerId(1),
      producerEpoch: producerEpoch(0),
      baseSequence: 40,
    });
    const fields = { producerId: producerId(1), producerEpoch: producerEpoch(1), baseSequence: 0 };
    patchProducer(batch, 0, fields, crc32c);
    const header = validateBatch(batch, 0, batch.length, crc32c, WHOLE);
    expect(header).toMatchObject({ ...fields, lastSequence: 1 });
  });
});

test('the readers of single fields agree with the whole header', () => {
  const batch = batchOf([record('a'), record('b', { timestamp: 1_800_000_000_000 })], {
    baseOffset: offset(2 ** 40),
    leaderEpoch: leaderEpoch(77),
  });
  const shifted = new Uint8Array(batch.length + 3);
  shifted.set(batch, 3);
  const header = readBatchHeader(shifted, 3);
  expect(baseOffsetAt(shifted, 3)).toBe(header.baseOffset);
  expect(nextOffsetAt(shifted, 3)).toBe(header.nextOffset);
  expect(leaderEpochAt(shifted, 3)).toBe(77);
  expect(maxTimestampAt(shifted, 3)).toBe(1_800_000_000_000);
  expect(sizeInBytesAt(shifted, 3)).toBe(batch.length);
  expect(recordCountAt(shifted, 3)).toBe(2);
  expect(verifyCrc(shifted, 3, batch.length, crc32c)).toBe(true);
  expect(validateBatch(shifted, 3, shifted.length, crc32c, ANY_BATCH)).toEqual(header);
});

test.each([
  [0, 1, 1],
  [2 ** 31 - 1, 1, 0],
  [2 ** 31 - 2, 3, 1],
  [5, 0, 5],
])('sequence %d, %d records on, is %d', (sequence, by, expected) => {
  expect(sequenceAfter(sequence, by)).toBe(expected);
});
