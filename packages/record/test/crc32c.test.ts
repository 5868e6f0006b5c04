import { describe, expect, test } from 'vitest';
import { utf8Encode } from '@relevo/base/bytes';
import { crc32c } from '@relevo/record/crc32c';

describe('crc32c', () => {
  // RFC 3720, appendix B.4, and the check value of the CRC catalogue.
  const ascending = Uint8Array.from({ length: 32 }, (_, index) => index);
  const vectors: readonly [string, Uint8Array, number][] = [
    ['nothing', new Uint8Array(0), 0],
    ['123456789', utf8Encode('123456789'), 0xe3069283],
    ['32 zeros', new Uint8Array(32), 0x8a9136aa],
    ['32 ones', new Uint8Array(32).fill(255), 0x62a8ab43],
    ['ascending', ascending, 0x46dd794e],
    ['descending', ascending.toReversed(), 0x113fdb5c],
  ];
  test.each(vectors)('of %s is as published', (_name, bytes, expected) => {
    expect(crc32c(bytes)).toBe(expected);
  });

  test('does not depend on where a view begins', () => {
    const bytes = utf8Encode('xyz123456789');
    expect(crc32c(bytes.subarray(3))).toBe(0xe3069283);
  });
});
