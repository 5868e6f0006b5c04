/** The server side: a listener, its connections and the streams on them. */
import { messageOf } from '@relevo/base/errors';
import { RpcError } from '@relevo/base/ports';
import type { Listener, PeerInfo, Route } from '@relevo/base/ports';
import type { EventOwner } from './scheduler.ts';
import type { ConnectionEnd, Packet, PacketHandler } from './simulated-connection.ts';
import type { NetworkHost, SimulatedNetwork } from './simulated-network.ts';
import { SimulatedStream } from './simulated-stream.ts';
import { isExpected, toRpcError, toWire } from './wire-error.ts';

type OpenPacket = Extract<Packet, { kind: 'open' }>;

export interface ListenFacts {
  readonly port: number;
  readonly routes: readonly Route[];
  readonly name: string;
}

export class SimulatedListener implements Listener {
  readonly address: string;
  readonly network: SimulatedNetwork;
  readonly host: NetworkHost;
  readonly owner: EventOwner;
  readonly routes: ReadonlyMap<string, Route>;
  readonly name: string;
  readonly #port: number;
  readonly #sessions: Set<ServerSession> = new Set();
  #closing: (() => void) | undefined;
  closed = false;

  constructor(
    network: SimulatedNetwork,
    host: NetworkHost,
    owner: EventOwner,
    { port, routes, name }: ListenFacts,
  ) {
    this.name = name;
    this.network = network;
    this.host = host;
    this.owner = owner;
    this.#port = port;
    this.address = `${host.name}:${port}`;
    this.routes = new Map(routes.map((route) => [route.method.path, route]));
  }

  accept(end: ConnectionEnd, peerAddress: string): void {
    const session = new ServerSession(this, end, peerAddress);
    this.#sessions.add(session);
    end.handler = session;
  }

