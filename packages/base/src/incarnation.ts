/**
 * The starts of a data directory. Each start has a number, one above the last, and an id; a directory names
 * its last ones. Whoever remembers a start that the directory should name, and does not, has met a newer state
 * of it: the directory is an older copy.
 */
import type { Uuid } from './ids.ts';

/** `12.QmFzZTY0dXJs…`: the twelfth start. */
export type Incarnation = string & { readonly __brand: 'Incarnation' };

const SHAPE = /^([1-9]\d{0,14})\.([A-Za-z0-9_-]{22})$/;

export const makeIncarnation = (number: number, id: Uuid): Incarnation =>
  `${number}.${id}` as Incarnation;

/** Throws a RangeError for any other text. */
export function parseIncarnation(text: string): Incarnation {
  if (!SHAPE.test(text)) throw new RangeError(`"${text}" is no start of a data directory`);
  return text as Incarnation;
}

/** Undefined for what is none, such as that of an older version. */
export function numberOfStart(incarnation: string): number | undefined {
  const number = SHAPE.exec(incarnation)?.[1];
  return number === undefined ? undefined : Number(number);
}

/**
 * Whether a directory that names these starts (oldest first) is older than one that `known` was a start of.
 * A start from before the oldest of them proves nothing.
 */
export function isOlderCopy(incarnations: readonly string[], known: string): boolean {
  const number = numberOfStart(known);
  const oldest = incarnations[0] === undefined ? 1 : numberOfStart(incarnations[0]);
  if (number === undefined || incarnations.includes(known)) return false;
  return number >= (oldest ?? 1);
}
