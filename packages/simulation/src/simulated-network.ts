/**
 * The network between simulated hosts: links with drawn delays, listeners at `host:port`, dialling, and
 * the faults: links that are cut one way or both, hosts that are off, connections that break. What
 * runs on top (channels, streams) sees what TCP would show it and nothing more: a refusal, a reset, or
 * silence.
 */
import { RPC_MESSAGE_BYTES_MAX } from '@relevo/base/limits';
import type { Transport } from '@relevo/base/ports';
import type { Prng } from './prng.ts';
import type { EventOwner, Scheduler } from './scheduler.ts';
import { Connection, Lane } from './simulated-connection.ts';
import type { ConnectionEnd, Packet } from './simulated-connection.ts';
import { SimulatedTransport } from './simulated-transport.ts';
import type { SimulatedListener } from './simulated-listener.ts';

export interface LinkProfile {
  /** One way, at least. */
  readonly minMs: number;
  /** Added to it, exponentially distributed around this. */
  readonly meanMs: number;
  /** How often a packet is late by up to `tailMs`: a loss and its retransmission. */
  readonly tailChance: number;
  readonly tailMs: number;
  /** How often a packet meets a broken connection. */
  readonly breakChance: number;
  readonly bytesPerMs: number;
}

export const DEFAULT_LINK: LinkProfile = {
  minMs: 0.05,
  meanMs: 0.1,
  tailChance: 0,
  tailMs: 200,
  breakChance: 0,
  bytesPerMs: 1_000_000,
};

export interface NetworkOptions {
  readonly scheduler: Scheduler;
  readonly prng: Prng;
  readonly profile?: LinkProfile;
  /** Bytes of a stream that may be under way before the receiver has taken them; default 1 MiB. */
  readonly windowBytes?: number;
  /** Above so many queued bytes `send` returns false; default 1 MiB. */
  readonly bufferBytesMax?: number;
  /** The largest message; default 8 MiB and 64 KiB, as over gRPC. */
  readonly messageBytesMax?: number;
  /** A dial that nobody answers, and a connection that has gone silent, are given up after this. */
  readonly connectTimeoutMs?: number;
  readonly keepaliveMs?: number;
  /** Streams that share a lane keep their order among each other; 1 (default) is one TCP stream. */
  readonly lanes?: number;
  /** Told of what handlers throw that is neither an RpcError nor a RelevoError. */
  readonly onBug?: (error: unknown) => void;
}

/** Waits between the attempts to open a connection, as TCP has them. */
const SYN_RETRIES_MS = [1_000, 2_000, 4_000, 8_000];
const EPHEMERAL_PORT_FIRST = 40_000;

/** One direction between two hosts. */
export class Link {
  readonly from: NetworkHost;
  readonly to: NetworkHost;
  readonly overhear: (packet: Packet) => void;
  profile: LinkProfile;
  blocked = false;
  /** Lanes with packets that wait for the link to open. */
  readonly stalled: Set<Lane> = new Set();
  readonly #prng: Prng;

  constructor(
    from: NetworkHost,
    to: NetworkHost,
    profile: LinkProfile,
    prng: Prng,
    overhear: (packet: Packet) => void,
  ) {
    this.overhear = overhear;
    this.from = from;
    this.to = to;
    this.profile = profile;
    this.#prng = prng;
  }

  get open(): boolean {
    return !this.blocked && this.from.up && this.to.up;
  }

  delayUs(): number {
    const { minMs, meanMs, tailChance, tailMs } = this.profile;
    const tail = this.#prng.chance(tailChance) ? this.#prng.float() * tailMs : 0;
    return 1000 * (minMs + this.#prng.exponential(meanMs) + tail);
  }

  transferUs(bytes: number): number {
    return (1000 * bytes) / this.profile.bytesPerMs;
  }

  /** How long after the link's return a sender tries again. */
  retransmitUs(): number {
    return 1000 * this.#prng.between(0, 200);
  }

  breaks(): boolean {
    return this.#prng.chance(this.profile.breakChance);
  }
}

export class NetworkHost {
  readonly name: string;
  /** False: powered off or frozen whole; nothing comes from it, not even a refusal. */
  up = true;
  readonly listeners: Map<number, SimulatedListener> = new Map();
  nextPort: number = EPHEMERAL_PORT_FIRST;

