/**
 * A `Channel` on one channel of grpc-js, which is replaced as soon as it fails to connect: grpc-js would
 * refuse calls until its back-off is over, although the broker may be up again. So each call after a
 * failure dials at once, and fails at once where nobody listens; how often to try is the caller's choice.
 */
import { Channel as GrpcChannel, Metadata, connectivityState, credentials } from '@grpc/grpc-js';
import { status as grpcStatus } from '@grpc/grpc-js';
import type { ChannelInterface, StatusObject } from '@grpc/grpc-js';
import { messageOf } from '@relevo/base/errors';
import { RpcError } from '@relevo/base/ports';
import type {
  CallOptions,
  Channel,
  Codec,
  MessageStream,
  Method,
  StreamEvents,
} from '@relevo/base/ports';
import {
  CHANNEL_OPTIONS,
  CONNECT_TIMEOUT_MS,
  MESSAGE_BYTES_MAX,
  WRITES_AHEAD,
} from './grpc-options.ts';
import { fromGrpcStatus } from './grpc-status.ts';
import { GrpcStream, asBuffer, tooLarge } from './grpc-stream.ts';

type GrpcCall = ReturnType<ChannelInterface['createCall']>;

/** Codec of the messages that a side never sends. */
const NOTHING: Codec<never> = {
  encode: () => new Uint8Array(0),
  decode: () => {
    throw new Error('nothing was to come here');
  },
};

export class GrpcClientChannel implements Channel {
  readonly address: string;
  #channel: ChannelInterface | undefined;
  #connectTimer: NodeJS.Timeout | undefined;
  readonly #streams: Set<ClientStream<unknown, unknown>> = new Set();
  #closed = false;

  constructor(address: string) {
    this.address = address;
  }

  call<Request, Response>(
    method: Method<Request, Response, 'unary'>,
    request: Request,
    options: CallOptions,
  ): Promise<Response> {
    return new Promise((resolve, reject) => {
      const answers: Response[] = [];
      const events: StreamEvents<Response> = {
        onMessage: (answer) => answers.push(answer),
        onEnd: (error) => {
          const [answer] = answers;
          if (error?.status === 'DEADLINE_EXCEEDED' && error.code === undefined) {
            const late = `no answer to ${method.path} in ${options.deadlineMs} ms`;
            reject(new RpcError(error.status, `${this.address}: ${late}; its outcome is unknown`));
          } else if (error !== undefined) reject(error);
          else if (answer !== undefined) resolve(answer);
          else reject(new RpcError('INTERNAL', `${this.address}: ${method.path} gave no answer`));
        },
      };
      const deadline = Date.now() + Math.max(0, options.deadlineMs);
      const body = asBuffer(method.request.encode(request));
      this.#start(method.path, NOTHING, method.response, events, { deadline, body });
    });
  }

  subscribe<Request, Response>(
    method: Method<Request, Response, 'serverStream'>,
    request: Request,
    events: StreamEvents<Response>,
  ): MessageStream<never> {
    const body = asBuffer(method.request.encode(request));
    return this.#start(method.path, NOTHING, method.response, events, { body });
  }

