/**
 * Walks the batches of a segment file, blocking: for recovery, indexes and producer state. Headers only,
 * or with CRCs. Where the batches are large only their headers are read; where they are small, many at
 * a time.
 */
import { BatchError } from '@relevo/record/batch-error';
import { BATCH_OVERHEAD, readBatchHeader } from '@relevo/record/batch-header';
import type { BatchHeader } from '@relevo/record/batch-header';
import { verifyCrc } from '@relevo/record/validate';
import type { Crc32c, DiskFile } from '@relevo/base/ports';
import { PAUSE, runNow } from './steps.ts';
import type { Step, Steps } from './steps.ts';

const WINDOW_BYTES = 65_536;
const CRC_WINDOW_BYTES = 2 ** 20;
/** Above this size, a batch's records are not read along with its header. */
const SKIPPED_BATCH_BYTES = 16_384;
const HEADER_WINDOW_BYTES = 512;
/** Between two pauses of a scan: less than a millisecond of checksums, or of small batches. */
const PAUSE_BYTES = 2 ** 16;
const PAUSE_BATCHES = 500;

/** A piece of a file in memory that moves along as it is read. */
export class FileWindow {
  readonly file: DiskFile;
  /** No byte at or after it is read. */
  readonly end: number;
  #buffer: Uint8Array = new Uint8Array(0);
  #start = 0;
  #length = 0;

  constructor(file: DiskFile, end: number) {
    this.file = file;
    this.end = end;
  }

  /**
   * The bytes from `position` on: `length` of them, fewer only at the end. Reads at least `readAhead`
   * when it must read. The view is valid until the next call.
   */
  view(position: number, length: number, readAhead: number): Uint8Array {
    const wanted = Math.min(length, this.end - position);
    if (wanted <= 0) return this.#buffer.subarray(0, 0);
    if (position < this.#start || position + wanted > this.#start + this.#length) {
      this.#load(position, Math.min(Math.max(wanted, readAhead), this.end - position));
    }
    const at = position - this.#start;
    return this.#buffer.subarray(at, Math.min(at + wanted, this.#length));
  }

  /** What is to be done before `view` has these bytes at hand; undefined: nothing. */
  missing(position: number, length: number, readAhead: number): Step | undefined {
    const wanted = Math.min(length, this.end - position);
    if (wanted <= 0) return undefined;
    if (position >= this.#start && position + wanted <= this.#start + this.#length)
      return undefined;
    const size = Math.min(Math.max(wanted, readAhead), this.end - position);
    return {
      isShort: size <= HEADER_WINDOW_BYTES,
      now: () => this.#load(position, size),
      later: async () => {
        this.#buffer = await this.file.read(position, size);
        this.#length = this.#buffer.length;
        this.#start = position;
      },
    };
  }

  #load(position: number, length: number): void {
    if (this.#buffer.length < length) this.#buffer = new Uint8Array(length);
    this.#length = this.file.readSync(this.#buffer.subarray(0, length), position);
    this.#start = position;
  }
}

export interface ScanOptions {
  readonly file: DiskFile;
  readonly from: number;
  readonly to: number;
  /** Given: every batch's CRC is checked. */
  readonly crc32c?: Crc32c;
}

/** Where a scan ended: at `to`, where the visitor said so, or at bytes that are no batch. */
export interface ScanEnd {
  readonly position: number;
  readonly error?: BatchError;
}

type Visit = (header: BatchHeader, position: number) => boolean | void;

/** `scanSteps`, at once. */
export const scanBatches = (options: ScanOptions, visit: Visit): ScanEnd =>
  runNow(scanSteps(options, visit));

/** `visit` gets every batch in order; it ends the scan before a batch by returning false. */
export function* scanSteps(options: ScanOptions, visit: Visit): Steps<ScanEnd> {
  const { file, from, to, crc32c } = options;
  const window = new FileWindow(file, to);
  let position = from;
  let readAhead = crc32c === undefined ? WINDOW_BYTES : CRC_WINDOW_BYTES;
  let batches = 0;
  let pausedAt = from;
  while (position < to) {
    if (++batches > PAUSE_BATCHES || (crc32c !== undefined && position - pausedAt >= PAUSE_BYTES)) {
      yield PAUSE;
      batches = 0;
      pausedAt = position;
    }
    const first = window.missing(position, BATCH_OVERHEAD, readAhead);
    if (first !== undefined) yield first;
    let header: BatchHeader;
    try {
      header = readBatchHeader(window.view(position, BATCH_OVERHEAD, readAhead));
      checkExtent(header, to - position);
    } catch (error) {
      if (error instanceof BatchError) return { position, error };
      throw error;
    }
    if (crc32c !== undefined) {
      const rest = window.missing(position, header.sizeInBytes, CRC_WINDOW_BYTES);
      if (rest !== undefined) yield rest;
    }
    try {
      if (crc32c !== undefined) checkCrc(window, position, header, crc32c);
    } catch (error) {
      if (error instanceof BatchError) return { position, error };
      throw error;
    }
    if (visit(header, position) === false) return { position };
    if (crc32c === undefined) {
      readAhead = header.sizeInBytes > SKIPPED_BATCH_BYTES ? HEADER_WINDOW_BYTES : WINDOW_BYTES;
    }
    position += header.sizeInBytes;
  }
  return { position };
}

function checkExtent(header: BatchHeader, available: number): void {
  if (header.sizeInBytes <= available) return;
  const message = `the batch has ${header.sizeInBytes} bytes, ${available} are there`;
  throw new BatchError('TRUNCATED', message);
}

function checkCrc(window: FileWindow, position: number, header: BatchHeader, crc32c: Crc32c): void {
  const size = header.sizeInBytes;
  const bytes = window.view(position, size, CRC_WINDOW_BYTES);
  if (bytes.length === size && verifyCrc(bytes, 0, size, crc32c)) return;
  throw new BatchError('BAD_CRC', `the batch of ${size} bytes does not match its CRC`);
}
