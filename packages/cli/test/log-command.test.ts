/** `relevo log` against directories that the test has written. */
import { mkdtempSync, readFileSync, readdirSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { brokerId, uuid } from '@relevo/base/ids';
import type { LeaderEpoch, Offset } from '@relevo/base/ids';
import type { Logger } from '@relevo/base/ports';
import { DEFAULT_LOG_CONFIG } from '@relevo/log/log-config';
import { LogDirectory } from '@relevo/log/log-directory';
import { BatchBuilder, NO_HEADERS } from '@relevo/record/batch-builder';
import { crc32c } from '@relevo/runtime/crc32c';
import { NodeDisk } from '@relevo/runtime/disk';
import { relevo } from './host.ts';

const SILENT: Logger = {
  debug: () => undefined,
  info: () => undefined,
  warn: () => undefined,
  error: () => undefined,
  child: () => SILENT,
};
const NOW_MS = 1_700_000_000_000;

let root: string;
beforeEach(async () => {
  root = mkdtempSync(join(tmpdir(), 'relevo-log-'));
  const directory = LogDirectory.open(
    {
      root: join(root, 'data'),
      brokerId: brokerId(1),
      clusterId: 'one',
      newDirectoryId: () => uuid('DDDDDDDDDDDDDDDDDDDDDD'),
      youngBytesMax: 0,
    },
    { disk: new NodeDisk(), crc32c, logger: SILENT, clock: { monotonicMs: () => 0 } },
  );
  for (const partition of [0, 1]) {
    const log = directory.openLog({
      topic: 'orders',
      partition,
      topicId: uuid('AAAAAAAAAAAAAAAAAAAAAA'),
      config: { ...DEFAULT_LOG_CONFIG, segmentBytes: 1000, indexIntervalBytes: 200 },
      nowMs: NOW_MS,
    });
    for (let index = 0; index < 20; index++) {
      const builder = new BatchBuilder();
      builder.append('key', `value ${index} of partition ${partition}`, NO_HEADERS, NOW_MS + index);
      log.appendAsLeader(builder.build({}, crc32c), 3 as LeaderEpoch, NOW_MS);
    }
  }
  await directory.close(new Map([['orders-0', 20 as Offset]]));
});
afterEach(() => rmSync(root, { recursive: true, force: true }));

const segment = (): string => join(root, 'data/orders-0/00000000000000000000.log');

function damage(): void {
  const bytes = readFileSync(segment());
  bytes[90] = (bytes[90] ?? 0) ^ 1;
  writeFileSync(segment(), bytes);
}

const jsonLines = (text: string): Record<string, unknown>[] =>
  text
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line) as Record<string, unknown>);

describe('relevo log verify', () => {
  test.each(['data', 'data/orders-0', '.'])('of %s in order ends with 0', async (where) => {
    const { exitCode, stdout, stderr } = await relevo(['log', 'verify', join(root, where)]);
    expect({ exitCode, stderr }).toEqual({ exitCode: 0, stderr: '' });
    expect(stdout).toMatch(/orders-0 +0 to 20 +2 +20 +20 +[\d.]+ kB +3 +ok/);
    expect(stdout).toMatch(/logs? in order\n$/);
  });

  test('finds the quorum’s log too', async () => {
    renameSync(join(root, 'data/orders-1'), join(root, 'data/quorum'));
    const { exitCode, stdout } = await relevo(['log', 'verify', join(root, 'data/quorum')]);
    expect(exitCode).toBe(0);
    expect(stdout).toMatch(/^quorum +0 to 20 .*ok$/m);
    const dumped = await relevo(['log', 'dump', '--records', join(root, 'data/quorum'), '-n', '1']);
    expect(dumped.stdout).toMatch(/value 0 of partition 1/);
  });

  test('finds the logs below a directory that is named like a partition', async () => {
    renameSync(join(root, 'data'), join(root, 'broker-1'));
    const { exitCode, stdout } = await relevo(['log', 'verify', root]);
    expect(exitCode).toBe(0);
    expect(stdout).toMatch(/broker-1\/orders-0 +0 to 20/);
  });

  test('tells of damage, says where and what to do, and ends with 1', async () => {
    damage();
    const { exitCode, stdout } = await relevo(['log', 'verify', join(root, 'data')]);
    expect(exitCode).toBe(1);
    expect(stdout).toContain(`damage: ${segment()} at byte 0: the batch at offset 0: `);
    expect(stdout).toMatch(/orders-1 .* ok\n/);
    expect(stdout).toContain('1 damage found; start the broker: it copies a damaged log anew');
  });

  test('names a log that held records and is gone, be it the only one', async () => {
    rmSync(join(root, 'data/orders-0'), { recursive: true });
    const first = await relevo(['log', 'verify', root]);
    expect(first.exitCode).toBe(1);
    expect(first.stdout).toMatch(/orders-0 .* 1 damage\n/);
    expect(first.stdout).toContain(
      `damage: ${join(root, 'data/orders-0')}: the log is gone, yet all below offset 20 was synced`,
    );
    expect(first.stdout).toMatch(/orders-1 .* ok\n/);
    rmSync(join(root, 'data/orders-1'), { recursive: true });
    const { exitCode, stdout } = await relevo(['log', 'verify', join(root, 'data')]);
    expect(exitCode).toBe(1);
    expect(stdout).toContain('2 damages found');
  });

  test.each(['index', 'timeindex', 'snapshot'])(
    'what follows from the log is no damage, be it wrong or gone: .%s',
    async (suffix) => {
      const directory = join(root, 'data/orders-0');
      const names = readdirSync(directory).filter((name) => name.endsWith(`.${suffix}`));
      expect(names.length).toBeGreaterThan(0);
      for (const name of names) writeFileSync(join(directory, name), 'nonsense');
      const wrong = await relevo(['log', 'verify', directory]);
      expect(wrong).toMatchObject({ exitCode: 0 });
      expect(wrong.stdout).toMatch(/note: .*rebuilt/);
      expect(wrong.stdout).toMatch(/1 log in order\n$/);
      for (const name of names) rmSync(join(directory, name));
      expect(await relevo(['log', 'verify', directory])).toMatchObject({ exitCode: 0 });
    },
  );

  test('--json has the same in one object', async () => {
    damage();
    const { exitCode, stdout } = await relevo(['log', 'verify', join(root, 'data'), '--json']);
    expect(exitCode).toBe(1);
    expect(JSON.parse(stdout)).toMatchObject({
      damages: 1,
      logs: [
        { damages: 1, endOffset: 20, findings: [{ severity: 'damage', position: 0 }] },
        { damages: 0, batches: 20, records: 20 },
      ],
    });
  });

  test.each([
    ['nowhere', /nowhere does not exist/],
    ['data/orders-0/partition.metadata', /cannot look into/],
    ['empty', /there is no log in .*empty; give a data directory/],
  ])('of %s says what is wrong', async (where, message) => {
    new NodeDisk().makeDirectory(join(root, 'empty'));
    const { exitCode, stderr } = await relevo(['log', 'verify', join(root, where)]);
    expect(exitCode).toBe(1);
    expect(stderr).toMatch(message);
  });
});

