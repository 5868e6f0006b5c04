import { describe, expect, test } from 'vitest';
import { bytesEqual } from '@relevo/base/bytes';
import { LogError } from '@relevo/log/log-error';
import type { PartitionLog } from '@relevo/log/partition-log';
import type { SimulatedDisk } from '@relevo/simulation/simulated-disk';
import {
  DIRECTORY,
  NOW_MS,
  appendValues,
  at,
  batch,
  config,
  epoch,
  newDisk,
  openLog,
  readAll,
  readValues,
  recordingLogger,
  value,
} from './support.ts';

const FILE = `${DIRECTORY}/00000000000000000000.log`;

/** Replaces a file on stable storage, as if the disk had held that. */
function put(disk: SimulatedDisk, path: string, bytes: Uint8Array): void {
  const file = disk.port().open(path, 'create');
  file.truncate(0);
  file.write(bytes, 0);
  file.datasyncNow();
  file.close();
}

const files = (disk: SimulatedDisk): Map<string, Uint8Array> =>
  new Map(
    disk
      .port()
      .list(DIRECTORY)
      .map(({ name }) => [name, disk.contents(`${DIRECTORY}/${name}`)]),
  );

/** A log with `batches` of these sizes in values, all on stable storage. */
async function filled(
  sizes: readonly number[],
): Promise<{ disk: SimulatedDisk; ends: number[]; bytes: Uint8Array }> {
  const disk = newDisk();
  const log = openLog(disk);
  const ends: number[] = [];
  let size = 0;
  for (const valueBytes of sizes) {
    const bytes = batch({ values: [value(valueBytes)] });
    log.appendAsLeader(bytes, epoch(0), NOW_MS);
    size += bytes.length;
    ends.push(size);
  }
  await log.sync();
  return { disk, ends, bytes: disk.contents(FILE) };
}

function tryOpen(disk: SimulatedDisk, recoveryPoint = 0): PartitionLog | LogError {
  try {
    return openLog(disk, { recoveryPoint: at(recoveryPoint) });
  } catch (error) {
    if (error instanceof LogError) return error;
    throw error;
  }
}

describe('a torn tail', () => {
  test('cut at any byte leaves all batches before, and is reported', async () => {
    const { disk, ends, bytes } = await filled([100, 700, 40]);
    const [first = 0] = ends;
    for (let length = first; length <= bytes.length; length++) {
      put(disk, FILE, bytes.subarray(0, length));
      const logger = recordingLogger();
      const log = openLog(disk, { recoveryPoint: at(1) }, { logger });
      const whole = ends.filter((end) => end <= length).length;
      expect(log.logEndOffset).toBe(whole);
      const kept = ends[whole - 1] ?? 0;
      expect(bytesEqual(disk.contents(FILE), bytes.subarray(0, kept))).toBe(true);
      const cuts = logger.lines.filter(({ event }) => event === 'truncated a torn tail');
      expect(cuts.length).toBe(kept < length ? 1 : 0);
      appendValues(log, ['next']);
      expect((await readValues(log)).get(whole)).toBe('next');
    }
  });

  test('may lack any sector above the recovery point, and have intact batches after it', async () => {
    const { disk, ends, bytes } = await filled([100, 700, 1500, 40, 900, 300]);
    const [first = 0] = ends;
    const start = Math.ceil(first / 512) * 512;
    for (let sector = start; sector < bytes.length; sector += 512) {
      const torn = bytes.slice().fill(0, sector, sector + 512);
      put(disk, FILE, torn);
      const log = openLog(disk, { recoveryPoint: at(1) });
      expect(log.logEndOffset).toBe(ends.filter((end) => end <= sector).length);
    }
  });

  test('of zeros only is cut', async () => {
    const { disk, ends, bytes } = await filled([100, 200]);
    for (const zeros of [1, 11, 60, 61, 512, 5000]) {
      put(disk, FILE, Uint8Array.from([...bytes, ...new Uint8Array(zeros)]));
      expect(openLog(disk, { recoveryPoint: at(1) }).logEndOffset).toBe(2);
      expect(disk.contents(FILE).length).toBe(ends[1]);
    }
  });
});

