/**
 * The listening side of membership: each cluster service behind the proofs of `handshake.ts`.
 *
 *     hello ──MemberHello──▶ proof ──MemberProof──▶ request (unary, server stream) ──▶ open
 *                                       └─────────── bidi ─────────────────────────────▲
 */
import { ERRORS, RelevoError, messageOf } from '@relevo/base/errors';
import { brokerId } from '@relevo/base/ids';
import type { BrokerId } from '@relevo/base/ids';
import { isMutated } from '@relevo/base/mutations';
import { RpcError, route as makeRoute } from '@relevo/base/ports';
import type {
  Codec,
  HmacSha256,
  Logger,
  MessageStream,
  Method,
  MethodKind,
  PeerInfo,
  Random,
  Route,
  StreamEvents,
  Timers,
} from '@relevo/base/ports';
import {
  MemberChallengeCodec,
  MemberHelloCodec,
  MemberProofCodec,
} from '@relevo/rpc/gen/cluster/membership';
import { NONCE_BYTES, isProved, proofOf } from './handshake.ts';
import type { Encounter } from './handshake.ts';
import type { RefusalLog } from './refusal-log.ts';

/** A caller that has not proved itself by then is sent away. */
const HANDSHAKE_MS = 5000;
/** Callers that are proving themselves at a time; a cluster has a few for each node. */
const PENDING_MAX = 2000;

/** As bytes: what is in them depends on how far the stream is. */
const RAW: Codec<Uint8Array> = { encode: (bytes) => bytes, decode: (bytes) => bytes };

/** Where a method of the cluster is called with proofs. */
export const memberPath = (path: string): string => path.replace(/^\/relevo\./, '/relevo.member.');

/** A method whose messages are left as bytes. */
export const rawMethod = <Kind extends MethodKind>(
  path: string,
  kind: Kind,
): Method<Uint8Array, Uint8Array, Kind> => ({
  path,
  kind,
  audience: 'cluster',
  request: RAW,
  response: RAW,
});

export interface MemberRoutesDeps {
  readonly timers: Timers;
  readonly random: Random;
  readonly logger: Logger;
  readonly hmacSha256: HmacSha256;
  readonly refusals: Pick<RefusalLog, 'tell'>;
}

export interface MemberRoutesOptions {
  readonly nodeId: BrokerId;
  readonly clusterId: string;
  readonly secrets: readonly Uint8Array[];
  /** Whether callers that prove nothing are refused. */
  readonly required: () => boolean;
}

type State = 'hello' | 'proof' | 'request' | 'open' | 'over';

export class MemberRoutes {
  readonly #deps: MemberRoutesDeps;
  readonly #options: MemberRoutesOptions;
  #pending = 0;

  constructor(deps: MemberRoutesDeps, options: MemberRoutesOptions) {
    this.#deps = deps;
    this.#options = options;
  }

  /** The routes as they are served: what is for the cluster to those who prove themselves. */
  guard(routes: readonly Route[]): readonly Route[] {
    return routes.flatMap((each) =>
      each.method.audience === 'client' ? [each] : [this.#proven(each), this.#unproven(each)],
    );
  }

  #proven(served: Route): Route {
    const path = memberPath(served.method.path);
    return makeRoute(rawMethod(path, 'bidi'), (stream, caller) =>
      this.#accept(served, path, stream, caller),
    );
  }