describe('relevo log accept-loss', () => {
  const FAILED = ['1', '1', 'orders 0 AAAAAAAAAAAAAAAAAAAAAA failed'].join('\n') + '\n';
  const mark = (): void => {
    const text = `${FAILED}crc32c ${crc32c(Buffer.from(FAILED)).toString(16).padStart(8, '0')}\n`;
    writeFileSync(join(root, 'data/failed-logs'), text);
  };

  test('lets a log be used of which a write has failed, and says so', async () => {
    mark();
    const before = readFileSync(segment());
    const { exitCode, stdout } = await relevo(['log', 'verify', join(root, 'data')]);
    expect(exitCode).toBe(1);
    expect(stdout).toMatch(/orders-0: a write or a sync has failed: .*accept-loss/);
    const accepted = await relevo(['log', 'accept-loss', join(root, 'data'), 'orders-0']);
    expect(accepted).toMatchObject({ exitCode: 0 });
    expect(accepted.stdout).toMatch(/^orders-0: .* written anew\n.*opened at the next start/);
    expect(readFileSync(segment())).toEqual(before);
    expect(await relevo(['log', 'verify', join(root, 'data')])).toMatchObject({ exitCode: 0 });
  });

  test('does nothing for one of which none has failed, nor while a broker runs', async () => {
    mark();
    const data = join(root, 'data');
    const other = await relevo(['log', 'accept-loss', data, 'orders-1']);
    expect(other.exitCode).toBe(1);
    expect(other.stderr).toContain('no write of orders-1 has failed (failed: orders-0)');
    const lock = new NodeDisk().lock(data);
    try {
      const locked = await relevo(['log', 'accept-loss', data, 'orders-0']);
      expect(locked.exitCode).toBe(1);
      expect(locked.stderr).toMatch(/in use|used by|another process|locked/i);
    } finally {
      lock.release();
    }
  });
});

describe('relevo log dump', () => {
  test('shows every batch', async () => {
    const { exitCode, stdout } = await relevo(['log', 'dump', join(root, 'data/orders-0')]);
    expect(exitCode).toBe(0);
    const lines = stdout.trim().split('\n');
    expect(lines[0]).toBe('log orders-0');
    expect(lines.length).toBe(21);
    expect(lines[1]).toMatch(
      /^offsets 0 to 0 {2}1 record {2}epoch 3 {2}time 1700000000000 {2}\d+ bytes at 0 of 0{20}\.log {2}crc ok$/,
    );
  });

  test('with records, from an offset, so many', async () => {
    const argv = ['log', 'dump', join(root, 'data'), '--json', '-r', '--from', '7', '--max', '2'];
    const { stdout } = await relevo(argv);
    const lines = jsonLines(stdout);
    expect(lines.map(({ log, baseOffset }) => `${String(log)} ${String(baseOffset)}`)).toEqual([
      'orders-0 7',
      'orders-0 8',
      'orders-1 7',
      'orders-1 8',
    ]);
    expect(lines[0]).toMatchObject({
      leaderEpoch: 3,
      error: null,
      records: [{ offset: 7, key: 'key', value: 'value 7 of partition 0', timestamp: NOW_MS + 7 }],
    });
  });

  test('shows damage and goes on', async () => {
    damage();
    const { exitCode, stdout } = await relevo(['log', 'dump', join(root, 'data'), '--json']);
    expect(exitCode).toBe(1);
    const errors = jsonLines(stdout).map(({ error }) => error);
    expect(errors.length).toBe(40);
    expect(errors.filter((error) => error !== null).length).toBe(1);
  });

  test('a file that ends within a batch is told', async () => {
    writeFileSync(segment(), readFileSync(segment()).subarray(0, 150));
    const { exitCode, stdout } = await relevo(['log', 'dump', join(root, 'data/orders-0')]);
    expect(exitCode).toBe(1);
    expect(stdout).toMatch(/0\.log holds no batch from byte \d+ on: /);
  });
});
