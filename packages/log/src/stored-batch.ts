/** What a batch that was read from the disk must be before anybody is given it. */
import { isMutated } from '@relevo/base/mutations';
import {
  CRC_AT,
  LEADER_EPOCH_AT,
  MAGIC,
  MAGIC_AT,
  baseOffsetAt,
} from '@relevo/record/batch-header';
import { int32At, int8At, uint32At } from '@relevo/record/ints';
import { verifyCrc } from '@relevo/record/validate';
import type { Crc32c } from '@relevo/base/ports';

export interface BatchCheck {
  readonly crc32c: Crc32c;
  /** The leader epoch of the record at an offset, as the log knows it; -1: not known. */
  readonly epochAt: (offset: number) => number;
}

/**
 * What is wrong with the whole batch of `size` bytes at `at`; undefined: nothing. Its base offset lies
 * outside the CRC too, and is for the caller to hold against the batch before it.
 */
export function flawOfBatch(
  bytes: Uint8Array,
  at: number,
  size: number,
  { crc32c, epochAt }: BatchCheck,
): string | undefined {
  if (isMutated('stored-batches-unchecked')) return undefined;
  if (!verifyCrc(bytes, at, size, crc32c)) {
    return `the CRC ${uint32At(bytes, at + CRC_AT)} does not match`;
  }
  const magic = int8At(bytes, at + MAGIC_AT);
  if (magic !== MAGIC) return `magic is ${magic}, expected ${MAGIC}`;
  const epoch = int32At(bytes, at + LEADER_EPOCH_AT);
  const known = epochAt(baseOffsetAt(bytes, at));
  if (known < 0 || epoch === known || isMutated('stored-epochs-trusted')) return undefined;
  return `its leader epoch is ${epoch}, and was ${known}`;
}
