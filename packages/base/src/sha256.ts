/**
 * SHA-256, for names that must not collide however they are chosen. Slow beside a native one: for a few
 * hundred bytes now and then. Source: FIPS 180-4.
 */
const BLOCK_BYTES = 64;
/** What follows the message: a one bit, zeros, and its length in bits as a 64-bit integer. */
const LENGTH_BYTES = 8;

/** The digest, 64 hexadecimal digits in lower case. */
export function sha256Hex(message: Uint8Array): string {
  const blocks = Math.ceil((message.length + 1 + LENGTH_BYTES) / BLOCK_BYTES);
  const padded = new Uint8Array(blocks * BLOCK_BYTES);
  padded.set(message);
  padded[message.length] = 0x80;
  const view = new DataView(padded.buffer);
  view.setBigUint64(padded.length - LENGTH_BYTES, BigInt(message.length) * 8n);
  const state = Uint32Array.from(INITIAL_STATE);
  for (let at = 0; at < padded.length; at += BLOCK_BYTES) compress(state, view, at);
  return [...state].map((word) => word.toString(16).padStart(8, '0')).join('');
}

const SCHEDULE = new Uint32Array(BLOCK_BYTES);

function compress(state: Uint32Array, view: DataView, at: number): void {
  for (let index = 0; index < BLOCK_BYTES; index++) {
    SCHEDULE[index] = index < 16 ? view.getUint32(at + 4 * index) : expanded(index);
  }
  let [a = 0, b = 0, c = 0, d = 0, e = 0, f = 0, g = 0, h = 0] = state;
  for (let round = 0; round < BLOCK_BYTES; round++) {
    const choice = (e & f) ^ (~e & g);
    const majority = (a & b) ^ (a & c) ^ (b & c);
    const mixedE = rotated(e, 6) ^ rotated(e, 11) ^ rotated(e, 25);
    const mixedA = rotated(a, 2) ^ rotated(a, 13) ^ rotated(a, 22);
    const first = (h + mixedE + choice + (CONSTANTS[round] ?? 0) + (SCHEDULE[round] ?? 0)) | 0;
    [h, g, f, e, d, c, b, a] = [g, f, e, (d + first) | 0, c, b, a, (first + mixedA + majority) | 0];
  }
  [a, b, c, d, e, f, g, h].forEach((word, index) => {
    state[index] = (state[index] ?? 0) + word;
  });
}

function expanded(index: number): number {
  const word = (back: number): number => SCHEDULE[index - back] ?? 0;
  const early = rotated(word(15), 7) ^ rotated(word(15), 18) ^ (word(15) >>> 3);
  const late = rotated(word(2), 17) ^ rotated(word(2), 19) ^ (word(2) >>> 10);
  return word(16) + early + word(7) + late;
}

const rotated = (word: number, bits: number): number => (word >>> bits) | (word << (32 - bits));

/** The first 32 bits of the fractional parts of the square roots of the first 8 primes. */
const INITIAL_STATE = [
  0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19,
];

/** The same of the cube roots of the first 64 primes. */
const CONSTANTS = new Uint32Array([
  0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
  0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
  0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
  0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
  0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
  0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
  0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
  0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2,
]);
