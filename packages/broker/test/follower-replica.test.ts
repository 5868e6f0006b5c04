import type { ErrorCode } from '@relevo/base/errors';
import type { LeaderEpoch, Offset } from '@relevo/base/ids';
import {
  FollowerReplica,
  REFUSED_RETRY_MAX_MS,
  REFUSED_RETRY_MIN_MS,
  SUBSCRIPTION_TIMEOUT_MS,
} from '@relevo/broker/follower-replica';
import type { LeaderStatement } from '@relevo/broker/follower-replica';
import { judgePosition, truncationPoint } from '@relevo/broker/divergence';
import { describe, expect, test } from 'vitest';
import { ToyLog } from './toy-cluster.ts';

const at = (offset: number): Offset => offset as Offset;
const EPOCH = 5 as LeaderEpoch;

/** A log by its epochs: `[1, 1, 4]` has two records of epoch 1 and one of epoch 4. */
function logOf(...epochs: number[]): ToyLog {
  const log = new ToyLog();
  log.entries = epochs.map((epoch, value) => ({ epoch: epoch as LeaderEpoch, value }));
  log.sync();
  return log;
}

const statement = (change: Partial<LeaderStatement> = {}): LeaderStatement => ({
  leaderEpoch: EPOCH,
  error: 'NONE',
  highWatermark: at(0),
  logStartOffset: at(0),
  diverging: undefined,
  hasBatches: false,
  ...change,
});

function follower(log: ToyLog, highWatermark = 0, committedMayBeLost = false): FollowerReplica {
  return new FollowerReplica({
    leaderEpoch: EPOCH,
    highWatermark: at(highWatermark),
    syncedEndOffset: at(log.syncedEnd),
    committedMayBeLost,
  });
}

function subscribed(log: ToyLog, highWatermark = 0, committedMayBeLost = false): FollowerReplica {
  const replica = follower(log, highWatermark, committedMayBeLost);
  replica.attach();
  replica.prepared(log, 0);
  return replica;
}

describe('a follower', () => {
  test('makes its log durable before it states where it ends', () => {
    const log = logOf(1, 1);
    const replica = follower(log);
    expect(replica.attach()).toEqual({ kind: 'sync' });
    expect(replica.phase).toBe('preparing');
    expect(replica.prepared(log, 0)).toMatchObject({
      kind: 'subscribe',
      position: { lastEpoch: 1 },
    });
    expect(replica.phase).toBe('subscribing');
    expect(replica.receive(statement({ hasBatches: true }), log, 1)).toEqual({ kind: 'append' });
    expect(replica.phase).toBe('following');
  });

  test('knows as committed what the leader says is, and it has on disk itself', () => {
    const log = logOf(1, 1, 1);
    const replica = subscribed(log);
    replica.receive(statement({ highWatermark: at(2) }), log, 1);
    expect(replica.highWatermark).toBe(2);
    replica.receive(statement({ highWatermark: at(9), hasBatches: true }), log, 1);
    expect(replica.highWatermark).toBe(3);
    expect(replica.synced(at(7))).toBe(true);
    expect(replica.highWatermark).toBe(7);
    replica.receive(statement({ highWatermark: at(5) }), log, 1);
    expect(replica.highWatermark).toBe(7);
  });

  test('truncates on a diverging answer and ignores the rest of it', () => {
    const log = logOf(1, 1, 4, 4);
    const replica = subscribed(log);
    const diverging = { epoch: 1 as LeaderEpoch, endOffset: at(3) };
    const said = statement({ diverging, highWatermark: at(3), hasBatches: true });
    expect(replica.receive(said, log, 1)).toEqual({ kind: 'truncate', to: 2 });
    expect(replica.highWatermark).toBe(0);
    expect(replica.receive(statement({ hasBatches: true }), log, 2)).toEqual({ kind: 'none' });
    log.truncate(2);
    expect(replica.truncated(at(2))).toEqual({ kind: 'sync' });
    expect(replica.prepared(log, 3)).toMatchObject({ kind: 'subscribe' });
  });

  test('does not blame a leader that has all committed records: its own epochs are damaged', () => {
    const log = logOf(1, 1, 4, 4);
    const said = statement({ diverging: { epoch: 1 as LeaderEpoch, endOffset: at(4) } });
    const replica = subscribed(log, 3);
    const own = { kind: 'ownDamage', at: 2, highWatermark: 3 };
    expect(replica.receive(said, log, 1)).toEqual(own);
    expect(replica.phase).toBe('stopped');
  });

  test('never truncates below its high watermark: it gives up, for the leader has lost records', () => {
    const log = logOf(1, 1, 4, 4);
    const said = statement({ diverging: { epoch: 1 as LeaderEpoch, endOffset: at(2) } });
    const replica = subscribed(log, 3);
    const lacks = { kind: 'leaderLacks', to: 2, highWatermark: 3 };
    expect(replica.receive(said, log, 1)).toEqual(lacks);
    expect([replica.phase, replica.highWatermark]).toEqual(['stopped', 3]);
    expect(replica.receive(said, log, 2)).toEqual({ kind: 'none' });
    const empty = statement({ error: 'OFFSET_OUT_OF_RANGE', logStartOffset: at(0) });
    expect(subscribed(log, 3).receive(empty, log, 1)).toEqual({ ...lacks, to: 0 });
    expect(subscribed(log, 2).receive(said, log, 1)).toEqual({ kind: 'truncate', to: 2 });
  });

  test('gives committed records up only after an unclean election', () => {
    const log = logOf(1, 1, 4, 4);
    const said = statement({ diverging: { epoch: 1 as LeaderEpoch, endOffset: at(2) } });
    const replica = subscribed(log, 3, true);
    expect(replica.receive(said, log, 1)).toEqual({ kind: 'truncate', to: 2 });
    expect(replica.highWatermark).toBe(2);
  });

  test('begins anew where the leader has nothing so old any more', () => {
    const log = logOf(1, 1);
    const replica = subscribed(log, 2);
    const said = statement({ error: 'OFFSET_OUT_OF_RANGE', logStartOffset: at(50) });
    expect(replica.receive(said, log, 1)).toEqual({ kind: 'restart', at: 50 });
    expect(replica.truncated(at(50))).toEqual({ kind: 'sync' });
  });

  test('asks again after a refusal, at growing intervals, and after silence', () => {
    const log = logOf(1);
    const replica = subscribed(log);
    expect(replica.deadlineMs).toBe(SUBSCRIPTION_TIMEOUT_MS);
    expect(replica.deadline(SUBSCRIPTION_TIMEOUT_MS)).toEqual({ kind: 'sync' });
    let now = SUBSCRIPTION_TIMEOUT_MS;
    const waits: number[] = [];
    for (let refusals = 0; refusals < 9; refusals++) {
      replica.prepared(log, now);
      replica.receive(statement({ error: 'NOT_LEADER_OR_FOLLOWER' }), log, now);
      expect(replica.phase).toBe('refused');
      waits.push(replica.deadlineMs - now);
      now = replica.deadlineMs;
      expect(replica.deadline(now - 1)).toEqual({ kind: 'none' });
      expect(replica.deadline(now)).toEqual({ kind: 'sync' });
    }
    expect(waits[0]).toBe(REFUSED_RETRY_MIN_MS);
    expect(waits.at(-1)).toBe(REFUSED_RETRY_MAX_MS);
  });

  test('subscribes anew after an append that failed: the rest of the stream would leave a gap', () => {
    const log = logOf(1);
    const replica = subscribed(log);
    expect(replica.receive(statement({ hasBatches: true }), log, 1)).toEqual({ kind: 'append' });
    replica.appendFailed(1);
    expect(replica.receive(statement({ hasBatches: true }), log, 2)).toEqual({ kind: 'none' });
    expect(replica.deadline(replica.deadlineMs)).toEqual({ kind: 'sync' });
    replica.stop();
    replica.appendFailed(3);
    expect(replica.phase).toBe('stopped');
  });

  test('does not hear statements of another epoch, nor any once it is detached or stopped', () => {
    const log = logOf(1);
    const replica = subscribed(log);
    const old = statement({
      leaderEpoch: 4 as LeaderEpoch,
      highWatermark: at(1),
      hasBatches: true,
    });
    expect(replica.receive(old, log, 1)).toEqual({ kind: 'none' });
    expect(replica.phase).toBe('subscribing');
    replica.detach();
    expect(replica.receive(statement({ hasBatches: true }), log, 1)).toEqual({ kind: 'none' });
    replica.attach();
    replica.stop();
    expect(() => replica.attach()).toThrow('attach only when detached');
    expect(replica.receive(statement({ hasBatches: true }), log, 1)).toEqual({ kind: 'none' });
  });
});

