import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { LINE_BYTES_MAX, LineSplitter, indexOfBytes } from '@relevo/cli/lines';

const bytes = (text: string): Uint8Array => new TextEncoder().encode(text);

function split(chunks: readonly Uint8Array[]): string[] {
  const splitter = new LineSplitter();
  const lines = [...chunks.flatMap((chunk) => [...splitter.push(chunk)]), ...splitter.end()];
  expect(splitter.lines).toBe(lines.length);
  return lines.map((line) => Buffer.from(line).toString('latin1'));
}

describe('lines', () => {
  test.each<[string, string[], string[]]>([
    ['nothing', [], []],
    ['an empty chunk', [''], []],
    ['two lines', ['a\nb\n'], ['a', 'b']],
    ['a last line without LF counts', ['a\nb'], ['a', 'b']],
    ['a CR belongs to the line', ['a\r\nb\r\n'], ['a\r', 'b\r']],
    ['empty lines count', ['\n\na\n\n'], ['', '', 'a', '']],
    ['a line over three chunks', ['one ', 'two ', 'three\nfour'], ['one two three', 'four']],
    ['a LF at the start of a chunk', ['a', '\nb', '\n'], ['a', 'b']],
  ])('%s', (_, chunks, expected) => {
    expect(split(chunks.map(bytes))).toEqual(expected);
  });

  test('any bytes come back as they were, however they are cut', () => {
    fc.assert(
      fc.property(
        fc.array(fc.constantFrom(0, 10, 13, 65, 255), { maxLength: 200 }),
        fc.array(fc.nat(40), { maxLength: 10 }),
        (input, cuts) => {
          const whole = Uint8Array.from(input);
          const chunks: Uint8Array[] = [];
          let at = 0;
          for (const cut of cuts)
            chunks.push(whole.subarray(at, (at = Math.min(at + cut, input.length))));
          chunks.push(whole.subarray(at));
          const text = Buffer.from(whole).toString('latin1');
          const expected = text.split('\n');
          if (expected.at(-1) === '') expected.pop();
          expect(split(chunks)).toEqual(expected);
        },
      ),
    );
  });

  test('input without a LF is refused before it fills the memory', () => {
    const splitter = new LineSplitter();
    const chunk = new Uint8Array(LINE_BYTES_MAX / 4).fill(65);
    const feed = (): void => {
      for (let i = 0; i < 5; i++) for (const _ of splitter.push(chunk)) expect.unreachable();
    };
    expect(feed).toThrow('line 1 is longer than 64 MiB');
  });
});

describe('the separator of key and value', () => {
  test.each<[string, string, number]>([
    ['key:value', ':', 3],
    ['key::value', '::', 3],
    ['a:b::c', '::', 3],
    ['aab', 'ab', 1],
    ['aaab', 'aab', 1],
    ['none', ':', -1],
    [':', ':', 0],
    ['a:', '::', -1],
    ['', ':', -1],
  ])('%s at %s: %i', (line, separator, at) => {
    expect(indexOfBytes(bytes(line), bytes(separator))).toBe(at);
  });
});
