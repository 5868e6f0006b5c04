/** The parts of a leader that both replication and membership changes touch. */
import { logIndex, type LogIndex } from '@relevo/base/ids';
import type { Core, LeaderRole } from './core.ts';
import type { Entry, EntryKind } from './messages.ts';
import { Progress } from './progress.ts';

/** Follows the current configuration: new members are probed, those that left are forgotten. */
export function trackMembers(core: Core, role: LeaderRole, nowMs: number): void {
  const { voters, learners } = core.configuration;
  const members = [...voters, ...learners].filter((member) => member.id !== core.self.id);
  for (const id of [...role.peers.keys()]) {
    if (!members.some((member) => member.id === id)) role.peers.delete(id);
  }
  const limits = {
    appendsMax: core.options.inflightAppendsMax,
    bytesMax: core.options.inflightBytesMax,
  };
  for (const { id } of members) {
    if (!role.peers.has(id)) {
      role.peers.set(id, new Progress(logIndex(core.log.lastIndex + 1), nowMs, limits));
    }
  }
}

/** Appends an entry of our own; it goes out with the next Ready. */
export function appendOwn(
  core: Core,
  role: LeaderRole,
  kind: EntryKind,
  data: Uint8Array,
): LogIndex {
  const index = logIndex(core.log.lastIndex + 1);
  const entry: Entry = { index, term: core.term, kind, data };
  core.log.append(entry);
  core.configurations.append(entry);
  role.uncommittedBytes += data.length;
  return index;
}

/** An entry of our own term is committed: only now do we know all that is (mistake 15). */
export const leadsForSure = (core: Core, role: LeaderRole): boolean =>
  core.commit >= role.startIndex;
