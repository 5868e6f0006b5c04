/** Whether a log may be used, and why not. Offline is for good: the log is opened anew. */
import { messageOf } from '@relevo/base/errors';
import { DiskError } from '@relevo/base/ports';
import type { Logger } from '@relevo/base/ports';
import { BatchError } from '@relevo/record/batch-error';
import { LogError } from './log-error.ts';
import { ReadFault } from './read-plan.ts';

export interface HealthEvents {
  /** Once, when the log goes offline. */
  readonly onOffline?: ((reason: LogError) => void) | undefined;
  /** What was written may not be on the disk, whatever later reads and syncs say. */
  readonly writeFailed?: (() => void) | undefined;
}

export type LogState = 'online' | 'offline' | 'closed';

export class LogHealth {
  readonly #directory: string;
  readonly #logger: Logger;
  readonly #events: HealthEvents;
  #state: LogState = 'online';
  #reason: LogError | undefined;

  constructor(directory: string, logger: Logger, events: HealthEvents = {}) {
    this.#directory = directory;
    this.#logger = logger;
    this.#events = events;
  }

  get state(): LogState {
    return this.#state;
  }

  /** Why it is offline. */
  get reason(): LogError | undefined {
    return this.#reason;
  }

  /** What to throw where the log is not online. */
  get refusal(): LogError {
    return this.#reason ?? new LogError('closed', `the log in ${this.#directory} is closed`);
  }

  assertOnline(): void {
    if (this.#state !== 'online') throw this.refusal;
  }

  close(): void {
    if (this.#state === 'online') this.#state = 'closed';
  }

  /**
   * Takes the log offline (L3); what to throw. `during`: a failed read leaves no doubt of what is written, nor
   * does a write that found no room; a sync that found none may have lost what it was to save.
   */
  fail(what: string, cause: unknown, during: 'read' | 'write' | 'sync' = 'write'): LogError {
    const isDisk = cause instanceof DiskError && (cause.code !== 'FULL' || during === 'sync');
    if (isDisk && during !== 'read') this.#events.writeFailed?.();
    if (this.#state === 'offline') return this.refusal;
    const message = `${what}: ${messageOf(cause)}`;
    if (this.#state === 'closed') {
      return new LogError('closed', `the log in ${this.#directory} is closed: ${message}`, {
        cause,
      });
    }
    const isDamage =
      cause instanceof ReadFault ||
      cause instanceof BatchError ||
      (cause instanceof LogError && cause.kind === 'corrupt');
    const reason = new LogError(
      isDamage ? 'corrupt' : 'offline',
      `the log in ${this.#directory} is offline: ${message}`,
      { cause },
    );
    this.#state = 'offline';
    this.#reason = reason;
    const { onOffline } = this.#events;
    // The owner tells of it, and knows what is to be done.
    if (onOffline !== undefined) onOffline(reason);
    else this.#logger.error('log went offline', { reason: reason.message });
    return reason;
  }
}
