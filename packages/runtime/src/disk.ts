/**
 * The disk port on Node's file system. Writes, truncations and directory changes are synchronous (the
 * page cache takes them in microseconds); `read`, `datasync` and `syncDirectory` run on the thread pool.
 */
import {
  closeSync,
  constants,
  existsSync,
  fdatasync,
  fdatasyncSync,
  fstatSync,
  fsync,
  fsyncSync,
  ftruncateSync,
  close as closeCallback,
  mkdir,
  mkdirSync,
  open as openCallback,
  openSync,
  read as readCallback,
  readSync,
  readdirSync,
  renameSync,
  rmSync,
  statfsSync,
  unlinkSync,
  write as writeCallback,
  writeSync,
} from 'node:fs';
import { Buffer } from 'node:buffer';
import { DiskError } from '@relevo/base/ports';
import type { DirectoryEntry, Disk, DiskFile } from '@relevo/base/ports';
import { lockDirectory } from './directory-lock.ts';
import { diskErrorFrom } from './disk-error.ts';

const MODES = {
  create: constants.O_RDWR | constants.O_CREAT,
  existing: constants.O_RDWR,
  readOnly: constants.O_RDONLY,
} as const;

/** A read syscall takes at most 2^31-1 bytes; Linux itself stops a page short of that. */
const IO_BYTES_MAX = 2 ** 30;

function attempt<Result>(action: string, path: string, run: () => Result): Result {
  try {
    return run();
  } catch (thrown) {
    throw diskErrorFrom(thrown, action, path);
  }
}

class NodeFile implements DiskFile {
  readonly path: string;
  readonly #fd: number;
  /** Calls on the thread pool that still use the descriptor: it is closed after the last of them. */
  #pending = 0;
  #closed = false;

  constructor(path: string, fd: number) {
    this.path = path;
    this.#fd = fd;
  }

  #open(action: string): number {
    if (this.#closed) throw new DiskError('IO', this.path, `cannot ${action} ${this.path}: closed`);
    return this.#fd;
  }

  size(): number {
    const fd = this.#open('stat');
    return attempt('stat', this.path, () => fstatSync(fd).size);
  }

  write(bytes: Uint8Array, position: number): void {
    const fd = this.#open('write');
    attempt('write', this.path, () => {
      let done = 0;
      while (done < bytes.length) {
        done += writeSync(fd, bytes, done, bytes.length - done, position + done);
      }
    });
  }

  readSync(into: Uint8Array, position: number): number {
    const fd = this.#open('read');
    return attempt('read', this.path, () => {
      let done = 0;
      while (done < into.length) {
        const length = Math.min(into.length - done, IO_BYTES_MAX);
        const count = readSync(fd, into, done, length, position + done);
        if (count === 0) break;
        done += count;
      }
      return done;
    });
  }

  async read(position: number, length: number): Promise<Uint8Array> {
    const fd = this.#open('read');
    const pooled = Buffer.allocUnsafe(length);
    const into = new Uint8Array(pooled.buffer, pooled.byteOffset, length);
    let done = 0;
    while (done < length) {
      const from = done;
      const count = await this.#offLoop<number>('read', (settle) => {
        const most = Math.min(length - from, IO_BYTES_MAX);
        readCallback(fd, into, from, most, position + from, settle);
      });
      if (count === 0) break;
      done += count;
    }
    return done === length ? into : into.subarray(0, done);
  }

  datasync(): Promise<void> {
    return this.#offLoop<void>('sync', (settle) => {
      fdatasync(this.#open('sync'), settle);
    });
  }

  datasyncNow(): void {
    const fd = this.#open('sync');
    attempt('sync', this.path, () => fdatasyncSync(fd));
  }

  truncate(size: number): void {
    const fd = this.#open('truncate');
    attempt('truncate', this.path, () => ftruncateSync(fd, size));
  }

  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    if (this.#pending === 0) this.#release();
  }

  #release(): void {
    attempt('close', this.path, () => closeSync(this.#fd));
  }

  /** One call on the thread pool; holds the descriptor open until it has answered. */
  #offLoop<Result>(
    action: string,
    start: (settle: (error: Error | null, result?: Result) => void) => void,
  ): Promise<Result> {
    return new Promise<Result>((resolve, reject) => {
      start((error, result) => {
        this.#pending--;
        if (this.#closed && this.#pending === 0) this.#release();
        if (error !== null) reject(diskErrorFrom(error, action, this.path));
        else resolve(result as Result);
      });
      this.#pending++;
    });
  }
}

