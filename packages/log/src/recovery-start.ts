/**
 * `N.recovery`: where a recovery may begin to read the log. All below offset N was appended when it was
 * written, and counts once the recovery point has reached N: then nothing below N is read after a crash
 * but the last few batches, which must lead to N. It has what else would have to be gathered from them:
 *
 *     version int16 (1), crc uint32 (CRC-32C of all that follows),
 *     baseOffset int64 of the segment, position int64 at which the batches below N end there,
 *     count int32 of leader epochs, then for each: epoch int32, startOffset int64,
 *     length int32 of the offset index, its entries, length int32 of the time index, its entries
 *
 * The state of producers at N is in `N.snapshot`. Who finds no such file, or one that is damaged or does not
 * lead to N, reads the whole segment.
 */
import { isMutated } from '@relevo/base/mutations';
import { ByteReader, ByteWriter, BytesError } from '@relevo/base/bytes';
import { NO_LEADER_EPOCH } from '@relevo/base/ids';
import type { LeaderEpoch, Offset } from '@relevo/base/ids';
import { DiskError } from '@relevo/base/ports';
import type { Crc32c, Disk, Logger } from '@relevo/base/ports';
import { writeAnew } from './checkpoint-file.ts';
import { RECOVERY_SUFFIX, TEMPORARY_SUFFIX, offsetFileName } from './file-names.ts';
import type { EpochEntry } from './leader-epoch-cache.ts';
import { PAUSE, readHintSteps } from './steps.ts';
import type { Steps } from './steps.ts';

const VERSION = 1;
const CRC_AT = 2;
const BODY_AT = 6;
const FIXED_BYTES = 64;
const EPOCH_BYTES = 12;

export interface RecoveryStart {
  /** All below is told of. */
  readonly offset: Offset;
  /** The base offset of the segment that holds the last record below. */
  readonly baseOffset: Offset;
  /** Where the last batch below ends in that segment. */
  readonly position: number;
  /** Those that begin below `offset`. */
  readonly epochs: readonly EpochEntry[];
  /** The entries of both indexes, for what lies below `position`. */
  readonly offsetIndex: Uint8Array;
  readonly timeIndex: Uint8Array;
}

/** The epoch of the last batch below. */
export const lastEpochOf = ({ epochs }: RecoveryStart): LeaderEpoch =>
  epochs.at(-1)?.epoch ?? NO_LEADER_EPOCH;

/** Copies the indexes, which may grow on meanwhile. */
export function encodeRecoveryStart(start: RecoveryStart, crc32c: Crc32c): Uint8Array {
  const { baseOffset, position, epochs, offsetIndex, timeIndex } = start;
  const bytes = FIXED_BYTES + epochs.length * EPOCH_BYTES + offsetIndex.length + timeIndex.length;
  const writer = new ByteWriter(bytes);
  writer.int16(VERSION).uint32(0).int64(baseOffset).int64(position).int32(epochs.length);
  for (const { epoch, startOffset } of epochs) writer.int32(epoch).int64(startOffset);
  writer.int32(offsetIndex.length).raw(offsetIndex);
  writer.int32(timeIndex.length).raw(timeIndex);
  writer.setUint32(CRC_AT, crc32c(writer.written().subarray(BODY_AT)));
  return writer.finish();
}

/** Undefined when the bytes are damaged, or of another version. */
export function decodeRecoveryStart(
  offset: Offset,
  bytes: Uint8Array,
  crc32c: Crc32c,
): RecoveryStart | undefined {
  try {
    const reader = new ByteReader(bytes);
    if (reader.int16() !== VERSION) return undefined;
    if (reader.uint32() !== crc32c(bytes.subarray(BODY_AT))) return undefined;
    const baseOffset = reader.int64() as Offset;
    const position = reader.int64();
    const epochs = Array.from({ length: reader.int32() }, () => ({
      epoch: reader.int32() as LeaderEpoch,
      startOffset: reader.int64() as Offset,
    }));
    const offsetIndex = reader.view(reader.int32());
    const timeIndex = reader.view(reader.int32());
    if (reader.remaining !== 0) return undefined;
    return { offset, baseOffset, position, epochs, offsetIndex, timeIndex };
  } catch (error) {
    if (error instanceof BytesError) return undefined;
    throw error;
  }
}

