/**
 * What the log knows of idempotent producers (KIP-98): the epoch and the last five batches of each, so
 * that a repeat is recognised and a gap refused. It is a function of the log alone, the same on every
 * replica at the same offset (I3). So a producer is forgotten by *log time*, the latest timestamp in the
 * log so far, and never by anybody's clock.
 */
import { assert } from '@relevo/base/assert';
import { NO_PRODUCER_ID } from '@relevo/base/ids';
import type { Offset, ProducerEpoch, ProducerId } from '@relevo/base/ids';
import { NO_TIMESTAMP, SEQUENCE_MAX, sequenceAfter } from '@relevo/record/batch-header';
import type { BatchHeader } from '@relevo/record/batch-header';
import { LogError } from './log-error.ts';

/** As many batches a producer may have in flight, and repeat. */
export const REMEMBERED_BATCHES = 5;
/** Producers that a partition remembers; beyond it the one that has been silent longest goes. */
export const PRODUCERS_MAX = 50_000;

export interface ProducerBatch {
  readonly firstSequence: number;
  readonly lastSequence: number;
  readonly firstOffset: Offset;
  readonly lastOffset: Offset;
  readonly timestamp: number;
}

export interface ProducerEntry {
  readonly producerId: ProducerId;
  readonly epoch: ProducerEpoch;
  /** Oldest first, at most five, at least one. */
  readonly batches: ProducerBatch[];
  /** Log time after the last of them. */
  logTimeMs: number;
}

export type ProducerBatchHeader = Pick<
  BatchHeader,
  | 'producerId'
  | 'producerEpoch'
  | 'baseSequence'
  | 'lastSequence'
  | 'baseOffset'
  | 'lastOffset'
  | 'maxTimestamp'
  | 'isControl'
>;

export class ProducerState {
  readonly #expirationMs: number;
  /** Least recently appended first. */
  readonly #entries: Map<ProducerId, ProducerEntry> = new Map();
  #logTimeMs = NO_TIMESTAMP;

  constructor(expirationMs: number) {
    this.#expirationMs = expirationMs;
  }

  /** The latest timestamp in the log so far. */
  get logTimeMs(): number {
    return this.#logTimeMs;
  }

  get size(): number {
    return this.#entries.size;
  }

  /** Those that are remembered, least recently appended first. */
  entries(): ProducerEntry[] {
    return [...this.#entries.values()].filter((entry) => !this.#isExpired(entry));
  }

  /** From a snapshot; in the order that `entries` gave. */
  restore(entries: readonly ProducerEntry[], logTimeMs: number): void {
    this.clear();
    for (const entry of entries) this.#entries.set(entry.producerId, entry);
    this.#logTimeMs = logTimeMs;
  }

  clear(): void {
    this.#entries.clear();
    this.#logTimeMs = NO_TIMESTAMP;
  }

  /**
   * Whether a batch may be appended next. A batch that repeats one of the last five is returned: it was
   * appended there. Throws a LogError for a gap, an old epoch, an older repeat, or a producer that does
   * not begin at 0.
   */
  check(batch: ProducerBatchHeader): ProducerBatch | undefined {
    if (batch.producerId === NO_PRODUCER_ID || batch.isControl) return undefined;
    const entry = this.#live(batch.producerId);
    if (entry === undefined) {
      if (batch.baseSequence === 0) return undefined;
      throw new LogError('unknownProducer', `${nameOf(batch)} is not known and must begin at 0`);
    }
    if (batch.producerEpoch < entry.epoch) {
      const message = `${nameOf(batch)} has an old epoch, the latest is ${entry.epoch}`;
      throw new LogError('oldProducerEpoch', message);
    }
    if (batch.producerEpoch > entry.epoch) {
      if (batch.baseSequence === 0) return undefined;
      throw new LogError('outOfOrderSequence', `${nameOf(batch)} must begin its epoch at 0`);
    }
    return this.#checkSequence(batch, entry);
  }

  #checkSequence(batch: ProducerBatchHeader, entry: ProducerEntry): ProducerBatch | undefined {
    const last = entry.batches.at(-1);
    assert(last !== undefined, 'a producer is known by a batch', { id: entry.producerId });
    const expected = sequenceAfter(last.lastSequence, 1);
    if (batch.baseSequence === expected) return undefined;
    const repeat = entry.batches.find(
      ({ firstSequence, lastSequence }) =>
        firstSequence === batch.baseSequence && lastSequence === batch.lastSequence,
    );
    if (repeat !== undefined) return repeat;
    if (isBefore(batch.baseSequence, expected) && isBefore(batch.lastSequence, expected)) {
      const message = `${nameOf(batch)} was appended before, the next sequence is ${expected}`;
      throw new LogError('duplicateSequence', message);
    }
    throw new LogError('outOfOrderSequence', `${nameOf(batch)}: expected sequence ${expected}`);
  }

  /** Takes a batch that is in the log, whatever it says: batches come in the order of offsets. */
  note(batch: ProducerBatchHeader): void {
    // Who has expired is judged before this batch moves the time: as `check` saw it.
    const entry = this.#live(batch.producerId);
    this.#logTimeMs = Math.max(this.#logTimeMs, batch.maxTimestamp);
    if (batch.producerId === NO_PRODUCER_ID || batch.isControl) return;
    const noted: ProducerBatch = {
      firstSequence: batch.baseSequence,
      lastSequence: batch.lastSequence,
      firstOffset: batch.baseOffset,
      lastOffset: batch.lastOffset,
      timestamp: batch.maxTimestamp,
    };
    this.#entries.delete(batch.producerId);
    if (entry !== undefined && entry.epoch === batch.producerEpoch) {
      entry.batches.push(noted);
      if (entry.batches.length > REMEMBERED_BATCHES) entry.batches.shift();
      entry.logTimeMs = this.#logTimeMs;
      this.#entries.set(batch.producerId, entry);
    } else {
      const { producerId, producerEpoch: epoch } = batch;
      const fresh = { producerId, epoch, batches: [noted], logTimeMs: this.#logTimeMs };
      this.#entries.set(producerId, fresh);
    }
    this.#evict();
  }

  #live(producerId: ProducerId): ProducerEntry | undefined {
    const entry = this.#entries.get(producerId);
    return entry === undefined || this.#isExpired(entry) ? undefined : entry;
  }

  #isExpired(entry: ProducerEntry): boolean {
    return entry.logTimeMs < this.#logTimeMs - this.#expirationMs;
  }

  /** Log time only grows: the expired are the first ones. */
  #evict(): void {
    for (const [producerId, entry] of this.#entries) {
      if (this.#entries.size <= PRODUCERS_MAX && !this.#isExpired(entry)) return;
      this.#entries.delete(producerId);
    }
  }
}

/** Whether `sequence` comes before `other`, going round at 2^31-1: within half the circle. */
function isBefore(sequence: number, other: number): boolean {
  const distance = (other - sequence + SEQUENCE_MAX + 1) % (SEQUENCE_MAX + 1);
  return distance > 0 && distance <= SEQUENCE_MAX / 2;
}

const nameOf = (batch: ProducerBatchHeader): string =>
  `producer ${batch.producerId} (epoch ${batch.producerEpoch}, sequence ${batch.baseSequence})`;
