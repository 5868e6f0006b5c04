import { describe, expect, test } from 'vitest';
import type { RegisterBroker } from '@relevo/controller/commands';
import { leadershipsToMove } from '@relevo/controller/broker-commands';
import { decide } from '@relevo/controller/decide';
import { isEligible } from '@relevo/controller/image';
import { violationsOf } from '@relevo/controller/invariants';
import { replay } from '@relevo/controller/replay';
import { logIndex, term } from '@relevo/base/ids';
import { Cluster, DEFAULTS, id, ids, registration } from './cluster.ts';

const three = (): Cluster => new Cluster().start(1, 2, 3);
const onAll = { assignment: [ids(1, 2, 3)] };

describe('registration', () => {
  test('a new broker is fenced until it is unfenced, under an epoch that nobody else had', () => {
    const cluster = new Cluster();
    expect(cluster.register(1)).toBe(1);
    expect(cluster.register(2)).toBe(2);
    expect(isEligible(cluster.image, id(1))).toBe(false);
    expect(cluster.unfence(1)).toBe(true);
    expect(cluster.unfence(1)).toBe(false);
    expect(isEligible(cluster.image, id(1))).toBe(true);
  });

  test('the same incarnation gets the same epoch again, and nothing is written', () => {
    const cluster = three();
    const entries = cluster.log.length;
    expect(cluster.register(2)).toBe(cluster.epoch(2));
    expect(cluster.log.length).toBe(entries);
    expect(isEligible(cluster.image, id(2))).toBe(true);
  });

  test('another incarnation is refused while the first is alive, and takes over when it is gone', () => {
    const cluster = three();
    const other = registration(2, { incarnationId: 'another' });
    expect(cluster.refusal(other)).toBe('DUPLICATE_BROKER_REGISTRATION');
    expect(cluster.run({ ...other, predecessorGone: true }).brokerEpoch).toBe(4);
    expect(cluster.image.brokers.get(id(2))?.fenced).toBe(true);
  });

  describe('with an older copy of its data directory', () => {
    const start = (number: number): string => `${number}.${String(number).padStart(22, 'i')}`;
    const starts = (...numbers: number[]): Partial<RegisterBroker> => ({
      incarnationId: start(numbers.at(-1) ?? 0),
      incarnations: numbers.map(start),
      predecessorGone: true,
    });

    test('is refused: the directory does not know of the start that was registered last', () => {
      const cluster = three();
      cluster.run(registration(1, starts(1, 2, 3)));
      const own = `3.${'o'.repeat(22)}`;
      const older = {
        ...starts(1, 2),
        incarnationId: own,
        incarnations: [start(1), start(2), own],
      };
      expect(cluster.refusal(registration(1, older))).toBe('OLDER_DATA_DIRECTORY');
      expect(cluster.refusal(registration(1, starts(1, 2)))).toBe('OLDER_DATA_DIRECTORY');
    });

    test('is let in after starts that were noted and never registered', () => {
      const cluster = three();
      cluster.run(registration(1, starts(1, 2, 3)));
      cluster.run(registration(1, starts(1, 2, 3, 4, 5, 6)));
      // So many that the one which was registered last is not named any more.
      expect(cluster.run(registration(1, starts(207, 208))).brokerEpoch).toBeGreaterThan(5);
    });

    test('is let in where the disk is another one, or was registered by an older version', () => {
      const cluster = three();
      cluster.run(registration(1, starts(1, 2)));
      cluster.run(registration(2, starts(1, 2, 3)));
      cluster.run(registration(2, { ...starts(1), directoryId: 'a new disk' }));
    });
  });

  test('a broker of another cluster is refused', () => {
    expect(three().refusal(registration(4, { clusterId: 'other' }))).toBe(
      'INCONSISTENT_CLUSTER_ID',
    );
  });

  test('a broker that restarts gives leadership up in the same decision, and stays in sync: it lost nothing', () => {
    const cluster = three();
    cluster.create('t', onAll);
    cluster.restart(1);
    expect(cluster.show('t')).toBe('1 2* 3 e1 v1');
    expect(cluster.log.at(-1)?.map((record) => record.kind)).toEqual([
      'partitionChange',
      'brokerRegistration',
    ]);
  });

  test('a broker that crashed and fsyncs late leaves in-sync sets in the same decision (K8)', () => {
    const cluster = three();
    cluster.create('t', { ...onAll, config: new Map([['flush.mode', 'os']]) });
    cluster.restart(1);
    expect(cluster.show('t')).toBe('(1) 2* 3 e1 v1');
    cluster.restart(2, { nothingLost: true });
    expect(cluster.show('t')).toBe('(1) 2 3* e2 v2');
  });

  test('after a restart of the whole cluster every healthy member of the in-sync set may lead', () => {
    for (const damaged of [[3], [2], [1], [1, 2], [2, 3], [3, 1]]) {
      const cluster = three();
      cluster.create('t', onAll);
      for (const broker of [1, 2, 3]) cluster.restart(broker);
      expect(cluster.partition('t').isr).toEqual(ids(1, 2, 3));
      for (const broker of [1, 2, 3]) cluster.unfence(broker);
      for (const broker of damaged) cluster.report('t', broker);
      const { leader, isr, uncleanEpoch } = cluster.partition('t');
      expect(damaged).not.toContain(leader);
      expect(isr.filter((member) => damaged.includes(member))).toEqual([]);
      expect(leader).toBeGreaterThan(0);
      expect(uncleanEpoch).toBe(-1);
    }
  });

  test('a broker that registered and was heard of no more is waited for no longer', () => {
    const cluster = three();
    cluster.create('t', onAll);
    cluster.restart(1);
    expect(cluster.fence(1)).toBe(true);
    expect(cluster.show('t')).toBe('(1) 2* 3 e1 v2');
    expect(cluster.fence(1)).toBe(false);
  });

  test('the last one in sync stays in the set, and leads again once it is back', () => {
    const cluster = three();
    cluster.create('t', onAll);
    cluster.fence(2);
    cluster.fence(3);
    cluster.register(1, { incarnationId: 'second', predecessorGone: true, nothingLost: false });
    expect(cluster.show('t')).toBe('1 (2) [3] e1 v3');
    cluster.unfence(2);
    expect(cluster.show('t')).toBe('1 (2) [3] e1 v3');
    cluster.unfence(1);
    expect(cluster.show('t')).toBe('1* (2) [3] e2 v4');
  });

  test('the last one in sync that crashed leads as after an unclean election, where nothing was fsynced', () => {
    for (const [flush, uncleanEpoch] of [
      ['sync', -1],
      ['os', 2],
    ] as const) {
      const cluster = three();
      const config = new Map([
        ['flush.mode', flush],
        ['min.insync.replicas', '1'],
      ]);
      cluster.create('t', { ...onAll, config });
      cluster.create('u', { ...onAll, config });
      expect(cluster.propose('t', [1])).toBe('NONE');
      cluster.fence(1);
      cluster.register(1, { incarnationId: 'second', predecessorGone: true, nothingLost: false });
      cluster.unfence(1);
      expect(cluster.partition('t')).toMatchObject({ leader: 1, isr: [1], uncleanEpoch });
      expect(cluster.partition('u')).toMatchObject({ isr: [2, 3], uncleanEpoch: -1 });
    }
  });

  test('the last one in sync that comes back with another disk does not lead: its copy is gone', () => {
    const cluster = three();
    cluster.create('t', onAll);
    cluster.fence(2);
    cluster.fence(3);
    const wiped = { incarnationId: 'second', directoryId: 'new disk', predecessorGone: true };
    cluster.register(1, wiped);
    cluster.unfence(1);
    cluster.unfence(2);
    expect(cluster.show('t')).toBe('(1) (2) [3] e1 v3');
    const set = new Map([['unclean.leader.election.enable', 'true']]);
    cluster.run({ kind: 'alterTopicConfig', topic: 't', set, unset: [] });
    expect(cluster.show('t')).toBe('1* (2) (3) e2 v4');
    expect(cluster.partition('t').uncleanEpoch).toBe(2);
  });

  test('where the last one in sync lost its disk, one that has all that was acknowledged leads', () => {
    const cluster = three();
    cluster.create('t', onAll);
    cluster.fence(2);
    cluster.fence(3);
    cluster.restart(1, { directoryId: 'new disk' });
    cluster.unfence(3);
    expect(cluster.show('t')).toBe('(1) (2) 3* e2 v4');
    expect(cluster.partition('t').uncleanEpoch).toBe(-1);
  });
});

