/**
 * All below the recovery point was synced, and is taken as it is after a crash. The data directory's
 * checkpoint holds it, and is written now and then. A truncation below it cannot wait for that: after a
 * crash the missing offsets would pass for damage. So a file in the log's own directory,
 * `truncation-checkpoint`, is made durable before, and lowers the recovery point until the checkpoint
 * has caught up.
 */
import type { Offset } from '@relevo/base/ids';
import type { Disk } from '@relevo/base/ports';
import {
  decodeCheckpoint,
  encodeCheckpoint,
  parentOf,
  readFile,
  replaceFileNow,
} from './checkpoint-file.ts';
import { TRUNCATION_FILE } from './file-names.ts';
import { isDiskError, noRoomFor } from './log-error.ts';

export class RecoveryPoint {
  readonly #disk: Disk;
  readonly #path: string;
  #offset: Offset;
  #isLowered: boolean;
  #written: Offset;

  constructor(
    disk: Disk,
    directory: string,
    found: { readonly recoveryPoint: Offset; readonly hasTruncationFile: boolean },
  ) {
    this.#disk = disk;
    this.#path = `${directory}/${TRUNCATION_FILE}`;
    this.#offset = found.recoveryPoint;
    this.#isLowered = found.hasTruncationFile;
    // After a clean shutdown the file is passed over; after a crash it would count.
    this.#written = this.#isLowered ? (0 as Offset) : found.recoveryPoint;
  }

  get offset(): Offset {
    return this.#offset;
  }

  /** What it will be after a crash now. */
  get durableOffset(): Offset {
    return Math.min(this.#written, this.#offset) as Offset;
  }

  raise(offset: Offset): void {
    if (offset > this.#offset) this.#offset = offset;
  }

  /** Durable when this returns. Throws a LogError `diskFull`, and is then as before, or a DiskError. */
  lower(offset: Offset): void {
    if (offset >= this.#offset) return;
    try {
      replaceFileNow(this.#disk, this.#path, encodeCheckpoint([String(offset)]));
    } catch (error) {
      throw isDiskError(error, 'FULL') ? noRoomFor(this.#path, error) : error;
    }
    this.#isLowered = true;
    this.#offset = offset;
    if (offset < this.#written) this.#written = offset;
  }

  /** The checkpoint durably says `offset`: the file has done its work, and goes for good. */
  written(offset: Offset): void {
    if (offset > this.#offset) return;
    if (this.#isLowered) {
      this.#disk.remove(this.#path);
      this.#disk.syncDirectoryNow(parentOf(this.#path));
      this.#isLowered = false;
    }
    this.#written = offset;
  }
}

/** What a truncation has lowered the recovery point to, by its file; 0 where that is damaged. */
export function loweredRecoveryPoint(disk: Disk, directory: string): Offset {
  const bytes = readFile(disk, `${directory}/${TRUNCATION_FILE}`);
  const stated = Number(decodeCheckpoint(bytes ?? new Uint8Array(0))?.[0]);
  return (Number.isSafeInteger(stated) ? stated : 0) as Offset;
}
