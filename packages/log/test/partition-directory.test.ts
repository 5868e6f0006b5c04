/** What the directories of partitions are called, whatever topics are called. */
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { brokerId } from '@relevo/base/ids';
import { utf8Encode } from '@relevo/base/bytes';
import { LogDirectory } from '@relevo/log/log-directory';
import {
  ORDINARY_TOPIC_MAX,
  deletedDirectory,
  identifyPartition,
  isPartitionDirectory,
  partitionDirectory,
  setAsideDirectory,
} from '@relevo/log/partition-directory';
import { verifyLog, knownExtentOf } from '@relevo/log/verify-log';
import { crc32c } from '@relevo/record/crc32c';
import type { SimulatedDisk } from '@relevo/simulation/simulated-disk';
import {
  NOW_MS,
  OTHER_TOPIC_ID,
  TOPIC_ID,
  appendValues,
  at,
  config,
  messageOf,
  newDisk,
  readValues,
  recordingLogger,
} from './support.ts';

const legal = fc.stringMatching(/^[A-Za-z0-9._-]{1,249}$/);
const partition = fc.oneof(fc.nat(20), fc.integer({ min: 0, max: 2 ** 31 - 1 }));
/** Names that differ in little. */
const similar = fc
  .tuple(fc.integer({ min: 1, max: 249 }), fc.constantFrom('a', '-1', '.', '-'), partition)
  .map(([length, end, number]) => ({ topic: ('x'.repeat(length) + end).slice(-249), number }));
const any = fc.oneof(fc.record({ topic: legal, number: partition }), similar);

describe('the directory of a partition', () => {
  test('is called as in Kafka, unless the topic’s name is long', () => {
    expect(partitionDirectory('orders', 3)).toBe('orders-3');
    const most = 'x'.repeat(ORDINARY_TOPIC_MAX);
    expect(partitionDirectory(most, 0)).toBe(`${most}-0`);
    expect(partitionDirectory(`${most}x`, 12)).toMatch(/^x{100}~[0-9a-f]{64}-12$/);
  });

  test('is never that of another partition, nor of another kind', () => {
    fc.assert(
      fc.property(any, any, (a, b) => {
        const directory = partitionDirectory(a.topic, a.number);
        const isSame = a.topic === b.topic && a.number === b.number;
        expect(directory === partitionDirectory(b.topic, b.number)).toBe(isSame);
        for (const other of [
          deletedDirectory(directory, TOPIC_ID),
          setAsideDirectory(directory, TOPIC_ID, NOW_MS),
          'quorum',
        ]) {
          expect(isPartitionDirectory(other)).toBe(false);
        }
        expect(isPartitionDirectory(directory)).toBe(true);
      }),
      { numRuns: 1000 },
    );
  });

  test('is within 255 bytes, with all that is ever appended to its name', () => {
    fc.assert(
      fc.property(any, ({ topic, number }) => {
        const directory = partitionDirectory(topic, number);
        const names = [
          deletedDirectory(directory, TOPIC_ID),
          setAsideDirectory(directory, TOPIC_ID, 8.64e15),
        ];
        for (const name of names) expect(utf8Encode(name).length).toBeLessThanOrEqual(255);
      }),
    );
  });
});

// ------------------------------------------------------------------------------------ in use

const LONG = `orders.${'x'.repeat(242)}`;
const NAME = `${LONG}-3`;
const PATH = `/data/${partitionDirectory(LONG, 3)}`;

const open = (disk: SimulatedDisk): LogDirectory =>
  LogDirectory.open(
    {
      root: '/data',
      brokerId: brokerId(1),
      clusterId: 'one',
      newDirectoryId: () => TOPIC_ID,
      youngBytesMax: 0,
    },
    { disk: disk.port(), crc32c, logger: recordingLogger(), clock: { monotonicMs: () => 0 } },
  );

const openLog = (
  directory: LogDirectory,
  topicId = OTHER_TOPIC_ID,
): ReturnType<LogDirectory['openLog']> =>
  directory.openLog({ topic: LONG, partition: 3, topicId, config: config(), nowMs: NOW_MS });

async function written(disk: SimulatedDisk): Promise<void> {
  const directory = open(disk);
  const log = openLog(directory);
  appendValues(log, ['a', 'b']);
  await log.sync();
  await directory.checkpoint(new Map([[NAME, at(2)]]));
}

describe('the log of a topic with the longest name', () => {
  test('is found again after a crash, under its whole name', async () => {
    const disk = newDisk();
    await written(disk);
    disk.crash();
    const directory = open(disk);
    expect(directory.partitions).toMatchObject([
      { name: NAME, topic: LONG, partition: 3, topicId: OTHER_TOPIC_ID },
    ]);
    expect([...(await readValues(openLog(directory))).values()]).toEqual(['a', 'b']);
    expect(directory.highWatermark(NAME)).toBe(2);
  });

  test.each(['while it is open', 'when it was found and never opened'])(
    'can be deleted %s',
    async (when) => {
      const disk = newDisk();
      await written(disk);
      disk.crash();
      const directory = open(disk);
      if (when.startsWith('while')) openLog(directory);
      await directory.delete(NAME);
      disk.crash();
      const again = open(disk);
      expect(again.partitions).toEqual([]);
      expect(again.lost).toEqual([]);
      expect(disk.port().exists(PATH)).toBe(false);
    },
  );

  test('is not lost in silence', async () => {
    const disk = newDisk();
    await written(disk);
    disk.crash();
    disk.port().removeTree(PATH);
    const directory = open(disk);
    expect(directory.lost).toMatchObject([{ name: NAME, topic: LONG, recoveryPoint: 2 }]);
    expect(messageOf(() => openLog(directory))).toMatch(
      /^corrupt: .*is lost: the directory is gone/,
    );
  });

  test('is told from one of the same name whose topic was deleted', async () => {
    const disk = newDisk();
    await written(disk);
    disk.crash();
    expect(messageOf(() => openLog(open(disk), TOPIC_ID))).toMatch(
      /^foreign: .*belongs to topic id/,
    );
  });

  test('is named though its metadata is damaged, and verified with its recovery point', async () => {
    const disk = newDisk();
    await written(disk);
    disk.crash();
    const port = disk.port();
    port.remove(`${PATH}/partition.metadata`);
    expect(identifyPartition(port, '/data', PATH.slice(6), [NAME])).toMatchObject({ name: NAME });
    expect(open(disk).partitions).toMatchObject([{ name: NAME, topic: LONG, topicId: undefined }]);
    const known = knownExtentOf(port, PATH);
    expect(known.recoveryPoint).toBe(2);
    const report = verifyLog({ directory: PATH, known }, { disk: port, crc32c });
    expect(report.damages).toBe(1);
  });

  test('is no log where no topic can be called so', () => {
    const directory = open(newDisk());
    const options = { partition: 0, topicId: TOPIC_ID, config: config(), nowMs: NOW_MS };
    expect(messageOf(() => directory.openLog({ ...options, topic: '../orders' }))).toMatch(
      /^foreign: "\.\.\/orders" cannot be the name of a topic/,
    );
  });
});
