/**
 * The protobuf wire format, as far as proto3 without groups needs it: what the generated codecs under
 * `gen/` are written in. A message is encoded in two passes, one that adds up sizes and one that writes
 * into a single allocation, so that a batch of a mebibyte is copied once; decoding copies no bytes at
 * all. 64-bit integers are numbers, and refused beyond 2^53.
 *
 * Source: https://protobuf.dev/programming-guides/encoding/
 */
import type { Codec } from '@relevo/base/ports';

/** The input is not a message of the type asked for, or a value does not fit its field. */
export class WireError extends Error {
  override readonly name = 'WireError';
}

const TWO_28 = 2 ** 28;
const TWO_32 = 2 ** 32;
const TWO_35 = 2 ** 35;
const VARINT_BYTES_MAX = 10;

const textEncoder = new TextEncoder();
// Malformed UTF-8 is refused, and a byte order mark is a character like any other.
const textDecoder = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });

/** Up to here a loop over ASCII beats the decoder. */
const SHORT_TEXT_BYTES = 32;

export const NO_BYTES: Uint8Array = new Uint8Array(0);

/** Node.js hands out memory that it has not zeroed, which for small messages is several times faster. */
const host = globalThis as unknown as {
  readonly Buffer?: { allocUnsafe(length: number): Uint8Array };
};
const allocate = (length: number): Uint8Array =>
  host.Buffer === undefined ? new Uint8Array(length) : host.Buffer.allocUnsafe(length);

// ---------------------------------------------------------------------------------------------- sizes

/** Bytes that the varint of an unsigned 32-bit integer takes. */
export function varintSize(value: number): number {
  if (value < 0x80) return 1;
  if (value < 0x4000) return 2;
  if (value < 0x20_0000) return 3;
  return value < 0x1000_0000 ? 4 : 5;
}

export const uint32Size: (value: number) => number = varintSize;

export const int32Size = (value: number): number =>
  value < 0 ? VARINT_BYTES_MAX : varintSize(value);

export const sint32Size = (value: number): number =>
  varintSize(((value << 1) ^ (value >> 31)) >>> 0);

export function uint64Size(value: number): number {
  if (value < TWO_32) return varintSize(value);
  let size = 4;
  for (let rest = value / 0x1000_0000; rest >= 1; rest /= 128) size++;
  return size;
}

export const int64Size = (value: number): number =>
  value < 0 ? VARINT_BYTES_MAX : uint64Size(value);

/** The zig-zag form has one bit more than a number holds exactly, so its lowest bits go first. */
export function sint64Size(value: number): number {
  const rest = Math.floor((value < 0 ? -value - 1 : value) / 64);
  return rest === 0 ? 1 : 1 + uint64Size(rest);
}

/** With the length before them. */
export const bytesSize = (bytes: Uint8Array): number => varintSize(bytes.length) + bytes.length;

function utf8Length(text: string): number {
  let length = text.length;
  for (let i = 0; i < text.length; i++) {
    const unit = text.charCodeAt(i);
    if (unit < 0x80) continue;
    length += unit < 0x800 ? 1 : 2;
    // A surrogate pair is two units and four bytes; a lone one is written as U+FFFD, three bytes.
    if (unit >= 0xd800 && unit < 0xdc00 && isLowSurrogate(text.charCodeAt(i + 1))) i++;
  }
  return length;
}

const isLowSurrogate = (unit: number): boolean => unit >= 0xdc00 && unit < 0xe000;

// -------------------------------------------------------------------------------------------- encoder

/**
 * Both passes of an encoding. The first leaves the sizes of strings and nested messages in the order
 * in which the second needs them, so that none is worked out twice.
 */
export class Encoder {
  readonly #sizes: number[] = [];
  #nextSize = 0;
  #bytes: Uint8Array = NO_BYTES;
  #at = 0;

  // The first pass.

  reset(): void {
    this.#sizes.length = 0;
    this.#nextSize = 0;
  }

  /** Keeps a place for the size of a nested message or a packed list. */
  open(): number {
    return this.#sizes.push(0) - 1;
  }

  /** Notes that size; returns it with that of the length before it. */
  close(place: number, size: number): number {
    this.#sizes[place] = size;
    return varintSize(size) + size;
  }

  stringSize(text: string): number {
    const size = utf8Length(text);
    this.#sizes.push(size);
    return varintSize(size) + size;
  }

  // The second pass.

  start(length: number): void {
    this.#bytes = allocate(length);
    this.#at = 0;
  }

  finish(): Uint8Array {
    const bytes = this.#bytes;
    this.#bytes = NO_BYTES;
    if (this.#at !== bytes.length) {
      throw new WireError(`a message of ${bytes.length} bytes took ${this.#at}: it was changed`);
    }
    return bytes;
  }

  /** A field's tag below 16, and anything else of one byte. */
  byte(value: number): void {
    this.#bytes[this.#at++] = value;
  }

