/**
 * From the send of a record to its arrival at a consumer of the same process, at a steady rate. The
 * record's number is its first eight bytes; when it was sent is kept here, so that no clock has to
 * agree with another.
 */
import { setTimeout as delay } from 'node:timers/promises';
import type { Relevo } from '@relevo/client';
import type { CommandContext } from '../context.ts';
import { CommandError, asError } from '../exit-codes.ts';
import { Latencies, type LatencySummary } from './latencies.ts';
import { Pace } from './pace.ts';
import { Meter, figuresOf, live, type EndToEndFigures } from './report.ts';

export interface EndToEndLoad {
  readonly topic: string;
  readonly ratePerS: number;
  /** Counted records are sent for so long, after the warm-up. */
  readonly durationMs: number;
  readonly warmUpMs: number;
  readonly recordBytes: number;
  readonly lingerMs: number;
}

export const NUMBER_BYTES = 8;
/** After the last send: a record that has not come by then is lost or late beyond use. */
const LAST_ARRIVAL_MS = 10_000;

export async function benchEndToEnd(
  context: CommandContext,
  relevo: Relevo,
  load: EndToEndLoad,
): Promise<EndToEndFigures> {
  const run = new Run(relevo, load);
  const display = live(context, run.meter);
  try {
    await run.listen();
    await run.send(context.signal);
    await run.lastArrivals();
  } finally {
    display.stop();
    await run.close();
  }
  return run.figures();
}

class Run {
  readonly meter = new Meter();
  readonly #relevo: Relevo;
  readonly #load: EndToEndLoad;
  readonly #arrivals = new Latencies();
  readonly #acks = new Latencies();
  readonly #sentMs: number[] = [];
  readonly #consumer;
  readonly #producer;
  readonly #warmUpRecords: number;
  #seen = 0;
  #consuming: Promise<void> = Promise.resolve();
  #failure: Error | undefined;

  constructor(relevo: Relevo, load: EndToEndLoad) {
    this.#relevo = relevo;
    this.#load = load;
    this.#warmUpRecords = Math.round((load.ratePerS * load.warmUpMs) / 1000);
    this.#consumer = this.#relevo.consumer({ topics: [load.topic], from: 'latest' });
    this.#producer = this.#relevo.producer({ lingerMs: load.lingerMs });
  }

  /** Resolves when the consumer knows where it begins, so that it misses nothing. */
  async listen(): Promise<void> {
    await this.#consumer.start();
    for (const partition of this.#consumer.assignment()) {
      await until(() => this.#consumer.position(partition) !== undefined);
    }
    this.#consuming = this.#consume().catch((thrown: unknown) => {
      this.#failure ??= asError(thrown);
    });
  }

  async #consume(): Promise<void> {
    for await (const { value } of this.#consumer) {
      const nowMs = performance.now();
      this.#seen++;
      if (value === null || value.length < NUMBER_BYTES) continue;
      const number = Number(value.readBigUInt64BE());
      const sentMs = this.#sentMs[number];
      if (sentMs === undefined || number < this.#warmUpRecords) continue;
      this.#arrivals.add(nowMs - sentMs);
      this.meter.add(value.length);
    }
  }

  async send(signal: AbortSignal): Promise<void> {
    const { topic, ratePerS, recordBytes, durationMs } = this.#load;
    const records = this.#warmUpRecords + Math.round((ratePerS * durationMs) / 1000);
    const pace = new Pace(ratePerS, performance.now());
    while (this.#sentMs.length < records && !signal.aborted && this.#failure === undefined) {
      const sentMs = pace.take(performance.now());
      if (sentMs === undefined) {
        await delay(pace.waitMs(performance.now()));
        continue;
      }
      const number = this.#sentMs.length;
      if (number === this.#warmUpRecords) this.meter.restart();
      const value = Buffer.alloc(recordBytes);
      value.writeBigUInt64BE(BigInt(number));
      this.#sentMs.push(sentMs);
      this.#producer.send({ topic, value }).then(
        () => {
          if (number >= this.#warmUpRecords) this.#acks.add(performance.now() - sentMs);
        },
        (thrown: unknown) => {
          this.#failure ??= asError(thrown);
          this.meter.failed++;
        },
      );
    }
    await this.#producer.flush();
  }

  async lastArrivals(): Promise<void> {
    const giveUpMs = performance.now() + LAST_ARRIVAL_MS;
    await until(() => this.#seen >= this.#sentMs.length || performance.now() > giveUpMs);
    this.meter.stop();
    if (this.#failure !== undefined) throw this.#failure;
    const missing = this.#sentMs.length - this.#seen;
    if (missing > 0) {
      throw new CommandError(
        `${missing} of ${this.#sentMs.length} records had not arrived ${LAST_ARRIVAL_MS / 1000} s after ` +
          'the last send; look at the cluster with: relevo cluster status',
      );
    }
  }

  async close(): Promise<void> {
    await this.#producer.close();
    await this.#consumer.close();
    await this.#consuming;
  }

  figures(): EndToEndFigures {
    const acks: LatencySummary = this.#acks.summary();
    return {
      ...figuresOf('end-to-end', this.#load.topic, this.meter, this.#arrivals),
      ackP50Ms: acks.p50Ms,
      ackP99Ms: acks.p99Ms,
      ackP999Ms: acks.p999Ms,
      ackMaxMs: acks.maxMs,
    };
  }
}

async function until(condition: () => boolean): Promise<void> {
  while (!condition()) await delay(5);
}
