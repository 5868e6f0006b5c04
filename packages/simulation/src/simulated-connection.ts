/**
 * A connection between two simulated processes, as TCP gives it: bytes arrive in order or not at all,
 * a kill resets it, a partition makes it silent. It carries the packets of many streams, as HTTP/2
 * does. Each direction has one lane, or several where streams shall overtake one another; a lane is
 * strictly first in, first out.
 */
import type { ErrorCode, GrpcStatus } from '@relevo/base/errors';
import type { EventOwner, Scheduler } from './scheduler.ts';
import { bytesHash } from './trace.ts';
import type { Link } from './simulated-network.ts';

/** How a call ended, as it crosses the wire. */
export interface WireError {
  readonly status: GrpcStatus;
  readonly message: string;
  readonly code: ErrorCode | undefined;
  readonly detail: Uint8Array | undefined;
}

export type Packet =
  | {
      readonly kind: 'open';
      readonly stream: number;
      readonly path: string;
      readonly authority: string;
      /** The request, where there is exactly one. */
      readonly body: Uint8Array | undefined;
    }
  | { readonly kind: 'message'; readonly stream: number; readonly body: Uint8Array }
  | { readonly kind: 'halfClose'; readonly stream: number }
  /** From the server, last; `body` is the answer to a unary call. */
  | {
      readonly kind: 'status';
      readonly stream: number;
      readonly body: Uint8Array | undefined;
      readonly error: WireError | undefined;
    }
  | { readonly kind: 'cancel'; readonly stream: number }
  /** The receiver has taken so many bytes: the sender's window opens again. */
  | { readonly kind: 'credit'; readonly stream: number; readonly bytes: number }
  /** The server takes no new streams on this connection. */
  | { readonly kind: 'goaway'; readonly stream: 0 }
  | { readonly kind: 'reset'; readonly stream: 0; readonly reason: string };

const sizeOf = (packet: Packet): number => {
  const body = 'body' in packet ? packet.body : undefined;
  return 32 + (body?.length ?? 0);
};

function hashOf(packet: Packet): number {
  const body = 'body' in packet && packet.body !== undefined ? bytesHash(packet.body) : 0;
  return Math.imul(body ^ packet.stream, 31) + packet.kind.length * 7 + packet.kind.charCodeAt(0);
}

/** What lives on an end: the client's channel or the server's session. */
export interface PacketHandler {
  onPacket(packet: Packet): void;
  /** Called once, when the connection is gone for a reason of its own. */
  onBroken(reason: string): void;
}

/** One first-in-first-out direction. Packets that meet a closed link wait until it opens. */
export class Lane {
  readonly #scheduler: Scheduler;
  readonly link: Link;
  readonly #receiver: ConnectionEnd;
  readonly #queue: { packet: Packet; dueUs: number }[] = [];
  #scheduled = false;
  #busyUntilUs = 0;

  constructor(scheduler: Scheduler, link: Link, receiver: ConnectionEnd) {
    this.#scheduler = scheduler;
    this.link = link;
    this.#receiver = receiver;
  }

  /** When the last packet under way arrives, at the earliest. */
  get lastDueUs(): number {
    return this.#queue.at(-1)?.dueUs ?? 0;
  }

