import { expect, test } from 'vitest';
import { METADATA, QuorumWorld } from './quorum-world.ts';
import type { Voter } from './quorum-world.ts';

const range = (count: number): string[] => Array.from({ length: count }, (_, at) => `p${at}`);

/** The log's last segment. */
const lastSegment = ({ process: { disk } }: Voter): string => {
  const names = disk.list(METADATA).map(({ name }) => name);
  return `${METADATA}/${names.filter((name) => name.endsWith('.log')).at(-1)}`;
};

/** Changes what is durable of the file whose name matches. */
const flip =
  (file: RegExp, position: number) =>
  ({ process: { disk } }: Voter): void => {
    const name = disk.list(METADATA).find((entry) => file.test(entry.name))?.name ?? '';
    disk.flipBit(`${METADATA}/${name}`, position, 3);
  };

const remove =
  (file: RegExp) =>
  ({ process: { disk } }: Voter): void => {
    const names = disk.list(METADATA).map(({ name }) => name);
    const found = names.filter((name) => file.test(name));
    if (found.length === 0) throw new Error(`nothing to remove among ${names.join(' ')}`);
    for (const name of found) disk.port().remove(`${METADATA}/${name}`);
  };

const INJURIES: readonly [string, (voter: Voter) => void][] = [
  [
    'a zeroed sector',
    (voter): void => {
      const path = lastSegment(voter);
      const at = Math.floor(voter.process.disk.contents(path).length / 2 / 512) * 512;
      const file = voter.process.disk.port().open(path, 'existing');
      file.write(new Uint8Array(512), at);
      file.datasyncNow();
    },
  ],
  [
    'a truncated segment',
    (voter): void => {
      const file = voter.process.disk.port().open(lastSegment(voter), 'existing');
      file.truncate(100);
      file.datasyncNow();
    },
  ],
  [
    'an emptied segment',
    (voter): void => {
      const file = voter.process.disk.port().open(lastSegment(voter), 'existing');
      file.truncate(0);
      file.datasyncNow();
    },
  ],
  ['a segment that is gone', (voter): void => voter.process.disk.port().remove(lastSegment(voter))],
  ['a directory that is gone', (voter): void => voter.process.disk.port().removeTree(METADATA)],
  ['a flipped bit in the hard state', flip(/^quorum-state$/, 60)],
  ['a flipped bit in the durable mark', flip(/^durable-mark$/, 20)],
  ['a flipped bit in a snapshot', flip(/\.checkpoint$/, 80)],
  ['a flipped bit in an entry', flip(/^0+1\.log$/, 4000)],
  ['a flipped bit in the term of an entry, in the header of its batch', flip(/^0+1\.log$/, 15)],
  ['a lost hard state', remove(/^quorum-state$/)],
  ['a lost durable mark', remove(/^durable-mark$/)],
  ['a lost snapshot', remove(/\.checkpoint$/)],
  ['a hard state alone', remove(/^(?!quorum-state$)/)],
];

test.each(INJURIES)('%s: the voter does not help to forget what was committed', async (_, hurt) => {
  const it = new QuorumWorld([1, 2, 3], { snapshotEntries: 40 });
  await it.world.run(async () => {
    await it.boot(1, 2, 3);
    const leader = await it.untilLed();
    const first = range(20);
    for (const text of first) await it.propose(leader, text);
    await it.untilEqual(first);
    const [hurtOne, away] = [1, 2, 3].filter((id) => id !== leader.id).map((id) => it.voter(id));
    if (hurtOne === undefined || away === undefined) throw new Error('there are three');
    await away.process.kill({ unsynced: 'lose' });
    for (let n = 0; n < 80; n++) await it.propose(leader, `late ${n}`);
    await it.world.sleep(300);
    const committed = leader.live.status().commitIndex;
    await hurtOne.process.kill({ unsynced: 'lose' });
    await leader.process.kill({ unsynced: 'lose' });
    hurt(hurtOne);
    await it.boot(hurtOne.id, away.id);
    await it.world.sleep(5000);
    // The two together have forgotten what the leader and the damaged one had committed.
    const next = it.leader();
    if (next !== undefined) await it.propose(next, 'another');
    expect(next?.live.status().commitIndex ?? committed).toBeGreaterThanOrEqual(committed);
    await it.boot(leader.id);
    await it.untilLed();
    expect(it.leader()?.appliedIndex).toBeGreaterThanOrEqual(committed);
    // By itself, as a majority is whole.
    await it.until('the damaged one is whole again', () => hurtOne.applied.length >= 100, 20_000);
  });
});

test('a failed sync is remembered: the voter comes back under another id', async () => {
  const it = new QuorumWorld([1, 2, 3]);
  await it.world.run(async () => {
    await it.boot(1, 2, 3);
    const leader = await it.untilLed();
    const texts = range(10);
    for (const text of texts) await it.propose(leader, text);
    const hurt = it.voter(leader.id === 3 ? 2 : 3);
    hurt.process.disk.fail({ operation: 'datasync', path: /\.log$/ });
    await it.propose(leader, 'more');
    await it.until('it has failed', () => hurt.failure !== undefined);
    const before = directoryOf(leader, hurt.id);
    await hurt.process.kill({ unsynced: 'keep' });
    await it.boot(hurt.id);
    expect(hurt.startError).toBeUndefined();
    await it.until('it is let in', () => isNew(before, directoryOf(leader, hurt.id)), 15_000);
    await it.untilEqual([...texts, 'more']);
    const line = it.lines.find(({ event }) => event.includes('has lost what it knew'));
    expect(line?.fields['reason']).toContain('a write or sync of it failed');
  });
});

test('the only voter there is does not start with less than it knew, but for --bootstrap', async () => {
  const it = new QuorumWorld([1]);
  await it.world.run(async () => {
    await it.boot(1);
    const voter = await it.untilLed();
    for (const text of range(50)) await it.propose(voter, text);
    await voter.process.kill({ unsynced: 'lose' });
    const file = voter.process.disk.port().open(lastSegment(voter), 'existing');
    file.truncate(3000);
    file.datasyncNow();
    await it.boot(1);
    expect(String(voter.startError)).toContain('start this broker once with --bootstrap');
    await voter.process.kill({ unsynced: 'lose' });
    it.history.clear();
    await it.boot(1, { bootstrap: true });
    expect(voter.startError).toBeUndefined();
    await it.untilLed();
    expect(voter.applied.length).toBeGreaterThan(5);
    expect(voter.applied.length).toBeLessThan(50);
  });
});

const directoryOf = (leader: Voter, id: number): string =>
  leader.live.status().configuration.voters.find((voter) => voter.id === id)?.directoryId ?? '';

const isNew = (before: string, now: string): boolean => now !== '' && now !== before;