function writeOffLoop(path: string, bytes: Uint8Array): Promise<void> {
  return new Promise<void>((resolve, reject) => {
    openCallback(path, MODES.create, 0o644, (openError, fd) => {
      if (openError !== null) return reject(diskErrorFrom(openError, 'open', path));
      const close = (writeError: Error | null): void => {
        closeCallback(fd, (closeError) => {
          const failed = writeError ?? closeError;
          if (failed == null) resolve();
          else reject(diskErrorFrom(failed, 'write', path));
        });
      };
      const writeFrom = (done: number): void => {
        if (done === bytes.length) return close(null);
        writeCallback(fd, bytes, done, bytes.length - done, done, (error, count) => {
          if (error === null) writeFrom(done + count);
          else close(error);
        });
      };
      writeFrom(0);
    });
  });
}

export class NodeDisk implements Disk {
  open(path: string, mode: 'create' | 'existing' | 'readOnly'): DiskFile {
    return new NodeFile(
      path,
      attempt('open', path, () => openSync(path, MODES[mode], 0o644)),
    );
  }

  exists(path: string): boolean {
    return existsSync(path);
  }

  /** Sorted by name. */
  list(directory: string): readonly DirectoryEntry[] {
    const entries = attempt('list', directory, () =>
      readdirSync(directory, { withFileTypes: true }),
    );
    return entries
      .map((entry) => ({ name: entry.name, directory: entry.isDirectory() }))
      .sort((a, b) => (a.name < b.name ? -1 : 1));
  }

  makeDirectory(path: string): void {
    attempt('make', path, () => mkdirSync(path, { recursive: true }));
  }

  async makeFiles(directory: string, files: ReadonlyMap<string, Uint8Array>): Promise<void> {
    await new Promise<void>((resolve, reject) => {
      mkdir(directory, (error) => {
        if (error === null || error.code === 'EEXIST') resolve();
        else reject(diskErrorFrom(error, 'make', directory));
      });
    });
    for (const [name, bytes] of files) await writeOffLoop(`${directory}/${name}`, bytes);
  }

  rename(from: string, to: string): void {
    attempt(`rename to ${to}:`, from, () => renameSync(from, to));
  }

  remove(path: string): void {
    try {
      unlinkSync(path);
    } catch (thrown) {
      const error = diskErrorFrom(thrown, 'remove', path);
      if (error.code !== 'NOT_FOUND') throw error;
    }
  }

  removeTree(path: string): void {
    attempt('remove', path, () => rmSync(path, { recursive: true, force: true }));
  }

  async syncDirectory(directory: string): Promise<void> {
    const fd = attempt('sync', directory, () =>
      openSync(directory, constants.O_RDONLY | constants.O_DIRECTORY),
    );
    try {
      await new Promise<void>((resolve, reject) => {
        fsync(fd, (error) => {
          if (error === null) resolve();
          else reject(diskErrorFrom(error, 'sync', directory));
        });
      });
    } finally {
      attempt('sync', directory, () => closeSync(fd));
    }
  }

  syncDirectoryNow(directory: string): void {
    attempt('sync', directory, () => {
      const fd = openSync(directory, constants.O_RDONLY | constants.O_DIRECTORY);
      try {
        fsyncSync(fd);
      } finally {
        closeSync(fd);
      }
    });
  }

  freeBytes(path: string): number {
    return attempt('stat the file system of', path, () => {
      const stats = statfsSync(path);
      return stats.bavail * stats.bsize;
    });
  }

  lock(directory: string): { release(): void } {
    return lockDirectory(directory);
  }
}
