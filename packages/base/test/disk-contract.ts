/**
 * What every disk must do, the real one and the simulated one alike. `makeDisk` gives a disk and an
 * empty directory on it that is the test's own.
 */
import { describe, expect, test } from 'vitest';
import { DiskError } from '@relevo/base/ports';
import type { Disk, DiskErrorCode } from '@relevo/base/ports';
import { utf8Decode, utf8Encode } from '@relevo/base/bytes';

export interface DiskUnderTest {
  readonly disk: Disk;
  /** Without a trailing slash. */
  readonly root: string;
  dispose(): void | Promise<void>;
}

export function diskContract(name: string, makeDisk: () => DiskUnderTest): void {
  const on = (what: string, run: (disk: Disk, root: string) => void | Promise<void>): void => {
    test(what, async () => {
      const made = makeDisk();
      try {
        await run(made.disk, made.root);
      } finally {
        await made.dispose();
      }
    });
  };
  describe(`${name}: files`, () => fileContract(on));
  describe(`${name}: directories`, () => directoryContract(on));
}

type On = (what: string, run: (disk: Disk, root: string) => void | Promise<void>) => void;

function codeOf(run: () => unknown): DiskErrorCode | 'no error' {
  try {
    run();
    return 'no error';
  } catch (thrown) {
    if (thrown instanceof DiskError) return thrown.code;
    throw thrown;
  }
}

function fileContract(on: On): void {
  on('what is written is read, from any position, both ways', async (disk, root) => {
    const file = disk.open(`${root}/a`, 'create');
    file.write(utf8Encode('hello world'), 0);
    file.write(utf8Encode('W'), 6);
    expect(file.size()).toBe(11);
    const into = new Uint8Array(5);
    expect(file.readSync(into, 6)).toBe(5);
    expect(utf8Decode(into)).toBe('World');
    expect(utf8Decode(await file.read(0, 5))).toBe('hello');
    file.close();
  });

  on('a read past the end is short, one beyond it empty', async (disk, root) => {
    const file = disk.open(`${root}/a`, 'create');
    file.write(utf8Encode('abc'), 0);
    expect(file.readSync(new Uint8Array(10), 1)).toBe(2);
    expect(file.readSync(new Uint8Array(10), 3)).toBe(0);
    expect((await file.read(1, 10)).length).toBe(2);
    expect((await file.read(30, 10)).length).toBe(0);
    expect((await file.read(0, 0)).length).toBe(0);
    file.close();
  });

  on('a write beyond the end leaves zeros between', (disk, root) => {
    const file = disk.open(`${root}/a`, 'create');
    file.write(Uint8Array.of(7), 3);
    const into = new Uint8Array(4).fill(9);
    expect(file.readSync(into, 0)).toBe(4);
    expect([...into]).toEqual([0, 0, 0, 7]);
    file.close();
  });

  on('large reads and writes are whole', async (disk, root) => {
    const bytes = new Uint8Array(3_000_001).map((_, index) => index % 251);
    const file = disk.open(`${root}/a`, 'create');
    file.write(bytes, 0);
    await file.datasync();
    const back = await file.read(0, bytes.length);
    expect(back.length).toBe(bytes.length);
    expect(back.every((byte, index) => byte === index % 251)).toBe(true);
    file.close();
  });

  on(
    'open modes: create keeps what is there, existing and readOnly need the file',
    (disk, root) => {
      expect(codeOf(() => disk.open(`${root}/a`, 'existing'))).toBe('NOT_FOUND');
      expect(codeOf(() => disk.open(`${root}/a`, 'readOnly'))).toBe('NOT_FOUND');
      expect(codeOf(() => disk.open(`${root}/no/a`, 'create'))).toBe('NOT_FOUND');
      disk.open(`${root}/a`, 'create').write(utf8Encode('abc'), 0);
      expect(disk.open(`${root}/a`, 'create').size()).toBe(3);
      expect(disk.open(`${root}/a`, 'existing').size()).toBe(3);
      const readOnly = disk.open(`${root}/a`, 'readOnly');
      expect(readOnly.size()).toBe(3);
      expect(codeOf(() => readOnly.write(utf8Encode('x'), 0))).not.toBe('no error');
    },
  );

  on('two handles of one file see each other’s writes', (disk, root) => {
    const one = disk.open(`${root}/a`, 'create');
    const two = disk.open(`${root}/a`, 'existing');
    one.write(utf8Encode('abc'), 0);
    const into = new Uint8Array(3);
    expect(two.readSync(into, 0)).toBe(3);
    expect(utf8Decode(into)).toBe('abc');
  });

  on('truncate shortens, and lengthens with zeros', (disk, root) => {
    const file = disk.open(`${root}/a`, 'create');
    file.write(utf8Encode('abcdef'), 0);
    file.truncate(2);
    expect(file.size()).toBe(2);
    file.truncate(4);
    const into = new Uint8Array(6);
    expect(file.readSync(into, 0)).toBe(4);
    expect([...into.subarray(0, 4)]).toEqual([97, 98, 0, 0]);
    file.close();
  });

  on('datasync resolves, however many run at once', async (disk, root) => {
    const file = disk.open(`${root}/a`, 'create');
    file.write(utf8Encode('abc'), 0);
    await Promise.all([file.datasync(), file.datasync(), file.datasync()]);
    file.datasyncNow();
    file.close();
  });

  on(
    'a closed file does nothing more; what was under way when it closed ends well',
    async (disk, root) => {
      const file = disk.open(`${root}/a`, 'create');
      file.write(utf8Encode('abc'), 0);
      const reading = file.read(0, 3);
      const syncing = file.datasync();
      file.close();
      file.close();
      expect(utf8Decode(await reading)).toBe('abc');
      await syncing;
      expect(codeOf(() => file.write(utf8Encode('x'), 0))).toBe('IO');
      expect(codeOf(() => file.size())).toBe('IO');
      await expect(file.read(0, 1)).rejects.toBeInstanceOf(DiskError);
      await expect(file.datasync()).rejects.toBeInstanceOf(DiskError);
    },
  );

  on('a removed or renamed file stays readable through its handle', async (disk, root) => {
    const file = disk.open(`${root}/a`, 'create');
    file.write(utf8Encode('abc'), 0);
    disk.rename(`${root}/a`, `${root}/b`);
    expect(utf8Decode(await file.read(0, 3))).toBe('abc');
    disk.remove(`${root}/b`);
    expect(utf8Decode(await file.read(0, 3))).toBe('abc');
    expect(disk.exists(`${root}/b`)).toBe(false);
    file.close();
  });
}

