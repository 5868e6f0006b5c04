/**
 * Membership changes, one at a time (thesis, 4). A change is in force as soon as it is in the log; the
 * next one waits until it is committed (invariant K5), and the first one of a leader until an entry of
 * its own term is: otherwise two leaders could build on different members (mistake 17).
 */
import { assert } from '@relevo/base/assert';
import type { LogIndex } from '@relevo/base/ids';
import {
  applyChange,
  encodeConfiguration,
  isVoter,
  majorityOf,
  type Configuration,
  type Member,
  type MembershipChange,
} from './configuration.ts';
import type { Core, LeaderRole } from './core.ts';
import { appendOwn, leadsForSure, trackMembers } from './leader-state.ts';
import { UNPINNED } from './messages.ts';

/** A member counts as reachable when it has answered one of so many heartbeats. */
const HEARTBEATS_HEARD = 3;

/** `problem` is for people: what is wrong and what to do. */
export type MembershipResult =
  | { readonly ok: true; readonly index: LogIndex }
  | {
      readonly ok: false;
      readonly reason: 'changePending' | 'notReady' | 'transferring' | 'invalid';
      readonly problem: string;
    };

export function changeMembership(
  core: Core,
  role: LeaderRole,
  change: MembershipChange,
  nowMs: number,
): MembershipResult {
  if (core.changePending) {
    const problem = `the change in entry ${core.configurations.currentIndex} is not committed yet`;
    return { ok: false, reason: 'changePending', problem };
  }
  if (!leadsForSure(core, role)) {
    const problem = `the leader has not committed an entry of term ${core.term} yet; try again`;
    return { ok: false, reason: 'notReady', problem };
  }
  if (role.transfer !== undefined) {
    const problem = `leadership is on its way to node ${role.transfer.to}; ask the new leader`;
    return { ok: false, reason: 'transferring', problem };
  }
  const result = applyChange(core.configuration, change);
  const problem = result.ok
    ? problemWith(core, role, change, result.configuration, nowMs)
    : result.problem;
  if (!result.ok || problem !== undefined) {
    return { ok: false, reason: 'invalid', problem: problem ?? '' };
  }
  return { ok: true, index: appendConfiguration(core, role, result.configuration, nowMs) };
}

/** What the new members would lack to go on at once. */
function problemWith(
  core: Core,
  role: LeaderRole,
  change: MembershipChange,
  after: Configuration,
  nowMs: number,
): string | undefined {
  if (change.kind === 'promote') {
    const progress = role.peers.get(change.id);
    const lag = core.log.lastIndex - (progress?.matchIndex ?? 0);
    if (progress?.state !== 'replicate' || lag > core.options.promotionLagMax) {
      return `node ${change.id} still lacks ${lag} entries; wait until it has caught up`;
    }
  }
  if (change.kind === 'addLearner' || change.kind === 'update') return undefined;
  const heard = after.voters.filter((voter) => isHeard(core, role, voter, nowMs)).length;
  if (heard >= majorityOf(after.voters)) return undefined;
  return (
    `of the ${after.voters.length} voters there would be, only ${heard} can be reached, which is ` +
    'no majority; bring the others back first'
  );
}

function isHeard(core: Core, role: LeaderRole, voter: Member, nowMs: number): boolean {
  if (voter.id === core.self.id) return true;
  const progress = role.peers.get(voter.id);
  if (progress?.responsive !== true) return false;
  return nowMs - progress.lastContactMs <= HEARTBEATS_HEARD * core.options.heartbeatMs;
}

function appendConfiguration(
  core: Core,
  role: LeaderRole,
  configuration: Configuration,
  nowMs: number,
): LogIndex {
  assert(!core.changePending, 'one membership change at a time', { commit: core.commit });
  const index = appendOwn(core, role, 'configuration', encodeConfiguration(configuration));
  trackMembers(core, role, nowMs);
  return index;
}

/** Once each: the directories of members that were named by address alone. */
export function pinDirectories(core: Core, role: LeaderRole, nowMs: number): void {
  const { voters, learners } = core.configuration;
  if (voters.every(isPinned) && learners.every(isPinned)) return;
  if (core.changePending || role.transfer !== undefined || !leadsForSure(core, role)) return;
  const members = [...voters, ...learners]
    .filter((member) => !isPinned(member))
    .map((member) => ({ ...member, directoryId: directoryOf(core, role, member) }))
    .filter(isPinned);
  if (members.length === 0) return;
  const result = applyChange(core.configuration, { kind: 'update', members });
  assert(result.ok, 'a directory may be filled in', { members: members.length });
  appendConfiguration(core, role, result.configuration, nowMs);
}

const isPinned = (member: Member): boolean => member.directoryId !== UNPINNED;

const directoryOf = (core: Core, role: LeaderRole, { id }: Member): Member['directoryId'] =>
  id === core.self.id ? core.self.directoryId : (role.peers.get(id)?.directoryId ?? UNPINNED);

/** The commit index moved: if the members that are now certain do not have us as a voter, go. */
export function noteMembershipCommit(core: Core, role: LeaderRole): void {
  if (!core.changePending && !isVoter(core.configuration, core.self)) role.leaving = true;
}
