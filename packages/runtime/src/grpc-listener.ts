/**
 * A `Listener` on a server of grpc-js. Our calls are taken over in an interceptor, before grpc-js would
 * wrap them in Node streams: messages are then counted in bytes, and read one by one.
 */
import type { ServerHttp2Session } from 'node:http2';
import type { Socket } from 'node:net';
import { Metadata, Server, ServerCredentials, ServerInterceptingCall } from '@grpc/grpc-js';
import { status as grpcStatus } from '@grpc/grpc-js';
import type { ServerInterceptingCallInterface } from '@grpc/grpc-js';
import { assert } from '@relevo/base/assert';
import { messageOf } from '@relevo/base/errors';
import { RpcError } from '@relevo/base/ports';
import type {
  Listener,
  Logger,
  PeerInfo,
  Route,
  ServerStreamHandler,
  StreamEvents,
  UnaryHandler,
} from '@relevo/base/ports';
import type { ClientBook } from './client-limits.ts';
import { watchConnections, widenStreamWindows } from './grpc-internals.ts';
import { CANCEL_FLUSH_MS, SERVER_OPTIONS, WINDOW_BYTES, WRITES_AHEAD } from './grpc-options.ts';
import { isExpected, toGrpcStatus, toRpcError } from './grpc-status.ts';
import { GrpcStream } from './grpc-stream.ts';

export interface ListenOptions {
  /** host:port; port 0 takes a free one. */
  readonly address: string;
  readonly routes: readonly Route[];
  /** What handlers are told of where a call came to. */
  readonly name: string;
  /** Counts what clients hold open, here and at other listeners. */
  readonly clients: ClientBook;
  readonly logger: Logger;
}

/** As grpc-js names the peer of a call. */
const peerOf = ({ remoteAddress, remotePort }: Socket): string => `${remoteAddress}:${remotePort}`;

const identity = (bytes: Buffer): Buffer => bytes;

export class GrpcListener implements Listener {
  readonly #routes: ReadonlyMap<string, Route>;
  readonly #name: string;
  readonly #clients: ClientBook;
  readonly #logger: Logger;
  readonly #server: Server;
  readonly #sockets: Set<Socket> = new Set();
  readonly #calls: Set<ServerCall> = new Set();
  #address: string;
  #closed: Promise<void> | undefined;

  /** Rejects with an Error that names the address when it cannot be taken. */
  static async open(options: ListenOptions): Promise<GrpcListener> {
    const listener = new GrpcListener(options);
    await listener.#bind();
    return listener;
  }

