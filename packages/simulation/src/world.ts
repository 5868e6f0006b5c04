/**
 * A simulated world: time, chance, network and hosts from one seed. Processes are booted on it with
 * production code; a scenario drives them and waits for what it expects.
 *
 *   const world = new World({ seed: 7 });
 *   const broker = world.process('broker-0');
 *   await world.run(async () => {
 *     broker.boot((ports) => { … });
 *     await world.until('the broker answers', () => answered, 5_000);
 *   });
 */
import { createHmac } from 'node:crypto';
import { messageOf } from '@relevo/base/errors';
import type { Clock, HmacSha256, LogFields, Logger } from '@relevo/base/ports';
import { crc32c } from '@relevo/record/crc32c';
import { Prng } from './prng.ts';
import { runLoop } from './run-loop.ts';
import { Scheduler } from './scheduler.ts';
import type { EventOwner } from './scheduler.ts';
import { SimulatedDisk } from './simulated-disk.ts';
import type { DiskLatency } from './simulated-disk.ts';
import { SimulatedNetwork } from './simulated-network.ts';
import type { NetworkOptions } from './simulated-network.ts';
import { SimulatedProcess } from './simulated-process.ts';
import { Trace } from './trace.ts';

/** Deterministic as it is. */
const hmacSha256: HmacSha256 = (key, bytes) => createHmac('sha256', key).update(bytes).digest();

export type LogLevel = 'debug' | 'info' | 'warn' | 'error';

export interface LogLine {
  readonly timeMs: number;
  readonly process: string;
  readonly level: LogLevel;
  readonly event: string;
  readonly fields: LogFields;
}

export interface WorldOptions {
  readonly seed: number | string;
  readonly network?: Omit<NetworkOptions, 'scheduler' | 'prng' | 'onBug'>;
  readonly disk?: { readonly latency?: DiskLatency; readonly capacityBytes?: number };
  /** Monotonic clocks run at a rate drawn from 1 ± this; default 10^-4. */
  readonly clockDrift?: number;
  /** Wall clocks are off by up to this much either way; default 50 ms. */
  readonly wallOffsetMaxMs?: number;
  /** Virtual time after which a run has failed; default one hour. */
  readonly limitMs?: number;
  /** Lines below this level are dropped; default `info`. */
  readonly logLevel?: LogLevel;
  readonly onLog?: (line: LogLine) => void;
}

/** A run that went wrong, with what a person needs to replay and to read it. */
export class SimulationFailure extends Error {
  override readonly name = 'SimulationFailure';
  readonly seed: string;
  readonly timeMs: number;
  readonly transcript: readonly string[];

  constructor(cause: unknown, facts: { seed: string; timeMs: number; transcript: string[] }) {
    super(`seed ${facts.seed}, at ${facts.timeMs.toFixed(3)} ms: ${messageOf(cause)}`, { cause });
    this.seed = facts.seed;
    this.timeMs = facts.timeMs;
    this.transcript = facts.transcript;
  }
}

const LEVELS: readonly LogLevel[] = ['debug', 'info', 'warn', 'error'];
/** How often `until` looks. */
const POLL_MS = 5;

export class World {
  readonly seed: string;
  readonly prng: Prng;
  readonly trace: Trace = new Trace();
  readonly scheduler: Scheduler;
  readonly network: SimulatedNetwork;
  readonly #options: WorldOptions;
  readonly #processes: Map<string, SimulatedProcess> = new Map();
  readonly #logListeners: Set<(line: LogLine) => void> = new Set();
  #failure: SimulationFailure | undefined;

  constructor(options: WorldOptions) {
    this.#options = options;
    this.seed = String(options.seed);
    if (options.onLog !== undefined) this.#logListeners.add(options.onLog);
    this.prng = new Prng(options.seed);
    this.scheduler = new Scheduler(this.prng.split('scheduler'), this.trace);
    this.network = new SimulatedNetwork({
      ...options.network,
      scheduler: this.scheduler,
      prng: this.prng.split('network'),
      onBug: (error) => this.fail(error),
    });
  }

  get nowMs(): number {
    return this.scheduler.nowMs;
  }

  /** The process of that name, on a host of that name; made, not booted, when first asked for. */
  process(name: string): SimulatedProcess {
    let process = this.#processes.get(name);
    if (process === undefined) {
      process = this.#makeProcess(name);
      this.#processes.set(name, process);
    }
    return process;
  }

