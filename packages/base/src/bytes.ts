/**
 * Big-endian readers and writers, and Kafka's varints (zig-zag, base 128, least significant group
 * first). A reader throws a `BytesError` on any read past the end: input is never trusted.
 */
export class BytesError extends Error {
  override readonly name = 'BytesError';
}

const encoder = new TextEncoder();
const decoder = new TextDecoder();

export const utf8Encode = (text: string): Uint8Array => encoder.encode(text);
export const utf8Decode = (bytes: Uint8Array): string => decoder.decode(bytes);
/** Encodes as much of `text` as fits; `read` is short of its length when it did not fit. */
export const utf8EncodeInto = (
  text: string,
  into: Uint8Array,
): { readonly read: number; readonly written: number } => encoder.encodeInto(text, into);

const TWO_32 = 2 ** 32;

export class ByteReader {
  readonly bytes: Uint8Array;
  readonly #view: DataView;
  /** Next byte to be read, from the start of `bytes`. */
  position: number;
  readonly end: number;

  constructor(bytes: Uint8Array, start = 0, end: number = bytes.length) {
    this.bytes = bytes;
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    this.position = start;
    this.end = end;
  }

  get remaining(): number {
    return this.end - this.position;
  }

  #take(length: number): number {
    const at = this.position;
    if (length < 0 || length > this.end - at) {
      throw new BytesError(`wanted ${length} bytes at ${at}, ${this.end - at} are left`);
    }
    this.position = at + length;
    return at;
  }

  int8(): number {
    return this.#view.getInt8(this.#take(1));
  }

  uint8(): number {
    return this.#view.getUint8(this.#take(1));
  }

  int16(): number {
    return this.#view.getInt16(this.#take(2));
  }

  int32(): number {
    return this.#view.getInt32(this.#take(4));
  }

  uint32(): number {
    return this.#view.getUint32(this.#take(4));
  }

  /** A 64-bit integer as a number; beyond 2^53 it is refused. */
  int64(): number {
    const at = this.#take(8);
    const value = this.#view.getInt32(at) * TWO_32 + this.#view.getUint32(at + 4);
    if (!Number.isSafeInteger(value)) throw new BytesError(`64-bit value at ${at} is above 2^53`);
    return value;
  }

  /** The most frequent case: what the next byte is when it is the last of its number; else -1. */
  #oneByteVarint(): number {
    const byte = this.position < this.end ? (this.bytes[this.position] ?? -1) : -1;
    if (byte >= 0x80 || byte < 0) return -1;
    this.position++;
    return byte;
  }

  /** Kafka's VARINT: a zig-zag 32-bit integer in at most five bytes. */
  varint(): number {
    const first = this.#oneByteVarint();
    if (first >= 0) return (first >>> 1) ^ -(first & 1);
    let value = 0;
    for (let shift = 0; shift < 35; shift += 7) {
      const byte = this.uint8();
      value |= (byte & 0x7f) << shift;
      if (byte < 0x80) return (value >>> 1) ^ -(value & 1);
    }
    throw new BytesError(`varint at ${this.position} has more than five bytes`);
  }

  /** Kafka's VARLONG, as a number; beyond 2^53 it is refused. */
  varlong(): number {
    const first = this.#oneByteVarint();
    if (first >= 0) return (first >>> 1) ^ -(first & 1);
    let value = 0;
    let scale = 1;
    for (let count = 0; count < 10; count++) {
      const byte = this.uint8();
      value += (byte & 0x7f) * scale;
      if (byte < 0x80) {
        const decoded = value % 2 === 0 ? value / 2 : -(value + 1) / 2;
        if (!Number.isSafeInteger(decoded)) break;
        return decoded;
      }
      scale *= 128;
    }
    throw new BytesError(`varlong at ${this.position} is too long`);
  }

  /** A view of the next `length` bytes: no copy. */
  view(length: number): Uint8Array {
    const at = this.#take(length);
    return this.bytes.subarray(at, at + length);
  }

  utf8(length: number): string {
    return decoder.decode(this.view(length));
  }

  skip(length: number): void {
    this.#take(length);
  }
}