const REFUSALS: readonly ErrorCode[] = [
  'FENCED_LEADER_EPOCH',
  'UNKNOWN_LEADER_EPOCH',
  'UNKNOWN_TOPIC_OR_PARTITION',
  'STALE_BROKER_EPOCH',
  'STORAGE_ERROR',
];

test.each(REFUSALS)('%s changes nothing in the log', (error) => {
  const log = logOf(1);
  const replica = subscribed(log);
  const said = statement({ error, highWatermark: at(1), hasBatches: true });
  expect(replica.receive(said, log, 1)).toEqual({ kind: 'none' });
  expect(replica.highWatermark).toBe(0);
});

describe('two logs part ways', () => {
  /** How the walk back ends: the follower's log once it is a prefix of the leader's. */
  function walkBack(leader: ToyLog, mine: ToyLog): number {
    for (let round = 0; round < 20; round++) {
      const verdict = judgePosition(leader, mine);
      if (verdict.kind === 'prefix') return mine.endOffset;
      if (verdict.kind === 'outOfRange') return -1;
      mine.truncate(truncationPoint(mine, verdict.from));
    }
    throw new Error('the walk back does not end');
  }

  test.each([
    ['nothing to cut', [1, 1, 2], [1, 1], 2],
    ['the same log', [1, 1, 2], [1, 1, 2], 3],
    ['a longer tail of the same epoch', [1, 1], [1, 1, 1, 1], 2],
    ['a tail of an epoch that the leader never had', [1, 1, 3], [1, 1, 2, 2], 2],
    ['KIP-279: fast elections left interleaved epochs', [1, 1, 3, 3, 6], [1, 1, 2, 4, 4, 5], 2],
    ['nothing in common', [3, 3], [1, 1, 1], 0],
    ['an empty leader', [], [1, 1], 0],
    ['an empty follower', [1, 1], [], 0],
  ])('%s', (_, leaderEpochs, followerEpochs, expected) => {
    expect(walkBack(logOf(...leaderEpochs), logOf(...followerEpochs))).toBe(expected);
  });
});
