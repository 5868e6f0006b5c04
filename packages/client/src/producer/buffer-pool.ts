/**
 * Memory for batches of the usual sizes, used again: fresh memory for each would make the garbage
 * collector run for its sake alone.
 */
import { Buffer } from 'node:buffer';

/** At most so many bytes of each size are kept. */
const FREE_BYTES_MAX = 8 * 1024 * 1024;

export class BufferPool {
  readonly #classes: readonly { readonly size: number; readonly free: Uint8Array[] }[];

  /** `sizes` from small to large. */
  constructor(sizes: readonly number[]) {
    this.#classes = sizes.map((size) => ({ size, free: [] }));
  }

  /** At least `size` bytes, with anything in them. */
  take(size: number): Uint8Array {
    const found = this.#classes.find((candidate) => candidate.size >= size);
    if (found === undefined || size * 2 < found.size) return fresh(size);
    return found.free.pop() ?? fresh(found.size);
  }

  /** `bytes` begin a buffer that was taken; nobody else may hold them. */
  give(bytes: Uint8Array): void {
    const length = bytes.buffer.byteLength;
    const found = this.#classes.find(({ size }) => size === length);
    if (found === undefined || found.free.length * length >= FREE_BYTES_MAX) return;
    found.free.push(new Uint8Array(bytes.buffer));
  }
}

/** Not a Buffer: its views cost more. */
const fresh = (size: number): Uint8Array => new Uint8Array(Buffer.allocUnsafeSlow(size).buffer);