/** Bytes that a zig-zag varint of a 32-bit integer takes. */
export function varintSize(value: number): number {
  let rest = ((value << 1) ^ (value >> 31)) >>> 0;
  let size = 1;
  while (rest > 0x7f) {
    rest >>>= 7;
    size++;
  }
  return size;
}

/** Bytes that a zig-zag varlong takes. */
export function varlongSize(value: number): number {
  let rest = value >= 0 ? value * 2 : -value * 2 - 1;
  let size = 1;
  while (rest > 0x7f) {
    rest = Math.floor(rest / 128);
    size++;
  }
  return size;
}

/** A writer over a buffer that doubles when it is full. */
export class ByteWriter {
  #bytes: Uint8Array;
  #view: DataView;
  #length = 0;

  constructor(capacity = 256) {
    this.#bytes = new Uint8Array(capacity);
    this.#view = new DataView(this.#bytes.buffer);
  }

  get length(): number {
    return this.#length;
  }

  /** A view of what has been written; valid until the next write or `reset`. */
  written(): Uint8Array {
    return this.#bytes.subarray(0, this.#length);
  }

  /** A copy of what has been written. */
  finish(): Uint8Array {
    return this.#bytes.slice(0, this.#length);
  }

  reset(length = 0): void {
    this.#length = length;
  }

  /** Makes room for `length` more bytes and returns where they begin. */
  reserve(length: number): number {
    const at = this.#length;
    const needed = at + length;
    if (needed > this.#bytes.length) {
      const grown = new Uint8Array(Math.max(needed, this.#bytes.length * 2));
      grown.set(this.#bytes.subarray(0, at));
      this.#bytes = grown;
      this.#view = new DataView(grown.buffer);
    }
    this.#length = needed;
    return at;
  }

  int8(value: number): this {
    const at = this.reserve(1);
    this.#view.setInt8(at, value);
    return this;
  }

  int16(value: number): this {
    const at = this.reserve(2);
    this.#view.setInt16(at, value);
    return this;
  }

  int32(value: number): this {
    const at = this.reserve(4);
    this.#view.setInt32(at, value);
    return this;
  }

  uint32(value: number): this {
    const at = this.reserve(4);
    this.#view.setUint32(at, value);
    return this;
  }

  int64(value: number): this {
    const at = this.reserve(8);
    this.setInt64(at, value);
    return this;
  }

  setInt32(at: number, value: number): void {
    this.#view.setInt32(at, value);
  }

  setUint32(at: number, value: number): void {
    this.#view.setUint32(at, value);
  }

  setInt64(at: number, value: number): void {
    this.#view.setInt32(at, Math.floor(value / TWO_32));
    this.#view.setUint32(at + 4, value - Math.floor(value / TWO_32) * TWO_32);
  }

  varint(value: number): this {
    let rest = ((value << 1) ^ (value >> 31)) >>> 0;
    let at = this.reserve(5);
    const bytes = this.#bytes;
    while (rest > 0x7f) {
      bytes[at++] = (rest & 0x7f) | 0x80;
      rest >>>= 7;
    }
    bytes[at++] = rest;
    this.#length = at;
    return this;
  }

  varlong(value: number): this {
    let rest = value >= 0 ? value * 2 : -value * 2 - 1;
    let at = this.reserve(10);
    const bytes = this.#bytes;
    while (rest > 0x7f) {
      bytes[at++] = (rest % 128) | 0x80;
      rest = Math.floor(rest / 128);
    }
    bytes[at++] = rest;
    this.#length = at;
    return this;
  }

  raw(bytes: Uint8Array): this {
    const at = this.reserve(bytes.length);
    this.#bytes.set(bytes, at);
    return this;
  }

  /** The text's UTF-8 bytes, without a length; returns how many. */
  utf8(text: string): number {
    const start = this.#length;
    this.reserve(text.length * 3);
    const { written } = encoder.encodeInto(text, this.#bytes.subarray(start));
    this.#length = start + written;
    return written;
  }
}

export function bytesEqual(a: Uint8Array, b: Uint8Array): boolean {
  if (a.length !== b.length) return false;
  for (let i = 0; i < a.length; i++) if (a[i] !== b[i]) return false;
  return true;
}

export function concatBytes(parts: readonly Uint8Array[]): Uint8Array {
  const whole = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.length;
  }
  return whole;
}