  /** As it is called by those who know of no proofs, or hold no secret. */
  #unproven(served: Route): Route {
    const { method } = served;
    const check = (caller: PeerInfo): void => {
      if (!this.#options.required() || isMutated('callers-prove-nothing')) return;
      const { address } = caller;
      this.#deps.refusals.tell('refused a caller that proves nothing', {
        address,
        method: method.path,
      });
      throw notProved(
        `${method.path} takes callers that prove that they hold the cluster's secret`,
      );
    };
    // One arm each, as the handlers differ.
    switch (served.kind) {
      case 'unary':
        return {
          ...served,
          handler: async (request: unknown, caller: PeerInfo) => {
            check(caller);
            return served.handler(request, caller);
          },
        };
      case 'serverStream':
        return {
          ...served,
          handler: (request: unknown, stream: MessageStream<unknown>, caller: PeerInfo) => {
            check(caller);
            return served.handler(request, stream, caller);
          },
        };
      case 'bidi':
        return {
          ...served,
          handler: (stream: MessageStream<unknown>, caller: PeerInfo) => {
            check(caller);
            return served.handler(stream, caller);
          },
        };
    }
  }

  #accept(
    served: Route,
    path: string,
    stream: MessageStream<Uint8Array>,
    caller: PeerInfo,
  ): StreamEvents<Uint8Array> {
    if (this.#pending >= PENDING_MAX) {
      throw new RpcError('RESOURCE_EXHAUSTED', `${PENDING_MAX} callers are proving themselves`);
    }
    let state: State = 'hello';
    let encounter: Encounter | undefined;
    let events: StreamEvents<unknown> | undefined;
    this.#pending++;
    const settle = (next: State): void => {
      if (state === 'hello' || state === 'proof') {
        this.#pending--;
        timer.cancel();
      }
      state = next;
    };
    const refuse = (why: string): never => {
      settle('over');
      this.#deps.refusals.tell('refused a caller that is no member', {
        address: caller.address,
        method: served.method.path,
        why,
      });
      throw notProved(why);
    };
    let endTold = false;
    const tellEnd = (error: RpcError | undefined): void => {
      settle('over');
      if (endTold) return;
      endTold = true;
      events?.onEnd(error);
    };
    const timer = this.#deps.timers.after(HANDSHAKE_MS, () => {
      settle('over');
      stream.cancel(toRpcError(notProved(`nothing was proved in ${HANDSHAKE_MS} ms`)));
    });
    return {
      onMessage: (bytes) => {
        switch (state) {
          case 'hello':
            encounter = this.#greet(path, bytes, stream, refuse, settle);
            state = 'proof';
            return;
          case 'proof':
            if (encounter === undefined || !this.#proves(encounter, bytes)) {
              return refuse('the proof is wrong: it takes the secret of this cluster');
            }
            settle(served.kind === 'bidi' ? 'open' : 'request');
            if (served.kind !== 'bidi') return;
            events = served.handler(
              encoding(stream, served.method.response),
              memberOf(caller, encounter),
            );
            return;
          case 'request':
            state = 'open';
            if (encounter === undefined || served.kind === 'bidi') return;
            events = this.#request(served, bytes, stream, memberOf(caller, encounter));
            return;
          case 'open':
            if (served.kind === 'bidi') events?.onMessage(decoded(served.method.request, bytes));
            return;
          case 'over':
            return;
        }
      },
      onDrain: () => events?.onDrain?.(),
      onHalfClose: () => {
        if (events?.onHalfClose !== undefined) return events.onHalfClose();
        // The answer to a request is on its way.
        if (served.kind !== 'bidi' && state === 'open') return;
        tellEnd(undefined);
        stream.end();
      },
      onEnd: tellEnd,
    };
  }

  #greet(
    path: string,
    bytes: Uint8Array,
    stream: MessageStream<Uint8Array>,
    refuse: (why: string) => never,
    settle: (next: State) => void,
  ): Encounter {
    const { clusterId, nodeId, secrets } = this.#options;
    const hello = decoded(MemberHelloCodec, bytes);
    if (hello.clusterId !== clusterId) {
      settle('over');
      const theirs = hello.clusterId.slice(0, 100);
      throw new RelevoError(
        'INCONSISTENT_CLUSTER_ID',
        `node ${hello.nodeId} is configured for cluster "${theirs}", this is "${clusterId}": correct ` +
          'cluster.id or the addresses of the controllers',
      );
    }
    // A node calls itself too: it is a broker of the controller that it runs.
    if (hello.nodeId < 0 || hello.nonce.length !== NONCE_BYTES) {
      return refuse(`node ${hello.nodeId} with a nonce of ${hello.nonce.length} bytes cannot be`);
    }
    const encounter: Encounter = {
      path,
      clusterId,
      callerId: hello.nodeId,
      listenerId: nodeId,
      callerNonce: hello.nonce.slice(),
      listenerNonce: isMutated('nonces-come-again')
        ? new Uint8Array(NONCE_BYTES)
        : this.#deps.random.bytes(NONCE_BYTES),
    };
    stream.send(
      MemberChallengeCodec.encode({
        nodeId,
        nonce: encounter.listenerNonce,
        proof: proofOf('listener', encounter, secrets, this.#deps.hmacSha256),
      }),
    );
    return encounter;
  }

  #proves(encounter: Encounter, bytes: Uint8Array): boolean {
    const { proof } = decoded(MemberProofCodec, bytes);
    const { secrets } = this.#options;
    return isProved('caller', encounter, proof, secrets, this.#deps.hmacSha256);
  }

  #request(
    served: Exclude<Route, { readonly kind: 'bidi' }>,
    bytes: Uint8Array,
    stream: MessageStream<Uint8Array>,
    caller: PeerInfo,
  ): StreamEvents<never> {
    const request = decoded(served.method.request, bytes);
    if (served.kind === 'serverStream') {
      const events = served.handler(request, encoding(stream, served.method.response), caller);
      return {
        onMessage: () => undefined,
        onDrain: () => events.onDrain?.(),
        onEnd: (error) => events.onEnd(error),
      };
    }
    const failed = (thrown: unknown): void => {
      if (!(thrown instanceof RpcError) && !(thrown instanceof RelevoError)) {
        this.#deps.logger.error('rpc handler failed', {
          method: served.method.path,
          error: thrown instanceof Error ? (thrown.stack ?? thrown.message) : String(thrown),
        });
      }
      stream.cancel(toRpcError(thrown));
    };
    served
      .handler(request, caller)
      .then((response) => {
        stream.send(served.method.response.encode(response));
        stream.end();
      })
      .catch(failed);
    return { onMessage: () => undefined, onEnd: () => undefined };
  }
}

const notProved = (message: string): RelevoError =>
  new RelevoError(
    'CLUSTER_AUTHORIZATION_FAILED',
    `${message}. The nodes of a cluster hold one secret (cluster.secret.file)`,
  );

function toRpcError(thrown: unknown): RpcError {
  if (thrown instanceof RpcError) return thrown;
  const code = thrown instanceof RelevoError ? thrown.code : 'UNKNOWN_SERVER_ERROR';
  return new RpcError(ERRORS[code].status, messageOf(thrown), { code });
}

const memberOf = (caller: PeerInfo, { callerId }: Encounter): PeerInfo => ({
  ...caller,
  member: brokerId(callerId),
});

/** As the transports say it of what they decode themselves. */
function decoded<Message>(codec: Codec<Message>, bytes: Uint8Array): Message {
  try {
    return codec.decode(bytes);
  } catch (error) {
    const message = `the request is malformed: ${messageOf(error)}`;
    throw new RpcError('INVALID_ARGUMENT', message, { code: 'INVALID_REQUEST' });
  }
}

const encoding = <Out>(
  stream: MessageStream<Uint8Array>,
  codec: Codec<Out>,
): MessageStream<Out> => ({
  send: (message) => stream.send(codec.encode(message)),
  queuedBytes: () => stream.queuedBytes(),
  end: () => stream.end(),
  cancel: (error) => stream.cancel(error),
  pause: () => stream.pause(),
  resume: () => stream.resume(),
});
