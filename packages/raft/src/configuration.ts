/**
 * Who takes part: voters and learners, each a (id, directory id) with the address where it listens. An
 * id is there at most once, so a wiped voter is removed before its new disk is added (invariant K5).
 * A change touches the vote of one member only: then every majority of the old members meets every
 * majority of the new ones (thesis, 4.1).
 */
import { assert, unreachable } from '@relevo/base/assert';
import { utf8Decode, utf8Encode } from '@relevo/base/bytes';
import { brokerId, uuid, type BrokerId } from '@relevo/base/ids';
import { UNPINNED, type DirectoryId, type ReplicaKey } from './messages.ts';

export interface Member extends ReplicaKey {
  /** host:port, for the driver; the core does not look at it. */
  readonly address: string;
}

/** Both lists are sorted by id. */
export interface Configuration {
  readonly voters: readonly Member[];
  /** They get the log and vote when asked, but count in no majority and never stand for election. */
  readonly learners: readonly Member[];
}

/**
 * `addLearner`: let it catch up. `promote`: a learner becomes a voter. `demote`: the other way.
 * `remove`: a voter or learner. `update`: fill in directories that were not known, or change
 * addresses; no vote changes hands, so it may touch several members.
 */
export type MembershipChange =
  | { readonly kind: 'addLearner'; readonly member: Member }
  | { readonly kind: 'promote'; readonly id: BrokerId }
  | { readonly kind: 'demote'; readonly id: BrokerId }
  | { readonly kind: 'remove'; readonly id: BrokerId }
  | { readonly kind: 'update'; readonly members: readonly Member[] };

export type ChangeResult =
  | { readonly ok: true; readonly configuration: Configuration }
  | { readonly ok: false; readonly problem: string };

/** True where `actual` may stand for `expected`: same id, and same directory unless not known yet. */
export const isReplica = (expected: ReplicaKey, actual: ReplicaKey): boolean =>
  expected.id === actual.id &&
  (expected.directoryId === UNPINNED || expected.directoryId === actual.directoryId);

export const findMember = (
  configuration: Configuration,
  id: BrokerId,
): { readonly member: Member; readonly voter: boolean } | undefined => {
  const voter = configuration.voters.find((member) => member.id === id);
  if (voter !== undefined) return { member: voter, voter: true };
  const learner = configuration.learners.find((member) => member.id === id);
  return learner === undefined ? undefined : { member: learner, voter: false };
};

export const isVoter = (configuration: Configuration, key: ReplicaKey): boolean =>
  configuration.voters.some((voter) => isReplica(voter, key));

export const majorityOf = (voters: readonly unknown[]): number => Math.floor(voters.length / 2) + 1;

/** The greatest value that a majority of the voters reaches; -Infinity without voters. */
export function reachedByMajority(
  configuration: Configuration,
  valueOf: (id: BrokerId) => number,
): number {
  const { voters } = configuration;
  const values = voters.map((voter) => valueOf(voter.id)).sort((a, b) => b - a);
  return values[majorityOf(voters) - 1] ?? -Infinity;
}

/** What the configuration becomes; the problem text is for people. */
export function applyChange(before: Configuration, change: MembershipChange): ChangeResult {
  switch (change.kind) {
    case 'addLearner':
      return addLearner(before, change.member);
    case 'promote':
      return promote(before, change.id);
    case 'demote':
      return demote(before, change.id);
    case 'remove':
      return remove(before, change.id);
    case 'update':
      return update(before, change.members);
    default:
      return unreachable(change, 'a membership change');
  }
}

const refused = (problem: string): ChangeResult => ({ ok: false, problem });

function changed(
  before: Configuration,
  voters: readonly Member[],
  learners: readonly Member[],
): ChangeResult {
  if (voters.length === 0) return refused('it would leave no voter; add another one first');
  const configuration = makeConfiguration(voters, learners);
  const difference =
    voterIdsMissing(before, configuration) + voterIdsMissing(configuration, before);
  assert(difference <= 1, 'a change moves one vote at most', { difference });
  return { ok: true, configuration };
}

const voterIdsMissing = (from: Configuration, other: Configuration): number =>
  from.voters.filter(({ id }) => !other.voters.some((voter) => voter.id === id)).length;

