/**
 * One partition of a consumer: what is to be fetched next, what was fetched and waits to be read, and
 * how far reading has come.
 *
 *   fetched chunks (runs of whole batches) -> one batch unpacked -> its records one by one
 *
 * `generation` grows when what is under way no longer matters (a seek, a new leader); answers under an
 * older one are dropped.
 */
import { Buffer } from 'node:buffer';
import { partitionName } from '@relevo/base/ids';
import type { Crc32c, TimerHandle } from '@relevo/base/ports';
import { readBatchHeader } from '@relevo/record/batch-header';
import type { BatchHeader } from '@relevo/record/batch-header';
import { BatchError } from '@relevo/record/batch-error';
import type { CompressionCodecs } from '@relevo/record/compression';
import { RecordCursor, recordsSection } from '@relevo/record/records';
import { batchesOf, verifyCrc } from '@relevo/record/validate';
import type { BatchSlice } from '@relevo/record/validate';
import { ClientError } from '../errors.ts';
import { Fifo } from '../fifo.ts';
import type { StartPosition } from './consumer-options.ts';

/** Largest that one batch may unpack to: a bomb is refused. */
const UNPACKED_BYTES_MAX = 256 * 1024 * 1024;

/** How often what arrived damaged, or cannot be unpacked, is fetched anew before it is an error. */
const REFETCHES_MAX = 5;

/** Leader epochs of which a reader remembers where they began. */
const EPOCHS_MAX = 64;

export interface ReaderDeps {
  readonly crc32c: Crc32c;
  readonly codecs: Pick<CompressionCodecs, 'decompress'>;
  readonly checkCrc: boolean;
}

interface EpochStart {
  readonly epoch: number;
  readonly offset: number;
}

interface Chunk {
  readonly bytes: Buffer;
  readonly slices: Iterator<BatchSlice, void, undefined>;
}

/** A batch whose records are being read. */
interface OpenBatch {
  readonly header: BatchHeader;
  readonly cursor: RecordCursor;
  /** The cursor stands on a record that has not been taken. */
  isOnRecord: boolean;
}

/** `unpacking`: call again when the promise that `load` returned has settled. */
export type LoadResult = 'loaded' | 'empty' | Promise<void>;

export class PartitionReader {
  readonly topic: string;
  readonly topicId: string;
  readonly partition: number;
  readonly name: string;
  /** Set until the start is known. */
  start: StartPosition | undefined;
  /** The next offset to ask for; undefined until the start is known. */
  fetchOffset: number | undefined;
  /** The offset of the next record to be read; undefined until the start is known. */
  position: number | undefined;
  generation = 0;
  isPaused = false;
  /** Asked for, not answered. */
  isFetching = false;
  /** In the consumer's line of partitions to read from. */
  isQueued = false;
  retryTimer: TimerHandle | undefined;
  failedInARow = 0;
  /** Since when it cannot be read, and when that is to be told of next, monotonic ms. */
  stall: { readonly sinceMs: number; tellMs: number; isTold: boolean } | undefined;
  /** Records below it are committed, as the leader said last. */
  highWatermark = -1;
  bufferedBytes = 0;
  readonly #deps: ReaderDeps;
  readonly #chunks = new Fifo<Buffer>();
  #chunk: Chunk | undefined;
  #batch: OpenBatch | undefined;
  #unpacking = false;
  #seeks = 0;
  /** Of what was fetched up to the fetch offset: each leader epoch, and where it began, as far as is known. */
  #epochs: EpochStart[] = [];
  /** The fetch offset that was found to be out of range. */
  #lostAt: number | undefined;
  /** Where reading met what cannot be read, and how often. */
  #damage: { readonly position: number; readonly times: number } | undefined;
  #mustTellDamage = false;

  constructor(topic: string, topicId: string, partition: number, deps: ReaderDeps) {
    this.topic = topic;
    this.topicId = topicId;
    this.partition = partition;
    this.name = partitionName(topic, partition);
    this.#deps = deps;
  }

  get hasData(): boolean {
    return this.bufferedBytes > 0 && !this.#unpacking;
  }

  /** The leader epoch of the last record before the fetch offset; undefined: none was read. */
  get lastEpoch(): number | undefined {
    return this.#epochs.at(-1)?.epoch;
  }

  /** Of the last record that was read; undefined: none was. */
  get positionEpoch(): number | undefined {
    const { position = 0 } = this;
    return this.#epochs.findLast(({ offset }) => offset < position)?.epoch;
  }

