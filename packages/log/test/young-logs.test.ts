/**
 * Logs whose first records lie in the journal of the data directory: what was synced is there after any
 * end, whether a log had files of its own by then or not, and what is missing there passes for nothing else.
 */
import { describe, expect, test } from 'vitest';
import { brokerId, uuid } from '@relevo/base/ids';
import type { Uuid } from '@relevo/base/ids';
import { LogDirectory } from '@relevo/log/log-directory';
import type { PartitionLog } from '@relevo/log/partition-log';
import { crc32c } from '@relevo/record/crc32c';
import { Prng } from '@relevo/simulation/prng';
import type { EventOwner } from '@relevo/simulation/scheduler';
import type { SimulatedDisk } from '@relevo/simulation/simulated-disk';
import {
  NOW_MS,
  appendValues,
  at,
  config,
  kindOf,
  newDisk,
  readValues,
  recordingLogger,
} from './support.ts';

const IDS = ['A', 'B', 'C', 'D', 'E', 'F', 'G', 'H'].map((letter) => uuid(letter.repeat(22)));
const JOURNAL = '/data/young-logs.1';

interface Life {
  readonly directory: LogDirectory;
  readonly owner: EventOwner;
  readonly disk: SimulatedDisk;
}

function begin(disk: SimulatedDisk): Life {
  const owner: EventOwner = { name: 'b', host: 'b', alive: true, paused: false, held: [] };
  const directory = LogDirectory.open(
    {
      root: '/data',
      brokerId: brokerId(1),
      clusterId: 'one',
      newDirectoryId: () => uuid('DDDDDDDDDDDDDDDDDDDDDD'),
    },
    { disk: disk.port(owner), crc32c, logger: recordingLogger(), clock: { monotonicMs: () => 0 } },
  );
  return { directory, owner, disk };
}

function die({ disk, owner }: Life): void {
  owner.alive = false;
  disk.releaseLocks(owner);
}

const open = (
  { directory }: Life,
  partition: number,
  topicId: Uuid = uuid('A'.repeat(22)),
  segmentBytes = 1_000_000,
): PartitionLog =>
  directory.openLog({
    topic: 'orders',
    partition,
    topicId,
    config: config({ segmentBytes, retentionMs: -1, retentionBytes: -1 }),
    nowMs: NOW_MS,
  });

const directories = (disk: SimulatedDisk): string[] =>
  disk
    .port()
    .list('/data')
    .flatMap(({ name }) => (name.startsWith('orders-') ? [name] : []));

const settled = async (log: PartitionLog): Promise<void> => {
  await log.settle();
  expect(log.isInJournal).toBe(false);
};

/** Two logs, each with records that are durable in the journal alone. */
async function young(): Promise<Life> {
  const life = begin(newDisk());
  const logs = [open(life, 0), open(life, 1)];
  for (const log of logs) appendValues(log, ['a', 'b']);
  await Promise.all(logs.map((log) => log.sync()));
  expect(directories(life.disk)).toEqual([]);
  return life;
}

