import { describe, expect, test } from 'vitest';
import { recoveryPointOf, verifyLog } from '@relevo/log/verify-log';
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

const verify = (disk: SimulatedDisk, recoveryPoint = 0): LogReport =>
  verifyLog(
    { directory: DIRECTORY, recoveryPoint: at(recoveryPoint) },
    { disk: disk.port(), crc32c },
  );

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
      (disk) => disk.flipBit(path('leader-epoch-checkpoint'), 11, 1),
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
      verifyLog({ directory: DIRECTORY, heldRecords }, { disk: disk.port(), crc32c }).damages;
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

  test('the recovery point is the checkpoint’s', () => {
    const disk = newDisk();
    disk.port().makeDirectory(DIRECTORY);
    expect(recoveryPointOf(disk.port(), DIRECTORY)).toBeUndefined();
    const text = new TextEncoder().encode('0\n2\norders 0 17\nother 1 5\n');
    disk.port().open('/data/recovery-point-offset-checkpoint', 'create').write(text, 0);
    expect(recoveryPointOf(disk.port(), DIRECTORY)).toBe(17);
    const lower = new TextEncoder().encode('0\n1\n4\n');
    disk.port().open(path('truncation-checkpoint'), 'create').write(lower, 0);
    expect(recoveryPointOf(disk.port(), DIRECTORY)).toBe(4);
  });
});