  /**
   * Up to where what was fetched is in the leader's log, given the last epoch that both know and its end
   * there. Where that epoch is older than all that is known here, nothing that was fetched is.
   */
  commonEnd(leader: { readonly epoch: number; readonly endOffset: number }): number {
    const at = this.#epochs.findLastIndex(({ epoch }) => epoch <= leader.epoch);
    const ownEnd = this.#epochs[at + 1]?.offset ?? this.fetchOffset ?? 0;
    const isShared = at < 0 || this.#epochs[at]?.epoch === leader.epoch;
    return isShared ? Math.min(leader.endOffset, ownEnd) : ownEnd;
  }

  /**
   * What comes next cannot be read: it is fetched anew, and the leader is told. The number of the attempt,
   * from 0; undefined: there were enough.
   */
  refetch(): number | undefined {
    const { position = 0 } = this;
    const attempt = this.#damage?.position === position ? this.#damage.times : 0;
    if (attempt >= REFETCHES_MAX) {
      this.#damage = undefined;
      return undefined;
    }
    this.#damage = { position, times: attempt + 1 };
    this.rewind();
    this.#mustTellDamage = true;
    return attempt;
  }

  /** Whether the leader is to be told with the next fetch; it is told once. */
  takeDamage(): boolean {
    const must = this.#mustTellDamage;
    this.#mustTellDamage = false;
    return must;
  }

  /** Drops what was fetched and not read, and fetches it anew. */
  rewind(): void {
    const { position, positionEpoch } = this;
    if (position !== undefined) this.moveTo(position, positionEpoch);
  }

  /**
   * Reading and fetching go on at `offset`; what was fetched is dropped. `lastEpoch`: of the record before
   * it, where that is known.
   */
  moveTo(offset: number, lastEpoch?: number): void {
    this.abandonFetch();
    const known = this.#epochs.filter((start) => start.offset < offset);
    // What is known of the log before the offset stays true where the epoch says so.
    if (lastEpoch === undefined || lastEpoch < 0) this.#epochs = [];
    else if (known.at(-1)?.epoch === lastEpoch) this.#epochs = known;
    else this.#epochs = [{ epoch: lastEpoch, offset: offset - 1 }];
    this.#seeks++;
    this.#lostAt = undefined;
    this.start = undefined;
    this.fetchOffset = offset;
    this.position = offset;
    this.#chunks.clear();
    this.#chunk = undefined;
    this.#batch = undefined;
    this.#unpacking = false;
    this.bufferedBytes = 0;
  }

  /**
   * The fetch offset is not in the log. What was fetched before it is still to be read; nothing more is
   * fetched until `resumeFetch` or `moveTo`.
   */
  loseFetchOffset(): void {
    this.abandonFetch();
    this.#lostAt = this.fetchOffset;
    this.fetchOffset = undefined;
  }

  /** Where fetching is to go on; returns the gap that this leaves, if it leaves one. */
  resumeFetch(offset: number): { readonly from: number; readonly to: number } | undefined {
    const from = this.#lostAt;
    this.#lostAt = undefined;
    // Going back, or beginning: nothing that was fetched before leads there.
    if (from === undefined || offset < from) this.moveTo(offset);
    else {
      this.fetchOffset = offset;
      this.#epochs = [];
    }
    this.start = undefined;
    return from === undefined ? undefined : { from, to: offset };
  }

  /** Nothing more is fetched or read until `moveTo`. */
  halt(): void {
    const { position } = this;
    this.moveTo(position ?? 0);
    this.position = position;
    this.fetchOffset = undefined;
  }

  /** What is under way will not be listened to. */
  abandonFetch(): void {
    this.generation++;
    this.isFetching = false;
    this.retryTimer?.cancel();
    this.retryTimer = undefined;
  }

  /**
   * Takes fetched batches and moves the fetch offset behind the last of them. The next fetch can go out
   * before these are read.
   */
  push(batches: Uint8Array): void {
    const bytes = asBuffer(batches);
    let next = this.fetchOffset ?? 0;
    let end = 0;
    try {
      for (const { at, sizeInBytes, complete } of batchesOf(bytes)) {
        if (!complete) break;
        const { nextOffset, baseOffset, partitionLeaderEpoch } = readBatchHeader(bytes, at);
        this.#noteEpoch(partitionLeaderEpoch, baseOffset);
        next = Math.max(next, nextOffset);
        end = at + sizeInBytes;
      }
    } catch (error) {
      throw this.#corrupt(error);
    }
    if (end === 0) return;
    this.fetchOffset = next;
    this.bufferedBytes += end;
    this.#chunks.push(bytes.subarray(0, end));
  }

