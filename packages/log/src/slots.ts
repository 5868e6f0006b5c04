/**
 * Work of which only so much is under way at a time. What waits is taken in the order in which it came, but
 * what ends something that has begun before what begins something: of thousands of new partitions the first
 * are then ready while the last still wait. Keeps the threads of the disk free for others: the quorum's log
 * must not stand behind all of them.
 */
export type Urgency = 'ends' | 'begins';

export class Slots {
  readonly #max: number;
  #taken = 0;
  readonly #waiting: Record<Urgency, Line> = { ends: new Line(), begins: new Line() };

  /** `max`: at least 1. */
  constructor(max: number) {
    this.#max = max;
  }

  /** Begins at once where there is a free slot. */
  run<Result>(urgency: Urgency, work: () => Promise<Result>): Promise<Result> {
    if (this.#taken < this.#max) {
      this.#taken++;
      return this.#work(work);
    }
    return new Promise<Result>((resolve) => {
      this.#waiting[urgency].add(() => resolve(this.#work(work)));
    });
  }

  async #work<Result>(work: () => Promise<Result>): Promise<Result> {
    try {
      return await work();
    } finally {
      const next = this.#waiting.ends.take() ?? this.#waiting.begins.take();
      if (next === undefined) this.#taken--;
      else next();
    }
  }
}

/** First in, first out, without moving all at each step. */
class Line {
  #waiting: (() => void)[] = [];
  #next = 0;

  add(start: () => void): void {
    this.#waiting.push(start);
  }

  take(): (() => void) | undefined {
    const start = this.#waiting[this.#next++];
    if (this.#next >= this.#waiting.length) {
      this.#waiting = [];
      this.#next = 0;
    }
    return start;
  }
}