  push(packet: Packet, notBeforeUs = 0): void {
    const now = this.#scheduler.nowUs;
    const leavesUs = Math.max(now, this.#busyUntilUs) + this.link.transferUs(sizeOf(packet));
    this.#busyUntilUs = leavesUs;
    const arrivesUs = leavesUs + this.link.delayUs();
    this.#queue.push({ packet, dueUs: Math.max(arrivesUs, this.lastDueUs, notBeforeUs) });
    this.#scheduleHead();
  }

  /** What is under way is lost. */
  clear(): void {
    this.#queue.length = 0;
  }

  /** The receiver is gone with its host: what is under way waits for whoever comes up there. */
  orphan(): void {
    this.#scheduled = false;
    this.#scheduleHead();
  }

  /** The link is open again: what waited is sent anew, after a moment. */
  restart(): void {
    const head = this.#queue[0];
    if (head === undefined || this.#scheduled) return;
    head.dueUs = Math.max(head.dueUs, this.#scheduler.nowUs + this.link.retransmitUs());
    this.#scheduleHead();
  }

  #scheduleHead(): void {
    const head = this.#queue[0];
    if (head === undefined || this.#scheduled) return;
    if (!this.link.open) {
      this.link.stalled.add(this);
      return;
    }
    this.#scheduled = true;
    const facts = {
      kind: head.packet.kind,
      target: this.#receiver.label,
      detail: hashOf(head.packet),
      owner: this.#receiver.owner.alive ? this.#receiver.owner : undefined,
    };
    const delayUs = Math.max(0, head.dueUs - this.#scheduler.nowUs);
    this.#scheduler.after(delayUs, facts, () => this.#arrive());
  }

  #arrive(): void {
    this.#scheduled = false;
    if (!this.link.open) {
      this.link.stalled.add(this);
      return;
    }
    const head = this.#queue.shift();
    this.#scheduleHead();
    if (head !== undefined) this.#receiver.receive(head.packet);
  }
}

export class ConnectionEnd {
  readonly owner: EventOwner;
  /** `broker-1→broker-2`: whose events these are, and whence they come. */
  readonly label: string;
  readonly #connection: Connection;
  handler: PacketHandler | undefined;
  lanes: readonly Lane[] = [];
  /** `dead`: the process is gone and nobody at the other side has been told. */
  state: 'open' | 'closed' | 'dead' = 'open';
  /** A keepalive timer runs for it. */
  watched = false;

  constructor(connection: Connection, owner: EventOwner, peerName: string) {
    this.#connection = connection;
    this.owner = owner;
    this.label = `${owner.name}<${peerName}`;
  }

  get connection(): Connection {
    return this.#connection;
  }

  get peer(): ConnectionEnd {
    return this.#connection.peerOf(this);
  }

  send(packet: Packet): void {
    if (this.state !== 'open') return;
    const lane = this.lanes[packet.stream % this.lanes.length];
    if (lane === undefined) return;
    if (lane.link.breaks()) this.#connection.sever('connection reset by the network');
    else {
      lane.link.overhear(packet);
      lane.push(packet);
    }
  }

  receive(packet: Packet): void {
    if (this.state === 'dead') {
      // The kernel of a host that came back knows no such connection.
      this.state = 'closed';
      this.#sayReset('no such connection');
    }
    if (this.state !== 'open') return;
    if (packet.kind === 'reset') this.break(packet.reason);
    else this.handler?.onPacket(packet);
  }

  /** The connection is gone on this side, and its owner is told. */
  break(reason: string): void {
    if (this.state !== 'open') return;
    this.close();
    this.handler?.onBroken(reason);
  }

  /** Gives the connection up; the other side hears of it when the link lets it. */
  abort(reason: string, options: { dropInFlight: boolean }): void {
    if (this.state !== 'open') return;
    if (options.dropInFlight) for (const lane of this.lanes) lane.clear();
    this.close();
    this.#sayReset(reason);
  }

  /** The process is gone without a word, and the host with it. */
  die(): void {
    if (this.state !== 'open') return;
    for (const lane of this.lanes) lane.clear();
    this.state = 'dead';
    for (const lane of this.peer.lanes) lane.orphan();
  }

  close(): void {
    this.state = 'closed';
    this.#connection.forget(this);
  }

  #sayReset(reason: string): void {
    // The first reset to arrive ends the connection: none may overtake what another lane carries.
    const notBeforeUs = Math.max(...this.lanes.map((lane) => lane.lastDueUs)) + 1;
    for (const lane of this.lanes) lane.push({ kind: 'reset', stream: 0, reason }, notBeforeUs);
  }
}

export class Connection {
  readonly client: ConnectionEnd;
  readonly server: ConnectionEnd;
  readonly #forget: (connection: Connection) => void;

  constructor(options: {
    client: EventOwner;
    server: EventOwner;
    forget: (connection: Connection) => void;
  }) {
    this.client = new ConnectionEnd(this, options.client, options.server.name);
    this.server = new ConnectionEnd(this, options.server, options.client.name);
    this.#forget = options.forget;
  }

  peerOf(end: ConnectionEnd): ConnectionEnd {
    return end === this.client ? this.server : this.client;
  }

  forget(end: ConnectionEnd): void {
    if (this.peerOf(end).state === 'closed') this.#forget(this);
  }

  /** Something in between broke it: both ends are reset, what is under way is lost. */
  sever(reason: string): void {
    for (const end of [this.client, this.server]) {
      for (const lane of end.lanes) {
        lane.clear();
        lane.push({ kind: 'reset', stream: 0, reason });
      }
    }
  }
}
