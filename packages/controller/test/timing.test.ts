import { brokerEpoch, logIndex } from '@relevo/base/ids';
import { DEFAULT_HAND_BACK, HandBackSchedule } from '@relevo/controller/hand-back';
import { BrokerSessions } from '@relevo/controller/sessions';
import type { Heartbeat } from '@relevo/controller/sessions';
import { difference } from '@relevo/controller/replay';
import { describe, expect, test } from 'vitest';
import { Cluster, id, ids } from './cluster.ts';

const TIMEOUT_MS = 1500;

const heartbeat = (broker: number, more: Partial<Heartbeat> = {}): Heartbeat => ({
  brokerId: id(broker),
  brokerEpoch: brokerEpoch(broker),
  metadataIndex: logIndex(10),
  diskSyncMs: 0,
  counts: true,
  ...more,
});

/** Three registered brokers, taken over at 0. */
function sessions(): BrokerSessions {
  const tracker = new BrokerSessions({ sessionTimeoutMs: TIMEOUT_MS });
  tracker.takeOver(new Cluster().start(1, 2, 3).image.brokers.values(), logIndex(7), 0);
  return tracker;
}

/** Ticks every 100 ms from `fromMs` to `toMs`; what expired, with when. */
function tick(tracker: BrokerSessions, fromMs: number, toMs: number): string[] {
  const seen: string[] = [];
  for (let now = fromMs; now <= toMs; now += 100) {
    for (const broker of tracker.expired(now)) seen.push(`${broker} at ${now}`);
  }
  return seen;
}

describe('sessions', () => {
  test('a new controller grants each broker one full session', () => {
    const tracker = sessions();
    expect(tracker.nextDeadlineMs()).toBe(1500);
    expect(tick(tracker, 0, 1400)).toEqual([]);
    expect(tick(tracker, 1500, 1600)).toEqual(['1 at 1500', '2 at 1500', '3 at 1500']);
    expect(tracker.nextDeadlineMs()).toBeUndefined();
  });

  test('heartbeats keep a session; silence ends it, once', () => {
    const tracker = sessions();
    tick(tracker, 0, 1000);
    expect(tracker.heard(heartbeat(1), 1000)).toBe('alive');
    expect(tracker.heard(heartbeat(2), 1200)).toBe('alive');
    expect(tick(tracker, 1100, 4000)).toEqual(['3 at 1500', '1 at 2500', '2 at 2700']);
    expect(tracker.heard(heartbeat(2), 4000)).toBe('alive');
    expect(tick(tracker, 4100, 6000)).toEqual(['2 at 5500']);
  });

  test('a heartbeat of a broker that has heard no reply of late does not keep its session', () => {
    const tracker = sessions();
    tracker.heard(heartbeat(1), 0);
    for (let now = 100; now <= 1400; now += 100) {
      expect(tracker.heard(heartbeat(1, { counts: false }), now)).toBe('alive');
    }
    expect(tick(tracker, 0, 1500)).toContain('1 at 1500');
    tracker.heard(heartbeat(1, { counts: false }), 1600);
    expect(tracker.nextDeadlineMs()).toBeUndefined();
    tracker.heard(heartbeat(1), 1700);
    expect(tracker.nextDeadlineMs()).toBe(3200);
  });

  test('a disk that fails or hangs is as good as silence (mistake 27)', () => {
    const tracker = sessions();
    expect(tracker.heard(heartbeat(1, { diskSyncMs: -1 }), 1)).toBe('diskFailed');
    expect(tracker.heard(heartbeat(1, { diskSyncMs: TIMEOUT_MS + 1 }), 1)).toBe('diskFailed');
    expect(tracker.heard(heartbeat(1, { diskSyncMs: TIMEOUT_MS }), 1)).toBe('alive');
  });

  test('a heartbeat under another epoch says nothing about the broker', () => {
    const tracker = sessions();
    expect(tracker.heard(heartbeat(1, { brokerEpoch: brokerEpoch(9) }), 1400)).toBe('unknown');
    expect(tick(tracker, 0, 1500)).toContain('1 at 1500');
  });

  test('a broker is caught up when it has applied its own registration', () => {
    const tracker = sessions();
    tracker.registered(id(1), brokerEpoch(11), logIndex(20), 100);
    const now = { brokerEpoch: brokerEpoch(11) };
    tracker.heard(heartbeat(1, { ...now, metadataIndex: logIndex(19) }), 200);
    expect(tracker.isCaughtUp(id(1), brokerEpoch(11))).toBe(false);
    tracker.heard(heartbeat(1, { ...now, metadataIndex: logIndex(20) }), 300);
    expect(tracker.isCaughtUp(id(1), brokerEpoch(11))).toBe(true);
    expect(tracker.isCaughtUp(id(1), brokerEpoch(1))).toBe(false);
  });

  test('another incarnation may take the id when the first cannot be alive', () => {
    const tracker = sessions();
    expect(tracker.isGone(id(9), false, 0)).toBe(true);
    expect(tracker.isGone(id(1), false, 100)).toBe(false);
    expect(tracker.isGone(id(1), true, 100)).toBe(true);
    tracker.heard(heartbeat(1), 200);
    expect(tracker.isGone(id(1), true, 300)).toBe(false);
    tracker.disconnected(id(1), brokerEpoch(1));
    expect(tracker.isGone(id(1), true, 300)).toBe(true);
    expect(tracker.isGone(id(1), false, 300)).toBe(false);
    expect(tracker.isGone(id(1), false, 1700)).toBe(true);
  });

  test("the controller's own pause is not held against the brokers", () => {
    const tracker = sessions();
    expect(tick(tracker, 0, 300)).toEqual([]);
    expect(tracker.expired(20_300)).toEqual([]);
    expect(tick(tracker, 20_400, 21_400)).toEqual([]);
    expect(tick(tracker, 21_500, 21_600)).toEqual(['1 at 21500', '2 at 21500', '3 at 21500']);
  });
});

