/**
 * Kafka's four codecs on native libraries, off the event loop. What is unpacked is bounded: by the
 * length that the format states (snappy), by the library (gzip, zstd in node:zlib), or by walking the
 * frame's blocks without unpacking them (lz4 exactly, zstd from above).
 */
import zstdNative from '@mongodb-js/zstd';
import { compressFrame, decompressFrame } from 'lz4-napi';
import { promisify } from 'node:util';
import zlib from 'node:zlib';
import snappy from 'snappy';
import { BatchError } from '@relevo/record/batch-error';
import { malformed, snappyCompress, snappyDecompress, tooLarge } from '@relevo/record/compression';
import type { CompressionCodecs, CompressionType, SnappyBlocks } from '@relevo/record/compression';
import { lz4FrameSize } from './lz4-frame.ts';
import { zstdFrameBound } from './zstd-frame.ts';

const gzip = promisify<Uint8Array, zlib.ZlibOptions, Buffer>(zlib.gzip);
const gunzip = promisify<Uint8Array, zlib.ZlibOptions, Buffer>(zlib.gunzip);

/** Speed before size, as in Kafka's clients. */
const ZSTD_LEVEL = 3;
/**
 * A frame of many small blocks may look so much larger than it is; the size that counts is checked
 * once it is unpacked.
 */
const ZSTD_BOUND_FACTOR = 4;
const ZSTD_BOUND_SLACK_BYTES = 1 << 20;

const snappyBlocks: SnappyBlocks = {
  compress: (block) => snappy.compress(block),
  decompress: async (block) => {
    const plain = await snappy.uncompress(asBuffer(block), { asBuffer: true });
    return typeof plain === 'string' ? Buffer.from(plain) : plain;
  },
};

export const codecs: CompressionCodecs = {
  async compress(type, bytes) {
    switch (type) {
      case 'none':
        return bytes;
      case 'gzip':
        return gzip(bytes, {});
      case 'snappy':
        return snappyCompress(bytes, snappyBlocks);
      case 'lz4':
        return compressFrame(bytes);
      case 'zstd':
        return zstdNative.compress(asBuffer(bytes), ZSTD_LEVEL);
    }
  },

  async decompress(type, bytes, maxBytes) {
    if (type === 'none') return bytes;
    let plain: Uint8Array;
    try {
      plain = await unpack(type, bytes, maxBytes);
    } catch (error) {
      throw asBatchError(type, maxBytes, error);
    }
    if (plain.length > maxBytes) throw tooLarge(type, maxBytes);
    // Views into it are then Buffers too, whichever codec it was.
    return asBuffer(plain);
  },
};

async function unpack(
  type: Exclude<CompressionType, 'none'>,
  bytes: Uint8Array,
  maxBytes: number,
): Promise<Uint8Array> {
  switch (type) {
    case 'gzip':
      // One byte more than allowed, for node:zlib takes no limit of 0.
      return gunzip(bytes, { maxOutputLength: maxBytes + 1 });
    case 'snappy':
      return snappyDecompress(bytes, snappyBlocks, maxBytes);
    case 'lz4':
      if (lz4FrameSize(bytes) > maxBytes) throw tooLarge(type, maxBytes);
      return decompressFrame(bytes);
    case 'zstd':
      if (zstdFrameBound(bytes) > maxBytes * ZSTD_BOUND_FACTOR + ZSTD_BOUND_SLACK_BYTES) {
        throw tooLarge(type, maxBytes);
      }
      return zstdNative.decompress(asBuffer(bytes));
  }
}

function asBatchError(type: CompressionType, maxBytes: number, error: unknown): BatchError {
  if (error instanceof BatchError) return error;
  if (error instanceof RangeError && 'code' in error && error.code === 'ERR_BUFFER_TOO_LARGE') {
    return tooLarge(type, maxBytes);
  }
  return malformed(type, error instanceof Error ? error.message : String(error), error);
}

const asBuffer = (bytes: Uint8Array): Buffer =>
  Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
