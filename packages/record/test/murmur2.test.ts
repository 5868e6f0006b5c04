import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { utf8Encode } from '@relevo/base/bytes';
import { murmur2, murmur2OfAscii, partitionForKey } from '@relevo/record/murmur2';

describe('murmur2', () => {
  // Kafka's own UtilsTest.testMurmur2.
  test.each([
    ['21', -973932308],
    ['foobar', -790332482],
    ['a-little-bit-long-string', -985981536],
    ['a-little-bit-longer-string', -1486304829],
    ['lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8', -58897971],
    ['abc', 479470107],
  ])('of %s is what Kafka computes', (text, expected) => {
    expect(murmur2(utf8Encode(text))).toBe(expected);
    expect(murmur2OfAscii(text)).toBe(expected);
  });

  test('a partition is never negative', () => {
    expect(partitionForKey(utf8Encode('foobar'), 6)).toBe((-790332482 & 0x7fffffff) % 6);
    fc.assert(
      fc.property(fc.uint8Array(), fc.integer({ min: 1, max: 10_000 }), (key, partitions) => {
        const partition = partitionForKey(key, partitions);
        expect(partition).toBeGreaterThanOrEqual(0);
        expect(partition).toBeLessThan(partitions);
      }),
    );
  });

  test('text gives the hash of its bytes, or nothing where it is not ASCII', () => {
    fc.assert(
      fc.property(fc.string({ unit: 'binary' }), (text) => {
        const ascii = /^[\0-\x7f]*$/.test(text);
        expect(murmur2OfAscii(text)).toBe(ascii ? murmur2(utf8Encode(text)) : undefined);
      }),
    );
  });
});
