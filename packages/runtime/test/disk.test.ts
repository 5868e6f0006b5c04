import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { chmodSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { NodeDisk } from '@relevo/runtime/disk';
import { diskErrorFrom } from '@relevo/runtime/disk-error';
import { diskContract } from '../../base/test/disk-contract.ts';

const temporary = (): { root: string; dispose: () => void } => {
  const root = mkdtempSync(join(tmpdir(), 'relevo-disk-'));
  return { root, dispose: () => rmSync(root, { recursive: true, force: true }) };
};

diskContract('NodeDisk', () => ({ disk: new NodeDisk(), ...temporary() }));

describe('NodeDisk: errors', () => {
  test.each([
    ['ENOSPC', 'FULL'],
    ['EDQUOT', 'FULL'],
    ['EACCES', 'DENIED'],
    ['EROFS', 'DENIED'],
    ['ENOENT', 'NOT_FOUND'],
    ['EEXIST', 'EXISTS'],
    ['EIO', 'IO'],
    ['EMFILE', 'IO'],
  ])('%s is %s', (errno, code) => {
    const error = diskErrorFrom(Object.assign(new Error('x'), { code: errno }), 'write', '/p');
    expect(error).toMatchObject({ code, path: '/p', message: `cannot write /p: ${errno}` });
  });

  test('a full device says FULL', () => {
    const file = new NodeDisk().open('/dev/full', 'existing');
    expect(() => file.write(Uint8Array.of(1), 0)).toThrowError(
      expect.objectContaining({ code: 'FULL' }),
    );
    file.close();
  });
});

describe('NodeDisk: locks', () => {
  test('a lock is held against another process, and is free once that one was killed', async () => {
    const { root, dispose } = temporary();
    const script = `
      import { NodeDisk } from '@relevo/runtime/disk';
      new NodeDisk().lock(${JSON.stringify(root)});
      console.log('locked');
      setInterval(() => {}, 1000);`;
    const child = spawn(
      process.execPath,
      ['--import', 'tsx', '--conditions=@relevo/source', '--input-type=module', '-e', script],
      { cwd: new URL('..', import.meta.url), stdio: ['ignore', 'pipe', 'inherit'] },
    );
    try {
      await once(child.stdout, 'data');
      expect(() => new NodeDisk().lock(root)).toThrowError(
        `in use by process ${child.pid}; stop it`,
      );
      const exited = once(child, 'exit');
      child.kill('SIGKILL');
      await exited;
      const lock = new NodeDisk().lock(root);
      expect(readFileSync(join(root, '.lock'), 'utf8')).toMatch(`${process.pid} `);
      lock.release();
    } finally {
      child.kill('SIGKILL');
      dispose();
    }
  });

  test.each([
    ['of our own id, before a restart', `${process.pid} 1\n`],
    ['of a reused id', `${process.ppid} 1\n`],
    ['empty', ''],
    ['of nobody', '999999999 5\n'],
    ['garbage', 'garbage'],
  ])('a stale lock %s gives way', (_, content) => {
    const { root, dispose } = temporary();
    writeFileSync(join(root, '.lock'), content);
    new NodeDisk().lock(root).release();
    expect(new NodeDisk().list(root)).toEqual([]);
    dispose();
  });

  test('a lock of a live process stands', () => {
    const { root, dispose } = temporary();
    writeFileSync(join(root, '.lock'), `${process.ppid}\n`);
    expect(() => new NodeDisk().lock(root)).toThrowError(
      expect.objectContaining({ code: 'LOCKED' }),
    );
    dispose();
  });

  test.skipIf(process.getuid?.() === 0)('a directory that may not be written is DENIED', () => {
    const { root, dispose } = temporary();
    chmodSync(root, 0o500);
    expect(() => new NodeDisk().lock(root)).toThrowError(
      expect.objectContaining({ code: 'DENIED' }),
    );
    chmodSync(root, 0o700);
    dispose();
  });
});
