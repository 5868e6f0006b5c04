/**
 * Messages of the consensus core to and from `relevo.cluster.v1.RaftMessage`. What comes from outside is
 * checked here: the core may take it at its word.
 */
import { assert, unreachable } from '@relevo/base/assert';
import { brokerId, logIndex, term as toTerm } from '@relevo/base/ids';
import type { LogIndex } from '@relevo/base/ids';
import { directoryIdOf } from '@relevo/raft/configuration';
import type {
  AppendReply,
  Entry,
  EntryKind,
  Envelope,
  InstallSnapshot,
  Message,
  MessageBody,
} from '@relevo/raft/messages';
import type {
  RaftAppendRequest,
  RaftAppendResponse,
  RaftEntry,
  RaftMessage,
  RaftMessageBody,
  RaftVoteRequest,
  RaftVoteResponse,
} from '@relevo/rpc/gen/cluster/raft';

/** A message that a peer may not send; the text says what is wrong with it. */
export class MalformedMessage extends Error {
  override readonly name = 'MalformedMessage';
}

/** Position: the number on the wire. */
export const ENTRY_KINDS: readonly EntryKind[] = ['data', 'configuration', 'leaderStart'];

export type WireBody = Exclude<RaftMessageBody, { readonly case: undefined }>;
/** All but snapshots, which go in pieces. */
export type WholeBody = Exclude<MessageBody, InstallSnapshot>;

/** Wraps a body for the wire. */
export const envelopeToWire = (
  clusterId: string,
  { from, to, term }: Envelope,
  body: WireBody,
): RaftMessage => ({
  clusterId,
  from: from.id,
  fromDirectoryId: from.directoryId,
  to: to.id,
  toDirectoryId: to.directoryId,
  term,
  body,
});

export function bodyToWire(body: WholeBody): WireBody {
  switch (body.kind) {
    case 'preVote': {
      const { lastIndex, lastTerm, nextTerm } = body;
      const value = { preVote: true, lastIndex, lastTerm, forced: false, nextTerm };
      return { case: 'voteRequest', value };
    }
    case 'vote': {
      const { lastIndex, lastTerm, transfer: forced } = body;
      const value = { preVote: false, lastIndex, lastTerm, forced, nextTerm: 0 };
      return { case: 'voteRequest', value };
    }
    case 'preVoteReply': {
      const { granted, nextTerm } = body;
      return { case: 'voteResponse', value: { preVote: true, granted, nextTerm } };
    }
    case 'voteReply':
      return {
        case: 'voteResponse',
        value: { preVote: false, granted: body.granted, nextTerm: 0 },
      };
    case 'append': {
      const { prevIndex, prevTerm, commit, entries } = body;
      const value = {
        previousIndex: prevIndex,
        previousTerm: prevTerm,
        commitIndex: commit,
        entries: entries.map(entryToWire),
      };
      return { case: 'appendRequest', value };
    }
    case 'appendReply':
      return { case: 'appendResponse', value: appendReplyToWire(body) };
    case 'heartbeat':
      return {
        case: 'heartbeatRequest',
        value: { commitIndex: body.commit, readContext: body.round },
      };
    case 'heartbeatReply':
      return { case: 'heartbeatResponse', value: { readContext: body.round } };
    case 'timeoutNow':
      return { case: 'timeoutNow', value: {} };
    default:
      return unreachable(body, 'a message');
  }
}

const entryToWire = ({ index, term, kind, data }: Entry): RaftEntry => ({
  index,
  term,
  kind: ENTRY_KINDS.indexOf(kind),
  data,
});

function appendReplyToWire(reply: AppendReply): RaftAppendResponse {
  if (reply.accepted) {
    return { rejected: false, index: reply.matchIndex, hintIndex: 0, hintTerm: 0 };
  }
  const { rejectedIndex: index, hintIndex, hintTerm } = reply;
  return { rejected: true, index, hintIndex, hintTerm };
}

