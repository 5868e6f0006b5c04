import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { utf8Decode, utf8Encode } from '@relevo/base/bytes';
import { brokerId, logIndex, term, uuidFromBytes } from '@relevo/base/ids';
import { makeConfiguration } from '@relevo/raft/configuration';
import type { Entry, EntryKind, Snapshot } from '@relevo/raft/messages';
import type { HardState, Ready } from '@relevo/raft/ready';
import { crc32c } from '@relevo/record/crc32c';
import { createPorts } from '@relevo/runtime/ports';
import { QuorumStorage } from '@relevo/server/quorum/quorum-storage';
import type { VoterIdentity } from '@relevo/server/quorum/quorum-files';
import type { StoredQuorum } from '@relevo/server/quorum/quorum-storage';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';

const ports = createPorts({ logger: { level: 'silent' } });
let root = '';
let directory = '';
let storage: QuorumStorage;
let stored: StoredQuorum;

const owner = { clusterId: 'test', nodeId: brokerId(1) };
const directoryId = uuidFromBytes(new Uint8Array(16).fill(1));
const newIdentity = (): VoterIdentity => ({
  directoryId,
  origin: 'new',
  history: '',
  founding: undefined,
});

async function open(options: Partial<typeof owner> = {}): Promise<void> {
  const opened = await QuorumStorage.open(
    { ...owner, directory, newIdentity, configured: [], ...options },
    ports,
  );
  storage = opened.storage;
  stored = opened.stored;
}

async function reopen(): Promise<void> {
  await storage.close();
  await open();
}

beforeEach(async () => {
  root = mkdtempSync(join(tmpdir(), 'relevo-quorum-'));
  directory = `${root}/quorum`;
  await open();
});

afterEach(async () => {
  await storage.close();
  rmSync(root, { recursive: true });
});

const entry = (
  index: number,
  ofTerm: number,
  text = `e${index}`,
  kind: EntryKind = 'data',
): Entry => ({
  index: logIndex(index),
  term: term(ofTerm),
  kind,
  data: utf8Encode(text),
});

const hardState = (ofTerm: number, commit = 0): HardState => ({
  term: term(ofTerm),
  vote: { id: brokerId(2), directoryId: uuidFromBytes(new Uint8Array(16).fill(2)) },
  commit: logIndex(commit),
});

const snapshotAt = (index: number, ofTerm: number, data = 'state'): Snapshot => ({
  index: logIndex(index),
  term: term(ofTerm),
  configuration: makeConfiguration([{ id: owner.nodeId, directoryId, address: 'a:1' }]),
  data: utf8Encode(data),
});

const ready = (parts: Partial<Ready>): Ready => ({
  id: 1,
  hardState: undefined,
  snapshot: undefined,
  truncateFrom: undefined,
  entries: [],
  messages: [],
  messagesAfterPersist: [],
  committed: [],
  softState: undefined,
  readStates: [],
  droppedReads: [],
  ...parts,
});

const shown = (): string[] =>
  stored.entries.map(({ index, term: ofTerm, data }) => `${index}@${ofTerm} ${utf8Decode(data)}`);

test('a new directory begins with nothing', () => {
  expect(stored).toEqual({
    hardState: { term: 0, vote: undefined, commit: 0 },
    snapshot: undefined,
    entries: [],
  });
});

test('entries and hard state come back as they were written', async () => {
  const entries = [
    entry(1, 1, '', 'leaderStart'),
    entry(2, 1, 'ä'),
    entry(3, 2, 'x'.repeat(100_000)),
  ];
  await storage.write([ready({ hardState: hardState(2), entries })]);
  await reopen();
  expect(stored.entries).toEqual(entries);
  expect(stored.hardState).toEqual(hardState(2));
});

test('a truncation removes what it says, and what follows takes its place', async () => {
  await storage.write([
    ready({ hardState: hardState(1), entries: [entry(1, 1), entry(2, 1), entry(3, 1)] }),
  ]);
  await storage.write([
    ready({ hardState: hardState(2), truncateFrom: logIndex(2), entries: [entry(2, 2, 'new')] }),
    ready({ entries: [entry(3, 2, 'more')] }),
  ]);
  await reopen();
  expect(shown()).toEqual(['1@1 e1', '2@2 new', '3@2 more']);
});

test('the same Readies may be written again after an attempt that came half way', async () => {
  const readies = [
    ready({ hardState: hardState(3), entries: [entry(1, 1), entry(2, 1)] }),
    ready({ truncateFrom: logIndex(2), entries: [entry(2, 3, 'new'), entry(3, 3)] }),
  ];
  await storage.write(readies.slice(0, 1));
  await storage.write(readies);
  await storage.write(readies);
  await reopen();
  expect(shown()).toEqual(['1@1 e1', '2@3 new', '3@3 e3']);
});

