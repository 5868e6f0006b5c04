import { spawn, type ChildProcessByStdio } from 'node:child_process';
import { once } from 'node:events';
import { chmodSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Readable } from 'node:stream';
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

/** Another process, which says when it has the lock and then does nothing. */
const lockingChild = (root: string): ChildProcessByStdio<null, Readable, null> => {
  const script = `
    import { NodeDisk } from '@relevo/runtime/disk';
    new NodeDisk().lock(${JSON.stringify(root)});
    console.log('locked');
    setInterval(() => {}, 1000);`;
  return spawn(
    process.execPath,
    ['--import', 'tsx', '--conditions=@relevo/source', '--input-type=module', '-e', script],
    { cwd: new URL('..', import.meta.url), stdio: ['ignore', 'pipe', 'inherit'] },
  );
};

describe('NodeDisk: locks', () => {
  test('a lock is held against another process, and is free once that one was killed', async () => {
    const { root, dispose } = temporary();
    const child = lockingChild(root);
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

  test.skipIf(process.platform === 'win32')(
    'a lock whose holder is of another PID namespace stands, while that is frozen too',
    async () => {
      const { root, dispose } = temporary();
      const child = lockingChild(root);
      try {
        await once(child.stdout, 'data');
        // As it looks where the holder has our own process id: to the file alone it would be stale.
        writeFileSync(join(root, '.lock'), `${process.pid} 1\n`);
        child.kill('SIGSTOP');
        expect(() => new NodeDisk().lock(root)).toThrowError(
          expect.objectContaining({
            code: 'LOCKED',
            message: expect.stringContaining('in use by'),
          }),
        );
        const exited = once(child, 'exit');
        child.kill('SIGKILL');
        await exited;
        new NodeDisk().lock(root).release();
        expect(new NodeDisk().list(root)).toEqual([]);
      } finally {
        child.kill('SIGKILL');
        dispose();
      }
    },
  );

  test('a lock of a live process stands', () => {
    const { root, dispose } = temporary();
    writeFileSync(join(root, '.lock'), `${process.ppid}\n`);
    expect(() => new NodeDisk().lock(root)).toThrowError(
      expect.objectContaining({ code: 'LOCKED' }),
    );
    dispose();
  });

  test.skipIf(process.platform !== 'linux')(
    'a holder that was killed and never reaped (a zombie) is gone; while it lives it stands',
    async () => {
      const { root, dispose } = temporary();
      // What `exec` leaves is a parent that never waits for its child; the shell before it does.
      const script = 'sleep 600 & echo $!; exec sleep 600';
      const parent = spawn('sh', ['-c', script], { stdio: ['ignore', 'pipe', 'inherit'] });
      let pid = 0;
      let running = false;
      try {
        const [line] = (await once(parent.stdout, 'data')) as [Buffer];
        pid = Number(line.toString());
        running = true;
        const stat = (): string[] =>
          readFileSync(`/proc/${pid}/stat`, 'utf8').replace(/.*\) /, '').split(' ');
        writeFileSync(join(root, '.lock'), `${pid} ${stat()[19]}\n`);
        expect(() => new NodeDisk().lock(root)).toThrowError(`in use by process ${pid}; stop it`);
        const parentName = (): string => readFileSync(`/proc/${parent.pid}/comm`, 'utf8');
        await expect.poll(parentName, { timeout: 5000 }).toBe('sleep\n');
        process.kill(pid, 'SIGKILL');
        running = false;
        await expect.poll(() => stat()[0], { timeout: 5000 }).toBe('Z');
        new NodeDisk().lock(root).release();
        expect(stat()[0]).toBe('Z');
      } finally {
        parent.kill('SIGKILL');
        if (running) process.kill(pid, 'SIGKILL');
        dispose();
      }
    },
  );

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
