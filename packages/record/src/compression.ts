/**
 * Compression of the records section of a batch: the port that `runtime` makes real, and the one
 * framing that no library has.
 *
 * Kafka's Java client does not write plain snappy but a stream of xerial's making: the magic
 * `82 S N A P P Y 00`, version int32 1, compatible int32 1, then blocks, each an int32 length and a
 * plain snappy block of at most 32 KiB of input. We write it as Kafka does and read both.
 */
import { BatchError } from './batch-error.ts';
import { int32At, setInt32, uint8At } from './ints.ts';

/** Kafka's codecs; their numbers stand in bits 0-2 of a batch's attributes. */
export type CompressionType = 'none' | 'gzip' | 'snappy' | 'lz4' | 'zstd';

const BY_NUMBER: readonly CompressionType[] = ['none', 'gzip', 'snappy', 'lz4', 'zstd'];

export const COMPRESSION_TYPES: readonly CompressionType[] = BY_NUMBER;

export const compressionNumber = (type: CompressionType): number => BY_NUMBER.indexOf(type);

/** Undefined for a number that names no codec. */
export const compressionOf = (number: number): CompressionType | undefined => BY_NUMBER[number];

/**
 * Most that one batch may unpack to, bytes: what a leader takes, so that every reader can read it. 64
 * times the default of `max.message.bytes`.
 */
export const UNPACKED_BYTES_MAX: number = 64 * 1024 * 1024;

export interface CompressionCodecs {
  /** `none` gives the bytes back. */
  compress(type: CompressionType, bytes: Uint8Array): Promise<Uint8Array>;
  /**
   * Rejects with a BatchError: BAD_COMPRESSED_DATA, or TOO_LARGE when the result would be above
   * `maxBytes` (found, where the format allows it, before memory is taken).
   */
  decompress(type: CompressionType, bytes: Uint8Array, maxBytes: number): Promise<Uint8Array>;
}

/** Plain snappy blocks, without framing. */
export interface SnappyBlocks {
  compress(block: Uint8Array): Promise<Uint8Array>;
  decompress(block: Uint8Array): Promise<Uint8Array>;
}

const XERIAL_MAGIC = [0x82, 0x53, 0x4e, 0x41, 0x50, 0x50, 0x59, 0x00] as const;
const XERIAL_HEADER_BYTES = 16;
const XERIAL_BLOCK_BYTES = 32_768;

export async function snappyCompress(bytes: Uint8Array, snappy: SnappyBlocks): Promise<Uint8Array> {
  const blocks: Uint8Array[] = [];
  let size = XERIAL_HEADER_BYTES;
  for (let at = 0; at < bytes.length; at += XERIAL_BLOCK_BYTES) {
    const block = await snappy.compress(bytes.subarray(at, at + XERIAL_BLOCK_BYTES));
    blocks.push(block);
    size += 4 + block.length;
  }
  const framed = new Uint8Array(size);
  framed.set(XERIAL_MAGIC);
  setInt32(framed, 8, 1);
  setInt32(framed, 12, 1);
  let at = XERIAL_HEADER_BYTES;
  for (const block of blocks) {
    setInt32(framed, at, block.length);
    framed.set(block, at + 4);
    at += 4 + block.length;
  }
  return framed;
}

/** Reads xerial's framing and plain blocks. */
export async function snappyDecompress(
  bytes: Uint8Array,
  snappy: SnappyBlocks,
  maxBytes: number,
): Promise<Uint8Array> {
  const blocks = isXerial(bytes) ? xerialBlocks(bytes) : [bytes];
  const size = blocks.reduce((sum, block) => sum + snappyLength(block), 0);
  if (size > maxBytes) throw tooLarge('snappy', maxBytes);
  const whole = new Uint8Array(size);
  let at = 0;
  for (const block of blocks) {
    const plain = await snappy.decompress(block);
    if (plain.length > size - at) throw malformed('snappy', 'a block is longer than it says');
    whole.set(plain, at);
    at += plain.length;
  }
  if (at !== size) throw malformed('snappy', 'a block is shorter than it says');
  return whole;
}

const isXerial = (bytes: Uint8Array): boolean =>
  bytes.length >= XERIAL_HEADER_BYTES && XERIAL_MAGIC.every((byte, at) => bytes[at] === byte);

function xerialBlocks(bytes: Uint8Array): Uint8Array[] {
  const blocks: Uint8Array[] = [];
  let at = XERIAL_HEADER_BYTES;
  while (at < bytes.length) {
    const length = at + 4 <= bytes.length ? int32At(bytes, at) : -1;
    if (length < 0 || length > bytes.length - at - 4) {
      throw malformed('snappy', `a block of ${length} bytes at ${at}`);
    }
    blocks.push(bytes.subarray(at + 4, at + 4 + length));
    at += 4 + length;
  }
  return blocks;
}

/** A plain block begins with its unpacked length as an unsigned varint of up to 32 bits. */
function snappyLength(block: Uint8Array): number {
  let length = 0;
  for (let index = 0; index < 5 && index < block.length; index++) {
    const byte = uint8At(block, index);
    length += (byte & 0x7f) * 128 ** index;
    if (byte < 0x80) return length;
  }
  throw malformed('snappy', 'a block does not begin with its length');
}

export const tooLarge = (type: CompressionType, maxBytes: number): BatchError =>
  new BatchError('TOO_LARGE', `${type} records unpack to more than ${maxBytes} bytes`);

export const malformed = (type: CompressionType, what: string, cause?: unknown): BatchError =>
  new BatchError('BAD_COMPRESSED_DATA', `${type} records do not unpack: ${what}`, { cause });
