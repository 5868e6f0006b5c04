import { NO_BROKER } from '@relevo/base/ids';
import { electLeader } from '@relevo/controller/elections';
import type { BrokerCondition } from '@relevo/controller/elections';
import { describe, expect, test } from 'vitest';
import { id, ids } from './cluster.ts';

/** `e` eligible, `s` stopping, `g` gone: brokers 1, 2, 3 in this order. */
function elect(
  conditions: string,
  isr: number[],
  leader: number,
  more: { unclean?: boolean; preferred?: boolean } = {},
): string {
  const names: Record<string, BrokerCondition> = { e: 'eligible', s: 'stopping', g: 'gone' };
  const elected = electLeader({
    replicas: ids(1, 2, 3),
    isr: ids(...isr),
    leader: id(leader),
    conditions: (broker) => names[conditions[broker - 1] ?? 'g'] ?? 'gone',
    uncleanAllowed: more.unclean ?? false,
    wantPreferred: more.preferred ?? false,
  });
  return `${elected.leader === NO_BROKER ? 'none' : elected.leader}${elected.unclean ? '!' : ''}`;
}

describe('who leads a partition', () => {
  test.each([
    ['the leader stays while it is live and in sync', 'eee', [1, 2, 3], 2, '2'],
    ['a dead leader is followed by the first in assignment order', 'gee', [2, 3], 1, '2'],
    ['never by one that is not in sync', 'gee', [3], 1, '3'],
    ['never by one that is in sync but fenced', 'gge', [1, 2, 3], 1, '3'],
    ['nobody leads when nobody in sync is live', 'gge', [1], 1, 'none'],
    ['a partition without a leader gets one', 'geg', [2], -1, '2'],
    ['a leader that left the in-sync set loses the leadership', 'eee', [2, 3], 1, '2'],
    ['one that stops hands over', 'see', [1, 2, 3], 1, '2'],
    ['one that stops stays when nobody is in sync with it', 'see', [1], 1, '1'],
    ['one that stops is better than nobody', 'gsg', [2], 1, '2'],
    ['one that stops gives way to one that does not', 'gse', [2, 3], 1, '3'],
  ] as const)('%s', (_, conditions, isr, leader, expected) => {
    expect(elect(conditions, [...isr], leader)).toBe(expected);
  });

  test('an unclean election happens only where it is allowed, and only as the last resort', () => {
    expect(elect('gge', [1], 1)).toBe('none');
    expect(elect('gge', [1], 1, { unclean: true })).toBe('3!');
    expect(elect('gee', [3], 1, { unclean: true })).toBe('3');
    expect(elect('ggs', [1], 1, { unclean: true })).toBe('none');
  });

  test('the preferred replica leads when that is wanted and it is fit', () => {
    expect(elect('eee', [1, 2, 3], 2, { preferred: true })).toBe('1');
    expect(elect('eee', [2, 3], 2, { preferred: true })).toBe('2');
    expect(elect('gee', [2, 3], 2, { preferred: true })).toBe('2');
    expect(elect('see', [1, 2, 3], 2, { preferred: true })).toBe('2');
  });
});
