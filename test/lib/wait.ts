import { performance } from 'node:perf_hooks';

/**
 * Waits until `condition` gives something other than undefined or false. When the deadline passes the
 * error shows `state()`, so that a failed wait explains itself.
 */
export async function until<Value>(
  what: string,
  condition: () => Value | undefined | false | Promise<Value | undefined | false>,
  options: { deadlineMs?: number; everyMs?: number; state?: () => unknown } = {},
): Promise<Value> {
  const end = performance.now() + (options.deadlineMs ?? 20_000);
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
  throw new Error(`waited ${options.deadlineMs ?? 20_000} ms for ${what}${state}${cause}`);
}

export const pause = (ms: number): Promise<void> => new Promise((done) => setTimeout(done, ms));
