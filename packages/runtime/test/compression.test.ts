import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { BatchBuilder } from '@relevo/record/batch-builder';
import { BatchError } from '@relevo/record/batch-error';
import { COMPRESSION_TYPES } from '@relevo/record/compression';
import type { CompressionType } from '@relevo/record/compression';
import { crc32c as tableCrc32c } from '@relevo/record/crc32c';
import { unpackRecords } from '@relevo/record/records';
import { codecs } from '@relevo/runtime/compression';
import { crc32c } from '@relevo/runtime/crc32c';
import snappy from 'snappy';

const PACKED = COMPRESSION_TYPES.filter((type) => type !== 'none');
const LIMIT = 1 << 20;

async function codeOf(unpacking: Promise<unknown>): Promise<string> {
  try {
    await unpacking;
    return 'accepted';
  } catch (error) {
    if (error instanceof BatchError) return error.code;
    throw error;
  }
}

describe.each(PACKED)('%s', (type) => {
  test('gives back what it was given', async () => {
    const input = fc.oneof(
      fc.uint8Array({ maxLength: 3000 }),
      fc.nat(200_000).map((length) => new Uint8Array(length).fill(97)),
      fc.nat(200_000).map((length) => Uint8Array.from({ length }, (_, at) => (at * at) >> 3)),
    );
    await fc.assert(
      fc.asyncProperty(input, async (bytes) => {
        const packed = await codecs.compress(type, bytes);
        const plain = await codecs.decompress(type, packed, LIMIT);
        expect(Buffer.isBuffer(plain)).toBe(true);
        expect(Buffer.from(plain).equals(bytes)).toBe(true);
      }),
      { numRuns: 40 },
    );
  });

  test('unpacks to the limit and no further', async () => {
    const packed = await codecs.compress(type, new Uint8Array(LIMIT));
    expect(packed.length).toBeLessThan(LIMIT / 10);
    expect(await codeOf(codecs.decompress(type, packed, LIMIT))).toBe('accepted');
    expect(await codeOf(codecs.decompress(type, packed, LIMIT - 1))).toBe('TOO_LARGE');
  });

  test('refuses what is no such stream', async () => {
    const packed = await codecs.compress(type, Buffer.from('some text, some text, some text'));
    const cut = packed.subarray(0, packed.length - 6);
    expect(await codeOf(codecs.decompress(type, cut, LIMIT))).toBe('BAD_COMPRESSED_DATA');
    await fc.assert(
      fc.asyncProperty(fc.uint8Array({ minLength: 1, maxLength: 60 }), async (bytes) => {
        expect(await codeOf(codecs.decompress(type, bytes, LIMIT))).toMatch(
          /^(BAD_COMPRESSED_DATA|TOO_LARGE|accepted)$/,
        );
      }),
      { numRuns: 50 },
    );
  });

  test('packs the records of a batch', async () => {
    const builder = new BatchBuilder();
    for (let index = 0; index < 100; index++) builder.append(`key-${index}`, 'value', [], 1000);
    const records = await codecs.compress(type, builder.records());
    const batch = builder.build({ compressed: { type, records } }, crc32c);
    const views = await unpackRecords(batch, 0, codecs, LIMIT);
    expect(views.map((view) => Buffer.from(view.key ?? []).toString())).toEqual(
      Array.from({ length: 100 }, (_, index) => `key-${index}`),
    );
  });
});

test('a zstd bomb is refused by its block headers', async () => {
  const repeated = (last: number): Buffer => {
    const header = last | (1 << 1) | ((128 * 1024) << 3);
    return Buffer.from([header & 255, (header >> 8) & 255, (header >> 16) & 255, 65]);
  };
  const bomb = Buffer.concat([
    Buffer.from('28b52ffd0070', 'hex'),
    ...Array.from({ length: 100_000 }, () => repeated(0)),
    repeated(1),
  ]);
  expect(await codeOf(codecs.decompress('zstd', bomb, LIMIT))).toBe('TOO_LARGE');
});

test('plain snappy is read beside xerial’s framing', async () => {
  const plain = Buffer.from('as librdkafka writes it, as librdkafka writes it');
  const packed = await snappy.compress(plain);
  expect(Buffer.from(await codecs.decompress('snappy', packed, LIMIT))).toEqual(plain);
  const framed = await codecs.compress('snappy', plain);
  expect(Buffer.from(framed.subarray(0, 16)).toString('hex')).toBe(
    '82534e41505059000000000100000001',
  );
});

// From the command-line tools zstd, lz4 and gzip.
const FOREIGN: readonly [CompressionType, string][] = [
  ['zstd', '28b52ffd04587500004072656c65766f200a01003a8a119730c92e'],
  ['lz4', '04224d186440a7100000007572656c65766f200700506c65766f0a00000000277e690f'],
  ['gzip', '1f8b08000000000000032b4acd492dcb572842a6b8002d84dc4915000000'],
];
test.each(FOREIGN)('%s of another maker is read', async (type, hex) => {
  const plain = await codecs.decompress(type, Buffer.from(hex, 'hex'), LIMIT);
  expect(Buffer.from(plain).toString()).toBe('relevo relevo relevo\n');
});

test('both CRC-32C agree on every length about the change-over', () => {
  const bytes = Uint8Array.from({ length: 600 }, (_, at) => at * 7);
  for (let length = 0; length <= 600; length++) {
    const view = bytes.subarray(600 - length);
    expect(crc32c(view)).toBe(tableCrc32c(view));
  }
});
