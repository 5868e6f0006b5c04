/**
 * The calling side of membership: a channel whose calls of cluster services begin with the proofs of
 * `handshake.ts`; all others pass through. What is sent before the listener has proved itself waits here.
 *
 *     greeting ──it is proved──▶ open
 *        └──the path is not served there, and proofs are not demanded yet──▶ open, without proofs
 */
import { messageOf } from '@relevo/base/errors';
import { RPC_MESSAGE_BYTES_MAX } from '@relevo/base/limits';
import { RpcError } from '@relevo/base/ports';
import type {
  CallOptions,
  Channel,
  HmacSha256,
  MessageStream,
  Method,
  Random,
  StreamEvents,
  Timers,
} from '@relevo/base/ports';
import {
  MemberChallengeCodec,
  MemberHelloCodec,
  MemberProofCodec,
} from '@relevo/rpc/gen/cluster/membership';
import type { MemberChallenge } from '@relevo/rpc/gen/cluster/membership';
import { NONCE_BYTES, isProved, proofOf } from './handshake.ts';
import type { Encounter } from './handshake.ts';
import { memberPath, rawMethod } from './member-routes.ts';
import type { MemberRoutesOptions } from './member-routes.ts';
import type { RefusalLog } from './refusal-log.ts';
import type { SecretTroubles } from './secret-troubles.ts';

/** `send` answers false when more waits for the listener's proof. */
const WAITING_BYTES_MAX = 8 * 2 ** 20;

export interface MemberChannelDeps {
  readonly timers: Timers;
  readonly random: Random;
  readonly hmacSha256: HmacSha256;
  readonly refusals: Pick<RefusalLog, 'tell'>;
  /** Undefined: nobody is told whether secrets fit. */
  readonly troubles?: SecretTroubles;
}

export type MemberChannelOptions = MemberRoutesOptions;

export class MemberChannel implements Channel {
  readonly #inner: Channel;
  readonly #deps: MemberChannelDeps;
  readonly #options: MemberChannelOptions;

  constructor(inner: Channel, deps: MemberChannelDeps, options: MemberChannelOptions) {
    this.#inner = inner;
    this.#deps = deps;
    this.#options = options;
  }

  get address(): string {
    return this.#inner.address;
  }

  async call<Request, Response>(
    method: Method<Request, Response, 'unary'>,
    request: Request,
    options: CallOptions,
  ): Promise<Response> {
    if (method.audience === 'client') return this.#inner.call(method, request, options);
    const { deadlineMs } = options;
    return new Promise((resolve, reject) => {
      const answers: Response[] = [];
      const events: StreamEvents<Response> = {
        onMessage: (answer) => answers.push(answer),
        onEnd: (error) => {
          timer.cancel();
          const [answer] = answers;
          if (error !== undefined) reject(error);
          else if (answer !== undefined) resolve(answer);
          else reject(new RpcError('INTERNAL', `${this.address}: ${method.path} gave no answer`));
        },
      };
      const stream = this.#start(method, events, deadlineMs);
      const timer = this.#deps.timers.after(Math.max(0, deadlineMs), () => {
        const late = `no answer to ${method.path} in ${deadlineMs} ms; its outcome is unknown`;
        stream.cancel(new RpcError('DEADLINE_EXCEEDED', `${this.address}: ${late}`));
      });
      stream.send(request);
    });
  }

  subscribe<Request, Response>(
    method: Method<Request, Response, 'serverStream'>,
    request: Request,
    events: StreamEvents<Response>,
  ): MessageStream<never> {
    if (method.audience === 'client') return this.#inner.subscribe(method, request, events);
    const stream = this.#start(method, events);
    stream.send(request);
    return stream;
  }

  open<Request, Response>(
    method: Method<Request, Response, 'bidi'>,
    events: StreamEvents<Response>,
  ): MessageStream<Request> {
    if (method.audience === 'client') return this.#inner.open(method, events);
    return this.#start(method, events);
  }

  close(): void {
    this.#inner.close();
  }

  #start<Request, Response>(
    method: Method<Request, Response>,
    events: StreamEvents<Response>,
    deadlineMs = 0,
  ): MemberStream<Request, Response> {
    return new MemberStream(this.#inner, method, events, this.#deps, this.#options, deadlineMs);
  }
}

