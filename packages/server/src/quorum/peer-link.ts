/**
 * The sending half between two voters: a stream that we dial, kept up as long as there is something to say.
 * What cannot be sent now is dropped; the core says it again in time.
 *
 *     down --something to send, back-off is over--> up --it ends, or the peer is mute--> down
 */
import type { BrokerId } from '@relevo/base/ids';
import { RpcError } from '@relevo/base/ports';
import type { Channel, Clock, Logger, MessageStream, Random, Transport } from '@relevo/base/ports';
import { backoffMs } from '@relevo/base/retry';
import type { RetryPolicy } from '@relevo/base/retry';
import type { Message } from '@relevo/raft/messages';
import { RaftService } from '@relevo/rpc/gen/cluster/raft';
import type { RaftMessage } from '@relevo/rpc/gen/cluster/raft';
import { bodyToWire, envelopeToWire } from './quorum-messages.ts';
import type { WholeBody } from './quorum-messages.ts';
import { isSnapshot, piecesOf } from './snapshot-pieces.ts';

const RECONNECT: RetryPolicy = { initialMs: 20, maxMs: 500, factor: 2, jitter: 0.2 };
/** With more waiting to go out, messages are dropped. */
const QUEUE_BYTES_MAX = 32 * 2 ** 20;
/** A peer to which we speak and that says nothing for so long is dialled anew. */
const MUTE_MS = 1000;

export interface PeerLinkDeps {
  readonly clock: Clock;
  readonly random: Random;
  readonly transport: Transport;
  readonly logger: Logger;
}

export interface PeerLinkOptions {
  readonly peer: BrokerId;
  readonly address: string;
  readonly clusterId: string;
  /** The stream is gone; whatever was on it may be lost. */
  readonly onBroken: () => void;
  /** The peer takes what is on the stream, and a part of a snapshot has followed. */
  readonly onSnapshotGoesOn: () => void;
}

export class PeerLink {
  readonly address: string;
  readonly #deps: PeerLinkDeps;
  readonly #options: PeerLinkOptions;
  readonly #channel: Channel;
  #stream: MessageStream<RaftMessage> | undefined;
  #failures = 0;
  #retryAtMs = 0;
  /** Since when we have been speaking without an answer. */
  #unansweredSinceMs: number | undefined;
  /** Of a snapshot, still to be sent. */
  #pieces: Generator<RaftMessage> | undefined;
  #refusal: string | undefined;
  #closed = false;

  constructor(deps: PeerLinkDeps, options: PeerLinkOptions) {
    this.#deps = deps;
    this.#options = options;
    this.address = options.address;
    this.#channel = deps.transport.dial(options.address);
  }

  send(message: Message): void {
    const nowMs = this.#deps.clock.monotonicMs();
    this.#unansweredSinceMs ??= nowMs;
    if (nowMs - this.#unansweredSinceMs > MUTE_MS) this.#giveUpMute(nowMs);
    const stream = this.#stream ?? this.#connect(nowMs);
    if (stream === undefined) return;
    if (isSnapshot(message)) {
      this.#pieces = piecesOf(this.#options.clusterId, message);
      this.#sendPieces();
    } else if (stream.queuedBytes() <= QUEUE_BYTES_MAX) {
      // Told apart by its kind above.
      const body = bodyToWire(message.body as WholeBody);
      stream.send(envelopeToWire(this.#options.clusterId, message, body));
    }
  }

  /** The peer has said something on its own stream: it is there. */
  heard(): void {
    this.#unansweredSinceMs = undefined;
  }

  /** The peer has just dialled us: it is worth dialling now. */
  peerCalled(): void {
    this.#failures = 0;
    this.#retryAtMs = 0;
    this.heard();
  }

  close(): void {
    this.#closed = true;
    this.#stream = undefined;
    this.#pieces = undefined;
    this.#channel.close();
  }

  #connect(nowMs: number): MessageStream<RaftMessage> | undefined {
    if (this.#closed || nowMs < this.#retryAtMs) return undefined;
    const stream: MessageStream<RaftMessage> = this.#channel.open(RaftService.peer, {
      onMessage: ({ refusal }) => {
        if (this.#stream === stream) this.#refused(refusal, false);
      },
      onDrain: () => {
        if (this.#stream !== stream) return;
        // Behind large pieces answers to heartbeats are late.
        this.heard();
        this.#sendPieces();
      },
      onEnd: (error) => {
        if (this.#stream === stream) this.#broken(error);
      },
    });
    this.#stream = stream;
    return stream;
  }

  #sendPieces(): void {
    if (this.#pieces !== undefined) this.#options.onSnapshotGoesOn();
    while (this.#pieces !== undefined && this.#stream !== undefined) {
      const next = this.#pieces.next();
      if (next.done === true) this.#pieces = undefined;
      else if (!this.#stream.send(next.value)) return;
    }
  }

  #refused(refusal: string, asksForSecret: boolean): void {
    const { logger } = this.#deps;
    const { peer } = this.#options;
    if (refusal !== this.#refusal) {
      const facts = { peer, address: this.address, refusal };
      if (asksForSecret) {
        logger.error('a controller refuses to talk to us: it asks for the secret of its cluster', {
          ...facts,
          do: 'put the same cluster.secret.file on every node: deploy/README.md, "One secret"',
        });
      } else logger.warn('a controller refuses to talk to us', facts);
    }
    this.#refusal = refusal;
  }

  #broken(error: RpcError | undefined): void {
    const { logger, clock, random } = this.#deps;
    const { peer, onBroken } = this.#options;
    logger.debug('the stream to a controller ended', {
      peer,
      address: this.address,
      why: error?.message ?? 'it ended the stream',
    });
    if (
      error?.code === 'CLUSTER_AUTHORIZATION_FAILED' ||
      error?.code === 'INCONSISTENT_CLUSTER_ID'
    ) {
      this.#refused(error.message, error.code === 'CLUSTER_AUTHORIZATION_FAILED');
    }
    this.#stream = undefined;
    this.#pieces = undefined;
    this.#retryAtMs = clock.monotonicMs() + backoffMs(RECONNECT, this.#failures, random);
    this.#failures++;
    if (!this.#closed) onBroken();
  }

  /** A connection may be dead without our having been told. */
  #giveUpMute(nowMs: number): void {
    this.#unansweredSinceMs = nowMs;
    const stream = this.#stream;
    if (stream === undefined) return;
    this.#stream = undefined;
    this.#pieces = undefined;
    stream.cancel(new RpcError('CANCELLED', `nothing was heard for ${MUTE_MS} ms`));
    this.#options.onBroken();
  }
}
