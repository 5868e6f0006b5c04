/** A data directory of `relevo start` that is moved, with what is in it. */
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { relevo } from './host.ts';
import { StartedCluster } from './started-cluster.ts';

let cluster: StartedCluster;
beforeAll(async () => {
  cluster = await StartedCluster.start(1);
}, 60_000);
afterAll(() => cluster.destroy());

test('the records go along, and nothing is left or made at the old place', async () => {
  const at = ['--bootstrap', cluster.bootstrap];
  const replicas = ['--replication-factor', '1'];
  await relevo(['topic', 'create', 'orders', ...replicas, ...at]);
  expect((await relevo(['produce', 'orders', ...at], { stdin: 'a\nb\n' })).exitCode).toBe(0);
  await cluster.signal('SIGTERM');
  cluster.move('elsewhere');
  await cluster.start();
  const { stdout } = await relevo(['consume', 'orders', '--from', 'earliest', ...at]);
  expect(stdout).toBe('a\nb\n');
  expect(existsSync(join(cluster.directory, 'data'))).toBe(false);
}, 60_000);
