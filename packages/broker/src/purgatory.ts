/**
 * Where requests wait: produces for the high watermark, fetches for something to read.
 *
 * Both kinds are woken by progress, at a cost that does not grow with how many wait, and both have
 * deadlines. Deadlines are looked at in one sweep when the earliest one known may have passed: progress
 * normally comes long before, and what is gone from the queue costs nothing.
 */
import { assert } from '@relevo/base/assert';
import type { Offset } from '@relevo/base/ids';

interface WaitingProduce<Value> {
  readonly endOffset: Offset;
  readonly deadlineMs: number;
  readonly value: Value;
}

/** Entries shifted off the front before the array behind the queue is cut. */
const COMPACT_AFTER = 1024;

/** The produces of one partition, in the order of their offsets. */
export class ProducePurgatory<Value> {
  #queue: (WaitingProduce<Value> | undefined)[] = [];
  #head = 0;
  #earliestMs = Infinity;

  get size(): number {
    return this.#queue.length - this.#head;
  }

  /** A time at or before which nothing expires; Infinity when nothing waits. */
  get earliestDeadlineMs(): number {
    return this.size === 0 ? Infinity : this.#earliestMs;
  }

  /**
   * `endOffset`: acknowledged when the watermark reaches it. Mostly the largest so far; the repeat of an
   * earlier batch, which waits for that batch's own end, may come behind larger ones.
   */
  add(endOffset: Offset, deadlineMs: number, value: Value): void {
    this.#earliestMs = this.size === 0 ? deadlineMs : Math.min(this.#earliestMs, deadlineMs);
    const entry = { endOffset, deadlineMs, value };
    let at = this.#queue.length;
    this.#queue.push(entry);
    while (at > this.#head) {
      const before = this.#queue[at - 1];
      if (before === undefined || before.endOffset <= endOffset) break;
      this.#queue[at] = before;
      this.#queue[--at] = entry;
    }
  }

  /** Takes out, in order, all that waited for offsets up to `watermark`. */
  reach(watermark: Offset, done: (value: Value, endOffset: Offset) => void): void {
    for (;;) {
      const first = this.#queue[this.#head];
      if (first === undefined || first.endOffset > watermark) return;
      this.#queue[this.#head] = undefined;
      this.#head += 1;
      if (this.#head === this.#queue.length) {
        this.#queue = [];
        this.#head = 0;
      } else if (this.#head >= COMPACT_AFTER) {
        this.#queue = this.#queue.slice(this.#head);
        this.#head = 0;
      }
      done(first.value, first.endOffset);
    }
  }

  /** Takes out all whose deadline has passed. */
  expire(nowMs: number, done: (value: Value, endOffset: Offset) => void): void {
    if (nowMs < this.earliestDeadlineMs) return;
    const kept: WaitingProduce<Value>[] = [];
    const gone: WaitingProduce<Value>[] = [];
    this.#earliestMs = Infinity;
    for (const entry of this.#queue) {
      if (entry === undefined) continue;
      if (entry.deadlineMs <= nowMs) {
        gone.push(entry);
        continue;
      }
      kept.push(entry);
      this.#earliestMs = Math.min(this.#earliestMs, entry.deadlineMs);
    }
    this.#queue = kept;
    this.#head = 0;
    for (const entry of gone) done(entry.value, entry.endOffset);
  }

  /** Takes out everything: leadership is lost, or the broker stops. */
  drain(done: (value: Value, endOffset: Offset) => void): void {
    const all = this.#queue.slice(this.#head);
    this.#queue = [];
    this.#head = 0;
    for (const entry of all) if (entry !== undefined) done(entry.value, entry.endOffset);
  }
}

/** One waiting fetch. The purgatory keeps its own account in it. */
export interface WaitingFetch<Key> {
  /** The partitions whose progress counts. */
  readonly keys: readonly Key[];
  /** Woken when so many more bytes have become readable; at least 1. */
  missingBytes: number;
  readonly deadlineMs: number;
}

/** The fetches of one broker, by partition. */
export class FetchPurgatory<Key, Fetch extends WaitingFetch<Key>> {
  readonly #byKey = new Map<Key, Set<Fetch>>();
  readonly #all = new Set<Fetch>();
  #earliestMs = Infinity;

  get size(): number {
    return this.#all.size;
  }

  /** A time at or before which nothing expires; Infinity when nothing waits. */
  get earliestDeadlineMs(): number {
    return this.#all.size === 0 ? Infinity : this.#earliestMs;
  }

  add(fetch: Fetch): void {
    assert(fetch.missingBytes >= 1, 'a fetch that has enough does not wait');
    this.#earliestMs =
      this.#all.size === 0 ? fetch.deadlineMs : Math.min(this.#earliestMs, fetch.deadlineMs);
    this.#all.add(fetch);
    for (const key of fetch.keys) {
      const waiting = this.#byKey.get(key);
      if (waiting === undefined) this.#byKey.set(key, new Set([fetch]));
      else waiting.add(fetch);
    }
  }

  /** The fetch is answered or its caller gone. */
  remove(fetch: Fetch): void {
    if (!this.#all.delete(fetch)) return;
    for (const key of fetch.keys) {
      const waiting = this.#byKey.get(key);
      waiting?.delete(fetch);
      if (waiting?.size === 0) this.#byKey.delete(key);
    }
  }

  /** `bytes` more are readable in `key`: takes out those that have enough now. */
  advanced(key: Key, bytes: number, done: (fetch: Fetch) => void): void {
    const waiting = this.#byKey.get(key);
    if (waiting === undefined) return;
    for (const fetch of [...waiting]) {
      fetch.missingBytes -= bytes;
      if (fetch.missingBytes > 0) continue;
      this.remove(fetch);
      done(fetch);
    }
  }

  /** Takes out all that wait for `key`: it has another leader, or is gone. */
  wake(key: Key, done: (fetch: Fetch) => void): void {
    this.advanced(key, Infinity, done);
  }

  /** Takes out all whose deadline has passed. */
  expire(nowMs: number, done: (fetch: Fetch) => void): void {
    if (nowMs < this.earliestDeadlineMs) return;
    this.#earliestMs = Infinity;
    for (const fetch of [...this.#all]) {
      if (fetch.deadlineMs > nowMs) {
        this.#earliestMs = Math.min(this.#earliestMs, fetch.deadlineMs);
        continue;
      }
      this.remove(fetch);
      done(fetch);
    }
  }
}
