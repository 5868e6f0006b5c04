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
import { PAUSE, runNow } from './steps.ts';
import type { Steps } from './steps.ts';

const SECTOR_BYTES = 512;
/** Zeros over as many bytes of a header or of records are no batch's; over fewer they may be. */
const TELLING_ZEROS = 16;
const WINDOW_BYTES = 2 ** 20;
/** Looked through for a batch between two pauses: about a millisecond. */
const SEARCHED_BYTES = 2 ** 18;
/** Looked at for zeros between two pauses. */
const PAUSE_SECTORS = 1_000;
/** No batch was ever larger, whatever the limit of the time: 64 MiB, and what its header takes. */
const BATCH_BYTES_MAX = 2 ** 27;
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

export type TailVerdict = 'torn' | 'damaged';

/** `judgeTailSteps`, at once. */
export const judgeTail = (bad: BadBatch): TailVerdict => runNow(judgeTailSteps(bad));

export function* judgeTailSteps(bad: BadBatch): Steps<TailVerdict> {
  const window = new FileWindow(bad.file, bad.fileBytes);
  const stated = yield* statedEnd(bad, window);
  if (stated !== undefined && stated <= bad.fileBytes) {
    return (yield* lacksSector(bad, window, stated)) ? 'torn' : 'damaged';
  }
  const next = yield* findNextBatch(bad, window);
  if (yield* lacksSector(bad, window, next ?? bad.fileBytes)) return 'torn';
  if (next !== undefined) return 'damaged';
  const isCutOff = stated !== undefined || bad.fileBytes - bad.position < BATCH_OVERHEAD;
  return isCutOff && !(yield* isWhole(bad, window)) ? 'torn' : 'damaged';
}

/** `FileWindow.view`, which reads off the loop where it must. */
function* viewOf(window: FileWindow, position: number, length: number): Steps<Uint8Array> {
  const missing = window.missing(position, length, WINDOW_BYTES);
  if (missing !== undefined) yield missing;
  return window.view(position, length, WINDOW_BYTES);
}

/** Where the batch ends by its header, if that is there and right as far as can be told. */
function* statedEnd(bad: BadBatch, window: FileWindow): Steps<number | undefined> {
  const header = yield* viewOf(window, bad.position, BATCH_OVERHEAD);
  if (header.length < BATCH_OVERHEAD || header[MAGIC_AT] !== MAGIC) return undefined;
  const size = sizeInBytesAt(header);
  if (baseOffsetAt(header) !== bad.expected || size < BATCH_OVERHEAD) return undefined;
  return bad.position + size;
}

/** All of the last batch is there, only its length is wrong: that is damage. */
function* isWhole(bad: BadBatch, window: FileWindow): Steps<boolean> {
  const rest = bad.fileBytes - bad.position;
  // No batch is so large: its length is a 32-bit number.
  if (rest < BATCH_OVERHEAD || rest > BATCH_BYTES_MAX) return false;
  const all = yield* viewOf(window, bad.position, rest);
  return verifyCrc(all, 0, rest, bad.crc32c);
}

/** Where the next intact batch begins that this log may hold after the bad one. */
function* findNextBatch(bad: BadBatch, window: FileWindow): Steps<number | undefined> {
  const probe = new FileWindow(bad.file, bad.fileBytes);
  const last = bad.fileBytes - BATCH_OVERHEAD;
  for (let from = bad.position + 1; from <= last;) {
    const bytes = yield* viewOf(window, from, SEARCHED_BYTES);
    // All candidates but those of which the header goes on behind: they are looked at with the next piece.
    const candidates = bytes.length - BATCH_OVERHEAD + 1;
    let at = bytes.indexOf(MAGIC, MAGIC_AT) - MAGIC_AT;
    for (; at >= 0 && at < candidates; at = bytes.indexOf(MAGIC, at + 1 + MAGIC_AT) - MAGIC_AT) {
      if (!mayBeNext(bad, bytes.subarray(at, at + BATCH_OVERHEAD), from + at)) continue;
      if (yield* isIntact(bad, probe, from + at)) return from + at;
    }
    from += candidates;
    yield PAUSE;
  }
  return undefined;
}

function mayBeNext(bad: BadBatch, header: Uint8Array, at: number): boolean {
  const size = sizeInBytesAt(header);
  if (size < BATCH_OVERHEAD || size > Math.min(BATCH_BYTES_MAX, bad.fileBytes - at)) return false;
  const offset = baseOffsetAt(header);
  if (offset <= bad.expected || offset > bad.expected + SEGMENT_OFFSETS_MAX) return false;
  try {
    readBatchHeader(header);
    return true;
  } catch (error) {
    if (error instanceof BatchError) return false;
    throw error;
  }
}

function* isIntact(bad: BadBatch, probe: FileWindow, at: number): Steps<boolean> {
  const size = sizeInBytesAt(yield* viewOf(probe, at, BATCH_OVERHEAD));
  return verifyCrc(yield* viewOf(probe, at, size), 0, size, bad.crc32c);
}

function* lacksSector(bad: BadBatch, window: FileWindow, end: number): Steps<boolean> {
  const { position } = bad;
  if (isZero(yield* viewOf(window, position, TELLING_ZEROS))) return true;
  let sectors = 0;
  for (let from = position; from < end;) {
    if (++sectors > PAUSE_SECTORS) {
      yield PAUSE;
      sectors = 0;
    }
    const to = Math.min(end, (Math.floor(from / SECTOR_BYTES) + 1) * SECTOR_BYTES);
    if (isZero(yield* viewOf(window, from, to - from))) {
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
