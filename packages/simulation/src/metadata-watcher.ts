/**
 * Follows what every broker publishes about partitions, and holds the answers against each other: at
 * most one leader per leader epoch (K1 for partitions), one state per partition epoch (K4), epochs that
 * never fall (K6), a leader in the in-sync set, an in-sync set within the replicas.
 */
import { assert } from '@relevo/base/assert';
import type { MessageStream, Ports } from '@relevo/base/ports';
import { MetadataService, watchMetadataRequest } from '@relevo/rpc/gen/client/metadata';
import type { MetadataUpdate, PartitionMetadata } from '@relevo/rpc/gen/client/metadata';

/** How long after the end of a stream it is opened again. */
const RETRY_MS = 20;

export interface PartitionState extends PartitionMetadata {
  readonly topic: string;
  readonly topicId: string;
}

export class MetadataWatcher {
  readonly #ports: Ports;
  /** By partition and leader epoch: who leads. */
  readonly #leaders: Map<string, number> = new Map();
  /** By partition and partition epoch: leader, leader epoch and in-sync set. */
  readonly #states: Map<string, string> = new Map();
  /** By partition: the newest state that any broker has told. */
  readonly #latest: Map<string, PartitionState> = new Map();
  readonly #onAnomaly: (text: string) => void;
  controllerId = -1;
  /** States told so far, and leaders seen. */
  updates = 0;
  readonly #streams: Set<MessageStream<never>> = new Set();
  #stopped = false;

  constructor(ports: Ports, onAnomaly: (text: string) => void) {
    this.#ports = ports;
    this.#onAnomaly = onAnomaly;
  }

  /** Follows the broker at `address`, through its restarts, until `stop`. */
  follow(address: string): void {
    const channel = this.#ports.transport.dial(address);
    const open = (): void => {
      if (this.#stopped) return;
      const seen = new Map<string, PartitionMetadata>();
      const stream = channel.subscribe(MetadataService.watchMetadata, watchMetadataRequest(), {
        onMessage: (update) => this.#onUpdate(address, update, seen),
        onEnd: () => {
          this.#streams.delete(stream);
          this.#ports.timers.after(RETRY_MS, open);
        },
      });
      this.#streams.add(stream);
    };
    open();
  }

  stop(): void {
    this.#stopped = true;
  }

  /** The newest known state of every partition of `topic`, by number. */
  partitions(topic: string): PartitionState[] {
    const found = [...this.#latest.values()].filter((state) => state.topic === topic);
    return found.sort((a, b) => a.partition - b.partition);
  }

  /** The partitions of one topic, by id: an earlier topic of the same name does not count. */
  partitionsOf(topicId: string): PartitionState[] {
    const found = [...this.#latest.values()].filter((state) => state.topicId === topicId);
    return found.sort((a, b) => a.partition - b.partition);
  }

  /** Leader elections seen so far, over all partitions. */
  get elections(): number {
    return this.#leaders.size;
  }

  #onUpdate(source: string, update: MetadataUpdate, seen: Map<string, PartitionMetadata>): void {
    this.updates++;
    if (update.controllerId >= 0) this.controllerId = update.controllerId;
    for (const topic of update.topics) {
      for (const state of topic.partitions) {
        const key = `${topic.topicId}/${state.partition}`;
        this.#checkAlone(source, `${topic.name}-${state.partition}`, state);
        this.#checkAgainstOthers(source, `${topic.name}-${state.partition}`, key, state);
        const before = seen.get(key);
        if (before !== undefined && isOlder(state, before)) {
          this.#onAnomaly(`${source} went back: ${show(before)}, then ${show(state)}`);
        }
        seen.set(key, state);
        const latest = this.#latest.get(key);
        if (latest === undefined || isOlder(latest, state)) {
          this.#latest.set(key, { ...state, topic: topic.name, topicId: topic.topicId });
        }
      }
    }
  }

  #checkAlone(source: string, name: string, state: PartitionMetadata): void {
    const { leader, isr, replicas } = state;
    if (!isr.every((member) => replicas.includes(member))) {
      this.#onAnomaly(`${source}: ${name} has in sync what is no replica: ${show(state)}`);
    }
    if (leader >= 0 && !isr.includes(leader)) {
      this.#onAnomaly(`${source}: ${name} is led by a replica that is not in sync: ${show(state)}`);
    }
  }

  #checkAgainstOthers(source: string, name: string, key: string, state: PartitionMetadata): void {
    const { leader, leaderEpoch, partitionEpoch } = state;
    if (leader >= 0) {
      const leaderKey = `${key}/${leaderEpoch}`;
      const known = this.#leaders.get(leaderKey);
      if (known === undefined) this.#leaders.set(leaderKey, leader);
      else if (known !== leader) {
        this.#onAnomaly(
          `${source}: ${name} has leaders ${known} and ${leader} in epoch ${leaderEpoch}`,
        );
      }
    }
    const stateKey = `${key}/${partitionEpoch}`;
    const shown = show(state);
    const known = this.#states.get(stateKey);
    if (known === undefined) this.#states.set(stateKey, shown);
    else if (known !== shown) {
      this.#onAnomaly(`${source}: ${name} is ${shown}, and elsewhere ${known}`);
    }
  }
}

const isOlder = (a: PartitionMetadata, b: PartitionMetadata): boolean =>
  a.partitionEpoch < b.partitionEpoch || a.leaderEpoch < b.leaderEpoch;

/** `leader 1 epoch 4/7 isr 0,1 of 0,1,2`. */
export function show(state: PartitionMetadata): string {
  const { leader, leaderEpoch, partitionEpoch, isr, replicas } = state;
  assert(Array.isArray(isr), 'a partition has an in-sync set');
  const sorted = [...isr].sort((a, b) => a - b);
  const epochs = `${leaderEpoch}/${partitionEpoch}`;
  return `leader ${leader} epoch ${epochs} isr ${sorted.join(',')} of ${replicas.join(',')}`;
}
