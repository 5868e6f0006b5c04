import { readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { Interpreter, parseTranscript, printTranscript } from './transcript.ts';

const DIRECTORY = join(import.meta.dirname, 'transcripts');
const REWRITE = process.env['RELEVO_REWRITE'] === '1';

describe('transcripts', () => {
  const files = readdirSync(DIRECTORY).filter((name) => name.endsWith('.txt'));
  test.each(files)('%s', (name) => {
    const path = join(DIRECTORY, name);
    const blocks = parseTranscript(readFileSync(path, 'utf8'));
    const interpreter = new Interpreter();
    const outputs = blocks.map((block) => {
      const output = interpreter.run(block);
      if (!REWRITE) expect(output, block.commands.join('; ')).toBe(block.expected);
      return output;
    });
    if (REWRITE) writeFileSync(path, printTranscript(blocks, outputs));
  });
});
