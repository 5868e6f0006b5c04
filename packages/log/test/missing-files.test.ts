/**
 * What is known to have been in a log and is not is damage (L6); what retention, a truncation or a power
 * cut in the middle of one leaves is none.
 */
import { describe, expect, test } from 'vitest';
import { brokerId, uuid } from '@relevo/base/ids';
import { notedLog } from '@relevo/log/durable-logs';
import { LogDirectory } from '@relevo/log/log-directory';
import { LogError } from '@relevo/log/log-error';
import type { PartitionLog } from '@relevo/log/partition-log';
import { knownExtentOf, verifyLog } from '@relevo/log/verify-log';
import { crc32c } from '@relevo/record/crc32c';
import type { EventOwner } from '@relevo/simulation/scheduler';
import type { SimulatedDisk } from '@relevo/simulation/simulated-disk';
import {
  DIRECTORY,
  NOW_MS,
  TOPIC_ID,
  appendValues,
  at,
  config,
  newDisk,
  readValues,
  recordingLogger,
} from './support.ts';

const NAME = 'orders-0';
const SEGMENT_BYTES = 230;

interface Broker {
  readonly directory: LogDirectory;
  readonly log: PartitionLog;
  /** Nothing of it happens any more. */
  readonly die: () => void;
}

function start(disk: SimulatedDisk): Broker {
  const owner: EventOwner = { name: 'b', host: 'b', alive: true, paused: false, held: [] };
  const directory = LogDirectory.open(
    {
      root: '/data',
      brokerId: brokerId(1),
      clusterId: 'one',
      newDirectoryId: () => uuid('DDDDDDDDDDDDDDDDDDDDDD'),
      // What is done to files is done to the logs' own.
      youngBytesMax: 0,
    },
    { disk: disk.port(owner), crc32c, logger: recordingLogger(), clock: { monotonicMs: () => 0 } },
  );
  const die = (): void => {
    owner.alive = false;
    disk.releaseLocks(owner);
  };
  try {
    const log = directory.openLog({
      topic: 'orders',
      partition: 0,
      topicId: TOPIC_ID,
      config: config({ segmentBytes: SEGMENT_BYTES, retentionMs: -1, retentionBytes: -1 }),
      nowMs: NOW_MS,
    });
    return { directory, log, die };
  } catch (error) {
    die();
    throw error;
  }
}

const letters = (from: number, to: number): string[] =>
  Array.from({ length: to - from }, (_, index) => `value ${from + index}`);

const highWatermark = (value: number): Map<string, ReturnType<typeof at>> =>
  new Map([[NAME, at(value)]]);

const segmentPath = (base: number): string => `${DIRECTORY}/${String(base).padStart(20, '0')}.log`;

/** Ten records in segments of two or three, checkpointed. */
async function filled(): Promise<{ disk: SimulatedDisk; broker: Broker; bases: number[] }> {
  const disk = newDisk();
  const broker = start(disk);
  appendValues(broker.log, letters(0, 10));
  await broker.log.sync();
  await broker.directory.checkpoint(highWatermark(10));
  const bases = broker.log.segments.map(({ baseOffset }) => baseOffset);
  expect(bases.length).toBeGreaterThanOrEqual(4);
  return { disk, broker, bases };
}

async function stop(broker: Broker, how: 'in order' | 'killed', end = 10): Promise<void> {
  if (how === 'in order') await broker.directory.close(highWatermark(end));
  broker.die();
}

const outcome = (disk: SimulatedDisk): string => {
  try {
    const { log, die } = start(disk);
    const range = `${log.logStartOffset} to ${log.logEndOffset}`;
    die();
    return range;
  } catch (error) {
    if (!(error instanceof LogError)) throw error;
    return `${error.kind}: ${error.message}`;
  }
};

/** What `relevo log verify` finds. */
const damages = (disk: SimulatedDisk): number => {
  const port = disk.port();
  const known = knownExtentOf(port, DIRECTORY);
  const noted = notedLog(port, DIRECTORY);
  return verifyLog({ directory: DIRECTORY, known, noted }, { disk: port, crc32c }).damages;
};

const filesOf = (disk: SimulatedDisk): [string, Uint8Array][] =>
  disk
    .port()
    .list(DIRECTORY)
    .map(({ name }) => [name, disk.contents(`${DIRECTORY}/${name}`)]);

