import { describe, expect, test } from 'vitest';
import { History } from '@relevo/simulation/history';
import type { AnomalyKind, SendOutcome } from '@relevo/simulation/history';

/** Two producers, three records each on partition 0, all acknowledged and read by `all`. */
function soundHistory(): History {
  const history = new History();
  for (let i = 0; i < 6; i++) {
    const sent = history.send(i % 2 === 0 ? 'even' : 'odd', 0, `v${i}`);
    sent.outcome = 'acknowledged';
    sent.offset = i;
    sent.leaderEpoch = i < 3 ? 1 : 2;
    history.read('all', { partition: 0, offset: i, value: `v${i}` });
  }
  return history;
}

const kinds = (history: History): AnomalyKind[] => [
  ...new Set(history.check(['all']).map((anomaly) => anomaly.kind)),
];

describe('the checker of histories', () => {
  test('a sound history has no anomaly', () => {
    expect(soundHistory().check(['all'])).toEqual([]);
  });

  test('sends without a known outcome may be read or not', () => {
    const history = soundHistory();
    for (const value of ['read', 'unread']) history.send('even', 0, value).outcome = 'unknown';
    history.read('all', { partition: 0, offset: 6, value: 'read' });
    expect(history.check(['all'])).toEqual([]);
  });

  const settle = (history: History, value: string, outcome: SendOutcome, offset = -1): void => {
    const sent = history.send('even', 0, value);
    sent.outcome = outcome;
    sent.offset = offset;
    sent.leaderEpoch = 2;
  };

  const cases: [AnomalyKind, (history: History) => void][] = [
    ['lost-write', (history) => settle(history, 'new', 'acknowledged', 6)],
    ['unsettled', (history) => settle(history, 'new', 'pending')],
    ['phantom', (history) => history.read('all', { partition: 0, offset: 6, value: 'ghost' })],
    [
      'failed-yet-read',
      (history) => {
        settle(history, 'new', 'failed');
        history.read('all', { partition: 0, offset: 6, value: 'new' });
      },
    ],
    ['duplicate', (history) => history.read('all', { partition: 0, offset: 6, value: 'v5' })],
    [
      'inconsistent-offsets',
      (history) => {
        settle(history, 'new', 'acknowledged', 7);
        history.read('all', { partition: 0, offset: 6, value: 'new' });
      },
    ],
    [
      'nonmonotonic-poll',
      (history) => history.read('all', { partition: 0, offset: 2, value: 'v2' }),
    ],
    [
      'poll-skip',
      (history) => {
        settle(history, 'new', 'acknowledged', 8);
        history.read('all', { partition: 0, offset: 8, value: 'new' });
      },
    ],
    [
      'nonmonotonic-send',
      (history) => {
        settle(history, 'first', 'acknowledged', 7);
        settle(history, 'second', 'acknowledged', 6);
        history.read('all', { partition: 0, offset: 6, value: 'second' });
        history.read('all', { partition: 0, offset: 7, value: 'first' });
      },
    ],
    [
      'epoch-regression',
      (history) => {
        settle(history, 'new', 'acknowledged', 6);
        history.sent.forEach((sent) => (sent.leaderEpoch = sent.value === 'new' ? 1 : 2));
        history.read('all', { partition: 0, offset: 6, value: 'new' });
      },
    ],
  ];
  test.each(cases)('%s is found, and nothing else', (kind, spoil) => {
    const history = soundHistory();
    spoil(history);
    expect(kinds(history)).toEqual([kind]);
  });

  test('two consumers must agree', () => {
    const history = soundHistory();
    history.read('other', { partition: 0, offset: 3, value: 'v2' });
    expect(kinds(history)).toEqual(['inconsistent-offsets', 'duplicate']);
  });
});