describe('a young log', () => {
  test.each(['kill', 'power cut', 'close'] as const)('has its records after a %s', async (end) => {
    const life = await young();
    if (end === 'close') await life.directory.close(new Map());
    die(life);
    if (end === 'power cut') life.disk.crash();
    const next = begin(life.disk);
    expect(next.directory.lost).toEqual([]);
    for (const partition of [0, 1]) {
      expect([...(await readValues(open(next, partition))).values()]).toEqual(['a', 'b']);
    }
  });

  test('is given files of its own, and the journal goes', async () => {
    const life = await young();
    for (const partition of [0, 1]) {
      const log = life.directory.log(`orders-${partition}`);
      if (log === undefined) throw new Error('it is open');
      await settled(log);
      appendValues(log, ['c']);
      await log.sync();
    }
    await new Promise(setImmediate);
    expect(life.disk.port().exists(JOURNAL)).toBe(false);
    die(life);
    life.disk.crash();
    const next = begin(life.disk);
    expect([...(await readValues(open(next, 1))).values()]).toEqual(['a', 'b', 'c']);
  });

  test('is settled by the directory, a hundred at once and then a few at a time', async () => {
    const life = begin(newDisk());
    const logs = Array.from({ length: 120 }, (_, partition) => open(life, partition));
    for (const log of logs) appendValues(log, ['a']);
    await Promise.all(logs.map((log) => log.sync()));
    const own: number[] = [];
    for (let call = 0; call < 4; call++) {
      life.directory.settleSome();
      await new Promise(setImmediate);
      own.push(directories(life.disk).length);
    }
    expect(own).toEqual([0, 100, 105, 110]);
  });

  test('that grows large, or needs a second segment, is given files of its own at once', async () => {
    const life = begin(newDisk());
    const large = open(life, 0);
    appendValues(large, ['x'.repeat(20_000)]);
    await new Promise(setImmediate);
    expect(large.isInJournal).toBe(false);
    const tiny = open(life, 1, uuid('A'.repeat(22)), 150);
    appendValues(tiny, ['a', 'b', 'c', 'd']);
    expect(tiny.segments.length).toBeGreaterThan(1);
    await Promise.all([large.sync(), tiny.sync()]);
    die(life);
    life.disk.crash();
    const next = begin(life.disk);
    expect((await readValues(open(next, 0))).size).toBe(1);
    expect([...(await readValues(open(next, 1, undefined, 150))).values()].join('')).toBe('abcd');
  });

  test('stays in the journal until the name of its own directory is durable', async () => {
    let changes = 1;
    // One of the changes of names survives alone, or is lost alone.
    for (let choice = 0; choice < 2 * changes; choice++) {
      const life = begin(newDisk());
      const log = open(life, 0, undefined, 150);
      appendValues(log, ['a']);
      await log.sync();
      expect(directories(life.disk)).toEqual([]);
      // No sync comes back from here on, and so none makes a name durable.
      life.disk.hang();
      appendValues(log, ['b', 'c']);
      await new Promise(setImmediate);
      expect(directories(life.disk)).toEqual(['orders-0']);
      die(life);
      changes = life.disk.image.pendingNames;
      const one = choice % changes;
      life.disk.crashKeeping((change) => (change === one) === choice < changes, 'loseAll');
      life.disk.unhang();
      const next = begin(life.disk);
      expect(next.directory.lost, `${choice}`).toEqual([]);
      const values = [...(await readValues(open(next, 0, undefined, 150))).values()];
      expect(values[0], `${choice}`).toBe('a');
    }
    expect(changes).toBeGreaterThanOrEqual(2);
  });

  test('that is deleted does not come back, and one of its name has nothing of it', async () => {
    const life = await young();
    await life.directory.delete('orders-0');
    const other = open(life, 0, IDS[1]);
    appendValues(other, ['of another topic']);
    await other.sync();
    die(life);
    life.disk.crash();
    const next = begin(life.disk);
    expect([...(await readValues(open(next, 0, IDS[1]))).values()]).toEqual(['of another topic']);
  });

  test('whose journal cannot be synced goes offline, and is not trusted afterwards', async () => {
    const life = begin(newDisk());
    const log = open(life, 0);
    appendValues(log, ['a']);
    life.disk.fail({ operation: 'datasync', path: /young-logs/ });
    await expect(log.sync()).rejects.toThrow(/a sync failed/);
    expect(log.state).toBe('offline');
    const later = open(life, 1);
    appendValues(later, ['b']);
    await later.sync();
    await new Promise(setImmediate);
    die(life);
    const next = begin(life.disk);
    expect(kindOf(() => open(next, 0))).toBe('corrupt');
    expect(kindOf(() => open(next, 1))).toBe('no error');
  });

  test('of a full disk refuses the record, and takes the next', async () => {
    const life = begin(newDisk());
    const log = open(life, 0);
    appendValues(log, ['a']);
    await log.sync();
    life.disk.fail({ operation: 'write', path: /young-logs/, code: 'FULL' });
    expect(kindOf(() => appendValues(log, ['b']))).toBe('diskFull');
    appendValues(log, ['c']);
    await log.sync();
    die(life);
    life.disk.crash();
    expect([...(await readValues(open(begin(life.disk), 0))).values()]).toEqual(['a', 'c']);
  });
});