  close(graceMs: number): Promise<void> {
    if (this.closed) return Promise.resolve();
    this.closed = true;
    this.host.listeners.delete(this.#port);
    return new Promise((resolve) => {
      const facts = { kind: 'listener-close', target: this.address, owner: this.owner };
      const scheduler = this.network.scheduler;
      const timeout = scheduler.after(graceMs * 1000, facts, () => {
        for (const session of [...this.#sessions]) session.cancelAll();
        this.#settle();
      });
      this.#closing = (): void => {
        scheduler.cancel(timeout);
        this.#closing = undefined;
        resolve();
      };
      for (const session of [...this.#sessions]) session.drain();
      this.#settle();
    });
  }

  forget(session: ServerSession): void {
    this.#sessions.delete(session);
    this.#settle();
  }

  #settle(): void {
    if (this.#closing !== undefined && this.#sessions.size === 0) this.#closing();
  }
}

/** One connection, as its server sees it. */
class ServerSession implements PacketHandler {
  readonly #listener: SimulatedListener;
  readonly #end: ConnectionEnd;
  readonly #peerAddress: string;
  readonly #streams: Map<number, SimulatedStream<unknown, unknown>> = new Map();
  /** Unary calls whose handlers are at work. */
  readonly #calls: Set<number> = new Set();

  constructor(listener: SimulatedListener, end: ConnectionEnd, peerAddress: string) {
    this.#listener = listener;
    this.#end = end;
    this.#peerAddress = peerAddress;
  }

  onPacket(packet: Packet): void {
    if (packet.kind === 'open') return this.#open(packet);
    const stream = this.#streams.get(packet.stream);
    if (packet.kind === 'message') stream?.onMessage(packet.body);
    else if (packet.kind === 'credit') stream?.onCredit(packet.bytes);
    else if (packet.kind === 'halfClose') stream?.onLast(undefined);
    else if (packet.kind === 'cancel') {
      this.#calls.delete(packet.stream);
      stream?.onLast(new RpcError('CANCELLED', `cancelled by ${this.#peerAddress}`));
    }
  }

  onBroken(reason: string): void {
    this.#calls.clear();
    const error = new RpcError('CANCELLED', `${reason} (${this.#peerAddress})`);
    for (const stream of [...this.#streams.values()]) stream.finish(error);
    this.#listener.forget(this);
  }

  drain(): void {
    this.#end.send({ kind: 'goaway', stream: 0 });
    this.#closeIfIdle();
  }

  cancelAll(): void {
    const error = new RpcError('UNAVAILABLE', `${this.#listener.address} is shutting down`);
    for (const call of this.#calls) this.#reply(call, error, undefined);
    for (const stream of [...this.#streams.values()]) stream.cancel(error);
    this.#calls.clear();
    this.#closeIfIdle();
  }

  #closeIfIdle(): void {
    if (!this.#listener.closed || this.#streams.size + this.#calls.size > 0) return;
    this.#end.abort('the server has closed', { dropInFlight: false });
    this.#listener.forget(this);
  }

  #reply(stream: number, error: RpcError | undefined, body: Uint8Array | undefined): void {
    this.#end.send({ kind: 'status', stream, body, error: error && toWire(error) });
  }

  #open(packet: OpenPacket): void {
    const listener = this.#listener;
    const route = listener.routes.get(packet.path);
    if (listener.closed) {
      const error = new RpcError('UNAVAILABLE', `${listener.address} is shutting down`);
      return this.#reply(packet.stream, error, undefined);
    }
    if (route === undefined) {
      const error = new RpcError('UNIMPLEMENTED', `${packet.path} is not served here`);
      return this.#reply(packet.stream, error, undefined);
    }
    try {
      this.#dispatch(route, packet);
    } catch (thrown) {
      const stream = this.#streams.get(packet.stream);
      const error = this.#failure(thrown);
      if (stream === undefined) this.#reply(packet.stream, error, undefined);
      else stream.cancel(error);
    }
  }

  #dispatch(route: Route, packet: OpenPacket): void {
    const peer: PeerInfo = {
      address: this.#peerAddress,
      authority: packet.authority,
      listener: this.#listener.name,
    };
    const request = packet.body === undefined ? undefined : decode(route, packet.body);
    if (route.kind === 'unary') {
      this.#calls.add(packet.stream);
      const settle = (error: RpcError | undefined, body: Uint8Array | undefined): void => {
        if (!this.#calls.delete(packet.stream)) return;
        this.#reply(packet.stream, error, body);
        this.#closeIfIdle();
      };
      let answer: Promise<unknown>;
      try {
        answer = route.handler(request, peer);
      } catch (thrown) {
        return settle(this.#failure(thrown), undefined);
      }
      answer
        .then((response) => settle(undefined, route.method.response.encode(response).slice()))
        .catch((thrown: unknown) => settle(this.#failure(thrown), undefined));
      return;
    }
    const stream = this.#makeStream(route, packet);
    if (route.kind === 'bidi') stream.events = route.handler(stream, peer);
    else {
      const events = route.handler(request, stream, peer);
      stream.events = {
        onMessage: () => undefined,
        onDrain: () => events.onDrain?.(),
        onEnd: (error) => events.onEnd(error),
      };
    }
  }

  #makeStream(route: Route, packet: OpenPacket): SimulatedStream<unknown, unknown> {
    const id = packet.stream;
    const stream = new SimulatedStream<unknown, unknown>({
      network: this.#listener.network,
      owner: this.#listener.owner,
      id,
      label: `${this.#end.label}${packet.path}`,
      encoder: route.method.response,
      decoder: route.method.request,
      endPacket: () => ({ kind: 'status', stream: id, body: undefined, error: undefined }),
      cancelPacket: (error) => ({
        kind: 'status',
        stream: id,
        body: undefined,
        error: toWire(error),
      }),
      released: () => {
        this.#streams.delete(id);
        this.#closeIfIdle();
      },
      endFinishes: true,
      undecodable,
      handlerFailed: (thrown) => this.#failure(thrown),
    });
    this.#streams.set(id, stream);
    stream.attach(this.#end);
    return stream;
  }

  #failure(thrown: unknown): RpcError {
    if (!isExpected(thrown)) this.#listener.network.onBug(thrown);
    return toRpcError(thrown);
  }
}

function decode(route: Route, body: Uint8Array): unknown {
  try {
    return route.method.request.decode(body);
  } catch (error) {
    throw undecodable(error);
  }
}

const undecodable = (error: unknown): RpcError =>
  new RpcError('INVALID_ARGUMENT', `the request is malformed: ${messageOf(error)}`, {
    code: 'INVALID_REQUEST',
  });
