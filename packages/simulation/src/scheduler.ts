/**
 * Virtual time: one heap of events ordered by (time, sequence). Times are whole microseconds, so that
 * sums are exact. An event may belong to a process: when that is dead the event is dropped, while it is
 * paused or computes the event is held back in order.
 */
import { assert } from '@relevo/base/assert';
import type { Prng } from './prng.ts';
import type { Trace } from './trace.ts';

/** Whose events they are: one incarnation of a simulated process. */
export interface EventOwner {
  readonly name: string;
  /** The simulated host it runs on. */
  readonly host: string;
  alive: boolean;
  paused: boolean;
  /** Events whose time came while the owner was paused. */
  held: ScheduledEvent[];
  /** It computes until then; what comes meanwhile waits. Default: it is idle. */
  busyUntilUs?: number;
}

export interface ScheduledEvent {
  timeUs: number;
  sequence: number;
  readonly kind: string;
  readonly target: string;
  readonly detail: number;
  readonly owner: EventOwner | undefined;
  /** Undefined once it has run or was cancelled. */
  run: (() => void) | undefined;
}

export interface EventFacts {
  readonly kind: string;
  readonly target: string;
  /** Hashed into the trace: a length, or a hash of the content. */
  readonly detail?: number;
  readonly owner?: EventOwner | undefined;
}

/** Cancelled events are swept out of the heap when they are more than this and more than half. */
const CANCELLED_SWEEP_MIN = 4_096;

export class Scheduler {
  readonly prng: Prng;
  readonly trace: Trace;
  #nowUs = 0;
  #sequence = 0;
  #heap: ScheduledEvent[] = [];
  #cancelled = 0;
  #soon: ScheduledEvent[] = [];
  #soonNext = 0;

  constructor(prng: Prng, trace: Trace) {
    this.prng = prng;
    this.trace = trace;
  }

  get nowUs(): number {
    return this.#nowUs;
  }

  get nowMs(): number {
    return this.#nowUs / 1000;
  }

  /** Events that wait for their time. */
  get size(): number {
    return this.#heap.length - this.#cancelled + this.#soon.length - this.#soonNext;
  }

  /** Runs `run` `delayUs` (rounded up to whole microseconds) from now. */
  after(delayUs: number, facts: EventFacts, run: () => void): ScheduledEvent {
    assert(delayUs >= 0, 'an event lies ahead', { delayUs, kind: facts.kind });
    const event = this.#make(this.#nowUs + Math.ceil(delayUs), facts, run);
    this.#push(event);
    return event;
  }

  /** Runs `run` after what is at hand, before any other event. */
  soon(facts: EventFacts, run: () => void): void {
    this.#soon.push(this.#make(this.#nowUs, facts, run));
  }

  cancel(event: ScheduledEvent): void {
    if (event.run === undefined) return;
    event.run = undefined;
    this.#cancelled++;
    if (this.#cancelled > CANCELLED_SWEEP_MIN && this.#cancelled * 2 > this.#heap.length) {
      this.#sweep();
    }
  }

  /** Takes the next event and runs it; false when nothing is left to happen. */
  step(): boolean {
    for (;;) {
      const event = this.#takeSoon() ?? this.#pop();
      if (event === undefined) return false;
      const { run, owner } = event;
      if (run === undefined) continue;
      if (owner !== undefined) {
        if (!owner.alive) continue;
        if (owner.paused) {
          owner.held.push(event);
          continue;
        }
        if (this.#isBusy(owner, event)) {
          this.#postpone(event, owner.busyUntilUs ?? 0);
          continue;
        }
      }
      assert(event.timeUs >= this.#nowUs, 'time does not go back', { kind: event.kind });
      this.#nowUs = event.timeUs;
      event.run = undefined;
      this.trace.event(event.timeUs, event.kind, event.target, event.detail);
      run();
      return true;
    }
  }

  /** Puts back, to happen now and in their order, the events that were held for `owner`. */
  release(owner: EventOwner): void {
    const held = owner.held;
    owner.held = [];
    for (const event of held) {
      if (event.run === undefined) continue;
      event.timeUs = this.#nowUs;
      event.sequence = this.#sequence++;
      this.#push(event);
    }
  }

  /** The owner of the event under way computes for so long, and does nothing else before that is over. */
  spend(owner: EventOwner, us: number): void {
    owner.busyUntilUs = Math.max(this.#nowUs, owner.busyUntilUs ?? 0) + Math.ceil(us);
  }

  #isBusy(owner: EventOwner, event: ScheduledEvent): boolean {
    return (owner.busyUntilUs ?? 0) > Math.max(event.timeUs, this.#nowUs);
  }

  /** What was set earlier comes first then: no timer starves behind turns that ask for the next turn. */
  #postpone(event: ScheduledEvent, timeUs: number): void {
    event.timeUs = timeUs;
    this.#push(event);
  }

  #make(timeUs: number, facts: EventFacts, run: () => void): ScheduledEvent {
    return {
      timeUs,
      sequence: this.#sequence++,
      kind: facts.kind,
      target: facts.target,
      detail: facts.detail ?? 0,
      owner: facts.owner,
      run,
    };
  }

  #takeSoon(): ScheduledEvent | undefined {
    const event = this.#soon[this.#soonNext];
    if (event === undefined) return undefined;
    this.#soonNext++;
    if (this.#soonNext === this.#soon.length) {
      this.#soon = [];
      this.#soonNext = 0;
    }
    return event;
  }

  #push(event: ScheduledEvent): void {
    const heap = this.#heap;
    let at = heap.length;
    heap.push(event);
    while (at > 0) {
      const above = (at - 1) >> 1;
      const parent = heap[above];
      if (parent === undefined || !isBefore(event, parent)) break;
      heap[at] = parent;
      at = above;
    }
    heap[at] = event;
  }

  #pop(): ScheduledEvent | undefined {
    const heap = this.#heap;
    const first = heap[0];
    const last = heap.pop();
    if (first === undefined || last === undefined) return undefined;
    if (heap.length > 0) siftDown(heap, last, 0);
    if (first.run === undefined) this.#cancelled = Math.max(0, this.#cancelled - 1);
    return first;
  }

  #sweep(): void {
    this.#heap = this.#heap.filter((event) => event.run !== undefined);
    this.#cancelled = 0;
    for (let at = (this.#heap.length >> 1) - 1; at >= 0; at--) {
      const event = this.#heap[at];
      if (event !== undefined) siftDown(this.#heap, event, at);
    }
  }
}

const isBefore = (a: ScheduledEvent, b: ScheduledEvent): boolean =>
  a.timeUs < b.timeUs || (a.timeUs === b.timeUs && a.sequence < b.sequence);

function siftDown(heap: ScheduledEvent[], event: ScheduledEvent, from: number): void {
  let at = from;
  for (;;) {
    let below = 2 * at + 1;
    let child = heap[below];
    if (child === undefined) break;
    const right = heap[below + 1];
    if (right !== undefined && isBefore(right, child)) {
      child = right;
      below++;
    }
    if (!isBefore(child, event)) break;
    heap[at] = child;
    at = below;
  }
  heap[at] = event;
}