class MemberStream<Out, In> implements MessageStream<Out> {
  readonly #channel: Channel;
  readonly #method: Method<Out, In>;
  readonly #events: StreamEvents<In>;
  readonly #deps: MemberChannelDeps;
  readonly #options: MemberChannelOptions;
  /** Of a unary call: its deadline. */
  readonly #leftMs: number;
  readonly #path: string;
  readonly #nonce: Uint8Array;
  #inner: MessageStream<Uint8Array>;
  #greeting = true;
  /** An answer has come: the listener takes the proof. */
  #isHeard = false;
  #waiting: Uint8Array[] = [];
  #waitingBytes = 0;
  #wantsDrain = false;
  #ending = false;
  #paused = false;

  constructor(
    channel: Channel,
    method: Method<Out, In>,
    events: StreamEvents<In>,
    deps: MemberChannelDeps,
    options: MemberChannelOptions,
    deadlineMs: number,
  ) {
    this.#leftMs = deadlineMs;
    this.#channel = channel;
    this.#method = method;
    this.#events = events;
    this.#deps = deps;
    this.#options = options;
    this.#path = memberPath(method.path);
    this.#nonce = deps.random.bytes(NONCE_BYTES);
    this.#inner = channel.open(rawMethod(this.#path, 'bidi'), this.#received(true));
    const { clusterId, nodeId } = options;
    this.#inner.send(MemberHelloCodec.encode({ clusterId, nodeId, nonce: this.#nonce }));
  }

