/**
 * Calls to the active controller, wherever it is. A call is tried again, at the next address if need be,
 * until its deadline; one try takes at most a third of a session, so that a controller that hangs does not
 * cost the broker its own (mistake 27). Every method here may be repeated without harm.
 */
import { RelevoError, messageOf } from '@relevo/base/errors';
import { RpcError } from '@relevo/base/ports';
import type { Channel, Clock, Method, Random, Timers, Transport } from '@relevo/base/ports';
import { backoffMs } from '@relevo/base/retry';
import type { RetryPolicy } from '@relevo/base/retry';
import { ControllerService as methods } from '@relevo/rpc/gen/cluster/controller';
import type {
  AllocateProducerIdsRequest,
  AllocateProducerIdsResponse,
  AlterPartitionsRequest,
  AlterPartitionsResponse,
  ReportReplicasRequest,
  ReportReplicasResponse,
} from '@relevo/rpc/gen/cluster/controller';
import type { MetadataPublisher } from '../metadata/metadata-publisher.ts';
import { ControllerLocator } from './controller-locator.ts';

/** Fast at first: a controller that has just lost or gained leadership is found within milliseconds. */
export const CONTROLLER_RETRY: RetryPolicy = { initialMs: 10, maxMs: 250, factor: 2, jitter: 0.2 };
/** Of calls that name none: longer than any failover of the controller. */
const DEFAULT_DEADLINE = { deadlineMs: 5000 };
/** Asked through a chain of hints without a pause in between. */
const HINTS_MAX = 3;

export interface ControllerClientDeps {
  readonly clock: Clock;
  readonly timers: Timers;
  readonly random: Random;
  readonly transport: Transport;
  readonly publisher: MetadataPublisher;
}

export interface ControllerAnswer<Response> {
  readonly response: Response;
  /** A try before this one got no answer: it may have been carried out, or may yet be. */
  readonly triedBefore: boolean;
}

export interface ControllerClientOptions {
  /** host:port of every controller; at least one. */
  readonly controllers: readonly string[];
  /** A try takes at most a third of it. */
  readonly sessionTimeoutMs: number;
}

export class ControllerClient {
  readonly #deps: ControllerClientDeps;
  readonly #locator: ControllerLocator;
  readonly #tryMs: number;
  readonly #channels = new Map<string, Channel>();
  readonly #unsubscribe: () => void;
  #closed = false;

