/**
 * A recorded workload: one producer at a steady rate over all partitions of a topic, one consumer that
 * follows it, and the check that nothing acknowledged was lost, doubled or put out of order.
 */
import type { Relevo } from '@relevo/client';
import { nowMs, type TestCluster } from './cluster.ts';
import { pause, until } from './wait.ts';

export interface Ack {
  readonly partition: number;
  readonly sequence: number;
  readonly offset: number;
  readonly leaderEpoch: number;
  readonly atMs: number;
}

export interface WorkloadOptions {
  readonly topic: string;
  readonly partitions: number;
  /** Records per second over all partitions. */
  readonly ratePerSecond: number;
  /** Default 100. */
  readonly valueBytes?: number;
}

export interface Verdict {
  readonly acked: number;
  readonly failed: number;
  readonly consumed: number;
  /** Acknowledged, but not in the log. */
  readonly lost: number;
  /** In the log more than once. */
  readonly duplicated: number;
  /** Pairs of records in one partition whose order differs from the order of their sends. */
  readonly reordered: number;
  /** In the log at another offset than the receipt said. */
  readonly misplaced: number;
  /** What the running consumer saw twice, out of order or not at all. */
  readonly consumerAnomalies: number;
}

export class Workload {
  readonly acks: Ack[] = [];
  readonly errors: { atMs: number; message: string }[] = [];
  /** Arrivals at the running consumer: [atMs, partition, sequence]. */
  readonly arrivals: { atMs: number; partition: number; sequence: number }[] = [];
  readonly consumerErrors: string[] = [];
  readonly #relevo: Relevo;
  readonly #options: WorkloadOptions;
  readonly #next: number[];
  #running = true;
  #pending = 0;
  #producing: Promise<void> = Promise.resolve();
  #consuming: Promise<void> = Promise.resolve();
  readonly #stopConsumer = new AbortController();

  constructor(relevo: Relevo, options: WorkloadOptions) {
    this.#relevo = relevo;
    this.#options = options;
    this.#next = Array.from({ length: options.partitions }, () => 0);
  }

  start(): void {
    this.#producing = this.#produce();
    this.#consuming = this.#consume();
  }

  async #produce(): Promise<void> {
    const { topic, partitions, ratePerSecond } = this.#options;
    const filler = 'x'.repeat(Math.max(0, (this.#options.valueBytes ?? 100) - 24));
    const producer = this.#relevo.producer({ lingerMs: 1 });
    const startMs = nowMs();
    let sent = 0;
    while (this.#running) {
      const due = Math.floor(((nowMs() - startMs) / 1000) * ratePerSecond);
      for (; sent < due; sent++) {
        // A bounded backlog: while the cluster cannot take records, none are added without end.
        if (this.#pending > ratePerSecond * 30) break;
        const partition = sent % partitions;
        const sequence = this.#next[partition] ?? 0;
        this.#next[partition] = sequence + 1;
        this.#pending++;
        producer.send({ topic, partition, value: `${partition}:${sequence}:${filler}` }).then(
          (receipt) => {
            this.#pending--;
            const { offset, leaderEpoch } = receipt;
            this.acks.push({ partition, sequence, offset, leaderEpoch, atMs: nowMs() });
          },
          (error: Error) => {
            this.#pending--;
            this.errors.push({ atMs: nowMs(), message: error.message });
          },
        );
      }
      await pause(1);
    }
    await producer.close();
  }

  async #consume(): Promise<void> {
    try {
      const consumer = this.#relevo.consumer({
        topics: [this.#options.topic],
        from: 'earliest',
        signal: this.#stopConsumer.signal,
      });
      for await (const record of consumer) {
        const [partition, sequence] = String(record.value).split(':');
        this.arrivals.push({
          atMs: nowMs(),
          partition: Number(partition),
          sequence: Number(sequence),
        });
      }
    } catch (error) {
      if (!this.#stopConsumer.signal.aborted) {
        this.consumerErrors.push(error instanceof Error ? error.message : String(error));
      }
    }
  }

  /** Stops sending, waits for every answer, and lets the consumer see the end. */
  async stop(): Promise<void> {
    this.#running = false;
    await this.#producing;
    await until('every send to settle', () => this.#pending === 0, { deadlineMs: 150_000 });
    await until('the consumer to arrive at the end', () => this.#consumerAtEnd(), {
      deadlineMs: 30_000,
      state: () => ({ acked: this.acks.length, arrived: this.arrivals.length }),
    }).catch(() => undefined);
    this.#stopConsumer.abort();
    await this.#consuming;
  }

  #consumerAtEnd(): boolean {
    const last = new Map<number, number>();
    for (const { partition, sequence } of this.arrivals) last.set(partition, sequence);
    const acked = new Map<number, number>();
    for (const { partition, sequence } of this.acks) {
      acked.set(partition, Math.max(sequence, acked.get(partition) ?? -1));
    }
    return [...acked].every(([partition, sequence]) => (last.get(partition) ?? -1) >= sequence);
  }