describe('fencing', () => {
  test('moves every leadership and shrinks every in-sync set, in one decision', () => {
    const cluster = three();
    cluster.create('t', onAll);
    cluster.create('u', { assignment: [ids(2, 3, 1)] });
    cluster.fence(1);
    expect(cluster.show('t')).toBe('(1) 2* 3 e1 v1');
    expect(cluster.show('u')).toBe('2* 3 (1) e0 v1');
    cluster.fence(2);
    expect(cluster.show('t')).toBe('(1) [2] 3* e2 v2');
    cluster.fence(3);
    expect(cluster.show('t')).toBe('(1) [2] 3 e3 v3');
    expect(cluster.image.brokers.get(id(3))?.fenced).toBe(true);
  });

  test('of several at once leaves all of them as whole as they were', () => {
    const cluster = three();
    cluster.create('t', onAll);
    cluster.fence(1, 2);
    expect(cluster.show('t')).toBe('[1] [2] 3* e1 v1');
    cluster.report('t', 3);
    cluster.report('t', 2);
    cluster.unfence(1);
    expect(cluster.show('t')).toBe('1* (2!) (3!) e3 v4');
    expect(cluster.partition('t').uncleanEpoch).toBe(-1);
  });

  test('of the one member that may serve leaves the in-sync set as it is: nobody leads', () => {
    const cluster = three();
    cluster.create('t', onAll);
    cluster.restart(1);
    cluster.restart(2);
    cluster.fence(3);
    expect(cluster.show('t')).toBe('1 2 3 e3 v3');
    cluster.unfence(2);
    expect(cluster.show('t')).toBe('1 2* 3 e4 v4');
  });

  test('a broker that comes back is not in sync, and leads only what waited for it', () => {
    const cluster = three();
    cluster.create('t', onAll);
    cluster.create('alone', { assignment: [ids(1)] });
    cluster.fence(1);
    expect(cluster.show('alone')).toBe('1 e1 v1');
    cluster.unfence(1);
    expect(cluster.show('t')).toBe('(1) 2* 3 e1 v1');
    expect(cluster.show('alone')).toBe('1* e2 v2');
  });

  test('of an epoch that has passed changes nothing', () => {
    const cluster = three();
    const stale = { kind: 'fenceBrokers', brokers: [cluster.named(1)] } as const;
    cluster.register(1, { incarnationId: 'second', predecessorGone: true });
    cluster.unfence(1);
    expect(cluster.run(stale).changed).toBe(false);
    expect(isEligible(cluster.image, id(1))).toBe(true);
  });

  test('an unclean election follows at once where it is allowed', () => {
    const cluster = three();
    const config = new Map([
      ['unclean.leader.election.enable', 'true'],
      ['min.insync.replicas', '1'],
    ]);
    cluster.create('t', { ...onAll, config });
    expect(cluster.propose('t', [1])).toBe('NONE');
    cluster.fence(1);
    expect(cluster.show('t')).toBe('(1) 2* (3) e1 v2');
    expect(cluster.partition('t').uncleanEpoch).toBe(1);
  });
});

