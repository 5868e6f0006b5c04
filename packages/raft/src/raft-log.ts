/**
 * The log as the core sees it: everything after the last compaction, in memory, with two marks.
 *
 *     base        persisted       offered        last
 *      |  durable here  |  being written  |  not yet in a Ready  |
 *
 * A truncation pulls both marks back; what was on its way to the disk then counts for nothing, even when
 * an entry of the same index and term is appended again later.
 */
import { assert, defined } from '@relevo/base/assert';
import { logIndex, term as toTerm, type LogIndex, type Term } from '@relevo/base/ids';
import type { Entry } from './messages.ts';

/** Position of an entry. */
export interface EntryId {
  readonly index: LogIndex;
  readonly term: Term;
}

export class RaftLog {
  /** What comes before the first entry held here. */
  #base: EntryId;
  #entries: Entry[];
  #persistedIndex: LogIndex;
  #offeredIndex: LogIndex;
  #truncateFrom: LogIndex | undefined;
  /** One for each Ready that is being written, oldest first: up to where it makes the log durable. */
  #writes: { lastIndex: number }[] = [];

  /** `entries` follow `base` without a gap and are durable. */
  constructor(base: EntryId, entries: readonly Entry[]) {
    this.#base = base;
    this.#entries = [];
    this.#persistedIndex = base.index;
    this.#offeredIndex = base.index;
    for (const entry of entries) this.append(entry);
    this.#persistedIndex = this.lastIndex;
    this.#offeredIndex = this.lastIndex;
  }

  get base(): EntryId {
    return this.#base;
  }

  get lastIndex(): LogIndex {
    return this.#entries.at(-1)?.index ?? this.#base.index;
  }

  get lastTerm(): Term {
    return this.#entries.at(-1)?.term ?? this.#base.term;
  }

  /** Everything up to here is durable. */
  get persistedIndex(): LogIndex {
    return this.#persistedIndex;
  }

  /** True when a Ready would have something to write. */
  get hasUnoffered(): boolean {
    return this.#offeredIndex < this.lastIndex || this.#truncateFrom !== undefined;
  }

  /** Undefined for what was compacted away and for what is not there yet. */
  termAt(index: LogIndex): Term | undefined {
    if (index === this.#base.index) return this.#base.term;
    return this.#entries[index - this.#base.index - 1]?.term;
  }

  /** Raft paper, 5.4.1: later last term, or same last term and no shorter. */
  isCoveredBy(other: EntryId): boolean {
    if (other.term !== this.lastTerm) return other.term > this.lastTerm;
    return other.index >= this.lastIndex;
  }

  append(entry: Entry): void {
    assert(entry.index === this.lastIndex + 1, 'the log has no gap', {
      index: entry.index,
      lastIndex: this.lastIndex,
    });
    assert(entry.term >= this.lastTerm, 'terms do not fall along the log', {
      index: entry.index,
      term: entry.term,
      lastTerm: this.lastTerm,
    });
    this.#entries.push(entry);
  }

  /** Removes the entries from `index` on. */
  truncateFrom(index: LogIndex): void {
    assert(index > this.#base.index && index <= this.lastIndex, 'only what is held is truncated', {
      index,
      base: this.#base.index,
      lastIndex: this.lastIndex,
    });
    this.#entries.length = index - this.#base.index - 1;
    if (index <= this.#offeredIndex) {
      this.#offeredIndex = this.lastIndex;
      this.#truncateFrom = index;
    }
    if (index <= this.#persistedIndex) this.#persistedIndex = this.lastIndex;
    for (const write of this.#writes) write.lastIndex = Math.min(write.lastIndex, index - 1);
  }

  /**
   * Entries from `from` to `to` (inclusive): as many as fit into `bytesMax`, but one at least where
   * there is one.
   */
  slice(from: LogIndex, to: LogIndex, bytesMax: number): readonly Entry[] {
    assert(from > this.#base.index, 'only what is held is read', { from, base: this.#base.index });
    const start = from - this.#base.index - 1;
    const limit = to - this.#base.index;
    let bytes = 0;
    let end = start;
    while (end < limit) {
      const entry = this.#entries[end];
      if (entry === undefined) break;
      bytes += entry.data.length;
      if (bytes > bytesMax && end > start) break;
      end++;
    }
    return this.#entries.slice(start, end);
  }

  /**
   * The last position, at or below `index`, at which this log may agree with one that has `term` at
   * `index`: entries of a later term cannot be in it. An unknown term is given as 0.
   */
  mayAgreeAt(index: LogIndex, term: Term): EntryId {
    let at = Math.min(index, this.lastIndex);
    while (at > this.#base.index && defined(this.termAt(logIndex(at)), 'a term held') > term) at--;
    const found = logIndex(at);
    return { index: found, term: this.termAt(found) ?? toTerm(0) };
  }

  /** What storage must do to catch up with this log; each call is answered by one `writeDone`. */
  takeUnoffered(): { truncateFrom: LogIndex | undefined; entries: readonly Entry[] } {
    const truncateFrom = this.#truncateFrom;
    const entries = this.#entries.slice(this.#offeredIndex - this.#base.index);
    this.#truncateFrom = undefined;
    this.#offeredIndex = this.lastIndex;
    this.#writes.push({ lastIndex: this.#offeredIndex });
    return { truncateFrom, entries };
  }

  /** The oldest of the writes handed out is durable. */
  writeDone(): void {
    const { lastIndex } = defined(this.#writes.shift(), 'a write under way');
    assert(lastIndex <= this.#offeredIndex, 'only what was offered is durable', { lastIndex });
    if (lastIndex > this.#persistedIndex) this.#persistedIndex = logIndex(lastIndex);
  }

  /** Starts anew after a snapshot; storage will drop all it has. */
  restore(base: EntryId): void {
    this.#base = base;
    this.#entries = [];
    this.#persistedIndex = base.index;
    this.#offeredIndex = base.index;
    this.#truncateFrom = undefined;
    for (const write of this.#writes) write.lastIndex = 0;
  }

  /** Forgets the entries up to `index`. */
  compactTo(index: LogIndex): void {
    if (index <= this.#base.index) return;
    assert(index <= this.#persistedIndex, 'only durable entries are compacted', { index });
    const term = defined(this.termAt(index), `the term of entry ${index}`);
    this.#entries.splice(0, index - this.#base.index);
    this.#base = { index, term };
  }
}
