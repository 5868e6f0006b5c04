/** Which partition a record goes to, as Kafka's clients choose. */
import { utf8Encode } from '@relevo/base/bytes';
import type { Clock, Random } from '@relevo/base/ports';
import { murmur2, murmur2OfAscii, partitionForHash } from '@relevo/record/murmur2';
import type { TopicView } from '../cluster-view.ts';

/** How many partitions are tried for one with a leader. */
const PROBES = 8;

/** Murmur2 of the key's bytes. */
export function keyedPartition(key: Uint8Array | string, partitionCount: number): number {
  const hash =
    typeof key === 'string' ? (murmur2OfAscii(key) ?? murmur2(utf8Encode(key))) : murmur2(key);
  return partitionForHash(hash, partitionCount);
}

/** A partition is left for another after so long, however little went to it. */
export const STICKY_MAX_MS = 100;

/**
 * Keyless records stay with one partition until a batch's worth has gone to it, be it in many small
 * batches, then go on to another by chance, preferably one with a leader (KIP-480, KIP-794): few full
 * batches instead of many small ones, and a slow broker does not get more than the others. Where little
 * is sent, time ends the stay, so that consumers who share the partitions share the records too.
 */
export class StickyPartition {
  readonly #random: Random;
  readonly #clock: Clock;
  readonly #batchBytes: number;
  #current = -1;
  #sinceMs = 0;
  #bytes = 0;

  constructor(ports: { readonly random: Random; readonly clock: Clock }, batchBytes: number) {
    this.#random = ports.random;
    this.#clock = ports.clock;
    this.#batchBytes = batchBytes;
  }

  get(topic: TopicView): number {
    const leader = topic.partitions[this.#current]?.leader;
    if (leader === undefined || leader < 0) this.#choose(topic);
    return this.#current;
  }

  /** A batch of the partition takes no more records. */
  sealed(partition: number, batchBytes: number): void {
    if (partition !== this.#current) return;
    this.#bytes += batchBytes;
    const stayedMs = this.#clock.monotonicMs() - this.#sinceMs;
    if (this.#bytes >= this.#batchBytes || stayedMs >= STICKY_MAX_MS) this.#current = -1;
  }

  #choose(topic: TopicView): void {
    this.#bytes = 0;
    this.#sinceMs = this.#clock.monotonicMs();
    for (let probe = 0; probe < PROBES; probe++) {
      this.#current = Math.floor(this.#random.float() * topic.partitionCount);
      if ((topic.partitions[this.#current]?.leader ?? -1) >= 0) return;
    }
  }
}
