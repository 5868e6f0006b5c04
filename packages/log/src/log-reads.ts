/**
 * The reads of a log: at once where the bytes are surely in memory, else off the loop and with a check
 * of their CRCs. A read off the loop may find, when it comes back, that the log was truncated or the
 * segment deleted: then it begins again.
 */
import type { Offset } from '@relevo/base/ids';
import { DiskError } from '@relevo/base/ports';
import type { Crc32c, Logger } from '@relevo/base/ports';
import { BatchError } from '@relevo/record/batch-error';
import { LogError } from './log-error.ts';
import { ReadFault, ReadPlan } from './read-plan.ts';
import type { ReadRequest } from './read-plan.ts';
import type { RecentWrites } from './recent-writes.ts';
import type { SegmentList } from './segment-list.ts';
import type { Segment } from './segment.ts';
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
  epochAt(offset: Offset): number;
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

  constructor(host: ReadHost) {
    this.#host = host;
  }

  read(wish: ReadWish): Uint8Array | Promise<Uint8Array> {
    const { directory, segments, recent, deps } = this.#host;
    const { start, end } = this.#host.range();
    const { from } = wish;
    if (from < start || from > end) {
      const message = `${directory} has offsets ${start} to ${end}, not ${from}`;
      throw new LogError('outOfRange', message);
    }
    const upTo = Math.min(wish.upTo, end) as Offset;
    if (from >= upTo) return NOTHING;
    const segment = segments.of(from);
    const epochAt = (offset: Offset): number => this.#host.epochAt(offset);
    const request = { ...wish, upTo, segment, epochAt };
    // What was just written is not checked again.
    if (recent.covers(from)) return this.#readNow({ ...request, crc32c: undefined });
    return this.#readLater({ ...request, crc32c: deps.crc32c });
  }

  /** Reads the batch that holds `offset`, and checks it be it ever so new. Rejects as `read` does. */
  async check(offset: Offset): Promise<void> {
    const { segments, deps } = this.#host;
    const { start, end } = this.#host.range();
    if (offset < start || offset >= end) return;
    await this.#readLater({
      from: offset,
      upTo: end,
      maxBytes: 1,
      atLeastOne: true,
      segment: segments.of(offset),
      crc32c: deps.crc32c,
      epochAt: (at) => this.#host.epochAt(at),
    });
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
        return await firstRecordSince(segment, timestampMs, this.#host.deps.codecs);
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