  get processes(): readonly SimulatedProcess[] {
    return [...this.#processes.values()];
  }

  /** Runs events until the scenario's promise settles. Rejects with a SimulationFailure. */
  async run<Result>(scenario: () => Promise<Result>): Promise<Result> {
    let outcome: { result: Result } | undefined;
    const start = (): void => {
      scenario().then(
        (result) => (outcome = { result }),
        (error: unknown) => this.fail(error),
      );
    };
    await runLoop({
      scheduler: this.scheduler,
      limitUs: 1000 * (this.#options.limitMs ?? 3_600_000),
      done: () => outcome !== undefined || this.#failure !== undefined,
      fail: (error) => this.fail(error),
      start,
    });
    if (this.#failure !== undefined) throw this.#failure;
    if (outcome === undefined) throw new Error('the loop ended before the scenario');
    return outcome.result;
  }

  /** Ends the run with a failure; the first one counts. */
  fail(error: unknown): void {
    this.#failure ??= new SimulationFailure(error, {
      seed: this.seed,
      timeMs: this.nowMs,
      transcript: this.trace.transcript(),
    });
  }

  /** Resolves after so much virtual time. */
  sleep(ms: number): Promise<void> {
    return new Promise((resolve) => {
      this.scheduler.after(1000 * ms, { kind: 'sleep', target: 'scenario' }, resolve);
    });
  }

  /**
   * Resolves when `condition` holds, looking every few milliseconds; rejects after `withinMs` of
   * virtual time, with `why()` (the state that should have changed) in the message.
   */
  async until(
    what: string,
    condition: () => boolean,
    withinMs: number,
    why: () => string = () => '',
  ): Promise<void> {
    const deadlineMs = this.nowMs + withinMs;
    while (!condition()) {
      if (this.nowMs >= deadlineMs) {
        throw new Error(`not within ${withinMs} ms: ${what}. ${why()}`.trim());
      }
      await this.sleep(POLL_MS);
    }
  }

  /** Rejects where `promise` has not settled after `withinMs` of virtual time. */
  within<Result>(what: string, withinMs: number, promise: Promise<Result>): Promise<Result> {
    return new Promise((resolve, reject) => {
      const facts = { kind: 'within', target: 'scenario' };
      const timer = this.scheduler.after(1000 * withinMs, facts, () =>
        reject(new Error(`not within ${withinMs} ms: ${what}`)),
      );
      promise.then(resolve, reject).finally(() => this.scheduler.cancel(timer));
    });
  }

  /** Resolves with the first line from now on that matches; rejects after `withinMs`. */
  untilLogged(matches: (line: LogLine) => boolean, withinMs: number): Promise<LogLine> {
    let listener: (line: LogLine) => void = () => undefined;
    const logged = new Promise<LogLine>((resolve) => {
      listener = (line): void => {
        if (matches(line)) resolve(line);
      };
      this.#logListeners.add(listener);
    });
    const late = this.within('a line is logged', withinMs, logged);
    return late.finally(() => this.#logListeners.delete(listener));
  }

  /** Writes a line into the transcript (and into the trace hash). */
  note(kind: string, target: string, text: string): void {
    this.trace.note(this.scheduler.nowUs, kind, target, text);
  }

  #makeProcess(name: string): SimulatedProcess {
    const prng = this.prng.split(`process/${name}`);
    const { disk = {}, clockDrift = 1e-4, wallOffsetMaxMs = 50 } = this.#options;
    const simulatedDisk = new SimulatedDisk({
      ...disk,
      prng: prng.split('disk'),
      scheduler: this.scheduler,
      name: `${name}:disk`,
    });
    const deps = {
      scheduler: this.scheduler,
      network: this.network,
      prng,
      crc32c,
      hmacSha256,
      logger: (owner: EventOwner, clock: Clock) => this.#logger(owner, clock, {}),
      note: (kind: string, target: string, text: string) => this.note(kind, target, text),
    };
    return new SimulatedProcess(name, deps, simulatedDisk, {
      rate: 1 + prng.between(-clockDrift, clockDrift),
      wallOffsetMs: prng.between(-wallOffsetMaxMs, wallOffsetMaxMs),
    });
  }

  #logger(owner: EventOwner, clock: Clock, bound: LogFields): Logger {
    const lowest = LEVELS.indexOf(this.#options.logLevel ?? 'info');
    const log =
      (level: LogLevel) =>
      (event: string, fields: LogFields = {}) => {
        if (LEVELS.indexOf(level) < lowest) return;
        const all = { ...bound, ...fields };
        this.note(level, owner.name, `${event} ${printFields(all)}`);
        // What a handler threw that was no refusal: a bug, wherever it was caught.
        if (event === 'rpc handler failed') this.fail(new Error(printFields(all)));
        this.#options.onLog?.({
          timeMs: this.nowMs,
          process: owner.name,
          level,
          event,
          fields: all,
        });
      };
    return {
      debug: log('debug'),
      info: log('info'),
      warn: log('warn'),
      error: log('error'),
      child: (fields) => this.#logger(owner, clock, { ...bound, ...fields }),
    };
  }
}

/** `topic=orders partition=3`: log fields for the transcript. */
export function printFields(fields: LogFields): string {
  const print = (value: unknown): string => {
    if (value instanceof Error) return `${value.name}: ${value.message}`;
    if (typeof value === 'object' && value !== null) return JSON.stringify(value, safely);
    return String(value);
  };
  return Object.entries(fields)
    .map(([key, value]) => `${key}=${print(value)}`)
    .join(' ');
}

const safely = (_key: string, value: unknown): unknown => {
  if (typeof value === 'bigint') return `${value}n`;
  if (value instanceof Error) return value.message;
  if (value instanceof Map) return [...value];
  return value instanceof Set ? [...value] : value;
};
