import { describe, expect, test } from 'vitest';
import { compileFormat, type ShownRecord } from '@relevo/cli/record-format';

const bytes = (text: string): Uint8Array => new TextEncoder().encode(text);
const record: ShownRecord = {
  topic: 'orders',
  partition: 3,
  offset: 42,
  timestamp: Date.UTC(2026, 10, 21, 8, 30),
  key: bytes('k1'),
  value: bytes('paid €'),
  headers: [
    ['source', bytes('web')],
    ['empty', null],
  ],
};

const show = (format: string, changes: Partial<ShownRecord> = {}): Uint8Array =>
  compileFormat(format)({ ...record, ...changes });
const text = (format: string, changes: Partial<ShownRecord> = {}): string =>
  new TextDecoder().decode(show(format, changes));

describe('formats', () => {
  test.each([
    ['%o %k %v\\n', '42 k1 paid €\n'],
    ['%t-%p@%o', 'orders-3@42'],
    ['%T|%d', '1795249800000|2026-11-21T08:30:00.000Z'],
    ['%h', 'source=web,empty='],
    ['%K/%S', '2/8'],
    ['%s', 'paid €'],
    ['100%% \\t\\\\\\x41', '100% \t\\A'],
    ['', ''],
    ['a\nb', 'a\nb'],
  ])('%j', (format, expected) => {
    expect(text(format)).toBe(expected);
  });

  test('no key and no value are written as nothing', () => {
    expect(text('[%k][%v] %K %S', { key: null, value: null })).toBe('[][] -1 -1');
  });

  test('bytes that are not UTF-8 come out as they are', () => {
    const value = Uint8Array.of(0, 255, 10, 128);
    expect(show('%v', { value })).toEqual(value);
  });

  test('a timestamp that is no date is shown as a number', () => {
    expect(text('%d', { timestamp: 9e15 })).toBe('9000000000000000');
  });

  test.each([
    ['%x', '"%x" in --format is no field'],
    ['ends in %', '"%" in --format is no field'],
    ['\\q', '"\\q" in "\\q" is no escape'],
    ['\\x4', '"\\x" in "\\x4" is no escape'],
  ])('%j is refused', (format, message) => {
    expect(() => compileFormat(format)).toThrow(message);
  });
});

describe('JSON', () => {
  test('one object a line', () => {
    expect(JSON.parse(text('json'))).toEqual({
      topic: 'orders',
      partition: 3,
      offset: 42,
      timestamp: 1795249800000,
      key: 'k1',
      value: 'paid €',
      headers: [
        { key: 'source', value: 'web' },
        { key: 'empty', value: null },
      ],
    });
    expect(text('json')).toMatch(/^[^\n]*\n$/);
  });

  test('bytes that are not UTF-8 come as base64', () => {
    const shown: unknown = JSON.parse(text('json', { value: Uint8Array.of(255, 0), key: null }));
    expect(shown).toMatchObject({ key: null, value: '/wA=', valueEncoding: 'base64' });
  });
});
