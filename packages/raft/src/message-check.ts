/**
 * What a replica may be told. The core takes messages at their word and asserts; whoever takes them from a
 * network asks here first, so that no message, whatever it holds, makes a replica store what it could not
 * start with.
 *
 * `flawOfMessage` needs nothing but the message. `contradictionOf` holds it against what this replica
 * knows. Storage asks `flawOfEntry` and `flawOfTerm` before it writes and after it has read.
 */
import { messageOf } from '@relevo/base/errors';
import type { Term } from '@relevo/base/ids';
import { decodeConfiguration, type Configuration } from './configuration.ts';
import type { Core } from './core.ts';
import { UNPINNED, type Append, type Entry, type Message, type Snapshot } from './messages.ts';

/** The last term. An election a second would take 68 years to come here; nobody stands beyond it. */
export const TERM_MAX: Term = (2 ** 31 - 2) as Term;
/**
 * A term is this far ahead of ours at most: each election adds one, and half a year of one a second comes
 * to less.
 */
export const TERM_JUMP_MAX: number = 2 ** 24;
/** The log's last index. A million entries a second would take 285 years to come here. */
export const INDEX_MAX: number = Number.MAX_SAFE_INTEGER - 1;
/** Bytes of one entry, whatever the leader's own limit is. */
export const ENTRY_BYTES_LIMIT: number = 8 * 2 ** 20;
/** Voters and learners together. */
export const MEMBERS_MAX = 100;

const ADDRESS = /^(\[[0-9a-fA-F:]+\]|[A-Za-z0-9._-]{1,255}):\d{1,5}$/;

/** What is wrong with a message, whoever gets it; undefined: nothing. */
export function flawOfMessage(message: Message): string | undefined {
  const { from, to, term, body } = message;
  if (from.id < 0 || to.id < 0) return `it is from node ${from.id} to node ${to.id}`;
  if (from.directoryId === UNPINNED) return 'its sender has no directory id';
  const flaw = flawOfTerm(term);
  if (flaw !== undefined) return flaw;
  switch (body.kind) {
    case 'preVote':
      if (body.nextTerm !== term + 1) return `in term ${term} it asks for term ${body.nextTerm}`;
      return flawOfPosition(body.lastIndex, body.lastTerm, term);
    case 'preVoteReply':
      return flawOfTerm(body.nextTerm);
    case 'vote':
      return flawOfPosition(body.lastIndex, body.lastTerm, term - 1);
    case 'append':
      return flawOfAppend(body, term);
    case 'appendReply':
      if (body.accepted) return undefined;
      return flawOfTerm(body.hintTerm);
    case 'snapshot':
      return flawOfSnapshot(body.snapshot, term);
    case 'voteReply':
    case 'heartbeat':
    case 'heartbeatReply':
    case 'timeoutNow':
      return undefined;
  }
}

/** Also of a stored term. */
export const flawOfTerm = (term: number): string | undefined =>
  term <= TERM_MAX ? undefined : `term ${term} is above the last one, ${TERM_MAX}`;

function flawOfPosition(index: number, term: number, termMax: number): string | undefined {
  if (term > termMax) return `entry ${index} is of term ${term}, after ${termMax}`;
  if ((index === 0) !== (term === 0)) return `entry ${index} cannot be of term ${term}`;
  return index <= INDEX_MAX ? undefined : `index ${index} is above the last one, ${INDEX_MAX}`;
}

function flawOfAppend({ prevIndex, prevTerm, entries }: Append, term: Term): string | undefined {
  const flaw = flawOfPosition(prevIndex, prevTerm, term);
  if (flaw !== undefined) return flaw;
  let before = { index: prevIndex, term: prevTerm };
  for (const entry of entries) {
    if (entry.index !== before.index + 1) return `entry ${entry.index} follows ${before.index}`;
    if (entry.term < before.term || entry.term > term) {
      return `entry ${entry.index} of term ${entry.term} stands after ${before.term} in ${term}`;
    }
    const own = flawOfEntry(entry);
    if (own !== undefined) return own;
    before = entry;
  }
  return undefined;
}

/** What is wrong with an entry by itself; also asked of those that are about to be, or are, stored. */
export function flawOfEntry({ index, term, kind, data }: Entry): string | undefined {
  const what = `entry ${index}`;
  if (index < 1 || index > INDEX_MAX) return `${what} is out of range`;
  if (term < 1 || term > TERM_MAX) return `${what} is of term ${term}`;
  if (data.length > ENTRY_BYTES_LIMIT) {
    return `${what} has ${data.length} bytes; the limit is ${ENTRY_BYTES_LIMIT}`;
  }
  switch (kind) {
    case 'data':
      return undefined;
    case 'leaderStart':
      return data.length === 0 ? undefined : `${what}, a leader's first, is not empty`;
    case 'configuration':
      return flawOfMembers(data, what);
  }
}

function flawOfMembers(data: Uint8Array, what: string): string | undefined {
  try {
    const flaw = flawOfConfiguration(decodeConfiguration(data));
    return flaw === undefined ? undefined : `${what}: ${flaw}`;
  } catch (error) {
    return `${what} holds no members: ${messageOf(error)}`;
  }
}

function flawOfConfiguration({ voters, learners }: Configuration): string | undefined {
  const members = [...voters, ...learners];
  if (voters.length === 0) return 'there is no voter among the members';
  if (members.length > MEMBERS_MAX) return `${members.length} members are above ${MEMBERS_MAX}`;
  const strange = members.find(({ id, address }) => id < 0 || !ADDRESS.test(address));
  return strange === undefined
    ? undefined
    : `member ${strange.id} at ${JSON.stringify(strange.address.slice(0, 100))} cannot be`;
}

function flawOfSnapshot(snapshot: Snapshot, term: Term): string | undefined {
  const { index, configuration } = snapshot;
  if (index < 1) return 'a snapshot covers no entry';
  return flawOfPosition(index, snapshot.term, term) ?? flawOfConfiguration(configuration);
}

/**
 * What in a flawless message cannot be, as far as this replica knows; undefined: nothing. Nothing changes.
 * A replica that keeps the rules sends no such message.
 */
export function contradictionOf(core: Core, { from, term, body }: Message): string | undefined {
  if (term > core.term + TERM_JUMP_MAX) {
    return `term ${term} is more than ${TERM_JUMP_MAX} elections after ours, ${core.term}`;
  }
  if (term !== core.term) return undefined;
  switch (body.kind) {
    case 'append':
    case 'heartbeat':
    case 'snapshot': {
      const leaderId = core.role.kind === 'leader' ? core.self.id : core.leaderContact?.id;
      if (leaderId !== undefined && leaderId !== from.id) {
        return `node ${leaderId} leads in term ${term}, not node ${from.id}`;
      }
      if (body.kind !== 'heartbeat' || body.commit <= core.log.lastIndex) return undefined;
      return `${body.commit} is committed, but our log ends at ${core.log.lastIndex}`;
    }
    case 'timeoutNow':
      return core.leaderId === from.id ? undefined : `node ${from.id} does not lead`;
    case 'appendReply':
      if (core.role.kind !== 'leader' || !body.accepted) return undefined;
      if (body.matchIndex <= core.log.lastIndex) return undefined;
      return `it holds ${body.matchIndex}, but our log ends at ${core.log.lastIndex}`;
    case 'heartbeatReply':
      if (core.role.kind !== 'leader' || body.round <= core.role.reads.round) return undefined;
      return `it answers round ${body.round}; the last was ${core.role.reads.round}`;
    case 'preVote':
    case 'preVoteReply':
    case 'vote':
    case 'voteReply':
      return undefined;
  }
}