  open<Request, Response>(
    method: Method<Request, Response, 'bidi'>,
    events: StreamEvents<Response>,
  ): MessageStream<Request> {
    return this.#start(method.path, method.request, method.response, events, {});
  }

  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    const error = new RpcError('CANCELLED', `the channel to ${this.address} was closed`);
    for (const stream of [...this.#streams]) stream.cancel(error);
    this.#discard();
  }

  #start<In, Out>(
    path: string,
    encoder: Codec<Out>,
    decoder: Codec<In>,
    events: StreamEvents<In>,
    { deadline = Infinity, body }: { deadline?: number; body?: Buffer },
  ): ClientStream<In, Out> {
    const stream = new ClientStream(encoder, decoder, {
      address: this.address,
      released: (released) => {
        this.#streams.delete(released);
        this.#discardIfFailed();
      },
      connected: () => this.#stopConnectTimer(),
    });
    this.#streams.add(stream);
    if (this.#closed) {
      stream.refuse(events, new RpcError('CANCELLED', `the channel to ${this.address} is closed`));
    } else if (body !== undefined && body.length > MESSAGE_BYTES_MAX) {
      stream.refuse(events, tooLarge(body.length));
    } else {
      this.#discardIfFailed();
      stream.start(this.#connected().createCall(path, deadline, null, null, null), events, body);
    }
    return stream;
  }

  /** The channel of grpc-js, new where there is none, with an eye on its connecting. */
  #connected(): ChannelInterface {
    this.#channel ??= new GrpcChannel(
      `dns:${this.address}`,
      credentials.createInsecure(),
      CHANNEL_OPTIONS,
    );
    const channel = this.#channel;
    if (channel.getConnectivityState(true) !== connectivityState.READY) {
      this.#connectTimer ??= setTimeout(() => this.#checkConnected(channel), CONNECT_TIMEOUT_MS);
      this.#connectTimer.unref();
    }
    return channel;
  }

  #checkConnected(channel: ChannelInterface): void {
    this.#connectTimer = undefined;
    if (this.#channel !== channel || this.#streams.size === 0) return;
    if (channel.getConnectivityState(false) === connectivityState.READY) return;
    const why = `no connection to ${this.address} within ${CONNECT_TIMEOUT_MS} ms`;
    for (const stream of [...this.#streams]) stream.cancel(new RpcError('UNAVAILABLE', why));
    this.#discard();
  }

  #stopConnectTimer(): void {
    clearTimeout(this.#connectTimer);
    this.#connectTimer = undefined;
  }

  /** Without calls on it, and before it tries again by itself. */
  #discardIfFailed(): void {
    const state = this.#channel?.getConnectivityState(false);
    if (state === connectivityState.TRANSIENT_FAILURE) this.#discard();
  }

  #discard(): void {
    this.#stopConnectTimer();
    this.#channel?.close();
    this.#channel = undefined;
  }
}

interface ClientStreamOptions {
  readonly address: string;
  readonly released: (stream: ClientStream<unknown, unknown>) => void;
  /** The server has answered with headers. */
  readonly connected: () => void;
}

class ClientStream<In, Out> extends GrpcStream<In, Out> {
  readonly #options: ClientStreamOptions;
  #call: GrpcCall | undefined;
  /** A message has been written. */
  #established = false;

  constructor(encoder: Codec<Out>, decoder: Codec<In>, options: ClientStreamOptions) {
    super(encoder, decoder);
    this.#options = options;
  }

  /** Sends `body`, where there is one, as all there is to send. */
  start(call: GrpcCall, events: StreamEvents<In>, body: Buffer | undefined): void {
    this.#call = call;
    call.start(new Metadata(), {
      onReceiveMetadata: () => this.#options.connected(),
      onReceiveMessage: (message: Buffer) => this.onBytes(message),
      onReceiveStatus: (status) => this.#onStatus(status),
    });
    this.attach(events);
    if (body === undefined) return;
    this.sendBytes(body);
    this.end();
  }

  refuse(events: StreamEvents<In>, error: RpcError): void {
    this.finish(error);
    this.attach(events);
  }

  protected override requestRead(): void {
    this.#call?.startRead();
  }

  protected override write(bytes: Buffer, done: () => void): void {
    const callback = (): void => {
      this.#established = true;
      done();
    };
    this.#call?.sendMessageWithContext({ callback: this.#established ? done : callback }, bytes);
  }

  /** Until it has connected, grpc-js has room for one message, and forgets it for the next. */
  protected override writesAhead(): number {
    return this.#established ? WRITES_AHEAD : 1;
  }

  protected override handlerFailed(thrown: unknown): void {
    throw thrown;
  }

  protected override closeSending(): void {
    this.#call?.halfClose();
  }

  protected override abort(error: RpcError): void {
    this.#call?.cancelWithStatus(grpcStatus[error.status], error.message);
  }

  protected override peerEnded(): void {
    this.finish(undefined);
  }

  protected override undecodable(error: unknown): RpcError {
    const { address } = this.#options;
    return new RpcError('INTERNAL', `${address}: an answer is malformed: ${messageOf(error)}`);
  }

  protected override released(): void {
    this.#options.released(this as ClientStream<unknown, unknown>);
  }

  #onStatus(status: StatusObject): void {
    const error = fromGrpcStatus(status, this.#options.address);
    if (error === undefined) this.onPeerEnd();
    else this.finish(error);
  }
}