/** Throws MalformedMessage. */
export function envelopeFromWire(wire: RaftMessage): Envelope {
  return checked(() => ({
    from: { id: brokerId(wire.from), directoryId: directoryIdOf(wire.fromDirectoryId) },
    to: { id: brokerId(wire.to), directoryId: directoryIdOf(wire.toDirectoryId) },
    term: toTerm(wire.term),
  }));
}

/** Throws MalformedMessage; a snapshot's pieces are not for here. */
export function messageFromWire(wire: RaftMessage): Message {
  const envelope = envelopeFromWire(wire);
  return { ...envelope, body: checked(() => bodyFromWire(wire.body)) };
}

function bodyFromWire(wire: RaftMessageBody): MessageBody {
  switch (wire.case) {
    case 'voteRequest':
      return voteFromWire(wire.value);
    case 'voteResponse':
      return voteReplyFromWire(wire.value);
    case 'appendRequest':
      return appendFromWire(wire.value);
    case 'appendResponse':
      return appendReplyFromWire(wire.value);
    case 'heartbeatRequest':
      return {
        kind: 'heartbeat',
        commit: logIndex(wire.value.commitIndex),
        round: wire.value.readContext,
      };
    case 'heartbeatResponse':
      return { kind: 'heartbeatReply', round: wire.value.readContext };
    case 'timeoutNow':
      return { kind: 'timeoutNow' };
    case 'snapshotRequest':
    case undefined:
      throw new RangeError(`a message has ${wire.case ?? 'no'} body`);
    default:
      return unreachable(wire, 'a message');
  }
}

function voteFromWire(wire: RaftVoteRequest): MessageBody {
  const lastIndex = logIndex(wire.lastIndex);
  const lastTerm = toTerm(wire.lastTerm);
  if (!wire.preVote) return { kind: 'vote', lastIndex, lastTerm, transfer: wire.forced };
  return { kind: 'preVote', nextTerm: toTerm(wire.nextTerm), lastIndex, lastTerm };
}

const voteReplyFromWire = ({ preVote, granted, nextTerm }: RaftVoteResponse): MessageBody =>
  preVote
    ? { kind: 'preVoteReply', nextTerm: toTerm(nextTerm), granted }
    : { kind: 'voteReply', granted };

function appendFromWire(wire: RaftAppendRequest): MessageBody {
  const prevIndex = logIndex(wire.previousIndex);
  const entries = wire.entries.map(entryFromWire);
  entries.forEach((entry, at) => {
    if (entry.index !== prevIndex + 1 + at) throw new RangeError('an append has a gap');
  });
  return {
    kind: 'append',
    prevIndex,
    prevTerm: toTerm(wire.previousTerm),
    entries,
    commit: logIndex(wire.commitIndex),
  };
}

/** Entries stay in memory for long: they do not keep the buffer that they came in. */
function entryFromWire(wire: RaftEntry): Entry {
  const kind = ENTRY_KINDS[wire.kind];
  if (kind === undefined) throw new RangeError(`an entry is of the unknown kind ${wire.kind}`);
  return { index: logIndex(wire.index), term: toTerm(wire.term), kind, data: wire.data.slice() };
}

function appendReplyFromWire(wire: RaftAppendResponse): MessageBody {
  const index: LogIndex = logIndex(wire.index);
  if (!wire.rejected) return { kind: 'appendReply', accepted: true, matchIndex: index };
  return {
    kind: 'appendReply',
    accepted: false,
    rejectedIndex: index,
    hintIndex: logIndex(wire.hintIndex),
    hintTerm: toTerm(wire.hintTerm),
  };
}

/** Ids and numbers out of range are the peer's fault, not ours. */
export function checked<Value>(make: () => Value): Value {
  try {
    return make();
  } catch (error) {
    assert(error instanceof Error, 'only errors are thrown');
    if (!(error instanceof RangeError) && !(error instanceof SyntaxError)) throw error;
    throw new MalformedMessage(error.message, { cause: error });
  }
}
