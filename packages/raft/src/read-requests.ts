/**
 * Reads that wait until the leader knows that it still leads. All that arrive between two Readies share
 * a round: a number, unique in the term, that goes out with heartbeats and comes back with the answers.
 * A round is confirmed when a majority has answered it or a later one: each answer was given after the
 * reads of the round had arrived (thesis, 6.4; no leases).
 */
import { assert } from '@relevo/base/assert';
import { logIndex, type LogIndex } from '@relevo/base/ids';
import type { ReadState } from './ready.ts';

interface Round {
  readonly number: number;
  readonly index: LogIndex;
  readonly contexts: readonly number[];
}

export class ReadRequests {
  #round = 0;
  #waiting: number[] = [];
  #rounds: Round[] = [];
  readonly #contexts = new Set<number>();

  /** The newest round's number; goes out with every heartbeat. */
  get round(): number {
    return this.#round;
  }

  get size(): number {
    return this.#contexts.size;
  }

  get hasWaiting(): boolean {
    return this.#waiting.length > 0;
  }

  add(context: number): void {
    assert(!this.#contexts.has(context), 'a read context is used once', { context });
    this.#contexts.add(context);
    this.#waiting.push(context);
  }

  /** Begins a round for all that wait: they may see everything up to `commit`. */
  startRound(commit: LogIndex): void {
    this.#round++;
    this.#rounds.push({ number: this.#round, index: commit, contexts: this.#waiting });
    this.#waiting = [];
  }

  /** `ackedRound`: the newest round that a majority has answered. */
  confirmed(ackedRound: number): ReadState[] {
    const states: ReadState[] = [];
    let last = logIndex(0);
    while (this.#rounds[0] !== undefined && this.#rounds[0].number <= ackedRound) {
      const { index, contexts } = this.#rounds[0];
      assert(index >= last, 'later reads see no less', { index, last });
      last = index;
      this.#rounds.shift();
      for (const context of contexts) {
        this.#contexts.delete(context);
        states.push({ context, index });
      }
    }
    return states;
  }

  /** Gives up all. */
  drop(): number[] {
    const contexts = [...this.#contexts];
    this.#contexts.clear();
    this.#waiting = [];
    this.#rounds = [];
    return contexts;
  }
}
