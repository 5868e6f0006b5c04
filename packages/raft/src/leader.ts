/** What a leader does: replicate, commit, beat, confirm reads, step down (Raft paper 5.3, 5.4, 8). */
import { assert, defined } from '@relevo/base/assert';
import { logIndex, type BrokerId, type LogIndex } from '@relevo/base/ids';
import { isReplica, reachedByMajority } from './configuration.ts';
import type { Core, LeaderRole } from './core.ts';
import { appendOwn, leadsForSure, trackMembers } from './leader-state.ts';
import { noteMembershipCommit, pinDirectories } from './membership.ts';
import type { AppendReply, HeartbeatReply, Message, ReplicaKey } from './messages.ts';
import type { Progress } from './progress.ts';
import { ReadRequests } from './read-requests.ts';
import { handOver, leave } from './transfer.ts';

const NO_DATA = new Uint8Array(0);

export function becomeLeader(core: Core, nowMs: number): void {
  assert(core.role.kind === 'candidate', 'only a candidate is elected', { role: core.role.kind });
  assert(core.durable.term === core.term, 'a leader has its term on disk', { term: core.term });
  const role: LeaderRole = {
    kind: 'leader',
    peers: new Map(),
    startIndex: logIndex(core.log.lastIndex + 1),
    reads: new ReadRequests(),
    heartbeatDueMs: nowMs + core.options.heartbeatMs,
    uncommittedBytes: 0,
    transfer: undefined,
    leaving: false,
  };
  core.role = role;
  core.leaderContact = undefined;
  core.electionAttempts = 0;
  trackMembers(core, role, nowMs);
  appendOwn(core, role, 'leaderStart', NO_DATA);
}

// --------------------------------------------------------------------------------------------- Answers

/** The progress of the member that sent the message; undefined for strangers and former disks. */
export function progressOf(core: Core, role: LeaderRole, from: ReplicaKey): Progress | undefined {
  const member = core.replicaOf(from.id);
  if (member === undefined || !isReplica(member, from)) return undefined;
  return role.peers.get(from.id);
}

function contact(progress: Progress, from: ReplicaKey, nowMs: number): void {
  progress.lastContactMs = nowMs;
  progress.responsive = true;
  progress.directoryId = from.directoryId;
}

export function onAppendReply(
  core: Core,
  role: LeaderRole,
  message: Message,
  body: AppendReply,
  nowMs: number,
): void {
  const progress = progressOf(core, role, message.from);
  if (progress === undefined) return;
  contact(progress, message.from, nowMs);
  if (!body.accepted) {
    const agree = core.log.mayAgreeAt(body.hintIndex, body.hintTerm);
    const agreeIndex = body.hintTerm > 0 ? agree.index : body.hintIndex;
    progress.rejected(body.rejectedIndex, agreeIndex);
    return;
  }
  assert(body.matchIndex <= core.log.lastIndex, 'a follower holds no more than its leader', {
    follower: message.from.id,
    matchIndex: body.matchIndex,
    lastIndex: core.log.lastIndex,
  });
  if (progress.accepted(body.matchIndex, core.log.base.index)) advanceCommit(core, role);
}

export function onHeartbeatReply(
  core: Core,
  role: LeaderRole,
  message: Message,
  body: HeartbeatReply,
  nowMs: number,
): void {
  const progress = progressOf(core, role, message.from);
  if (progress === undefined) return;
  contact(progress, message.from, nowMs);
  progress.roundAcked = Math.max(progress.roundAcked, body.round);
  progress.heartbeatAnswered(core.log.lastIndex);
  confirmReads(core, role);
}

// ---------------------------------------------------------------------------------------------- Commit

/**
 * Commits what a majority has on disk, ourselves included only where our own disk has it (mistake 18),
 * and only by counting an entry of our own term (Raft paper, figure 8).
 */
export function advanceCommit(core: Core, role: LeaderRole): void {
  const { log, configuration } = core;
  const reached = reachedByMajority(configuration, (id) =>
    id === core.self.id ? log.persistedIndex : matchOf(role, id),
  );
  if (reached <= core.commit || reached < role.startIndex) return;
  const before = core.commit;
  core.commitTo(logIndex(reached));
  assert(log.termAt(core.commit) === core.term, 'only entries of the own term are counted', {
    commit: core.commit,
    term: core.term,
  });
  for (const entry of log.slice(logIndex(before + 1), core.commit, Infinity)) {
    if (entry.index >= role.startIndex) role.uncommittedBytes -= entry.data.length;
  }
  noteMembershipCommit(core, role);
}

const matchOf = (role: LeaderRole, id: BrokerId): LogIndex =>
  role.peers.get(id)?.matchIndex ?? logIndex(0);

// ------------------------------------------------------------------------------------------------ Reads

/** Answers the reads whose round a majority has confirmed. */
function confirmReads(core: Core, role: LeaderRole): void {
  if (role.reads.size === 0) return;
  const acked = reachedByMajority(core.configuration, (id) =>
    id === core.self.id ? role.reads.round : (role.peers.get(id)?.roundAcked ?? 0),
  );
  const states = role.reads.confirmed(acked);
  if (states.length === 0) return;
  assert(leadsForSure(core, role), 'reads wait for the first commit of the term', {
    commit: core.commit,
    startIndex: role.startIndex,
  });
  core.readStates.push(...states);
}

