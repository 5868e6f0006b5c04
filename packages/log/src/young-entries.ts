/**
 * The journal of young logs, as it lies in its files (`young-logs.N`): one entry behind the other.
 *
 *     magic          u32   no byte of it is zero
 *     length         u32   of the whole entry
 *     crc32c         u32   of all that follows
 *     length before  u32   of the entry before, 0: it is the first of its file
 *     log before     u32   crc32c of the key of that entry
 *     kind           u8    1: records, 2: the log is gone
 *     key length     u16
 *     position       u32   in the log's first segment, where the records belong
 *     key                  `topic-id topic partition`
 *     records
 *     end            u8    never zero
 *
 * An entry that begins below the end of what is known of its log replaces all from there on.
 *
 * A power cut loses whole sectors, which read as zeros or lie beyond the end of the file. As an entry
 * neither begins nor ends with a zero, a place without an intact entry is *torn* if a sector of it is all
 * zeros or the file ends in it, and *damaged* otherwise. Where it is as long as one entry, the next tells
 * whose that was; else it may have been any log's.
 */
import { concatBytes, utf8Decode, utf8Encode } from '@relevo/base/bytes';
import { partitionName, uuid } from '@relevo/base/ids';
import type { Uuid } from '@relevo/base/ids';
import type { Crc32c } from '@relevo/base/ports';

const MAGIC = Uint8Array.of(0x52, 0x59, 0x4c, 0x31);
const HEADER_BYTES = 27;
const CRC_FROM = 12;
const END = 0xa5;
const SECTOR_BYTES = 512;

/** What an entry costs besides its key and its records. */
export const ENTRY_OVERHEAD: number = HEADER_BYTES + 1;

export interface YoungKey {
  /** `orders-3` */
  readonly name: string;
  readonly topic: string;
  readonly partition: number;
  readonly topicId: Uuid;
}

export interface EntryBefore {
  readonly length: number;
  readonly key: number;
}

export const NO_ENTRY: EntryBefore = { length: 0, key: 0 };

export const encodeKey = ({ topicId, topic, partition }: Omit<YoungKey, 'name'>): Uint8Array =>
  utf8Encode(`${topicId} ${topic} ${partition}`);

export interface YoungEntry {
  readonly kind: 'records' | 'gone';
  readonly key: Uint8Array;
  readonly position: number;
  readonly records: Uint8Array;
}

export function encodeEntry(entry: YoungEntry, before: EntryBefore, crc32c: Crc32c): Uint8Array {
  const { kind, key, position, records } = entry;
  const length = ENTRY_OVERHEAD + key.length + records.length;
  const bytes = new Uint8Array(length);
  const view = new DataView(bytes.buffer);
  bytes.set(MAGIC, 0);
  view.setUint32(4, length);
  view.setUint32(12, before.length);
  view.setUint32(16, before.key);
  view.setUint8(20, kind === 'records' ? 1 : 2);
  view.setUint16(21, key.length);
  view.setUint32(23, position);
  bytes.set(key, HEADER_BYTES);
  bytes.set(records, HEADER_BYTES + key.length);
  bytes[length - 1] = END;
  view.setUint32(8, crc32c(bytes.subarray(CRC_FROM)));
  return bytes;
}

/** A place in a file that holds no intact entry. */
export interface BadPlace {
  readonly isTorn: boolean;
  /** `crc32c` of the key of the only log that it is of; undefined: any log's. */
  readonly key: number | undefined;
}

export interface YoungVisitor {
  entry(key: YoungKey, entry: YoungEntry): void;
  bad(place: BadPlace): void;
}

/** Goes through a journal file; entries are views of it. */
export function scanEntries(file: Uint8Array, crc32c: Crc32c, visitor: YoungVisitor): void {
  let at = 0;
  while (at < file.length) {
    const found = entryAt(file, at, crc32c);
    if (found !== undefined) {
      visitor.entry(found.key, found.entry);
      at = found.end;
      continue;
    }
    const next = nextEntry(file, at + 1, crc32c);
    const to = next?.at ?? file.length;
    const isOne = next !== undefined && next.before.length === to - at;
    const isTorn = lacksSector(file, at, to) || (next === undefined && endsWithin(file, at));
    visitor.bad({ isTorn, key: isOne ? next.before.key : undefined });
    at = to;
  }
}

