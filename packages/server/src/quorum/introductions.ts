/**
 * How voters make themselves known to each other when they start, before any of them votes.
 *
 * **Founding.** A voter without a log cannot tell a new cluster from one whose log it has lost. So new voters
 * found a cluster only when every configured one has said that it is new, and each has then bound itself,
 * durably, to the same members with the same directories. A majority is not enough: a wiped voter and one
 * that never started are a majority of three, and the third may hold all that was ever committed.
 *
 *     asks all ──all are new──▶ proposes the members ──all are bound to them──▶ founded: it may stand
 *
 * A voter that is bound and not founded may be bound anew as long as it has not voted: all of the disks that
 * are there then say that nothing was ever committed on them.
 *
 * **Letting in.** Whoever is no member says so once a second; the leader exchanges it for what it was before
 * (`voter-keeper.ts`).
 *
 * **Older disks.** Each start of a data directory has an id, and names those before it. A voter that
 * remembers a start that a peer does not know of tells it so, and the peer ends: what it runs on is an older
 * copy, which has forgotten what it promised.
 */
import { messageOf } from '@relevo/base/errors';
import { brokerId } from '@relevo/base/ids';
import type { BrokerId } from '@relevo/base/ids';
import { isMutated } from '@relevo/base/mutations';
import { route } from '@relevo/base/ports';
import type {
  Channel,
  Clock,
  Logger,
  PeerInfo,
  Random,
  Route,
  TimerHandle,
  Timers,
  Transport,
} from '@relevo/base/ports';
import { backoffMs } from '@relevo/base/retry';
import type { RetryPolicy } from '@relevo/base/retry';
import { directoryIdOf } from '@relevo/raft/configuration';
import type { Member } from '@relevo/raft/configuration';
import { UNPINNED } from '@relevo/raft/messages';
import type { ReplicaKey } from '@relevo/raft/messages';
import {
  RaftService,
  VoterState,
  introduceRequest,
  introduceResponse,
} from '@relevo/rpc/gen/cluster/raft';
import type { IntroduceRequest, IntroduceResponse, VoterKey } from '@relevo/rpc/gen/cluster/raft';

export type VoterCondition = 'new' | 'started' | 'lost';

/** The voter that is introduced; all as it is at the moment. */
export interface IntroducedVoter {
  readonly key: ReplicaKey;
  condition(): VoterCondition;
  /** The founding that its log goes back to; empty: not known. */
  history(): string;
  isMember(key: ReplicaKey): boolean;
  /** Binds it durably to the first members; false where it has started, or is bound to others for good. */
  bind(members: readonly Member[]): Promise<boolean>;
  /** All are bound to these members. */
  founded(members: readonly Member[]): void;
  /** Somebody has made itself known. */
  met(peer: ReplicaKey, condition: VoterCondition, history: string): void;
  /** A start of the peer's that it should know of and does not; undefined: there is none. */
  laterThan(peer: ReplicaKey, incarnations: readonly string[]): string | undefined;
  /** A peer remembers a later start of our directory. */
  isOlderCopy(peer: BrokerId): void;
}

export interface IntroductionsDeps {
  readonly clock: Clock;
  readonly timers: Timers;
  readonly random: Random;
  readonly transport: Transport;
  readonly logger: Logger;
}

export interface IntroductionsOptions {
  readonly clusterId: string;
  readonly nodeId: BrokerId;
  readonly voters: readonly { readonly id: number; readonly address: string }[];
  /** The starts of the data directory, this one last. */
  readonly incarnations: readonly string[];
}

const RETRY: RetryPolicy = { initialMs: 30, maxMs: 500, factor: 2, jitter: 0.2 };
const ANSWER_TIMEOUT_MS = 1000;
/** Who is no member says so again. */
const AGAIN_MS = 1000;
/** From when on an operator wants to know what is waited for, and how often. */
const PATIENCE_MS = 3000;
const REPEAT_MS = 10_000;
const FOUNDERS_MAX = 100;
const INCARNATIONS_MAX = 10_000;

interface Answer {
  readonly key: ReplicaKey;
  readonly condition: VoterCondition;
  readonly agreed: boolean;
  /** It counts us among the members. */
  readonly knowsUs: boolean;
}

