/** Which partition a record goes to, as Kafka's clients choose. */
import { utf8Encode } from '@relevo/base/bytes';
import type { Random } from '@relevo/base/ports';
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

/**
 * Keyless records stay with one partition until its batch is sealed, then go on to another by chance,
 * preferably one with a leader: few full batches instead of many small ones (KIP-480).
 */
export class StickyPartition {
  readonly #random: Random;
  #current = -1;

  constructor(random: Random) {
    this.#random = random;
  }

  get(topic: TopicView): number {
    if (this.#current < 0 || this.#current >= topic.partitionCount) this.#choose(topic);
    return this.#current;
  }

  /** The partition's batch was sealed. */
  leave(partition: number): void {
    if (partition === this.#current) this.#current = -1;
  }

  #choose(topic: TopicView): void {
    for (let probe = 0; probe < PROBES; probe++) {
      this.#current = Math.floor(this.#random.float() * topic.partitionCount);
      if ((topic.partitions[this.#current]?.leader ?? -1) >= 0) return;
    }
  }
}
