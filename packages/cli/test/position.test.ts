import { expect, test } from 'vitest';
import { parsePosition, type Position } from '@relevo/cli/position';

const NOW = Date.UTC(2026, 10, 21, 12);

test.each<[string, Position]>([
  ['earliest', { kind: 'earliest' }],
  ['latest', { kind: 'latest' }],
  ['0', { kind: 'offset', offset: 0 }],
  ['1795248000000', { kind: 'offset', offset: 1795248000000 }],
  ['@1795248000000', { kind: 'timestamp', timestampMs: 1795248000000 }],
  ['2026-11-21T08:00:00Z', { kind: 'timestamp', timestampMs: Date.UTC(2026, 10, 21, 8) }],
  ['2026-11-21', { kind: 'timestamp', timestampMs: Date.UTC(2026, 10, 21) }],
  ['90s', { kind: 'timestamp', timestampMs: NOW - 90_000 }],
  ['15m', { kind: 'timestamp', timestampMs: NOW - 900_000 }],
  ['2h', { kind: 'timestamp', timestampMs: NOW - 7_200_000 }],
  ['1d', { kind: 'timestamp', timestampMs: NOW - 86_400_000 }],
])('--from %s', (text, expected) => {
  expect(parsePosition(text, NOW)).toEqual(expected);
});

test.each(['', 'first', '-1', '1.5', '2026-13-45', '99999999999999999999', '@x', '3w'])(
  '--from %j is refused, with what it may be',
  (text) => {
    expect(() => parsePosition(text, NOW)).toThrow('it must be earliest, latest, an offset (42)');
  },
);
