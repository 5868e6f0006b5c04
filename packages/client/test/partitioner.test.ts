import { describe, expect, test } from 'vitest';
import type { BrokerId, LeaderEpoch, PartitionEpoch } from '@relevo/base/ids';
import type { Clock, Random } from '@relevo/base/ports';
import type { TopicView } from '@relevo/client/cluster-view';
import { STICKY_MAX_MS, StickyPartition } from '@relevo/client/producer/partitioner';

const BATCH_BYTES = 1_000;

/** Partition numbers are drawn one after the other. */
class Draws implements Random {
  #next = 0;
  readonly #count: number;

  constructor(count: number) {
    this.#count = count;
  }

  float(): number {
    return (this.#next++ % this.#count) / this.#count;
  }

  bytes(): Uint8Array {
    throw new Error('not drawn here');
  }
}

function topic(leaders: readonly number[]): TopicView {
  const partitions = leaders.map((leader, partition) => ({
    topicId: 't',
    partition,
    leader: leader as BrokerId,
    leaderEpoch: 0 as LeaderEpoch,
    partitionEpoch: 0 as PartitionEpoch,
    isr: [],
    replicas: [],
    elr: [],
    offline: [],
  }));
  return { name: 'orders', topicId: 't', partitionCount: leaders.length, partitions };
}

function sticky(partitions: number): {
  readonly choice: StickyPartition;
  readonly pass: (ms: number) => void;
} {
  let nowMs = 0;
  const clock: Clock = { monotonicMs: () => nowMs, wallMs: () => nowMs };
  const choice = new StickyPartition({ random: new Draws(partitions), clock }, BATCH_BYTES);
  return { choice, pass: (ms) => (nowMs += ms) };
}

describe('records without a key', () => {
  test('stay until a batch has been filled, in however many pieces', () => {
    const { choice } = sticky(3);
    const view = topic([1, 2, 3]);
    expect(choice.get(view)).toBe(0);
    choice.sealed(0, 400);
    choice.sealed(0, 400);
    expect(choice.get(view)).toBe(0);
    choice.sealed(0, 200);
    expect(choice.get(view)).toBe(1);
    choice.sealed(1, 999);
    expect(choice.get(view)).toBe(1);
  });

  test('do not leave because a batch of another partition was sealed', () => {
    const { choice } = sticky(3);
    const view = topic([1, 2, 3]);
    expect(choice.get(view)).toBe(0);
    choice.sealed(2, 5_000);
    expect(choice.get(view)).toBe(0);
  });

  test('leave after a while, however few they are', () => {
    const { choice, pass } = sticky(3);
    const view = topic([1, 2, 3]);
    expect(choice.get(view)).toBe(0);
    pass(STICKY_MAX_MS - 1);
    choice.sealed(0, 10);
    expect(choice.get(view)).toBe(0);
    pass(1);
    choice.sealed(0, 10);
    expect(choice.get(view)).toBe(1);
  });

  test('leave a partition that has lost its leader, and avoid others without one', () => {
    const { choice } = sticky(4);
    expect(choice.get(topic([1, 2, 3, 1]))).toBe(0);
    expect(choice.get(topic([-1, -1, 3, 1]))).toBe(2);
    expect(choice.get(topic([1, 2, 3, 1]))).toBe(2);
  });

  test('go somewhere even where no partition has a leader', () => {
    const { choice } = sticky(2);
    expect([0, 1]).toContain(choice.get(topic([-1, -1])));
  });
});
