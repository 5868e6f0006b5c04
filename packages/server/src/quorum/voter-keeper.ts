/**
 * Keeps the members what the configuration of the nodes says they are. A voter that comes back with an
 * empty disk is another voter (invariant K5), and would stay a stranger for ever: the leader exchanges the
 * two, a step at a time.
 *
 *     old disk a member --remove--> no member --addLearner--> learner --promote, caught up--> voter
 *
 * Each step follows from the members as they are, so that a new leader goes on where the last one stopped.
 * The leader waits a little before the first, lest a directory that was merely not mounted cost a vote, and
 * never takes it while the old disk answers.
 */
import { isMutated } from '@relevo/base/mutations';
import { messageOf } from '@relevo/base/errors';
import type { BrokerId } from '@relevo/base/ids';
import type { Logger } from '@relevo/base/ports';
import { findMember, isReplica } from '@relevo/raft/configuration';
import type { Configuration, Member, MembershipChange } from '@relevo/raft/configuration';
import { UNPINNED } from '@relevo/raft/messages';
import type { ReplicaKey } from '@relevo/raft/messages';
import type { RaftStatus } from '@relevo/raft/raft-node';

export interface VoterKeeperOptions {
  /** Who is to vote. */
  readonly voters: readonly { readonly id: number; readonly address: string }[];
  /** Default: 3,000 ms. */
  readonly delayMs: number | undefined;
  readonly change: (change: MembershipChange) => Promise<void>;
}

const DEFAULT_DELAY_MS = 3000;
/** Whoever is silent for so long is not there; a voter without a leader asks about once a second. */
const SILENT_MS = 2500;
/** Between two looks, and after a step that was refused. */
const PACE_MS = 200;

/** Somebody with the id of a voter, and another disk. */
interface Newcomer {
  readonly member: Member;
  readonly sinceMs: number;
  lastMs: number;
}

export class VoterKeeper {
  readonly #logger: Logger;
  readonly #options: VoterKeeperOptions;
  readonly #newcomers = new Map<BrokerId, Newcomer>();
  #nextMs = 0;
  #busy = false;

  constructor(deps: { readonly logger: Logger }, options: VoterKeeperOptions) {
    this.#logger = deps.logger;
    this.#options = options;
  }

  /** Somebody has sent us, the leader, a message. */
  heard(from: ReplicaKey, configuration: Configuration, nowMs: number): void {
    const present = findMember(configuration, from.id)?.member;
    if (present !== undefined && isReplica(present, from)) return;
    const known = this.#newcomers.get(from.id);
    if (known?.member.directoryId === from.directoryId) {
      known.lastMs = nowMs;
      return;
    }
    const address = this.#options.voters.find(({ id }) => id === from.id)?.address;
    if (address === undefined || from.directoryId === UNPINNED) return;
    const member = { id: from.id, directoryId: from.directoryId, address };
    this.#newcomers.set(from.id, { member, sinceMs: nowMs, lastMs: nowMs });
    this.#logger.warn('a controller is back with another disk: it is not the voter it was', {
      peer: from.id,
      voter: present?.directoryId,
      found: from.directoryId,
    });
  }

  /** Leadership was lost. */
  reset(): void {
    this.#newcomers.clear();
  }

  tick(status: RaftStatus, nowMs: number): void {
    if (!status.leadsForSure || status.changePending || this.#busy || nowMs < this.#nextMs) return;
    this.#nextMs = nowMs + PACE_MS;
    const change = this.#nextStep(status, nowMs);
    if (change !== undefined) void this.#make(change);
  }

  #nextStep(status: RaftStatus, nowMs: number): MembershipChange | undefined {
    const { learners } = status.configuration;
    const learner = learners.find(({ id }) => this.#options.voters.some((one) => one.id === id));
    if (learner !== undefined && !this.#isLost(learner)) {
      this.#newcomers.delete(learner.id);
      return { kind: 'promote', id: learner.id };
    }
    for (const newcomer of this.#newcomers.values()) {
      const step = this.#stepFor(newcomer, status, nowMs);
      if (step !== undefined) return step;
    }
    return undefined;
  }

  /** It is back with yet another disk, before it ever voted: it is exchanged too. */
  #isLost(learner: Member): boolean {
    const newcomer = this.#newcomers.get(learner.id);
    if (newcomer === undefined || isMutated('lost-learner-stays')) return false;
    return !isReplica(learner, newcomer.member);
  }

  #stepFor(newcomer: Newcomer, status: RaftStatus, nowMs: number): MembershipChange | undefined {
    const { member, sinceMs, lastMs } = newcomer;
    if (nowMs - lastMs >= SILENT_MS) return undefined;
    const present = findMember(status.configuration, member.id)?.member;
    if (present === undefined) return { kind: 'addLearner', member };
    if (isReplica(present, member)) {
      this.#newcomers.delete(member.id);
      return undefined;
    }
    const lastAnswerMs =
      status.peers.find(({ id }) => id === member.id)?.lastContactMs ?? -Infinity;
    const oldAnswers = nowMs - lastAnswerMs < SILENT_MS;
    const isDue = nowMs - sinceMs >= (this.#options.delayMs ?? DEFAULT_DELAY_MS);
    return isDue && !oldAnswers ? { kind: 'remove', id: member.id } : undefined;
  }

  async #make(change: MembershipChange): Promise<void> {
    this.#busy = true;
    const peer = change.kind === 'addLearner' ? change.member.id : 'id' in change && change.id;
    try {
      await this.#options.change(change);
      this.#logger.info('members of the quorum changed', { peer, step: change.kind });
    } catch (error) {
      // It is tried again: the usual cause is that the learner has not caught up.
      const facts = { peer, step: change.kind, error: messageOf(error) };
      this.#logger.debug('a change of the quorum has to wait', facts);
    } finally {
      this.#busy = false;
    }
  }
}