  constructor(name: string) {
    this.name = name;
  }
}

export type DialResult =
  | { readonly kind: 'accepted'; readonly end: ConnectionEnd }
  | { readonly kind: 'refused' | 'silent' };

export class SimulatedNetwork {
  readonly scheduler: Scheduler;
  readonly prng: Prng;
  readonly windowBytes: number;
  readonly bufferBytesMax: number;
  readonly messageBytesMax: number;
  readonly connectTimeoutMs: number;
  readonly keepaliveMs: number;
  readonly onBug: (error: unknown) => void;
  /** Hears every packet as it is sent, with the names of both hosts. */
  overhear: ((from: string, to: string, packet: Packet) => void) | undefined;
  #profile: LinkProfile;
  readonly #laneCount: number;
  readonly #hosts: Map<string, NetworkHost> = new Map();
  readonly #links: Map<string, Link> = new Map();
  readonly #connections: Set<Connection> = new Set();

  constructor(options: NetworkOptions) {
    this.scheduler = options.scheduler;
    this.prng = options.prng;
    this.#profile = options.profile ?? DEFAULT_LINK;
    this.windowBytes = options.windowBytes ?? 2 ** 20;
    this.bufferBytesMax = options.bufferBytesMax ?? 2 ** 20;
    this.messageBytesMax = options.messageBytesMax ?? RPC_MESSAGE_BYTES_MAX;
    this.connectTimeoutMs = options.connectTimeoutMs ?? 5_000;
    this.keepaliveMs = options.keepaliveMs ?? 10_000;
    this.#laneCount = options.lanes ?? 1;
    this.onBug = options.onBug ?? ((): void => undefined);
  }

  host(name: string): NetworkHost {
    let host = this.#hosts.get(name);
    if (host === undefined) {
      host = new NetworkHost(name);
      this.#hosts.set(name, host);
    }
    return host;
  }

  /** The transport of one process on host `name`, as long as `owner` lives. */
  transport(name: string, owner: EventOwner): Transport {
    return new SimulatedTransport(this, this.host(name), owner);
  }

  /** Open connections, half-open ones among them. */
  get connectionCount(): number {
    return this.#connections.size;
  }

  link(from: NetworkHost, to: NetworkHost): Link {
    const key = `${from.name}>${to.name}`;
    let link = this.#links.get(key);
    if (link === undefined) {
      link = new Link(from, to, this.#profile, this.prng.split(`link/${key}`), (packet) =>
        this.overhear?.(from.name, to.name, packet),
      );
      this.#links.set(key, link);
    }
    return link;
  }

  // ------------------------------------------------------------------------------- faults

