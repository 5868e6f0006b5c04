/** What a benchmark prints: a line that moves while it runs, a table or one flat object at the end. */
import type { CommandContext } from '../context.ts';
import { table } from '../output.ts';
import { bytesText, count, durationText } from '../units.ts';
import type { Latencies, LatencySummary } from './latencies.ts';

const LIVE_EVERY_MS = 1000;

/** What was done, and in what time. */
export class Meter {
  records = 0;
  bytes = 0;
  failed = 0;
  #startMs = performance.now();
  #endMs: number | undefined;

  add(bytes: number): void {
    this.records++;
    this.bytes += bytes;
  }

  /** Counts the time from now: the warm-up is over. */
  restart(): void {
    this.#startMs = performance.now();
  }

  /** The final count, where what was added on the way missed some. */
  settle(records: number, bytes: number): void {
    this.records = records;
    this.bytes = bytes;
  }

  stop(): void {
    this.#endMs ??= performance.now();
  }

  get elapsedMs(): number {
    return (this.#endMs ?? performance.now()) - this.#startMs;
  }
}

/** Units are in the names; MB are 10^6 bytes of keys and values. */
export interface Figures extends Partial<LatencySummary> {
  readonly benchmark: string;
  readonly topic: string;
  readonly records: number;
  readonly failed: number;
  readonly bytes: number;
  readonly elapsedMs: number;
  readonly recordsPerS: number;
  readonly mbPerS: number;
}

export interface EndToEndFigures extends Figures {
  readonly ackP50Ms: number;
  readonly ackP99Ms: number;
  readonly ackP999Ms: number;
  readonly ackMaxMs: number;
}

export function figuresOf(
  benchmark: string,
  topic: string,
  meter: Meter,
  latencies: Latencies | undefined,
): Figures {
  const seconds = Math.max(meter.elapsedMs, 1e-3) / 1000;
  return {
    benchmark,
    topic,
    records: meter.records,
    failed: meter.failed,
    bytes: meter.bytes,
    elapsedMs: meter.elapsedMs,
    recordsPerS: meter.records / seconds,
    mbPerS: meter.bytes / 1e6 / seconds,
    ...latencies?.summary(),
  };
}

export const printFigures = (context: CommandContext, figures: Figures): void =>
  context.out.result(figures, () => figuresTable(figures));

/** Latencies of arrivals and acknowledgements one above the other. */
export function printEndToEnd(context: CommandContext, figures: EndToEndFigures): void {
  const ms = (value = 0): string => value.toFixed(2);
  const { p50Ms, p99Ms, p999Ms, maxMs, ackP50Ms, ackP99Ms, ackP999Ms, ackMaxMs } = figures;
  context.out.result(figures, () =>
    [
      `${count(figures.records)} records at ${count(figures.recordsPerS)} records/s`,
      table(
        ['', 'p50 ms', 'p99 ms', 'p99.9 ms', 'max ms'],
        [
          ['send to arrival', ms(p50Ms), ms(p99Ms), ms(p999Ms), ms(maxMs)],
          ['send to acknowledgement', ms(ackP50Ms), ms(ackP99Ms), ms(ackP999Ms), ms(ackMaxMs)],
        ],
      ),
    ].join('\n'),
  );
}

function figuresTable(figures: Figures): string {
  const head = ['records', 'amount', 'time', 'records/s', 'MB/s'];
  const row = [
    count(figures.records),
    bytesText(figures.bytes),
    durationText(figures.elapsedMs),
    count(figures.recordsPerS),
    figures.mbPerS.toFixed(1),
  ];
  const { p50Ms, p99Ms, p999Ms, maxMs } = figures;
  if (p50Ms !== undefined) {
    head.push('p50 ms', 'p99 ms', 'p99.9 ms', 'max ms');
    row.push(...[p50Ms, p99Ms, p999Ms ?? 0, maxMs ?? 0].map((value) => (value ?? 0).toFixed(2)));
  }
  if (figures.failed > 0) {
    head.push('failed');
    row.push(count(figures.failed));
  }
  return table(head, [row]);
}

/** Shows how the last second went, every second, until `stop`. */
export function live(context: CommandContext, meter: Meter): { stop(): void } {
  let records = 0;
  let bytes = 0;
  const timer = setInterval(() => {
    const rate = ((meter.records - records) * 1000) / LIVE_EVERY_MS;
    const mb = ((meter.bytes - bytes) / 1e6) * (1000 / LIVE_EVERY_MS);
    records = meter.records;
    bytes = meter.bytes;
    const line = `${durationText(meter.elapsedMs)}: ${count(rate)} records/s, ${mb.toFixed(1)} MB/s`;
    if (context.out.progressTerminal) context.out.progress(line);
    else context.out.note(line);
  }, LIVE_EVERY_MS);
  return {
    stop() {
      clearInterval(timer);
      context.out.progressDone();
    },
  };
}
