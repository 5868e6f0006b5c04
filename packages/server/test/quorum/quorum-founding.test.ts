import { describe, expect, test } from 'vitest';
import { METADATA, QuorumWorld } from './quorum-world.ts';
import type { Voter } from './quorum-world.ts';

const wipe = async (voter: Voter): Promise<void> => {
  if (voter.process.alive) await voter.process.kill({ unsynced: 'lose' });
  voter.process.disk.wipe();
  voter.generation++;
};

const membersOf = (voter: Voter): number[] =>
  voter.live.status().configuration.voters.map(({ id }) => id);

describe('a cluster is founded', () => {
  test('within milliseconds of the last voter, whatever the order', async () => {
    const it = new QuorumWorld([1, 2, 3]);
    await it.world.run(async () => {
      await it.boot(2);
      await it.world.sleep(2500);
      await it.boot(3);
      await it.world.sleep(2500);
      expect(it.leader()).toBeUndefined();
      await it.boot(1);
      const sinceMs = it.world.nowMs;
      const leader = await it.untilLed();
      expect(it.world.nowMs - sinceMs).toBeLessThan(300);
      expect(membersOf(leader)).toEqual([1, 2, 3]);
    });
  });

  test('not while one is absent; one line says what to do', async () => {
    const it = new QuorumWorld([1, 2, 3]);
    await it.world.run(async () => {
      await it.boot(1, 2);
      await it.world.sleep(6000);
      expect(it.leader()).toBeUndefined();
      const lines = it.lines.filter(
        ({ process, level }) => process === 'node-1' && level === 'warn',
      );
      expect(lines.map(({ event }) => event)).toEqual([
        'waiting for the other voters: a new cluster is founded when all of them have answered',
      ]);
      expect(lines[0]?.fields['missing']).toEqual([expect.stringContaining('3 at node-3:1')]);
      expect(lines[0]?.fields['hint']).toContain('--bootstrap');
    });
  });

  test('without an absent one, by one with --bootstrap; the others join it', async () => {
    const it = new QuorumWorld([1, 2, 3]);
    await it.world.run(async () => {
      await it.boot(1);
      await it.boot(2, { bootstrap: true });
      const leader = await it.untilLed();
      expect(leader.id).toBe(2);
      await it.propose(leader, 'first');
      await it.until('1 votes', () => membersOf(leader).includes(1), 15_000);
      await it.boot(3);
      await it.until('3 votes', () => membersOf(leader).includes(3), 15_000);
      await it.untilEqual(['first']);
    });
  });

  test('although all lost their power at once, again and again, while they did so', async () => {
    for (let seed = 1; seed <= 20; seed++) {
      const it = new QuorumWorld([1, 2, 3], {}, { seed });
      const random = it.world.prng.split('founding');
      await it.world.run(async () => {
        for (let round = 0; round < 5; round++) {
          const booting = it.boot(1, 2, 3);
          await it.world.sleep(random.float() * 20);
          await Promise.all([1, 2, 3].map((id) => it.voter(id).process.kill({ unsynced: 'lose' })));
          await Promise.race([booting, it.world.sleep(1000)]);
        }
        await it.boot(1, 2, 3);
        const leader = await it.untilLed();
        await it.propose(leader, 'first');
        await it.untilEqual(['first']);
      });
    }
  });
});

describe('no second history', () => {
  test('by wiped voters, though they are a majority', async () => {
    const it = new QuorumWorld([1, 2, 3]);
    await it.world.run(async () => {
      await it.boot(1, 2, 3);
      const leader = await it.untilLed();
      await it.propose(leader, 'first');
      await it.untilEqual(['first']);
      const others = [1, 2, 3].filter((id) => id !== leader.id);
      await leader.process.kill({ unsynced: 'lose' });
      for (const id of others) await wipe(it.voter(id));
      await it.boot(...others);
      await it.world.sleep(6000);
      expect(it.leader()).toBeUndefined();
      await it.boot(leader.id);
      await it.world.sleep(6000);
      expect(it.leader()).toBeUndefined();
      const line = it.lines.findLast(
        ({ process, event }) => process === `node-${others[0]}` && event.startsWith('waiting'),
      );
      expect(line?.event).toBe('waiting for a leader of the quorum to let this voter in');
      expect(line?.fields['started']).toEqual([leader.id]);
      expect(line?.fields['hint']).toContain(
        'start ONE of those that have it once with --bootstrap',
      );
      // A person follows the line.
      await leader.process.kill({ unsynced: 'lose' });
      await it.boot(leader.id, { bootstrap: true });
      await it.until('all vote', () => membersOf(it.leader() ?? leader).length === 3, 30_000);
      await it.untilEqual(['first']);
    });
  });

  test('by voters whose logs were moved away', async () => {
    const it = new QuorumWorld([1, 2, 3]);
    await it.world.run(async () => {
      await it.boot(1, 2, 3);
      const leader = await it.untilLed();
      await it.propose(leader, 'first');
      await it.untilEqual(['first']);
      for (const { process } of it.voters.values()) {
        await process.kill({ unsynced: 'lose' });
        process.disk.port().rename(METADATA, `${METADATA}.mine`);
      }
      await it.boot(1, 2, 3);
      await it.world.sleep(6000);
      expect(it.leader()).toBeUndefined();
      const line = it.lines.findLast(({ event }) => event.startsWith('waiting'));
      expect(line?.fields['lostTheirLog']).toHaveLength(2);
    });
  });

  test('--bootstrap is passed over where others have a log', async () => {
    const it = new QuorumWorld([1, 2, 3]);
    await it.world.run(async () => {
      await it.boot(1, 2, 3);
      const leader = await it.untilLed();
      const wiped = it.voter(leader.id === 3 ? 2 : 3);
      await it.propose(leader, 'first');
      await wipe(wiped);
      await it.boot(wiped.id, { bootstrap: true });
      const passed = it.lines.some(({ event }) => event.startsWith('--bootstrap is passed over'));
      expect(passed).toBe(true);
      await it.untilEqual(['first']);
    });
  });
});
