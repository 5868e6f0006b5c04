/**
 * Offsets by partition in one file of the data directory, in Kafka's format: a line `topic partition
 * offset` for each.
 */
import { partitionName } from '@relevo/base/ids';
import type { Offset } from '@relevo/base/ids';
import type { Disk, Logger } from '@relevo/base/ports';
import {
  decodeCheckpoint,
  encodeCheckpoint,
  readFile,
  replaceFileDurably,
  replaceFileNow,
} from './checkpoint-file.ts';
import { parsePartitionName } from './file-names.ts';

/** By partition name. */
export type PartitionOffsets = ReadonlyMap<string, Offset>;

export class OffsetCheckpoint {
  readonly #disk: Disk;
  readonly #path: string;
  readonly #offsets: Map<string, Offset>;
  /** What the file may say of. */
  readonly #written: Set<string>;
  #changed = false;
  /** Counts what was forgotten, for a write that is under way. */
  #forgotten = 0;

  /** Passes over a damaged file. Keeps only the partitions with one of `names`. */
  constructor(disk: Disk, path: string, names: ReadonlySet<string>, logger: Logger) {
    this.#disk = disk;
    this.#path = path;
    const found = decodeOffsets(readFile(disk, path));
    if (found === undefined) logger.warn('passed over a damaged checkpoint', { path });
    this.#written = new Set(found?.keys());
    this.#offsets = new Map([...(found ?? [])].filter(([name]) => names.has(name)));
  }

  get(name: string): Offset | undefined {
    return this.#offsets.get(name);
  }

  entries(): PartitionOffsets {
    return new Map(this.#offsets);
  }

  set(name: string, offset: Offset): void {
    if (this.#offsets.get(name) === offset) return;
    this.#offsets.set(name, offset);
    this.#changed = true;
  }

  /** Durable when this returns. */
  forget(name: string): void {
    this.#offsets.delete(name);
    if (!this.#written.has(name)) return;
    this.#forgotten++;
    replaceFileNow(this.#disk, this.#path, encode(this.#offsets));
    this.#written.delete(name);
  }

  /** Durable when this resolves, if anything has changed. One at a time. */
  async write(): Promise<void> {
    if (!this.#changed) return;
    const forgotten = this.#forgotten;
    const isCurrent = (): boolean => this.#forgotten === forgotten;
    this.#changed = false;
    for (const name of this.#offsets.keys()) this.#written.add(name);
    try {
      await replaceFileDurably(this.#disk, this.#path, encode(this.#offsets), isCurrent);
    } catch (error) {
      this.#changed = true;
      throw error;
    }
    if (!isCurrent()) {
      this.#changed = true;
      await this.write();
    }
  }
}

/** Empty where there is no file; undefined when it is damaged. */
export function decodeOffsets(bytes: Uint8Array | undefined): Map<string, Offset> | undefined {
  const offsets = new Map<string, Offset>();
  if (bytes === undefined) return offsets;
  for (const line of decodeCheckpoint(bytes) ?? [undefined]) {
    const [topic, partition, offset] = (line ?? '').split(' ');
    const value = Number(offset);
    if (topic === undefined || partition === undefined || !Number.isSafeInteger(value)) {
      return undefined;
    }
    offsets.set(partitionName(topic, Number(partition)), value as Offset);
  }
  return offsets;
}

function encode(offsets: PartitionOffsets): Uint8Array {
  const lines: string[] = [];
  for (const [name, offset] of offsets) {
    const parsed = parsePartitionName(name);
    if (parsed !== undefined) lines.push(`${parsed.topic} ${parsed.partition} ${offset}`);
  }
  return encodeCheckpoint(lines.sort());
}
