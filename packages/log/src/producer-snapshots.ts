/** The producer snapshots of a log: files that name the offset up to which they know the log. */
import type { Offset } from '@relevo/base/ids';
import type { Crc32c, Disk, Logger } from '@relevo/base/ports';
import { readHint, replaceFile } from './checkpoint-file.ts';
import { SNAPSHOT_SUFFIX, offsetFileName } from './file-names.ts';
import { isDiskError } from './log-error.ts';
import { decodeSnapshot, encodeSnapshot } from './producer-snapshot.ts';
import type { ProducerState } from './producer-state.ts';
import type { Segment } from './segment.ts';
import { walkHeaders } from './segment-walk.ts';
import type { Steps } from './steps.ts';

export interface SnapshotDeps {
  readonly disk: Disk;
  readonly crc32c: Crc32c;
  readonly logger: Logger;
}

export class ProducerSnapshots {
  readonly #directory: string;
  readonly #deps: SnapshotDeps;
  /** Of those that are there, growing. */
  #offsets: Offset[];

  constructor(directory: string, offsets: readonly Offset[], deps: SnapshotDeps) {
    this.#directory = directory;
    this.#deps = deps;
    this.#offsets = [...offsets];
  }

  get latest(): Offset | undefined {
    return this.#offsets.at(-1);
  }

  /**
   * Writes the state as it is at `at`; returns the path of the new file. Without room there is none,
   * and the state is rebuilt from an older one some day.
   */
  write(at: Offset, state: ProducerState): string | undefined {
    if (this.latest === at) return undefined;
    const { disk, crc32c } = this.#deps;
    try {
      replaceFile(disk, this.#path(at), encodeSnapshot(state, crc32c));
    } catch (error) {
      if (isDiskError(error, 'FULL')) return undefined;
      throw error;
    }
    this.#offsets.push(at);
    return this.#path(at);
  }

  /** Keeps the latest at or below `sure`, which `load` could take after a crash, and those after it. */
  prune(sure: Offset): void {
    for (;;) {
      const [oldest, next] = this.#offsets;
      if (oldest === undefined || next === undefined || next > sure) return;
      this.#offsets.shift();
      this.#deps.disk.remove(this.#path(oldest));
    }
  }

  clear(): void {
    for (const at of this.#offsets.splice(0)) this.#deps.disk.remove(this.#path(at));
  }

  /**
   * Brings `state` from the latest intact snapshot at or below `atMost` and the batches of `segments`
   * after it; returns that snapshot's offset. Those beyond `atMost`, where the log ends or is not sure,
   * are removed.
   */
  *load(state: ProducerState, segments: readonly Segment[], atMost: Offset): Steps<Offset> {
    const from = this.#restore(state, atMost);
    for (const segment of segments) {
      if (segment.nextOffset <= from) continue;
      yield* segment.prepareIndexes();
      const start = from <= segment.baseOffset ? 0 : segment.locate(from).position;
      yield* walkHeaders(segment, start, (header) => {
        if (header.baseOffset >= from) state.note(header);
      });
    }
    return from;
  }

  #restore(state: ProducerState, atMost: Offset): Offset {
    const { disk, crc32c, logger } = this.#deps;
    state.clear();
    for (let at = this.latest; at !== undefined; at = this.latest) {
      const path = this.#path(at);
      if (at <= atMost) {
        const entries = decodeSnapshot(readHint(disk, path) ?? new Uint8Array(0), crc32c);
        if (entries !== undefined) {
          state.restore(entries);
          return at;
        }
        logger.warn('passed over a damaged producer snapshot', { path });
      }
      this.#offsets.pop();
      disk.remove(path);
    }
    return 0 as Offset;
  }

  #path(at: Offset): string {
    return `${this.#directory}/${offsetFileName(at, SNAPSHOT_SUFFIX)}`;
  }
}
