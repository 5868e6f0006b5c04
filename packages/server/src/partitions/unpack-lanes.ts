/**
 * Compressed batches from producers are unpacked and checked before they are appended, off the loop; the
 * first batches of a new log wait until its files are made. Meanwhile nothing that came later to the same partition may overtake them: a producer's sequences have
 * no holes. So each partition with a check under way has a lane, and whatever comes to that partition
 * goes through it:
 *
 *     put ──> lane of the partition: [checking] [ready] [checking] … ──> from the front, when ready
 *                      ├─> the files of its log, if there are none yet
 *                      └─> line of all that is to be unpacked ─> at most UNPACKINGS_MAX at a time
 *
 * A partition without a lane costs one look at an empty map.
 */
import { messageOf } from '@relevo/base/errors';
import type { Timers } from '@relevo/base/ports';
import type { BatchHeader } from '@relevo/record/batch-header';
import { UNPACKED_BYTES_MAX } from '@relevo/record/compression';
import type { CompressionCodecs } from '@relevo/record/compression';
import { recordsSection } from '@relevo/record/records';
import { UnpackedCheck } from '@relevo/record/validate';
import type { BatchLimits } from '@relevo/record/validate';
import type { Partition } from './partition.ts';

/** Codecs share their few threads with the syncs of the logs: these may not wait for all of them. */
export const UNPACKINGS_MAX = 2;
/** Records walked over before the loop turns: a fraction of a millisecond. */
const RECORDS_PER_TURN = 10_000;

export interface CheckedBatch {
  readonly bytes: Uint8Array;
  readonly header: BatchHeader;
  readonly limits: BatchLimits;
  /** On the monotonic clock, ms. */
  readonly deadlineMs: number;
}

export interface UnpackLanesDeps<Batch extends CheckedBatch> {
  readonly timers: Timers;
  readonly codecs: Pick<CompressionCodecs, 'decompress'>;
  /** It is the batch's turn; `failure`: what its check threw. May not throw. */
  readonly ready: (partition: Partition, batch: Batch, failure: Error | undefined) => void;
}

interface Entry<Batch> {
  readonly partition: Partition;
  readonly batch: Batch;
  state: 'checking' | 'ready' | 'gone';
  failure: Error | undefined;
}

export class UnpackLanes<Batch extends CheckedBatch> {
  readonly #deps: UnpackLanesDeps<Batch>;
  readonly #lanes = new Map<Partition, Entry<Batch>[]>();
  #line: Entry<Batch>[] = [];
  #unpacking = 0;

  constructor(deps: UnpackLanesDeps<Batch>) {
    this.#deps = deps;
  }

  /** Whether what comes to the partition has to wait for what is before it. */
  isBusy(partition: Partition): boolean {
    return this.#lanes.size > 0 && this.#lanes.has(partition);
  }

  /** `ready` is called for it later, in the order of the calls for this partition. */
  put(partition: Partition, batch: Batch): void {
    const mustUnpack = batch.header.compression !== 'none';
    const mustMake = !partition.log.takes(batch.bytes.length);
    const state = mustUnpack || mustMake ? 'checking' : 'ready';
    const entry: Entry<Batch> = { partition, batch, state, failure: undefined };
    const lane = this.#lanes.get(partition);
    if (lane === undefined) this.#lanes.set(partition, [entry]);
    else lane.push(entry);
    if (mustMake) void this.#awaitFiles(entry, mustUnpack);
    else if (mustUnpack) this.#enqueue(entry);
  }

  /** Takes out, in order, those whose time is up. What came behind them may have its turn then. */
  expire(nowMs: number, gone: (partition: Partition, batch: Batch) => void): void {
    this.#takeOut(({ batch }) => batch.deadlineMs <= nowMs, gone);
  }

  /** Takes out everything. */
  drain(gone: (partition: Partition, batch: Batch) => void): void {
    this.#takeOut(() => true, gone);
  }

  #takeOut(
    isWanted: (entry: Entry<Batch>) => boolean,
    gone: (partition: Partition, batch: Batch) => void,
  ): void {
    for (const [partition, lane] of [...this.#lanes]) {
      const taken = lane.filter(isWanted);
      if (taken.length === 0) continue;
      for (const entry of taken) entry.state = 'gone';
      for (const { batch } of taken) gone(partition, batch);
      this.#serve(partition);
    }
    this.#line = this.#line.filter(({ state }) => state === 'checking');
  }

  async #awaitFiles(entry: Entry<Batch>, mustUnpack: boolean): Promise<void> {
    try {
      await entry.partition.log.make();
    } catch (error) {
      entry.failure = error instanceof Error ? error : new Error(messageOf(error));
    }
    if (entry.failure === undefined && mustUnpack) this.#enqueue(entry);
    else this.#checked(entry);
  }

  #enqueue(entry: Entry<Batch>): void {
    this.#line.push(entry);
    this.#unpackMore();
  }

  #unpackMore(): void {
    while (this.#unpacking < UNPACKINGS_MAX) {
      const entry = this.#line.shift();
      if (entry === undefined) return;
      if (entry.state === 'gone') continue;
      this.#unpacking++;
      void this.#check(entry);
    }
  }

  async #check(entry: Entry<Batch>): Promise<void> {
    try {
      await this.#unpack(entry);
    } catch (error) {
      entry.failure = error instanceof Error ? error : new Error(messageOf(error));
    }
    this.#unpacking--;
    this.#checked(entry);
    this.#unpackMore();
  }

  #checked(entry: Entry<Batch>): void {
    if (entry.state !== 'checking') return;
    entry.state = 'ready';
    this.#serve(entry.partition);
  }

  async #unpack(entry: Entry<Batch>): Promise<void> {
    const { bytes, header, limits } = entry.batch;
    const packed = recordsSection(bytes, 0, header);
    const { codecs, timers } = this.#deps;
    const records = await codecs.decompress(header.compression, packed, UNPACKED_BYTES_MAX);
    const check = new UnpackedCheck(records, header, limits);
    while (entry.state === 'checking' && !check.step(RECORDS_PER_TURN)) {
      await new Promise<void>((resume) => timers.after(0, resume));
    }
  }

  /** Those at the front that are ready have their turn. */
  #serve(partition: Partition): void {
    const lane = this.#lanes.get(partition);
    if (lane === undefined) return;
    for (;;) {
      const first = lane[0];
      if (first === undefined) break;
      if (first.state === 'checking') return;
      lane.shift();
      if (first.state === 'ready') this.#deps.ready(partition, first.batch, first.failure);
    }
    // Only now: what `ready` brought about may have come to this lane.
    this.#lanes.delete(partition);
  }
}