  /**
   * The next record without taking it; undefined when `load` is to be called. It changes with the next
   * `peek`. Throws CORRUPT_RECORDS.
   */
  peek(): RecordCursor | undefined {
    const batch = this.#batch;
    if (batch === undefined) return undefined;
    if (batch.isOnRecord) return batch.cursor;
    try {
      // A fetch answers with whole batches: what lies before the wanted offset is left out.
      const wanted = this.position ?? 0;
      while (batch.cursor.next()) {
        if (batch.cursor.offset < wanted) continue;
        batch.isOnRecord = true;
        return batch.cursor;
      }
    } catch (error) {
      throw this.#corrupt(error);
    }
    this.#closeBatch();
    return undefined;
  }

  /** The epoch of the batch that `peek` reads from. */
  get leaderEpoch(): number {
    return this.#batch?.header.partitionLeaderEpoch ?? -1;
  }

  /** Moves behind the record that `peek` gave. */
  advance(): void {
    const batch = this.#batch;
    if (batch?.isOnRecord !== true) return;
    batch.isOnRecord = false;
    this.position = batch.cursor.offset + 1;
  }

  /** Opens the next batch that has records for us. Throws CORRUPT_RECORDS. */
  load(): LoadResult {
    for (;;) {
      this.#closeBatch();
      const slice = this.#nextSlice();
      const chunk = this.#chunk;
      if (slice === undefined || chunk === undefined) return 'empty';
      const { bytes } = chunk;
      try {
        const header = readBatchHeader(bytes, slice.at);
        if (header.nextOffset <= (this.position ?? 0)) continue;
        this.#check(bytes, slice);
        if (header.isControl) {
          this.position = header.nextOffset;
          continue;
        }
        if (header.compression !== 'none') return this.#unpack(bytes, slice.at, header);
        this.#openBatch(header, new RecordCursor(bytes, slice.at, header));
      } catch (error) {
        throw this.#corrupt(error);
      }
      if (this.peek() !== undefined) return 'loaded';
    }
  }

  #noteEpoch(epoch: number, offset: number): void {
    if (epoch <= (this.lastEpoch ?? -1)) return;
    this.#epochs.push({ epoch, offset });
    if (this.#epochs.length > EPOCHS_MAX) this.#epochs.shift();
  }

  #nextSlice(): BatchSlice | undefined {
    for (;;) {
      const next = this.#chunk?.slices.next();
      if (next?.done === false) return next.value;
      if (this.#chunk !== undefined) this.bufferedBytes -= this.#chunk.bytes.length;
      const bytes = this.#chunks.shift();
      this.#chunk = bytes === undefined ? undefined : { bytes, slices: batchesOf(bytes) };
      if (bytes === undefined) return undefined;
    }
  }

  /** What compaction left out at a batch's end is not waited for. */
  #closeBatch(): void {
    const batch = this.#batch;
    if (batch === undefined) return;
    this.position = Math.max(this.position ?? 0, batch.header.nextOffset);
    this.#batch = undefined;
  }

  #openBatch(header: BatchHeader, cursor: RecordCursor): void {
    this.#batch = { header, cursor, isOnRecord: false };
  }

  #check(bytes: Buffer, { at, sizeInBytes }: BatchSlice): void {
    if (!this.#deps.checkCrc || verifyCrc(bytes, at, sizeInBytes, this.#deps.crc32c)) return;
    throw new BatchError('BAD_CRC', `the batch at offset ${readBatchHeader(bytes, at).baseOffset}`);
  }

  async #unpack(bytes: Buffer, at: number, header: BatchHeader): Promise<void> {
    const seeks = this.#seeks;
    const { compression } = header;
    this.#unpacking = true;
    try {
      const packed = recordsSection(bytes, at, header);
      const plain = await this.#deps.codecs.decompress(compression, packed, UNPACKED_BYTES_MAX);
      // Keys and values are views into it, and Buffers as the consumer's types say: codecs promise
      // no more than a Uint8Array.
      const cursor = new RecordCursor(bytes, at, header, asBuffer(plain));
      if (seeks === this.#seeks) this.#openBatch(header, cursor);
    } catch (error) {
      if (seeks === this.#seeks) throw this.#corrupt(error);
    } finally {
      if (seeks === this.#seeks) this.#unpacking = false;
    }
  }

  #corrupt(error: unknown): ClientError {
    if (!(error instanceof BatchError)) throw error;
    return new ClientError(
      'CORRUPT_RECORDS',
      `${this.name} at offset ${this.position ?? this.fetchOffset ?? -1}: ${error.message} (${error.code})`,
      { cause: error },
    );
  }
}

const asBuffer = (bytes: Uint8Array): Buffer =>
  Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