function directoryContract(on: On): void {
  on('names have up to 255 bytes', (disk, root) => {
    const most = 'x'.repeat(255);
    disk.makeDirectory(`${root}/${most}`);
    disk.open(`${root}/${most}/${most}`, 'create').close();
    expect(codeOf(() => disk.makeDirectory(`${root}/${most}y`))).toBe('IO');
    expect(codeOf(() => disk.open(`${root}/${most}y`, 'create'))).toBe('IO');
    expect(codeOf(() => disk.rename(`${root}/${most}`, `${root}/${most}y`))).toBe('IO');
    expect(disk.list(root).map(({ name }) => name)).toEqual([most]);
  });

  on('directories are made with their parents and listed sorted by name', (disk, root) => {
    disk.makeDirectory(`${root}/x/y/z`);
    disk.makeDirectory(`${root}/x/y/z`);
    disk.open(`${root}/x/b`, 'create').close();
    disk.open(`${root}/x/a`, 'create').close();
    expect(disk.list(`${root}/x`)).toEqual([
      { name: 'a', directory: false },
      { name: 'b', directory: false },
      { name: 'y', directory: true },
    ]);
    expect(codeOf(() => disk.list(`${root}/none`))).toBe('NOT_FOUND');
  });

  on('exists tells of files and directories', (disk, root) => {
    expect(disk.exists(root)).toBe(true);
    expect(disk.exists(`${root}/a`)).toBe(false);
    disk.open(`${root}/a`, 'create').close();
    expect(disk.exists(`${root}/a`)).toBe(true);
    expect(disk.exists(`${root}/a/b`)).toBe(false);
  });

  on('rename replaces a file, and moves a directory with all in it', (disk, root) => {
    disk.open(`${root}/a`, 'create').write(utf8Encode('new'), 0);
    disk.open(`${root}/b`, 'create').write(utf8Encode('old one'), 0);
    disk.rename(`${root}/a`, `${root}/b`);
    expect(disk.exists(`${root}/a`)).toBe(false);
    expect(disk.open(`${root}/b`, 'readOnly').size()).toBe(3);
    disk.makeDirectory(`${root}/d/e`);
    disk.open(`${root}/d/e/f`, 'create').close();
    disk.rename(`${root}/d`, `${root}/g`);
    expect(disk.exists(`${root}/g/e/f`)).toBe(true);
    expect(disk.exists(`${root}/d`)).toBe(false);
    expect(codeOf(() => disk.rename(`${root}/none`, `${root}/x`))).toBe('NOT_FOUND');
  });

  on('remove and removeTree take what is there, and no offence where nothing is', (disk, root) => {
    disk.remove(`${root}/none`);
    disk.removeTree(`${root}/none`);
    disk.makeDirectory(`${root}/d/e`);
    disk.open(`${root}/d/e/f`, 'create').close();
    disk.open(`${root}/d2`, 'create').close();
    disk.removeTree(`${root}/d`);
    expect(disk.list(root)).toEqual([{ name: 'd2', directory: false }]);
    disk.remove(`${root}/d2`);
    expect(disk.list(root)).toEqual([]);
  });

  on('directories sync, now and later; a missing one does not', async (disk, root) => {
    disk.open(`${root}/a`, 'create').close();
    disk.syncDirectoryNow(root);
    await disk.syncDirectory(root);
    expect(codeOf(() => disk.syncDirectoryNow(`${root}/none`))).toBe('NOT_FOUND');
    await expect(disk.syncDirectory(`${root}/none`)).rejects.toMatchObject({ code: 'NOT_FOUND' });
  });

  on('there is room', (disk, root) => {
    expect(disk.freeBytes(root)).toBeGreaterThan(0);
  });

  on('a directory is locked by one at a time', (disk, root) => {
    const lock = disk.lock(root);
    expect(codeOf(() => disk.lock(root))).toBe('LOCKED');
    disk.makeDirectory(`${root}/other`);
    disk.lock(`${root}/other`).release();
    lock.release();
    lock.release();
    disk.lock(root).release();
    expect(codeOf(() => disk.lock(`${root}/none`))).toBe('NOT_FOUND');
  });
}