describe('hand-back', () => {
  const options = { ...DEFAULT_HAND_BACK, roundSize: 2 };

  /** Broker 1 died and is back; partitions 0 to 4 prefer it. */
  function returned(): Cluster {
    const cluster = new Cluster().start(1, 2, 3);
    cluster.create('t', { assignment: Array.from({ length: 5 }, () => ids(1, 2, 3)) });
    cluster.fence(1);
    cluster.unfence(1);
    return cluster;
  }

  function join(cluster: Cluster, partition: number): ReturnType<Cluster['apply']> {
    const { id: topicId } = cluster.topic('t');
    return cluster.apply([
      {
        kind: 'partitionChange',
        topicId,
        partition,
        leader: undefined,
        isr: ids(1, 2, 3),
        elr: undefined,
        offline: undefined,
        unclean: false,
      },
    ]);
  }

  test('waits until the preferred leader has been in sync for the delay', () => {
    const cluster = returned();
    const schedule = new HandBackSchedule(options);
    schedule.takeOver(cluster.image, 0);
    expect(schedule.nextDeadlineMs()).toBeUndefined();
    schedule.observe(join(cluster, 3), cluster.image, 1000);
    expect(schedule.nextDeadlineMs()).toBe(3000);
    expect(schedule.due(2999)).toEqual([]);
    expect(schedule.due(3000)).toMatchObject([{ partition: 3 }]);
  });

  test('waits for a preferred leader that restarted and is still in sync until it has served for the delay', () => {
    const cluster = new Cluster().start(1, 2, 3);
    cluster.create('t', { assignment: [ids(1, 2, 3)] });
    const schedule = new HandBackSchedule(options);
    schedule.takeOver(cluster.image, 0);
    const act = (run: () => void, nowMs: number): void => {
      const before = cluster.image;
      run();
      schedule.observe(difference(before, cluster.image), cluster.image, nowMs);
    };
    act(() => cluster.restart(1), 500);
    expect(cluster.show('t')).toBe('1 2* 3 e1 v1');
    expect(schedule.nextDeadlineMs()).toBeUndefined();
    act(() => cluster.unfence(1), 1000);
    expect(schedule.nextDeadlineMs()).toBe(3000);
    act(() => cluster.fence(1), 2000);
    expect(schedule.nextDeadlineMs()).toBeUndefined();
  });

  test('begins anew when it drops out of the in-sync set meanwhile', () => {
    const cluster = returned();
    const schedule = new HandBackSchedule(options);
    schedule.takeOver(cluster.image, 0);
    schedule.observe(join(cluster, 0), cluster.image, 1000);
    const { id: topicId } = cluster.topic('t');
    const left = cluster.apply([
      {
        kind: 'partitionChange',
        topicId,
        partition: 0,
        leader: undefined,
        isr: ids(2, 3),
        elr: undefined,
        offline: undefined,
        unclean: false,
      },
    ]);
    schedule.observe(left, cluster.image, 2000);
    expect(schedule.due(3500)).toEqual([]);
    schedule.observe(join(cluster, 0), cluster.image, 4000);
    expect(schedule.nextDeadlineMs()).toBe(6000);
  });

  test('moves a few at a time, and is done when all are moved', () => {
    const cluster = returned();
    for (let partition = 0; partition < 5; partition++) join(cluster, partition);
    const schedule = new HandBackSchedule(options);
    schedule.takeOver(cluster.image, 0);
    const rounds: string[] = [];
    for (let now = 0; now < 4000; now += 50) {
      const due = schedule.due(now);
      if (due.length === 0) continue;
      rounds.push(`${now}: ${due.map(({ partition }) => partition).join(' ')}`);
      const before = cluster.image;
      cluster.run({ kind: 'handBack', partitions: due });
      const delta = {
        from: before.index,
        to: cluster.image.index,
        brokers: [],
        createdTopics: [],
        removedTopics: [],
        reconfiguredTopics: [],
        partitions: due.map(({ partition }) => ({
          topic: cluster.topic('t'),
          partition,
          before: undefined,
          after: cluster.partition('t', partition),
        })),
      };
      schedule.observe(delta, cluster.image, now);
    }
    expect(rounds).toEqual(['2000: 0 1', '2100: 2 3', '2200: 4']);
    expect(schedule.nextDeadlineMs()).toBeUndefined();
    expect(cluster.topic('t').partitions.map(({ leader }) => leader)).toEqual([1, 1, 1, 1, 1]);
  });

  test('forgets partitions of deleted topics', () => {
    const cluster = returned();
    const schedule = new HandBackSchedule(options);
    schedule.observe(join(cluster, 0), cluster.image, 0);
    const topic = cluster.topic('t');
    const removal = cluster.apply([{ kind: 'topicRemoval', topicId: topic.id }]);
    schedule.observe(removal, cluster.image, 10);
    expect(schedule.nextDeadlineMs()).toBeUndefined();
  });
});
