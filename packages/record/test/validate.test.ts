import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { producerEpoch, producerId } from '@relevo/base/ids';
import { BATCH_ERRORS, BatchError } from '@relevo/record/batch-error';
import type { BatchErrorCode } from '@relevo/record/batch-error';
import { writeCrc } from '@relevo/record/batch-header';
import { crc32c } from '@relevo/record/crc32c';
import { decodeRecords } from '@relevo/record/records';
import { ANY_BATCH, batchesOf, validateBatch } from '@relevo/record/validate';
import type { BatchLimits } from '@relevo/record/validate';
import { readFileSync } from 'node:fs';
import { anyRecords, batchOf, record } from './batches.ts';

const WHOLE: BatchLimits = { maxBytes: 1_000_000, records: 'whole' };

function codeOf(run: () => unknown): BatchErrorCode | 'accepted' {
  try {
    run();
    return 'accepted';
  } catch (error) {
    if (error instanceof BatchError) return error.code;
    throw error;
  }
}

const check = (bytes: Uint8Array, limits = WHOLE): BatchErrorCode | 'accepted' =>
  codeOf(() => validateBatch(bytes, 0, bytes.length, crc32c, limits));

/** Changes the batch and gives it a matching CRC: a lie, not an accident. */
function lie(batch: Uint8Array, change: (view: DataView) => void): Uint8Array {
  const bytes = batch.slice();
  change(new DataView(bytes.buffer));
  writeCrc(bytes, 0, bytes.length, crc32c);
  return bytes;
}

const THREE = batchOf([record('a'), record('b'), record('c')]);
const IDEMPOTENT = batchOf([record('a')], {
  producerId: producerId(7),
  producerEpoch: producerEpoch(0),
  baseSequence: 0,
});

describe('refused', () => {
  const cases: readonly [string, BatchErrorCode, Uint8Array][] = [
    ['nothing at all', 'TRUNCATED', new Uint8Array(0)],
    ['half a header', 'TRUNCATED', THREE.subarray(0, 40)],
    ['a cut batch', 'TRUNCATED', THREE.subarray(0, THREE.length - 1)],
    ['a length below a header', 'TOO_SMALL', lieAt(8, (view) => view.setInt32(8, 48))],
    ['a negative length', 'TOO_SMALL', lieAt(8, (view) => view.setInt32(8, -5))],
    ['a length above the limit', 'TOO_LARGE', lieAt(8, (view) => view.setInt32(8, 2_000_000))],
    ['another magic', 'BAD_MAGIC', lie(THREE, (view) => view.setInt8(16, 1))],
    ['a reserved attribute', 'BAD_ATTRIBUTES', lie(THREE, (view) => view.setInt16(21, 0x100))],
    ['a delete horizon', 'BAD_ATTRIBUTES', lie(THREE, (view) => view.setInt16(21, 0x40))],
    ['codec 5', 'BAD_COMPRESSION', lie(THREE, (view) => view.setInt16(21, 5))],
    ['a count above', 'BAD_COUNT', lie(THREE, (view) => view.setInt32(57, 4))],
    ['a count below', 'BAD_COUNT', lie(THREE, (view) => view.setInt32(57, 2))],
    ['a count and delta above', 'BAD_COUNT', lie(THREE, (view) => count(view, 4))],
    ['a count and delta below', 'BAD_COUNT', lie(THREE, (view) => count(view, 2))],
    ['a negative count', 'BAD_COUNT', lie(THREE, (view) => view.setInt32(57, -1))],
    ['no records', 'BAD_COUNT', lie(THREE, (view) => count(view, 0))],
    ['an unsafe base offset', 'BAD_OFFSET', lie(THREE, (view) => view.setInt32(0, 2 ** 30))],
    ['an offset delta out of turn', 'BAD_OFFSET', lie(THREE, (view) => view.setInt8(64, 2))],
    ['a max timestamp below', 'BAD_TIMESTAMP', lie(THREE, (view) => view.setInt32(39, 1))],
    ['a timestamp below -1', 'BAD_TIMESTAMP', lie(THREE, (view) => view.setInt32(27, -9))],
    ['a record that is too long', 'BAD_LENGTH', lie(THREE, (view) => view.setInt8(61, 126))],
    ['a record of no bytes', 'BAD_LENGTH', lie(THREE, (view) => view.setInt8(61, 0))],
    ['a value beyond its record', 'BAD_LENGTH', lie(THREE, (view) => view.setInt8(66, 60))],
    [
      'a value that leaves bytes over',
      'BAD_LENGTH',
      lie(batchOf([record('\0')]), (view) => view.setInt8(66, 0)),
    ],
    ['more headers than bytes', 'BAD_COUNT', lie(THREE, (view) => view.setInt8(68, 8))],
    ['record attributes', 'BAD_RECORD', lie(THREE, (view) => view.setInt8(62, 1))],
    ['no sequence', 'BAD_SEQUENCE', lie(IDEMPOTENT, (view) => view.setInt32(53, -1))],
    ['no producer epoch', 'BAD_SEQUENCE', lie(IDEMPOTENT, (view) => view.setInt16(51, -1))],
    ['a transaction of nobody', 'BAD_SEQUENCE', lie(THREE, (view) => view.setInt16(21, 16))],
    ['a producer id of -2', 'BAD_SEQUENCE', lie(IDEMPOTENT, (view) => view.setInt32(43, -2))],
  ];
  test.each(cases)('%s is %s', (_name, code, bytes) => {
    expect(check(bytes)).toBe(code);
  });

  function lieAt(_at: number, change: (view: DataView) => void): Uint8Array {
    const bytes = THREE.slice();
    change(new DataView(bytes.buffer));
    return bytes;
  }
  function count(view: DataView, records: number): void {
    view.setInt32(57, records);
    view.setInt32(23, Math.max(0, records - 1));
  }
});