interface Peer {
  readonly id: BrokerId;
  readonly address: string;
  channel: Channel | undefined;
  timer: TimerHandle | undefined;
  failures: number;
  asking: boolean;
  /** The last one; undefined: none yet, or silence since. */
  answer: Answer | undefined;
  /** Why there was none. */
  trouble: string;
}

export class Introductions {
  readonly #deps: IntroductionsDeps;
  readonly #options: IntroductionsOptions;
  readonly #peers: readonly Peer[];
  #voter: IntroducedVoter | undefined;
  #founding = false;
  #untried = new Set<BrokerId>();
  #tried: (() => void)[] = [];
  #complaint: TimerHandle | undefined;
  #complained: { readonly hint: string; readonly atMs: number } | undefined;
  #closed = false;

  constructor(deps: IntroductionsDeps, options: IntroductionsOptions) {
    this.#deps = deps;
    this.#options = options;
    this.#peers = options.voters
      .filter(({ id }) => id !== options.nodeId)
      .map(({ id, address }) => ({
        id: brokerId(id),
        address,
        channel: undefined,
        timer: undefined,
        failures: 0,
        asking: false,
        answer: undefined,
        trouble: 'it was not asked yet',
      }));
  }

  routes(): Route[] {
    return [route(RaftService.introduce, (request, caller) => this.#introduced(request, caller))];
  }

  /** Resolves when each of the others has answered, or has not been found, or after `withinMs`. */
  start(voter: IntroducedVoter, withinMs: number): Promise<void> {
    this.#voter = voter;
    this.#untried = new Set(this.#peers.map(({ id }) => id));
    for (const peer of this.#peers) this.#askAfter(peer, 0);
    this.#foundIfAllAreNew();
    this.#complainAfter(PATIENCE_MS);
    if (this.#untried.size === 0) return Promise.resolve();
    return new Promise((resolve) => {
      const limit = this.#deps.timers.after(withinMs, resolve);
      this.#tried.push(() => {
        limit.cancel();
        resolve();
      });
    });
  }

  /** Those that have said that they are part of a cluster. */
  started(): BrokerId[] {
    return this.#peers.filter(({ answer }) => answer?.condition === 'started').map(({ id }) => id);
  }

  close(): void {
    this.#closed = true;
    this.#complaint?.cancel();
    for (const peer of this.#peers) {
      peer.timer?.cancel();
      peer.channel?.close();
    }
    for (const tell of this.#tried.splice(0)) tell();
  }

  // ----------------------------------------------------------------------------------------------- asking

  #askAfter(peer: Peer, waitMs: number): void {
    peer.timer?.cancel();
    peer.timer = this.#deps.timers.after(waitMs, () => {
      peer.timer = undefined;
      if (!peer.asking) void this.#askOnce(peer);
    });
  }

