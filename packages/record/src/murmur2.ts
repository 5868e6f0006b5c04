/** Kafka's partitioner for keys: Austin Appleby's MurmurHash2, 32 bits, seed 0x9747b28c. */
const SEED = 0x9747b28c;
const M = 0x5bd1e995;
const R = 24;

/** As a signed 32-bit integer, like Kafka's `Utils.murmur2`. */
export function murmur2(bytes: Uint8Array): number {
  const length = bytes.length;
  const wholeEnd = length - (length & 3);
  let hash = SEED ^ length;
  for (let at = 0; at < wholeEnd; at += 4) {
    let k =
      (bytes[at] ?? 0) |
      ((bytes[at + 1] ?? 0) << 8) |
      ((bytes[at + 2] ?? 0) << 16) |
      ((bytes[at + 3] ?? 0) << 24);
    k = Math.imul(k, M);
    k ^= k >>> R;
    hash = Math.imul(hash, M) ^ Math.imul(k, M);
  }
  const rest = length & 3;
  if (rest === 3) hash ^= (bytes[wholeEnd + 2] ?? 0) << 16;
  if (rest >= 2) hash ^= (bytes[wholeEnd + 1] ?? 0) << 8;
  if (rest >= 1) hash = Math.imul(hash ^ (bytes[wholeEnd] ?? 0), M);
  return finish(hash);
}

/**
 * `murmur2` of a text's UTF-8 bytes without making them, or undefined when the text is not ASCII (the
 * caller then encodes it).
 */
export function murmur2OfAscii(text: string): number | undefined {
  const length = text.length;
  const wholeEnd = length - (length & 3);
  let hash = SEED ^ length;
  let seen = 0;
  for (let at = 0; at < wholeEnd; at += 4) {
    const a = text.charCodeAt(at);
    const b = text.charCodeAt(at + 1);
    const c = text.charCodeAt(at + 2);
    const d = text.charCodeAt(at + 3);
    seen |= a | b | c | d;
    let k = a | (b << 8) | (c << 16) | (d << 24);
    k = Math.imul(k, M);
    k ^= k >>> R;
    hash = Math.imul(hash, M) ^ Math.imul(k, M);
  }
  for (let at = wholeEnd; at < length; at++) {
    const code = text.charCodeAt(at);
    seen |= code;
    hash ^= code << (8 * (at - wholeEnd));
  }
  if (seen > 0x7f) return undefined;
  if (length > wholeEnd) hash = Math.imul(hash, M);
  return finish(hash);
}

function finish(hash: number): number {
  hash ^= hash >>> 13;
  hash = Math.imul(hash, M);
  return hash ^ (hash >>> 15);
}

/** The partition that Kafka's default partitioner chooses for a key. */
export const partitionForKey = (key: Uint8Array, partitions: number): number =>
  partitionForHash(murmur2(key), partitions);

/** Kafka's `toPositive(hash) % partitions`. */
export const partitionForHash = (hash: number, partitions: number): number =>
  (hash & 0x7fffffff) % partitions;
