/**
 * Directories that deleted topics have left: of replicas that were on this broker when it was down, and
 * those that were set aside. They are removed once the metadata say that the topic with their id was
 * deleted, and after a delay, which leaves people time to save something. A topic that the image merely
 * does not know proves nothing: the image may be of yesterday. A directory that a crash has left half made
 * holds nothing that was ever synced, and goes too.
 */
import { isMutated } from '@relevo/base/mutations';
import { messageOf } from '@relevo/base/errors';
import type { Uuid } from '@relevo/base/ids';
import type { Clock, Logger, TimerHandle, Timers } from '@relevo/base/ports';
import type { DeletedTopics } from '@relevo/controller/deleted-topics';
import type { ClusterImage } from '@relevo/controller/image';
import type { LogDirectory } from '@relevo/log/log-directory';
import type { Leftover } from '@relevo/log/partition-directory';

/** The directory is looked through at most so often. */
const LOOK_INTERVAL_MS = 1_000;
/** Until one that could not be removed is tried again. */
const RETRY_MS = 60_000;
/** Named in the log. */
const NAMES_MAX = 5;

export interface StrayDirectoriesDeps {
  readonly clock: Clock;
  readonly timers: Timers;
  readonly logger: Logger;
  readonly directory: LogDirectory;
  readonly image: () => ClusterImage;
  /** From when they are found to be of deleted topics. */
  readonly delayMs: number;
}

export class StrayDirectories {
  readonly #deps: StrayDirectoriesDeps;
  /** When each is due, by the directory's name. */
  readonly #due = new Map<string, number>();
  #timer: TimerHandle | undefined;
  /** When the next look is due. */
  #nextMs: number | undefined;
  #looking = false;
  #seen: DeletedTopics | undefined;
  #closed = false;

  constructor(deps: StrayDirectoriesDeps) {
    this.#deps = deps;
  }

  start(): void {
    this.#lookIn(0);
  }

  /** A delta does not name topics that were made and deleted within it; the ids do. */
  imageChanged({ deletedTopics }: ClusterImage): void {
    if (deletedTopics === this.#seen) return;
    this.#seen = deletedTopics;
    this.#lookIn(LOOK_INTERVAL_MS);
  }

  /** To be called when a directory was set aside. */
  added(): void {
    this.#lookIn(LOOK_INTERVAL_MS);
  }

  close(): void {
    this.#closed = true;
    this.#timer?.cancel();
  }

  /** Whether the metadata prove that the topic of that id is no more. */
  isOfDeletedTopic(topicId: Uuid | undefined): boolean {
    if (topicId === undefined) return false;
    const { topicsById, deletedTopics } = this.#deps.image();
    if (topicsById.has(topicId)) return false;
    return deletedTopics.has(topicId) || isMutated('absent-is-deleted');
  }

  #lookIn(delayMs: number): void {
    if (this.#closed) return;
    const { clock, timers } = this.#deps;
    const atMs = clock.monotonicMs() + delayMs;
    if (this.#nextMs !== undefined && this.#nextMs <= atMs) return;
    this.#nextMs = atMs;
    this.#timer?.cancel();
    this.#timer = timers.after(delayMs, () => {
      // A look that is under way sees to the next one.
      if (this.#looking) return;
      this.#nextMs = undefined;
      void this.#look();
    });
  }

  async #look(): Promise<void> {
    const { clock, directory, logger } = this.#deps;
    const nowMs = clock.monotonicMs();
    this.#looking = true;
    try {
      const isRemovable = (each: Leftover): boolean =>
        each.isStillborn || this.isOfDeletedTopic(each.topicId);
      const strays = directory.leftovers().filter(isRemovable);
      this.#note(strays, nowMs);
      for (const stray of strays) {
        if (this.#closed) return;
        if ((this.#due.get(stray.directory) ?? Infinity) > nowMs) continue;
        await this.#remove(stray);
      }
    } catch (error) {
      logger.error('directories of deleted topics could not be looked for', {
        why: messageOf(error),
      });
    } finally {
      this.#looking = false;
    }
    const nextMs = Math.min(this.#nextMs ?? Infinity, ...this.#due.values());
    this.#nextMs = undefined;
    if (nextMs === Infinity) return;
    this.#lookIn(Math.max(LOOK_INTERVAL_MS, nextMs - clock.monotonicMs()));
  }

  /** The delay of each runs from when it is first seen. */
  #note(strays: readonly Leftover[], nowMs: number): void {
    const { logger, delayMs, directory } = this.#deps;
    const names = new Set(strays.map((stray) => stray.directory));
    for (const name of this.#due.keys()) if (!names.has(name)) this.#due.delete(name);
    const fresh = strays.filter((stray) => !this.#due.has(stray.directory));
    for (const stray of fresh) this.#due.set(stray.directory, nowMs + delayMs);
    if (fresh.length === 0 || delayMs === 0) return;
    logger.info('directories of deleted topics, or never completed, will be removed', {
      directory: directory.root,
      count: fresh.length,
      names: fresh.slice(0, NAMES_MAX).map((stray) => stray.directory),
      inMs: delayMs,
    });
  }

  async #remove(stray: Leftover): Promise<void> {
    const { directory, logger } = this.#deps;
    const facts = { directory: `${directory.root}/${stray.directory}`, topicId: stray.topicId };
    const what = stray.isStillborn ? 'that was never completed' : 'of a deleted topic';
    try {
      // The topic's deletion was proved a moment ago, and cannot be undone.
      if (await directory.removeLeftover(stray)) {
        logger.info(`removed a directory ${what}`, facts);
      }
      this.#due.delete(stray.directory);
    } catch (error) {
      this.#due.set(stray.directory, this.#deps.clock.monotonicMs() + RETRY_MS);
      logger.error(`a directory ${what} could not be removed`, {
        ...facts,
        why: messageOf(error),
      });
    }
  }
}
