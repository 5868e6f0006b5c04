/** Waits that always end: by what they wait for, by their deadline, or by a signal. */
import type { Timers, TimerHandle } from '@relevo/base/ports';
import { abortedError } from './errors.ts';

/** Resolves after `ms`; rejects with ABORTED when the signal fires before. */
export function sleep(timers: Timers, ms: number, signal?: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    if (signal?.aborted === true) {
      reject(abortedError('the wait'));
      return;
    }
    const abort = (): void => {
      timer.cancel();
      reject(abortedError('the wait', { cause: signal?.reason }));
    };
    const timer = timers.after(ms, () => {
      signal?.removeEventListener('abort', abort);
      resolve();
    });
    signal?.addEventListener('abort', abort, { once: true });
  });
}

/** One that is settled from outside, once. */
export interface Deferred<Value> {
  readonly promise: Promise<Value>;
  resolve(value: Value): void;
  reject(error: Error): void;
}

export function deferred<Value>(): Deferred<Value> {
  let resolve: (value: Value) => void = () => undefined;
  let reject: (error: Error) => void = () => undefined;
  const promise = new Promise<Value>((onResolve, onReject) => {
    resolve = onResolve;
    reject = onReject;
  });
  return { promise, resolve, reject };
}

export interface WaitOptions {
  readonly timers: Timers;
  readonly timeoutMs: number;
  /** What the wait fails with when its time is up. */
  readonly onTimeout: () => Error;
  readonly signal?: AbortSignal | undefined;
}

/** Ends `wait` with an error when its time is up or the signal fires. */
export function bounded<Value>(wait: Deferred<Value>, options: WaitOptions): Promise<Value> {
  const { timers, timeoutMs, onTimeout, signal } = options;
  const abort = (): void => wait.reject(abortedError('the wait', { cause: signal?.reason }));
  if (signal?.aborted === true) abort();
  const timer: TimerHandle = timers.after(timeoutMs, () => wait.reject(onTimeout()));
  signal?.addEventListener('abort', abort, { once: true });
  return wait.promise.finally(() => {
    timer.cancel();
    signal?.removeEventListener('abort', abort);
  });
}
