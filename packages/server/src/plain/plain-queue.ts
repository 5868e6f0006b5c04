/**
 * What waits to be written to one partition. A job is *held* from `push` to `release`, the ones under way
 * included; how much is held is bounded for each partition and for the broker: a partition may be without
 * a leader for as long as its callers' time-outs are.
 *
 *     push ──> queued ──take──> under way ──> release
 *                └───withdraw──> release, when it is found in the queue
 */
import { assert } from '@relevo/base/assert';
import { RelevoError } from '@relevo/base/errors';
import { takeJobs } from './plain-jobs.ts';
import type { Job } from './plain-jobs.ts';

/** Held for one partition; above that its callers are refused. */
export const PARTITION_JOBS_MAX = 10_000;
export const PARTITION_BYTES_MAX: number = 16 * 1024 * 1024;
/** Held for all partitions. */
export const HELD_BYTES_MAX: number = 64 * 1024 * 1024;
/** What objects cost besides the bytes that they hold. */
const JOB_BYTES = 512;
const RECORD_BYTES = 128;

type Weight = Pick<Job, 'records' | 'bytes'>;

const costOf = ({ records, bytes }: Weight): number =>
  JOB_BYTES + records.length * RECORD_BYTES + bytes;

/** Of all partitions. */
export class Held {
  bytes = 0;
}

export class JobQueue {
  readonly #name: string;
  readonly #all: Held;
  #queue: Job[] = [];
  #withdrawn = 0;
  #jobs = 0;
  #bytes = 0;

  /** `name`: of the partition. */
  constructor(name: string, all: Held) {
    this.#name = name;
    this.#all = all;
  }

  get isEmpty(): boolean {
    return this.#queue.length === 0;
  }

  /** Throws a RelevoError where there is no room. What finds nothing before it is taken, however large. */
  assertRoomFor(more: readonly Weight[]): void {
    const bytes = more.reduce((sum, each) => sum + costOf(each), this.#bytes);
    const jobs = this.#jobs + more.length;
    if (this.#jobs === 0 || (jobs <= PARTITION_JOBS_MAX && bytes <= PARTITION_BYTES_MAX)) return;
    throw new RelevoError(
      'THROTTLED',
      `${this.#name} has ${this.#jobs} batches' worth of records (${this.#bytes} bytes) waiting here, ` +
        `at most ${PARTITION_JOBS_MAX} (${PARTITION_BYTES_MAX} bytes) may: its leader is away or ` +
        'slow; nothing was written, try again in a while, or send fewer at a time',
    );
  }

  push(job: Job): void {
    this.#queue.push(job);
    this.hold(job);
  }

  /** Counts what is written past the queue, until it is released. */
  hold(weight: Weight): void {
    this.#jobs += 1;
    this.#bytes += costOf(weight);
    this.#all.bytes += costOf(weight);
  }

  /** Jobs that make one batch; to be released when they are settled. May be none. */
  take(): Job[] {
    const wanted: Job[] = [];
    for (const job of takeJobs(this.#queue)) {
      if (job.state === 'withdrawn') {
        this.#withdrawn -= 1;
        this.release([job]);
      } else {
        job.state = 'underWay';
        wanted.push(job);
      }
    }
    return wanted;
  }

  /** The job has its answer, and shall not be written. */
  withdraw(job: Job): void {
    assert(job.state === 'queued', 'what is under way is not taken back', { state: job.state });
    job.state = 'withdrawn';
    this.#withdrawn += 1;
    // Half of the queue at a time: what is looked at is no more than twice what goes.
    if (this.#withdrawn * 2 < this.#queue.length) return;
    this.release(this.#queue.filter(({ state }) => state === 'withdrawn'));
    this.#queue = this.#queue.filter(({ state }) => state === 'queued');
    this.#withdrawn = 0;
  }

  release(jobs: readonly Weight[]): void {
    for (const job of jobs) {
      this.#jobs -= 1;
      this.#bytes -= costOf(job);
      this.#all.bytes -= costOf(job);
    }
  }
}

/** Throws a RelevoError where the broker has no room for more, be it for other partitions. */
export function assertRoomInAll(held: Held, more: readonly Weight[]): void {
  const bytes = more.reduce((sum, each) => sum + costOf(each), held.bytes);
  if (held.bytes === 0 || bytes <= HELD_BYTES_MAX) return;
  throw new RelevoError(
    'THROTTLED',
    `this broker has ${held.bytes} bytes of records waiting for their leaders, at most ` +
      `${HELD_BYTES_MAX} may: nothing was written, try again in a while, or at another broker`,
  );
}
