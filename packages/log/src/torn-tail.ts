/**
 * Tells a torn tail from damage. A power cut loses writes that no sync has covered, in units of disk
 * sectors and in any order: a lost sector of a file that only grows reads as zeros, or lies beyond the
 * file's end. So a batch that does not check out is *torn* if the file ends within it, or if a sector
 * of it is missing: all zeros where the batch cannot be. Intact batches may well follow it. A batch
 * with other bytes than were written, and no sector missing, is *damaged*: no power cut does that, and
 * what was acknowledged may be in it (L4).
 *
 * This is asked only about bytes above the recovery point, all below it having been synced. What a
 * producer wrote as zeros may pass for a missing sector; then a damaged batch passes for a torn one.
 */
import { BatchError } from '@relevo/record/batch-error';
import {
  BATCH_OVERHEAD,
  LOG_OVERHEAD,
  MAGIC,
  MAGIC_AT,
  baseOffsetAt,
  readBatchHeader,
  sizeInBytesAt,
} from '@relevo/record/batch-header';
import { setInt64 } from '@relevo/record/ints';
import { verifyCrc } from '@relevo/record/validate';
import type { Offset } from '@relevo/base/ids';
import type { Crc32c, DiskFile } from '@relevo/base/ports';
import { FileWindow } from './batch-scan.ts';

const SECTOR_BYTES = 512;
/** Zeros over as many bytes of a header or of records are no batch's; over fewer they may be. */
const TELLING_ZEROS = 16;
const WINDOW_BYTES = 2 ** 20;
/** A segment's offsets are 31-bit numbers from its base. */
const SEGMENT_OFFSETS_MAX = 2 ** 31;

export interface BadBatch {
  readonly file: DiskFile;
  readonly position: number;
  readonly fileBytes: number;
  /** The offset that the batch should have had. */
  readonly expected: Offset;
  readonly crc32c: Crc32c;
}

export function judgeTail(bad: BadBatch): 'torn' | 'damaged' {
  const window = new FileWindow(bad.file, bad.fileBytes);
  const stated = statedEnd(bad, window);
  if (stated !== undefined && stated <= bad.fileBytes) {
    return lacksSector(bad, window, stated) ? 'torn' : 'damaged';
  }
  const next = findNextBatch(bad, window);
  if (lacksSector(bad, window, next ?? bad.fileBytes)) return 'torn';
  if (next !== undefined) return 'damaged';
  const isCutOff = stated !== undefined || bad.fileBytes - bad.position < BATCH_OVERHEAD;
  return isCutOff && !isWhole(bad, window) ? 'torn' : 'damaged';
}

/** Where the batch ends by its header, if that is there and right as far as can be told. */
function statedEnd(bad: BadBatch, window: FileWindow): number | undefined {
  const header = window.view(bad.position, BATCH_OVERHEAD, WINDOW_BYTES);
  if (header.length < BATCH_OVERHEAD || header[MAGIC_AT] !== MAGIC) return undefined;
  const size = sizeInBytesAt(header);
  if (baseOffsetAt(header) !== bad.expected || size < BATCH_OVERHEAD) return undefined;
  return bad.position + size;
}

/** All of the last batch is there, only its length is wrong: that is damage. */
function isWhole(bad: BadBatch, window: FileWindow): boolean {
  const rest = bad.fileBytes - bad.position;
  if (rest < BATCH_OVERHEAD) return false;
  const all = window.view(bad.position, rest, WINDOW_BYTES);
  return verifyCrc(all, 0, rest, bad.crc32c);
}

/** Where the next intact batch begins that this log may hold after the bad one. */
function findNextBatch(bad: BadBatch, window: FileWindow): number | undefined {
  const last = bad.fileBytes - BATCH_OVERHEAD;
  let at = bad.position + 1;
  while (at <= last) {
    const bytes = window.view(at, WINDOW_BYTES, WINDOW_BYTES);
    const found = bytes.indexOf(MAGIC, MAGIC_AT);
    if (found === -1) {
      at += bytes.length - MAGIC_AT;
      continue;
    }
    at += found - MAGIC_AT;
    if (isNextBatch(bad, window, at)) return at;
    at++;
  }
  return undefined;
}

function isNextBatch(bad: BadBatch, window: FileWindow, at: number): boolean {
  const header = window.view(at, BATCH_OVERHEAD, WINDOW_BYTES);
  if (header.length < BATCH_OVERHEAD) return false;
  const size = sizeInBytesAt(header);
  if (size < BATCH_OVERHEAD || size > bad.fileBytes - at) return false;
  const offset = baseOffsetAt(header);
  if (offset <= bad.expected || offset > bad.expected + SEGMENT_OFFSETS_MAX) return false;
  try {
    readBatchHeader(header);
  } catch (error) {
    if (error instanceof BatchError) return false;
    throw error;
  }
  return verifyCrc(window.view(at, size, WINDOW_BYTES), 0, size, bad.crc32c);
}

function lacksSector(bad: BadBatch, window: FileWindow, end: number): boolean {
  const { position } = bad;
  if (isZero(window.view(position, TELLING_ZEROS, WINDOW_BYTES))) return true;
  for (let from = position; from < end;) {
    const to = Math.min(end, (Math.floor(from / SECTOR_BYTES) + 1) * SECTOR_BYTES);
    if (isZero(window.view(from, to - from, WINDOW_BYTES))) {
      if (to - from >= TELLING_ZEROS) return true;
      if (from === position && headIsMissing(bad.expected, to - from)) return true;
      // A batch often ends with one zero, its last record's count of headers, seldom with two.
      if (to === end && (to === bad.fileBytes || to - from >= 2)) return true;
    }
    from = to;
  }
  return false;
}

/** Whether a batch with this offset has other bytes than zeros among its first `length` (< 16). */
function headIsMissing(expected: Offset, length: number): boolean {
  // The length field is never zero.
  if (length >= LOG_OVERHEAD) return true;
  const offset = new Uint8Array(8);
  setInt64(offset, 0, expected);
  return !isZero(offset.subarray(0, length));
}

function isZero(bytes: Uint8Array): boolean {
  for (let at = 0; at < bytes.length; at++) if (bytes[at] !== 0) return false;
  return true;
}