  varint(value: number): void {
    let rest = value;
    let at = this.#at;
    while (rest > 0x7f) {
      this.#bytes[at++] = (rest & 0x7f) | 0x80;
      rest >>>= 7;
    }
    this.#bytes[at++] = rest;
    this.#at = at;
  }

  /** The length of the nested message or packed list that comes next. */
  nested(): void {
    this.varint(this.#takeSize());
  }

  bool(value: boolean): void {
    this.byte(value ? 1 : 0);
  }

  uint32(value: number): void {
    if (value >>> 0 !== value) throw new WireError(`${value} is not an unsigned 32-bit integer`);
    this.varint(value);
  }

  int32(value: number): void {
    if ((value | 0) !== value) throw new WireError(`${value} is not a 32-bit integer`);
    if (value >= 0) this.varint(value);
    else this.#negative(value);
  }

  sint32(value: number): void {
    if ((value | 0) !== value) throw new WireError(`${value} is not a 32-bit integer`);
    this.varint(((value << 1) ^ (value >> 31)) >>> 0);
  }

  uint64(value: number): void {
    if (!Number.isSafeInteger(value) || value < 0) {
      throw new WireError(`${value} is not an unsigned integer up to 2^53`);
    }
    let rest = value;
    while (rest >= TWO_32) {
      this.#bytes[this.#at++] = (rest % 128) | 0x80;
      rest = Math.floor(rest / 128);
    }
    this.varint(rest);
  }

  int64(value: number): void {
    if (value >= 0) {
      this.uint64(value);
      return;
    }
    if (!Number.isSafeInteger(value)) throw new WireError(`${value} is not an integer up to 2^53`);
    this.#negative(value);
  }

  sint64(value: number): void {
    if (!Number.isSafeInteger(value)) throw new WireError(`${value} is not an integer up to 2^53`);
    const magnitude = value < 0 ? -value - 1 : value;
    const low = (magnitude % 64) * 2 + (value < 0 ? 1 : 0);
    const rest = Math.floor(magnitude / 64);
    if (rest === 0) {
      this.byte(low);
    } else {
      this.byte(low | 0x80);
      this.uint64(rest);
    }
  }

  string(text: string): void {
    const size = this.#takeSize();
    this.varint(size);
    const at = this.#at;
    if (size === text.length) {
      for (let i = 0; i < size; i++) this.#bytes[at + i] = text.charCodeAt(i);
    } else {
      textEncoder.encodeInto(text, this.#bytes.subarray(at, at + size));
    }
    this.#at = at + size;
  }

  bytes(value: Uint8Array): void {
    this.varint(value.length);
    this.#bytes.set(value, this.#at);
    this.#at += value.length;
  }

  /** Two's complement in 64 bits, as protobuf writes all negative integers that are not zig-zag. */
  #negative(value: number): void {
    const high = Math.floor(value / TWO_32);
    let low = (value - high * TWO_32) >>> 0;
    let top = high >>> 0;
    for (let i = 1; i < VARINT_BYTES_MAX; i++) {
      this.byte((low & 0x7f) | 0x80);
      low = ((low >>> 7) | (top << 25)) >>> 0;
      top >>>= 7;
    }
    this.byte(low);
  }

  #takeSize(): number {
    const size = this.#sizes[this.#nextSize++];
    if (size === undefined) throw new WireError('the message was changed while it was encoded');
    return size;
  }
}

// -------------------------------------------------------------------------------------------- decoder

/** Reads fields; throws a WireError on anything that is cut short or lies about its length. */
export class Decoder {
  readonly #bytes: Uint8Array;
  /** Bits 0 to 27 and 28 to 63 of the varint read last by `#readWide`. */
  #low = 0;
  #high = 0;
  /** Next byte to be read. */
  at = 0;

  constructor(bytes: Uint8Array) {
    this.#bytes = bytes;
  }

