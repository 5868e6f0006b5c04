/**
 * The first segment of a young log, as a file: its bytes are in memory, and what makes them durable is the
 * journal of the data directory (`young-logs.ts`). When the log's own file is there, with the same bytes,
 * that one takes over.
 */
import { defined } from '@relevo/base/assert';
import { isMutated } from '@relevo/base/mutations';
import type { DiskFile } from '@relevo/base/ports';
import type { JournalFile } from './journal-file.ts';
import { encodeKey } from './young-entries.ts';
import type { YoungKey } from './young-entries.ts';

/** Where a young log writes to; see `YoungLogs`. */
export interface YoungJournal {
  append(file: YoungFile, position: number, records: Uint8Array): JournalFile;
}

const NOTHING = new Uint8Array(0);

export class YoungFile implements DiskFile {
  readonly path: string;
  readonly key: Uint8Array;
  readonly #journal: YoungJournal;
  #bytes: Uint8Array = NOTHING;
  #size = 0;
  /** Counts what was cut, for a copy that is being made. */
  #cuts = 0;
  #real: DiskFile | undefined;
  /** Journal files with entries of it that no sync has covered, as far as is known. */
  readonly #dirty = new Set<JournalFile>();

  constructor(path: string, key: YoungKey, journal: YoungJournal) {
    this.path = path;
    this.key = encodeKey(key);
    this.#journal = journal;
  }

  get hasOwnFile(): boolean {
    return this.#real !== undefined;
  }
  get cuts(): number {
    return this.#cuts;
  }

  /** A copy of what is in it. */
  content(from = 0): Uint8Array {
    return this.#bytes.slice(from, this.#size);
  }

  /** `real` has the same bytes, durably. */
  moveTo(real: DiskFile): void {
    this.#real = real;
    this.#bytes = NOTHING;
    this.#dirty.clear();
  }

  size(): number {
    return this.#real === undefined ? this.#size : this.#real.size();
  }

  write(bytes: Uint8Array, position: number): void {
    if (this.#real !== undefined) {
      this.#real.write(bytes, position);
      return;
    }
    this.#dirty.add(this.#journal.append(this, position, bytes));
    const end = position + bytes.length;
    if (end > this.#bytes.length) {
      const grown = new Uint8Array(this.#size === 0 ? end : Math.max(end, 2 * this.#bytes.length));
      grown.set(this.#bytes.subarray(0, this.#size));
      this.#bytes = grown;
    }
    this.#bytes.set(bytes, position);
    this.#size = end;
  }

  readSync(into: Uint8Array, position: number): number {
    if (this.#real !== undefined) return this.#real.readSync(into, position);
    const found = this.#bytes.subarray(position, Math.min(this.#size, position + into.length));
    into.set(found);
    return found.length;
  }

  read(position: number, length: number): Promise<Uint8Array> {
    if (this.#real !== undefined) return this.#real.read(position, length);
    return Promise.resolve(
      this.#bytes.slice(position, Math.max(position, Math.min(this.#size, position + length))),
    );
  }

  datasync(): Promise<void> {
    if (this.#real !== undefined) return this.#real.datasync();
    if (this.#dirty.size === 0 || isMutated('young-log-unsynced')) return Promise.resolve();
    if (this.#dirty.size > 1) return this.#syncAll();
    const [file] = this.#dirty;
    this.#dirty.clear();
    return defined(file, 'a journal file').sync();
  }

  async #syncAll(): Promise<void> {
    const files = [...this.#dirty];
    this.#dirty.clear();
    await Promise.all(files.map((file) => file.sync()));
  }

  datasyncNow(): void {
    if (this.#real !== undefined) {
      this.#real.datasyncNow();
      return;
    }
    for (const file of this.#dirty) file.syncNow();
    this.#dirty.clear();
  }

  truncate(size: number): void {
    if (this.#real !== undefined) {
      this.#real.truncate(size);
      return;
    }
    // What a failed write has left is not in memory.
    if (size === this.#size) return;
    this.#dirty.add(this.#journal.append(this, size, NOTHING));
    this.#size = size;
    this.#cuts++;
  }

  close(): void {
    this.#real?.close();
  }
}
