/**
 * A value that one writer changes and many read, and what each reader may have seen: a linearizable
 * register with a single writer. An answer is right when the value held at some moment between the
 * question and the answer.
 */
interface Change<Value> {
  readonly calledMs: number;
  /** Infinity while nobody knows whether it has happened. */
  doneMs: number;
  readonly value: Value;
}

export class Register<Value> {
  /** In order; the writer makes one change at a time. */
  readonly #changes: Change<Value>[];

  constructor(value: Value) {
    this.#changes = [{ calledMs: -Infinity, doneMs: -Infinity, value }];
  }

  /** The writer asks for a change; the function that is returned says that it is done. */
  write(value: Value, nowMs: number): (doneMs: number) => void {
    const change = { calledMs: nowMs, doneMs: Infinity, value };
    this.#changes.push(change);
    return (doneMs) => {
      change.doneMs = doneMs;
    };
  }

  /** What may be told to who asked at `askedMs` and was answered at `answeredMs`. */
  possible(askedMs: number, answeredMs: number): Value[] {
    const last = this.#changes.findLastIndex((change) => change.doneMs <= askedMs);
    return this.#changes
      .slice(Math.max(0, last))
      .filter((change) => change.calledMs <= answeredMs)
      .map((change) => change.value);
  }
}
