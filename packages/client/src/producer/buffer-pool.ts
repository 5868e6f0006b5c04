/**
 * Memory for batches of the usual size, used again: fresh memory for each would make the garbage
 * collector run for its sake alone.
 */
import { Buffer } from 'node:buffer';

/** At most so many buffers are kept. */
const FREE_MAX = 64;

export class BufferPool {
  readonly #usualSize: number;
  readonly #free: Uint8Array[] = [];

  constructor(usualSize: number) {
    this.#usualSize = usualSize;
  }

  /** At least `size` bytes, with anything in them. */
  take(size: number): Uint8Array {
    if (size > this.#usualSize || size * 2 < this.#usualSize) return fresh(size);
    return this.#free.pop() ?? fresh(this.#usualSize);
  }

  /** `bytes` begin a buffer that was taken; nobody else may hold them. */
  give(bytes: Uint8Array): void {
    if (bytes.buffer.byteLength !== this.#usualSize || this.#free.length >= FREE_MAX) return;
    this.#free.push(new Uint8Array(bytes.buffer));
  }
}

/** Not a Buffer: its views cost more. */
const fresh = (size: number): Uint8Array => new Uint8Array(Buffer.allocUnsafeSlow(size).buffer);
