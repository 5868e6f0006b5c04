/**
 * Offsets by partition in one file of the data directory, in Kafka's format: a line `topic partition
 * offset` for each. A fourth word, `unproven`, marks what an older version wrote and this one has not
 * looked at since.
 */
import { partitionName } from '@relevo/base/ids';
import type { Offset } from '@relevo/base/ids';
import type { Disk, Logger } from '@relevo/base/ports';
import {
  decodeCheckpoint,
  encodeCheckpoint,
  isOurCheckpoint,
  readHint,
  replaceFileDurably,
  replaceFileNow,
} from './checkpoint-file.ts';
import { parsePartitionName } from './file-names.ts';
import { GroupCommit } from './group-commit.ts';

/** By partition name. */
export type PartitionOffsets = ReadonlyMap<string, Offset>;

export class OffsetCheckpoint {
  readonly #disk: Disk;
  readonly #path: string;
  readonly #offsets: Map<string, Offset>;
  /** What the file may say of. */
  readonly #written: Set<string>;
  /** What the file durably says, but for what an older version wrote. */
  #proofs: ReadonlyMap<string, Offset>;
  /** What an older version wrote and was not set since. */
  readonly #unproven: Set<string>;
  readonly #commit: GroupCommit = new GroupCommit(() => this.#write());
  #changed = false;
  /** Counts what was forgotten, for a write that is under way. */
  #forgotten = 0;

  /** Passes over a damaged file. Keeps only the partitions with one of `names`. */
  constructor(disk: Disk, path: string, names: ReadonlySet<string>, logger: Logger) {
    this.#disk = disk;
    this.#path = path;
    const { offsets, unproven } = readOffsets(disk, path);
    if (offsets === undefined) {
      const meaning = 'what it said of the logs is not known any more';
      logger.warn('passed over a damaged checkpoint', { path, meaning });
    }
    this.#written = new Set(offsets?.keys());
    this.#offsets = new Map([...(offsets ?? [])].filter(([name]) => names.has(name)));
    this.#unproven = new Set(unproven);
    this.#proofs = this.#proven();
  }

  get(name: string): Offset | undefined {
    return this.#offsets.get(name);
  }

  /**
   * As the file durably has it, if it was written by a version that takes nothing from a log before the
   * file allows it: a log that contradicts it is damaged.
   */
  proof(name: string): Offset | undefined {
    return this.#proofs.get(name);
  }

  entries(): PartitionOffsets {
    return new Map(this.#offsets);
  }

  set(name: string, offset: Offset): void {
    if (this.#unproven.delete(name)) this.#changed = true;
    if (this.#offsets.get(name) === offset) return;
    this.#offsets.set(name, offset);
    this.#changed = true;
  }

  /** Durable when this returns. */
  forget(name: string): void {
    this.#offsets.delete(name);
    if (!this.#written.has(name)) return;
    this.#forgotten++;
    replaceFileNow(this.#disk, this.#path, encode(this.#offsets, this.#unproven));
    this.#proofs = this.#proven();
    this.#written.delete(name);
  }

  /** Durable when this resolves, if anything has changed. */
  write(): Promise<void> {
    return this.#commit.request();
  }

  /** Resolves when no write is under way. */
  idle(): Promise<void> {
    return this.#commit.idle();
  }

  async #write(): Promise<void> {
    if (!this.#changed) return;
    const forgotten = this.#forgotten;
    const isCurrent = (): boolean => this.#forgotten === forgotten;
    this.#changed = false;
    for (const name of this.#offsets.keys()) this.#written.add(name);
    const proofs = this.#proven();
    const bytes = encode(this.#offsets, this.#unproven);
    try {
      await replaceFileDurably(this.#disk, this.#path, bytes, isCurrent);
    } catch (error) {
      this.#changed = true;
      throw error;
    }
    if (!isCurrent()) {
      this.#changed = true;
      await this.#write();
      return;
    }
    this.#proofs = proofs;
  }

  #proven(): Map<string, Offset> {
    return new Map([...this.#offsets].filter(([name]) => !this.#unproven.has(name)));
  }
}

export interface StoredOffsets {
  /** Empty where there is no file; undefined when it is damaged or cannot be read. */
  readonly offsets: Map<string, Offset> | undefined;
  /** Of those, what an older version wrote. */
  readonly unproven: ReadonlySet<string>;
}

export function readOffsets(disk: Disk, path: string): StoredOffsets {
  const bytes = readHint(disk, path);
  if (bytes === undefined) {
    const offsets = disk.exists(path) ? undefined : new Map<string, Offset>();
    return { offsets, unproven: new Set() };
  }
  const lines = decodeCheckpoint(bytes);
  const isOurs = isOurCheckpoint(bytes);
  const offsets = new Map<string, Offset>();
  const unproven = new Set<string>();
  for (const line of lines ?? []) {
    const match = /^(\S+) (\d+) (\d+)( unproven)?$/.exec(line);
    const name = match === null ? undefined : partitionName(match[1] ?? '', Number(match[2]));
    const offset = Number(match?.[3]);
    if (name === undefined || !Number.isSafeInteger(offset)) {
      return { offsets: undefined, unproven: new Set() };
    }
    offsets.set(name, offset as Offset);
    if (!isOurs || match?.[4] !== undefined) unproven.add(name);
  }
  return { offsets: lines === undefined ? undefined : offsets, unproven };
}

function encode(offsets: PartitionOffsets, unproven: ReadonlySet<string>): Uint8Array {
  const lines: string[] = [];
  for (const [name, offset] of offsets) {
    const parsed = parsePartitionName(name);
    if (parsed === undefined) continue;
    const mark = unproven.has(name) ? ' unproven' : '';
    lines.push(`${parsed.topic} ${parsed.partition} ${offset}${mark}`);
  }
  return encodeCheckpoint(lines.sort());
}