  async #askOnce(peer: Peer): Promise<void> {
    peer.asking = true;
    const answer = await this.#ask(peer, []);
    peer.asking = false;
    if (this.#closed) return;
    this.#untried.delete(peer.id);
    if (this.#untried.size === 0) for (const tell of this.#tried.splice(0)) tell();
    if (answer === undefined) {
      const waitMs = backoffMs(RETRY, peer.failures, this.#deps.random);
      peer.failures++;
      this.#askAfter(peer, waitMs);
      return;
    }
    peer.failures = 0;
    this.#foundIfAllAreNew();
    if (!this.#isSettledWith(answer)) this.#askAfter(peer, AGAIN_MS);
    else {
      peer.channel?.close();
      peer.channel = undefined;
    }
  }

  /** Both are members, and know it of each other. */
  #isSettledWith({ key, knowsUs }: Answer): boolean {
    const voter = this.#voter;
    return knowsUs && voter !== undefined && voter.isMember(voter.key) && voter.isMember(key);
  }

  async #ask(peer: Peer, founders: readonly Member[]): Promise<Answer | undefined> {
    const voter = this.#voter;
    if (voter === undefined || this.#closed) return undefined;
    const { clusterId, nodeId, incarnations } = this.#options;
    const request = introduceRequest({
      clusterId,
      from: nodeId,
      fromDirectoryId: voter.key.directoryId,
      to: peer.id,
      state: stateOf(voter.condition()),
      history: voter.history(),
      founders: founders.map(({ id, directoryId }) => ({ id, directoryId })),
      incarnations,
    });
    peer.channel ??= this.#deps.transport.dial(peer.address);
    try {
      const response = await peer.channel.call(RaftService.introduce, request, {
        deadlineMs: ANSWER_TIMEOUT_MS,
      });
      return this.#answered(peer, response);
    } catch (error) {
      peer.answer = undefined;
      peer.trouble = messageOf(error);
      return undefined;
    }
  }

  #answered(peer: Peer, response: IntroduceResponse): Answer | undefined {
    const { refusal, laterIncarnation, history, agreed, member } = response;
    const condition = conditionOf(response.state);
    if (refusal !== '' || condition === undefined) {
      peer.answer = undefined;
      peer.trouble = refusal === '' ? 'its answer is not understood' : refusal;
      return undefined;
    }
    if (laterIncarnation !== '') this.#voter?.isOlderCopy(peer.id);
    const key = { id: peer.id, directoryId: directoryIdOf(response.directoryId) };
    peer.answer = { key, condition, agreed, knowsUs: member };
    this.#voter?.met(key, condition, history);
    return peer.answer;
  }

  // --------------------------------------------------------------------------------------------- founding

  #foundIfAllAreNew(): void {
    const voter = this.#voter;
    if (voter === undefined || this.#founding || voter.condition() !== 'new') return;
    const founders = this.#founders(voter);
    if (founders === undefined || voter.isMember(voter.key)) return;
    this.#founding = true;
    void this.#found(voter, founders).finally(() => (this.#founding = false));
  }

  /** All configured voters with their directories; undefined where one is not known to be new. */
  #founders(voter: IntroducedVoter): readonly Member[] | undefined {
    const { voters, nodeId } = this.#options;
    const members: Member[] = [];
    let unknown = 0;
    for (const { id, address } of voters) {
      const answer = this.#peers.find((peer) => peer.id === id)?.answer;
      const isNew = id === nodeId || answer?.condition === 'new';
      if (!isNew) unknown++;
      const directoryId =
        id === nodeId ? voter.key.directoryId : (answer?.key.directoryId ?? UNPINNED);
      members.push({ id: brokerId(id), directoryId: isNew ? directoryId : UNPINNED, address });
    }
    const enough = isMutated('quorum-founded-without-all')
      ? unknown * 2 < voters.length
      : unknown === 0;
    return enough ? members : undefined;
  }