/** Begins a round for the reads that came since the last Ready. */
function startReadRound(core: Core, role: LeaderRole, nowMs: number): void {
  if (!role.reads.hasWaiting || !leadsForSure(core, role)) return;
  role.reads.startRound(core.commit);
  beat(core, role, nowMs);
  confirmReads(core, role);
}

// --------------------------------------------------------------------------------------------- Sending

function beat(core: Core, role: LeaderRole, nowMs: number): void {
  role.heartbeatDueMs = nowMs + core.options.heartbeatMs;
  for (const [id, progress] of role.peers) {
    core.send(keyOf(core, id), {
      kind: 'heartbeat',
      commit: logIndex(Math.min(progress.matchIndex, core.commit)),
      round: role.reads.round,
    });
  }
}

/** What has become due since the last Ready: all that a leader sends goes out here, in large pieces. */
export function sendWhatIsDue(core: Core, role: LeaderRole, nowMs: number): void {
  pinDirectories(core, role, nowMs);
  startReadRound(core, role, nowMs);
  for (const [id, progress] of role.peers) replicateTo(core, keyOf(core, id), progress, nowMs);
  handOver(core, role);
  if (role.leaving) leave(core, role, nowMs);
}

function appendIsDue(core: Core, progress: Progress): boolean {
  if (progress.paused) return false;
  if (progress.state === 'probe')
    return progress.nextIndex > core.log.base.index || canTakeSnapshot(progress);
  return (
    progress.nextIndex <= core.log.lastIndex || progress.commitSent < core.commit || progress.nudged
  );
}

/** A snapshot is large: only somebody who listens gets one. */
const canTakeSnapshot = (progress: Progress): boolean => progress.responsive;

function replicateTo(core: Core, to: ReplicaKey, progress: Progress, nowMs: number): void {
  while (appendIsDue(core, progress)) {
    if (progress.nextIndex <= core.log.base.index) {
      sendSnapshot(core, to, progress, nowMs);
      return;
    }
    sendAppend(core, to, progress);
  }
}

function sendAppend(core: Core, to: ReplicaKey, progress: Progress): void {
  const { log } = core;
  const prevIndex = logIndex(progress.nextIndex - 1);
  const entries = log.slice(progress.nextIndex, log.lastIndex, core.options.appendBytesMax);
  const bytes = entries.reduce((sum, entry) => sum + entry.data.length, 0);
  core.send(to, {
    kind: 'append',
    prevIndex,
    prevTerm: defined(log.termAt(prevIndex), `the term of entry ${prevIndex}`),
    entries,
    commit: core.commit,
  });
  progress.commitSent = core.commit;
  progress.sent(logIndex(prevIndex + entries.length), bytes);
}

function sendSnapshot(core: Core, to: ReplicaKey, progress: Progress, nowMs: number): void {
  const snapshot = defined(core.snapshot, 'the snapshot below which the log is compacted');
  assert(snapshot.index >= core.log.base.index, 'the log follows the snapshot without a gap', {
    snapshot: snapshot.index,
    base: core.log.base.index,
  });
  core.send(to, { kind: 'snapshot', snapshot });
  progress.becomeSnapshot(snapshot.index, nowMs);
}

const keyOf = (core: Core, id: BrokerId): ReplicaKey =>
  defined(core.replicaOf(id), `the member ${id}`);

// ------------------------------------------------------------------------------------------------ Time

/** When a majority was last heard from. */
const quorumContactMs = (core: Core, role: LeaderRole): number =>
  reachedByMajority(core.configuration, (id) =>
    id === core.self.id ? Infinity : (role.peers.get(id)?.lastContactMs ?? -Infinity),
  );

export function leaderDeadlineMs(core: Core, role: LeaderRole): number {
  let due = Math.min(
    role.heartbeatDueMs,
    quorumContactMs(core, role) + core.options.checkQuorumMs,
    role.transfer?.deadlineMs ?? Infinity,
  );
  for (const progress of role.peers.values()) {
    due = Math.min(due, progress.snapshotDeadlineMs(core.options.snapshotTimeoutMs));
  }
  return due;
}

export function tickLeader(core: Core, role: LeaderRole, nowMs: number): void {
  if (nowMs >= quorumContactMs(core, role) + core.options.checkQuorumMs) {
    // Nobody may hear us, or nobody answers: somebody else may lead (mistake 11).
    core.becomeFollower(core.term, undefined, nowMs);
    return;
  }
  if (role.transfer !== undefined && nowMs >= role.transfer.deadlineMs) role.transfer = undefined;
  for (const progress of role.peers.values()) {
    if (nowMs >= progress.snapshotDeadlineMs(core.options.snapshotTimeoutMs)) {
      progress.snapshotFailed();
    }
  }
  if (nowMs >= role.heartbeatDueMs) beat(core, role, nowMs);
}
