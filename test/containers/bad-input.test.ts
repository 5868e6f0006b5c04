/**
 * Containers that cannot work end by themselves, with one line that says what is wrong and what to set, and
 * with exit code 78 (a person has to change something) or 1.
 */
import { execFile } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { promisify } from 'node:util';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { IMAGE, SECRET_FILE, START } from './lib/broker-container.ts';
import { ContainerCluster } from './lib/container-cluster.ts';
import { assertEngine } from './lib/engine.ts';

const run = promisify(execFile);
const LIMIT_MS = 45_000;

let cluster: ContainerCluster;
const volumes: string[] = [];

beforeAll(async () => {
  await assertEngine();
  cluster = await ContainerCluster.start();
}, 90_000);

afterAll(async () => {
  await cluster?.destroy();
  for (const volume of volumes) await run('docker', ['volume', 'rm', '--force', volume]);
}, 60_000);

interface Ended {
  readonly code: number;
  /** The lines that are no log lines of a broker at work. */
  readonly said: readonly string[];
}

/** A broker in the cluster's network, as the compose file starts it, until it ends. */
async function broker(
  name: string,
  settings: Readonly<Record<string, string | number>>,
  volume?: string,
): Promise<Ended> {
  const container = `relevo-bad-${randomUUID().slice(0, 8)}`;
  const all = {
    RELEVO_CLUSTER_ID: 'containers',
    RELEVO_CONTROLLER_QUORUM_VOTERS: '1@broker-1:9093,2@broker-2:9093,3@broker-3:9093',
    RELEVO_LISTENER_GRPC: '0.0.0.0:9093',
    RELEVO_ADVERTISED_GRPC: `${name}:9093`,
    RELEVO_CLUSTER_SECRET_FILE: SECRET_FILE,
    CLUSTER_SECRET: cluster.secret,
    ...settings,
  };
  const command = [
    ...['run', '--init', '--read-only', '--tmpfs', '/tmp', '--cap-drop', 'ALL'],
    ...['--name', container, '--network', cluster.network, '--network-alias', name],
    ...Object.entries(all).flatMap(([key, value]) => ['--env', `${key}=${value}`]),
    ...(volume === undefined ? [] : ['--volume', `${volume}:/var/lib/relevo`]),
    ...['--entrypoint', 'sh', IMAGE, '-c', START],
  ];
  try {
    const { code, text } = await run('docker', command, { timeout: LIMIT_MS }).then(
      ({ stdout, stderr }) => ({ code: 0, text: `${stdout}${stderr}` }),
      (error: { code?: number; killed?: boolean; stdout: string; stderr: string }) => {
        const text = `${error.stdout}${error.stderr}`;
        if (error.killed === true) throw new Error(`it ran for ${LIMIT_MS} ms:\n${text}`);
        return { code: error.code ?? -1, text };
      },
    );
    const lines = text.split('\n').filter((line) => line !== '');
    return { code, said: lines.filter((line) => !/"level":"(info|debug|warn)"/.test(line)) };
  } finally {
    await run('docker', ['rm', '--force', '--volumes', container]);
  }
}

async function volumeWith(script: string): Promise<string> {
  const volume = `relevo-bad-${randomUUID().slice(0, 8)}`;
  await run('docker', ['volume', 'create', volume]);
  volumes.push(volume);
  await run('docker', [
    ...['run', '--rm', '--user', '0', '--entrypoint', 'sh', '--volume', `${volume}:/data`],
    ...[IMAGE, '-c', script],
  ]);
  return volume;
}

describe('a container ends with one line', () => {
  test('the cluster id is another', async () => {
    const { code, said } = await broker('broker-4', {
      RELEVO_NODE_ID: 4,
      RELEVO_PROCESS_ROLES: 'broker',
      RELEVO_CLUSTER_ID: 'contaniers',
    });
    expect(code).toBe(78);
    expect(said, said.join('\n')).toHaveLength(1);
    expect(said[0]).toMatch(/contaniers.*containers|containers.*contaniers/);
    expect(said[0]).toMatch(/cluster\.id/);
  });

  test('the volume is of another cluster', async () => {
    const volume = await volumeWith(
      'export RELEVO_CLUSTER_ID=other RELEVO_NODE_ID=4 RELEVO_LOG_DIR=/data ' +
        'RELEVO_LISTENER_GRPC=127.0.0.1:9093 RELEVO_ADVERTISED_GRPC=127.0.0.1:9093 ' +
        'RELEVO_CONTROLLER_QUORUM_VOTERS=4@127.0.0.1:9093; relevo broker & ' +
        'until relevo health; do sleep 0.2; done; kill $!; wait; chown -R 1000:1000 /data',
    );
    const settings = { RELEVO_NODE_ID: 4, RELEVO_PROCESS_ROLES: 'broker' };
    const { code, said } = await broker('broker-4', settings, volume);
    expect(code).toBe(78);
    expect(said, said.join('\n')).toHaveLength(1);
    expect(said[0]).toMatch(/data of cluster other, this is cluster containers/);
  });

  test.each([
    ['a broker alone', { RELEVO_PROCESS_ROLES: 'broker' }],
    ['a controller too', { RELEVO_PROCESS_ROLES: 'broker,controller' }],
  ])('the broker id is that of another one, %s', async (_, roles) => {
    const { code, said } = await broker('broker-4', { RELEVO_NODE_ID: 3, ...roles });
    expect(code).toBe(78);
    expect(said, said.join('\n')).toHaveLength(1);
    expect(said[0]).toMatch(/\b3\b/);
    expect(said[0]).toMatch(/node\.id|RELEVO_NODE_ID/);
  });

  test('the quorum’s addresses do not resolve', async () => {
    const { code, said } = await broker('broker-4', {
      RELEVO_NODE_ID: 4,
      RELEVO_PROCESS_ROLES: 'broker',
      RELEVO_CONTROLLER_QUORUM_VOTERS: '1@broker-one:9093,2@broker-two:9093,3@broker-3:9093',
      RELEVO_CONTROLLER_QUORUM_RESOLVE_TIMEOUT_MS: 3000,
    });
    expect(code).toBe(1);
    expect(said, said.join('\n')).toHaveLength(1);
    expect(said[0]).toMatch(/1@broker-one:9093, 2@broker-two:9093 could not be resolved/);
    expect(said[0]).toMatch(/controller\.quorum\.voters/);
  });

  test('the volume is in use by another container, frozen as that may be', async () => {
    const victim = cluster.broker(2);
    const settings = { RELEVO_NODE_ID: 2, RELEVO_PROCESS_ROLES: 'broker' };
    for (const frozen of [false, true]) {
      if (frozen) await victim.freeze();
      const { code, said } = await broker('broker-2b', settings, victim.volume);
      if (frozen) await victim.thaw();
      expect(code).toBe(1);
      expect(said, said.join('\n')).toHaveLength(1);
      expect(said[0]).toMatch(/\/var\/lib\/relevo is in use by/);
    }
  });

  test('the volume belongs to another user', async () => {
    const volume = await volumeWith('touch /data/file; chown -R 0:0 /data; chmod 700 /data');
    const settings = { RELEVO_NODE_ID: 4, RELEVO_PROCESS_ROLES: 'broker' };
    const { code, said } = await broker('broker-4', settings, volume);
    expect(code).toBe(78);
    expect(said, said.join('\n')).toHaveLength(1);
    expect(said[0]).toMatch(/user 1000:1000 may not write to \/var\/lib\/relevo.*chown/);
  });
}, 90_000);
