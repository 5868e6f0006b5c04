/**
 * One side of one stream: messages are encoded when they are sent and decoded when they are delivered,
 * so that no object is ever shared. A window bounds what is under way (the receiver opens it as its
 * owner takes messages); what does not fit waits here and is what `queuedBytes` counts.
 *
 *   open --end()--> ending (queue not empty) --> ended
 *   open | ending | ended --finish(error)--> finished: `onEnd` was called, nothing more happens
 */
import { RpcError } from '@relevo/base/ports';
import type { Codec, MessageStream, StreamEvents } from '@relevo/base/ports';
import type { ConnectionEnd, Packet } from './simulated-connection.ts';
import type { SimulatedNetwork } from './simulated-network.ts';
import type { EventOwner } from './scheduler.ts';

/** What arrives in order on a stream. */
type Arrival =
  | { readonly kind: 'message'; readonly body: Uint8Array }
  | { readonly kind: 'last'; readonly error: RpcError | undefined };

export interface StreamOptions<In, Out> {
  readonly network: SimulatedNetwork;
  readonly owner: EventOwner;
  readonly id: number;
  readonly label: string;
  readonly encoder: Codec<Out>;
  readonly decoder: Codec<In>;
  /** The packets that `end` and `cancel` send. */
  readonly endPacket: () => Packet;
  readonly cancelPacket: (error: RpcError) => Packet;
  /** Called once, when the stream needs no more packets. */
  readonly released: () => void;
  /** How the stream ends when a message cannot be decoded. */
  readonly undecodable: (error: unknown) => RpcError;
  /** How it ends when its owner's `onMessage` throws; may throw itself, where that is a bug. */
  readonly handlerFailed: (thrown: unknown) => RpcError;
  /** True on the server: its own `end` finishes the call. */
  readonly endFinishes: boolean;
}

export class SimulatedStream<In, Out> implements MessageStream<Out> {
  readonly #options: StreamOptions<In, Out>;
  events: StreamEvents<In> | undefined;
  #end: ConnectionEnd | undefined;
  #outbox: Uint8Array[] = [];
  #outboxBytes = 0;
  /** Sent and not yet taken by the receiver. */
  #unackedBytes = 0;
  #wantsDrain = false;
  #ending = false;
  #endSent = false;
  #inbox: Arrival[] = [];
  #paused = false;
  #draining = false;
  /** Taken by our owner, and not yet told to the sender. */
  #creditBytes = 0;
  /** It has said all, and has been heard. */
  #peerEnded = false;
  #lastSeen = false;
  #finished = false;

  constructor(options: StreamOptions<In, Out>) {
    this.#options = options;
  }

  get finished(): boolean {
    return this.#finished;
  }

  /** The connection is there: what waited goes out. */
  attach(end: ConnectionEnd): void {
    this.#end = end;
    this.#flush();
  }

  // ------------------------------------------------------------------------- MessageStream

