/**
 * The ports: all that Relevo asks of the world. `runtime` makes them real on Node.js, `simulation`
 * makes them from a seed. Whoever holds a port may not reach around it: no ambient clock, timers,
 * randomness, files or sockets anywhere above this line.
 */
import type { GrpcStatus, ErrorCode } from './errors.ts';
import type { BrokerId } from './ids.ts';

export interface Clock {
  /** Milliseconds that never go back; fractions allowed; the origin means nothing. */
  monotonicMs(): number;
  /** Milliseconds since 1970 UTC, an integer; may jump. For timestamps only. */
  wallMs(): number;
}

export interface TimerHandle {
  /** Has no effect once the timer has fired. */
  cancel(): void;
}

export interface Timers {
  /** Calls `run` once, `delayMs` (≥ 0) from now, never from within this call. */
  after(delayMs: number, run: () => void): TimerHandle;
  /** Calls `run` after what is at hand now, before any later timer or message: one turn of the loop. */
  soon(run: () => void): void;
}

export interface Random {
  /** Uniform in [0, 1). */
  float(): number;
  bytes(length: number): Uint8Array;
}

export type LogFields = Readonly<Record<string, unknown>>;

export interface Logger {
  debug(event: string, fields?: LogFields): void;
  info(event: string, fields?: LogFields): void;
  warn(event: string, fields?: LogFields): void;
  error(event: string, fields?: LogFields): void;
  child(fields: LogFields): Logger;
}

/** CRC-32C (Castagnoli) of `bytes`, as an unsigned 32-bit number. */
export type Crc32c = (bytes: Uint8Array) => number;

/** HMAC-SHA-256 (RFC 2104) of `bytes` under `key`: 32 bytes. */
export type HmacSha256 = (key: Uint8Array, bytes: Uint8Array) => Uint8Array;

// ---------------------------------------------------------------------------------------------- Disk

export type DiskErrorCode = 'NOT_FOUND' | 'EXISTS' | 'FULL' | 'IO' | 'LOCKED' | 'DENIED';

export class DiskError extends Error {
  override readonly name = 'DiskError';
  readonly code: DiskErrorCode;
  readonly path: string;

  constructor(code: DiskErrorCode, path: string, message: string, options?: ErrorOptions) {
    super(message, options);
    this.code = code;
    this.path = path;
  }
}

/**
 * An open file. Writes go to the page cache synchronously (1.6 µs for 4 KiB, an eighth of the
 * asynchronous call); only `datasync` makes them durable, and it runs off the loop. After a failed
 * write or `datasync` the owner must not write through this handle again (invariant L3).
 */
export interface DiskFile {
  readonly path: string;
  size(): number;
  /** Writes all of `bytes` at `position`, or throws a DiskError. */
  write(bytes: Uint8Array, position: number): void;
  /** Fills `into` from `position`; returns how many bytes there were (less only at the end). */
  readSync(into: Uint8Array, position: number): number;
  /** Reads off the loop; the result is shorter than `length` only at the end of the file. */
  read(position: number, length: number): Promise<Uint8Array>;
  /** Resolves when everything written before this call, and the size, is on stable storage. */
  datasync(): Promise<void>;
  /** `datasync`, blocking: for start-up and recovery only. */
  datasyncNow(): void;
  truncate(size: number): void;
  close(): void;
}

export interface DirectoryEntry {
  readonly name: string;
  readonly directory: boolean;
}

/** Paths are '/'-separated; the parent directory must exist unless said otherwise. */
export interface Disk {
  /** `create`: make it if missing, keep what is there. `existing`: NOT_FOUND if missing. */
  open(path: string, mode: 'create' | 'existing' | 'readOnly'): DiskFile;
  exists(path: string): boolean;
  list(directory: string): readonly DirectoryEntry[];
  /** Makes the directory and its parents; no error if it is there. */
  makeDirectory(path: string): void;
  /**
   * Makes the directory, whose parent is there, and files in it, by name, off the loop: who makes thousands
   * would block it else. What is there already stays, overwritten from its start. Not durable. Rejects with
   * a DiskError, and may then be repeated.
   */
  makeFiles(directory: string, files: ReadonlyMap<string, Uint8Array>): Promise<void>;
  /** Atomic; replaces `to`. Durable only after the directory is synced. */
  rename(from: string, to: string): void;
  /** Removes a file; no error if missing. */
  remove(path: string): void;
  /** Removes a directory with all in it; no error if missing. */
  removeTree(path: string): void;
  /** Makes creations, renames and removals in `directory` durable; off the loop. */
  syncDirectory(directory: string): Promise<void>;
  syncDirectoryNow(directory: string): void;
  /** Room left for us on the file system that holds `path`, in bytes. */
  freeBytes(path: string): number;
  /** Takes the directory for this process alone until `release`, or throws LOCKED. */
  lock(directory: string): { release(): void };
}