describe('damage', () => {
  const unchanged = (disk: SimulatedDisk, before: Uint8Array): void => {
    expect(bytesEqual(disk.contents(FILE), before)).toBe(true);
  };

  test('below the recovery point any changed byte is reported, and nothing is cut', async () => {
    const { disk, bytes } = await filled([100, 200, 40]);
    for (let place = 0; place < bytes.length; place++) {
      const damaged = bytes.slice();
      damaged[place] = (damaged[place] ?? 0) ^ 0x40;
      // The leader epoch lies outside the CRC: a higher one cannot be told from a right one.
      put(disk, FILE, damaged);
      const outcome = tryOpen(disk, 3);
      if (outcome instanceof LogError) expect(outcome.kind).toBe('corrupt');
      else expect(isEpochByte(place, bytes)).toBe(true);
      unchanged(disk, damaged);
    }
  });

  function isEpochByte(place: number, bytes: Uint8Array): boolean {
    for (let start = 0; start < bytes.length;) {
      if (place >= start + 12 && place < start + 16) return true;
      start += new DataView(bytes.buffer, bytes.byteOffset).getInt32(start + 8) + 12;
    }
    return false;
  }

  test('above it a changed byte with no sector missing is no torn tail: nothing is cut', async () => {
    const { disk, ends, bytes } = await filled([100, 700, 40, 90]);
    const [first = 0] = ends;
    for (let place = first; place < bytes.length; place++) {
      const damaged = bytes.slice();
      damaged[place] = (damaged[place] ?? 0) ^ 0x40;
      put(disk, FILE, damaged);
      const outcome = tryOpen(disk, 1);
      if (outcome instanceof LogError) expect(outcome.kind).toBe('corrupt');
      else expect(isEpochByte(place, bytes)).toBe(true);
      unchanged(disk, damaged);
    }
  });

  test('the message says where, and what to do', async () => {
    const { disk, ends, bytes } = await filled([100, 200]);
    disk.flipBit(FILE, (ends[0] ?? 0) + 100, 3);
    const outcome = tryOpen(disk, 2);
    expect(outcome instanceof LogError ? outcome.message : '').toMatch(
      new RegExp(
        `${FILE} at byte ${ends[0]} \\(offset 1\\) is damaged: .*CRC.*below offset 2 was synced; ` +
          'nothing was cut. Where another in-sync replica has the log, it is copied anew',
      ),
    );
    expect(bytes.length).toBe(ends[1]);
  });

  test.each<[string, (disk: SimulatedDisk) => void]>([
    ['the last batches', (disk) => put(disk, FILE, disk.contents(FILE).subarray(0, 171))],
    ['a segment', (disk) => disk.port().remove(FILE)],
    ['the metadata', (disk) => disk.port().remove(`${DIRECTORY}/partition.metadata`)],
  ])('%s missing below the recovery point is reported', async (_, spoil) => {
    const { disk } = await filled([100, 200]);
    spoil(disk);
    const before = files(disk);
    const outcome = tryOpen(disk, 2);
    expect(outcome instanceof LogError ? outcome.kind : 'opened').toBe('corrupt');
    expect(files(disk)).toEqual(before);
  });

  test('a segment missing in the middle is reported', async () => {
    const disk = newDisk();
    const log = openLog(disk, { config: config({ segmentBytes: 300 }) });
    appendValues(log, ['a', 'b', 'c', 'd', 'e', 'f', 'g', 'h', 'i', 'j']);
    await log.sync();
    const second = log.segments[1]?.baseOffset ?? 0;
    disk.port().remove(`${DIRECTORY}/${String(second).padStart(20, '0')}.log`);
    expect(tryOpen(disk, 10)).toMatchObject({ kind: 'corrupt' });
  });

  test('found by a read that begins at it, it takes the log offline, and is not served', async () => {
    const { disk, ends } = await filled([100, 200, 40]);
    await openLog(disk).close();
    disk.flipBit(FILE, (ends[0] ?? 0) + 100, 3);
    const reasons: LogError[] = [];
    const log = openLog(
      disk,
      { cleanShutdown: true },
      { onOffline: (reason) => reasons.push(reason) },
    );
    expect((await log.read(at(0), 10_000, at(3), true)).length).toBe(ends[0]);
    await expect(log.read(at(1), 10_000, at(3), true)).rejects.toMatchObject({ kind: 'corrupt' });
    expect(log.state).toBe('offline');
    expect(reasons.length).toBe(1);
    expect(() => appendValues(log, ['x'])).toThrowError(/offline/);
  });
});