test('any changed byte under the checksum is refused', () => {
  const covered = (at: number): boolean => !(at < 8 || (at >= 12 && at < 16));
  fc.assert(
    fc.property(anyRecords, fc.nat(), fc.integer({ min: 1, max: 255 }), (records, where, flip) => {
      const batch = batchOf(records);
      const at = where % batch.length;
      fc.pre(covered(at));
      batch[at] = (batch[at] ?? 0) ^ flip;
      expect(check(batch)).not.toBe('accepted');
    }),
  );
});

test('a lie with a matching checksum gives a BatchError or a batch that decodes', () => {
  fc.assert(
    fc.property(anyRecords, fc.nat(), fc.nat(255), (records, where, value) => {
      const good = batchOf(records);
      const at = 17 + (where % (good.length - 17));
      const bytes = lie(good, (view) => view.setUint8(at, value));
      if (check(bytes) !== 'accepted') return;
      const header = validateBatch(bytes, 0, bytes.length, crc32c, WHOLE);
      if (header.compression !== 'none') return;
      const decoded = decodeRecords(bytes);
      expect(decoded.length).toBe(header.recordCount);
      for (const view of decoded) expect(view.headers.length).toBeGreaterThanOrEqual(0);
    }),
    { numRuns: 1000 },
  );
});

test('arbitrary bytes are refused, never a crash', () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 300 }), (bytes) => {
      expect(check(bytes)).not.toBe('accepted');
      expect(codeOf(() => decodeRecords(bytes))).not.toBe('accepted');
    }),
  );
});

test('zeros beside no producer id are let through: some clients send them', () => {
  const bytes = lie(THREE, (view) => {
    view.setInt16(51, 0);
    view.setInt32(53, 0);
  });
  expect(check(bytes)).toBe('accepted');
});

test('a log may hold batches that compaction has thinned, a producer may not send them', () => {
  const emptied = lie(THREE.slice(0, 61), (view) => {
    view.setInt32(8, 49);
    view.setInt32(57, 0);
  });
  expect(check(emptied, ANY_BATCH)).toBe('accepted');
  expect(check(emptied)).toBe('BAD_COUNT');
  const record1 = THREE.slice(61, 69);
  const gap = new Uint8Array(61 + record1.length);
  gap.set(THREE.subarray(0, 61));
  gap.set(record1, 61);
  const thinned = lie(gap, (view) => {
    view.setInt32(8, gap.length - 12);
    view.setInt32(57, 1);
    view.setInt8(64, 4);
  });
  expect(check(thinned, ANY_BATCH)).toBe('accepted');
  expect(check(thinned)).toBe('BAD_COUNT');
});

describe('batchesOf', () => {
  const run = Buffer.concat([THREE, IDEMPOTENT, THREE]);
  const first = THREE.length;
  const second = first + IDEMPOTENT.length;

  test('finds the boundaries', () => {
    expect([...batchesOf(run)].map(({ at, complete }) => [at, complete])).toEqual([
      [0, true],
      [first, true],
      [second, true],
    ]);
  });

  test.each([1, 11, 12, 40, THREE.length - 1])(
    'reports a last batch of which %d bytes are there',
    (rest) => {
      const slices = [...batchesOf(run, 0, second + rest)];
      expect(slices.at(-1)).toMatchObject({ at: second, complete: false });
      expect(slices.length).toBe(3);
    },
  );

  test('throws at a length that no batch has', () => {
    const bytes = Buffer.from(run);
    bytes.writeInt32BE(3, first + 8);
    expect(codeOf(() => [...batchesOf(bytes)])).toBe('TOO_SMALL');
  });
});

test('every error code stands in README.md with its meaning', () => {
  const readme = readFileSync(new URL('../README.md', import.meta.url), 'utf8');
  for (const [code, { meaning }] of Object.entries(BATCH_ERRORS)) {
    expect(readme).toMatch(new RegExp(`\\| ${code} +\\|`));
    expect(readme).toContain(meaning);
  }
});
