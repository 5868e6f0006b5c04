/**
 * What both sides of a gRPC stream have in common: messages that wait to be written, counted in bytes;
 * one message read at a time, and none while paused; one `onEnd`, last.
 *
 *   open --end()--> ending (messages wait) --> half closed
 *   any --finish(error)--> finished: `onEnd` is called, nothing happens any more
 */
import { RpcError } from '@relevo/base/ports';
import type { Codec, MessageStream, StreamEvents } from '@relevo/base/ports';
import { MESSAGE_BYTES_MAX, STREAM_QUEUE_BYTES, WRITE_AHEAD_BYTES } from './grpc-options.ts';

/** Node.js' view of the same bytes. */
export const asBuffer = (bytes: Uint8Array): Buffer =>
  bytes instanceof Buffer ? bytes : Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);

export const tooLarge = (length: number): RpcError =>
  new RpcError(
    'RESOURCE_EXHAUSTED',
    `a message of ${length} bytes cannot be sent: the limit is ${MESSAGE_BYTES_MAX}`,
  );

export abstract class GrpcStream<In, Out> implements MessageStream<Out> {
  readonly #encoder: Codec<Out>;
  readonly #decoder: Codec<In>;
  #events: StreamEvents<In> | undefined;
  /** Encoded, and not yet handed to gRPC. */
  readonly #queue: Buffer[] = [];
  #queueStart = 0;
  #queuedBytes = 0;
  /** Handed to gRPC, and not yet written. */
  #writes = 0;
  #writingBytes = 0;
  #wantsDrain = false;
  #ending = false;
  #halfClosed = false;
  #reading = false;
  #paused = false;
  #delivering = false;
  /** Came in, perhaps while we were paused, and has not been delivered. */
  #held: Buffer | undefined;
  /** The peer ended well; told when what is held has been delivered. */
  #peerEnded = false;
  #halfCloseTold = false;
  #endTold = false;
  #finished = false;

  constructor(encoder: Codec<Out>, decoder: Codec<In>) {
    this.#encoder = encoder;
    this.#decoder = decoder;
  }

  // ------------------------------------------------------------------ what the side in question adds

  /** Asks gRPC for one message. */
  protected abstract requestRead(): void;
  /** Hands gRPC a message; `done` when it has been written. */
  protected abstract write(bytes: Buffer, done: () => void): void;
  /** After the last message. */
  protected abstract closeSending(): void;
  /** Ends the call at both sides. */
  protected abstract abort(error: RpcError): void;
  /** What to tell the peer of a message that cannot be decoded. */
  protected abstract undecodable(error: unknown): RpcError;
  /** The peer has said all, and all of it has been delivered; called once or more. */
  protected abstract peerEnded(): void;
  /** Our own handler threw. */
  protected abstract handlerFailed(thrown: unknown): void;
  /** How many messages gRPC takes before the first of them has been written. */
  protected abstract writesAhead(): number;
  /** After the end of it all, once. */
  protected abstract released(): void;

  // ---------------------------------------------------------------------------------- MessageStream

