/**
 * Leadership transfer (thesis, 3.10): stop taking proposals, bring the chosen voter up to date, tell it
 * to stand for election at once. What has not come off in time is given up.
 */
import type { BrokerId } from '@relevo/base/ids';
import { isVoter } from './configuration.ts';
import type { Core, LeaderRole } from './core.ts';
import type { ReplicaKey } from './messages.ts';

/** `problem` is for people. */
export type TransferResult =
  { readonly ok: true; readonly to: BrokerId } | { readonly ok: false; readonly problem: string };

/** `to` undefined: the voter that is furthest. A new target replaces the one before. */
export function startTransfer(
  core: Core,
  role: LeaderRole,
  to: BrokerId | undefined,
  nowMs: number,
): TransferResult {
  if (core.changePending) {
    return { ok: false, problem: 'a membership change is not committed yet; try again' };
  }
  const target = to === undefined ? bestSuccessor(core, role) : core.replicaOf(to);
  if (target === undefined) {
    return { ok: false, problem: to === undefined ? 'no other voter answers' : `no member ${to}` };
  }
  if (target.id === core.self.id) return { ok: false, problem: `node ${target.id} leads already` };
  if (!isVoter(core.configuration, target)) {
    return { ok: false, problem: `node ${target.id} is a learner; promote it first` };
  }
  if (role.transfer?.to !== target.id) {
    const deadlineMs = nowMs + core.options.transferTimeoutMs;
    role.transfer = { to: target.id, deadlineMs, asked: false };
  }
  return { ok: true, to: target.id };
}

/** Tells the target to stand once it has everything. */
export function handOver(core: Core, role: LeaderRole): void {
  const { transfer } = role;
  if (transfer === undefined) return;
  const target = core.replicaOf(transfer.to);
  if (target === undefined || !isVoter(core.configuration, target)) {
    role.transfer = undefined;
  } else if (!transfer.asked && matchOf(role, transfer.to) === core.log.lastIndex) {
    transfer.asked = true;
    core.send(target, { kind: 'timeoutNow' });
  }
}

/** We are no voter any more, and that is committed: somebody else leads from here. */
export function leave(core: Core, role: LeaderRole, nowMs: number): void {
  const successor = bestSuccessor(core, role);
  if (successor !== undefined) core.send(successor, { kind: 'timeoutNow' });
  core.becomeFollower(core.term, undefined, nowMs);
}

function bestSuccessor(core: Core, role: LeaderRole): ReplicaKey | undefined {
  let best: ReplicaKey | undefined;
  let bestMatch = -1;
  for (const voter of core.otherVoters()) {
    const progress = role.peers.get(voter.id);
    if (progress?.responsive !== true || progress.matchIndex <= bestMatch) continue;
    best = voter;
    bestMatch = progress.matchIndex;
  }
  return best;
}

const matchOf = (role: LeaderRole, id: BrokerId): number => role.peers.get(id)?.matchIndex ?? -1;
