/**
 * How far the log of a voter is known to be durable, in a file of its own beside it, `durable-mark`. A torn
 * tail and a lost one look alike in a log; only what is kept elsewhere tells them apart. The mark is made
 * durable after the entries and before anything that promises them leaves the node, and lowered before
 * entries are removed. So the log always holds the entry that it names, or a snapshot covers it: where that
 * is not so, what was durable is lost.
 *
 * The file is two slots of one sector each, written in turn and in place: a power cut leaves a sector as it
 * was or as it is meant to be, and so a slot that cannot be read is damage too. A slot is magic "RLVM",
 * version uint8, CRC-32C uint32 of what follows, sequence int64, index int64, term int32, flags uint8, and
 * zeros up to 512 bytes.
 */
import { ByteReader, ByteWriter } from '@relevo/base/bytes';
import { logIndex, term as toTerm } from '@relevo/base/ids';
import type { LogIndex, Term } from '@relevo/base/ids';
import type { Crc32c, Disk, DiskFile } from '@relevo/base/ports';
import { readFile, replaceFileNow } from '@relevo/log/checkpoint-file';

const FILE = 'durable-mark';
const SLOT_BYTES = 512;
const MAGIC = 0x524c564d;
const VERSION = 1;
const CRC_END = 9;
const FAILED = 1;

export interface Mark {
  /** 0: nothing is durable. */
  readonly index: LogIndex;
  readonly term: Term;
  /** A write or sync has failed: what the page cache shows may not be on the disk (mistake 22). */
  readonly failed: boolean;
}

export const NO_MARK: Mark = { index: logIndex(0), term: toTerm(0), failed: false };

export interface DurableMarkDeps {
  readonly disk: Disk;
  readonly crc32c: Crc32c;
}

/** As it lies on the disk. */
export interface WrittenMark extends Mark {
  readonly sequence: number;
}

/** Undefined where there is none. Throws a RangeError that says what is wrong with it. */
export function readMark(deps: DurableMarkDeps, directory: string): WrittenMark | undefined {
  const bytes = readFile(deps.disk, `${directory}/${FILE}`);
  return bytes === undefined ? undefined : newestSlot(bytes, deps.crc32c);
}

export class DurableMark {
  readonly #deps: DurableMarkDeps;
  readonly #file: DiskFile;
  #slot: WrittenMark;

  /** Durable when this returns; takes the place of the one that is there. */
  static make(deps: DurableMarkDeps, directory: string, mark: Mark): DurableMark {
    const path = `${directory}/${FILE}`;
    const slots = [0, 1].map((sequence) => encodeSlot({ ...mark, sequence }, deps.crc32c));
    const bytes = new Uint8Array(2 * SLOT_BYTES);
    slots.forEach((slot, at) => bytes.set(slot, at * SLOT_BYTES));
    replaceFileNow(deps.disk, path, bytes);
    return new DurableMark(deps, deps.disk.open(path, 'existing'), { ...mark, sequence: 1 });
  }

  /** Goes on with the one that is there, which is durable when this returns. */
  static goOn(deps: DurableMarkDeps, directory: string, found: WrittenMark): DurableMark {
    const file = deps.disk.open(`${directory}/${FILE}`, 'existing');
    file.datasyncNow();
    return new DurableMark(deps, file, found);
  }

  private constructor(deps: DurableMarkDeps, file: DiskFile, slot: WrittenMark) {
    this.#deps = deps;
    this.#file = file;
    this.#slot = slot;
  }

  /** The newest that is durable. */
  get mark(): Mark {
    return this.#slot;
  }

  /** Durable when it resolves; one at a time. */
  async write(mark: Mark): Promise<void> {
    const slot = this.#put(mark);
    await this.#file.datasync();
    this.#slot = slot;
  }

  /** Notes that a write or sync has failed, as well as the disk lets us. */
  async noteFailure(): Promise<void> {
    await this.write({ ...this.#slot, failed: true });
  }

  close(): void {
    this.#file.close();
  }

  #put(mark: Mark): WrittenMark {
    const slot = { ...mark, sequence: this.#slot.sequence + 1 };
    const position = (slot.sequence % 2) * SLOT_BYTES;
    this.#file.write(encodeSlot(slot, this.#deps.crc32c), position);
    return slot;
  }
}

function encodeSlot({ sequence, index, term, failed }: WrittenMark, crc32c: Crc32c): Uint8Array {
  const bytes = new Uint8Array(SLOT_BYTES);
  const writer = new ByteWriter(CRC_END + 21).uint32(MAGIC).int8(VERSION).uint32(0);
  writer
    .int64(sequence)
    .int64(index)
    .int32(term)
    .int8(failed ? FAILED : 0);
  bytes.set(writer.written());
  new DataView(bytes.buffer).setUint32(CRC_END - 4, crc32c(bytes.subarray(CRC_END)));
  return bytes;
}

function newestSlot(bytes: Uint8Array, crc32c: Crc32c): WrittenMark {
  if (bytes.length !== 2 * SLOT_BYTES) {
    throw new RangeError(`${FILE} has ${bytes.length} bytes, not ${2 * SLOT_BYTES}`);
  }
  const [first, second] = [0, 1].map((at) =>
    decodeSlot(bytes.subarray(at * SLOT_BYTES, (at + 1) * SLOT_BYTES), at, crc32c),
  );
  if (first === undefined || second === undefined) throw new RangeError(`${FILE} is not whole`);
  return first.sequence > second.sequence ? first : second;
}

function decodeSlot(bytes: Uint8Array, at: number, crc32c: Crc32c): WrittenMark {
  const reader = new ByteReader(bytes);
  if (reader.uint32() !== MAGIC) throw new RangeError(`slot ${at} of ${FILE} is none`);
  const version = reader.int8();
  if (reader.uint32() !== crc32c(bytes.subarray(CRC_END))) {
    throw new RangeError(`the CRC of slot ${at} of ${FILE} is wrong`);
  }
  if (version !== VERSION) throw new RangeError(`${FILE} is of version ${version}`);
  const sequence = reader.int64();
  const index = logIndex(reader.int64());
  const term = toTerm(reader.int32());
  return { sequence, index, term, failed: reader.int8() === FAILED };
}
