/**
 * Gives leadership back to preferred replicas: when one has been in sync, and another has led, for the
 * whole of a delay. In sync means caught up, so the hand-back costs no throughput (mistake 32), and the
 * delay keeps a broker that comes and goes from taking leadership along. At most so many move in one
 * round, and the next round waits, so that the clients of 5,000 partitions do not all turn around at once.
 *
 * It watches the deltas of the image and knows the next moment at which something is due, so nothing
 * polls. The decision itself is the command `handBack`, which elects as everything else does.
 */
import type { Uuid } from '@relevo/base/ids';
import { NO_BROKER } from '@relevo/base/ids';
import type { ClusterImage, PartitionImage } from './image.ts';
import { isEligible, preferredLeader } from './image.ts';
import { wholeOf } from './replay.ts';
import type { MetadataDelta } from './replay.ts';

export interface HandBackOptions {
  /** How long the preferred replica must have been in sync. Default: 2,000 ms. */
  readonly delayMs: number;
  /** Partitions in one round. Default: 250. */
  readonly roundSize: number;
  /** Between two rounds. Default: 100 ms. */
  readonly roundGapMs: number;
}

export const DEFAULT_HAND_BACK: HandBackOptions = {
  delayMs: 2000,
  roundSize: 250,
  roundGapMs: 100,
};

export interface Waiting {
  readonly topicId: Uuid;
  readonly partition: number;
}

interface Candidate extends Waiting {
  /** Since when the preferred replica has been fit to lead. */
  readonly sinceMs: number;
}

export class HandBackSchedule {
  readonly #options: HandBackOptions;
  /** By topic id and partition; in the order in which they became candidates, so oldest first. */
  readonly #candidates = new Map<string, Candidate>();
  #nextRoundMs = Number.NEGATIVE_INFINITY;

  constructor(options: HandBackOptions) {
    this.#options = options;
  }

  /** A new controller: looks at everything, and counts the delay from now. */
  takeOver(image: ClusterImage, nowMs: number): void {
    this.#candidates.clear();
    this.#nextRoundMs = Number.NEGATIVE_INFINITY;
    this.observe(wholeOf(image), image, nowMs);
  }

  /** Takes note of a change; `image` is as after it. */
  observe(delta: MetadataDelta, image: ClusterImage, nowMs: number): void {
    for (const { topic, partition, after } of delta.partitions) {
      this.#look(image, topic.id, partition, after, nowMs);
    }
    // A broker that registered anew stays in sync, and may lead again once it serves.
    const changed = new Set(delta.brokers.map(({ after }) => after.id));
    for (const topic of changed.size === 0 ? [] : image.topicsById.values()) {
      topic.partitions.forEach((partition, number) => {
        if (!changed.has(preferredLeader(partition))) return;
        this.#look(image, topic.id, number, partition, nowMs);
      });
    }
    for (const topic of delta.removedTopics) {
      topic.partitions.forEach((_, partition) =>
        this.#candidates.delete(`${topic.id} ${partition}`),
      );
    }
  }

  #look(
    image: ClusterImage,
    topicId: Uuid,
    partition: number,
    state: PartitionImage,
    nowMs: number,
  ): void {
    const key = `${topicId} ${partition}`;
    if (!isCandidate(image, state)) this.#candidates.delete(key);
    else if (!this.#candidates.has(key)) {
      this.#candidates.set(key, { topicId, partition, sinceMs: nowMs });
    }
  }

  /** Partitions to hand back now; they are asked for again only when a round has passed. */
  due(nowMs: number): Waiting[] {
    if (nowMs < this.#nextRoundMs) return [];
    const found: Waiting[] = [];
    for (const { topicId, partition, sinceMs } of this.#candidates.values()) {
      // The oldest come first: nobody behind this one can be due.
      if (sinceMs + this.#options.delayMs > nowMs) break;
      found.push({ topicId, partition });
      if (found.length === this.#options.roundSize) break;
    }
    if (found.length > 0) this.#nextRoundMs = nowMs + this.#options.roundGapMs;
    return found;
  }

  /** When `due` will have something; undefined: not before the next change. */
  nextDeadlineMs(): number | undefined {
    const first = this.#candidates.values().next().value;
    if (first === undefined) return undefined;
    return Math.max(first.sinceMs + this.#options.delayMs, this.#nextRoundMs);
  }
}

/** Another leads, and the preferred replica could. */
function isCandidate(image: ClusterImage, partition: PartitionImage): boolean {
  const preferred = preferredLeader(partition);
  return (
    partition.leader !== preferred &&
    partition.leader !== NO_BROKER &&
    partition.isr.includes(preferred) &&
    isEligible(image, preferred)
  );
}
