import { brokerId } from '@relevo/base/ids';
import { RelevoError } from '@relevo/base/errors';
import { describe, expect, test } from 'vitest';
import { DEFAULT_RAFT_OPTIONS } from '@relevo/raft/options';
import { DEFAULT_LINK } from '@relevo/simulation/simulated-network';
import { METADATA, QuorumWorld } from './quorum-world.ts';
import type { Voter } from './quorum-world.ts';

const range = (count: number, name = 'p'): string[] =>
  Array.from({ length: count }, (_, at) => `${name}${at}`);

const codeOf = async (call: Promise<unknown>): Promise<string> => {
  try {
    await call;
    return 'fulfilled';
  } catch (error) {
    return error instanceof RelevoError ? error.code : String(error);
  }
};

/** Proposes one after the other; returns what was acknowledged before the first error. */
async function produce(
  world: QuorumWorld,
  leader: Voter,
  texts: readonly string[],
): Promise<string[]> {
  const done: string[] = [];
  await Promise.all(
    texts.map((text) =>
      world.propose(leader, text).then(
        () => done.push(text),
        () => undefined,
      ),
    ),
  );
  return done;
}

describe('a quorum of three', () => {
  test('elects a leader soon after the start, and all apply what it proposes', async () => {
    const it = new QuorumWorld([1, 2, 3]);
    await it.world.run(async () => {
      await it.boot(1, 2, 3);
      const startedMs = it.world.nowMs;
      const leader = await it.untilLed();
      expect(it.world.nowMs - startedMs).toBeLessThan(400);
      const texts = range(100);
      expect(await produce(it, leader, texts)).toHaveLength(100);
      expect(leader.applied.map(({ text }) => text)).toEqual(texts);
      await it.untilEqual(texts);
      expect(leader.leaderships.at(-1)).toMatchObject({ isLeader: true, leaderId: leader.id });
    });
  });

  test('a follower takes no proposals and no reads, and says who leads', async () => {
    const it = new QuorumWorld([1, 2, 3]);
    await it.world.run(async () => {
      await it.boot(1, 2, 3);
      const leader = await it.untilLed();
      const follower = it.voter(leader.id === 1 ? 2 : 1);
      await it.until('it is known', () => follower.live.status().leaderId === leader.id);
      expect(await codeOf(it.propose(follower, 'x'))).toBe('NOT_CONTROLLER');
      expect(await codeOf(follower.live.readBarrier())).toBe('NOT_CONTROLLER');
      expect(follower.live.status().leaderAddress).toBe(`node-${leader.id}:1`);
    });
  });

  test('a killed leader is replaced within 300 ms, and nothing acknowledged is lost', async () => {
    const timesMs: number[] = [];
    for (let seed = 1; seed <= 12; seed++) {
      const it = new QuorumWorld([1, 2, 3], {}, { seed });
      await it.world.run(async () => {
        await it.boot(1, 2, 3);
        const old = await it.untilLed();
        const texts = await produce(it, old, range(20));
        const killedMs = it.world.nowMs;
        await old.process.kill({ unsynced: 'lose' });
        const leader = await it.untilLed();
        timesMs.push(it.world.nowMs - killedMs);
        texts.push(...(await produce(it, leader, range(20, 'q'))));
        expect(texts).toHaveLength(40);
        await it.boot(old.id);
        await it.untilEqual(texts);
      });
    }
    timesMs.sort((a, b) => a - b);
    expect(timesMs[6], 'median').toBeLessThan(120);
    expect(timesMs.at(-1), 'worst').toBeLessThan(500);
  });

  test('a frozen leader is replaced, finds out when it thaws, and answers nothing', async () => {
    const it = new QuorumWorld([1, 2, 3]);
    await it.world.run(async () => {
      await it.boot(1, 2, 3);
      const old = await it.untilLed();
      const [first = ''] = await produce(it, old, ['before']);
      old.process.pause();
      const lost = codeOf(it.propose(old, 'never'));
      const barrier = codeOf(old.live.readBarrier());
      await it.until('another leads', () => (it.leader() ?? old) !== old, 3000);
      const leader = await it.untilLed();
      const texts = [first, ...(await produce(it, leader, range(5, 'after')))];
      old.process.resume();
      expect(await lost).toBe('NOT_CONTROLLER');
      expect(await barrier).toBe('NOT_CONTROLLER');
      await it.untilEqual(texts);
      expect(old.live.status().isLeader).toBe(false);
    });
  });

  test('the whole cluster loses its power under load; every acknowledged entry is there', async () => {
    for (let seed = 1; seed <= 6; seed++) {
      const it = new QuorumWorld([1, 2, 3], { snapshotEntries: 30 }, { seed });
      await it.world.run(async () => {
        await it.boot(1, 2, 3);
        const acked: string[] = [];
        for (let round = 0; round < 3; round++) {
          const leader = await it.untilLed();
          for (const text of range(50, `r${round}-`)) {
            it.propose(leader, text).then(
              () => acked.push(text),
              () => undefined,
            );
            if (text.endsWith('7')) await it.world.sleep(3);
          }
          await Promise.all([1, 2, 3].map((id) => it.voter(id).process.kill({ unsynced: 'lose' })));
          await it.boot(1, 2, 3);
        }
        await it.untilLed();
        expect(acked.length).toBeGreaterThan(20);
        await it.untilEqual(acked);
      });
    }
  });

  test('reads wait for what was committed before them, and fail where nobody listens', async () => {
    const it = new QuorumWorld([1, 2, 3]);
    await it.world.run(async () => {
      await it.boot(1, 2, 3);
      const leader = await it.untilLed();
      await Promise.all([it.propose(leader, 'a'), leader.live.readBarrier()]);
      const before = leader.appliedIndex;
      await leader.live.readBarrier();
      expect(leader.appliedIndex).toBeGreaterThanOrEqual(before);
      const others = [1, 2, 3].filter((id) => id !== leader.id).map((id) => `node-${id}`);
      it.world.network.partition([`node-${leader.id}`], others);
      expect(await codeOf(leader.live.readBarrier())).toBe('NOT_CONTROLLER');
      expect(leader.live.status().isLeader).toBe(false);
    });
  });

  test('leadership is handed over without an election timeout', async () => {
    const it = new QuorumWorld([1, 2, 3]);
    await it.world.run(async () => {
      await it.boot(1, 2, 3);
      const old = await it.untilLed();
      await produce(it, old, range(10));
      const target = it.voter(old.id === 3 ? 2 : 3);
      const startMs = it.world.nowMs;
      await old.live.transferLeadership(brokerId(target.id));
      await it.until('the target leads', () => it.leader() === target);
      expect(it.world.nowMs - startMs).toBeLessThan(50);
      expect(await codeOf(old.live.transferLeadership())).toBe('NOT_CONTROLLER');
      expect(await codeOf(target.live.transferLeadership(brokerId(9)))).toBe('INVALID_REQUEST');
    });
  });

  test('one of three is cut off and comes back by a snapshot, the log having been trimmed', async () => {
    const it = new QuorumWorld([1, 2, 3], { snapshotEntries: 100 });
    await it.world.run(async () => {
      await it.boot(1, 2, 3);
      const leader = await it.untilLed();
      const away = it.voter(leader.id === 3 ? 2 : 3);
      await away.process.kill({ unsynced: 'keep' });
      const texts: string[] = [];
      for (let round = 0; round < 15; round++) {
        texts.push(...(await produce(it, leader, range(100, `r${round}-`))));
      }
      await it.boot(away.id);
      await it.untilEqual(texts);
      expect(away.restores).toBe(1);
      const files = leader.process.disk.list(METADATA).map(({ name }) => name);
      expect(files.filter((name) => name.endsWith('.checkpoint'))).toHaveLength(1);
      // And from its own snapshot.
      await away.process.kill({ unsynced: 'lose' });
      await it.boot(away.id);
      expect(away.restores).toBe(2);
      await it.untilEqual(texts);
    });
  });

  test('a snapshot larger than a message goes in pieces', async () => {
    const it = new QuorumWorld([1, 2, 3], { snapshotEntries: 400 });
    await it.world.run(async () => {
      await it.boot(1, 2, 3);
      const leader = await it.untilLed();
      const away = it.voter(leader.id === 3 ? 2 : 3);
      await away.process.kill({ unsynced: 'keep' });
      const texts = range(24).map((name) => name + 'x'.repeat(512 * 1024));
      for (const text of texts) await it.propose(leader, text);
      // So many that the log in memory does not reach back.
      for (let round = 0; round < 18; round++) {
        texts.push(...(await produce(it, leader, range(100, `r${round}-`))));
      }
      await it.boot(away.id);
      await it.untilEqual(texts);
      expect(away.restores).toBe(1);
    });
  });

  test('a snapshot that takes longer than its timeout arrives, as long as it goes on', async () => {
    const it = new QuorumWorld([1, 2, 3], { snapshotEntries: 400 });
    await it.world.run(async () => {
      await it.boot(1, 2, 3);
      const leader = await it.untilLed();
      const away = it.voter(leader.id === 3 ? 2 : 3);
      await away.process.kill({ unsynced: 'keep' });
      const texts = range(24).map((name) => name + 'x'.repeat(512 * 1024));
      for (const text of texts) await it.propose(leader, text);
      for (let round = 0; round < 18; round++) {
        texts.push(...(await produce(it, leader, range(100, `r${round}-`))));
      }
      it.world.network.setProfile({ ...DEFAULT_LINK, bytesPerMs: 600 });
      const startMs = it.world.nowMs;
      await it.boot(away.id);
      await it.until('it has the snapshot', () => away.restores > 0, 60_000);
      expect(it.world.nowMs - startMs).toBeGreaterThan(DEFAULT_RAFT_OPTIONS.snapshotTimeoutMs);
      it.world.network.setProfile(DEFAULT_LINK);
      await it.untilEqual(texts);
      expect(away.restores).toBe(1);
    });
  });

  test('a voter whose disk was wiped is exchanged for the new one', async () => {
    const it = new QuorumWorld([1, 2, 3]);
    await it.world.run(async () => {
      await it.boot(1, 2, 3);
      const leader = await it.untilLed();
      const texts = await produce(it, leader, range(10));
      const wiped = it.voter(leader.id === 3 ? 2 : 3);
      await wiped.process.kill({ unsynced: 'lose' });
      wiped.process.disk.wipe();
      wiped.generation++;
      await it.boot(wiped.id);
      const newId = (): string =>
        leader.live.status().configuration.voters.find(({ id }) => id === wiped.id)?.directoryId ??
        '';
      const oldId = newId();
      await it.until('the new disk votes', () => newId() !== '' && newId() !== oldId, 10_000);
      texts.push(...(await produce(it, leader, range(10, 'q'))));
      await it.untilEqual(texts);
      // It counts: the third may go.
      const third = [1, 2, 3].find((id) => id !== leader.id && id !== wiped.id) ?? 0;
      await it.voter(third).process.kill({ unsynced: 'lose' });
      expect(await produce(it, leader, ['last'])).toEqual(['last']);
    });
  });

  test('a new voter whose disk is lost before it votes is exchanged too', async () => {
    const it = new QuorumWorld([1, 2, 3]);
    await it.world.run(async () => {
      await it.boot(1, 2, 3);
      const leader = await it.untilLed();
      await produce(it, leader, range(10));
      const lost = it.voter(leader.id === 3 ? 2 : 3);
      const loseDisk = async (): Promise<void> => {
        await lost.process.kill({ unsynced: 'lose' });
        lost.process.disk.wipe();
        lost.generation++;
        await it.boot(lost.id);
      };
      await loseDisk();
      const { configuration } = leader.live.status();
      const members = (): typeof configuration => leader.live.status().configuration;
      await it.until('it learns', () => members().learners.length > 0, 10_000);
      const second = members().learners[0]?.directoryId;
      await loseDisk();
      const votes = (): boolean =>
        members().voters.some(({ id, directoryId }) => id === lost.id && directoryId !== second);
      await it.until('its last disk votes', () => members().voters.length === 3 && votes(), 15_000);
    });
  });

  test('a hanging disk costs the leader its leadership', async () => {
    const it = new QuorumWorld([1, 2, 3]);
    await it.world.run(async () => {
      await it.boot(1, 2, 3);
      const old = await it.untilLed();
      old.process.disk.hang();
      const lost = codeOf(it.propose(old, 'x'));
      await it.until('another leads', () => (it.leader() ?? old) !== old, 6000);
      expect(await lost).toBe('NOT_CONTROLLER');
      old.process.disk.unhang();
      const leader = await it.untilLed();
      await it.untilEqual(await produce(it, leader, range(5)));
    });
  });

  test('after a failed sync the node takes part no more, and the others go on', async () => {
    const it = new QuorumWorld([1, 2, 3]);
    await it.world.run(async () => {
      await it.boot(1, 2, 3);
      const old = await it.untilLed();
      old.process.disk.fail({ operation: 'datasync', code: 'IO' });
      expect(await codeOf(it.propose(old, 'x'))).toBe('NOT_CONTROLLER');
      expect(old.failure).toBeDefined();
      expect(old.live.status().role).toBe('stopped');
      await it.until('another leads', () => (it.leader() ?? old) !== old, 6000);
      const leader = await it.untilLed();
      expect(await produce(it, leader, range(5))).toHaveLength(5);
    });
  });

  test('starts in any order, and says whom it waits for', async () => {
    const it = new QuorumWorld([1, 2, 3]);
    await it.world.run(async () => {
      await it.boot(1, 2, 3);
      await it.untilEqual(await produce(it, await it.untilLed(), range(3)));
      for (const id of [1, 2, 3]) await it.voter(id).process.kill({ unsynced: 'lose' });
      await it.boot(3);
      await it.world.sleep(4000);
      const waiting = it.lines.find(({ event }) => event.startsWith('waiting for a majority'));
      expect(waiting?.fields['missing']).toEqual(['1 at node-1:1', '2 at node-2:1']);
      await it.boot(1);
      const sinceMs = it.world.nowMs;
      await it.untilLed();
      expect(it.world.nowMs - sinceMs).toBeLessThan(600);
      await it.boot(2);
      await it.untilEqual(await produce(it, await it.untilLed(), range(3)));
    });
  });

  test('a node of another cluster is refused, and told why', async () => {
    const it = new QuorumWorld([1, 2, 3]);
    await it.world.run(async () => {
      await it.boot(1, 2, 3);
      await it.untilLed();
      await it.voter(3).process.kill({ unsynced: 'keep' });
      it.voter(3).process.disk.wipe();
      it.voter(3).generation++;
      const leader = await it.untilLed();
      await it.boot(3, { clusterId: 'other' });
      await it.until('it is told', () =>
        it.lines.some(({ process, fields }) => {
          const missing = String(fields['missing']);
          return process === 'node-3' && missing.includes('this is cluster "test", not "other"');
        }),
      );
      await it.world.sleep(2000);
      expect(it.leader()).toBe(leader);
      expect(it.voter(3).applied).toEqual([]);
    });
  });
});

describe('one node alone', () => {
  test('leads, and comes back from its log', async () => {
    const it = new QuorumWorld([1], { snapshotEntries: 10 });
    await it.world.run(async () => {
      await it.boot(1);
      const leader = await it.untilLed();
      const texts = await produce(it, leader, range(25));
      await leader.live.stop();
      await leader.process.kill({ unsynced: 'lose' });
      await it.boot(1);
      await it.untilLed();
      await it.untilEqual(texts);
    });
  });
});
