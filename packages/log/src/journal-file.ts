/**
 * One file of the journal of young logs. It only grows; after a write or sync that failed nothing more is
 * written to it. One sync covers all that came while the last one ran.
 */
import { assert } from '@relevo/base/assert';
import { DiskError } from '@relevo/base/ports';
import type { Crc32c, Disk, DiskFile } from '@relevo/base/ports';
import { crc32c as crcOf } from '@relevo/record/crc32c';
import { parentOf } from './checkpoint-file.ts';
import { GroupCommit } from './group-commit.ts';
import { isDiskError } from './log-error.ts';
import { NO_ENTRY, encodeEntry } from './young-entries.ts';
import type { EntryBefore, YoungEntry } from './young-entries.ts';

export class JournalFile {
  readonly path: string;
  readonly #disk: Disk;
  readonly #file: DiskFile;
  readonly #commit: GroupCommit = new GroupCommit(() => this.#sync());
  #sizeBytes = 0;
  #before: EntryBefore = NO_ENTRY;
  #isNameDurable = false;
  #failure: DiskError | undefined;
  #isFull = false;

  /** Makes the file. Throws a DiskError. */
  constructor(disk: Disk, path: string) {
    this.path = path;
    this.#disk = disk;
    this.#file = disk.open(path, 'create');
    // Its name may have come back from before a power cut.
    if (this.#file.size() > 0) this.#file.truncate(0);
  }

  get sizeBytes(): number {
    return this.#sizeBytes;
  }
  /** Nothing more can be written to it. */
  get isUsedUp(): boolean {
    return this.#isFull || this.#failure !== undefined;
  }

  /** Throws a DiskError; the file is used up then. */
  append(entry: YoungEntry, crc32c: Crc32c): void {
    assert(!this.isUsedUp, 'nothing is written behind a failed write', { path: this.path });
    const bytes = encodeEntry(entry, this.#before, crc32c);
    try {
      this.#file.write(bytes, this.#sizeBytes);
    } catch (error) {
      // Without room, what went before is as good as ever.
      if (isDiskError(error, 'FULL')) this.#isFull = true;
      else throw this.#failed(error);
      throw error;
    }
    this.#sizeBytes += bytes.length;
    this.#before = { length: bytes.length, key: crcOf(entry.key) };
  }

  /** Resolves when all that was written before the call is durable. Rejects with a DiskError. */
  sync(): Promise<void> {
    return this.#failure === undefined ? this.#commit.request() : Promise.reject(this.#failure);
  }

  syncNow(): void {
    if (this.#failure !== undefined) throw this.#failure;
    try {
      this.#file.datasyncNow();
      if (!this.#isNameDurable) this.#disk.syncDirectoryNow(parentOf(this.path));
      this.#isNameDurable = true;
    } catch (error) {
      throw this.#failed(error);
    }
  }

  async #sync(): Promise<void> {
    if (this.#failure !== undefined) throw this.#failure;
    try {
      if (this.#isNameDurable) {
        await this.#file.datasync();
        return;
      }
      await Promise.all([this.#file.datasync(), this.#disk.syncDirectory(parentOf(this.path))]);
      this.#isNameDurable = true;
    } catch (error) {
      throw this.#failed(error);
    }
  }

  #failed(error: unknown): unknown {
    if (error instanceof DiskError) this.#failure ??= error;
    return error;
  }

  /** When no sync is under way. */
  async close(): Promise<void> {
    await this.#commit.idle();
    this.#file.close();
  }
}