  /** Gives every link, present and future, these delays and chances. */
  setProfile(profile: LinkProfile): void {
    this.#profile = profile;
    for (const link of this.#links.values()) link.profile = profile;
  }

  /** Cuts or mends one direction. What is under way waits, as TCP would send it again. */
  setBlocked(from: string, to: string, blocked: boolean): void {
    const link = this.link(this.host(from), this.host(to));
    if (link.blocked === blocked) return;
    link.blocked = blocked;
    this.#linksChanged();
  }

  /** Cuts both directions between every host of `one` and every host of `other`. */
  partition(one: readonly string[], other: readonly string[]): void {
    for (const a of one) {
      for (const b of other) {
        this.setBlocked(a, b, true);
        this.setBlocked(b, a, true);
      }
    }
  }

  /** Mends every link. */
  heal(): void {
    for (const link of this.#links.values()) link.blocked = false;
    this.#linksChanged();
  }

  /** Off: the host neither speaks nor refuses; connections go silent. */
  setHostUp(name: string, up: boolean): void {
    this.host(name).up = up;
    this.#linksChanged();
  }

  /** Resets every connection between two hosts, in the middle of whatever it carries. */
  breakConnections(a: string, b: string): void {
    for (const connection of [...this.#connections]) {
      const names = [connection.client.owner.host, connection.server.owner.host];
      if (names.includes(a) && names.includes(b)) connection.sever('connection reset');
    }
  }

  /** The process died; with its host's kernel alive its connections are reset, else they fall silent. */
  processDied(owner: EventOwner, hostAlive: boolean): void {
    const host = this.host(owner.host);
    for (const [port, listener] of host.listeners) {
      if (listener.owner === owner) host.listeners.delete(port);
    }
    const dropInFlight = this.prng.chance(0.5);
    for (const connection of [...this.#connections]) {
      for (const end of [connection.client, connection.server]) {
        if (end.owner !== owner) continue;
        if (hostAlive) end.abort('connection reset by peer', { dropInFlight });
        else end.die();
      }
    }
  }

  #linksChanged(): void {
    for (const link of this.#links.values()) {
      if (!link.open || link.stalled.size === 0) continue;
      const lanes = [...link.stalled];
      link.stalled.clear();
      for (const lane of lanes) lane.restart();
    }
    for (const connection of this.#connections) {
      this.#watch(connection.client);
      this.#watch(connection.server);
    }
  }

  /** An end whose connection is silent either way for the keepalive time gives it up. */
  #watch(end: ConnectionEnd): void {
    if (end.state !== 'open' || end.watched || this.#isWhole(end)) return;
    end.watched = true;
    const facts = { kind: 'keepalive', target: end.label, owner: end.owner };
    const delayUs = 1000 * this.keepaliveMs * this.prng.between(0.8, 1.2);
    this.scheduler.after(delayUs, facts, () => {
      end.watched = false;
      if (end.state !== 'open' || this.#isWhole(end)) return;
      end.abort('keepalive timed out', { dropInFlight: true });
      end.handler?.onBroken('keepalive timed out');
    });
  }

  /** A ping would be answered; not by a host that is back and knows no such connection. */
  #isWhole(end: ConnectionEnd): boolean {
    if (end.peer.state === 'dead') return false;
    const there = end.lanes[0]?.link;
    const back = end.peer.lanes[0]?.link;
    return there !== undefined && back !== undefined && there.open && back.open;
  }

  // ------------------------------------------------------------------------------ dialling

  /** Opens a connection for `owner`. `done` is called once, never from within this call. */
  connect(
    from: { host: NetworkHost; owner: EventOwner },
    address: string,
    timeoutMs: number,
    done: (result: DialResult) => void,
    probeOnly = false,
  ): void {
    const { name, port } = parseAddress(address);
    const target = this.host(name);
    const there = this.link(from.host, target);
    const back = this.link(target, from.host);
    let settled = false;
    const settle = (result: DialResult): void => {
      if (settled) return;
      settled = true;
      this.scheduler.cancel(timeout);
      done(result);
    };
    const facts = (kind: string, owner?: EventOwner) => ({ kind, target: address, owner });
    const timeout = this.scheduler.after(1000 * timeoutMs, facts('dial-timeout', from.owner), () =>
      settle({ kind: 'silent' }),
    );
    const answer = (): void => {
      // Looked up anew: the client may have been frozen for long when the answer reaches it.
      const listener = target.listeners.get(port);
      if (settled) return;
      if (listener === undefined) settle({ kind: 'refused' });
      else if (probeOnly) settle({ kind: 'accepted', end: this.#nowhere(from.owner) });
      else settle({ kind: 'accepted', end: this.#establish(from, listener) });
    };
    const attempt = (count: number): void => {
      if (settled) return;
      const retry = SYN_RETRIES_MS[count];
      if (retry !== undefined) {
        this.scheduler.after(1000 * retry, facts('syn', from.owner), () => attempt(count + 1));
      }
      if (!there.open) return;
      this.scheduler.after(there.delayUs(), facts('syn'), () => {
        if (settled || !there.open || !back.open) return;
        this.scheduler.after(back.delayUs(), facts('syn-ack', from.owner), () => {
          if (back.open) answer();
        });
      });
    };
    attempt(0);
  }

  #establish(from: { host: NetworkHost; owner: EventOwner }, listener: SimulatedListener) {
    const connection = new Connection({
      client: from.owner,
      server: listener.owner,
      forget: (gone) => this.#connections.delete(gone),
    });
    const there = this.link(from.host, listener.host);
    const back = this.link(listener.host, from.host);
    connection.client.lanes = this.#lanes(there, connection.server);
    connection.server.lanes = this.#lanes(back, connection.client);
    this.#connections.add(connection);
    listener.accept(connection.server, `${from.host.name}:${from.host.nextPort++}`);
    return connection.client;
  }

  #lanes(link: Link, receiver: ConnectionEnd): Lane[] {
    return Array.from({ length: this.#laneCount }, () => new Lane(this.scheduler, link, receiver));
  }

  /** A bare dial is closed at once; no end of it is ever used. */
  #nowhere(owner: EventOwner): ConnectionEnd {
    return new Connection({ client: owner, server: owner, forget: () => undefined }).client;
  }
}

export function parseAddress(address: string): { name: string; port: number } {
  const colon = address.lastIndexOf(':');
  const port = Number(address.slice(colon + 1));
  if (colon < 1 || !Number.isInteger(port) || port < 0 || port > 65_535) {
    throw new RangeError(`an address is host:port, got "${address}"`);
  }
  return { name: address.slice(0, colon), port };
}