  /**
   * Per partition whose epoch has changed after `sinceMs`: the longest that its acknowledgements paused from
   * then to the first under the new epoch. A new leader may answer repeated batches first, and tells the
   * epoch that those were written under: what lies between the two epochs is not all of the pause.
   */
  failovers(sinceMs: number): Map<number, number> {
    const found = new Map<number, number>();
    const longest = new Map<number, number>();
    const before = new Map<number, Ack>();
    for (const ack of this.acks) {
      const { partition, atMs, leaderEpoch } = ack;
      const last = before.get(partition);
      before.set(partition, ack);
      if (last === undefined || atMs <= sinceMs || found.has(partition)) continue;
      const pauseMs = Math.max(longest.get(partition) ?? 0, atMs - last.atMs);
      longest.set(partition, pauseMs);
      if (leaderEpoch > last.leaderEpoch) found.set(partition, pauseMs);
    }
    return found;
  }

  /** The longest pause between two acknowledgements of one partition within the window, ms. */
  longestProducerStall(fromMs: number, toMs: number): number {
    return longestGap(this.acks, this.#options.partitions, fromMs, toMs);
  }

  longestConsumerStall(fromMs: number, toMs: number): number {
    return longestGap(this.arrivals, this.#options.partitions, fromMs, toMs);
  }

  /** Reads the whole topic with a fresh consumer and compares it with the receipts. */
  async verify(relevo: Relevo): Promise<Verdict> {
    const { topic, partitions } = this.#options;
    const ends = await relevo.admin.listOffsets({ topic, at: 'latest' });
    const total = ends.reduce((sum, { offset }) => sum + offset, 0);
    const log = new Map<string, number[]>();
    const order: number[][] = Array.from({ length: partitions }, () => []);
    const consumer = relevo.consumer({ topics: [topic], from: 'earliest' });
    let consumed = 0;
    if (total > 0) {
      for await (const record of consumer) {
        const [partition, sequence] = String(record.value).split(':');
        const key = `${partition}:${sequence}`;
        log.set(key, [...(log.get(key) ?? []), record.offset]);
        order[record.partition]?.push(Number(sequence));
        if (++consumed === total) break;
      }
    }
    let lost = 0;
    let misplaced = 0;
    for (const ack of this.acks) {
      const offsets = log.get(`${ack.partition}:${ack.sequence}`);
      if (offsets === undefined) lost++;
      else if (!offsets.includes(ack.offset)) misplaced++;
    }
    return {
      acked: this.acks.length,
      failed: this.errors.length,
      consumed,
      lost,
      misplaced,
      duplicated: [...log.values()].filter((offsets) => offsets.length > 1).length,
      reordered: order.reduce((sum, sequences) => sum + inversions(sequences), 0),
      consumerAnomalies: this.#consumerAnomalies(),
    };
  }

  #consumerAnomalies(): number {
    const next = new Map<number, number>();
    const failed = this.errors.length > 0;
    let anomalies = 0;
    for (const { partition, sequence } of this.arrivals) {
      const expected = next.get(partition) ?? 0;
      // Where a send failed a gap is no fault of the consumer's; going back always is one.
      if (sequence < expected || (sequence > expected && !failed)) anomalies++;
      next.set(partition, sequence + 1);
    }
    return anomalies;
  }
}

function inversions(sequences: readonly number[]): number {
  let count = 0;
  for (let i = 1; i < sequences.length; i++) {
    if ((sequences[i] ?? 0) < (sequences[i - 1] ?? 0)) count++;
  }
  return count;
}

function longestGap(
  events: readonly { atMs: number; partition: number }[],
  partitions: number,
  fromMs: number,
  toMs: number,
): number {
  const last = Array.from({ length: partitions }, () => fromMs);
  let longest = 0;
  for (const { atMs, partition } of events) {
    if (atMs < fromMs) continue;
    if (atMs > toMs) break;
    longest = Math.max(longest, atMs - (last[partition] ?? fromMs));
    last[partition] = atMs;
  }
  return Math.max(longest, ...last.map((atMs) => toMs - atMs));
}

export interface LeaderTable {
  /** Leader by partition; -1: none. */
  readonly leaders: readonly number[];
  readonly preferred: readonly number[];
  readonly underReplicated: number;
}

export async function leaderTable(relevo: Relevo, topic: string): Promise<LeaderTable> {
  const description = await relevo.admin.describeTopic(topic);
  const { partitions } = description;
  return {
    leaders: partitions.map(({ leader }) => leader ?? -1),
    preferred: partitions.map(({ replicas }) => replicas[0] ?? -1),
    underReplicated: partitions.filter(({ isr, replicas }) => isr.length < replicas.length).length,
  };
}

/**
 * Waits until, as the active controller sees it, every broker serves and every partition of the cluster is
 * fully replicated and led by its preferred replica.
 */
export async function untilHandedBack(relevo: Relevo, deadlineMs: number): Promise<void> {
  let seen: Awaited<ReturnType<typeof relevo.admin.describeCluster>> | undefined;
  await until(
    'every partition in sync and led by its preferred replica',
    async () => {
      seen = await relevo.admin.describeCluster();
      const { brokers, underReplicated, offline, notPreferred } = seen;
      return (
        underReplicated + offline + notPreferred === 0 && brokers.every(({ fenced }) => !fenced)
      );
    },
    { deadlineMs, state: () => seen, everyMs: 50 },
  );
}

/** How far the numbers of partitions led differ between brokers. */
export function leaderSpread(cluster: TestCluster, table: LeaderTable): number {
  const counts = cluster.brokers.map(
    ({ id }) => table.leaders.filter((leader) => leader === id).length,
  );
  return Math.max(...counts) - Math.min(...counts);
}
