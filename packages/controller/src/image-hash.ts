/**
 * A fingerprint of an image: equal for equal images whatever way they came about, 53 bits wide. It stands
 * guard over K4 (same index, same image, on every node). Topics and brokers, immutable themselves, are
 * hashed once each; the sums over them do not depend on the order.
 */
import type { DeletedTopics } from './deleted-topics.ts';
import type { BrokerImage, ClusterImage, TopicImage } from './image.ts';

/** 16 hexadecimal digits; of everything in the image, its index and term included. */
export function imageHash(image: ClusterImage): string {
  const hash = new Hash();
  hash.number(image.index);
  hash.number(image.term);
  hash.text(image.clusterId ?? '');
  hash.number(image.nextBrokerEpoch);
  hash.number(image.nextProducerId);
  hash.number(image.brokers.size);
  hash.number(sum(image.brokers.values(), brokerHash));
  hash.number(image.topicsById.size);
  hash.number(sum(image.topicsById.values(), topicHash));
  hash.number(deletedHash(image.deletedTopics));
  return hash.value().toString(16).padStart(16, '0');
}

/** Sums are kept below 2^53 by halving the range of what is summed. */
function sum<Item>(items: Iterable<Item>, hashOf: (item: Item) => number): number {
  let total = 0;
  for (const item of items) total = (total + hashOf(item)) % 2 ** 52;
  return total;
}

const hashes = new WeakMap<object, number>();

function once<Item extends object>(item: Item, compute: (hash: Hash) => void): number {
  const known = hashes.get(item);
  if (known !== undefined) return known;
  const hash = new Hash();
  compute(hash);
  const value = hash.value() % 2 ** 52;
  hashes.set(item, value);
  return value;
}

const brokerHash = (broker: BrokerImage): number =>
  once(broker, (hash) => {
    hash.number(broker.id);
    hash.number(broker.epoch);
    hash.text(broker.incarnationId);
    hash.text(broker.directoryId);
    hash.text(broker.clientAddress);
    hash.text(broker.peerAddress);
    hash.text(broker.rack);
    hash.number(broker.listeners.length);
    for (const { listener, address } of broker.listeners) {
      hash.text(listener);
      hash.text(address);
    }
    hash.number((broker.fenced ? 1 : 0) + (broker.shuttingDown ? 2 : 0));
  });

const deletedHash = (deleted: DeletedTopics): number =>
  once(deleted, (hash) => {
    hash.number(deleted.size);
    for (const id of deleted) hash.text(id);
  });

const topicHash = (topic: TopicImage): number =>
  once(topic, (hash) => {
    hash.text(topic.id);
    hash.text(topic.name);
    hash.number(topic.config.size);
    for (const [name, value] of [...topic.config].sort(([a], [b]) => (a < b ? -1 : 1))) {
      hash.text(name);
      hash.text(value);
    }
    hash.number(topic.partitions.length);
    for (const partition of topic.partitions) {
      hash.number(partition.replicas.length);
      for (const replica of partition.replicas) hash.number(replica);
      hash.number(partition.isr.length);
      for (const member of partition.isr) hash.number(member);
      hash.number(partition.elr.length);
      for (const member of partition.elr) hash.number(member);
      hash.number(partition.offline.length);
      for (const member of partition.offline) hash.number(member);
      hash.number(partition.leader);
      hash.number(partition.leaderEpoch);
      hash.number(partition.partitionEpoch);
      hash.number(partition.uncleanEpoch);
    }
  });

/** Two 32-bit lanes of multiply and xor-shift, joined at the end (the scheme of cyrb53). */
class Hash {
  #a = 0xdeadbeef | 0;
  #b = 0x41c6ce57 | 0;

  #word(word: number): void {
    this.#a = Math.imul(this.#a ^ word, 2654435761);
    this.#b = Math.imul(this.#b ^ word, 1597334677);
    this.#a ^= this.#a >>> 15;
    this.#b ^= this.#b >>> 13;
  }

  number(value: number): void {
    this.#word(value | 0);
    this.#word(Math.floor(value / 2 ** 32));
  }

  text(text: string): void {
    this.#word(text.length);
    for (let i = 0; i < text.length; i++) this.#word(text.charCodeAt(i));
  }

  value(): number {
    let a = this.#a;
    let b = this.#b;
    a = Math.imul(a ^ (a >>> 16), 2246822507) ^ Math.imul(b ^ (b >>> 13), 3266489909);
    b = Math.imul(b ^ (b >>> 16), 2246822507) ^ Math.imul(a ^ (a >>> 13), 3266489909);
    return 2 ** 32 * (b & 0x1f_ffff) + (a >>> 0);
  }
}
