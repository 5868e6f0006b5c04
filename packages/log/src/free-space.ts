/**
 * Keeps a reserve free on the disk, for what must still be written when it is full: checkpoints,
 * indexes, metadata. The file system is asked anew before half of what was free has been used up.
 */
import type { Disk } from '@relevo/base/ports';

export const RESERVE_BYTES: number = 64 * 2 ** 20;

export class FreeSpace {
  readonly #disk: Disk;
  readonly #path: string;
  readonly #reserveBytes: number;
  /** To be appended before the file system is asked again. */
  #allowanceBytes = 0;

  constructor(disk: Disk, path: string, reserveBytes: number = RESERVE_BYTES) {
    this.#disk = disk;
    this.#path = path;
    this.#reserveBytes = reserveBytes;
  }

  /** Whether as much may be appended; if so, it counts as used. */
  take(bytes: number): boolean {
    if (bytes > this.#allowanceBytes) {
      const spare = this.#disk.freeBytes(this.#path) - this.#reserveBytes;
      if (bytes > spare) return false;
      this.#allowanceBytes = Math.max(bytes, Math.floor(spare / 2));
    }
    this.#allowanceBytes -= bytes;
    return true;
  }

  /** An append met a full disk all the same. */
  exhausted(): void {
    this.#allowanceBytes = 0;
  }
}
