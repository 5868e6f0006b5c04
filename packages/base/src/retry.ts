import type { Random } from './ports.ts';

/** One retry policy for everything that retries: exponential backoff with full-range jitter. */
export interface RetryPolicy {
  /** Before the first retry, in ms. */
  readonly initialMs: number;
  readonly maxMs: number;
  /** Growth from one wait to the next. */
  readonly factor: number;
  /** 0.2 means that a wait is varied by up to a fifth either way. */
  readonly jitter: number;
}

export const DEFAULT_RETRY: RetryPolicy = { initialMs: 20, maxMs: 1000, factor: 2, jitter: 0.2 };

/** How long to wait before retry number `attempt` (from 0). */
export function backoffMs(policy: RetryPolicy, attempt: number, random: Random): number {
  const plain = Math.min(policy.maxMs, policy.initialMs * policy.factor ** Math.min(attempt, 30));
  return plain * (1 + policy.jitter * (random.float() * 2 - 1));
}
