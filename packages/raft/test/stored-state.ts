import { logIndex, term } from '@relevo/base/ids';
import type { Configuration } from '@relevo/raft/configuration';
import type { Recovered } from '@relevo/raft/core';
import type { Entry, Snapshot } from '@relevo/raft/messages';
import type { HardState, Ready } from '@relevo/raft/ready';

/** What a replica's disk holds for certain. */
export class StoredState {
  hardState: HardState = { term: term(0), vote: undefined, commit: logIndex(0) };
  snapshot: Snapshot | undefined;
  entries: Entry[] = [];

  /** The end of the stored log. */
  get lastIndex(): number {
    return this.entries.at(-1)?.index ?? this.snapshot?.index ?? 0;
  }

  /**
   * Carries out a Ready's writes in the order that `Ready` asks for. `steps` cuts it short, as a crash
   * would: the hard state, the snapshot, the truncation and each entry count one.
   */
  write(ready: Ready, steps = Infinity): void {
    const acts: (() => void)[] = [];
    const { hardState, snapshot, truncateFrom } = ready;
    if (hardState !== undefined) acts.push(() => (this.hardState = hardState));
    if (snapshot !== undefined) {
      acts.push(() => {
        this.snapshot = snapshot;
        this.entries = [];
      });
    }
    if (truncateFrom !== undefined) acts.push(() => this.truncate(truncateFrom));
    for (const entry of ready.entries) acts.push(() => this.append(entry));
    acts.slice(0, steps).forEach((act) => act());
  }

  truncate(from: number): void {
    this.entries = this.entries.filter((entry) => entry.index < from);
  }

  append(entry: Entry): void {
    if (entry.index !== this.lastIndex + 1) {
      throw new Error(`storage was given entry ${entry.index} after ${this.lastIndex}`);
    }
    this.entries.push(entry);
  }

  /** The state machine's own snapshot: the log below it may go. */
  compact(snapshot: Snapshot): void {
    this.snapshot = snapshot;
    this.entries = this.entries.filter((entry) => entry.index > snapshot.index);
  }

  /** True where the entry, or a snapshot that covers it, is here. */
  has(index: number, term: number): boolean {
    if ((this.snapshot?.index ?? 0) >= index) return true;
    return this.entries.some((entry) => entry.index === index && entry.term === term);
  }

  recovered(bootstrap: Configuration): Recovered {
    const { hardState, snapshot, entries } = this;
    return { hardState, snapshot, entries: [...entries], bootstrap };
  }
}
