/**
 * A bound on what zstd frames unpack to, from their block headers: a raw or repeated block tells its
 * size, a compressed one is taken for the largest there is. Source: RFC 8878, section 3.1.
 */
import { malformed } from '@relevo/record/compression';

const MAGIC = 0xfd2fb528;
const SKIPPABLE_MAGIC = 0x184d2a50;
const BLOCK_BYTES_MAX = 128 * 1024;
const DICTIONARY_ID_BYTES = [0, 1, 2, 4] as const;
const CONTENT_SIZE_BYTES = [0, 2, 4, 8] as const;
const REPEATED_BLOCK = 1;
const COMPRESSED_BLOCK = 2;

/** At least what the frames in `bytes` unpack to. Throws a BatchError where they are not frames. */
export function zstdFrameBound(bytes: Uint8Array): number {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  let bound = 0;
  let at = 0;
  do {
    if (bytes.length - at < 8) throw cutOff();
    const magic = view.getUint32(at, true);
    if ((magic & 0xffff_fff0) >>> 0 === SKIPPABLE_MAGIC) {
      at += 8 + view.getUint32(at + 4, true);
      continue;
    }
    if (magic !== MAGIC) throw malformed('zstd', 'a frame does not begin as one');
    const descriptor = view.getUint8(at + 4);
    at += 4 + frameHeaderBytes(descriptor);
    for (let last = false; !last;) {
      if (bytes.length - at < 3) throw cutOff();
      const header = view.getUint16(at, true) | (view.getUint8(at + 2) << 16);
      last = (header & 1) === 1;
      const kind = (header >> 1) & 3;
      const size = header >> 3;
      bound += kind === COMPRESSED_BLOCK ? BLOCK_BYTES_MAX : size;
      at += 3 + (kind === REPEATED_BLOCK ? 1 : size);
    }
    const hasChecksum = (descriptor & 0x04) !== 0;
    if (hasChecksum) at += 4;
  } while (at < bytes.length);
  return bound;
}

const cutOff = (): Error => malformed('zstd', 'a frame is cut off');

/** Descriptor, window, dictionary id and content size. */
function frameHeaderBytes(descriptor: number): number {
  const isSingleSegment = (descriptor & 0x20) !== 0;
  const contentSizeFlag = descriptor >> 6;
  const contentSize =
    contentSizeFlag === 0 && isSingleSegment ? 1 : (CONTENT_SIZE_BYTES[contentSizeFlag] ?? 0);
  const dictionaryId = DICTIONARY_ID_BYTES[descriptor & 3] ?? 0;
  return 1 + (isSingleSegment ? 0 : 1) + dictionaryId + contentSize;
}