export interface RecoveryStartsDeps {
  readonly disk: Disk;
  readonly crc32c: Crc32c;
  readonly logger: Logger;
}

/** Those of one log. */
export class RecoveryStarts {
  readonly #directory: string;
  readonly #deps: RecoveryStartsDeps;
  /** The offsets of the existing files, ascending. */
  #offsets: Offset[];

  constructor(directory: string, offsets: readonly Offset[], deps: RecoveryStartsDeps) {
    this.#directory = directory;
    this.#deps = deps;
    this.#offsets = [...offsets];
  }

  get latest(): Offset | undefined {
    return this.#offsets.at(-1);
  }

  /**
   * Writes one, durably and off the loop; one at a time. `isCurrent` is asked before it gets its name: if the
   * log has been cut meanwhile, it does not. Where the disk fails there is none, and that is told: a recovery
   * reads more. Resolves with how many bytes it has.
   */
  async write(start: RecoveryStart, isCurrent: () => boolean): Promise<number> {
    const { disk, crc32c, logger } = this.#deps;
    const path = this.#path(start.offset);
    const aside = `${this.#directory}/recovery${TEMPORARY_SUFFIX}`;
    const bytes = encodeRecoveryStart(start, crc32c);
    try {
      const file = writeAnew(disk, aside, bytes);
      try {
        await file.datasync();
      } finally {
        file.close();
      }
      if (!isCurrent()) return bytes.length;
      disk.rename(aside, path);
      this.#offsets.push(start.offset);
      await disk.syncDirectory(this.#directory);
    } catch (error) {
      if (!(error instanceof DiskError)) throw error;
      const facts = { path, why: error.message };
      if (isCurrent()) logger.warn('a recovery start could not be written', facts);
    }
    return bytes.length;
  }

  /** Keeps the latest at or below `sure`, which counts after a crash, and those after it. */
  prune(sure: Offset): void {
    for (;;) {
      const [oldest, next] = this.#offsets;
      if (oldest === undefined || next === undefined || next > sure) return;
      this.#offsets.shift();
      this.#deps.disk.remove(this.#path(oldest));
    }
  }

  /** All from `end` on was cut, or is not sure; true where files went, which may come back until a sync. */
  truncateTo(end: Offset): boolean {
    let hasRemoved = false;
    for (let at = this.latest; at !== undefined && at > end; at = this.latest) {
      this.#offsets.pop();
      this.#deps.disk.remove(this.#path(at));
      hasRemoved = true;
    }
    return hasRemoved;
  }

  clear(): void {
    for (const at of this.#offsets.splice(0)) this.#deps.disk.remove(this.#path(at));
  }

  /** The latest at or below `recoveryPoint` that is intact. */
  *load(recoveryPoint: Offset): Steps<RecoveryStart | undefined> {
    const { disk, crc32c, logger } = this.#deps;
    const upTo = isMutated('recovery-start-not-durable') ? Infinity : recoveryPoint;
    for (const at of this.#offsets.filter((each) => each <= upTo).toReversed()) {
      const bytes = yield* readHintSteps(disk, this.#path(at));
      const start = bytes === undefined ? undefined : decodeRecoveryStart(at, bytes, crc32c);
      yield PAUSE;
      if (start !== undefined) return start;
      logger.warn('passed over a damaged recovery start', { path: this.#path(at) });
    }
    return undefined;
  }

  #path(at: Offset): string {
    return `${this.#directory}/${offsetFileName(at, RECOVERY_SUFFIX)}`;
  }
}
