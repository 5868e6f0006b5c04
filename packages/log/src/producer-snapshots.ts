/** The producer snapshots of a log: files that name the offset up to which they know the log. */
import type { Offset } from '@relevo/base/ids';
import type { Crc32c, Disk, Logger } from '@relevo/base/ports';
import { replaceFile } from './checkpoint-file.ts';
import { SNAPSHOT_SUFFIX, offsetFileName } from './file-names.ts';
import { isDiskError } from './log-error.ts';
import { decodeSnapshotSteps, encodeSnapshotSteps } from './producer-snapshot.ts';
import type { ProducerState } from './producer-state.ts';
import type { Segment } from './segment.ts';
import { walkHeaders } from './segment-walk.ts';
import { readHintSteps, runNow } from './steps.ts';
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
  #hasDropped = false;

  constructor(directory: string, offsets: readonly Offset[], deps: SnapshotDeps) {
    this.#directory = directory;
    this.#deps = deps;
    this.#offsets = [...offsets];
  }

  /** `load` has removed some: until a sync of the directory they may come back. */
  get hasDropped(): boolean {
    return this.#hasDropped;
  }

  get latest(): Offset | undefined {
    return this.#offsets.at(-1);
  }

  /**
   * Writes the state as it is at `at`; returns the path of the new file. Without room there is none,
   * and the state is rebuilt from an older one some day.
   */
  write(at: Offset, state: ProducerState): string | undefined {
    return runNow(this.writeSteps(at, state));
  }

  /** `write`, where the state does not change meanwhile. */
  *writeSteps(at: Offset, state: ProducerState): Steps<string | undefined> {
    if (this.latest === at) return undefined;
    const { disk, crc32c } = this.#deps;
    const bytes = yield* encodeSnapshotSteps(state, crc32c);
    try {
      replaceFile(disk, this.#path(at), bytes);
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
    const from = yield* this.#restore(state, atMost);
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

  *#restore(state: ProducerState, atMost: Offset): Steps<Offset> {
    const { disk, crc32c, logger } = this.#deps;
    state.clear();
    for (let at = this.latest; at !== undefined; at = this.latest) {
      const path = this.#path(at);
      if (at <= atMost) {
        const bytes = yield* readHintSteps(disk, path);
        const entries = bytes === undefined ? undefined : yield* decodeSnapshotSteps(bytes, crc32c);
        if (entries !== undefined) {
          yield* state.restoreSteps(entries);
          return at;
        }
        logger.warn('passed over a damaged producer snapshot', { path });
      }
      this.#offsets.pop();
      disk.remove(path);
      this.#hasDropped = true;
    }
    return 0 as Offset;
  }

  #path(at: Offset): string {
    return `${this.#directory}/${offsetFileName(at, SNAPSHOT_SUFFIX)}`;
  }
}
