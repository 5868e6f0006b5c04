/** What a follower does at its leader's word: append, commit, install (Raft paper 5.3 and 7). */
import { assert } from '@relevo/base/assert';
import { logIndex, type LogIndex } from '@relevo/base/ids';
import type { Core } from './core.ts';
import type { Append, Entry, Heartbeat, InstallSnapshot, Message, ReplicaKey } from './messages.ts';

/** A leader of our term has spoken: follow it. */
export function hearLeader(core: Core, leader: ReplicaKey, nowMs: number): void {
  assert(core.role.kind !== 'leader', 'one leader a term', { term: core.term, other: leader.id });
  const known = core.leaderContact;
  assert(known === undefined || known.id === leader.id, 'one leader a term', {
    term: core.term,
    first: known?.id,
    second: leader.id,
  });
  core.leaderContact = { id: leader.id, atMs: nowMs, gone: false };
  core.electionAttempts = 0;
  if (core.leaderId === leader.id) {
    core.waitForLeader(nowMs);
  } else {
    core.becomeFollower(core.term, leader.id, nowMs);
    core.putOffElection(nowMs);
  }
}

export function onAppend(core: Core, message: Message, body: Append): void {
  const { log, commit } = core;
  if (body.prevIndex < commit) {
    // What is committed matches for certain; the leader goes on from there.
    accept(core, message.from, commit);
    return;
  }
  if (log.termAt(body.prevIndex) !== body.prevTerm) {
    const hint = log.mayAgreeAt(body.prevIndex, body.prevTerm);
    core.sendAfterPersist(message.from, {
      kind: 'appendReply',
      accepted: false,
      rejectedIndex: body.prevIndex,
      hintIndex: hint.index,
      hintTerm: hint.term,
    });
    return;
  }
  adoptEntries(core, body.entries);
  const matchIndex = logIndex(body.prevIndex + body.entries.length);
  core.commitTo(logIndex(Math.min(body.commit, matchIndex)));
  accept(core, message.from, matchIndex);
}

/** Appends what is new. What conflicts goes, with all that follows it; what agrees stays. */
function adoptEntries(core: Core, entries: readonly Entry[]): void {
  const { log, configurations } = core;
  for (const entry of entries) {
    const present = log.termAt(entry.index);
    if (present === entry.term) continue;
    if (present !== undefined) {
      assert(entry.index > core.commit, 'nothing committed is ever truncated', {
        index: entry.index,
        commit: core.commit,
      });
      log.truncateFrom(entry.index);
      configurations.truncateFrom(entry.index);
    }
    log.append(entry);
    configurations.append(entry);
  }
}

const accept = (core: Core, leader: ReplicaKey, matchIndex: LogIndex): void =>
  core.sendAfterPersist(leader, { kind: 'appendReply', accepted: true, matchIndex });

export function onHeartbeat(core: Core, message: Message, body: Heartbeat): void {
  core.commitTo(body.commit);
  core.send(message.from, { kind: 'heartbeatReply', round: body.round });
}

export function onSnapshot(core: Core, message: Message, body: InstallSnapshot): void {
  const { snapshot } = body;
  const { log } = core;
  if (snapshot.index <= core.commit) {
    accept(core, message.from, core.commit);
    return;
  }
  if (log.termAt(snapshot.index) === snapshot.term) {
    // All that it covers is here already, and now known to be committed.
    core.commitTo(snapshot.index);
    accept(core, message.from, snapshot.index);
    return;
  }
  log.restore(snapshot);
  core.configurations.reset(snapshot.index, snapshot.configuration);
  core.snapshot = snapshot;
  core.installing = snapshot;
  core.commit = snapshot.index;
  accept(core, message.from, snapshot.index);
}