  /** The low 32 bits of a varint, unsigned. */
  uint32(): number {
    const byte = this.#bytes[this.at];
    if (byte !== undefined && byte < 0x80) {
      this.at++;
      return byte;
    }
    this.#readWide();
    return (this.#low | (this.#high << 28)) >>> 0;
  }

  int32(): number {
    return this.uint32() | 0;
  }

  sint32(): number {
    const value = this.uint32();
    return (value >>> 1) ^ -(value & 1);
  }

  bool(): boolean {
    this.#readWide();
    return this.#low !== 0 || this.#high !== 0;
  }

  uint64(): number {
    this.#readWide();
    return this.#safe(this.#high * TWO_28 + this.#low);
  }

  int64(): number {
    this.#readWide();
    const high = this.#high < TWO_35 ? this.#high : this.#high - 2 * TWO_35;
    return this.#safe(high * TWO_28 + this.#low);
  }

  sint64(): number {
    this.#readWide();
    const magnitude = this.#high * (TWO_28 / 2) + (this.#low >>> 1);
    return this.#safe((this.#low & 1) === 0 ? magnitude : -magnitude - 1);
  }

  string(): string {
    const end = this.end();
    const start = this.at;
    this.at = end;
    return this.#text(start, end);
  }

  /** A view: no copy. */
  bytes(): Uint8Array {
    const end = this.end();
    const view = this.#bytes.subarray(this.at, end);
    this.at = end;
    return view;
  }

  /** Reads a length; returns where what follows it ends. */
  end(): number {
    const length = this.uint32();
    const left = this.#bytes.length - this.at;
    if (length > left) {
      throw new WireError(
        `a field of ${length} bytes at ${this.at} is cut short: ${left} are left`,
      );
    }
    return this.at + length;
  }

  /** Asserts that a nested message's fields ended where its length said. */
  close(end: number): void {
    if (this.at !== end) {
      throw new WireError(`a message should end at ${end}, but its last field ends at ${this.at}`);
    }
  }

  /** Passes over a field that is not known. */
  skip(tag: number): void {
    if (tag >>> 3 === 0) throw new WireError(`field number 0 at ${this.at}`);
    switch (tag & 7) {
      case 0:
        this.#readWide();
        return;
      case 1:
        this.#pass(8);
        return;
      case 2:
        this.at = this.end();
        return;
      case 5:
        this.#pass(4);
        return;
      default:
        throw new WireError(`wire type ${tag & 7} at ${this.at} is not one of proto3's`);
    }
  }

  #pass(length: number): void {
    if (length > this.#bytes.length - this.at) throw this.#cutShort();
    this.at += length;
  }

  /** A varint of up to 64 bits. */
  #readWide(): void {
    let low = 0;
    let high = 0;
    let scale = 1;
    for (let group = 0; group < VARINT_BYTES_MAX; group++) {
      const byte = this.#bytes[this.at];
      if (byte === undefined) throw this.#cutShort();
      this.at++;
      if (group < 4) {
        low |= (byte & 0x7f) << (7 * group);
      } else {
        // Of the tenth byte one bit belongs to the number.
        high += (group === 9 ? byte & 1 : byte & 0x7f) * scale;
        scale *= 128;
      }
      if (byte < 0x80) {
        this.#low = low;
        this.#high = high;
        return;
      }
    }
    throw new WireError(`the varint before ${this.at} has more than ${VARINT_BYTES_MAX} bytes`);
  }

  #safe(value: number): number {
    if (!Number.isSafeInteger(value)) {
      throw new WireError(`the integer before ${this.at} is beyond 2^53`);
    }
    return value;
  }

  #text(from: number, to: number): string {
    if (to - from > SHORT_TEXT_BYTES) return this.#longText(from, to);
    let text = '';
    for (let i = from; i < to; i++) {
      const byte = this.#bytes[i] ?? 0;
      if (byte >= 0x80) return this.#longText(from, to);
      text += String.fromCharCode(byte);
    }
    return text;
  }

  #longText(from: number, to: number): string {
    try {
      return textDecoder.decode(this.#bytes.subarray(from, to));
    } catch (error) {
      throw new WireError(`the string at ${from} is not UTF-8`, { cause: error });
    }
  }

  #cutShort(): WireError {
    return new WireError(`the message is cut short at ${this.at}`);
  }
}

// --------------------------------------------------------------------------------------------- codecs

/** The three passes over one message type; other messages use them for their fields. */
export interface MessageCodec<Message> extends Codec<Message> {
  size(message: Message, encoder: Encoder): number;
  write(message: Message, encoder: Encoder): void;
  /** Reads fields up to `end`. A field that comes twice counts as it came last. */
  read(decoder: Decoder, end: number): Message;
}

/** Encoding calls nobody else's code, so one encoder serves all. */
const sharedEncoder = new Encoder();

export function messageCodec<Message>(
  size: (message: Message, encoder: Encoder) => number,
  write: (message: Message, encoder: Encoder) => void,
  read: (decoder: Decoder, end: number) => Message,
): MessageCodec<Message> {
  return {
    size,
    write,
    read,
    encode: (message) => {
      const encoder = sharedEncoder;
      encoder.reset();
      encoder.start(size(message, encoder));
      write(message, encoder);
      return encoder.finish();
    },
    decode: (bytes) => read(new Decoder(bytes), bytes.length),
  };
}

// -------------------------------------------------------------------------------- map<string, string>

/** The size of one entry, without its tag. */
export function mapEntrySize(key: string, value: string, encoder: Encoder): number {
  const place = encoder.open();
  return encoder.close(place, 2 + encoder.stringSize(key) + encoder.stringSize(value));
}

export function writeMapEntry(key: string, value: string, encoder: Encoder): void {
  encoder.nested();
  encoder.byte(0x0a);
  encoder.string(key);
  encoder.byte(0x12);
  encoder.string(value);
}

export function readMapEntry(decoder: Decoder, into: Map<string, string>): void {
  const end = decoder.end();
  let key = '';
  let value = '';
  while (decoder.at < end) {
    const tag = decoder.uint32();
    if (tag === 0x0a) key = decoder.string();
    else if (tag === 0x12) value = decoder.string();
    else decoder.skip(tag);
  }
  decoder.close(end);
  into.set(key, value);
}
