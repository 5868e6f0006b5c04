/** Where results go, and what becomes of them when nobody takes them. */
import { openSync } from 'node:fs';
import { spawnSync } from 'node:child_process';
import { PassThrough, Writable } from 'node:stream';
import { fileURLToPath } from 'node:url';
import { describe, expect, test } from 'vitest';
import { Output } from '@relevo/cli/output';

const stderr = new PassThrough().resume();

/** A stdout whose writes fail with `code`. */
const failing = (code: string): Writable =>
  new Writable({
    write: (_chunk, _encoding, done) => done(Object.assign(new Error(`${code}: no`), { code })),
  });

describe('results that cannot be written', () => {
  test('are a failure', async () => {
    const out = new Output({ stdout: failing('ENOSPC'), stderr }, false);
    out.line('a result');
    await expect(out.settled()).rejects.toThrow(
      'stdout cannot be written: ENOSPC: no; what was printed is not complete',
    );
    expect(out.open).toBe(false);
    expect(out.gone.aborted).toBe(true);
  });

  test('are none where the reader has seen enough', async () => {
    const out = new Output({ stdout: failing('EPIPE'), stderr }, false);
    await out.bytes(Buffer.from('a result'));
    await out.settled();
    expect(out.open).toBe(false);
  });

  test.skipIf(process.platform !== 'linux').each([['--help'], ['health', '--help'], ['--version']])(
    'of relevo %s on a full disk end with 1',
    (...argv) => {
      const main = fileURLToPath(new URL('../src/main.ts', import.meta.url));
      const ended = spawnSync(
        process.execPath,
        ['--import', 'tsx', '--conditions=@relevo/source', main, ...argv],
        { stdio: ['ignore', openSync('/dev/full', 'w'), 'pipe'], encoding: 'utf8' },
      );
      expect(ended.stderr).toMatch(/^relevo: stdout cannot be written: ENOSPC[^\n]*\n$/);
      expect(ended.status).toBe(1);
    },
  );
});

describe('a slow reader', () => {
  test('is waited for, without a listener left behind', async () => {
    const stdout = new PassThrough({ highWaterMark: 10 });
    const out = new Output({ stdout, stderr }, false);
    const listeners = (): number[] =>
      ['drain', 'close', 'error'].map((event) => stdout.listenerCount(event));
    const before = listeners();
    for (let round = 0; round < 20; round++) {
      let written = false;
      const both = Promise.all([
        out.bytes(Buffer.alloc(20)).then(() => (written = true)),
        out.bytes(Buffer.alloc(20)),
      ]);
      await new Promise((resolve) => setImmediate(resolve));
      expect(written).toBe(false);
      stdout.read();
      await both;
    }
    expect(listeners()).toEqual(before);
  });

  test('who goes meanwhile is not waited for', async () => {
    const stdout = new PassThrough({ highWaterMark: 10 });
    const out = new Output({ stdout, stderr }, false);
    const waiting = out.bytes(Buffer.alloc(20));
    stdout.destroy();
    await waiting;
    expect(out.open).toBe(false);
  });
});