test('what a full disk has left half made of a log goes at once', async () => {
  const life = await young();
  const log = life.directory.log('orders-0');
  life.disk.fail({ operation: 'write', path: /orders-0.*tmp/, code: 'FULL', times: 2 });
  await log?.settle();
  expect(log?.isInJournal).toBe(true);
  expect(directories(life.disk)).toEqual([]);
  life.disk.clearFaults();
  await log?.settle();
  expect(directories(life.disk)).toEqual(['orders-0']);
});

test('logs are noted where a crash has left the list of them without the file of its changes', async () => {
  const life = begin(newDisk());
  const log = open(life, 0);
  appendValues(log, ['a']);
  await log.sync();
  die(life);
  const port = life.disk.port();
  port.remove('/data/durable-logs.changes');
  port.syncDirectoryNow('/data');
  const next = begin(life.disk);
  const other = open(next, 1);
  appendValues(other, ['b']);
  await other.sync();
  expect(other.state).toBe('online');
});

test('a first segment that is gone is missed as soon as there is a second', async () => {
  const life = begin(newDisk());
  const log = open(life, 0, undefined, 100);
  for (const value of ['a', 'b', 'c']) appendValues(log, [value.padEnd(80, value)]);
  await log.sync();
  expect(log.segments.length).toBeGreaterThan(1);
  await new Promise(setImmediate);
  die(life);
  life.disk.crash();
  const port = life.disk.port();
  port.remove('/data/orders-0/00000000000000000000.log');
  port.syncDirectoryNow('/data/orders-0');
  expect(kindOf(() => open(begin(life.disk), 0))).toBe('corrupt');
});

describe('what is missing of the journal', () => {
  const flipped = (life: Life, position: number): void => {
    const file = life.disk.port().open(JOURNAL, 'existing');
    const byte = new Uint8Array(1);
    file.readSync(byte, position);
    file.write(
      byte.map((value) => value ^ 4),
      position,
    );
    file.datasyncNow();
    file.close();
  };

  test('is damage to the log that it is of, and to no other', async () => {
    const life = await young();
    const bytes = life.disk.contents(JOURNAL);
    die(life);
    flipped(life, Math.floor(bytes.length / 8));
    const next = begin(life.disk);
    expect(kindOf(() => open(next, 0))).toBe('corrupt');
    expect([...(await readValues(open(next, 1))).values()]).toEqual(['a', 'b']);
    await next.directory.forget('orders-0');
    expect(open(next, 0).logEndOffset).toBe(0);
  });

  test('is damage where the journal is gone, however young the log', async () => {
    const life = await young();
    die(life);
    life.disk.port().remove(JOURNAL);
    const next = begin(life.disk);
    expect(next.directory.lost.map(({ name }) => name)).toEqual(['orders-0', 'orders-1']);
    expect(kindOf(() => open(next, 0))).toBe('corrupt');
  });

  test('is damage below the checkpoint, though it looks like what a power cut leaves', async () => {
    const life = await young();
    await life.directory.checkpoint(new Map([0, 1].map((n) => [`orders-${n}`, at(2)])));
    die(life);
    const file = life.disk.port().open(JOURNAL, 'existing');
    file.truncate(file.size() - 30);
    file.datasyncNow();
    const next = begin(life.disk);
    expect(kindOf(() => open(next, 0))).toBe('no error');
    expect(kindOf(() => open(next, 1))).toBe('corrupt');
  });
});

/** One log's records as they should be, and as they were before what a power cut may undo. */
interface Model {
  topicId: Uuid;
  values: string[];
  synced: number;
  before: string[][];
}

class History {
  readonly #prng: Prng;
  readonly #disk: SimulatedDisk;
  readonly #models: Model[] = [0, 1, 2].map(() => newModel(IDS[0] ?? uuid('A'.repeat(22))));
  #life: Life;
  #logs: PartitionLog[] = [];
  #made = 0;

