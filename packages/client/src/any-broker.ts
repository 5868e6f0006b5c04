/**
 * Calls that any broker answers: tried at one broker after another, with backoff between the rounds,
 * until one answers or the deadline passes. A broker that is silent costs one attempt's time, not the
 * whole deadline.
 */
import { DEFAULT_RETRY, backoffMs } from '@relevo/base/retry';
import { messageOf } from '@relevo/base/errors';
import { RpcError } from '@relevo/base/ports';
import type { Method } from '@relevo/base/ports';
import type { ClientPorts } from './client-ports.ts';
import type { Connections } from './connections.ts';
import {
  ClientError,
  abortedError,
  callError,
  closedError,
  isRetriable,
  mayHaveHappened,
} from './errors.ts';
import { sleep } from './waiting.ts';

/** How long one broker may take before the next is tried, ms. */
const ATTEMPT_MS = 2_000;

export interface AnyBrokerCall {
  /** Says in errors what was tried: `creating topic "orders"`. */
  readonly what: string;
  readonly timeoutMs: number;
  /** Default: 2,000. */
  readonly attemptMs?: number;
  readonly signal?: AbortSignal | undefined;
  /** An address not to begin with. */
  readonly avoid?: string | undefined;
}

export interface AnyBrokerAnswer<Response> {
  readonly response: Response;
  readonly address: string;
  /** An attempt before this one may have had its effect though its answer was lost. */
  readonly retriedBlindly: boolean;
}

/** The last failure, and whether an attempt before it may have had its effect. */
export class CallFailure extends Error {
  readonly error: unknown;
  readonly retriedBlindly: boolean;

  constructor(error: unknown, retriedBlindly: boolean) {
    super(messageOf(error), { cause: error });
    this.error = error;
    this.retriedBlindly = retriedBlindly;
  }
}

export class AnyBroker {
  readonly #ports: Pick<ClientPorts, 'clock' | 'timers' | 'random'>;
  readonly #connections: Connections;
  readonly #addresses: () => readonly string[];
  #next = 0;
  #closed = false;

  /** `addresses`: those worth trying now, at least one. */
  constructor(
    ports: Pick<ClientPorts, 'clock' | 'timers' | 'random'>,
    connections: Connections,
    addresses: () => readonly string[],
  ) {
    this.#ports = ports;
    this.#connections = connections;
    this.#addresses = addresses;
    this.#next = Math.floor(ports.random.float() * 1024);
  }

  /** Calls under way end at their next attempt. */
  close(): void {
    this.#closed = true;
  }

  /** Rejects with a ClientError. */
  async call<Request, Response>(
    method: Method<Request, Response, 'unary'>,
    request: Request,
    options: AnyBrokerCall,
  ): Promise<Response> {
    try {
      return (await this.attempt(method, request, options)).response;
    } catch (thrown) {
      if (!(thrown instanceof CallFailure)) throw thrown;
      throw callError(options.what, thrown.error, thrown.retriedBlindly);
    }
  }

  /** As `call`, but tells what the outcome was reached by; rejects with a CallFailure. */
  async attempt<Request, Response>(
    method: Method<Request, Response, 'unary'>,
    request: Request,
    options: AnyBrokerCall,
  ): Promise<AnyBrokerAnswer<Response>> {
    const { clock, timers, random } = this.#ports;
    const startMs = clock.monotonicMs();
    const deadline = startMs + options.timeoutMs;
    let retriedBlindly = false;
    for (let attempt = 0; ; attempt++) {
      if (options.signal?.aborted === true) throw abortedError(options.what);
      if (this.#closed) throw new CallFailure(closedError('the client'), retriedBlindly);
      const address = this.#pick(options.avoid);
      const left = deadline - clock.monotonicMs();
      try {
        const deadlineMs = Math.max(1, Math.min(left, options.attemptMs ?? ATTEMPT_MS));
        const channel = this.#connections.channel(address);
        const response = await channel.call(method, request, { deadlineMs });
        return { response, address, retriedBlindly };
      } catch (error) {
        const round = Math.floor(attempt / Math.max(1, this.#addresses().length));
        const waitMs = attempt === 0 ? 0 : backoffMs(DEFAULT_RETRY, round, random);
        const now = clock.monotonicMs();
        const isFinal = saysUnknown(error) && now - startMs >= UNKNOWN_PATIENCE_MS;
        if (isFinal || !isRetriable(error)) throw new CallFailure(error, retriedBlindly);
        retriedBlindly ||= mayHaveHappened(error);
        if (now + waitMs >= deadline) throw this.#gaveUp(options, error, retriedBlindly);
        await sleep(timers, waitMs, options.signal);
      }
    }
  }

  #gaveUp(options: AnyBrokerCall, error: unknown, retriedBlindly: boolean): CallFailure {
    const own = error instanceof RpcError && error.code !== undefined;
    const last = own ? error : timedOut(options, error, retriedBlindly);
    return new CallFailure(last, retriedBlindly);
  }

  #pick(avoid: string | undefined): string {
    const addresses = this.#addresses();
    const others = addresses.filter((address) => address !== avoid);
    const choice = others.length > 0 ? others : addresses;
    const address = choice[this.#next++ % choice.length];
    if (address === undefined) throw new ClientError('NO_BROKER', 'no broker is known');
    return address;
  }
}

/**
 * Brokers learn of a topic one after the other, so the first "there is none" may be out of date. One
 * that lasts is true, and whoever mistyped a name should not wait for the whole deadline.
 */
const UNKNOWN_PATIENCE_MS = 500;

const saysUnknown = (error: unknown): boolean =>
  error instanceof RpcError &&
  (error.code === 'UNKNOWN_TOPIC_OR_PARTITION' || error.code === 'UNKNOWN_TOPIC_ID');

const timedOut = (options: AnyBrokerCall, error: unknown, outcomeUnknown: boolean): ClientError =>
  new ClientError(
    'TIMED_OUT',
    `${options.what}: no broker answered within ${options.timeoutMs} ms; the last attempt: ` +
      messageOf(error) +
      (outcomeUnknown ? '; whether it took effect is unknown' : ''),
    { cause: error, outcomeUnknown },
  );
