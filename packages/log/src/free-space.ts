/**
 * Keeps a reserve free on the disk, for what must still be written when it is full: checkpoints,
 * indexes, metadata. The file system is asked anew before half of what was free has been used up.
 *
 *     roomy ──an append is refused, or `check` finds nothing above the reserve──> short (told once)
 *     short ──`check` finds room again, and nothing was refused since the last──> roomy (told once)
 *
 * Being short stops nobody: each append is measured, and goes where there is room for it.
 */
import { DiskError } from '@relevo/base/ports';
import type { Disk, Logger } from '@relevo/base/ports';

export const RESERVE_BYTES: number = 64 * 2 ** 20;
/** So much above the reserve is room again, or what the largest refused append needs. */
export const ROOM_AGAIN_BYTES: number = 2 ** 20;
const WHAT_TO_DO =
  'delete topics, lower retention.ms or retention.bytes, remove other files from that disk, or enlarge it';

export class FreeSpace {
  readonly #disk: Disk;
  readonly #path: string;
  /** With less than this free appends are refused. */
  readonly reserveBytes: number;
  readonly #logger: Logger | undefined;
  /** To be appended before the file system is asked again. */
  #allowanceBytes = 0;
  #freeBytes = 0;
  /** Of the largest append that was refused; undefined: not short. */
  #neededBytes: number | undefined;
  #hasRefused = false;

  constructor(disk: Disk, path: string, reserveBytes: number = RESERVE_BYTES, logger?: Logger) {
    this.#disk = disk;
    this.#path = path;
    this.reserveBytes = reserveBytes;
    this.#logger = logger;
    this.#measure();
  }

  /** When the file system was last asked. */
  get freeBytes(): number {
    return this.#freeBytes;
  }
  get isShort(): boolean {
    return this.#neededBytes !== undefined;
  }
  /** Short of any room, not only of that for some large append. */
  get isExhausted(): boolean {
    return this.isShort && this.#freeBytes - this.reserveBytes < ROOM_AGAIN_BYTES;
  }
  /** For people, while it is short: how much there is, and what to do. */
  get shortage(): string {
    return (
      `the disk of ${this.#path} has ${this.#freeBytes} bytes free, of which ${this.reserveBytes} are ` +
      `a reserve (log.disk.reserve.bytes): ${WHAT_TO_DO}`
    );
  }

  /** Whether as much may be appended; if so, it counts as used. */
  take(bytes: number): boolean {
    if (bytes > this.#allowanceBytes) {
      const spare = this.#tryMeasure();
      // The write itself meets what is wrong.
      if (spare === undefined) return true;
      if (bytes > spare) {
        this.exhausted(bytes);
        return false;
      }
      this.#allowanceBytes = Math.max(bytes, Math.floor(spare / 2));
    }
    this.#allowanceBytes -= bytes;
    return true;
  }

  /** Something of that size was not written, be it that the disk was full all the same. */
  exhausted(bytes: number): void {
    this.#allowanceBytes = 0;
    this.#hasRefused = true;
    this.#begin(bytes);
  }

  /** To be called every few seconds: without it a shortage has no end. */
  check(): void {
    const spare = this.#tryMeasure();
    if (spare === undefined) return;
    // Others write to the disk too.
    this.#allowanceBytes = Math.max(0, Math.min(this.#allowanceBytes, spare));
    const hasRefused = this.#hasRefused;
    this.#hasRefused = false;
    if (this.#neededBytes === undefined) {
      if (spare <= 0) this.#begin(1);
    } else if (!hasRefused && spare >= Math.max(this.#neededBytes, ROOM_AGAIN_BYTES)) {
      this.#neededBytes = undefined;
      this.#logger?.warn('there is room on the disk again: appends are taken', this.#facts());
    }
  }

  #measure(): number {
    this.#freeBytes = this.#disk.freeBytes(this.#path);
    return this.#freeBytes - this.reserveBytes;
  }

  /** Undefined: the disk does not say; the next append or sync meets what is wrong with it. */
  #tryMeasure(): number | undefined {
    try {
      return this.#measure();
    } catch (error) {
      if (error instanceof DiskError) return undefined;
      throw error;
    }
  }

  #begin(bytes: number): void {
    const isNew = this.#neededBytes === undefined;
    this.#neededBytes = Math.max(this.#neededBytes ?? 0, bytes);
    if (!isNew) return;
    this.#tryMeasure();
    this.#logger?.warn('appends are refused: the disk is short of room; reads go on', {
      ...this.#facts(),
      neededBytes: bytes,
      do: WHAT_TO_DO,
    });
  }

  #facts(): { directory: string; freeBytes: number; reserveBytes: number } {
    return {
      directory: this.#path,
      freeBytes: this.#freeBytes,
      reserveBytes: this.reserveBytes,
    };
  }
}
