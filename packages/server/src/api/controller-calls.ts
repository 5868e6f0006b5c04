/**
 * Calls that only the active controller can answer, taken by any broker: executed here when this node is
 * it, else handed on. While there is no active controller, or it moves, the call is tried again until
 * its deadline. A try whose answer was lost may have been carried out, and may be the very reason why a later
 * one is refused ("the topic does not exist"): such a refusal is told as an unknown outcome.
 */
import { RelevoError, messageOf } from '@relevo/base/errors';
import type { ErrorCode } from '@relevo/base/errors';
import { RpcError } from '@relevo/base/ports';
import type { Channel, Clock, Method, Random, Timers, Transport } from '@relevo/base/ports';
import { backoffMs, DEFAULT_RETRY } from '@relevo/base/retry';

/** How long a call waits for an active controller. */
export const CONTROLLER_CALL_DEADLINE_MS = 10_000;
/** One attempt at another node; a larger topic's creation takes tens of milliseconds. */
const ATTEMPT_DEADLINE_MS = 5000;

export interface ControllerCallsDeps {
  readonly clock: Clock;
  readonly timers: Timers;
  readonly random: Random;
  readonly transport: Transport;
  /** Whether this node is the active controller. */
  readonly isActive: () => boolean;
  /** Where the active controller is, as far as this node knows. */
  readonly controllerAddress: () => string | undefined;
}

export class ControllerCalls {
  readonly #deps: ControllerCallsDeps;
  #channel: Channel | undefined;

  constructor(deps: ControllerCallsDeps) {
    this.#deps = deps;
  }

  /**
   * `execute` runs where this node is the active controller, else `method` is called there. Rejects with
   * what that rejects with, with NOT_CONTROLLER when none was found in time, or with REQUEST_TIMED_OUT where
   * an earlier try may have been carried out.
   */
  async call<Request, Response>(
    method: Method<Request, Response, 'unary'>,
    request: Request,
    execute: (request: Request) => Promise<Response>,
  ): Promise<Response> {
    const { clock, timers, random } = this.#deps;
    const endMs = clock.monotonicMs() + CONTROLLER_CALL_DEADLINE_MS;
    let last = 'no controller is active';
    let isUnsure = false;
    for (let attempt = 0; ; attempt++) {
      const leftMs = endMs - clock.monotonicMs();
      if (leftMs <= 0) break;
      try {
        if (this.#deps.isActive()) return await execute(request);
        const channel = this.#channelToController();
        if (channel !== undefined) {
          const deadlineMs = Math.min(leftMs, ATTEMPT_DEADLINE_MS);
          return await channel.call(method, request, { deadlineMs });
        }
      } catch (error) {
        if (!mayTryAgain(error)) {
          throw isUnsure ? unsure(asRelevoError(error)) : asRelevoError(error);
        }
        isUnsure = true;
        last = messageOf(error);
      }
      const waitMs = backoffMs({ ...DEFAULT_RETRY, maxMs: 250 }, attempt, random);
      await new Promise<void>((resume) => timers.after(waitMs, resume));
    }
    throw new RelevoError(
      'NOT_CONTROLLER',
      `no active controller answered within ${CONTROLLER_CALL_DEADLINE_MS} ms (${last}): ` +
        'check that a majority of the controllers is running',
    );
  }

  close(): void {
    this.#channel?.close();
    this.#channel = undefined;
  }

  #channelToController(): Channel | undefined {
    const address = this.#deps.controllerAddress();
    if (address === undefined) return undefined;
    if (this.#channel?.address !== address) {
      this.#channel?.close();
      this.#channel = this.#deps.transport.dial(address);
    }
    return this.#channel;
  }
}

/** Another controller may take it; every command may be repeated without harm. */
function mayTryAgain(error: unknown): boolean {
  if (error instanceof RelevoError) return error.code === 'NOT_CONTROLLER';
  if (!(error instanceof RpcError)) return false;
  if (error.code !== undefined) return error.code === 'NOT_CONTROLLER';
  // UNIMPLEMENTED: an older version leads while the brokers are exchanged one by one.
  const { status } = error;
  return status === 'UNAVAILABLE' || status === 'CANCELLED' || status === 'UNIMPLEMENTED';
}

/** Refusals that an earlier try of the same call, carried out unheard, would cause. */
const MAY_BE_OWN_DOING: ReadonlySet<ErrorCode> = new Set<ErrorCode>([
  'UNKNOWN_TOPIC_OR_PARTITION',
  'TOPIC_ALREADY_EXISTS',
  'INVALID_PARTITIONS',
]);

function unsure(error: unknown): unknown {
  if (!(error instanceof RelevoError) || !MAY_BE_OWN_DOING.has(error.code)) return error;
  const message =
    `an earlier try of this call was not answered and may have been carried out; now the controller ` +
    `says: ${error.message}: look before you retry`;
  return new RelevoError('REQUEST_TIMED_OUT', message, { cause: error });
}

/** What another node said is passed on under its own code. */
function asRelevoError(error: unknown): unknown {
  if (!(error instanceof RpcError)) return error;
  if (error.code !== undefined) return new RelevoError(error.code, error.message);
  if (error.status === 'DEADLINE_EXCEEDED') {
    return new RelevoError(
      'REQUEST_TIMED_OUT',
      'the active controller did not answer in time: whether it was done is unknown; look before you retry',
    );
  }
  return error;
}