  constructor(deps: ControllerClientDeps, options: ControllerClientOptions) {
    const { publisher } = deps;
    this.#deps = deps;
    this.#tryMs = options.sessionTimeoutMs / 3;
    this.#locator = new ControllerLocator({
      addresses: options.controllers,
      known: () => publisher.controller(),
    });
    this.#unsubscribe = publisher.onController(() => this.#locator.moved());
  }

  /** A channel to whom to ask now. Kept open; say `failed` or `worked` afterwards. */
  channel(): Channel {
    const address = this.#locator.address();
    const known = this.#channels.get(address);
    if (known !== undefined) return known;
    const channel = this.#deps.transport.dial(address);
    this.#channels.set(address, channel);
    return channel;
  }

  /** True: another one is named, which may be asked at once. */
  failed(channel: Channel, error: unknown): boolean {
    return this.#locator.failed(channel.address, error);
  }

  worked(channel: Channel): void {
    this.#locator.worked(channel.address);
  }

  /** One try. Rejects with an RpcError. */
  async tryOnce<Request, Response>(
    method: Method<Request, Response, 'unary'>,
    request: Request,
    deadlineMs: number = this.#tryMs,
  ): Promise<Response> {
    const channel = this.channel();
    try {
      const response = await channel.call(method, request, {
        deadlineMs: Math.min(deadlineMs, this.#tryMs),
      });
      this.worked(channel);
      return response;
    } catch (error) {
      if (mayTryElsewhere(error)) throw new Elsewhere(error, this.failed(channel, error));
      throw error;
    }
  }

  /** As `attempt`, where it does not matter whether an earlier try was carried out. */
  async call<Request, Response>(
    method: Method<Request, Response, 'unary'>,
    request: Request,
    options: { readonly deadlineMs: number },
  ): Promise<Response> {
    return (await this.attempt(method, request, options)).response;
  }

  /**
   * Tries until `deadlineMs` from now have passed. Rejects with a RelevoError: the controller's refusal,
   * or REQUEST_TIMED_OUT when no controller answered: whether it was done is then unknown.
   */
  async attempt<Request, Response>(
    method: Method<Request, Response, 'unary'>,
    request: Request,
    options: { readonly deadlineMs: number },
  ): Promise<ControllerAnswer<Response>> {
    const { clock, timers, random } = this.#deps;
    const endMs = clock.monotonicMs() + options.deadlineMs;
    let last = '';
    let hints = 0;
    for (let attempt = 0; !this.#closed; attempt++) {
      const leftMs = endMs - clock.monotonicMs();
      if (leftMs <= 0) break;
      try {
        const response = await this.tryOnce(method, request, leftMs);
        return { response, triedBefore: attempt > 0 };
      } catch (error) {
        if (!(error instanceof Elsewhere)) throw refusalOf(error);
        last = messageOf(error.cause);
        if (error.atOnce && hints++ < HINTS_MAX) continue;
      }
      hints = 0;
      const waitMs = backoffMs(CONTROLLER_RETRY, attempt, random);
      await new Promise<void>((resume) => timers.after(waitMs, resume));
    }
    const name = method.path.slice(method.path.lastIndexOf('/') + 1);
    if (this.#closed) throw new RelevoError('SHUTTING_DOWN', `${name}: this broker is stopping`);
    throw new RelevoError(
      'REQUEST_TIMED_OUT',
      `no controller answered ${name} within ${options.deadlineMs} ms (${last}): ` +
        'check that a majority of the controllers is running',
    );
  }

  /** Proposes in-sync sets; each partition has its own outcome. */
  alterPartitions(
    request: AlterPartitionsRequest,
    options: { readonly deadlineMs: number } = DEFAULT_DEADLINE,
  ): Promise<ControllerAnswer<AlterPartitionsResponse>> {
    return this.attempt(methods.alterPartitions, request, options);
  }

  /** Says which replicas of this broker cannot be used, and which can be again. */
  reportReplicas(
    request: ReportReplicasRequest,
    options: { readonly deadlineMs: number } = DEFAULT_DEADLINE,
  ): Promise<ReportReplicasResponse> {
    return this.call(methods.reportReplicas, request, options);
  }

  /** A block of producer ids that nobody else has or will have. */
  allocateProducerIds(
    request: AllocateProducerIdsRequest,
    options: { readonly deadlineMs: number } = DEFAULT_DEADLINE,
  ): Promise<AllocateProducerIdsResponse> {
    return this.call(methods.allocateProducerIds, request, options);
  }

  close(): void {
    this.#closed = true;
    this.#unsubscribe();
    for (const channel of this.#channels.values()) channel.close();
    this.#channels.clear();
  }
}

/** A try that failed for where it was made, not for what was asked. */
export class Elsewhere extends Error {
  override readonly name = 'Elsewhere';
  /** Another controller was named. */
  readonly atOnce: boolean;

  constructor(cause: unknown, atOnce: boolean) {
    super(messageOf(cause), { cause });
    this.atOnce = atOnce;
  }
}

function mayTryElsewhere(error: unknown): boolean {
  if (!(error instanceof RpcError)) return false;
  // One whose secret differs is for its operator to see to; another may know ours.
  if (error.code === 'CLUSTER_AUTHORIZATION_FAILED') return true;
  if (error.code !== undefined) return error.code === 'NOT_CONTROLLER';
  return (
    error.status === 'UNAVAILABLE' ||
    error.status === 'CANCELLED' ||
    error.status === 'DEADLINE_EXCEEDED'
  );
}

/** What the controller said, under its own code. */
function refusalOf(error: unknown): unknown {
  if (!(error instanceof RpcError) || error.code === undefined) return error;
  return new RelevoError(error.code, error.message);
}
