/**
 * Runs events until a scenario is done. Microtasks (and `process.nextTick`) are drained to the end
 * between two events by `process._tickCallback`, which is what Node itself calls between two timers: 40
 * ns where nothing waits, against 1,500 ns for a turn of the host's loop. Where a host lacks it, each
 * event takes a turn. The host gets a turn every few milliseconds, so that a test runner stays alive.
 */
import { installHostGuards, uninstallHostGuards, withoutHost } from './host-guards.ts';
import type { Scheduler } from './scheduler.ts';

// Taken before any stub is in place.
const hostTurn: (run: () => void) => unknown = setImmediate;
const hostNowMs: () => number = performance.now.bind(performance);

/** How long events run before the host gets a turn. */
const BATCH_MS = 20;
/** So many events without a microsecond of virtual time mean that the world spins. */
export const EVENTS_PER_INSTANT_MAX = 1_000_000;

type Drain = () => void;

/** Must be called from a turn of the host's loop, not from a microtask. */
function findDrain(): Drain | undefined {
  const { _tickCallback: drain } = process as unknown as { _tickCallback?: Drain };
  if (typeof drain !== 'function') return undefined;
  const bound = drain.bind(process);
  let drained = false;
  void Promise.resolve().then(() => (drained = true));
  bound();
  return drained ? bound : undefined;
}

export interface RunLoopOptions {
  readonly scheduler: Scheduler;
  /** Asked before each event; the loop ends when it is true. */
  readonly done: () => boolean;
  /** Virtual time at which the loop gives up. */
  readonly limitUs: number;
  /** Told, once, why the loop cannot go on; `done` must then be true. */
  readonly fail: (error: unknown) => void;
  readonly start: () => void;
}

export function runLoop(options: RunLoopOptions): Promise<void> {
  const rejections = (error: unknown): void => options.fail(error);
  return new Promise((resolve) => {
    const others = process.listeners('unhandledRejection');
    process.removeAllListeners('unhandledRejection');
    process.on('unhandledRejection', rejections);
    installHostGuards();
    const finish = (): void => {
      uninstallHostGuards();
      process.removeAllListeners('unhandledRejection');
      for (const listener of others) process.on('unhandledRejection', listener);
      resolve();
    };
    const stepper = new Stepper(options);
    let drain: Drain | undefined;
    const turn = (): void => {
      const more = withoutHost(() => stepper.batch(drain));
      if (more) hostTurn(turn);
      else finish();
    };
    hostTurn(() => {
      drain = findDrain();
      withoutHost(() => stepper.guard(options.start));
      hostTurn(turn);
    });
  });
}

class Stepper {
  readonly #options: RunLoopOptions;
  #instantUs = -1;
  #instantEvents = 0;

  constructor(options: RunLoopOptions) {
    this.#options = options;
  }

  /** Runs events for a while; false when the scenario is done. */
  batch(drain: Drain | undefined): boolean {
    const { done } = this.#options;
    if (drain === undefined) {
      if (!done()) this.#step();
      return !done();
    }
    const untilMs = hostNowMs() + BATCH_MS;
    for (let count = 1; ; count++) {
      this.guard(drain);
      if (done()) return false;
      this.#step();
      if (count % 64 === 0 && hostNowMs() > untilMs) {
        this.guard(drain);
        return !done();
      }
    }
  }

  guard(run: () => void): void {
    try {
      run();
    } catch (error) {
      this.#options.fail(error);
    }
  }

  #step(): void {
    const { scheduler, limitUs, fail } = this.#options;
    let ran = false;
    this.guard(() => {
      ran = scheduler.step();
      if (!ran) fail(new Error('nothing is left to happen, and the scenario still waits'));
    });
    if (scheduler.nowUs > limitUs) {
      fail(new Error(`the scenario is not done after ${limitUs / 1000} ms of virtual time`));
    }
    if (scheduler.nowUs !== this.#instantUs) {
      this.#instantUs = scheduler.nowUs;
      this.#instantEvents = 0;
    } else if (++this.#instantEvents > EVENTS_PER_INSTANT_MAX) {
      fail(new Error(`${EVENTS_PER_INSTANT_MAX} events happened and no time has passed`));
    }
  }
}