// ----------------------------------------------------------------------------------------- Transport

export interface Codec<Message> {
  encode(message: Message): Uint8Array;
  /** May keep views into `bytes`; throws on malformed input. */
  decode(bytes: Uint8Array): Message;
}

export type MethodKind = 'unary' | 'serverStream' | 'bidi';

/**
 * For whom a method is. `client`: anybody who reaches the listener. `cluster`: the nodes of the cluster
 * alone; it is served on the cluster's listeners only, and its callers prove that they belong to it.
 */
export type Audience = 'client' | 'cluster';

export interface Method<Request, Response, Kind extends MethodKind = MethodKind> {
  /** `/relevo.v1.Metadata/GetMetadata` */
  readonly path: string;
  readonly kind: Kind;
  readonly audience: Audience;
  readonly request: Codec<Request>;
  readonly response: Codec<Response>;
}

/**
 * How a call or stream ended other than well. `code` is Relevo's own where the peer gave one; `detail`
 * is the encoded `relevo.v1.ErrorDetail` (current leader and the like).
 */
export class RpcError extends Error {
  override readonly name = 'RpcError';
  readonly status: GrpcStatus;
  readonly code: ErrorCode | undefined;
  readonly detail: Uint8Array | undefined;

  constructor(
    status: GrpcStatus,
    message: string,
    more: { code?: ErrorCode | undefined; detail?: Uint8Array | undefined } = {},
  ) {
    super(message);
    this.status = status;
    this.code = more.code;
    this.detail = more.detail;
  }
}

/** The sending half of a stream, on either side. */
export interface MessageStream<Out> {
  /**
   * Queues a message; false means that more than the stream's buffer limit is queued: the message is
   * taken all the same, but send no more before `onDrain`. After the end it does nothing and returns
   * false.
   */
  send(message: Out): boolean;
  /** Bytes taken by `send` that the transport has not yet passed on. */
  queuedBytes(): number;
  /** Nothing more will be sent. On the server: ends the call with OK. */
  end(): void;
  /** Ends the call at once, on both sides; on the server the error's status goes to the peer. */
  cancel(error: RpcError): void;
  /** Stops and restarts the delivery of messages to us: flow control reaches back to the sender. */
  pause(): void;
  resume(): void;
}

/** The receiving half. No handler is called from within the call that opened the stream. */
export interface StreamEvents<In> {
  onMessage(message: In): void;
  onDrain?(): void;
  /**
   * Of a handler: the caller has said all, after all its messages, and takes answers still. Who has this
   * answers what is left and then ends its own half; `onEnd` follows when the call is over, be it that the
   * caller gives up. Without it `onEnd` is called at once, and the call is ended after it.
   */
  onHalfClose?(): void;
  /**
   * Called once, last. `undefined`: the peer has said all. A client knows then that all went well; a
   * handler does not, for Node's HTTP/2 ends a stream just before it resets it, so that a cancel may look
   * the same: handlers treat both alike.
   */
  onEnd(error: RpcError | undefined): void;
}

export interface CallOptions {
  /** From now; when it passes the call ends with DEADLINE_EXCEEDED. */
  readonly deadlineMs: number;
}

/** A connection (kept up, re-dialled when used after a break) to one address. */
export interface Channel {
  readonly address: string;
  /** Rejects with an RpcError. */
  call<Request, Response>(
    method: Method<Request, Response, 'unary'>,
    request: Request,
    options: CallOptions,
  ): Promise<Response>;
  subscribe<Request, Response>(
    method: Method<Request, Response, 'serverStream'>,
    request: Request,
    events: StreamEvents<Response>,
  ): MessageStream<never>;
  open<Request, Response>(
    method: Method<Request, Response, 'bidi'>,
    events: StreamEvents<Response>,
  ): MessageStream<Request>;
  /** Ends all calls and streams with CANCELLED. */
  close(): void;
}

