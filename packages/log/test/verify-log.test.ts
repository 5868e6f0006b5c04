import { describe, expect, test } from 'vitest';
import { encodeCheckpoint } from '@relevo/log/checkpoint-file';
import { knownExtent } from '@relevo/log/known-extent';
import { knownExtentOf, verifyLog } from '@relevo/log/verify-log';
import type { KnownExtent } from '@relevo/log/known-extent';
import type { LogReport } from '@relevo/log/verify-log';
import { crc32c } from '@relevo/record/crc32c';
import type { SimulatedDisk } from '@relevo/simulation/simulated-disk';
import {
  DIRECTORY,
  NOW_MS,
  TOPIC_ID,
  at,
  batch,
  config,
  epoch,
  newDisk,
  openLog,
} from './support.ts';

const known = (recoveryPoint: number): KnownExtent =>
  knownExtent({
    logStart: undefined,
    recoveryPoint: at(recoveryPoint),
    highWatermark: undefined,
    syncedSegment: undefined,
    truncation: undefined,
  });

const verify = (disk: SimulatedDisk, recoveryPoint = 0): LogReport =>
  verifyLog({ directory: DIRECTORY, known: known(recoveryPoint) }, { disk: disk.port(), crc32c });

async function filled(): Promise<SimulatedDisk> {
  const disk = newDisk();
  const settings = config({ segmentBytes: 3000, indexIntervalBytes: 200 });
  const log = openLog(disk, { config: settings });
  for (let index = 0; index < 40; index++) {
    const bytes = batch({
      count: 2,
      timestampMs: NOW_MS + index,
      producer: 1,
      sequence: index * 2,
    });
    log.appendAsLeader(bytes, epoch(index >> 4), NOW_MS);
  }
  await log.close();
  return disk;
}

const path = (name: string): string => `${DIRECTORY}/${name}`;
const FIRST = '00000000000000000000';