describe.each(['in order', 'killed'] as const)('after a stop (%s)', (how) => {
  const spoilt: [string, (disk: SimulatedDisk, bases: readonly number[]) => void][] = [
    ['the first segment missing', (disk, bases) => disk.port().remove(segmentPath(bases[0] ?? 0))],
    ['a middle one missing', (disk, bases) => disk.port().remove(segmentPath(bases[2] ?? 0))],
    ['the last one missing', (disk, bases) => disk.port().remove(segmentPath(bases.at(-1) ?? 0))],
    [
      'all but the last one missing',
      (disk, bases) => bases.slice(0, -1).forEach((base) => disk.port().remove(segmentPath(base))),
    ],
    [
      'all but the first one missing',
      (disk, bases) => bases.slice(1).forEach((base) => disk.port().remove(segmentPath(base))),
    ],
    ...[0, 2, -1].flatMap((index): [string, (d: SimulatedDisk, b: readonly number[]) => void][] => [
      [
        `segment ${index} emptied`,
        (disk, bases) =>
          disk
            .port()
            .open(segmentPath(bases.at(index) ?? 0), 'existing')
            .truncate(0),
      ],
      [
        `segment ${index} shortened by a batch`,
        (disk, bases) => {
          const file = disk.port().open(segmentPath(bases.at(index) ?? 0), 'existing');
          const batches = index === -1 ? 10 - (bases.at(-1) ?? 0) : undefined;
          const share = batches === undefined ? 0.5 : (batches - 1) / batches;
          file.truncate(Math.round(file.size() * share));
        },
      ],
    ]),
    ['partition.metadata missing', (disk) => disk.port().remove(`${DIRECTORY}/partition.metadata`)],
    [
      'another topic id in partition.metadata',
      (disk) => disk.flipBit(`${DIRECTORY}/partition.metadata`, 30, 1),
    ],
  ];

  test.each(spoilt)('%s is damage: nothing is cut, and it stays so', async (_, spoil) => {
    const { disk, broker, bases } = await filled();
    await stop(broker, how);
    expect(damages(disk)).toBe(0);
    spoil(disk, bases);
    const before = filesOf(disk);
    for (let attempt = 0; attempt < 3; attempt++) {
      expect(outcome(disk)).toMatch(/^corrupt: .*(missing|gone|synced|damaged)/);
    }
    expect(filesOf(disk)).toEqual(before);
    expect(damages(disk)).toBeGreaterThan(0);
  });

  test('what retention has deleted is not missed', async () => {
    const { disk, broker, bases } = await filled();
    broker.log.deleteRecordsBefore(at(bases[2] ?? 0));
    expect(broker.log.applyRetention(NOW_MS, at(10))).toBe(2);
    await broker.directory.checkpoint(highWatermark(10));
    await stop(broker, how);
    expect(disk.port().exists(segmentPath(0))).toBe(false);
    expect(damages(disk)).toBe(0);
    expect(outcome(disk)).toBe(`${bases[2]} to 10`);
  });

  test('nor what was truncated, or emptied to begin later or earlier', async () => {
    for (const change of ['truncate', 'later', 'earlier']) {
      const { disk, broker } = await filled();
      const { log } = broker;
      if (change === 'truncate') expect(log.truncateTo(at(4))).toBe(4);
      else log.truncateFullyAndStartAt(at(change === 'later' ? 50 : 0));
      const from = log.logEndOffset;
      appendValues(log, letters(0, 3));
      await log.sync();
      await stop(broker, how, from + 3);
      expect(damages(disk)).toBe(0);
      expect(outcome(disk)).toBe(`${change === 'truncate' ? 0 : from} to ${from + 3}`);
    }
  });
});

test('the newest segment is missed though no checkpoint has told of it', async () => {
  const { disk, broker } = await filled();
  appendValues(broker.log, letters(10, 20));
  await broker.log.sync();
  const last = broker.log.segments.at(-1)?.baseOffset ?? 0;
  expect(last).toBeGreaterThan(10);
  broker.die();
  disk.port().remove(segmentPath(last));
  expect(outcome(disk)).toMatch(/^corrupt: .*\.log is gone, yet it was synced/);
  expect(damages(disk)).toBeGreaterThan(0);
});

