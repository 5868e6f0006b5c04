/**
 * Big-endian integers at a place in a byte array. They make no DataView, which costs more than the
 * read. The caller has checked the bounds: past the end they read zeros.
 */
const TWO_32 = 2 ** 32;

export const uint8At = (bytes: Uint8Array, at: number): number => bytes[at] ?? 0;

export const int8At = (bytes: Uint8Array, at: number): number => (uint8At(bytes, at) << 24) >> 24;

export const int16At = (bytes: Uint8Array, at: number): number =>
  (((uint8At(bytes, at) << 8) | uint8At(bytes, at + 1)) << 16) >> 16;

export const int32At = (bytes: Uint8Array, at: number): number =>
  (uint8At(bytes, at) << 24) |
  (uint8At(bytes, at + 1) << 16) |
  (uint8At(bytes, at + 2) << 8) |
  uint8At(bytes, at + 3);

export const uint32At = (bytes: Uint8Array, at: number): number => int32At(bytes, at) >>> 0;

/** Exact up to 2^53; beyond that the nearest number, which `Number.isSafeInteger` tells. */
export const int64At = (bytes: Uint8Array, at: number): number =>
  int32At(bytes, at) * TWO_32 + uint32At(bytes, at + 4);

export function setInt16(bytes: Uint8Array, at: number, value: number): void {
  bytes[at] = value >> 8;
  bytes[at + 1] = value;
}

/** Takes signed and unsigned values alike. */
export function setInt32(bytes: Uint8Array, at: number, value: number): void {
  bytes[at] = value >>> 24;
  bytes[at + 1] = value >>> 16;
  bytes[at + 2] = value >>> 8;
  bytes[at + 3] = value;
}

export function setInt64(bytes: Uint8Array, at: number, value: number): void {
  const high = Math.floor(value / TWO_32);
  setInt32(bytes, at, high);
  setInt32(bytes, at + 4, value - high * TWO_32);
}
