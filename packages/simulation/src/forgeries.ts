/** Messages to the cluster's own services such as no node of it would send, drawn from a seed. */
import type { Method, MethodKind } from '@relevo/base/ports';
import {
  AlterPartitionsRequestCodec,
  BrokerHeartbeatCodec,
  ControllerService,
  RegisterBrokerRequestCodec,
  alterPartitionsRequest,
  brokerHeartbeat,
  registerBrokerRequest,
} from '@relevo/rpc/gen/cluster/controller';
import { ControllerAdminService } from '@relevo/rpc/gen/cluster/controller-admin';
import { DeleteTopicRequestCodec } from '@relevo/rpc/gen/client/admin';
import { RaftMessageCodec, RaftService } from '@relevo/rpc/gen/cluster/raft';
import type { RaftMessageBody } from '@relevo/rpc/gen/cluster/raft';
import {
  FollowerMessageCodec,
  ReplicationService,
  followerMessage,
  followerPosition,
} from '@relevo/rpc/gen/cluster/replication';
import { rawMethod } from '@relevo/server/security/member-routes';
import type { Prng } from './prng.ts';
import { TOPIC } from './workload.ts';

/** A call: the method, and what is sent one after the other. */
export interface Forgery {
  readonly method: Method<Uint8Array, Uint8Array>;
  readonly bodies: readonly Uint8Array[];
}

export interface ForgeriesOptions {
  /** Only what no member of the quorum could say: for a cluster without a secret. */
  readonly impossibleOnly: boolean;
}

const CLUSTER = 'simulated';
const TERM_MAX = 2 ** 31 - 1;
const NO_BYTES = new Uint8Array(0);

export class Forgeries {
  readonly #prng: Prng;
  readonly #options: ForgeriesOptions;

  constructor(prng: Prng, options: ForgeriesOptions) {
    this.#prng = prng;
    this.#options = options;
  }

  draw(): Forgery {
    const prng = this.#prng;
    if (this.#options.impossibleOnly) return this.#toQuorum(true);
    const drawn = prng.integer(0, 4);
    if (drawn === 0) return this.#registration();
    if (drawn === 1) return this.#inSyncSets();
    if (drawn === 2) return this.#follower();
    if (drawn === 3) return this.#admin();
    return prng.chance(0.3) ? this.#heartbeat() : this.#toQuorum(false);
  }

  #id(): string {
    const letters = 'ABCDEFGHabcdefgh01234567-_';
    return Array.from({ length: 22 }, () => letters[this.#prng.integer(0, 25)]).join('');
  }

  #broker(): number {
    return this.#prng.pick([0, 1, 2, 77]);
  }

  #epoch(): number {
    return this.#prng.pick([1, 2, 3, 4, 5, 6, 2 ** 40]);
  }

  #registration(): Forgery {
    const request = registerBrokerRequest({
      clusterId: CLUSTER,
      brokerId: this.#broker(),
      incarnationId: this.#id(),
      directoryId: this.#id(),
      clientAddress: 'outsider:1',
      peerAddress: 'outsider:1',
    });
    const { path } = ControllerService.registerBroker;
    return forgery('unary', path, RegisterBrokerRequestCodec.encode(request));
  }

  #inSyncSets(): Forgery {
    const brokerId = this.#broker();
    const request = alterPartitionsRequest({
      brokerId,
      brokerEpoch: this.#epoch(),
      partitions: [
        {
          topicId: this.#id(),
          partition: this.#prng.integer(0, 3),
          leaderEpoch: this.#prng.integer(0, 5),
          partitionEpoch: this.#prng.integer(0, 9),
          isr: [{ brokerId, brokerEpoch: this.#epoch() }],
        },
      ],
    });
    const { path } = ControllerService.alterPartitions;
    return forgery('unary', path, AlterPartitionsRequestCodec.encode(request));
  }

  #follower(): Forgery {
    const leaderId = this.#prng.integer(0, 2);
    const hello = {
      clusterId: CLUSTER,
      brokerId: this.#broker(),
      brokerEpoch: this.#epoch(),
      leaderId,
    };
    const position = followerPosition({
      handle: 1,
      leaderEpoch: this.#prng.integer(0, 5),
      syncedEndOffset: this.#prng.pick([0, 10, 2 ** 40]),
      lastEpoch: this.#prng.integer(-1, 5),
    });
    return forgery(
      'bidi',
      ReplicationService.replicate.path,
      FollowerMessageCodec.encode(followerMessage({ hello, creditBytes: 2 ** 31 })),
      FollowerMessageCodec.encode(followerMessage({ positions: [position] })),
    );
  }

  #admin(): Forgery {
    const request = { name: TOPIC };
    const { path } = ControllerAdminService.deleteTopic;
    return forgery('unary', path, DeleteTopicRequestCodec.encode(request));
  }

  #heartbeat(): Forgery {
    const heartbeat = brokerHeartbeat({
      brokerId: this.#broker(),
      brokerEpoch: this.#epoch(),
      diskSyncMs: -1,
      wantsShutdown: true,
      sequence: 1,
    });
    const { path } = ControllerService.session;
    return forgery('bidi', path, BrokerHeartbeatCodec.encode(heartbeat));
  }

  #toQuorum(impossible: boolean): Forgery {
    const prng = this.#prng;
    const to = prng.integer(0, 2);
    const other = (to + prng.integer(1, 2)) % 3;
    const bodies = impossible ? this.#impossible() : this.#possible();
    const term = impossible ? prng.pick([TERM_MAX, TERM_MAX - 1, 2 ** 30]) : prng.integer(1, 50);
    const message = {
      clusterId: CLUSTER,
      from: impossible && prng.chance(0.2) ? 77 : other,
      fromDirectoryId: this.#id(),
      to,
      toDirectoryId: '',
      term,
      body: bodies,
    };
    return forgery('bidi', RaftService.peer.path, RaftMessageCodec.encode(message));
  }

  #impossible(): RaftMessageBody {
    const entry = { index: 1, term: TERM_MAX, kind: 0, data: this.#prng.bytes(20) };
    return this.#prng.pick<RaftMessageBody>([
      {
        case: 'voteRequest',
        value: { preVote: false, lastIndex: 2 ** 40, lastTerm: 2 ** 29, forced: true, nextTerm: 0 },
      },
      {
        case: 'appendRequest',
        value: { previousIndex: 0, previousTerm: 0, commitIndex: 2 ** 40, entries: [entry] },
      },
      { case: 'heartbeatRequest', value: { commitIndex: 2 ** 40, readContext: 7 } },
      { case: 'timeoutNow', value: {} },
    ]);
  }

  #possible(): RaftMessageBody {
    const term = this.#prng.integer(1, 9);
    const entry = { index: this.#prng.integer(1, 40), term, kind: 2, data: NO_BYTES };
    return this.#prng.pick<RaftMessageBody>([
      {
        case: 'voteRequest',
        value: { preVote: false, lastIndex: 2 ** 40, lastTerm: term, forced: true, nextTerm: 0 },
      },
      {
        case: 'appendRequest',
        value: {
          previousIndex: entry.index - 1,
          previousTerm: entry.index === 1 ? 0 : term,
          commitIndex: entry.index,
          entries: [entry],
        },
      },
      { case: 'timeoutNow', value: {} },
    ]);
  }
}

const forgery = (kind: MethodKind, path: string, ...bodies: Uint8Array[]): Forgery => ({
  method: rawMethod(path, kind),
  bodies,
});
