/** Time and chance as Node.js has them. */
import { randomBytes, randomFillSync } from 'node:crypto';
import type { Clock, Random, TimerHandle, Timers } from '@relevo/base/ports';

/** What `setTimeout` takes at most; longer waits are cut to it, 24 days. */
const DELAY_MS_MAX = 2 ** 31 - 1;

export class SystemClock implements Clock {
  monotonicMs(): number {
    return performance.now();
  }

  wallMs(): number {
    return Date.now();
  }
}

export class NodeTimers implements Timers {
  #soon: (() => void)[] = [];
  #scheduled = false;

  after(delayMs: number, run: () => void): TimerHandle {
    // Upwards: a timer that fires before its time makes its owner set another one.
    const timeout = setTimeout(run, Math.min(Math.ceil(delayMs), DELAY_MS_MAX));
    return { cancel: () => clearTimeout(timeout) };
  }

  soon(run: () => void): void {
    this.#soon.push(run);
    this.#schedule();
  }

  /** One `setImmediate` for all that is asked for in a turn. */
  #schedule(): void {
    if (this.#scheduled) return;
    this.#scheduled = true;
    setImmediate(() => this.#runSoon());
  }

  #runSoon(): void {
    const batch = this.#soon;
    this.#soon = [];
    this.#scheduled = false;
    let next = 0;
    try {
      for (const run of batch) {
        next++;
        run();
      }
    } finally {
      // One that throws does not keep the others from their turn.
      if (next < batch.length) {
        this.#soon = [...batch.slice(next), ...this.#soon];
        this.#schedule();
      }
    }
  }
}

/** From the operating system's generator, a page at a time. */
export class CryptoRandom implements Random {
  readonly #pool: Buffer = Buffer.alloc(POOL_BYTES);
  #next: number = POOL_BYTES;

  float(): number {
    if (this.#next + FLOAT_BYTES > POOL_BYTES) {
      randomFillSync(this.#pool);
      this.#next = 0;
    }
    const high = this.#pool.readUInt32LE(this.#next) >>> 5;
    const low = this.#pool.readUInt32LE(this.#next + 4) >>> 6;
    this.#next += FLOAT_BYTES;
    return (high * 2 ** 26 + low) / 2 ** 53;
  }

  bytes(length: number): Uint8Array {
    return randomBytes(length);
  }
}

const POOL_BYTES = 4096;
/** 53 of their 64 bits are used. */
const FLOAT_BYTES = 8;
