import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

const LOGHUB = fileURLToPath(new URL('../../../shared/data/loghub', import.meta.url));

export interface InputFile {
  /** Legal as a topic name. */
  readonly name: string;
  readonly bytes: Buffer;
  /** Without their LF; a CR stays. */
  readonly lines: readonly Buffer[];
}

/** Real logs where they are at hand, else made ones with what makes lines hard. */
export function realInput(): InputFile[] {
  if (!existsSync(LOGHUB)) return [madeInput('made-1', 1), madeInput('made-2', 2)];
  return readdirSync(LOGHUB)
    .filter((name) => name.endsWith('.log'))
    .map((name) => inputFile(name, readFileSync(join(LOGHUB, name))));
}

/** Empty lines, CRLF, bytes that are no UTF-8, long lines, repeated lines, no LF at the end. */
function madeInput(name: string, seed: number): InputFile {
  const parts: Buffer[] = [];
  for (let i = 0; i < 2000; i++) {
    const kind = (i * 7 + seed) % 11;
    if (kind === 0) parts.push(Buffer.from('\n'));
    else if (kind === 1) parts.push(Buffer.from('the same line\r\n'));
    else if (kind === 2) parts.push(Buffer.from([0xff, 0xfe, 0x00, (i & 0x7f) | 0x80, 0x0a]));
    else if (kind === 3) parts.push(Buffer.from(`${'long '.repeat(2000)}${i}\n`));
    else parts.push(Buffer.from(`081109 203615 ${i} INFO dfs.DataNode: größe ${seed}\n`));
  }
  return inputFile(name, Buffer.concat([...parts, Buffer.from('no newline at the end')]));
}

function inputFile(name: string, bytes: Buffer): InputFile {
  const lines: Buffer[] = [];
  let start = 0;
  for (let at = bytes.indexOf(0x0a); at >= 0; at = bytes.indexOf(0x0a, start)) {
    lines.push(bytes.subarray(start, at));
    start = at + 1;
  }
  if (start < bytes.length) lines.push(bytes.subarray(start));
  return { name, bytes, lines };
}