  send(message: Out): boolean {
    if (this.#finished || this.#ending) return false;
    // A copy: the sender may use its buffer again, the receiver may keep views.
    const body = this.#options.encoder.encode(message).slice();
    const limit = this.#options.network.messageBytesMax;
    if (body.length > limit) {
      const what = `a message of ${body.length} bytes; the limit is ${limit}`;
      this.cancel(new RpcError('RESOURCE_EXHAUSTED', what));
      return false;
    }
    this.#outbox.push(body);
    this.#outboxBytes += body.length;
    this.#flush();
    if (this.#outboxBytes <= this.#options.network.bufferBytesMax) return true;
    this.#wantsDrain = true;
    return false;
  }

  queuedBytes(): number {
    return this.#outboxBytes;
  }

  end(): void {
    if (this.#finished || this.#ending) return;
    this.#ending = true;
    this.#flush();
  }

  cancel(error: RpcError): void {
    if (this.#finished) return;
    this.#outbox = [];
    this.#outboxBytes = 0;
    this.#end?.send(this.#options.cancelPacket(error));
    this.finish(error);
  }

  pause(): void {
    this.#paused = true;
  }

  resume(): void {
    if (!this.#paused) return;
    this.#paused = false;
    this.#drainInbox();
  }

  // ----------------------------------------------------------------- from the connection

  onMessage(body: Uint8Array): void {
    this.#arrive({ kind: 'message', body });
  }

  /** The peer's last word, after all its messages. */
  onLast(error: RpcError | undefined): void {
    if (error === undefined) this.#arrive({ kind: 'last', error });
    else this.finish(error);
  }

  onCredit(bytes: number): void {
    this.#unackedBytes = Math.max(0, this.#unackedBytes - bytes);
    this.#flush();
  }

  /** Ends the stream for its owner: `onEnd` follows, in a turn of its own. */
  finish(error: RpcError | undefined): void {
    if (this.#finished) return;
    this.#finished = true;
    this.#inbox = [];
    this.#outbox = [];
    this.#outboxBytes = 0;
    this.#options.released();
    if (this.#lastSeen) return;
    this.#lastSeen = true;
    this.#soon('stream-end', () => this.events?.onEnd(error));
  }

  // ------------------------------------------------------------------------------- inside

  #soon(kind: string, run: () => void): void {
    const { network, label, owner } = this.#options;
    network.scheduler.soon({ kind, target: label, owner }, run);
  }

  #flush(): void {
    const end = this.#end;
    if (end === undefined || this.#finished) return;
    const { network, id } = this.#options;
    let sent = 0;
    while (sent < this.#outbox.length && this.#unackedBytes < network.windowBytes) {
      const body = this.#outbox[sent++];
      if (body === undefined) break;
      this.#unackedBytes += body.length;
      this.#outboxBytes -= body.length;
      end.send({ kind: 'message', stream: id, body });
    }
    if (sent > 0) this.#outbox.splice(0, sent);
    if (this.#wantsDrain && this.#outboxBytes <= network.bufferBytesMax / 2) {
      this.#wantsDrain = false;
      this.#soon('drain', () => {
        if (!this.#finished) this.events?.onDrain?.();
      });
    }
    if (this.#ending && !this.#endSent && this.#outbox.length === 0) {
      this.#endSent = true;
      end.send(this.#options.endPacket());
      if (this.#options.endFinishes) this.finish(undefined);
    }
  }

  #arrive(arrival: Arrival): void {
    if (this.#finished || this.#lastSeen || this.#peerEnded) return;
    this.#inbox.push(arrival);
    if (!this.#paused && !this.#draining) this.#deliver();
  }

  #drainInbox(): void {
    if (this.#draining || this.#inbox.length === 0) return;
    this.#draining = true;
    this.#soon('deliver', () => {
      this.#draining = false;
      if (this.#paused || this.#finished) return;
      this.#deliver();
      this.#drainInbox();
    });
  }

  #deliver(): void {
    const arrival = this.#inbox.shift();
    if (arrival === undefined) return;
    if (arrival.kind === 'message') return this.#deliverMessage(arrival.body);
    if (this.#options.endFinishes) {
      // The client has said all; the answer may still be on its way.
      this.#peerEnded = true;
      if (this.events?.onHalfClose !== undefined) return this.events.onHalfClose();
      this.#lastSeen = true;
      this.events?.onEnd(undefined);
      this.end();
    } else {
      this.#lastSeen = true;
      this.finish(undefined);
      this.events?.onEnd(undefined);
    }
  }

  #deliverMessage(body: Uint8Array): void {
    let message: In;
    try {
      message = this.#options.decoder.decode(body);
    } catch (error) {
      this.cancel(this.#options.undecodable(error));
      return;
    }
    this.#creditBytes += body.length;
    if (this.#creditBytes * 4 >= this.#options.network.windowBytes) {
      const bytes = this.#creditBytes;
      this.#creditBytes = 0;
      this.#end?.send({ kind: 'credit', stream: this.#options.id, bytes });
    }
    try {
      this.events?.onMessage(message);
    } catch (thrown) {
      this.cancel(this.#options.handlerFailed(thrown));
    }
  }
}
