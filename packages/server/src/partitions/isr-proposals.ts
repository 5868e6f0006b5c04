/**
 * Brings the leaders' proposals of in-sync sets to the controller, many in one request, one request at a
 * time: what is proposed meanwhile goes with the next. The outcome of each goes back to the leader that
 * made it, if it still leads under that epoch.
 *
 *     proposed ──> queued ──> asked ──accepted, refused──> settled
 *                    ↑          └──unknown──> asked again after a pause, while it is still pending
 *
 * A refusal answers one request. Where an earlier request with the same proposal was not answered, that one
 * may yet reach a controller: the refused proposal then stays in doubt, until the partition epoch has moved.
 *
 * A replica whose log has no room while it leads *resigns* the same way: it proposes the in-sync set without
 * itself, and the controller elects another of its members.
 */
import { errorCodeOf, messageOf } from '@relevo/base/errors';
import type { BrokerEpoch, BrokerId, Uuid } from '@relevo/base/ids';
import type { Logger, Timers } from '@relevo/base/ports';
import type { IsrOutcome, IsrProposal, LeaderReplica } from '@relevo/broker/leader-replica';
import type { ClusterImage } from '@relevo/controller/image';
import type {
  AlterPartitionsRequest,
  AlterPartitionsResponse,
  PartitionOutcome,
  PartitionProposal,
} from '@relevo/rpc/gen/cluster/controller';
import type { ControllerAnswer } from '../lifecycle/controller-client.ts';
import { partitionImage } from './current-leader.ts';
import type { Partition } from './partition.ts';
import type { Turn } from './turn.ts';

/** Proposals in one request. */
export const PROPOSALS_PER_REQUEST = 5_000;
/** Before a request of unknown outcome is made again; mostly the image has told by then. */
export const UNKNOWN_RETRY_MS = 250;

export interface IsrProposalsDeps {
  readonly timers: Timers;
  readonly turn: Turn;
  readonly logger: Logger;
  readonly localId: BrokerId;
  readonly image: () => ClusterImage;
  readonly brokerEpoch: () => BrokerEpoch | undefined;
  readonly alterPartitions: AlterPartitions;
}

export type AlterPartitions = (
  request: AlterPartitionsRequest,
) => Promise<ControllerAnswer<AlterPartitionsResponse>>;

type Item =
  | {
      readonly kind: 'proposal';
      readonly partition: Partition;
      readonly replica: LeaderReplica;
      readonly proposal: IsrProposal;
      /** A request that held it was not answered. */
      inDoubt: boolean;
    }
  | { readonly kind: 'resignation'; readonly partition: Partition };

export class IsrProposals {
  readonly #deps: IsrProposalsDeps;
  #queue = new Map<Partition, Item>();
  #asking = false;
  #closed = false;

  constructor(deps: IsrProposalsDeps) {
    this.#deps = deps;
  }

  get size(): number {
    return this.#queue.size;
  }

  propose(partition: Partition, replica: LeaderReplica, proposal: IsrProposal): void {
    this.#add({ kind: 'proposal', partition, replica, proposal, inDoubt: false });
  }

  /** The partition's log has no room, and the image says that it is led here. */
  resign(partition: Partition): void {
    this.#add({ kind: 'resignation', partition });
  }

  close(): void {
    this.#closed = true;
    this.#queue.clear();
  }

