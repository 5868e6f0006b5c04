import type { BrokerEpoch, BrokerId, LeaderEpoch, Offset, PartitionEpoch } from '@relevo/base/ids';
import { LeaderReplica, PROPOSAL_PAUSE_MS, RESTART_GRACE_MS } from '@relevo/broker/leader-replica';
import type {
  BrokerView,
  IsrProposal,
  LeaderStart,
  PartitionState,
} from '@relevo/broker/leader-replica';
import { describe, expect, test } from 'vitest';

const ids = (...numbers: number[]): BrokerId[] => numbers as BrokerId[];
const at = (offset: number): Offset => offset as Offset;
const LAG_MS = 5_000;
const EPOCH = 7 as LeaderEpoch;

const state = (isr: BrokerId[], partitionEpoch = 20): PartitionState => ({
  leaderEpoch: EPOCH,
  partitionEpoch: partitionEpoch as PartitionEpoch,
  replicas: ids(1, 2, 3),
  isr,
  elr: [],
  offline: [],
});

const leader = (change: Partial<LeaderStart> = {}, isr = ids(1, 2, 3)): LeaderReplica =>
  new LeaderReplica(
    { localId: 1 as BrokerId, replicaLagMs: LAG_MS },
    {
      state: state(isr),
      minIsr: 2,
      epochStartOffset: at(10),
      syncedEndOffset: at(10),
      highWatermark: at(4),
      ...change,
    },
    0,
  );

const report = (
  replica: LeaderReplica,
  brokerId: number,
  syncedEnd: number,
  nowMs = 0,
  more: { epoch?: number; brokerEpoch?: number } = {},
): string =>
  replica.report(
    {
      brokerId: brokerId as BrokerId,
      brokerEpoch: (more.brokerEpoch ?? brokerId) as BrokerEpoch,
      leaderEpoch: (more.epoch ?? EPOCH) as LeaderEpoch,
      syncedEndOffset: at(syncedEnd),
    },
    nowMs,
  );

const brokers =
  (fenced: readonly number[] = []) =>
  (id: BrokerId): BrokerView => ({
    epoch: id as number as BrokerEpoch,
    fenced: fenced.includes(id),
  });

const members = (proposal: IsrProposal | undefined): number[] | undefined =>
  proposal?.isr.map(({ brokerId }) => brokerId);

describe('the high watermark', () => {
  test('waits for a report of every in-sync replica under this epoch', () => {
    const replica = leader();
    expect(report(replica, 2, 10)).toBe('held');
    expect(report(replica, 3, 10, 0, { epoch: 6 })).toBe('stale');
    expect(replica.highWatermark).toBe(4);
    expect(report(replica, 3, 10)).toBe('advanced');
    expect(replica.highWatermark).toBe(10);
  });

  test('is the smallest durable end, the own one included', () => {
    const replica = leader();
    replica.appended(at(20), 1);
    report(replica, 2, 20);
    report(replica, 3, 15);
    expect(replica.highWatermark).toBe(10);
    expect(replica.synced(at(12))).toBe(true);
    expect(replica.highWatermark).toBe(12);
    expect(replica.synced(at(20))).toBe(true);
    expect(replica.highWatermark).toBe(15);
    expect(replica.syncedOn(at(16))).toEqual([1, 2]);
  });

  test('does not move below the minimum in-sync size', () => {
    const replica = leader({}, ids(1));
    expect(replica.hasEnoughInSync).toBe(false);
    expect(replica.highWatermark).toBe(4);
    report(replica, 2, 10);
    const proposal = replica.proposeIsr(brokers(), 1);
    expect(members(proposal)).toEqual([1, 2]);
    expect(replica.highWatermark).toBe(4);
    expect(replica.applyState(state(ids(1, 2), 21), 2, 2)).toBe(true);
    expect(replica.highWatermark).toBe(10);
  });

  test('never asks for more in sync than there are replicas', () => {
    const replica = new LeaderReplica(
      { localId: 1 as BrokerId, replicaLagMs: LAG_MS },
      {
        state: { ...state(ids(1)), replicas: ids(1) },
        minIsr: 2,
        epochStartOffset: at(10),
        syncedEndOffset: at(10),
        highWatermark: at(4),
      },
      0,
    );
    expect(replica.highWatermark).toBe(10);
  });

  test('is not "latest" before it has reached the start of the epoch (P7)', () => {
    const replica = leader();
    report(replica, 2, 9);
    report(replica, 3, 10);
    expect(replica.highWatermark).toBe(9);
    expect(replica.knowsLatest).toBe(false);
    report(replica, 2, 10);
    expect(replica.knowsLatest).toBe(true);
  });

  test('never falls, even when a follower comes back with less', () => {
    const replica = leader();
    report(replica, 2, 10);
    report(replica, 3, 10);
    report(replica, 3, 2, 0, { brokerEpoch: 30 });
    expect(replica.highWatermark).toBe(10);
    expect(report(replica, 3, 10, 0, { brokerEpoch: 3 })).toBe('stale');
    expect(replica.followerEnd(3 as BrokerId)).toBe(2);
  });

  test('refuses to count what the leader never had', () => {
    expect(report(leader(), 2, 11)).toBe('beyondEnd');
  });
});

