import { createHash } from 'node:crypto';
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { sha256Hex } from '@relevo/base/sha256';

const judge = (bytes: Uint8Array): string => createHash('sha256').update(bytes).digest('hex');

test('of messages around the length of a block', () => {
  for (let length = 0; length <= 200; length++) {
    const bytes = Uint8Array.from({ length }, (_, index) => (index * 37 + length) % 256);
    expect(sha256Hex(bytes)).toBe(judge(bytes));
  }
});

test('of any bytes', () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 1000 }), (bytes) => {
      expect(sha256Hex(bytes)).toBe(judge(bytes));
    }),
  );
});
