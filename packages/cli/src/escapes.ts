/** Backslash escapes in options, as a shell user expects them: \n \t \r \0 \\ and \xHH for any byte. */
import { utf8Encode } from '@relevo/base/bytes';
import { usageError } from './exit-codes.ts';

const SIMPLE: Readonly<Record<string, number>> = { n: 10, t: 9, r: 13, '0': 0, '\\': 92 };

/** The bytes that `text` stands for. */
export function unescapeBytes(text: string): Uint8Array {
  const bytes: number[] = [];
  const characters = Array.from(text);
  for (let i = 0; i < characters.length; i++) {
    const character = characters[i] ?? '';
    if (character !== '\\') {
      bytes.push(...utf8Encode(character));
      continue;
    }
    const kind = characters[++i] ?? '';
    const simple = SIMPLE[kind];
    const hex = characters.slice(i + 1, i + 3).join('');
    if (simple !== undefined) {
      bytes.push(simple);
    } else if (kind === 'x' && /^[0-9a-fA-F]{2}$/.test(hex)) {
      bytes.push(Number.parseInt(hex, 16));
      i += 2;
    } else {
      throw usageError(
        `"\\${kind}" in "${text}" is no escape; there are \\n \\t \\r \\0 \\\\ \\xHH`,
      );
    }
  }
  return Uint8Array.from(bytes);
}