test('a checkpoint of an older version says where a log begins, and proves nothing', async () => {
  const { disk, broker, bases } = await filled();
  await stop(broker, 'killed');
  disk.port().remove(segmentPath(0));
  const file = disk.port().open('/data/log-start-offset-checkpoint', 'existing');
  file.truncate(0);
  file.write(new TextEncoder().encode('0\n1\norders 0 0\n'), 0);
  expect(outcome(disk)).toBe(`${bases[1]} to 10`);
  // Written by this version with something else in it, it still does not.
  const again = start(disk);
  await again.directory.forget('other-0');
  again.die();
  expect(outcome(disk)).toBe(`${bases[1]} to 10`);
});

describe('a power cut that keeps any of the unsynced changes of names', () => {
  /** Runs `act` on a new disk and cuts the power, once for each choice of what survives. */
  async function forAllChoices(
    act: (broker: Broker) => void | Promise<void>,
    check: (disk: SimulatedDisk, choice: string) => Promise<void>,
  ): Promise<number> {
    let choices = 1;
    for (let choice = 0; choice < choices; choice++) {
      for (const files of ['keepAll', 'loseAll'] as const) {
        const { disk, broker } = await filled();
        await disk.port().syncDirectory(DIRECTORY);
        // What is synced off the loop is not done yet when the power goes.
        disk.hang();
        await act(broker);
        broker.die();
        choices = 2 ** disk.image.pendingNames;
        expect(choices).toBeLessThanOrEqual(2 ** 12);
        disk.crashKeeping((change) => ((choice >> change) & 1) === 1, files);
        disk.unhang();
        await check(disk, `${choice} of ${choices}, ${files}`);
      }
    }
    return choices;
  }

  const opens =
    (least: { start: number; end: number }) =>
    async (disk: SimulatedDisk, choice: string): Promise<void> => {
      for (let attempt = 0; attempt < 2; attempt++) {
        const { log, die } = start(disk);
        expect(log.logStartOffset, choice).toBeLessThanOrEqual(least.start);
        expect(log.logEndOffset, choice).toBeGreaterThanOrEqual(least.end);
        const values = await readValues(log);
        for (const [offset, value] of values) expect(value, choice).toBe(`value ${offset}`);
        expect(values.size).toBe(log.logEndOffset - log.logStartOffset);
        await log.sync();
        die();
        if (attempt === 0) disk.crash();
      }
    };

  test('leaves a log that opens: retention of several segments', async () => {
    const act = async ({ log, directory }: Broker): Promise<void> => {
      log.deleteRecordsBefore(at(9));
      log.applyRetention(NOW_MS, at(10));
      const known = directory.checkpoint(new Map());
      await Promise.race([known, new Promise(setImmediate)]);
    };
    // The start of the log is known before a segment goes: hung, none goes at all.
    await forAllChoices(act, opens({ start: 9, end: 10 }));
  });

  test('the same, when the segments are being renamed', async () => {
    let choices = 1;
    for (let choice = 0; choice < choices; choice++) {
      const { disk, broker, bases } = await filled();
      const first = bases[2] ?? 0;
      broker.log.deleteRecordsBefore(at(first));
      broker.log.applyRetention(NOW_MS, at(10));
      // The names wait for a sync that does not come.
      disk.fail({ operation: 'syncDirectory', path: /orders-0$/ });
      while (disk.port().exists(segmentPath(0))) await Promise.resolve();
      broker.die();
      choices = 2 ** disk.image.pendingNames;
      disk.crashKeeping((change) => ((choice >> change) & 1) === 1, 'keepAll');
      await opens({ start: first, end: 10 })(disk, `${choice} of ${choices}`);
    }
    expect(choices).toBeGreaterThanOrEqual(8);
  });

  test('a truncation of several segments', async () => {
    const least = { start: 0, end: 4 };
    await forAllChoices(({ log }) => {
      appendValues(log, letters(10, 16));
      log.truncateTo(at(4));
    }, opens(least));
  });

  test('new segments that nothing was synced of', async () => {
    await forAllChoices(
      ({ log }) => {
        appendValues(log, letters(10, 12));
      },
      opens({ start: 0, end: 10 }),
    );
  });
});
