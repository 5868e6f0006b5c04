/**
 * What the log knows of idempotent producers (KIP-98): the epoch and the last five batches of each, so
 * that a repeat is recognised and a gap refused. It is a function of the log alone, the same on every
 * replica at the same offset, but for those that have been forgotten (I3).
 *
 * A producer is forgotten when it has been silent for the expiration, on this process' monotonic clock,
 * since its last batch came to this replica. The timestamps of records play no part: a producer chooses
 * its own, and may copy records that are days old beside one whose records are new. A replica that did
 * not see the append (a follower, a log that was opened again) counts from when it learnt of the batch,
 * so it never forgets sooner than the leader that took it.
 */
import { assert } from '@relevo/base/assert';
import { NO_PRODUCER_ID } from '@relevo/base/ids';
import type { Offset, ProducerEpoch, ProducerId } from '@relevo/base/ids';
import { isMutated } from '@relevo/base/mutations';
import { SEQUENCE_MAX, sequenceAfter } from '@relevo/record/batch-header';
import type { BatchHeader } from '@relevo/record/batch-header';
import { LogError } from './log-error.ts';
import type { Duplicate } from './log-types.ts';
import { PAUSE, runNow } from './steps.ts';
import type { Steps } from './steps.ts';

/** As many batches a producer may have in flight, and repeat. */
export const REMEMBERED_BATCHES = 5;
/** Producers that a partition remembers; beyond it the one that has been silent longest goes. */
export const PRODUCERS_MAX = 50_000;

/** Between two pauses where many are restored: about a millisecond. */
const PAUSE_ENTRIES = 5_000;

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
  /** When this replica learnt of the last of them, on the monotonic clock. */
  learntMs: number;
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
  readonly #monotonicMs: () => number;
  /** Least recently appended first, so `learntMs` never falls along it. */
  readonly #entries: Map<ProducerId, ProducerEntry> = new Map();

  constructor(expirationMs: number, monotonicMs: () => number) {
    this.#expirationMs = expirationMs;
    this.#monotonicMs = monotonicMs;
  }

  /** How many take up room here; those that have expired are among them until the next sweep. */
  get size(): number {
    return this.#entries.size;
  }

  /** Those that are remembered, least recently appended first. */
  entries(): ProducerEntry[] {
    const nowMs = this.#monotonicMs();
    return [...this.#entries.values()].filter((entry) => !this.#isExpired(entry, nowMs));
  }

  /** From a snapshot; in the order that `entries` gave. */
  restore(entries: readonly Omit<ProducerEntry, 'learntMs'>[]): void {
    runNow(this.restoreSteps(entries));
  }

  *restoreSteps(entries: readonly Omit<ProducerEntry, 'learntMs'>[]): Steps<void> {
    this.clear();
    const learntMs = this.#monotonicMs();
    for (const [at, { producerId, epoch, batches }] of entries.entries()) {
      if (at % PAUSE_ENTRIES === 0) yield PAUSE;
      this.#entries.set(producerId, { producerId, epoch, batches, learntMs });
    }
  }

  clear(): void {
    this.#entries.clear();
  }

  /**
   * Whether a batch may be appended next. A batch that repeats one of the last five is returned: it was
   * appended there. Throws a LogError for a gap, an old epoch, an older repeat, or a producer that does
   * not begin at 0.
   */
  check(batch: ProducerBatchHeader): ProducerBatch | undefined {
    if (batch.producerId === NO_PRODUCER_ID || batch.isControl) return undefined;
    const entry = this.#live(batch.producerId, this.#monotonicMs());
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
    if (batch.producerId === NO_PRODUCER_ID || batch.isControl) return;
    const learntMs = this.#monotonicMs();
    const entry = this.#live(batch.producerId, learntMs);
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
      entry.learntMs = learntMs;
      this.#entries.set(batch.producerId, entry);
    } else {
      const { producerId, producerEpoch: epoch } = batch;
      this.#entries.set(producerId, { producerId, epoch, batches: [noted], learntMs });
    }
    this.#evict(learntMs);
  }

  /** Frees the room of those that have expired; to be called now and then where nothing is appended. */
  sweep(): void {
    this.#evict(this.#monotonicMs());
  }

  #live(producerId: ProducerId, nowMs: number): ProducerEntry | undefined {
    const entry = this.#entries.get(producerId);
    return entry === undefined || this.#isExpired(entry, nowMs) ? undefined : entry;
  }

  #isExpired(entry: ProducerEntry, nowMs: number): boolean {
    if (isMutated('producers-expire-by-record-time')) {
      const newest = Math.max(...[...this.#entries.values()].map(timestampOf));
      return timestampOf(entry) < newest - this.#expirationMs;
    }
    return entry.learntMs < nowMs - this.#expirationMs;
  }

  /** The expired are the first ones. */
  #evict(nowMs: number): void {
    for (const [producerId, entry] of this.#entries) {
      if (this.#entries.size <= PRODUCERS_MAX && !this.#isExpired(entry, nowMs)) return;
      this.#entries.delete(producerId);
    }
  }
}

const timestampOf = (entry: ProducerEntry): number => entry.batches.at(-1)?.timestamp ?? 0;

/** What an append that repeats the batch gives. */
export const duplicateOf = ({ firstOffset, lastOffset, timestamp }: ProducerBatch): Duplicate => ({
  kind: 'duplicate',
  baseOffset: firstOffset,
  nextOffset: (lastOffset + 1) as Offset,
  timestamp,
});

/** Whether `sequence` comes before `other`, going round at 2^31-1: within half the circle. */
function isBefore(sequence: number, other: number): boolean {
  const distance = (other - sequence + SEQUENCE_MAX + 1) % (SEQUENCE_MAX + 1);
  return distance > 0 && distance <= SEQUENCE_MAX / 2;
}

const nameOf = (batch: ProducerBatchHeader): string =>
  `producer ${batch.producerId} (epoch ${batch.producerEpoch}, sequence ${batch.baseSequence})`;