  #add(item: Item): void {
    this.#queue.set(item.partition, item);
    this.#deps.turn.atEnd(this.#ask);
  }

  readonly #ask = (): void => {
    if (this.#asking || this.#closed) return;
    const brokerEpoch = this.#deps.brokerEpoch();
    const items: Item[] = [];
    const partitions: PartitionProposal[] = [];
    for (const [partition, item] of this.#queue) {
      if (items.length === PROPOSALS_PER_REQUEST) break;
      this.#queue.delete(partition);
      const proposed = this.#encode(item);
      if (proposed === undefined) continue;
      items.push(item);
      partitions.push(proposed);
    }
    if (items.length === 0) return;
    if (brokerEpoch === undefined) {
      this.#askAgain(items);
      return;
    }
    this.#asking = true;
    const request = { brokerId: this.#deps.localId, brokerEpoch, partitions };
    this.#deps.alterPartitions(request).then(
      ({ response, triedBefore }) => {
        this.#asking = false;
        if (triedBefore) markInDoubt(items);
        this.#settle(items, response.partitions);
        this.#ask();
      },
      (error: unknown) => {
        this.#asking = false;
        const facts = { partitions: items.length, why: messageOf(error) };
        this.#deps.logger.warn('in-sync sets could not be proposed', facts);
        markInDoubt(items);
        this.#askAgain(items);
        this.#ask();
      },
    );
  };

  /** Undefined when the proposal has been overtaken. */
  #encode(item: Item): PartitionProposal | undefined {
    const { topicId, number: partition } = item.partition;
    if (item.kind === 'resignation') return this.#encodeResignation(topicId, partition);
    const { replica, proposal } = item;
    if (item.partition.leader?.replica !== replica) return undefined;
    if (replica.pendingProposal !== proposal) return undefined;
    const { leaderEpoch, partitionEpoch, isr } = proposal;
    return { topicId, partition, leaderEpoch, partitionEpoch, isr };
  }

  #encodeResignation(topicId: Uuid, partition: number): PartitionProposal | undefined {
    const image = this.#deps.image();
    const known = partitionImage(image, topicId, partition);
    if (known === undefined || known.leader !== this.#deps.localId) return undefined;
    const isr = known.isr.flatMap((brokerId) => {
      const broker = image.brokers.get(brokerId);
      if (brokerId === this.#deps.localId || broker === undefined || broker.fenced) return [];
      return [{ brokerId, brokerEpoch: broker.epoch }];
    });
    // Nobody else has everything: the partition stays without a leader that works.
    if (isr.length === 0) return undefined;
    const { leaderEpoch, partitionEpoch } = known;
    return { topicId, partition, leaderEpoch, partitionEpoch, isr };
  }

  #settle(items: readonly Item[], outcomes: readonly PartitionOutcome[]): void {
    const again: Item[] = [];
    for (const [at, item] of items.entries()) {
      const outcome = outcomes[at];
      const settled: IsrOutcome =
        outcome === undefined ? { kind: 'unknown' } : meaningOf(outcome, item);
      if (item.kind === 'proposal') {
        item.partition.settleProposal(item.replica, item.proposal, settled);
      }
      if (settled.kind === 'unknown') again.push(item);
    }
    if (again.length > 0) this.#askAgain(again);
  }

  #askAgain(items: readonly Item[]): void {
    this.#deps.timers.after(UNKNOWN_RETRY_MS, () => {
      if (this.#closed) return;
      for (const item of items) {
        // A newer proposal of the partition takes the place of an older one.
        if (!this.#queue.has(item.partition)) this.#queue.set(item.partition, item);
      }
      this.#ask();
    });
  }
}

function markInDoubt(items: readonly Item[]): void {
  for (const item of items) if (item.kind === 'proposal') item.inDoubt = true;
}

function meaningOf(outcome: PartitionOutcome, item: Item): IsrOutcome {
  const code = errorCodeOf(outcome.error);
  switch (code) {
    case 'NONE':
      return {
        kind: 'accepted',
        // As the controller has committed them.
        partitionEpoch: outcome.partitionEpoch as IsrProposal['partitionEpoch'],
        isr: outcome.isr as BrokerId[],
        elr: outcome.elr as BrokerId[],
      };
    // The controller compares epochs before anything else: an earlier copy of this proposal has not been
    // applied when it comes to these. It may be on its way.
    case 'INELIGIBLE_REPLICA':
    case 'INVALID_REQUEST': {
      const inDoubt = item.kind === 'proposal' && item.inDoubt;
      return { kind: inDoubt ? 'doubtful' : 'refused' };
    }
    default:
      // Somebody else has changed the partition, or taken it over: the image will tell. A resignation
      // that was answered so has done its work.
      return item.kind === 'resignation' ? { kind: 'refused' } : { kind: 'unknown' };
  }
}
