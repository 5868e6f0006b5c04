/**
 * The ids of topics that were deleted, the latest 10,000 of them: what proves that a directory is of a
 * topic that is gone, and not of one that an image does not know yet. Immutable; what is in it depends on
 * the log alone, not on whether it was replayed or restored.
 *
 * A deletion copies the latest few; they are joined to the others now and then.
 */
import type { Uuid } from '@relevo/base/ids';

export const DELETED_TOPICS_MAX = 10_000;
const RECENT_MAX = 256;

interface Parts {
  /** With their places; those below `from` are forgotten. */
  readonly older: ReadonlyMap<Uuid, number>;
  readonly from: number;
  readonly recent: ReadonlySet<Uuid>;
}

export class DeletedTopics implements Iterable<Uuid> {
  readonly #older: ReadonlyMap<Uuid, number>;
  readonly #from: number;
  readonly #recent: ReadonlySet<Uuid>;

  private constructor({ older, from, recent }: Parts) {
    this.#older = older;
    this.#from = Math.max(from, older.size + recent.size - DELETED_TOPICS_MAX);
    this.#recent = recent;
  }

  /** The oldest first. */
  static of(ids: Iterable<Uuid>): DeletedTopics {
    const older = new Map([...ids].map((id, place) => [id, place]));
    return new DeletedTopics({ older, from: 0, recent: new Set() });
  }

  get size(): number {
    return this.#older.size - this.#from + this.#recent.size;
  }

  has(id: Uuid): boolean {
    return this.#recent.has(id) || (this.#older.get(id) ?? -1) >= this.#from;
  }

  /** The oldest first. */
  *[Symbol.iterator](): Iterator<Uuid> {
    for (const [id, place] of this.#older) if (place >= this.#from) yield id;
    yield* this.#recent;
  }

  with(ids: readonly Uuid[]): DeletedTopics {
    if (ids.length === 0) return this;
    const recent = new Set([...this.#recent, ...ids]);
    if (recent.size > RECENT_MAX) return DeletedTopics.of([...this, ...ids]);
    return new DeletedTopics({ older: this.#older, from: this.#from, recent });
  }
}
