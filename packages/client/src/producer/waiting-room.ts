/**
 * Records that cannot be buffered yet: their topic is being looked up, or the buffer is full. They leave
 * in the order in which they came: first out of their topic's queue into the one for memory, then into
 * a batch.
 */
import type { TopicView } from '../cluster-view.ts';
import { callError } from '../errors.ts';
import type { ClientError } from '../errors.ts';
import { Fifo } from '../fifo.ts';
import { roughSize } from './prepared-record.ts';
import type { PreparedRecord } from './prepared-record.ts';
import type { SendHandle } from './producer-batch.ts';

export interface WaitingRecord {
  readonly record: PreparedRecord;
  /** Undefined: enqueued. */
  readonly handle: SendHandle | undefined;
  readonly size: number;
  /** On the monotonic clock, ms. */
  readonly deadlineMs: number;
  readonly waitsFor: 'topic' | 'memory';
}

export interface WaitingRoomEvents {
  /** Rejects with a ClientError when there is no such topic. */
  lookUp(topic: string): Promise<TopicView>;
  onFound(topic: string, view: TopicView): void;
  /** Whether a record of so many bytes may be buffered now. */
  hasRoom(waiting: WaitingRecord): boolean;
  place(waiting: WaitingRecord): void;
  refuse(waiting: WaitingRecord, error: ClientError): void;
  /** Something left, or memory became the only thing that is waited for. */
  onMoved(): void;
}

interface Waiting extends WaitingRecord {
  waitsFor: 'topic' | 'memory';
  onGone: (() => void)[] | undefined;
}

export class WaitingRoom {
  readonly #events: WaitingRoomEvents;
  readonly #byTopic = new Map<string, Fifo<Waiting>>();
  readonly #forMemory = new Fifo<Waiting>();
  #bytes = 0;
  #admitting = false;

  constructor(events: WaitingRoomEvents) {
    this.#events = events;
  }

  /** Of all that waits. */
  get bytes(): number {
    return this.#bytes;
  }

  get isShortOfMemory(): boolean {
    return this.#forMemory.size > 0;
  }

  waitForTopic(record: PreparedRecord, handle: SendHandle | undefined, deadlineMs: number): void {
    const queue = this.#byTopic.get(record.topic) ?? this.#lookUp(record.topic);
    queue.push(this.#enter(record, handle, deadlineMs, 'topic'));
  }

  waitForMemory(record: PreparedRecord, handle: SendHandle | undefined, deadlineMs: number): void {
    this.#forMemory.push(this.#enter(record, handle, deadlineMs, 'memory'));
  }

  /** Lets in what there is room for. */
  admit(): void {
    // Placing a record may settle others, which frees memory and calls this again.
    if (this.#admitting || this.#forMemory.size === 0) return;
    this.#admitting = true;
    for (;;) {
      const head = this.#forMemory.peek();
      if (head === undefined || !this.#events.hasRoom(head)) break;
      this.#forMemory.shift();
      this.#leave(head);
      this.#events.place(head);
      tellGone(head);
    }
    this.#admitting = false;
    this.#events.onMoved();
  }

  /** Refuses what is past its deadline; returns the earliest deadline left. */
  expire(nowMs: number, reason: (waiting: WaitingRecord) => ClientError): number {
    let earliest = Infinity;
    for (const queue of [this.#forMemory, ...this.#byTopic.values()]) {
      for (;;) {
        const head = queue.peek();
        if (head === undefined) break;
        if (head.deadlineMs > nowMs) {
          earliest = Math.min(earliest, head.deadlineMs);
          break;
        }
        queue.shift();
        this.#refuse(head, reason(head));
      }
    }
    this.#events.onMoved();
    return earliest;
  }

  refuseAll(error: ClientError): void {
    const queues = [this.#forMemory, ...this.#byTopic.values()];
    for (const waiting of queues.flatMap((queue) => queue.clear())) this.#refuse(waiting, error);
  }

  /** Calls `run` when all that waits now has left, at once when nothing waits. */
  onceGone(run: () => void): void {
    const lasts = [this.#forMemory, ...this.#byTopic.values()].flatMap(
      (queue) => queue.last() ?? [],
    );
    let left = lasts.length;
    if (left === 0) run();
    for (const last of lasts) {
      last.onGone ??= [];
      last.onGone.push(() => {
        if (--left === 0) run();
      });
    }
  }

  #enter(
    record: PreparedRecord,
    handle: SendHandle | undefined,
    deadlineMs: number,
    waitsFor: 'topic' | 'memory',
  ): Waiting {
    const size = roughSize(record);
    this.#bytes += size;
    return { record, handle, size, deadlineMs, waitsFor, onGone: undefined };
  }

  #leave(waiting: Waiting): void {
    this.#bytes -= waiting.size;
  }

  #refuse(waiting: Waiting, error: ClientError): void {
    this.#leave(waiting);
    this.#events.refuse(waiting, error);
    tellGone(waiting);
  }

  #lookUp(topic: string): Fifo<Waiting> {
    const queue = new Fifo<Waiting>();
    this.#byTopic.set(topic, queue);
    this.#events
      .lookUp(topic)
      .then((view) => {
        this.#byTopic.delete(topic);
        this.#events.onFound(topic, view);
        for (const waiting of queue.clear()) {
          waiting.waitsFor = 'memory';
          this.#forMemory.push(waiting);
        }
        this.admit();
      })
      .catch((error: unknown) => {
        this.#byTopic.delete(topic);
        const failure = callError(`sending to topic "${topic}"`, error);
        for (const waiting of queue.clear()) this.#refuse(waiting, failure);
        this.#events.onMoved();
      });
    return queue;
  }
}

function tellGone(waiting: Waiting): void {
  for (const listener of waiting.onGone ?? []) listener();
}
