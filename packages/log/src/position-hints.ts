import type { Offset } from '@relevo/base/ids';

const HINTS_MAX = 16;

/**
 * Where the last few reads ended: whoever reads on, a follower or a consumer, begins there, and needs no
 * search. Exact, unlike the index: these are batch boundaries that have been seen.
 */
export class PositionHints {
  #offsets: number[] = [];
  #positions: number[] = [];
  #next = 0;

  find(offset: Offset): number | undefined {
    const at = this.#offsets.indexOf(offset);
    return at === -1 ? undefined : this.#positions[at];
  }

  add(offset: Offset, position: number): void {
    if (this.#offsets.includes(offset)) return;
    this.#offsets[this.#next] = offset;
    this.#positions[this.#next] = position;
    this.#next = (this.#next + 1) % HINTS_MAX;
  }

  clear(): void {
    this.#offsets = [];
    this.#positions = [];
    this.#next = 0;
  }
}