describe('the in-sync set', () => {
  test('loses a follower that has been behind for the lag time, and keeps it in the HW until then', () => {
    const replica = leader();
    report(replica, 2, 10);
    report(replica, 3, 10);
    replica.appended(at(11), 100);
    replica.synced(at(11));
    report(replica, 2, 11, 101);
    expect(replica.nextDeadlineMs()).toBe(100 + LAG_MS);
    expect(replica.proposeIsr(brokers(), 99 + LAG_MS)).toBeUndefined();
    const proposal = replica.proposeIsr(brokers(), 100 + LAG_MS);
    expect(members(proposal)).toEqual([1, 2]);
    expect(proposal?.leaving).toEqual([3]);
    expect(replica.highWatermark).toBe(10);
    if (proposal === undefined) return;
    const outcome = {
      kind: 'accepted',
      partitionEpoch: 21 as PartitionEpoch,
      isr: ids(1, 2),
      elr: [],
    } as const;
    expect(replica.isrOutcome(proposal, outcome, 101 + LAG_MS)).toBe(true);
    expect(replica.highWatermark).toBe(11);
  });

  test('keeps a follower that is caught up, however long nothing happens', () => {
    const replica = leader();
    report(replica, 2, 10);
    report(replica, 3, 10);
    expect(replica.nextDeadlineMs()).toBe(Infinity);
    expect(replica.proposeIsr(brokers(), 1e9)).toBeUndefined();
    replica.appended(at(11), 1e9);
    expect(replica.proposeIsr(brokers(), 1e9 + LAG_MS - 1)).toBeUndefined();
  });

  test('keeps one that has nothing yet while its broker takes up others, but not for ever', () => {
    const replica = leader({
      epochStartOffset: at(0),
      syncedEndOffset: at(0),
      highWatermark: at(0),
    });
    report(replica, 3, 0);
    replica.appended(at(1), 0);
    const takingUp = (tookUpMs: number) => (id: BrokerId) => ({ ...brokers()(id), tookUpMs });
    // Broker 2 has not subscribed, broker 3 has and waits for its turn to write.
    expect(replica.proposeIsr(takingUp(LAG_MS), 2 * LAG_MS - 1)).toBeUndefined();
    expect(replica.proposeIsr(takingUp(11 * LAG_MS), 12 * LAG_MS - 1)).toBeUndefined();
    expect(members(replica.proposeIsr(takingUp(12 * LAG_MS), 12 * LAG_MS))).toEqual([1]);
  });

  test('does not wait for one that has nothing when its broker takes up nothing else', () => {
    const replica = leader({
      epochStartOffset: at(0),
      syncedEndOffset: at(0),
      highWatermark: at(0),
    });
    replica.appended(at(1), 0);
    const stopped = (id: BrokerId): BrokerView => ({ ...brokers()(id), tookUpMs: 100 });
    expect(replica.proposeIsr(stopped, LAG_MS + 99)).toBeUndefined();
    expect(members(replica.proposeIsr(stopped, LAG_MS + 100))).toEqual([1]);
  });

  test('keeps a follower that trails a steady writer by less than the lag time', () => {
    const replica = leader();
    report(replica, 2, 10);
    report(replica, 3, 10);
    for (let second = 1; second <= 60; second++) {
      replica.appended(at(10 + second), second * 1000);
      report(replica, 2, 10 + second, second * 1000);
      // Always two seconds behind, never at the end of the log.
      report(replica, 3, Math.max(10, 8 + second), second * 1000);
    }
    expect(members(replica.proposeIsr(brokers(), 60_000))).toBeUndefined();
  });

  test('takes in who has all up to the HW and the start of the epoch, unless it is fenced', () => {
    const replica = leader({}, ids(1, 2));
    report(replica, 2, 10);
    expect(replica.highWatermark).toBe(10);
    report(replica, 3, 9);
    expect(replica.proposeIsr(brokers(), 1)).toBeUndefined();
    report(replica, 3, 10);
    expect(replica.proposeIsr(brokers([3]), 1)).toBeUndefined();
    report(replica, 3, 10, 1, { brokerEpoch: 31 });
    expect(replica.proposeIsr(brokers(), 1), 'another life of the broker').toBeUndefined();
    const proposal = replica.proposeIsr(
      (id) => ({ ...brokers()(id), epoch: (id === 3 ? 31 : id) as BrokerEpoch }),
      1,
    );
    expect(proposal).toMatchObject({ partitionEpoch: 20, leaderEpoch: 7, joining: [3] });
    expect(proposal?.isr[2]).toEqual({ brokerId: 3, brokerEpoch: 31 });
  });

  test('counts a growing member from the proposal on, and again not once it is refused', () => {
    const replica = leader({}, ids(1, 2));
    report(replica, 2, 10);
    report(replica, 3, 10);
    const proposal = replica.proposeIsr(brokers(), 1);
    replica.appended(at(11), 2);
    replica.synced(at(11));
    report(replica, 2, 11);
    expect(replica.highWatermark).toBe(10);
    if (proposal === undefined) throw new Error('a proposal was due');
    replica.isrOutcome(proposal, { kind: 'unknown' }, 3);
    expect(replica.pendingProposal).toBe(proposal);
    expect(replica.proposeIsr(brokers(), 3), 'one at a time').toBeUndefined();
    expect(replica.isrOutcome(proposal, { kind: 'refused' }, 4)).toBe(true);
    expect(replica.highWatermark).toBe(11);
    report(replica, 3, 11);
    expect(replica.proposeIsr(brokers(), 4)).toBeUndefined();
    expect(members(replica.proposeIsr(brokers(), 4 + PROPOSAL_PAUSE_MS))).toEqual([1, 2, 3]);
  });

  test('is what the newest image says; a late answer to a settled proposal changes nothing', () => {
    const replica = leader({}, ids(1, 2));
    report(replica, 2, 10);
    report(replica, 3, 10);
    const proposal = replica.proposeIsr(brokers(), 1);
    if (proposal === undefined) throw new Error('a proposal was due');
    replica.applyState(state(ids(1), 22), 2, 2);
    expect(replica.isr).toEqual([1]);
    expect(replica.pendingProposal).toBeUndefined();
    const late = {
      kind: 'accepted',
      partitionEpoch: 21 as PartitionEpoch,
      isr: ids(1, 2, 3),
      elr: [],
    } as const;
    expect(replica.isrOutcome(proposal, late, 3)).toBe(false);
    expect(replica.isr).toEqual([1]);
    replica.applyState(state(ids(1, 2), 19), 2, 4);
    expect(replica.isr).toEqual([1]);
  });

  test('a refusal ends only the proposal that it answers', () => {
    const replica = leader({}, ids(1, 2));
    report(replica, 2, 10);
    report(replica, 3, 10);
    const first = replica.proposeIsr(brokers(), 1);
    replica.applyState(state(ids(1, 2), 22), 2, 2);
    const second = replica.proposeIsr(brokers(), 3);
    if (first === undefined || second === undefined) throw new Error('proposals were due');
    replica.isrOutcome(first, { kind: 'refused' }, 4);
    expect(replica.pendingProposal).toBe(second);
  });

  test('a refusal after an unknown outcome settles nothing: the earlier request may still be applied', () => {
    const replica = leader({}, ids(1, 2));
    report(replica, 2, 10);
    report(replica, 3, 10);
    const growth = replica.proposeIsr(brokers(), 0);
    expect(members(growth)).toEqual([1, 2, 3]);
    if (growth === undefined) throw new Error('nothing was proposed');
    replica.isrOutcome(growth, { kind: 'doubtful' }, 0);
    replica.appended(at(20), 1);
    replica.synced(at(20));
    report(replica, 2, 20);
    expect(replica.highWatermark).toBe(10);
    // It asks again, even for the set that is in force, until the partition epoch has moved.
    expect(replica.nextDeadlineMs()).toBe(PROPOSAL_PAUSE_MS);
    const settling = replica.proposeIsr(brokers([3]), PROPOSAL_PAUSE_MS);
    expect(members(settling)).toEqual([1, 2]);
    if (settling === undefined) throw new Error('nothing was proposed');
    const epoch = 21 as PartitionEpoch;
    const accepted = { kind: 'accepted', partitionEpoch: epoch, isr: ids(1, 2), elr: [] } as const;
    expect(replica.isrOutcome(settling, accepted, PROPOSAL_PAUSE_MS)).toBe(true);
    expect(replica.highWatermark).toBe(20);
    expect(replica.nextDeadlineMs()).toBe(Infinity);
  });

  test('loses at once a follower that says that it copies no more', () => {
    const replica = leader();
    report(replica, 2, 10);
    report(replica, 3, 10);
    replica.followerLeft(3 as BrokerId);
    expect(members(replica.proposeIsr(brokers(), 1))).toEqual([1, 2]);
    expect(replica.followerEnd(3 as BrokerId)).toBeUndefined();
  });

  test('loses at once a follower that left while it was about to join', () => {
    const replica = leader({}, ids(1, 2));
    report(replica, 2, 10);
    report(replica, 3, 10);
    const joining = replica.proposeIsr(brokers(), 1);
    if (joining === undefined) throw new Error('a proposal was due');
    expect(members(joining)).toEqual([1, 2, 3]);
    replica.followerLeft(3 as BrokerId);
    replica.appended(at(12), 1);
    const accepted = { partitionEpoch: 21 as PartitionEpoch, isr: ids(1, 2, 3), elr: [] };
    replica.isrOutcome(joining, { kind: 'accepted', ...accepted }, 2);
    expect(replica.nextDeadlineMs()).toBeLessThanOrEqual(2);
    expect(members(replica.proposeIsr(brokers(), 2))).toEqual([1, 2]);
  });

  test('keeps a member that has registered anew, and drops it soon when it does not follow', () => {
    const replica = leader({}, ids(1, 2));
    report(replica, 2, 10);
    replica.restarted(2 as BrokerId, 99 as BrokerEpoch, 1_000);
    report(replica, 3, 10);
    expect(members(replica.proposeIsr(brokers([2]), 1_001))).toEqual([1, 2, 3]);
    const alone = leader({}, ids(1, 2));
    report(alone, 2, 10);
    alone.restarted(2 as BrokerId, 99 as BrokerEpoch, 1_000);
    expect(alone.proposeIsr(brokers(), 1_000 + RESTART_GRACE_MS - 1)).toBeUndefined();
    expect(members(alone.proposeIsr(brokers(), 1_000 + RESTART_GRACE_MS))).toEqual([1]);
  });

  test('drops a member soon that was fenced when all were gone, and does not come back', () => {
    const replica = leader({}, ids(1, 2, 3));
    report(replica, 2, 10);
    expect(replica.proposeIsr(brokers([3]), 0)).toBeUndefined();
    expect(members(replica.proposeIsr(brokers([3]), RESTART_GRACE_MS))).toEqual([1, 2]);
  });

  test('drops a member that comes back without committed records, and says so', () => {
    const replica = leader({ highWatermark: at(10) }, ids(1, 2, 3));
    report(replica, 2, 10);
    report(replica, 3, 10);
    expect(report(replica, 3, 9)).toBe('lostRecords');
    expect(members(replica.proposeIsr(brokers(), 1))).toEqual([1, 2]);
  });

  test('is not joined by a replica whose log cannot be used', () => {
    const replica = leader({}, ids(1, 2));
    report(replica, 2, 10);
    report(replica, 3, 10);
    replica.applyState({ ...state(ids(1, 2), 21), offline: ids(3) }, 2, 1);
    expect(replica.proposeIsr(brokers(), 1)).toBeUndefined();
    replica.applyState(state(ids(1, 2), 22), 2, 1);
    expect(members(replica.proposeIsr(brokers(), 1))).toEqual([1, 2, 3]);
  });

  test('acknowledges nothing while others might be elected who know nothing of it', () => {
    const replica = leader({ minIsr: 1 }, ids(1));
    replica.applyState({ ...state(ids(1), 21), elr: ids(2) }, 1, 1);
    expect(replica.hasEnoughInSync).toBe(false);
    replica.appended(at(11), 2);
    expect(replica.synced(at(11))).toBe(false);
    expect(replica.applyState(state(ids(1), 22), 1, 3)).toBe(true);
    expect(replica.highWatermark).toBe(11);
  });

  test('follows a change of the replicas', () => {
    const replica = leader();
    report(replica, 2, 10);
    const next = { ...state(ids(1, 2), 21), replicas: ids(1, 2, 4) };
    expect(replica.applyState(next, 2, 1)).toBe(true);
    expect(replica.highWatermark).toBe(10);
    expect(report(replica, 3, 10)).toBe('stale');
    expect(report(replica, 4, 10)).toBe('held');
  });

  test('has the leader in it, or the image is wrong', () => {
    expect(() => leader({}, ids(2, 3))).toThrow('the leader is in its in-sync set');
  });
});