describe('verifying a log', () => {
  test('that was cut and killed before its epoch file was written anew finds nothing wrong', async () => {
    const disk = newDisk();
    const settings = config({ segmentBytes: 3000, indexIntervalBytes: 200 });
    const log = openLog(disk, { config: settings });
    const append = (leader: number): unknown =>
      log.appendAsLeader(batch({ valueBytes: 200 }), epoch(leader), NOW_MS);
    for (let index = 0; index < 30; index++) append(index < 20 ? 0 : 1);
    await log.advanceRecoveryPoint(at(10));
    log.truncateTo(at(15));
    for (let index = 0; index < 15; index++) append(2);
    await log.sync();
    const report = verify(disk, 10);
    expect(report.findings.filter(({ severity }) => severity === 'damage')).toEqual([]);
    const found = openLog(disk, { config: settings, recoveryPoint: at(10) });
    expect(found.epochEntries).toEqual(log.epochEntries);
  });

  test('one that is in order has no findings', async () => {
    const report = verify(await filled(), 80);
    expect(report).toMatchObject({
      topicId: TOPIC_ID,
      batches: 40,
      records: 80,
      startOffset: 0,
      endOffset: 80,
      latestEpoch: 2,
      findings: [],
      damages: 0,
    });
    expect(report.segments).toBeGreaterThan(1);
  });

  test.each<[string, (disk: SimulatedDisk) => void, RegExp]>([
    [
      'a changed byte of a record',
      (disk) => disk.flipBit(path(`${FIRST}.log`), 300, 0),
      /\.log: .*CRC/,
    ],
    [
      'a changed length',
      (disk) => disk.flipBit(path(`${FIRST}.log`), 11, 6),
      /\.log: the batch at offset 0/,
    ],
    [
      'a changed epoch',
      (disk) => disk.flipBit(path(`${FIRST}.log`), 15, 3),
      /epoch falls from 8 to 0/,
    ],
    [
      'other epochs',
      (disk) => {
        const file = disk.port().open(path('leader-epoch-checkpoint'), 'existing');
        file.truncate(0);
        file.write(encodeCheckpoint(['0 0', '1 30', '2 64']), 0);
      },
      /says epoch 1 at offset 30, the log has 0; remove this file alone/,
    ],
    ['no metadata', (disk) => disk.port().remove(path('partition.metadata')), /metadata: missing/],
    ['a missing end', (disk) => truncate(disk, -10), /yet all below 80 was synced|TRUNCATED|bytes/],
  ])('%s is found', async (_, spoil, message) => {
    const disk = await filled();
    spoil(disk);
    const report = verify(disk, 80);
    const found = report.findings
      .map((finding) => `${finding.path}: ${finding.message}`)
      .join('\n');
    expect(report.damages).toBeGreaterThan(0);
    expect(found).toMatch(message);
  });

  test.each<[string, (disk: SimulatedDisk) => void, RegExp]>([
    [
      'a lying index',
      (disk) => disk.flipBit(path(`${FIRST}.index`), 15, 0),
      /\.index: entry 1 says/,
    ],
    [
      'a lying time index',
      (disk) => disk.flipBit(path(`${FIRST}.timeindex`), 7, 0),
      /timeindex: entry 0/,
    ],
    [
      'a damaged index',
      (disk) => disk.flipBit(path(`${FIRST}.index`), 0, 7),
      /no index of this segment/,
    ],
    [
      'a damaged snapshot',
      (disk) => disk.flipBit(path(`${String(80).padStart(20, '0')}.snapshot`), 20, 1),
      /snapshot: it fails its CRC/,
    ],
    [
      'an epoch file that is none',
      (disk) => disk.port().open(path('leader-epoch-checkpoint'), 'existing').truncate(3),
      /understood; it is rebuilt/,
    ],
    ['no epoch file', (disk) => disk.port().remove(path('leader-epoch-checkpoint')), /^$/],
    ['no index', (disk) => disk.port().remove(path(`${FIRST}.index`)), /missing; it is rebuilt/],
  ])('%s is no damage: it is made anew', async (_, spoil, message) => {
    const disk = await filled();
    spoil(disk);
    const report = verify(disk, 80);
    expect(report.damages).toBe(0);
    const found = report.findings.map((finding) => `${finding.path}: ${finding.message}`);
    expect(found.join('\n')).toMatch(message);
    for (const finding of report.findings) expect(finding.severity).toBe('note');
    // The broker holds it so too.
    expect(openLog(disk, { recoveryPoint: at(80) }).logEndOffset).toBe(80);
  });

  test('an empty log that was never synced is no damage; one that held records is', () => {
    const disk = newDisk();
    disk.port().makeDirectory(DIRECTORY);
    const judge = (heldRecords: boolean): number =>
      verifyLog(
        { directory: DIRECTORY, noted: heldRecords ? {} : undefined },
        { disk: disk.port(), crc32c },
      ).damages;
    expect(judge(false)).toBe(0);
    expect(judge(true)).toBe(2);
  });

  function truncate(disk: SimulatedDisk, by: number): void {
    const logs = disk
      .port()
      .list(DIRECTORY)
      .filter(({ name }) => name.endsWith('.log'));
    const file = disk.port().open(path(logs.at(-1)?.name ?? ''), 'existing');
    file.truncate(file.size() + by);
  }

  test('a torn tail above the recovery point is no damage', async () => {
    const disk = await filled();
    truncate(disk, -10);
    const report = verify(disk, 70);
    expect(report.damages).toBe(0);
    expect(report.findings[0]).toMatchObject({ severity: 'note' });
    expect(report.findings[0]?.message).toMatch(/torn tail/);
    expect(report.endOffset).toBe(78);
  });

  test('what is known is what the checkpoints say, unless a truncation has lowered it', () => {
    const disk = newDisk();
    const put = (name: string, text: Uint8Array): void =>
      disk.port().open(name, 'create').write(text, 0);
    const unknown = { start: undefined, recoveryPoint: 0, syncedEnd: 0, segment: undefined };
    disk.port().makeDirectory(DIRECTORY);
    expect(knownExtentOf(disk.port(), DIRECTORY)).toEqual(unknown);
    put('/data/recovery-point-offset-checkpoint', encodeCheckpoint(['orders 0 17', 'other 1 5']));
    put('/data/log-start-offset-checkpoint', encodeCheckpoint(['orders 0 3']));
    put('/data/replication-offset-checkpoint', encodeCheckpoint(['orders 0 9']));
    put(path(`${String(12).padStart(20, '0')}.synced`), new Uint8Array(0));
    const found = { start: 3, recoveryPoint: 17, syncedEnd: 17, segment: 12 };
    expect(knownExtentOf(disk.port(), DIRECTORY)).toEqual(found);
    put(path('truncation-checkpoint'), new TextEncoder().encode('0\n1\n4\n'));
    expect(knownExtentOf(disk.port(), DIRECTORY)).toEqual({
      ...unknown,
      start: 3,
      recoveryPoint: 4,
      syncedEnd: 4,
    });
  });

  test('what an older version wrote proves no start: it deleted first and wrote later', () => {
    const disk = newDisk();
    disk.port().makeDirectory(DIRECTORY);
    const text = new TextEncoder().encode('0\n1\norders 0 17\n');
    disk.port().open('/data/log-start-offset-checkpoint', 'create').write(text, 0);
    disk.port().open('/data/recovery-point-offset-checkpoint', 'create').write(text, 0);
    expect(knownExtentOf(disk.port(), DIRECTORY)).toMatchObject({
      start: undefined,
      recoveryPoint: 17,
    });
  });
});