  constructor(seed: number) {
    this.#prng = new Prng(seed);
    this.#disk = newDisk(seed);
    this.#life = begin(this.#disk);
    this.#openAll();
  }

  async run(steps: number): Promise<void> {
    for (let step = 0; step < steps; step++) await this.#step();
  }

  async #step(): Promise<void> {
    const number = this.#prng.integer(0, 2);
    const [log, model] = [this.#logs[number], this.#models[number]];
    if (log === undefined || model === undefined) throw new Error('there are three');
    const what = this.#prng.integer(0, 13);
    if ([1, 3, 4, 7, 8].includes(what)) this.#disk.unhang();
    switch (what) {
      case 0:
        // The files are being made until somebody waits for the disk.
        this.#disk.hang();
        void log.settle();
        return;
      case 1:
        await log.settle();
        return;
      case 2:
        this.#truncate(log, model);
        return;
      case 3:
        await this.#life.directory.checkpoint(
          new Map(this.#logs.map((each, n) => [`orders-${n}`, each.syncedEndOffset])),
        );
        return;
      case 4:
        if (this.#prng.integer(0, 2) > 0) return;
        await this.#recreate(number, model);
        return;
      case 5:
        await this.#end();
        return;
      case 6:
        log.sync().catch(() => undefined);
        return;
      case 7:
      case 8:
        if (log.syncedEndOffset < log.logEndOffset) model.before = [];
        await log.sync();
        model.synced = log.syncedEndOffset;
        return;
      default: {
        const values = [`${++this.#made}`.repeat(this.#prng.integer(1, 300))];
        appendValues(log, values);
        model.values.push(...values);
      }
    }
  }

  #truncate(log: PartitionLog, model: Model): void {
    const end = this.#prng.integer(0, model.values.length);
    log.truncateTo(at(end));
    if (end === model.values.length) return;
    model.before.push([...model.values]);
    model.values.length = end;
    model.synced = Math.min(model.synced, end);
  }

  async #recreate(number: number, model: Model): Promise<void> {
    await this.#life.directory.delete(`orders-${number}`);
    const topicId = IDS[this.#prng.integer(1, IDS.length - 1)] ?? model.topicId;
    this.#models[number] = newModel(topicId);
    this.#logs[number] = open(this.#life, number, topicId, 3000);
  }

  async #end(): Promise<void> {
    const how = this.#prng.integer(0, 3);
    if (how === 0) {
      this.#disk.unhang();
      await this.#life.directory.close(new Map());
      for (const model of this.#models) model.synced = model.values.length;
    }
    await new Promise(setImmediate);
    die(this.#life);
    if (how > 1) this.#disk.crash();
    // What comes back now comes to a dead process.
    this.#disk.unhang();
    await new Promise(setImmediate);
    this.#life = begin(this.#disk);
    this.#openAll();
    for (const [number, log] of this.#logs.entries()) {
      const model = this.#models[number];
      if (model === undefined) throw new Error('there are three');
      const found = [...(await readValues(log)).values()];
      expect(found.length).toBeGreaterThanOrEqual(model.synced);
      const versions = [model.values, ...model.before];
      const isBeginning = (all: readonly string[]): boolean =>
        found.every((value, index) => value === all[index]);
      expect(versions.some(isBeginning)).toBe(true);
      model.values = found;
      model.before = [];
      model.synced = found.length;
    }
  }

  #openAll(): void {
    this.#logs = this.#models.map(({ topicId }, number) => open(this.#life, number, topicId, 3000));
  }
}

const newModel = (topicId: Uuid): Model => ({ topicId, values: [], synced: 0, before: [] });

test('random histories: what was synced survives, and nothing else appears', async () => {
  const runs = Number(process.env['CRASH_RUNS'] ?? 40);
  for (let seed = 1; seed <= runs; seed++) {
    try {
      await new History(seed).run(80);
    } catch (error) {
      throw new Error(`seed ${seed}`, { cause: error });
    }
  }
});
