/**
 * The receiving half between two voters: checks what comes in on the streams that others dial, and hands
 * it on. Whoever sends what it may not is told so, and its stream ends.
 */
import { messageOf } from '@relevo/base/errors';
import { brokerId } from '@relevo/base/ids';
import type { BrokerId } from '@relevo/base/ids';
import { RpcError, route } from '@relevo/base/ports';
import type { Logger, MessageStream, Route, StreamEvents } from '@relevo/base/ports';
import type { Message } from '@relevo/raft/messages';
import { RaftService, raftPeerReply } from '@relevo/rpc/gen/cluster/raft';
import type { RaftMessage, RaftPeerReply } from '@relevo/rpc/gen/cluster/raft';
import { MalformedMessage, messageFromWire } from './quorum-messages.ts';
import { SnapshotAssembler } from './snapshot-pieces.ts';

export interface PeerServiceOptions {
  readonly clusterId: string;
  readonly nodeId: BrokerId;
}

export interface PeerServiceEvents {
  /** Undefined while the quorum takes no messages; else why. */
  readonly closedBecause: () => string | undefined;
  readonly onCall: (from: BrokerId) => void;
  readonly onMessage: (message: Message) => void;
  /** The stream of a peer that had called ended. */
  readonly onBroken: (from: BrokerId) => void;
}

export class PeerService {
  readonly #options: PeerServiceOptions;
  readonly #logger: Logger;
  readonly #events: PeerServiceEvents;
  readonly #streams = new Set<MessageStream<RaftPeerReply>>();

  constructor(options: PeerServiceOptions, logger: Logger, events: PeerServiceEvents) {
    this.#options = options;
    this.#logger = logger;
    this.#events = events;
  }

  routes(): Route[] {
    return [
      route<RaftMessage, RaftPeerReply, 'bidi'>(RaftService.peer, (stream, peer) =>
        this.#serve(stream, peer.address),
      ),
    ];
  }

  close(): void {
    for (const stream of this.#streams) {
      stream.cancel(new RpcError('UNAVAILABLE', 'the quorum of this node has stopped'));
    }
    this.#streams.clear();
  }

  #serve(stream: MessageStream<RaftPeerReply>, address: string): StreamEvents<RaftMessage> {
    const assembler = new SnapshotAssembler();
    let from: BrokerId | undefined;
    this.#streams.add(stream);
    return {
      onMessage: (wire) => {
        if (!this.#streams.has(stream)) return;
        const problem = this.#events.closedBecause() ?? this.#strangeness(wire);
        if (problem !== undefined) return this.#refuse(stream, address, problem);
        try {
          if (from === undefined) {
            from = brokerId(wire.from);
            this.#events.onCall(from);
          }
          const message =
            wire.body.case === 'snapshotRequest'
              ? assembler.take(wire, wire.body.value)
              : messageFromWire(wire);
          if (message !== undefined) this.#events.onMessage(message);
        } catch (error) {
          const isTheirs = error instanceof MalformedMessage || error instanceof RangeError;
          if (!isTheirs) throw error;
          this.#refuse(stream, address, `a message is malformed: ${messageOf(error)}`);
        }
      },
      onEnd: () => {
        if (this.#streams.delete(stream) && from !== undefined) this.#events.onBroken(from);
      },
    };
  }

  #strangeness(wire: RaftMessage): string | undefined {
    const { clusterId, nodeId } = this.#options;
    if (wire.clusterId !== clusterId) {
      return `this is cluster "${clusterId}", not "${wire.clusterId}"; check cluster.id`;
    }
    if (wire.to !== nodeId) {
      return `this is node ${nodeId}, not ${wire.to}; check controller.quorum.voters`;
    }
    if (wire.from === nodeId) {
      return `this is node ${nodeId} too; two nodes may not have one node.id`;
    }
    return undefined;
  }

  #refuse(stream: MessageStream<RaftPeerReply>, address: string, refusal: string): void {
    this.#streams.delete(stream);
    this.#logger.debug('refused a message of the quorum', { address, refusal });
    stream.send(raftPeerReply({ refusal }));
    stream.end();
  }
}
