/**
 * A process on a host of its own. Each boot makes a new incarnation with a new bundle of ports; after a
 * kill nothing of the old one happens any more: no timer, no completion, no message. Pausing (SIGSTOP)
 * holds its events back while its host still takes connections; freezing takes the host off the
 * network too.
 */
import { assert } from '@relevo/base/assert';
import type {
  Clock,
  Crc32c,
  HmacSha256,
  Logger,
  Ports,
  TimerHandle,
  Timers,
} from '@relevo/base/ports';
import type { Prng } from './prng.ts';
import type { EventOwner, Scheduler } from './scheduler.ts';
import type { SimulatedDisk } from './simulated-disk.ts';
import { SimulatedMetrics } from './simulated-metrics.ts';
import type { SimulatedNetwork } from './simulated-network.ts';

export interface ProcessDeps {
  readonly scheduler: Scheduler;
  readonly network: SimulatedNetwork;
  readonly prng: Prng;
  readonly crc32c: Crc32c;
  readonly hmacSha256: HmacSha256;
  readonly logger: (owner: EventOwner, clock: Clock) => Logger;
  readonly note: (kind: string, target: string, text: string) => void;
}

export interface ClockSettings {
  /** Monotonic milliseconds per virtual millisecond; 1.0001 gains 0.1 ms a second. */
  rate: number;
  /** Wall clock minus the world's true time, in ms; may be changed at will. */
  wallOffsetMs: number;
}

export interface KillOptions {
  /**
   * `keep`: the process alone dies (SIGKILL), the page cache stays. `lose`: the power went, and what
   * was not synced is kept, lost or torn as the seed says.
   */
  readonly unsynced: 'keep' | 'lose';
  /** The host dies without a word: peers get no reset, dials no refusal. Default false. */
  readonly silent?: boolean;
}

/** The world's time 0 on the wall clock. */
export const WALL_EPOCH_MS = 1_750_000_000_000;
/** A timer may fire late by up to so much. */
const TIMER_SLACK_US = 500;

export class SimulatedProcess {
  readonly name: string;
  readonly disk: SimulatedDisk;
  readonly clock: ClockSettings;
  /**
   * CPU time per byte that it checks (CRC-32C), or reads or writes without leaving the loop. Its other events
   * wait meanwhile, so that a loop that is blocked for long shows: heartbeats are late. May be changed at
   * will. Default: 0, computing takes no time.
   */
  cpuNsPerByte = 0;
  metrics: SimulatedMetrics = new SimulatedMetrics();
  readonly #deps: ProcessDeps;
  #owner: EventOwner | undefined;
  #incarnation = 0;

  constructor(name: string, deps: ProcessDeps, disk: SimulatedDisk, clock: ClockSettings) {
    this.name = name;
    this.#deps = deps;
    this.disk = disk;
    this.clock = clock;
  }

  get alive(): boolean {
    return this.#owner?.alive ?? false;
  }

  get paused(): boolean {
    return this.#owner?.paused ?? false;
  }

  /** How often it was booted. */
  get incarnation(): number {
    return this.#incarnation;
  }

  /** Starts a new incarnation: `main` is called in an event of its own. The process must be dead. */
  boot(main: (ports: Ports) => void): void {
    assert(!this.alive, 'a process boots when it is not running', { process: this.name });
    const owner: EventOwner = {
      name: this.name,
      host: this.name,
      alive: true,
      paused: false,
      held: [],
    };
    this.#owner = owner;
    this.#incarnation++;
    this.metrics = new SimulatedMetrics();
    const ports = this.#ports(owner);
    this.#deps.note('boot', this.name, `incarnation ${this.#incarnation}`);
    this.#deps.network.setHostUp(this.name, true);
    this.#deps.scheduler.soon({ kind: 'boot', target: this.name, owner }, () => main(ports));
  }

  /** Ends the process in an event of its own, so that none of its code is half done. */
  kill(options: KillOptions): Promise<void> {
    const owner = this.#owner;
    return new Promise((resolve) => {
      this.#deps.scheduler.soon({ kind: 'kill', target: this.name }, () => {
        resolve();
        if (owner === undefined || !owner.alive) return;
        if (options.silent === true) this.#deps.network.setHostUp(this.name, false);
        owner.alive = false;
        owner.held = [];
        this.#deps.network.processDied(owner, options.silent !== true);
        this.disk.releaseLocks(owner);
        const fate = options.unsynced === 'lose' ? this.disk.crash() : 'page cache kept';
        this.#deps.note('kill', this.name, `${options.silent === true ? 'silent, ' : ''}${fate}`);
      });
    });
  }

  /** SIGSTOP: nothing of it runs; the kernel still answers dials and takes bytes. */
  pause(): void {
    if (this.#owner === undefined || !this.#owner.alive) return;
    this.#owner.paused = true;
    this.#deps.note('pause', this.name, '');
  }

  /** SIGCONT: what came meanwhile happens now, in order. */
  resume(): void {
    const owner = this.#owner;
    if (owner === undefined || !owner.alive || !owner.paused) return;
    owner.paused = false;
    this.#deps.note('resume', this.name, `${owner.held.length} events were held`);
    this.#deps.scheduler.release(owner);
  }

  /** The whole host stands still: silence. */
  freeze(): void {
    this.pause();
    this.#deps.network.setHostUp(this.name, false);
  }

  thaw(): void {
    this.#deps.network.setHostUp(this.name, true);
    this.resume();
  }

  #ports(owner: EventOwner): Ports {
    const { network, prng, crc32c, hmacSha256, logger } = this.#deps;
    const clock = this.#makeClock(owner);
    const spend = (bytes: number): void => this.#spend(owner, bytes);
    return {
      clock,
      timers: this.#makeTimers(owner),
      random: prng.split(`${this.name}/${this.#incarnation}`),
      disk: this.disk.port(owner, spend),
      transport: network.transport(this.name, owner),
      logger: logger(owner, clock),
      metrics: this.metrics,
      crc32c: (bytes) => {
        spend(bytes.length);
        return crc32c(bytes);
      },
      hmacSha256,
    };
  }

  #spend(owner: EventOwner, bytes: number): void {
    if (this.cpuNsPerByte > 0)
      this.#deps.scheduler.spend(owner, (bytes * this.cpuNsPerByte) / 1_000);
  }

  #makeClock(owner: EventOwner): Clock {
    const { scheduler } = this.#deps;
    const nowUs = (): number => Math.max(scheduler.nowUs, owner.busyUntilUs ?? 0);
    return {
      monotonicMs: () => (nowUs() / 1_000) * this.clock.rate,
      wallMs: () => Math.floor(WALL_EPOCH_MS + scheduler.nowMs + this.clock.wallOffsetMs),
    };
  }

  #makeTimers(owner: EventOwner): Timers {
    const { scheduler } = this.#deps;
    const slack = this.#deps.prng.split(`${this.name}/${this.#incarnation}/timers`);
    const timer = { kind: 'timer', target: this.name, owner };
    const turn = { kind: 'turn', target: this.name, owner };
    return {
      after: (delayMs, run): TimerHandle => {
        assert(owner.alive, 'a dead process sets no timer', { process: owner.name });
        const busyUs = Math.max(0, (owner.busyUntilUs ?? 0) - scheduler.nowUs);
        const delayUs = busyUs + (1000 * Math.max(0, delayMs)) / this.clock.rate;
        const event = scheduler.after(delayUs + slack.float() * TIMER_SLACK_US, timer, run);
        return { cancel: () => scheduler.cancel(event) };
      },
      soon: (run) => scheduler.soon(turn, run),
    };
  }
}
