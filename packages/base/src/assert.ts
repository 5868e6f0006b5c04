/** A broken invariant: a bug in Relevo, never an operating failure. */
export class AssertionError extends Error {
  override readonly name = 'AssertionError';
}

/**
 * States an invariant; on in production. Pass the values that explain a failure as `facts`; they are
 * printed only then.
 */
export function assert(
  condition: boolean,
  invariant: string,
  facts?: Readonly<Record<string, unknown>>,
): asserts condition {
  if (!condition) throw new AssertionError(describe(invariant, facts));
}

/** For the `default` of a switch over a closed union, and for states that cannot be. */
export function unreachable(value: never, what = 'an impossible value'): never {
  throw new AssertionError(`${what}: ${JSON.stringify(value)}`);
}

/** The value, or an assertion failure where a lookup cannot miss. */
export function defined<Value>(value: Value | undefined | null, what: string): Value {
  if (value === undefined || value === null) throw new AssertionError(`${what} is missing`);
  return value;
}

function describe(invariant: string, facts?: Readonly<Record<string, unknown>>): string {
  if (facts === undefined) return invariant;
  const parts = Object.entries(facts).map(([key, value]) => `${key}=${String(value)}`);
  return `${invariant} (${parts.join(', ')})`;
}