interface FoundEntry {
  readonly key: YoungKey;
  readonly entry: YoungEntry;
  readonly before: EntryBefore;
  readonly end: number;
}

function entryAt(file: Uint8Array, at: number, crc32c: Crc32c): FoundEntry | undefined {
  if (file.length - at < ENTRY_OVERHEAD || !hasMagic(file, at)) return undefined;
  const view = new DataView(file.buffer, file.byteOffset + at, file.length - at);
  const length = view.getUint32(4);
  if (length < ENTRY_OVERHEAD || length > file.length - at) return undefined;
  if (crc32c(file.subarray(at + CRC_FROM, at + length)) !== view.getUint32(8)) return undefined;
  const keyLength = view.getUint16(21);
  const recordsFrom = at + HEADER_BYTES + keyLength;
  const end = at + length;
  if (recordsFrom > end - 1) return undefined;
  const bytes = file.subarray(at + HEADER_BYTES, recordsFrom);
  const key = decodeKey(bytes);
  if (key === undefined) return undefined;
  const kind = view.getUint8(20) === 2 ? 'gone' : 'records';
  const records = file.subarray(recordsFrom, end - 1);
  const before = { length: view.getUint32(12), key: view.getUint32(16) };
  return { key, entry: { kind, key: bytes, position: view.getUint32(23), records }, before, end };
}

function decodeKey(bytes: Uint8Array): YoungKey | undefined {
  const match = /^([A-Za-z0-9_-]{22}) (\S+) (\d+)$/.exec(utf8Decode(bytes));
  const [, id, topic, partition] = match ?? [];
  if (id === undefined || topic === undefined) return undefined;
  const number = Number(partition);
  return { name: partitionName(topic, number), topic, partition: number, topicId: uuid(id) };
}

const hasMagic = (file: Uint8Array, at: number): boolean =>
  MAGIC.every((byte, index) => file[at + index] === byte);

function nextEntry(
  file: Uint8Array,
  from: number,
  crc32c: Crc32c,
): { readonly at: number; readonly before: EntryBefore } | undefined {
  const first = MAGIC[0] ?? 0;
  for (let at = file.indexOf(first, from); at !== -1; at = file.indexOf(first, at + 1)) {
    const found = hasMagic(file, at) ? entryAt(file, at, crc32c) : undefined;
    if (found !== undefined) return { at, before: found.before };
  }
  return undefined;
}

/** By its own length the last entry reaches beyond the end of the file, or its header does. */
function endsWithin(file: Uint8Array, at: number): boolean {
  if (file.length - at < ENTRY_OVERHEAD) return true;
  if (!hasMagic(file, at)) return false;
  const view = new DataView(file.buffer, file.byteOffset + at, file.length - at);
  return view.getUint32(4) > file.length - at;
}

function lacksSector(file: Uint8Array, from: number, to: number): boolean {
  for (let at = from; at < to;) {
    const end = Math.min(to, (Math.floor(at / SECTOR_BYTES) + 1) * SECTOR_BYTES);
    if (file.subarray(at, end).every((byte) => byte === 0)) return true;
    at = end;
  }
  return false;
}

/** The records that entries leave of a log: a prefix of its first segment. */
export class YoungContent {
  #parts: Uint8Array[] = [];
  #length = 0;

  get length(): number {
    return this.#length;
  }

  /** False: something is missing before it. */
  add(position: number, records: Uint8Array): boolean {
    if (position > this.#length) return false;
    if (position < this.#length) this.#parts = [this.bytes().subarray(0, position)];
    this.#parts.push(records);
    this.#length = position + records.length;
    return true;
  }

  bytes(): Uint8Array {
    const all = concatBytes(this.#parts);
    this.#parts = [all];
    return all;
  }
}
