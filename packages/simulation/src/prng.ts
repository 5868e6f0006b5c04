/**
 * The one source of chance in a simulated world: xoshiro128** (Blackman and Vigna, 2018), seeded from
 * text. `split(name)` gives each subsystem a stream of its own that depends only on the parent's seed
 * and the name, never on how much was drawn before: a draw added in one place does not shift the
 * choices of another. All streams of a world share one `DrawRecorder`.
 */
import type { Random } from '@relevo/base/ports';

/** How many draws a world has made, and the last: two equal runs end with equal recorders. */
export interface DrawRecorder {
  draws: number;
  last: number;
}

/** Four 32-bit words from text (cyrb128); good enough to keep neighbouring seeds apart. */
function seedWords(text: string): [number, number, number, number] {
  let a = 1779033703;
  let b = 3144134277;
  let c = 1013904242;
  let d = 2773480762;
  for (let i = 0; i < text.length; i++) {
    const code = text.charCodeAt(i);
    a = b ^ Math.imul(a ^ code, 597399067);
    b = c ^ Math.imul(b ^ code, 2869860233);
    c = d ^ Math.imul(c ^ code, 951274213);
    d = a ^ Math.imul(d ^ code, 2716044179);
  }
  a = Math.imul(c ^ (a >>> 18), 597399067);
  b = Math.imul(d ^ (b >>> 22), 2869860233);
  c = Math.imul(a ^ (c >>> 17), 951274213);
  d = Math.imul(b ^ (d >>> 19), 2716044179);
  return [(a ^ b ^ c ^ d) | 1, b ^ a, c ^ a, d ^ a];
}

const rotateLeft = (value: number, by: number): number => (value << by) | (value >>> (32 - by));

export class Prng implements Random {
  readonly seed: string;
  readonly recorder: DrawRecorder;
  #a: number;
  #b: number;
  #c: number;
  #d: number;

  constructor(seed: number | string, recorder: DrawRecorder = { draws: 0, last: 0 }) {
    this.seed = String(seed);
    this.recorder = recorder;
    [this.#a, this.#b, this.#c, this.#d] = seedWords(this.seed);
  }

  /** The stream of a subsystem. */
  split(name: string): Prng {
    return new Prng(`${this.seed}/${name}`, this.recorder);
  }

  /** Uniform over the unsigned 32-bit integers. */
  uint32(): number {
    const result = Math.imul(rotateLeft(Math.imul(this.#b, 5), 7), 9) >>> 0;
    const t = this.#b << 9;
    this.#c ^= this.#a;
    this.#d ^= this.#b;
    this.#b ^= this.#c;
    this.#a ^= this.#d;
    this.#c ^= t;
    this.#d = rotateLeft(this.#d, 11);
    this.recorder.draws++;
    this.recorder.last = result;
    return result;
  }

  /** Uniform in [0, 1), in steps of 2^-32. */
  float(): number {
    return this.uint32() / 2 ** 32;
  }

  /** An integer, uniform from `min` to `max`, both included. */
  integer(min: number, max: number): number {
    return min + Math.floor(this.float() * (max - min + 1));
  }

  /** True with `probability`; nothing is drawn where the answer is certain. */
  chance(probability: number): boolean {
    if (probability <= 0) return false;
    return probability >= 1 || this.float() < probability;
  }

  /** Uniform over [min, max). */
  between(min: number, max: number): number {
    return min + this.float() * (max - min);
  }

  /** Exponentially distributed: what memoryless delays follow. */
  exponential(mean: number): number {
    return -Math.log(1 - this.float()) * mean;
  }

  pick<Item>(items: readonly Item[]): Item {
    const item = items[Math.floor(this.float() * items.length)];
    if (item === undefined) throw new RangeError('nothing to pick from');
    return item;
  }

  bytes(length: number): Uint8Array {
    const bytes = new Uint8Array(length);
    for (let at = 0; at < length; at += 4) {
      const word = this.uint32();
      for (let i = 0; i < 4 && at + i < length; i++) bytes[at + i] = word >>> (8 * i);
    }
    return bytes;
  }
}
