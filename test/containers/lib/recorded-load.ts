/**
 * Several producers and consumers against a cluster, every send and every read on record, and the check
 * of that record by the names that Jepsen's Kafka workload gave to anomalies.
 */
import { ClientError, Relevo } from '@relevo/client';
import type { Producer } from '@relevo/client';
import { History, type Anomaly } from '@relevo/simulation/history';
import { pause, until } from '../../lib/wait.ts';

export interface LoadOptions {
  readonly bootstrap: readonly string[];
  readonly topic: string;
  readonly partitions: number;
  readonly producers: number;
  readonly consumers: number;
  /** Records per second of each producer. */
  readonly ratePerSecond: number;
}

const VALUE_FILLER = 'x'.repeat(64);
const READER = 'reader';
const SETTLE_MS = 150_000;
const READ_MS = 60_000;
/** Sends under way of one producer: while the cluster takes none, none are added without end. */
const PENDING_MAX = 5_000;

export class RecordedLoad {
  readonly history: History = new History();
  readonly consumerErrors: string[] = [];
  readonly #options: LoadOptions;
  readonly #clients: Relevo[] = [];
  /** When each partition acknowledged something, ms. */
  readonly #ackedAtMs: number[][];
  readonly #loops: Promise<void>[] = [];
  readonly #readTo = new Map<string, number[]>();
  readonly #stopConsumers = new AbortController();
  #running = true;

  constructor(options: LoadOptions) {
    this.#options = options;
    this.#ackedAtMs = Array.from({ length: options.partitions }, () => []);
  }

  /** Resolves when every partition has acknowledged something. */
  async start(): Promise<void> {
    const { producers, consumers } = this.#options;
    for (let index = 0; index < Math.max(producers, consumers); index++) {
      const client = await Relevo.connect({ brokers: [...this.#options.bootstrap] });
      this.#clients.push(client);
      if (index < producers) this.#loops.push(this.#produce(`p${index}`, client));
      if (index < consumers) this.#loops.push(this.#consume(`c${index}`, client));
    }
    const acked = (): boolean => this.#ackedAtMs.every((times) => times.length > 0);
    await until('every partition to acknowledge', acked, { deadlineMs: 30_000 });
  }

  /** The longest that any partition went without an acknowledgement within the window, ms. */
  longestStallMs(fromMs: number, toMs: number): number {
    let longest = 0;
    for (const times of this.#ackedAtMs) {
      let last = times.findLast((time) => time <= fromMs) ?? fromMs;
      for (const time of times) {
        if (time <= fromMs || time > toMs) continue;
        longest = Math.max(longest, time - last);
        last = time;
      }
      longest = Math.max(longest, toMs - Math.max(last, fromMs));
    }
    return longest;
  }

  /** Whether every partition has acknowledged something since. */
  ackedSince(sinceMs: number): boolean {
    return this.#ackedAtMs.every((times) => (times.at(-1) ?? 0) > sinceMs);
  }

  /** Ends the load, waits for every outcome, reads the whole topic anew, and checks the record. */
  async finish(): Promise<readonly Anomaly[]> {
    const { topic } = this.#options;
    this.#running = false;
    await until('every send to settle', () => this.history.count('pending') === 0, {
      deadlineMs: SETTLE_MS,
      everyMs: 100,
      state: () => ({ pending: this.history.count('pending') }),
    });
    const client = await Relevo.connect({ brokers: [...this.#options.bootstrap] });
    this.#clients.push(client);
    const ends = await client.admin.listOffsets({ topic, at: 'latest' });
    this.#loops.push(this.#consume(READER, client));
    const followers = Array.from({ length: this.#options.consumers }, (_, index) => `c${index}`);
    for (const name of [READER, ...followers]) {
      const place = (): number[] => this.#readTo.get(name) ?? [];
      await until(
        `${name} to read to the end`,
        () => ends.every(({ partition, offset }) => (place()[partition] ?? 0) >= offset),
        { deadlineMs: READ_MS, everyMs: 50, state: () => ({ at: place(), ends }) },
      );
    }
    this.#stopConsumers.abort();
    await Promise.all(this.#loops);
    for (const each of this.#clients) await each.close();
    return this.history.check([READER], followers);
  }

  async #produce(name: string, client: Relevo): Promise<void> {
    const { topic, partitions, ratePerSecond } = this.#options;
    const producer = client.producer({ lingerMs: 1 });
    const startMs = performance.now();
    let count = 0;
    let pending = 0;
    while (this.#running) {
      const due = Math.floor(((performance.now() - startMs) / 1000) * ratePerSecond);
      for (; count < due && pending < PENDING_MAX; count++) {
        const partition = count % partitions;
        const value = `${name}:${partition}:${count}:${VALUE_FILLER}`;
        const sent = this.history.send(name, partition, value);
        pending++;
        void this.#send(producer, { topic, partition, value }, sent).then(() => pending--);
      }
      await pause(2);
    }
    await producer.close();
  }

  async #send(
    producer: Producer,
    record: { readonly topic: string; readonly partition: number; readonly value: string },
    sent: ReturnType<History['send']>,
  ): Promise<void> {
    try {
      const { offset, leaderEpoch } = await producer.send(record);
      Object.assign(sent, { outcome: 'acknowledged', offset, leaderEpoch });
      this.#ackedAtMs[record.partition]?.push(performance.now());
    } catch (error) {
      const unknown = error instanceof ClientError && error.outcomeUnknown;
      const reason = error instanceof Error ? error.message : String(error);
      Object.assign(sent, { outcome: unknown ? 'unknown' : 'failed', reason });
    }
  }

  async #consume(name: string, client: Relevo): Promise<void> {
    const place: number[] = [];
    this.#readTo.set(name, place);
    const { signal } = this.#stopConsumers;
    try {
      const { topic } = this.#options;
      for await (const record of client.consumer({ topics: [topic], from: 'earliest', signal })) {
        const { partition, offset, value } = record;
        this.history.read(name, { partition, offset, value: String(value) });
        place[partition] = offset + 1;
      }
    } catch (error) {
      if (signal.aborted) return;
      this.consumerErrors.push(
        `${name}: ${error instanceof Error ? error.message : String(error)}`,
      );
    }
  }
}