  send(message: Out): boolean {
    if (this.#finished || this.#ending) return false;
    const bytes = asBuffer(this.#encoder.encode(message));
    if (bytes.length > MESSAGE_BYTES_MAX) {
      this.cancel(tooLarge(bytes.length));
      return false;
    }
    this.sendBytes(bytes);
    if (this.queuedBytes() <= STREAM_QUEUE_BYTES) return true;
    this.#wantsDrain = true;
    return false;
  }

  queuedBytes(): number {
    return this.#queuedBytes + this.#writingBytes;
  }

  end(): void {
    if (this.#finished || this.#ending) return;
    this.#ending = true;
    this.#flush();
  }

  cancel(error: RpcError): void {
    if (this.#finished) return;
    this.abort(error);
    this.finish(error);
  }

  pause(): void {
    this.#paused = true;
  }

  resume(): void {
    if (!this.#paused) return;
    this.#paused = false;
    // Not from within this call.
    process.nextTick(() => {
      this.#deliver();
      this.#read();
    });
  }

  // --------------------------------------------------------------------------------- from the sides

  protected get finished(): boolean {
    return this.#finished;
  }

  /** From now on messages are delivered. */
  protected attach(events: StreamEvents<In>): void {
    this.#events = events;
    this.#read();
  }

  protected sendBytes(bytes: Buffer): void {
    this.#queue.push(bytes);
    this.#queuedBytes += bytes.length;
    this.#flush();
  }

  protected onBytes(bytes: Buffer): void {
    this.#reading = false;
    if (this.#finished) return;
    this.#held = bytes;
    this.#deliver();
  }

  /** The peer has said all, and well. */
  protected onPeerEnd(): void {
    this.#reading = false;
    this.#peerEnded = true;
    this.#deliver();
  }

  /** False: the owner does not care, and is to be told of an end. */
  protected tellHalfClose(): boolean {
    const events = this.#events;
    if (events?.onHalfClose === undefined) return false;
    if (this.#halfCloseTold) return true;
    this.#halfCloseTold = true;
    try {
      events.onHalfClose();
    } catch (thrown) {
      this.handlerFailed(thrown);
    }
    return true;
  }

  protected tellEnd(error: RpcError | undefined): void {
    if (this.#endTold) return;
    this.#endTold = true;
    this.#events?.onEnd(error);
  }

  /** The call is over; messages that have not been delivered are dropped. */
  protected finish(error: RpcError | undefined): void {
    if (this.#finished) return;
    this.#finished = true;
    this.#queue.length = 0;
    this.#queueStart = 0;
    this.#queuedBytes = 0;
    this.#writingBytes = 0;
    this.#held = undefined;
    this.released();
    process.nextTick(() => this.tellEnd(error));
  }

  // ---------------------------------------------------------------------------------------- reading

  #read(): void {
    if (this.#reading || this.#paused || this.#finished || this.#peerEnded) return;
    this.#reading = true;
    this.requestRead();
  }

  /** A loop, as gRPC may have the next message at hand when it is asked for it. */
  #deliver(): void {
    if (this.#delivering) return;
    this.#delivering = true;
    try {
      while (this.#held !== undefined && !this.#paused) {
        const bytes = this.#held;
        this.#held = undefined;
        this.#deliverOne(bytes);
        this.#read();
      }
    } finally {
      this.#delivering = false;
    }
    if (!this.#peerEnded || this.#finished || this.#paused) return;
    if (this.#held === undefined) this.peerEnded();
  }

  #deliverOne(bytes: Buffer): void {
    let message: In;
    try {
      message = this.#decoder.decode(bytes);
    } catch (error) {
      this.cancel(this.undecodable(error));
      return;
    }
    try {
      this.#events?.onMessage(message);
    } catch (thrown) {
      this.handlerFailed(thrown);
    }
  }

  // ---------------------------------------------------------------------------------------- writing

  #flush(): void {
    while (
      this.#queueStart < this.#queue.length &&
      this.#writes < this.writesAhead() &&
      this.#writingBytes < WRITE_AHEAD_BYTES
    ) {
      const bytes = this.#queue[this.#queueStart++];
      if (bytes === undefined) break;
      this.#queuedBytes -= bytes.length;
      this.#writingBytes += bytes.length;
      this.#writes++;
      this.write(bytes, () => this.#written(bytes.length));
    }
    if (this.#queueStart === this.#queue.length) {
      this.#queue.length = 0;
      this.#queueStart = 0;
      // grpc-js sends the end after the message at hand, but before any other that it holds.
      if (this.#ending && !this.#halfClosed && !this.#finished && this.#writes <= 1) {
        this.#halfClosed = true;
        this.closeSending();
      }
    } else if (this.#queueStart > QUEUE_SLACK) {
      this.#queue.splice(0, this.#queueStart);
      this.#queueStart = 0;
    }
  }

  #written(length: number): void {
    if (this.#finished) return;
    this.#writes--;
    this.#writingBytes -= length;
    this.#flush();
    if (this.#wantsDrain && this.queuedBytes() <= STREAM_QUEUE_BYTES / 2) {
      this.#wantsDrain = false;
      this.#events?.onDrain?.();
    }
  }
}

/** Entries of the queue that have been taken, before they are given up. */
const QUEUE_SLACK = 1024;