  private constructor({ address, routes, name, clients, logger }: ListenOptions) {
    this.#name = name;
    this.#clients = clients;
    this.#address = address;
    this.#routes = new Map(routes.map((route) => [route.method.path, route]));
    this.#logger = logger;
    this.#server = new Server({
      ...SERVER_OPTIONS,
      interceptors: [(method, call) => this.#intercept(method.path, call)],
    });
    for (const path of this.#routes.keys()) {
      const added = this.#server.register(path, neverCalled, identity, identity, 'bidi');
      assert(added, 'a method has one handler', { path });
    }
  }

  get address(): string {
    return this.#address;
  }

  close(graceMs: number): Promise<void> {
    this.#closed ??= this.#close(graceMs);
    return this.#closed;
  }

  async #bind(): Promise<void> {
    widenStreamWindows(this.#server, WINDOW_BYTES);
    const asked = this.#address;
    const port = await new Promise<number>((resolve, reject) => {
      this.#server.bindAsync(asked, ServerCredentials.createInsecure(), (error, bound) => {
        if (error === null) resolve(bound);
        else reject(cannotListen(asked, error));
      });
    });
    this.#address = asked.replace(/:\d+$/, `:${port}`);
    watchConnections(
      this.#server,
      (session) => this.#onSession(session),
      (socket) => this.#onSocket(socket),
    );
  }

  #onSession(session: ServerHttp2Session): void {
    session.setLocalWindowSize(WINDOW_BYTES);
    // Garbage on the port ends its own connection, and nothing else.
    session.on('error', () => undefined);
  }

  #onSocket(socket: Socket): void {
    const peer = peerOf(socket);
    this.#sockets.add(socket);
    this.#clients.connected(peer, { close: () => socket.destroy() });
    socket.once('close', () => {
      this.#sockets.delete(socket);
      this.#clients.disconnected(peer);
    });
  }

  #intercept(path: string, call: ServerInterceptingCallInterface): ServerInterceptingCall {
    const route = this.#routes.get(path);
    if (route === undefined) return new ServerInterceptingCall(call);
    return new TakenCall(call, () => {
      const listener = this.#name;
      const peer = { address: call.getPeer(), authority: call.getHost(), listener };
      const { audience } = route.method;
      const refusal = this.#clients.open(peer.address, audience);
      if (refusal !== undefined) {
        refuse(call, refusal);
        return;
      }
      const taken = new ServerCall(route, call, peer, this.#logger, () => {
        this.#calls.delete(taken);
        this.#clients.release(peer.address, audience);
      });
      this.#calls.add(taken);
      taken.start();
    });
  }

  async #close(graceMs: number): Promise<void> {
    let cancelling: NodeJS.Timeout | undefined;
    let cutting: NodeJS.Timeout | undefined;
    const cut = (): void => {
      // Sessions that were told to close wait for peers to close as well, which a frozen one never does.
      for (const socket of this.#sockets) socket.destroy();
    };
    const cancel = (): void => {
      const error = new RpcError('UNAVAILABLE', `${this.#address} is shutting down`);
      for (const call of [...this.#calls]) call.cancel(error);
      cutting = setTimeout(cut, CANCEL_FLUSH_MS);
    };
    await new Promise<void>((resolve) => {
      cancelling = setTimeout(cancel, graceMs);
      this.#server.tryShutdown(() => resolve());
    });
    clearTimeout(cancelling);
    clearTimeout(cutting);
  }
}

function cannotListen(address: string, error: Error): Error {
  const what = `cannot listen on ${address}`;
  const options = { cause: error };
  if (error.message.includes('EADDRINUSE')) {
    const hint = 'stop the process that has it, or choose another port';
    return new Error(`${what}: the port is in use; ${hint}`, options);
  }
  if (error.message.includes('EADDRNOTAVAIL')) {
    return new Error(`${what}: no network interface of this machine has that address`, options);
  }
  if (error.message.includes('EACCES')) {
    return new Error(`${what}: not allowed; choose a port above 1023`, options);
  }
  return new Error(`${what}: ${error.message}`, options);
}

/** Ends a call before anything of it is looked at. */
function refuse(call: ServerInterceptingCallInterface, error: RpcError): void {
  call.start({
    onReceiveMetadata: () => call.sendStatus(toGrpcStatus(error)),
    onReceiveMessage: () => undefined,
    onReceiveHalfClose: () => undefined,
    onCancel: () => undefined,
  });
}

function neverCalled(): never {
  throw new Error('a call that the interceptor has taken over came to its handler');
}

/** Stands where grpc-js would go on to wrap the call in a stream. */
class TakenCall extends ServerInterceptingCall {
  readonly #take: () => void;

  constructor(call: ServerInterceptingCallInterface, take: () => void) {
    super(call);
    this.#take = take;
  }

  override start(): void {
    this.#take();
  }
}

/** One call of any kind, from its headers to its status. */
class ServerCall extends GrpcStream<unknown, unknown> {
  readonly #route: Route;
  readonly #call: ServerInterceptingCallInterface;
  readonly #peer: PeerInfo;
  readonly #logger: Logger;
  readonly #onReleased: () => void;
  /** The request of a call that has one is here. */
  #requested = false;

  constructor(
    route: Route,
    call: ServerInterceptingCallInterface,
    peer: PeerInfo,
    logger: Logger,
    onReleased: () => void,
  ) {
    super(route.method.response, route.method.request);
    this.#route = route;
    this.#call = call;
    this.#peer = peer;
    this.#logger = logger;
    this.#onReleased = onReleased;
  }

  start(): void {
    this.#call.start({
      onReceiveMetadata: () => this.#attachHandler(),
      onReceiveMessage: (message: Buffer) => this.onBytes(message),
      onReceiveHalfClose: () => this.onPeerEnd(),
      onCancel: () => {
        const what = `the call was cancelled by ${this.#peer.address}, or its connection broke`;
        this.finish(new RpcError('CANCELLED', what));
      },
    });
  }

  #attachHandler(): void {
    const route = this.#route;
    switch (route.kind) {
      case 'unary':
        this.attach(this.#unaryEvents(route.handler));
        return;
      case 'serverStream':
        this.attach(this.#serverStreamEvents(route.handler));
        return;
      case 'bidi':
        // So that the caller knows that the stream is open.
        this.#call.sendMetadata(new Metadata());
        this.#guard(() => this.attach(route.handler(this, this.#peer)));
    }
  }

  #unaryEvents(handler: UnaryHandler<unknown, unknown>): StreamEvents<unknown> {
    return {
      onMessage: (request) => {
        if (this.#requested) return;
        this.#requested = true;
        handler(request, this.#peer).then(
          (response) =>
            this.#guard(() => {
              this.send(response);
              this.end();
            }),
          (thrown: unknown) => this.handlerFailed(thrown),
        );
      },
      onEnd: () => undefined,
    };
  }

  #serverStreamEvents(handler: ServerStreamHandler<unknown, unknown>): StreamEvents<unknown> {
    let events: ReturnType<typeof handler> | undefined;
    return {
      onMessage: (request) => {
        if (this.#requested) return;
        this.#requested = true;
        this.#call.sendMetadata(new Metadata());
        events = handler(request, this, this.#peer);
      },
      onDrain: () => events?.onDrain?.(),
      onEnd: (error) => events?.onEnd(error),
    };
  }

  /** What throws here is the handler or the encoding of what it answered. */
  #guard(run: () => void): void {
    try {
      run();
    } catch (thrown) {
      this.handlerFailed(thrown);
    }
  }

  protected override peerEnded(): void {
    if (this.#route.kind === 'bidi') {
      if (this.tellHalfClose()) return;
      this.tellEnd(undefined);
      // Callers of other languages wait for the end of our half.
      this.end();
    } else if (!this.#requested) {
      this.cancel(new RpcError('INVALID_ARGUMENT', 'the call ended before its request came'));
    }
  }

  protected override handlerFailed(thrown: unknown): void {
    if (!isExpected(thrown)) {
      this.#logger.error('rpc handler failed', {
        method: this.#route.method.path,
        peer: this.#peer.address,
        error: thrown instanceof Error ? (thrown.stack ?? thrown.message) : String(thrown),
      });
    }
    this.cancel(toRpcError(thrown));
  }

  protected override requestRead(): void {
    this.#call.startRead();
  }

  protected override write(bytes: Buffer, done: () => void): void {
    this.#call.sendMessage(bytes, done);
  }

  protected override writesAhead(): number {
    return WRITES_AHEAD;
  }

  protected override closeSending(): void {
    this.#call.sendStatus({ code: grpcStatus.OK, details: '' });
    this.finish(undefined);
  }

  protected override abort(error: RpcError): void {
    this.#call.sendStatus(toGrpcStatus(error));
  }

  protected override undecodable(error: unknown): RpcError {
    const what = `the request to ${this.#route.method.path} is malformed: ${messageOf(error)}`;
    return new RpcError('INVALID_ARGUMENT', what, { code: 'INVALID_REQUEST' });
  }

  protected override released(): void {
    this.#onReleased();
  }
}
