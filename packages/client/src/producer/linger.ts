/** Ends the wait of open batches for more records. All linger equally long, so a queue does. */
import type { Clock, TimerHandle, Timers } from '@relevo/base/ports';
import { Fifo } from '../fifo.ts';
import type { PartitionWriter } from './partition-writer.ts';
import type { ProducerBatch } from './producer-batch.ts';

interface LingeringBatch {
  readonly writer: PartitionWriter;
  readonly batch: ProducerBatch;
  readonly dueMs: number;
}

export class Linger {
  readonly #clock: Clock;
  readonly #timers: Timers;
  readonly #lingerMs: number;
  readonly #queue = new Fifo<LingeringBatch>();
  #timer: TimerHandle | undefined;
  #dueSoon = false;

  constructor(ports: { readonly clock: Clock; readonly timers: Timers }, lingerMs: number) {
    this.#clock = ports.clock;
    this.#timers = ports.timers;
    this.#lingerMs = lingerMs;
  }

  begin(writer: PartitionWriter, batch: ProducerBatch): void {
    this.#queue.push({ writer, batch, dueMs: batch.createdMs + this.#lingerMs });
    if (this.#lingerMs > 0) {
      this.#timer ??= this.#wakeAfter(this.#lingerMs);
    } else if (!this.#dueSoon) {
      // Records sent in one turn of the loop still share a batch.
      this.#dueSoon = true;
      this.#timers.soon(() => {
        this.#dueSoon = false;
        this.#endUntil(Infinity);
      });
    }
  }

  close(): void {
    this.#timer?.cancel();
    this.#queue.clear();
  }

  #wakeAfter(ms: number): TimerHandle {
    return this.#timers.after(ms, () => {
      this.#timer = undefined;
      this.#endUntil(this.#clock.monotonicMs());
      const next = this.#queue.peek();
      if (next === undefined || this.#timer !== undefined) return;
      this.#timer = this.#wakeAfter(Math.max(0, next.dueMs - this.#clock.monotonicMs()));
    });
  }

  #endUntil(nowMs: number): void {
    for (;;) {
      const next = this.#queue.peek();
      if (next === undefined || next.dueMs > nowMs) return;
      this.#queue.shift();
      next.writer.makeDue(next.batch);
    }
  }
}
