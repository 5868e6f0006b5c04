/**
 * A data directory of layout 1, as a broker that was killed left it: `data-of-layout-1.json` has its files.
 * In it are the topics `orders` (records a, b, c) and one of 215 characters (d, e); `gone` was deleted.
 */
import { mkdirSync, readFileSync, readdirSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { partitionDirectory } from '@relevo/log/partition-directory';
import recorded from './data-of-layout-1.json' with { type: 'json' };
import { relevo } from './host.ts';
import { StartedCluster } from './started-cluster.ts';

const LONG = 'x'.repeat(215);

function restore(data: string, port: number): void {
  mkdirSync(data);
  const { clusterId, files } = recorded;
  writeFileSync(join(data, 'cluster.json'), JSON.stringify({ clusterId, brokers: 1, port }));
  for (const [path, content] of Object.entries(files)) {
    const file = join(data, 'broker-1', path);
    mkdirSync(dirname(file), { recursive: true });
    writeFileSync(file, Buffer.from(content, 'base64'));
  }
}

let cluster: StartedCluster;
beforeAll(async () => {
  cluster = await StartedCluster.start(1, restore);
}, 60_000);
afterAll(() => cluster.destroy());

const read = async (topic: string): Promise<string> =>
  (await relevo(['consume', topic, '--from', 'earliest', '--bootstrap', cluster.bootstrap])).stdout;

test('is taken over with all that is in it', async () => {
  expect([await read('orders'), await read(LONG)]).toEqual(['a\nb\nc\n', 'd\ne\n']);
  const data = join(cluster.data, 'broker-1');
  const directories = readdirSync(data, { withFileTypes: true })
    .filter((entry) => entry.isDirectory())
    .map(({ name }) => name);
  const names = ['orders-0', 'orders-1', 'quorum', partitionDirectory(LONG, 0)];
  expect(directories.sort()).toEqual(names.sort());
  expect(readFileSync(join(data, 'meta.properties'), 'utf8')).toMatch(/^version=2\n/);
}, 60_000);

test('takes records and deletions as ever, and is in order', async () => {
  const at = ['--bootstrap', cluster.bootstrap];
  await relevo(['produce', LONG, ...at], { stdin: 'f\n' });
  expect(await read(LONG)).toBe('d\ne\nf\n');
  expect((await relevo(['topic', 'delete', 'orders', ...at])).exitCode).toBe(0);
  await cluster.signal('SIGTERM');
  const { exitCode, stdout } = await relevo(['log', 'verify', cluster.data]);
  expect({ exitCode, stdout }).toEqual({
    exitCode: 0,
    stdout: expect.stringMatching(/x{100}~[0-9a-f]{64}-0 .*ok\n/) as string,
  });
}, 60_000);
