import type { Partition } from './partition.ts';

/** The replicas on this broker, by topic id and number: looked up for every message. */
export class PartitionTable {
  readonly #byTopic = new Map<string, (Partition | undefined)[]>();
  readonly #all = new Set<Partition>();

  get size(): number {
    return this.#all.size;
  }

  /** In the order in which they came. */
  values(): Iterable<Partition> {
    return this.#all;
  }

  find(topicId: string, partition: number): Partition | undefined {
    return this.#byTopic.get(topicId)?.[partition];
  }

  add(partition: Partition): void {
    let ofTopic = this.#byTopic.get(partition.topicId);
    if (ofTopic === undefined) this.#byTopic.set(partition.topicId, (ofTopic = []));
    ofTopic[partition.number] = partition;
    this.#all.add(partition);
  }

  remove(partition: Partition): void {
    const ofTopic = this.#byTopic.get(partition.topicId);
    if (ofTopic?.[partition.number] !== partition) return;
    ofTopic[partition.number] = undefined;
    this.#all.delete(partition);
    if (ofTopic.every((other) => other === undefined)) this.#byTopic.delete(partition.topicId);
  }
}
