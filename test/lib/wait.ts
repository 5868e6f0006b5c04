import { performance } from 'node:perf_hooks';

/** A machine may be busy: what is waited for comes much sooner on a quiet one. */
export const DEADLINE_MS = 60_000;

/**
 * Waits until `condition` gives something other than undefined or false. When the deadline passes the
 * error shows `state()`, so that a failed wait explains itself.
 */
export async function until<Value>(
  what: string,
  condition: () => Value | undefined | false | Promise<Value | undefined | false>,
  options: { deadlineMs?: number; everyMs?: number; state?: () => unknown } = {},
): Promise<Value> {
  const end = performance.now() + (options.deadlineMs ?? DEADLINE_MS);
  let failure: unknown;
  for (;;) {
    try {
      const value = await condition();
      if (value !== undefined && value !== false) return value;
      failure = undefined;
    } catch (error) {
      failure = error;
    }
    if (performance.now() > end) break;
    await pause(options.everyMs ?? 20);
  }
  const state = options.state === undefined ? '' : `; state: ${JSON.stringify(options.state())}`;
  const cause = failure instanceof Error ? `; last error: ${failure.message}` : '';
  throw new Error(`waited ${options.deadlineMs ?? DEADLINE_MS} ms for ${what}${state}${cause}`);
}

export const pause = (ms: number): Promise<void> => new Promise((done) => setTimeout(done, ms));
