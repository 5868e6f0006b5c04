/** Compression inside a simulation: gzip, synchronously. The other codecs' libraries use threads. */
import { gunzipSync, gzipSync } from 'node:zlib';
import { malformed, tooLarge } from '@relevo/record/compression';
import type { CompressionCodecs, CompressionType } from '@relevo/record/compression';

const TOO_LARGE = 'ERR_BUFFER_TOO_LARGE';

export const simulatedCodecs: CompressionCodecs = {
  async compress(type, bytes) {
    if (type === 'none') return bytes;
    return type === 'gzip' ? gzipSync(bytes) : refuse(type);
  },

  async decompress(type, bytes, maxBytes) {
    if (type === 'none') return bytes;
    if (type !== 'gzip') return refuse(type);
    try {
      return gunzipSync(bytes, { maxOutputLength: maxBytes });
    } catch (error) {
      const isLarge = error instanceof Error && 'code' in error && error.code === TOO_LARGE;
      throw isLarge ? tooLarge(type, maxBytes) : malformed(type, 'not a gzip stream', error);
    }
  },
};

const refuse = (type: CompressionType): never => {
  throw new Error(`${type} is not simulated: use gzip or none`);
};