describe('snapshots', () => {
  test('one of our own covers the log below it', async () => {
    const entries = Array.from({ length: 9 }, (_, at) => entry(at + 1, 1));
    await storage.write([ready({ hardState: hardState(1), entries })]);
    await storage.saveSnapshot(snapshotAt(4, 1, 'four'));
    await storage.saveSnapshot(snapshotAt(6, 1, 'six'));
    storage.trim(logIndex(6));
    await reopen();
    expect(stored.snapshot).toEqual(snapshotAt(6, 1, 'six'));
    expect(shown()).toEqual(['7@1 e7', '8@1 e8', '9@1 e9']);
    expect(readdirSync(directory).filter((name) => name.endsWith('.checkpoint'))).toHaveLength(1);
  });

  test('the log is trimmed by whole segments', async () => {
    const big = 'x'.repeat(1_500_000);
    const entries = Array.from({ length: 10 }, (_, at) => entry(at + 1, 1, big));
    await storage.write([ready({ hardState: hardState(1), entries })]);
    const segments = (): number =>
      readdirSync(directory).filter((name) => name.endsWith('.log')).length;
    const before = segments();
    await storage.saveSnapshot(snapshotAt(9, 1));
    storage.trim(logIndex(9));
    expect(segments()).toBeLessThan(before);
    await reopen();
    expect(stored.entries.map(({ index }) => index)).toEqual([10]);
  });

  test('the leader’s replaces the log', async () => {
    await storage.write([ready({ hardState: hardState(1), entries: [entry(1, 1), entry(2, 1)] })]);
    await storage.write([
      ready({ hardState: hardState(5), snapshot: snapshotAt(100, 4), entries: [entry(101, 5)] }),
    ]);
    await reopen();
    expect(stored.snapshot).toEqual(snapshotAt(100, 4));
    expect(shown()).toEqual(['101@5 e101']);
  });

  test.each([
    ['a log that ends before it', 3],
    ['a longer log with another entry in its place', 7],
  ])('a crash before the log was replaced: %s goes', async (_what, length) => {
    const entries = Array.from({ length }, (_, at) => entry(at + 1, 1));
    await storage.write([ready({ hardState: hardState(4), entries })]);
    await storage.saveSnapshot(snapshotAt(5, 3));
    await reopen();
    expect(stored.entries).toEqual([]);
    await storage.write([ready({ entries: [entry(6, 4)] })]);
    await reopen();
    expect(shown()).toEqual(['6@4 e6']);
  });
});

describe('refused at the start', () => {
  const refusal = async (options: Partial<typeof owner> = {}): Promise<string> => {
    await storage.close();
    return open(options).then(
      () => 'opened',
      (error: unknown) => String(error),
    );
  };

  test.each([
    [{ clusterId: 'other' }, 'cluster "test"'],
    [{ nodeId: brokerId(2) }, 'node 1'],
  ])('another owner: %j', async (options, part) => {
    const message = await refusal(options);
    expect(message).toContain('belongs to');
    expect(message).toContain(part);
  });

  test('a log that ends below the commit index', async () => {
    await storage.write([ready({ hardState: hardState(1, 5), entries: [entry(1, 1)] })]);
    expect(await refusal()).toContain('it ends at entry 1, though 5 was committed');
  });

  test('an entry of a term that was never taken', async () => {
    await storage.write([ready({ hardState: hardState(1), entries: [entry(1, 2)] })]);
    expect(await refusal()).toContain('it has an entry of term 2, but quorum-state knows 1');
  });

  test('a log without the snapshot before it', async () => {
    await storage.write([ready({ hardState: hardState(1), snapshot: snapshotAt(7, 1) })]);
    for (const name of readdirSync(directory)) {
      if (name.endsWith('.checkpoint')) rmSync(join(directory, name));
    }
    expect(await refusal()).toContain('no snapshot covers those before');
  });

  test.each(['', '{', '[]', '{"version":1}', '\0'.repeat(100)])(
    'a hard state of %j',
    async (text) => {
      writeFileSync(join(directory, 'quorum-state'), text);
      expect(await refusal()).toContain('quorum-state is damaged');
    },
  );

  test('any flipped bit in a snapshot', async () => {
    await storage.saveSnapshot(snapshotAt(7, 1));
    const name = readdirSync(directory).find((file) => file.endsWith('.checkpoint')) ?? '';
    const bytes = readFileSync(join(directory, name));
    for (let at = 0; at < bytes.length; at += 7) {
      const flipped = Uint8Array.from(bytes);
      flipped[at] = (flipped[at] ?? 0) ^ 4;
      writeFileSync(join(directory, name), flipped);
      expect(await refusal(), `byte ${at}`).toContain('is damaged');
    }
    expect(crc32c(bytes)).toBeGreaterThan(0);
  });
});
