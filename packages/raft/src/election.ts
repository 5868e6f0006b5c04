/**
 * Elections: a pre-vote, which disturbs nobody, then the vote (Raft paper 5.2, thesis 9.6). Whoever has
 * heard from a live leader lately refuses both, unless the leader itself asked for the election.
 */
import { assert } from '@relevo/base/assert';
import { term as toTerm, type BrokerId } from '@relevo/base/ids';
import { isVoter, majorityOf } from './configuration.ts';
import { sameReplica, type Ballot, type Core } from './core.ts';
import { becomeLeader } from './leader.ts';
import type { Message, PreVote, PreVoteReply, Vote, VoteReply } from './messages.ts';
import { drawWaitMs, type WaitRange } from './options.ts';

/**
 * The wait is over. A candidate whose own vote is not durable yet has not asked anybody: its disk is slow, and
 * another term would only give it more to write.
 */
export function electionIsDue(core: Core, nowMs: number): void {
  const isWriting = core.role.kind === 'candidate' && core.durable.term !== core.term;
  if (isWriting) core.putOffElection(nowMs);
  else startPreVote(core, nowMs);
}

/** Asks whether an election would be won. */
function startPreVote(core: Core, nowMs: number): void {
  if (!core.electable) {
    core.becomeFollower(core.term, undefined, nowMs);
    core.putOffElection(nowMs);
    return;
  }
  core.electionAttempts++;
  const ballots =
    core.role.kind === 'preCandidate' ? core.role.ballots : new Map<BrokerId, Ballot>();
  ballots.set(core.self.id, { granted: true, atMs: nowMs });
  core.role = { kind: 'preCandidate', ballots };
  core.electionDueMs = nowMs + drawWaitMs(core.options.preVoteRetry, core.random);
  for (const voter of core.otherVoters()) {
    core.send(voter, {
      kind: 'preVote',
      nextTerm: toTerm(core.term + 1),
      lastIndex: core.log.lastIndex,
      lastTerm: core.log.lastTerm,
    });
  }
  countPreVotes(core, nowMs);
}

/** Takes a new term and asks for its votes; they go out when our own vote is durable. */
export function startElection(core: Core, transfer: boolean, nowMs: number): void {
  assert(core.electable, 'only a voter whose state is whole stands for election', {
    id: core.self.id,
  });
  core.adoptTerm(toTerm(core.term + 1));
  core.voteFor(core.self);
  core.role = { kind: 'candidate', ballots: new Map() };
  core.putOffElection(nowMs);
  for (const voter of core.otherVoters()) {
    core.sendAfterPersist(voter, {
      kind: 'vote',
      lastIndex: core.log.lastIndex,
      lastTerm: core.log.lastTerm,
      transfer,
    });
  }
}

/** Our term and vote are on the disk: now the vote for ourselves counts. */
export function ownVoteIsDurable(core: Core, nowMs: number): void {
  const { role, durable, self } = core;
  if (role.kind !== 'candidate' || role.ballots.has(self.id)) return;
  if (durable.term !== core.term || durable.vote === undefined) return;
  assert(sameReplica(durable.vote, self), 'a candidate votes for itself', { term: core.term });
  countVote(core, self.id, true, nowMs);
}

// ------------------------------------------------------------------------------------------ Answering

/** Answers and forgets: a pre-vote, granted or not, changes nothing here (mistake 13). */
export function answerPreVote(core: Core, message: Message, body: PreVote, nowMs: number): void {
  const granted =
    body.nextTerm > core.term &&
    !core.leaderIsAlive(nowMs) &&
    core.log.isCoveredBy({ index: body.lastIndex, term: body.lastTerm });
  core.send(message.from, { kind: 'preVoteReply', nextTerm: body.nextTerm, granted });
}

/**
 * Answers a request of our own term. Voters judge by the logs alone, not by whom they take for a voter:
 * the candidate may know of members that we have not heard of (mistake 16).
 */
