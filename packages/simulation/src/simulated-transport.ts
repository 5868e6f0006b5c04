/** The client side: the `Transport` of one process, its channels and the streams on them. */
import { assert } from '@relevo/base/assert';
import { messageOf } from '@relevo/base/errors';
import { RpcError } from '@relevo/base/ports';
import type {
  CallOptions,
  Channel,
  Codec,
  Listener,
  MessageStream,
  Method,
  ProbeResult,
  Route,
  StreamEvents,
  Transport,
} from '@relevo/base/ports';
import type { EventOwner } from './scheduler.ts';
import type { ConnectionEnd, Packet, PacketHandler } from './simulated-connection.ts';
import { SimulatedListener } from './simulated-listener.ts';
import { parseAddress } from './simulated-network.ts';
import type { DialResult, NetworkHost, SimulatedNetwork } from './simulated-network.ts';
import { SimulatedStream } from './simulated-stream.ts';
import { fromWire } from './wire-error.ts';

export class SimulatedTransport implements Transport {
  readonly #network: SimulatedNetwork;
  readonly #host: NetworkHost;
  readonly #owner: EventOwner;

  constructor(network: SimulatedNetwork, host: NetworkHost, owner: EventOwner) {
    this.#network = network;
    this.#host = host;
    this.#owner = owner;
  }

