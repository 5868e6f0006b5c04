/**
 * All below the recovery point was synced, and is taken as it is after a crash. The data directory's
 * checkpoint holds it, and is written now and then. A truncation cannot wait for that: after a crash the
 * missing offsets would pass for damage. So a file in the log's own directory, `truncation-checkpoint`,
 * is made durable before, and lowers what is known of the log (`known-extent.ts`) until the checkpoints
 * have caught up. Its lines:
 *
 *     to 300           all from there on may be missing
 *     anew             the log may have been emptied, to begin anew at any offset
 *
 * An older version wrote the bare offset of the first line.
 */
import type { Offset } from '@relevo/base/ids';
import type { Disk } from '@relevo/base/ports';
import {
  decodeCheckpoint,
  encodeCheckpoint,
  parentOf,
  readHint,
  replaceFileNow,
} from './checkpoint-file.ts';
import { TRUNCATION_FILE } from './file-names.ts';
import { isDiskError, noRoomFor } from './log-error.ts';

export class RecoveryPoint {
  readonly #disk: Disk;
  readonly #path: string;
  #offset: Offset;
  #isLowered: boolean;
  /** The log was emptied since the checkpoints were written. */
  #isAnew: boolean;
  #written: Offset;
  /** Counts what was lowered, for a checkpoint that is being written. */
  #lowerings = 0;

  constructor(
    disk: Disk,
    directory: string,
    found: { readonly recoveryPoint: Offset; readonly truncation: Truncation | undefined },
  ) {
    this.#disk = disk;
    this.#path = `${directory}/${TRUNCATION_FILE}`;
    this.#offset = found.recoveryPoint;
    this.#isLowered = found.truncation !== undefined;
    this.#isAnew = found.truncation?.beginsAnew === true;
    // After a clean shutdown the file is passed over; after a crash it would count.
    this.#written = this.#isLowered ? (0 as Offset) : found.recoveryPoint;
  }

  get offset(): Offset {
    return this.#offset;
  }
  get lowerings(): number {
    return this.#lowerings;
  }

  /** What it will be after a crash now. */
  get durableOffset(): Offset {
    return Math.min(this.#written, this.#offset) as Offset;
  }

  raise(offset: Offset): void {
    if (offset > this.#offset) this.#offset = offset;
  }

  /**
   * Before all from `offset` on is cut; durable when this returns. `known`: up to where other files than
   * the checkpoints tell that the log went. Throws a LogError `diskFull`, and is then as before, or a
   * DiskError.
   */
  lower(offset: Offset, known: number): void {
    if (offset < Math.max(this.#offset, known)) this.#lower(offset, this.#isAnew);
  }

  /** Before the log is emptied, to begin anywhere; else as `lower`. */
  beginAnew(): void {
    this.#lower(0 as Offset, true);
  }

  #lower(offset: Offset, isAnew: boolean): void {
    // An older file of this kind may go further down, and the checkpoints may still be as they were then.
    const to = Math.min(offset, this.#offset) as Offset;
    const lines = [`to ${to}`, ...(isAnew ? ['anew'] : [])];
    try {
      replaceFileNow(this.#disk, this.#path, encodeCheckpoint(lines));
    } catch (error) {
      throw isDiskError(error, 'FULL') ? noRoomFor(this.#path, error) : error;
    }
    this.#lowerings++;
    this.#isLowered = true;
    this.#isAnew = isAnew;
    this.#offset = to;
    if (to < this.#written) this.#written = to;
  }

  /**
   * The checkpoints durably say `offset`, and what else they had to say when so many times had been
   * lowered: unless there was another time since, the file has done its work, and goes for good.
   */
  written(offset: Offset, lowerings: number): void {
    if (lowerings !== this.#lowerings) return;
    if (this.#isLowered) {
      const directory = parentOf(this.#path);
      // What it allowed to be missing is durably gone, names that tell of it too.
      this.#disk.syncDirectoryNow(directory);
      this.#disk.remove(this.#path);
      this.#disk.syncDirectoryNow(directory);
      this.#isLowered = false;
      this.#isAnew = false;
    }
    this.#written = offset;
  }
}

/** What a truncation that the checkpoints do not know of yet has allowed to be missing. */
export interface Truncation {
  /** All from there on. */
  readonly to: Offset;
  /** The log was emptied, and may begin anywhere. */
  readonly beginsAnew: boolean;
}

/** By the file; where that is damaged, all may be missing. */
export function readTruncation(disk: Disk, directory: string): Truncation {
  const [first = '', ...more] =
    decodeCheckpoint(readHint(disk, `${directory}/${TRUNCATION_FILE}`) ?? NOTHING) ?? [];
  const stated = /^(to )?(\d+)$/.exec(first);
  const to = Number(stated?.[2] ?? 0) as Offset;
  // An older version emptied a log under a bare 0.
  const isOlder = stated?.[1] === undefined;
  return { to, beginsAnew: more.includes('anew') || (isOlder && to === 0) };
}

const NOTHING = new Uint8Array(0);
