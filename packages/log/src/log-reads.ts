/**
 * The reads of a log: at once where the bytes are surely in memory, else off the loop. All are checked. A
 * read off the loop may find, when it comes back, that the log was truncated or the
 * segment deleted: then it begins again.
 */
import type { Offset } from '@relevo/base/ids';
import { DiskError } from '@relevo/base/ports';
import type { Crc32c, Logger } from '@relevo/base/ports';
import { BatchError } from '@relevo/record/batch-error';
import { nextOffsetAt, sizeInBytesAt } from '@relevo/record/batch-header';
import { LogError } from './log-error.ts';
import { ReadFault, ReadPlan } from './read-plan.ts';
import type { ReadRequest } from './read-plan.ts';
import type { RecentWrites } from './recent-writes.ts';
import type { SegmentList } from './segment-list.ts';
import type { Segment } from './segment.ts';
import type { BatchCheck } from './stored-batch.ts';
import { firstRecordSince } from './time-lookup.ts';
import type { Decompressor, TimestampedOffset } from './time-lookup.ts';

const NOTHING: Uint8Array = new Uint8Array(0);

/** What the reads need of the log. */
export interface ReadHost {
  readonly directory: string;
  readonly segments: SegmentList;
  readonly recent: RecentWrites;
  readonly deps: {
    readonly crc32c: Crc32c;
    readonly logger: Logger;
    readonly codecs?: Decompressor;
  };
  /** -1: not known. */
  epochAt(offset: number): number;
  /** Throws when the log is not online. */
  range(): { readonly start: Offset; readonly end: Offset };
  /** Changes with every truncation. */
  generation(): number;
  /** Takes the log offline; what to throw. */
  fail(what: string, cause: unknown): LogError;
}

export type ReadWish = Pick<ReadRequest, 'from' | 'upTo' | 'maxBytes' | 'atLeastOne'>;

export class LogReads {
  readonly #host: ReadHost;
  readonly #check: BatchCheck;

  constructor(host: ReadHost) {
    this.#host = host;
    const epochAt = (offset: number): number => host.epochAt(offset);
    this.#check = { crc32c: host.deps.crc32c, epochAt };
  }

  read(wish: ReadWish): Uint8Array | Promise<Uint8Array> {
    const { directory, segments, recent } = this.#host;
    const { start, end } = this.#host.range();
    const { from } = wish;
    if (from < start || from > end) {
      const message = `${directory} has offsets ${start} to ${end}, not ${from}`;
      throw new LogError('outOfRange', message);
    }
    const upTo = Math.min(wish.upTo, end) as Offset;
    if (from >= upTo) return NOTHING;
    const segment = segments.of(from);
    const request = { ...wish, ...this.#check, upTo, segment };
    return recent.covers(from) ? this.#readNow(request) : this.#readLater(request);
  }

  /** Reads `maxBytes` from the batch on that holds `offset`, to see whether they are whole. Rejects as `read` does. */
  async check(offset: Offset, maxBytes: number): Promise<void> {
    let from = offset;
    for (let left = maxBytes; left > 0;) {
      const { segments } = this.#host;
      const { start, end: upTo } = this.#host.range();
      if (from < start || from >= upTo) return;
      const segment = segments.of(from);
      const wish = { from, upTo, maxBytes: left, atLeastOne: true };
      const found = await this.#readLater({ ...wish, ...this.#check, segment });
      if (found.length === 0) return;
      for (let at = 0; at < found.length; at += sizeInBytesAt(found, at)) {
        from = nextOffsetAt(found, at);
      }
      left -= found.length;
    }
  }

  #readNow(request: ReadRequest): Uint8Array {
    for (let attempt = 0; ; attempt++) {
      try {
        const plan = new ReadPlan(request);
        for (;;) {
          const bytes = new Uint8Array(plan.length);
          const length = request.segment.file().readSync(bytes, plan.position);
          const found = plan.take(length === bytes.length ? bytes : bytes.subarray(0, length));
          if (found !== undefined) return found;
        }
      } catch (error) {
        this.#mend(request.segment, error, attempt);
      }
    }
  }

  async #readLater(request: ReadRequest): Promise<Uint8Array> {
    const { segment } = request;
    const generation = this.#host.generation();
    const isStale = (): boolean => this.#host.generation() !== generation || segment.isRemoved;
    for (let attempt = 0; ; attempt++) {
      try {
        const plan = new ReadPlan(request);
        for (;;) {
          const bytes = await segment.file().read(plan.position, plan.length);
          if (isStale()) return await this.read(request);
          const found = plan.take(bytes);
          if (found !== undefined) return found;
        }
      } catch (error) {
        if (error instanceof LogError) throw error;
        if (isStale()) return this.read(request);
        this.#mend(segment, error, attempt);
      }
    }
  }

  async offsetForTimestamp(
    timestampMs: number,
    upTo: Offset,
  ): Promise<TimestampedOffset | undefined> {
    const { segments } = this.#host;
    const { start } = this.#host.range();
    const generation = this.#host.generation();
    for (const segment of [...segments.all]) {
      if (segment.isRemoved || this.#latestIn(segment) < timestampMs) continue;
      const found = await this.#firstSince(segment, timestampMs, generation);
      if (generation !== this.#host.generation()) return this.offsetForTimestamp(timestampMs, upTo);
      if (found === undefined || found.offset < start) continue;
      return found.offset < upTo ? found : undefined;
    }
    return undefined;
  }

  #latestIn(segment: Segment): number {
    try {
      return segment.latest?.timestamp ?? -1;
    } catch (error) {
      if (error instanceof DiskError) throw this.#host.fail('a read failed', error);
      throw error;
    }
  }

  async #firstSince(
    segment: Segment,
    timestampMs: number,
    generation: number,
  ): Promise<TimestampedOffset | undefined> {
    for (let attempt = 0; ; attempt++) {
      try {
        const { codecs } = this.#host.deps;
        return await firstRecordSince(segment, timestampMs, { ...this.#check, codecs });
      } catch (error) {
        if (generation !== this.#host.generation() || segment.isRemoved) return undefined;
        this.#mend(segment, error, attempt);
      }
    }
  }

  /** Returns when another attempt may do better; else takes the log offline. */
  #mend(segment: Segment, error: unknown, attempt: number): void {
    // Throws when the log was closed meanwhile.
    this.#host.range();
    if (error instanceof ReadFault && error.byIndex && attempt === 0) {
      const { directory } = this.#host;
      const facts = { directory, segment: segment.baseOffset, why: error.message };
      this.#host.deps.logger.warn('rebuilding the indexes of a segment', facts);
      segment.rebuildIndexes();
    } else if (error instanceof ReadFault || error instanceof BatchError) {
      throw this.#host.fail('the log is damaged', error);
    } else if (error instanceof DiskError) {
      throw this.#host.fail('a read failed', error);
    } else {
      throw error;
    }
  }
}