  dial(address: string): Channel {
    assertAlive(this.#owner);
    parseAddress(address);
    return new SimulatedChannel(this.#network, this.#host, this.#owner, address);
  }

  listen(address: string, routes: readonly Route[], called = ''): Promise<Listener> {
    assertAlive(this.#owner);
    const { name, port: asked } = parseAddress(address);
    const host = this.#host;
    if (name !== host.name && name !== '0.0.0.0') {
      return Promise.reject(new Error(`cannot listen on ${address}: this host is ${host.name}`));
    }
    const port = asked === 0 ? host.nextPort++ : asked;
    if (host.listeners.has(port)) {
      return Promise.reject(new Error(`cannot listen on ${address}: the port is in use`));
    }
    const listener = new SimulatedListener(this.#network, host, this.#owner, {
      port,
      routes,
      name: called,
    });
    host.listeners.set(port, listener);
    return Promise.resolve(listener);
  }

  probe(address: string, timeoutMs: number): Promise<ProbeResult> {
    assertAlive(this.#owner);
    return new Promise((resolve) => {
      const from = { host: this.#host, owner: this.#owner };
      this.#network.connect(from, address, timeoutMs, ({ kind }) => resolve(kind), true);
    });
  }
}

function assertAlive(owner: EventOwner): void {
  assert(owner.alive, 'a dead process does not touch the network', { process: owner.name });
}

/** Codec of what is never sent. */
const NOTHING: Codec<never> = {
  encode: () => new Uint8Array(0),
  decode: () => {
    throw new Error('nothing was to be received here');
  },
};

interface PendingStream {
  readonly id: number;
  readonly open: Packet;
  readonly stream: SimulatedStream<unknown, unknown>;
}

class SimulatedChannel implements Channel, PacketHandler {
  readonly address: string;
  readonly #network: SimulatedNetwork;
  readonly #host: NetworkHost;
  readonly #owner: EventOwner;
  #end: ConnectionEnd | undefined;
  #dialling = false;
  #closed = false;
  #nextStream = 1;
  /** Streams that wait for a connection. */
  #waiting: PendingStream[] = [];
  /** By stream id: those on the present connection, and on those that drain. */
  readonly #streams: Map<number, PendingStream & { end: ConnectionEnd }> = new Map();
  /** The bodies of unary answers, which come with the status. */
  readonly #answers: Map<number, (body: Uint8Array | undefined) => void> = new Map();

  constructor(network: SimulatedNetwork, host: NetworkHost, owner: EventOwner, address: string) {
    this.#network = network;
    this.#host = host;
    this.#owner = owner;
    this.address = address;
  }

  call<Request, Response>(
    method: Method<Request, Response, 'unary'>,
    request: Request,
    options: CallOptions,
  ): Promise<Response> {
    assertAlive(this.#owner);
    return new Promise((resolve, reject) => {
      let answer: Uint8Array | undefined;
      const stream = this.#start(method.path, NOTHING, NOTHING, method.request.encode(request), {
        onMessage: () => undefined,
        onEnd: (error) => {
          this.#network.scheduler.cancel(timer);
          this.#answers.delete(id);
          if (error !== undefined) reject(error);
          else resolveWith(method, answer, resolve, reject);
        },
      });
      const id = this.#nextStream - 1;
      this.#answers.set(id, (body) => (answer = body));
      const facts = { kind: 'deadline', target: this.address, owner: this.#owner };
      const timer = this.#network.scheduler.after(
        1000 * Math.max(0, options.deadlineMs),
        facts,
        () =>
          stream.cancel(
            new RpcError(
              'DEADLINE_EXCEEDED',
              `no answer from ${this.address} to ${method.path} in ` +
                `${options.deadlineMs} ms; the outcome is unknown`,
            ),
          ),
      );
    });
  }

  subscribe<Request, Response>(
    method: Method<Request, Response, 'serverStream'>,
    request: Request,
    events: StreamEvents<Response>,
  ): MessageStream<never> {
    assertAlive(this.#owner);
    const body = method.request.encode(request);
    return this.#start(method.path, method.response, NOTHING, body, events);
  }

  open<Request, Response>(
    method: Method<Request, Response, 'bidi'>,
    events: StreamEvents<Response>,
  ): MessageStream<Request> {
    assertAlive(this.#owner);
    return this.#start(method.path, method.response, method.request, undefined, events);
  }

  close(): void {
    if (this.#closed) return;
    assertAlive(this.#owner);
    this.#closed = true;
    const error = new RpcError('CANCELLED', `the channel to ${this.address} was closed`);
    for (const { stream } of [...this.#streams.values(), ...this.#waiting]) stream.cancel(error);
    this.#end?.abort('closed by the peer', { dropInFlight: false });
    this.#end = undefined;
  }

  // ----------------------------------------------------------------------- PacketHandler

  onPacket(packet: Packet): void {
    const entry = this.#streams.get(packet.stream);
    if (packet.kind === 'message') entry?.stream.onMessage(packet.body);
    else if (packet.kind === 'credit') entry?.stream.onCredit(packet.bytes);
    else if (packet.kind === 'status') {
      this.#answers.get(packet.stream)?.(packet.body);
      entry?.stream.onLast(packet.error && fromWire(packet.error));
    } else if (packet.kind === 'goaway') this.#end = undefined;
  }

  onBroken(reason: string): void {
    // Streams on a connection that drains may live on beside those on its successor.
    const error = new RpcError('UNAVAILABLE', `the connection to ${this.address} broke: ${reason}`);
    for (const { stream, end } of [...this.#streams.values()]) {
      if (end.state !== 'open') stream.finish(error);
    }
    if (this.#end?.state !== 'open') this.#end = undefined;
  }

  // ------------------------------------------------------------------------------ inside

  #start<In, Out>(
    path: string,
    decoder: Codec<In>,
    encoder: Codec<Out>,
    body: Uint8Array | undefined,
    events: StreamEvents<In>,
  ): SimulatedStream<In, Out> {
    const id = this.#nextStream++;
    const stream = new SimulatedStream<In, Out>({
      network: this.#network,
      owner: this.#owner,
      id,
      label: `${this.#owner.name}>${this.address}${path}`,
      encoder,
      decoder,
      endPacket: () => ({ kind: 'halfClose', stream: id }),
      cancelPacket: () => ({ kind: 'cancel', stream: id }),
      released: () => {
        this.#streams.delete(id);
        this.#waiting = this.#waiting.filter((entry) => entry.id !== id);
      },
      endFinishes: false,
      undecodable: (error) =>
        new RpcError('INTERNAL', `${this.address}: an answer is malformed: ${messageOf(error)}`),
      handlerFailed: (thrown) => {
        throw thrown;
      },
    });
    stream.events = events;
    if (this.#closed) {
      stream.finish(new RpcError('CANCELLED', `the channel to ${this.address} is closed`));
      return stream;
    }
    const open: Packet = {
      kind: 'open',
      stream: id,
      path,
      authority: this.address,
      body: body?.slice(),
    };
    // Message types are forgotten here; the stream's own codecs keep them.
    const entry = { id, open, stream: stream as SimulatedStream<unknown, unknown> };
    if (this.#end === undefined) {
      this.#waiting.push(entry);
      this.#dial();
    } else this.#begin(entry, this.#end);
    return stream;
  }

  #begin(entry: PendingStream, end: ConnectionEnd): void {
    this.#streams.set(entry.id, { ...entry, end });
    end.send(entry.open);
    entry.stream.attach(end);
  }

  #dial(): void {
    if (this.#dialling) return;
    this.#dialling = true;
    const from = { host: this.#host, owner: this.#owner };
    this.#network.connect(from, this.address, this.#network.connectTimeoutMs, (result) => {
      this.#dialling = false;
      this.#dialled(result);
    });
  }

  #dialled(result: DialResult): void {
    const waiting = this.#waiting;
    this.#waiting = [];
    if (result.kind !== 'accepted') {
      const why = result.kind === 'refused' ? 'connection refused' : 'no answer';
      const error = new RpcError('UNAVAILABLE', `cannot connect to ${this.address}: ${why}`);
      for (const { stream } of waiting) stream.finish(error);
      return;
    }
    if (this.#closed) {
      result.end.abort('closed by the peer', { dropInFlight: false });
      return;
    }
    this.#end = result.end;
    result.end.handler = this;
    for (const entry of waiting) this.#begin(entry, result.end);
  }
}

function resolveWith<Response>(
  method: Method<unknown, Response>,
  body: Uint8Array | undefined,
  resolve: (response: Response) => void,
  reject: (error: RpcError) => void,
): void {
  if (body === undefined) {
    reject(new RpcError('INTERNAL', `${method.path} gave no answer`));
    return;
  }
  try {
    resolve(method.response.decode(body));
  } catch (error) {
    reject(new RpcError('INTERNAL', `the answer cannot be decoded: ${String(error)}`));
  }
}