export function answerVote(core: Core, message: Message, body: Vote, nowMs: number): void {
  const { vote } = core;
  const free = vote === undefined ? core.leaderId === undefined : sameReplica(vote, message.from);
  const granted = free && core.log.isCoveredBy({ index: body.lastIndex, term: body.lastTerm });
  if (granted) {
    core.voteFor(message.from);
    core.putOffElection(nowMs);
  }
  core.sendAfterPersist(message.from, { kind: 'voteReply', granted });
}

// ------------------------------------------------------------------------------------------- Counting

export function onPreVoteReply(
  core: Core,
  message: Message,
  body: PreVoteReply,
  nowMs: number,
): void {
  if (message.term > core.term) {
    core.becomeFollower(message.term, undefined, nowMs);
    return;
  }
  if (core.role.kind !== 'preCandidate' || body.nextTerm !== core.term + 1) return;
  if (!isVoter(core.configuration, message.from)) return;
  core.role.ballots.set(message.from.id, { granted: body.granted, atMs: nowMs });
  countPreVotes(core, nowMs);
}

function countPreVotes(core: Core, nowMs: number): void {
  const { role, options } = core;
  assert(role.kind === 'preCandidate', 'a pre-candidate counts pre-votes', { role: role.kind });
  const { voters } = core.configuration;
  const fresh = voters
    .map((voter) => role.ballots.get(voter.id))
    .filter((ballot) => ballot !== undefined && nowMs - ballot.atMs < options.election.minMs);
  const granted = fresh.filter((ballot) => ballot?.granted === true).length;
  if (granted >= majorityOf(voters)) {
    startElection(core, false, nowMs);
  } else if (fresh.length - granted > voters.length - majorityOf(voters)) {
    giveUpPreVote(core, nowMs);
  }
}

/** Refused by so many that it cannot be won: they know a better log, or a live leader. */
function giveUpPreVote(core: Core, nowMs: number): void {
  core.becomeFollower(core.term, undefined, nowMs);
  if (core.leaderContact?.gone === true) {
    // The others will find out within a moment that the leader is gone.
    core.electionDueMs = nowMs + growingWaitMs(core, core.options.leaderGone);
  } else {
    core.putOffElection(nowMs);
  }
}

export function onVoteReply(core: Core, message: Message, body: VoteReply, nowMs: number): void {
  if (core.role.kind !== 'candidate' || !isVoter(core.configuration, message.from)) return;
  countVote(core, message.from.id, body.granted, nowMs);
}

function countVote(core: Core, from: BrokerId, granted: boolean, nowMs: number): void {
  const { role } = core;
  assert(role.kind === 'candidate', 'a candidate counts votes', { role: role.kind });
  role.ballots.set(from, { granted, atMs: nowMs });
  const { voters } = core.configuration;
  const won = voters.filter((voter) => role.ballots.get(voter.id)?.granted === true);
  if (won.length >= majorityOf(voters)) {
    becomeLeader(core, nowMs);
  } else if (!granted) {
    const retryMs = nowMs + growingWaitMs(core, core.options.splitVote);
    core.electionDueMs = Math.min(core.electionDueMs, retryMs);
  }
}

/** Doubles with each attempt in a row, so that elections end on slow networks too. */
function growingWaitMs(core: Core, range: WaitRange): number {
  const factor = 2 ** Math.min(Math.max(core.electionAttempts - 1, 0), 10);
  const wait = drawWaitMs(range, core.random) * factor;
  return wait < core.options.election.maxMs ? wait : drawWaitMs(core.options.election, core.random);
}

// ------------------------------------------------------------------------------------- A leader is gone

/**
 * The connection to `id` broke and a new one was refused: its process is gone. If it led, there is
 * nothing to wait for: stand for election after a short random wait, and help others to.
 */
export function leaderIsGone(core: Core, id: BrokerId, nowMs: number): void {
  const contact = core.leaderContact;
  if (contact?.id !== id || contact.gone || core.role.kind === 'leader') return;
  contact.gone = true;
  const soonMs = nowMs + drawWaitMs(core.options.leaderGone, core.random);
  core.electionDueMs = Math.min(core.electionDueMs, soonMs);
}