describe('after a crash', () => {
  test('a log that was never synced and lost its metadata begins anew', () => {
    const disk = newDisk();
    appendValues(openLog(disk), ['a']);
    disk.port().remove(`${DIRECTORY}/partition.metadata`);
    const log = openLog(disk);
    expect(log.logEndOffset).toBe(0);
    expect(appendValues(log, ['b'])).toEqual([0]);
  });

  test('what is kept is synced before it counts', async () => {
    const disk = newDisk(3);
    appendValues(openLog(disk), ['a', 'b']);
    expect(openLog(disk).syncedEndOffset).toBe(2);
    disk.crash();
    expect((await readValues(openLog(disk, { recoveryPoint: at(0) }))).size).toBe(2);
  });

  test('the epochs are those of the batches, with the checkpoint or without', async () => {
    const disk = newDisk();
    const log = openLog(disk, { config: config({ segmentBytes: 300 }) });
    for (const leader of [0, 0, 1, 4, 4, 4, 9]) appendValues(log, ['a', 'b'], leader);
    await log.advanceRecoveryPoint(at(8));
    const entries = log.epochEntries;
    for (const spoil of [undefined, new Uint8Array(0), null]) {
      const path = `${DIRECTORY}/leader-epoch-checkpoint`;
      if (spoil === null) disk.port().remove(path);
      else if (spoil !== undefined) put(disk, path, spoil);
      expect(openLog(disk, { recoveryPoint: at(8) }).epochEntries).toEqual(entries);
    }
  });

  test('a truncation that was lost is done again', async () => {
    const disk = newDisk();
    const log = openLog(disk);
    appendValues(log, ['a', 'b']);
    await log.advanceRecoveryPoint(at(1));
    await log.sync();
    const before = disk.contents(FILE);
    disk.hang();
    log.truncateTo(at(1));
    appendValues(log, ['x'], 1);
    put(disk, FILE, before);
    const again = openLog(disk, { recoveryPoint: at(1) });
    expect(again.logEndOffset).toBe(2);
    expect(disk.contents(FILE).length).toBeLessThan(before.length);
    disk.unhang();
    expect([...(await readValues(again)).values()]).toEqual(['a', 'x']);
  });

  test('below the recovery point too, where no batch is read', async () => {
    const disk = newDisk();
    const settings = config({ segmentBytes: 300 });
    const before = openLog(disk, { config: settings });
    appendValues(before, ['a', 'b'], 0);
    await before.close();
    const log = openLog(disk, { config: settings, cleanShutdown: true });
    for (const leader of [1, 2, 3, 4, 5, 6]) {
      appendValues(log, ['a', 'b'], leader);
      await log.advanceRecoveryPoint(log.logEndOffset);
    }
    const again = openLog(disk, { recoveryPoint: log.recoveryPoint });
    expect(again.epochEntries).toEqual(log.epochEntries);
  });

  test('an epoch that was opened and not written to leaves no trace', async () => {
    const disk = newDisk();
    const log = openLog(disk);
    appendValues(log, ['a'], 3);
    log.beginEpoch(epoch(5));
    expect([log.latestEpoch, log.lastRecordEpoch]).toEqual([5, 3]);
    await log.close();
    expect(openLog(disk, { cleanShutdown: true }).latestEpoch).toBe(3);
  });
});

describe('after a clean shutdown', () => {
  test('the log is as it was, with its indexes from their files', async () => {
    const disk = newDisk();
    const settings = config({ segmentBytes: 2000, indexIntervalBytes: 200 });
    const log = openLog(disk, { config: settings });
    for (let index = 0; index < 60; index++) {
      log.appendAsLeader(batch({ timestampMs: NOW_MS + index }), epoch(index >> 4), NOW_MS);
    }
    const expected = await readAll(log);
    expect(await log.close()).toBe(true);
    const logger = recordingLogger();
    const options = { config: settings, cleanShutdown: true, recoveryPoint: log.recoveryPoint };
    const again = openLog(disk, options, { logger });
    expect(logger.lines).toEqual([]);
    expect(again.logEndOffset).toBe(60);
    expect(again.epochEntries).toEqual(log.epochEntries);
    expect(again.segments).toEqual(log.segments);
    expect(await readAll(again)).toEqual(expected);
    expect(await again.offsetForTimestamp(NOW_MS + 33, at(60))).toMatchObject({ offset: 33 });
    expect(again.latestTimestamp).toBe(NOW_MS + 59);
  });

  test('a log that is not as it should be is recovered all the same', async () => {
    const disk = newDisk();
    const log = openLog(disk);
    appendValues(log, ['a', 'b']);
    await log.close();
    appendValues(openLog(disk, { cleanShutdown: true }), ['c']);
    const logger = recordingLogger();
    const again = openLog(disk, { cleanShutdown: true, recoveryPoint: at(2) }, { logger });
    expect(again.logEndOffset).toBe(3);
    expect(logger.lines.map(({ event }) => event)).toEqual([
      'log is not as a clean shutdown leaves it',
      'recovered',
    ]);
  });
});