  send(message: Out): boolean {
    const bytes = this.#method.request.encode(message);
    if (!this.#greeting) return this.#inner.send(bytes);
    if (this.#ending) return false;
    if (bytes.length > RPC_MESSAGE_BYTES_MAX) {
      const what = `a message of ${bytes.length} bytes; the limit is ${RPC_MESSAGE_BYTES_MAX}`;
      this.cancel(new RpcError('RESOURCE_EXHAUSTED', what));
      return false;
    }
    this.#waiting.push(bytes);
    this.#waitingBytes += bytes.length;
    if (this.#waitingBytes <= WAITING_BYTES_MAX) return true;
    this.#wantsDrain = true;
    return false;
  }

  queuedBytes(): number {
    return this.#waitingBytes + this.#inner.queuedBytes();
  }

  end(): void {
    if (this.#greeting) this.#ending = true;
    else this.#inner.end();
  }

  cancel(error: RpcError): void {
    this.#drop();
    this.#inner.cancel(error);
  }

  pause(): void {
    this.#paused = true;
    if (!this.#greeting) this.#inner.pause();
  }

  resume(): void {
    this.#paused = false;
    if (!this.#greeting) this.#inner.resume();
  }

  #received(proving: boolean): StreamEvents<Uint8Array> {
    return {
      onMessage: (bytes) => {
        if (this.#greeting) this.#challenged(bytes);
        else this.#deliver(bytes);
      },
      onDrain: () => this.#events.onDrain?.(),
      onEnd: (error) => {
        if (proving && this.#greeting) {
          this.#ended(error);
          return;
        }
        if (proving && error?.code === 'CLUSTER_AUTHORIZATION_FAILED' && !this.#isHeard) {
          this.#deps.troubles?.differs(this.#channel.address);
        }
        this.#events.onEnd(error);
      },
    };
  }

  #deliver(bytes: Uint8Array): void {
    if (!this.#isHeard) this.#deps.troubles?.fits(this.#channel.address);
    this.#isHeard = true;
    let message: In;
    try {
      message = this.#method.response.decode(bytes);
    } catch (error) {
      const { address } = this.#channel;
      const what = `${address}: an answer is malformed: ${messageOf(error)}`;
      this.cancel(new RpcError('INTERNAL', what));
      return;
    }
    this.#events.onMessage(message);
  }

  #challenged(bytes: Uint8Array): void {
    const challenge = challengeIn(bytes);
    const { clusterId, nodeId, secrets } = this.#options;
    const { hmacSha256 } = this.#deps;
    const encounter: Encounter | undefined = challenge && {
      path: this.#path,
      clusterId,
      callerId: nodeId,
      listenerId: challenge.nodeId,
      callerNonce: this.#nonce,
      listenerNonce: challenge.nonce,
    };
    if (
      challenge === undefined ||
      encounter === undefined ||
      !isProved('listener', encounter, challenge.proof, secrets, hmacSha256)
    ) {
      if (challenge !== undefined) this.#deps.troubles?.differs(this.#channel.address);
      this.cancel(this.#unproved('its proof is wrong'));
      return;
    }
    const proof = proofOf('caller', encounter, secrets, hmacSha256);
    this.#inner.send(MemberProofCodec.encode({ proof }));
    this.#flush();
  }

  /** The way is free: what waited goes out. */
  #flush(): void {
    this.#greeting = false;
    const waiting = this.#waiting;
    const wantsDrain = this.#wantsDrain;
    this.#drop();
    let roomLeft = true;
    for (const bytes of waiting) roomLeft = this.#inner.send(bytes);
    if (this.#paused) this.#inner.pause();
    if (this.#ending) this.#inner.end();
    if (wantsDrain && roomLeft) this.#events.onDrain?.();
  }

  /** Before anything was proved. */
  #ended(error: RpcError | undefined): void {
    if (error?.status === 'UNIMPLEMENTED' && error.code === undefined) {
      if (!this.#options.required()) {
        this.#goOnUnproved();
        return;
      }
      this.#events.onEnd(this.#unproved('it knows of no proofs'));
    } else {
      this.#events.onEnd(error ?? this.#unproved('it ended the call'));
    }
    this.#drop();
  }

  /** The node has yet to be restarted with a secret, or with a version that knows of proofs. */
  #goOnUnproved(): void {
    const { kind, path } = this.#method;
    const { address } = this.#channel;
    this.#deps.refusals.tell('a node of the cluster proves nothing yet', { address });
    if (kind === 'bidi') {
      this.#inner = this.#channel.open(rawMethod(path, 'bidi'), this.#received(false));
      this.#flush();
      return;
    }
    // The request waits; nothing else is ever sent.
    const [request] = this.#waiting;
    if (request === undefined) throw new RangeError(`${path} takes one request`);
    this.#drop();
    this.#greeting = false;
    const events = this.#received(false);
    if (kind === 'serverStream') {
      this.#inner = this.#channel.subscribe(rawMethod(path, kind), request, events);
      return;
    }
    const call = this.#channel.call(rawMethod(path, 'unary'), request, {
      deadlineMs: this.#leftMs,
    });
    call.then(
      (answer) => {
        this.#deliver(answer);
        this.#events.onEnd(undefined);
      },
      // Whatever rejects a call is an RpcError.
      (error: unknown) => this.#events.onEnd(error as RpcError),
    );
  }

  #unproved(why: string): RpcError {
    const { address } = this.#channel;
    this.#deps.refusals.tell('a listener has not proved that it is of this cluster', {
      address,
      why,
    });
    return new RpcError(
      'UNAVAILABLE',
      `${address} has not proved that it holds the cluster's secret: ${why}; look at the ` +
        'cluster.secret.file of the node there',
    );
  }

  #drop(): void {
    this.#waiting = [];
    this.#waitingBytes = 0;
    this.#wantsDrain = false;
  }
}

/** Undefined: it is none. */
function challengeIn(bytes: Uint8Array): MemberChallenge | undefined {
  try {
    const challenge = MemberChallengeCodec.decode(bytes);
    return challenge.nodeId >= 0 && challenge.nonce.length === NONCE_BYTES ? challenge : undefined;
  } catch {
    return undefined;
  }
}
