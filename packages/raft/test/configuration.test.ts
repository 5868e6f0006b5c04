import { utf8Encode } from '@relevo/base/bytes';
import { brokerId } from '@relevo/base/ids';
import {
  applyChange,
  decodeConfiguration,
  encodeConfiguration,
  makeConfiguration,
  reachedByMajority,
  type MembershipChange,
} from '@relevo/raft/configuration';
import { describe, expect, test } from 'vitest';
import { directoryOf, memberOf } from './raft-cluster.ts';

const id = brokerId;
const three = makeConfiguration([memberOf(1), memberOf(2), memberOf(3)], [memberOf(4)]);

describe('changes', () => {
  test.each<[string, MembershipChange, number[], number[]]>([
    ['add', { kind: 'addLearner', member: memberOf(5) }, [1, 2, 3], [4, 5]],
    ['promote', { kind: 'promote', id: id(4) }, [1, 2, 3, 4], []],
    ['demote', { kind: 'demote', id: id(1) }, [2, 3], [1, 4]],
    ['remove a voter', { kind: 'remove', id: id(2) }, [1, 3], [4]],
    ['remove a learner', { kind: 'remove', id: id(4) }, [1, 2, 3], []],
  ])('%s', (_name, change, voters, learners) => {
    const result = applyChange(three, change);
    if (!result.ok) throw new Error(result.problem);
    expect(result.configuration.voters.map((member) => member.id)).toEqual(voters);
    expect(result.configuration.learners.map((member) => member.id)).toEqual(learners);
  });

  test.each<[string, MembershipChange, RegExp]>([
    ['a member', { kind: 'addLearner', member: memberOf(1) }, /node 1 is a voter already/],
    [
      'the new disk of a member',
      { kind: 'addLearner', member: { ...memberOf(1), directoryId: directoryOf(1, 2) } },
      /remove that one first/,
    ],
    [
      'a member without a directory',
      { kind: 'addLearner', member: memberOf(9, false) },
      /directory id of node 9 is not given/,
    ],
    ['promote a voter', { kind: 'promote', id: id(1) }, /node 1 is not a learner/],
    ['demote a learner', { kind: 'demote', id: id(4) }, /node 4 is not a voter/],
    ['remove a stranger', { kind: 'remove', id: id(9) }, /node 9 is not a member/],
    [
      'another directory by update',
      { kind: 'update', members: [{ ...memberOf(2), directoryId: directoryOf(2, 2) }] },
      /not with/,
    ],
  ])('refused: %s', (_name, change, problem) => {
    const result = applyChange(three, change);
    expect(result.ok ? '' : result.problem).toMatch(problem);
  });

  test('the last voter stays', () => {
    const alone = makeConfiguration([memberOf(1)]);
    expect(applyChange(alone, { kind: 'remove', id: id(1) }).ok).toBe(false);
    expect(applyChange(alone, { kind: 'demote', id: id(1) }).ok).toBe(false);
  });

  test('a directory that was not known is filled in, an address changes', () => {
    const unpinned = makeConfiguration([memberOf(1, false), memberOf(2)]);
    const members = [memberOf(1), { ...memberOf(2), address: 'elsewhere:9' }];
    const result = applyChange(unpinned, { kind: 'update', members });
    expect(result).toEqual({ ok: true, configuration: makeConfiguration(members) });
  });

  test('no id twice', () => {
    expect(() => makeConfiguration([memberOf(1)], [memberOf(1)])).toThrow('once');
  });
});

describe('majorities', () => {
  test.each([
    { values: [7], reached: 7 },
    { values: [1, 9], reached: 1 },
    { values: [1, 5, 9], reached: 5 },
    { values: [1, 5, 9, 9], reached: 5 },
    { values: [0, 0, 3, 4, 5], reached: 3 },
  ])('of $values: $reached', ({ values, reached }) => {
    const voters = makeConfiguration(values.map((_, at) => memberOf(at + 1)));
    expect(reachedByMajority(voters, (voter) => values[voter - 1] ?? 0)).toBe(reached);
  });
});

describe('as bytes', () => {
  test('there and back', () => {
    expect(decodeConfiguration(encodeConfiguration(three))).toEqual(three);
  });

  test.each([
    '',
    'null',
    '{}',
    '{"voters":[],"learners":3}',
    '{"voters":[{"id":1}],"learners":[]}',
    '{"voters":[{"id":1.5,"directoryId":"","address":""}],"learners":[]}',
    '{"voters":[{"id":1,"directoryId":"short","address":""}],"learners":[]}',
  ])('refused: %s', (text) => {
    expect(() => decodeConfiguration(utf8Encode(text))).toThrow();
  });
});