describe('controlled shutdown', () => {
  test('leadership moves, the broker leaves the in-sync sets, and may go', () => {
    const cluster = three();
    cluster.create('t', onAll);
    cluster.create('u', { assignment: [ids(2, 1, 3)] });
    cluster.shutDown(1);
    expect(cluster.show('t')).toBe('(1) 2* 3 e1 v1');
    expect(cluster.show('u')).toBe('2* (1) 3 e0 v1');
    expect(leadershipsToMove(cluster.image, id(1))).toBe(0);
    expect(cluster.shutDown(1)).toBe(false);
  });

  test('where nobody else is in sync it leads on, until somebody is', () => {
    const cluster = three();
    cluster.create('t', onAll);
    expect(cluster.propose('t', [1])).toBe('NONE');
    cluster.shutDown(1);
    expect(cluster.show('t')).toBe('1* [2] [3] e0 v1');
    expect(leadershipsToMove(cluster.image, id(1))).toBe(1);
    expect(cluster.propose('t', [1, 3])).toBe('NEW_LEADER_ELECTED');
    expect(cluster.show('t')).toBe('1 (2) 3* e1 v2');
    cluster.shutDown(1);
    expect(cluster.show('t')).toBe('[1] (2) 3* e1 v3');
    expect(leadershipsToMove(cluster.image, id(1))).toBe(0);
  });

  test('what nobody else could lead does not hold it up', () => {
    const cluster = three();
    cluster.create('alone', { assignment: [ids(1)] });
    cluster.shutDown(1);
    expect(cluster.show('alone')).toBe('1* e0 v0');
    expect(leadershipsToMove(cluster.image, id(1))).toBe(0);
    cluster.fence(1);
    expect(cluster.show('alone')).toBe('1 e1 v1');
  });
});

describe('a decision that was cut off in the middle', () => {
  test('every prefix keeps the invariants, and the next controller finishes', () => {
    const cluster = three();
    for (const name of ['a', 'b', 'c', 'd']) cluster.create(name, { partitions: 3 });
    cluster.create('alone', { assignment: [ids(1), ids(1)] });
    const fence = decide(
      cluster.image,
      { kind: 'fenceBrokers', brokers: [cluster.named(1)] },
      DEFAULTS,
    );
    cluster.fence(1);
    const unfence = decide(cluster.image, { kind: 'unfenceBroker', ...cluster.named(1) }, DEFAULTS);
    expect(unfence.records.length).toBe(3);
    for (const { from, records } of [
      { from: three0(), records: fence.records },
      { from: cluster.image, records: unfence.records },
    ]) {
      for (let cut = 0; cut <= records.length; cut++) {
        const at = { index: logIndex(from.index + 1), term: term(1) };
        expect(violationsOf(replay(from, records.slice(0, cut), at).image)).toEqual([]);
      }
    }
    cluster.apply(unfence.records.slice(0, 1));
    expect(cluster.partition('alone', 1).leader).toBe(-1);
    cluster.run({ kind: 'activate', clusterId: 'test' });
    expect(cluster.partition('alone', 1).leader).toBe(1);

    function three0(): typeof cluster.image {
      const again = three();
      for (const name of ['a', 'b', 'c', 'd']) again.create(name, { partitions: 3 });
      again.create('alone', { assignment: [ids(1), ids(1)] });
      return again.image;
    }
  });

  test('a controller of another cluster does not start on this log', () => {
    expect(three().refusal({ kind: 'activate', clusterId: 'other' })).toBe(
      'INCONSISTENT_CLUSTER_ID',
    );
  });
});
