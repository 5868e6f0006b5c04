import { expect, test } from 'vitest';
import type { StartPosition } from '@relevo/client';
import { parsePosition } from '@relevo/cli/position';

const NOW = Date.UTC(2026, 10, 21, 12);

test.each<[string, StartPosition]>([
  ['earliest', 'earliest'],
  ['latest', 'latest'],
  ['0', { offset: 0 }],
  ['1795248000000', { offset: 1795248000000 }],
  ['@1795248000000', { timestamp: 1795248000000 }],
  ['2026-11-21T08:00:00Z', { timestamp: Date.UTC(2026, 10, 21, 8) }],
  ['2026-11-21', { timestamp: Date.UTC(2026, 10, 21) }],
  ['90s', { timestamp: NOW - 90_000 }],
  ['15m', { timestamp: NOW - 900_000 }],
  ['2h', { timestamp: NOW - 7_200_000 }],
  ['1d', { timestamp: NOW - 86_400_000 }],
])('--from %s', (text, expected) => {
  expect(parsePosition(text, NOW)).toEqual(expected);
});

test.each(['', 'first', '-1', '1.5', '2026-13-45', '99999999999999999999', '@x', '3w'])(
  '--from %j is refused, with what it may be',
  (text) => {
    expect(() => parsePosition(text, NOW)).toThrow('it must be earliest, latest, an offset (42)');
  },
);
