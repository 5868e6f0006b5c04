/**
 * The receiving half between two voters: checks what comes in on the streams that others dial, and hands
 * it on. Whoever sends what it may not is told so, and its stream ends.
 */
import { messageOf } from '@relevo/base/errors';
import { brokerId } from '@relevo/base/ids';
import type { BrokerId } from '@relevo/base/ids';
import { RpcError, route } from '@relevo/base/ports';
import type {
  Clock,
  Logger,
  MessageStream,
  PeerInfo,
  Route,
  StreamEvents,
} from '@relevo/base/ports';
import type { Message } from '@relevo/raft/messages';
import { RaftService, raftPeerReply } from '@relevo/rpc/gen/cluster/raft';
import type { RaftMessage, RaftPeerReply } from '@relevo/rpc/gen/cluster/raft';
import { RefusalLog } from '../security/refusal-log.ts';
import { MalformedMessage, messageFromWire } from './quorum-messages.ts';
import { SnapshotAssembler } from './snapshot-pieces.ts';

export interface PeerServiceOptions {
  readonly clusterId: string;
  readonly nodeId: BrokerId;
}

export interface PeerServiceEvents {
  /** Undefined while the quorum takes no messages; else why. */
  readonly closedBecause: () => string | undefined;
  /** Whether the node is, or is to be, a voter or learner. */
  readonly isKnown: (id: BrokerId) => boolean;
  /** Why a message is not to be acted on, whoever sent it; undefined: it may be. */
  readonly problemWith: (message: Message) => string | undefined;
  readonly onCall: (from: BrokerId) => void;
  readonly onMessage: (message: Message) => void;
  /** A part of a snapshot has come: its sender is there, though what else it says may be late. */
  readonly onPiece: (from: BrokerId) => void;
  /** The stream of a peer that had called ended. */
  readonly onBroken: (from: BrokerId) => void;
}

export class PeerService {
  readonly #options: PeerServiceOptions;
  readonly #refusals: RefusalLog;
  readonly #events: PeerServiceEvents;
  readonly #streams = new Set<MessageStream<RaftPeerReply>>();

  constructor(
    options: PeerServiceOptions,
    deps: { readonly clock: Clock; readonly logger: Logger },
    events: PeerServiceEvents,
  ) {
    this.#options = options;
    this.#refusals = new RefusalLog(deps);
    this.#events = events;
  }

  routes(): Route[] {
    return [
      route<RaftMessage, RaftPeerReply, 'bidi'>(RaftService.peer, (stream, peer) =>
        this.#serve(stream, peer),
      ),
    ];
  }

  close(): void {
    for (const stream of this.#streams) {
      stream.cancel(new RpcError('UNAVAILABLE', 'the quorum of this node has stopped'));
    }
    this.#streams.clear();
  }

  #serve(stream: MessageStream<RaftPeerReply>, caller: PeerInfo): StreamEvents<RaftMessage> {
    const { address, member } = caller;
    const assembler = new SnapshotAssembler();
    let from: BrokerId | undefined;
    this.#streams.add(stream);
    return {
      onMessage: (wire) => {
        if (!this.#streams.has(stream)) return;
        const problem = this.#events.closedBecause() ?? this.#strangeness(wire, from ?? member);
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
          if (message === undefined) {
            this.#events.onPiece(from);
            return;
          }
          const flaw = this.#events.problemWith(message);
          if (flaw !== undefined) throw new MalformedMessage(flaw);
          this.#events.onMessage(message);
        } catch (error) {
          const isTheirs = error instanceof MalformedMessage || error instanceof RangeError;
          if (!isTheirs) throw error;
          this.#refuse(stream, address, `a message cannot be: ${messageOf(error)}`);
        }
      },
      onEnd: () => {
        if (this.#streams.delete(stream) && from !== undefined) this.#events.onBroken(from);
      },
    };
  }

  /** `sender`: who the caller is for certain; undefined: nobody has told yet. */
  #strangeness(wire: RaftMessage, sender: BrokerId | undefined): string | undefined {
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
    if (sender !== undefined && wire.from !== sender) {
      return `the caller is node ${sender} and speaks for node ${wire.from}`;
    }
    if (!this.#events.isKnown(wire.from as BrokerId)) {
      return `node ${wire.from} is no member of this quorum; check controller.quorum.voters`;
    }
    return undefined;
  }

  #refuse(stream: MessageStream<RaftPeerReply>, address: string, refusal: string): void {
    this.#streams.delete(stream);
    this.#refusals.tell('refused a message to the quorum', { address, refusal });
    stream.send(raftPeerReply({ refusal }));
    stream.end();
  }
}