  async #found(voter: IntroducedVoter, founders: readonly Member[]): Promise<void> {
    if (!(await voter.bind(founders))) return;
    const asked = this.#peers.filter(({ answer }) => answer?.condition === 'new');
    const answers = await Promise.all(asked.map((peer) => this.#ask(peer, founders)));
    if (this.#closed || !answers.every((answer) => answer?.agreed === true)) return;
    voter.founded(founders);
  }

  // -------------------------------------------------------------------------------------------- answering

  async #introduced(
    request: IntroduceRequest,
    { member }: Pick<PeerInfo, 'member'>,
  ): Promise<IntroduceResponse> {
    const voter = this.#voter;
    const refusal =
      voter === undefined ? 'the node is starting' : this.#strangeness(request, member);
    const condition = conditionOf(request.state);
    if (voter === undefined || refusal !== undefined || condition === undefined) {
      return introduceResponse({ refusal: refusal ?? 'the introduction is not understood' });
    }
    const from = {
      id: brokerId(request.from),
      directoryId: directoryIdOf(request.fromDirectoryId),
    };
    const later = voter.laterThan(from, request.incarnations);
    if (later === undefined) voter.met(from, condition, request.history);
    const agreed =
      later === undefined &&
      request.founders.length > 0 &&
      (await this.#bind(voter, request.founders));
    // It is there: no need to wait for the next try.
    const peer = this.#peers.find(({ id }) => id === from.id);
    if (peer?.timer !== undefined && peer.answer === undefined) this.#askAfter(peer, 0);
    return introduceResponse({
      directoryId: voter.key.directoryId,
      state: stateOf(voter.condition()),
      history: voter.history(),
      agreed,
      member: voter.isMember(from),
      laterIncarnation: later ?? '',
    });
  }

  /** `sender`: who the caller is for certain; undefined: nobody has told. */
  #strangeness(request: IntroduceRequest, sender: BrokerId | undefined): string | undefined {
    const { clusterId, nodeId, voters } = this.#options;
    if (sender !== undefined && request.from !== sender) {
      return `the caller is node ${sender} and speaks for node ${request.from}`;
    }
    if (request.clusterId !== clusterId) {
      return `this is cluster "${clusterId}", not "${request.clusterId}"; check cluster.id`;
    }
    if (request.to !== nodeId || request.from === nodeId) {
      return `this is node ${nodeId}; check node.id and controller.quorum.voters`;
    }
    if (!voters.some(({ id }) => id === request.from)) {
      return `node ${request.from} is none of controller.quorum.voters here`;
    }
    if (request.founders.length > FOUNDERS_MAX || request.incarnations.length > INCARNATIONS_MAX) {
      return 'the introduction is too long';
    }
    try {
      directoryIdOf(request.fromDirectoryId);
    } catch (error) {
      return messageOf(error);
    }
    return undefined;
  }

  async #bind(voter: IntroducedVoter, founders: readonly VoterKey[]): Promise<boolean> {
    const { voters } = this.#options;
    const members = voters.flatMap(({ id, address }) => {
      const founder = founders.find((candidate) => candidate.id === id);
      if (founder === undefined) return [];
      return { id: brokerId(id), directoryId: directoryIdOf(founder.directoryId), address };
    });
    if (members.length !== voters.length || founders.length !== voters.length) {
      this.#deps.logger.warn('a voter has others in its controller.quorum.voters than this one', {
        here: voters.map(({ id }) => id),
        there: founders.map(({ id }) => id),
      });
      return false;
    }
    return voter.bind(members);
  }

  // ------------------------------------------------------------------------------------ what is waited for

  /** Again when what is waited for has changed, and now and then. */
  #complainAfter(waitMs: number): void {
    this.#complaint = this.#deps.timers.after(waitMs, () => {
      this.#complain();
      this.#complainAfter(AGAIN_MS);
    });
  }

  #complain(): void {
    const voter = this.#voter;
    const condition = voter?.condition();
    if (voter === undefined || condition === 'started') return;
    const of = (wanted: VoterCondition): BrokerId[] =>
      this.#peers.filter(({ answer }) => answer?.condition === wanted).map(({ id }) => id);
    const missing = this.#peers
      .filter(({ answer }) => answer === undefined)
      .map(({ id, address, trouble }) => `${id} at ${address}: ${trouble}`);
    const facts = { new: of('new'), started: of('started'), lostTheirLog: of('lost'), missing };
    const isMajority = facts.started.length * 2 > this.#options.voters.length;
    const hint = isMajority ? NOTHING_TO_DO : hintFor(condition ?? 'new', facts);
    const nowMs = this.#deps.clock.monotonicMs();
    if (hint === this.#complained?.hint && nowMs - this.#complained.atMs < REPEAT_MS) return;
    this.#complained = { hint, atMs: nowMs };
    const event = waitingFor(condition ?? 'new', facts.started.length > 0);
    this.#deps.logger.warn(event, { ...facts, hint });
  }
}

const waitingFor = (condition: VoterCondition, isThere: boolean): string => {
  if (isThere || condition === 'lost')
    return 'waiting for a leader of the quorum to let this voter in';
  return 'waiting for the other voters: a new cluster is founded when all of them have answered';
};

const NOTHING_TO_DO =
  'nothing is to be done: a majority is there, and its leader lets this voter in';

/** One line that says what to do. */
function hintFor(
  condition: VoterCondition,
  facts: { readonly started: readonly unknown[]; readonly lostTheirLog: readonly unknown[] },
): string {
  if (condition === 'new' && facts.started.length === 0 && facts.lostTheirLog.length === 0) {
    return 'start them; if one is never to come, start ONE of the others once with --bootstrap';
  }
  return (
    'start the voters that have their log; only where a majority of the voters has lost theirs for good, ' +
    'stop all and start ONE of those that have it once with --bootstrap'
  );
}

const STATES: readonly [VoterCondition, number][] = [
  ['new', VoterState.VOTER_STATE_NEW],
  ['started', VoterState.VOTER_STATE_STARTED],
  ['lost', VoterState.VOTER_STATE_LOST],
];

const stateOf = (condition: VoterCondition): number =>
  STATES.find(([name]) => name === condition)?.[1] ?? VoterState.VOTER_STATE_UNSPECIFIED;

const conditionOf = (state: number): VoterCondition | undefined =>
  STATES.find(([, number]) => number === state)?.[0];