export interface PeerInfo {
  /** Where the call comes from, for logs. */
  readonly address: string;
  /** The name (`:authority`) under which the caller reached us; empty where not known. */
  readonly authority: string;
  /** The name of the listener that it came to. */
  readonly listener: string;
  /** The node of the cluster that the caller has proved to be; undefined: it has proved nothing. */
  readonly member?: BrokerId | undefined;
}

export type UnaryHandler<Request, Response> = (
  request: Request,
  peer: PeerInfo,
) => Promise<Response>;
export type ServerStreamHandler<Request, Response> = (
  request: Request,
  stream: MessageStream<Response>,
  peer: PeerInfo,
) => Pick<StreamEvents<never>, 'onDrain' | 'onEnd'>;
export type BidiHandler<Request, Response> = (
  stream: MessageStream<Response>,
  peer: PeerInfo,
) => StreamEvents<Request>;

/** A method with its handler, its message types forgotten; made by `route`. */
export type Route =
  | {
      readonly kind: 'unary';
      readonly method: Method<unknown, unknown>;
      readonly handler: UnaryHandler<unknown, unknown>;
    }
  | {
      readonly kind: 'serverStream';
      readonly method: Method<unknown, unknown>;
      readonly handler: ServerStreamHandler<unknown, unknown>;
    }
  | {
      readonly kind: 'bidi';
      readonly method: Method<unknown, unknown>;
      readonly handler: BidiHandler<unknown, unknown>;
    };

type HandlerOf<Kind extends MethodKind, Request, Response> = Kind extends 'unary'
  ? UnaryHandler<Request, Response>
  : Kind extends 'serverStream'
    ? ServerStreamHandler<Request, Response>
    : BidiHandler<Request, Response>;

/** Pairs a method with a handler of its types. */
export function route<Request, Response, Kind extends MethodKind>(
  method: Method<Request, Response, Kind>,
  handler: HandlerOf<Kind, NoInfer<Request>, NoInfer<Response>>,
): Route {
  // The pair was checked by the signature; only the message types are forgotten here.
  return { kind: method.kind, method, handler } as unknown as Route;
}

export interface Listener {
  /** host:port, with the port that was taken where 0 was asked for. */
  readonly address: string;
  /** Stops accepting; lets running calls end for `graceMs`, then cancels them. */
  close(graceMs: number): Promise<void>;
}

/**
 * What a bare dial met: a listener, a refusal (nobody is there), nothing until the time was up, or not even
 * an address, as the host name is not known here or the name server is silent (which may be for the moment).
 */
export type ProbeResult = 'accepted' | 'refused' | 'silent' | 'unknown';

export interface Transport {
  /** Does not connect yet. */
  dial(address: string): Channel;
  /**
   * Rejects with an Error that names the address when it is taken. Handlers are told `name` (default:
   * empty), so that one set of routes can serve several listeners.
   */
  listen(address: string, routes: readonly Route[], name?: string): Promise<Listener>;
  probe(address: string, timeoutMs: number): Promise<ProbeResult>;
}

// ------------------------------------------------------------------------------------------- Metrics

export interface Counter {
  add(amount: number): void;
}
export interface Gauge {
  set(value: number): void;
}
export interface Histogram {
  observe(value: number): void;
}

/** One value among those of a name. */
export interface Measured {
  readonly value: number;
  readonly labels?: Readonly<Record<string, string>>;
}

/** Names and units follow Prometheus' conventions (`relevo_produce_bytes_total`, seconds, bytes). */
export interface Metrics {
  counter(name: string, help: string, labels?: Readonly<Record<string, string>>): Counter;
  gauge(name: string, help: string, labels?: Readonly<Record<string, string>>): Gauge;
  histogram(
    name: string,
    help: string,
    buckets: readonly number[],
    labels?: Readonly<Record<string, string>>,
  ): Histogram;
  /**
   * A gauge that is worked out when somebody looks. `read` must be quick and may not throw; its values
   * differ in their labels, and none is a fair answer. To be called once for a name.
   */
  measure(name: string, help: string, read: () => readonly Measured[]): void;
}

/** All the ports of a node in one bundle. */
export interface Ports {
  readonly clock: Clock;
  readonly timers: Timers;
  readonly random: Random;
  readonly disk: Disk;
  readonly transport: Transport;
  readonly logger: Logger;
  readonly metrics: Metrics;
  readonly crc32c: Crc32c;
  readonly hmacSha256: HmacSha256;
}
