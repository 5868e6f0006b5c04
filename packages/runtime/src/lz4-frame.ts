/**
 * How much an LZ4 frame unpacks to, by walking its blocks' sequences (a token, literals, a match) and
 * adding their lengths. Source: lz4 Frame Format 1.6.1 and Block Format.
 */
import { malformed } from '@relevo/record/compression';

const MAGIC = 0x184d2204;
const UNCOMPRESSED_BIT = 0x8000_0000;
const MIN_MATCH = 4;

/** The unpacked size of all frames in `bytes`. Throws a BatchError where they are not frames. */
export function lz4FrameSize(bytes: Uint8Array): number {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  let size = 0;
  let at = 0;
  do {
    if (bytes.length - at < 7 || view.getUint32(at, true) !== MAGIC) {
      throw malformed('lz4', 'a frame does not begin as one');
    }
    const flags = view.getUint8(at + 4);
    at += 7 + ((flags & 0x08) !== 0 ? 8 : 0) + ((flags & 0x01) !== 0 ? 4 : 0);
    for (;;) {
      if (bytes.length - at < 4) throw malformed('lz4', 'a frame is cut off');
      const word = view.getUint32(at, true);
      at += 4;
      if (word === 0) break;
      const length = word & ~UNCOMPRESSED_BIT;
      if (length > bytes.length - at) throw malformed('lz4', 'a block is cut off');
      const stored = (word & UNCOMPRESSED_BIT) !== 0;
      size += stored ? length : blockSize(bytes, at, at + length);
      at += length + ((flags & 0x10) !== 0 ? 4 : 0);
    }
    at += (flags & 0x04) !== 0 ? 4 : 0;
  } while (at < bytes.length);
  return size;
}

function blockSize(bytes: Uint8Array, start: number, end: number): number {
  let size = 0;
  let at = start;
  const extended = (nibble: number): number => {
    let length = nibble;
    if (nibble !== 15) return length;
    for (;;) {
      const byte = at < end ? bytes[at++] : undefined;
      if (byte === undefined) throw malformed('lz4', 'a block ends within a length');
      length += byte;
      if (byte !== 255) return length;
    }
  };
  while (at < end) {
    const token = bytes[at++] ?? 0;
    const literals = extended(token >> 4);
    at += literals;
    size += literals;
    if (at >= end) break;
    at += 2;
    size += extended(token & 15) + MIN_MATCH;
  }
  return size;
}
