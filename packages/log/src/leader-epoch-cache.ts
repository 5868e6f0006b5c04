/**
 * Where each leader epoch begins in the log (KIP-101), in order. It follows from the log's batches, but
 * for an epoch that a leader has opened and not yet written to. The file `leader-epoch-checkpoint` has a
 * line `epoch startOffset` for each.
 */
import { assert } from '@relevo/base/assert';
import { NO_LEADER_EPOCH } from '@relevo/base/ids';
import type { LeaderEpoch, Offset } from '@relevo/base/ids';
import { decodeCheckpoint, encodeCheckpoint } from './checkpoint-file.ts';

export interface EpochEntry {
  readonly epoch: LeaderEpoch;
  readonly startOffset: Offset;
}

export class LeaderEpochCache {
  #entries: EpochEntry[] = [];
  /** Counts changes, so that one who writes the file knows whether it has the latest. */
  #version = 0;

  /** From a file's content; undefined when it is damaged. */
  static decode(bytes: Uint8Array): LeaderEpochCache | undefined {
    const cache = new LeaderEpochCache();
    for (const line of decodeCheckpoint(bytes) ?? [undefined]) {
      const [epoch, startOffset] =
        /^(\d+) (\d+)$/
          .exec(line ?? '')
          ?.slice(1)
          .map(Number) ?? [];
      if (epoch === undefined || startOffset === undefined) return undefined;
      const last = cache.#entries.at(-1);
      if (last !== undefined && (epoch <= last.epoch || startOffset <= last.startOffset)) {
        return undefined;
      }
      cache.#entries.push({ epoch: epoch as LeaderEpoch, startOffset: startOffset as Offset });
    }
    return cache;
  }

  /** As found elsewhere than in the file, in order. */
  static of(entries: readonly EpochEntry[]): LeaderEpochCache {
    const cache = new LeaderEpochCache();
    for (const { epoch, startOffset } of entries) cache.begin(epoch, startOffset);
    // The file may know less.
    cache.#version++;
    return cache;
  }

  encoded(): Uint8Array {
    return encodeCheckpoint(
      this.#entries.map(({ epoch, startOffset }) => `${epoch} ${startOffset}`),
    );
  }

  get version(): number {
    return this.#version;
  }

  get entries(): readonly EpochEntry[] {
    return this.#entries;
  }

  /** -1 when there is none. */
  get latestEpoch(): LeaderEpoch {
    return this.#entries.at(-1)?.epoch ?? NO_LEADER_EPOCH;
  }

  /** `epoch` begins at `startOffset`, unless it has begun before. Epochs never fall (L1). */
  begin(epoch: LeaderEpoch, startOffset: Offset): void {
    const latest = this.latestEpoch;
    if (epoch === latest || epoch === NO_LEADER_EPOCH) return;
    assert(epoch > latest, 'leader epochs never fall along the log', { epoch, latest });
    // An epoch without a record leaves no trace once another begins at the same place.
    this.truncateTo(startOffset);
    this.#entries.push({ epoch, startOffset });
    this.#version++;
  }

  /**
   * The largest epoch at or below `asked`, and the offset after its last record; `logEndOffset` when
   * nothing comes after it. Where the log holds nothing so old: `asked` itself, with the offset where
   * the oldest epoch held begins (KIP-101, KIP-279).
   */
  endOffset(
    asked: LeaderEpoch,
    logEndOffset: Offset,
  ): { readonly epoch: LeaderEpoch; readonly endOffset: Offset } {
    const next = this.#entries.findIndex(({ epoch }) => epoch > asked);
    const floor = next === -1 ? this.#entries.at(-1) : this.#entries[next - 1];
    const after = next === -1 ? undefined : this.#entries[next];
    return { epoch: floor?.epoch ?? asked, endOffset: after?.startOffset ?? logEndOffset };
  }

  /** The epoch of the record at `offset`; -1 when that lies before all that is known. */
  epochAt(offset: number): LeaderEpoch {
    for (let at = this.#entries.length - 1; at >= 0; at--) {
      const entry = this.#entries[at];
      if (entry !== undefined && entry.startOffset <= offset) return entry.epoch;
    }
    return NO_LEADER_EPOCH;
  }

  /** Forgets the epochs that begin at or after `endOffset`. */
  truncateTo(endOffset: Offset): void {
    while ((this.#entries.at(-1)?.startOffset ?? -1) >= endOffset) {
      this.#entries.pop();
      this.#version++;
    }
  }

  /** Forgets what lies before `startOffset`; the epoch that it falls into begins there. */
  advanceStart(startOffset: Offset): void {
    const kept = this.#entries.filter((entry) => entry.startOffset > startOffset);
    const epoch = this.epochAt(startOffset);
    if (epoch !== NO_LEADER_EPOCH) kept.unshift({ epoch, startOffset });
    if (
      kept.length === this.#entries.length &&
      kept[0]?.startOffset === this.#entries[0]?.startOffset
    ) {
      return;
    }
    this.#entries = kept;
    this.#version++;
  }

  clear(): void {
    if (this.#entries.length > 0) this.#version++;
    this.#entries = [];
  }
}
