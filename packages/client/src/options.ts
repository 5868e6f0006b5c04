/**
 * Checks of what users hand over, when they do: a value that is let through here must not fail later,
 * out of a timer, where nobody can catch it. Each throws INVALID_ARGUMENT with the option's name, its
 * value and what would be right.
 */
import { inspect } from 'node:util';
import { nearest } from '@relevo/base/nearest';
import { ClientError } from './errors.ts';

/** Every name of an options object, so that none is forgotten when one is added. */
export type NamesOf<Options> = Readonly<Record<keyof Options, true>>;

const SHOWN_CHARACTERS_MAX = 80;

/** That a value is not what is `right`. */
export const invalid = (name: string, right: string, value: unknown, hint = ''): ClientError => {
  const shown = inspect(value, { depth: 0, breakLength: Infinity });
  const cut =
    shown.length > SHOWN_CHARACTERS_MAX ? `${shown.slice(0, SHOWN_CHARACTERS_MAX)}…` : shown;
  return new ClientError('INVALID_ARGUMENT', `${name} must be ${right}, not ${cut}${hint}`);
};

/** No names but those known; `what`: whose options they are, as "producer". */
export function checkNames(
  what: string,
  options: object,
  names: Readonly<Record<string, true>>,
): void {
  if (typeof options !== 'object' || options === null || Array.isArray(options)) {
    throw invalid(`the options of a ${what}`, 'an object', options);
  }
  const known = Object.keys(names);
  for (const name of Object.keys(options)) {
    if (!Object.hasOwn(names, name)) throw unknownName(`a ${what} has no option`, name, known);
  }
}

/** `has` as in "a record has no field"; with the name that is most likely meant, or what helps (`hint`). */
export function unknownName(
  has: string,
  name: string,
  known: readonly string[],
  hint?: string,
): ClientError {
  const near = hint === undefined ? nearest(name, known) : undefined;
  const meant = near === undefined ? hint : `did you mean "${near}"?`;
  const message = `${has} "${name}"${meant === undefined ? '' : `: ${meant}`}`;
  return new ClientError('INVALID_ARGUMENT', `${message} (there are ${known.join(', ')})`);
}

/** A number from `min` to `max`. */
export function within(name: string, value: number, min: number, max: number): number {
  if (typeof value === 'number' && value >= min && value <= max) return value;
  throw invalid(name, `a number from ${min} to ${max}`, value);
}

/** A whole number from `min` to `max`: what goes over the wire. */
export function wholeWithin(name: string, value: number, min: number, max: number): number {
  if (Number.isInteger(value) && value >= min && value <= max) return value;
  throw invalid(name, `a whole number from ${min} to ${max}`, value);
}

export function oneOf<Value extends string>(
  name: string,
  value: Value,
  allowed: readonly Value[],
): Value {
  if (allowed.includes(value)) return value;
  const quoted = allowed.map((each) => `"${each}"`);
  const right = `${quoted.slice(0, -1).join(', ')} or ${quoted.at(-1)}`;
  const near = typeof value === 'string' ? nearest(value, allowed) : undefined;
  throw invalid(name, right, value, near === undefined ? '' : `: did you mean "${near}"?`);
}

export function flag(name: string, value: boolean): boolean {
  if (typeof value === 'boolean') return value;
  throw invalid(name, 'true or false', value);
}

/** Text of one character at least. */
export function text(name: string, value: string): string {
  if (typeof value === 'string' && value !== '') return value;
  throw invalid(name, 'a name', value);
}

export function list<Item>(name: string, value: readonly Item[]): readonly Item[] {
  if (Array.isArray(value)) return value;
  throw invalid(name, 'an array', value);
}

/** An object with these functions, or nothing. */
export function checkMethods<Value extends object>(
  name: string,
  value: Value | undefined,
  methods: readonly (keyof Value & string)[],
): void {
  if (value === undefined) return;
  const isObject = typeof value === 'object' && value !== null;
  if (isObject && methods.every((method) => typeof value[method] === 'function')) return;
  // Such as `serializers.json`, which is to be called.
  const hint = typeof value === 'function' ? ': is it to be called first?' : '';
  throw invalid(name, `an object with ${methods.join(', ')}`, value, hint);
}

/** A function, or nothing. */
export function checkFunction(name: string, value: unknown): void {
  if (value === undefined || typeof value === 'function') return;
  throw invalid(name, 'a function', value);
}
