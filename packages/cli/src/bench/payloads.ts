/** Values that do not compress, made beforehand: making them must not be part of what is measured. */
import { randomBytes } from 'node:crypto';

const POOL = 64;

/** Gives one of a pool of values of `bytes` bytes, in turn. */
export function payloads(bytes: number): () => Uint8Array {
  const pool = Array.from({ length: POOL }, () => randomBytes(bytes));
  let next = 0;
  return () => pool[next++ % POOL] ?? new Uint8Array(bytes);
}
