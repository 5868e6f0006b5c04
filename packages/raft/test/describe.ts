/** How messages and Readies read in a transcript. An entry is `index@term`. */
import { utf8Decode } from '@relevo/base/bytes';
import { decodeConfiguration, type Configuration, type Member } from '@relevo/raft/configuration';
import type { Entry, Message, MessageBody } from '@relevo/raft/messages';
import type { Ready, RoleName } from '@relevo/raft/ready';

export const describeMessage = (message: Message): string =>
  `${message.from.id} > ${message.to.id}  term ${message.term}  ${describeBody(message.body)}`;

function describeBody(body: MessageBody): string {
  switch (body.kind) {
    case 'preVote':
      return `pre-vote for term ${body.nextTerm}? log ${body.lastIndex}@${body.lastTerm}`;
    case 'preVoteReply':
      return `pre-vote for term ${body.nextTerm} ${body.granted ? 'granted' : 'refused'}`;
    case 'vote':
      return `vote? log ${body.lastIndex}@${body.lastTerm}${body.transfer ? ', by transfer' : ''}`;
    case 'voteReply':
      return `vote ${body.granted ? 'granted' : 'refused'}`;
    case 'append':
      return (
        `append after ${body.prevIndex}@${body.prevTerm}: ${describeEntries(body.entries)}, ` +
        `commit ${body.commit}`
      );
    case 'appendReply':
      return body.accepted
        ? `has ${body.matchIndex}`
        : `rejects ${body.rejectedIndex}, try ${body.hintIndex}@${body.hintTerm}`;
    case 'heartbeat':
      return `heartbeat, commit ${body.commit}${body.round > 0 ? `, round ${body.round}` : ''}`;
    case 'heartbeatReply':
      return `heard${body.round > 0 ? `, round ${body.round}` : ''}`;
    case 'snapshot':
      return `snapshot ${body.snapshot.index}@${body.snapshot.term}, ${describeConfiguration(body.snapshot.configuration)}`;
    case 'timeoutNow':
      return 'stand for election now';
  }
}

const ENTRIES_SHOWN = 6;

function describeEntries(entries: readonly Entry[]): string {
  if (entries.length === 0) return 'nothing';
  const shown = entries.slice(0, ENTRIES_SHOWN).map(describeEntry).join(' ');
  return entries.length > ENTRIES_SHOWN ? `${shown} … (${entries.length})` : shown;
}

export function describeEntry(entry: Entry): string {
  const at = `${entry.index}@${entry.term}`;
  switch (entry.kind) {
    case 'data': {
      const text = utf8Decode(entry.data);
      return text.length > 8 ? `${at}(${text.length} bytes)` : `${at}"${text}"`;
    }
    case 'configuration':
      return `${at}{${describeConfiguration(decodeConfiguration(entry.data))}}`;
    case 'leaderStart':
      return `${at}start`;
  }
}

export function describeConfiguration({ voters, learners }: Configuration): string {
  const names = (members: readonly Member[]): string => members.map(nameOf).join(' ');
  const learning = learners.length > 0 ? ` learners ${names(learners)}` : '';
  return `voters ${names(voters)}${learning}`;
}

function nameOf({ id, directoryId }: Member): string {
  if (directoryId === '') return `${id}?`;
  const generation = /disk(\d+)/.exec(directoryId)?.[1] ?? '1';
  return generation === '1' ? `${id}` : `${id}(disk ${generation})`;
}

export function describeRole(
  id: number,
  state: { role: RoleName; term: number; leaderId: number | undefined },
): string {
  const { role, term, leaderId } = state;
  const leads = leaderId === undefined ? 'nobody' : `${leaderId}`;
  return role === 'follower'
    ? `${id} follows ${leads} in term ${term}`
    : `${id} is ${role} in term ${term}`;
}

export function describeReady(id: number, ready: Ready): string[] {
  const lines: string[] = [];
  if (ready.softState !== undefined) lines.push(describeRole(id, ready.softState));
  const writes: string[] = [];
  const { hardState, snapshot, truncateFrom, entries } = ready;
  if (hardState !== undefined) {
    writes.push(`term ${hardState.term}${hardState.vote ? ` vote ${hardState.vote.id}` : ''}`);
  }
  if (snapshot !== undefined) writes.push(`snapshot ${snapshot.index}@${snapshot.term}`);
  if (truncateFrom !== undefined) writes.push(`nothing from ${truncateFrom} on`);
  if (entries.length > 0) writes.push(describeEntries(entries));
  if (writes.length > 0) lines.push(`${id} writes ${writes.join(', ')}`);
  if (ready.committed.length > 0) lines.push(`${id} applies ${describeEntries(ready.committed)}`);
  for (const read of ready.readStates)
    lines.push(`${id} may read #${read.context} at ${read.index}`);
  for (const context of ready.droppedReads) lines.push(`${id} drops read #${context}`);
  return lines.map((line) => `    ${line}`);
}