function addLearner(before: Configuration, member: Member): ChangeResult {
  const present = findMember(before, member.id);
  if (present !== undefined) {
    const what = present.voter ? 'voter' : 'learner';
    return refused(
      `node ${member.id} is a ${what} already, with directory ${present.member.directoryId}; ` +
        'remove that one first',
    );
  }
  if (member.directoryId === UNPINNED) {
    return refused(`the directory id of node ${member.id} is not given`);
  }
  return changed(before, before.voters, [...before.learners, member]);
}

function promote(before: Configuration, id: BrokerId): ChangeResult {
  const learner = before.learners.find((member) => member.id === id);
  if (learner === undefined) return refused(`node ${id} is not a learner; add it as one first`);
  return changed(before, [...before.voters, learner], without(before.learners, id));
}

function demote(before: Configuration, id: BrokerId): ChangeResult {
  const voter = before.voters.find((member) => member.id === id);
  if (voter === undefined) return refused(`node ${id} is not a voter`);
  return changed(before, without(before.voters, id), [...before.learners, voter]);
}

function remove(before: Configuration, id: BrokerId): ChangeResult {
  if (findMember(before, id) === undefined) return refused(`node ${id} is not a member`);
  return changed(before, without(before.voters, id), without(before.learners, id));
}

function update(before: Configuration, members: readonly Member[]): ChangeResult {
  for (const member of members) {
    const present = findMember(before, member.id)?.member;
    if (present === undefined) return refused(`node ${member.id} is not a member`);
    if (!isReplica(present, member)) {
      return refused(
        `node ${member.id} is a member with directory ${present.directoryId}, not with ` +
          `${member.directoryId}; remove that one first`,
      );
    }
  }
  const renewed = (list: readonly Member[]): Member[] =>
    list.map((old) => members.find((member) => member.id === old.id) ?? old);
  return changed(before, renewed(before.voters), renewed(before.learners));
}

const without = (members: readonly Member[], id: BrokerId): Member[] =>
  members.filter((member) => member.id !== id);

/** Sorts, and asserts that no id is there twice. */
export function makeConfiguration(
  voters: readonly Member[],
  learners: readonly Member[] = [],
): Configuration {
  const ids = new Set([...voters, ...learners].map((member) => member.id));
  assert(ids.size === voters.length + learners.length, 'a node is a member once', {
    members: [...voters, ...learners].map((member) => member.id).join(' '),
  });
  const byId = (a: Member, b: Member): number => a.id - b.id;
  return { voters: [...voters].sort(byId), learners: [...learners].sort(byId) };
}

// --------------------------------------------------------------------------------------------- Bytes

/** JSON, so that a log dump can be read: `{"voters":[{"id":1,"directoryId":"…","address":"…"}],…}`. */
export const encodeConfiguration = (configuration: Configuration): Uint8Array =>
  utf8Encode(JSON.stringify(configuration));

/** Throws a RangeError or SyntaxError on anything that `encodeConfiguration` does not write. */
export function decodeConfiguration(bytes: Uint8Array): Configuration {
  const parsed: unknown = JSON.parse(utf8Decode(bytes));
  const fields = fieldsOf(parsed);
  const voters = decodeMembers(fields.voters);
  const learners = decodeMembers(fields.learners);
  const ids = new Set([...voters, ...learners].map(({ id }) => id));
  if (ids.size < voters.length + learners.length) {
    throw new RangeError('a configuration entry names a member twice');
  }
  return makeConfiguration(voters, learners);
}

const fieldsOf = (value: unknown): Readonly<Record<string, unknown>> & ConfigurationFields => {
  if (typeof value !== 'object' || value === null) {
    throw new RangeError('a configuration entry holds no object');
  }
  return { ...value };
};

interface ConfigurationFields {
  readonly voters?: unknown;
  readonly learners?: unknown;
  readonly id?: unknown;
  readonly directoryId?: unknown;
  readonly address?: unknown;
}

/** Checks what was read as JSON; throws a RangeError. */
export function decodeMembers(value: unknown): Member[] {
  if (!Array.isArray(value)) throw new RangeError('a configuration entry lacks a list of members');
  return value.map((item: unknown) => {
    const { id, directoryId, address } = fieldsOf(item);
    if (typeof id !== 'number' || typeof directoryId !== 'string' || typeof address !== 'string') {
      throw new RangeError('a member in a configuration entry lacks id, directoryId or address');
    }
    return { id: brokerId(id), directoryId: directoryIdOf(directoryId), address };
  });
}

/** Checks text from outside; throws a RangeError. */
export const directoryIdOf = (text: string): DirectoryId =>
  text === UNPINNED ? UNPINNED : uuid(text);
