/**
 * What people are told where a partition has no leader because the only log that has all is damaged, and
 * where a broker holds another secret than the rest: by the commands, the probes, the SDK and plain calls.
 */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { Relevo } from '@relevo/client';
import type { Stall } from '@relevo/client';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { TestCluster } from '../lib/cluster.ts';
import { until } from '../lib/wait.ts';

const CLI = fileURLToPath(new URL('../../packages/cli/bin/launch.cjs', import.meta.url));

interface Ended {
  readonly exitCode: number | null;
  readonly out: string;
  readonly errors: string;
}

/** Runs a command; ended, with `enough`, once its standard error matches. */
async function run(argv: readonly string[], enough?: RegExp): Promise<Ended> {
  const child = spawn(process.execPath, [CLI, ...argv], { stdio: ['ignore', 'pipe', 'pipe'] });
  let out = '';
  let errors = '';
  child.stdout.on('data', (chunk: Buffer) => (out += chunk.toString()));
  child.stderr.on('data', (chunk: Buffer) => {
    errors += chunk.toString();
    if (enough?.test(errors) === true) child.kill('SIGTERM');
  });
  await once(child, 'close');
  return { exitCode: child.exitCode, out, errors };
}

describe('a partition whose only log is damaged', () => {
  let cluster: TestCluster;
  let relevo: Relevo;
  const cli = (argv: readonly string[], enough?: RegExp): Promise<Ended> =>
    run([...argv, '--bootstrap', cluster.broker(1).address], enough);

  beforeAll(async () => {
    // What is damaged is a file of the log's own.
    cluster = await TestCluster.start({ settings: { 'log.young.bytes.max': 0 } });
    relevo = await Relevo.connect({ brokers: cluster.bootstrap });
    await relevo.admin.createTopic({ topic: 'solo', assignment: [[3]] });
    await relevo.admin.createTopic({ topic: 'orders', partitions: 1, replicationFactor: 3 });
    const producer = relevo.producer();
    for (const topic of ['solo', 'orders']) await producer.send({ topic, value: 'x'.repeat(100) });
    await producer.close();
    const broker = cluster.broker(3);
    await broker.stop();
    const file = join(broker.directory, 'solo-0', '00000000000000000000.log');
    const bytes = readFileSync(file);
    bytes[100] = (bytes[100] ?? 0) ^ 1;
    writeFileSync(file, bytes);
    broker.start();
    await cluster.ready();
    // Nobody looks at a whole log that was closed in order before it is read.
    const consumer = relevo.consumer({ topics: ['solo'], from: 'earliest' });
    const reading = consumer[Symbol.asyncIterator]().next();
    await until('it has no leader', async () => {
      const { partitions } = await relevo.admin.describeTopic('solo');
      return partitions[0]?.leader === undefined;
    });
    await consumer.close();
    await reading;
  }, 60_000);

  afterAll(async () => {
    await relevo.close();
    await cluster.destroy();
  });

  test('its broker says so in one line, with what to do, and is ready with a warning', async () => {
    const broker = cluster.broker(3);
    const errors = broker.logLines().filter(({ level }) => level === 'error');
    expect(errors.map(({ event, partition }) => [event, partition])).toEqual([
      ['a replica is offline', 'solo-0'],
    ]);
    expect(errors[0]?.['do']).toMatch(/no other replica is sure to have all/);
    const answer = await fetch(`http://${broker.httpAddress}/readyz`);
    expect(answer.status).toBe(200);
    expect(await answer.json()).toMatchObject({
      status: 'ok',
      warnings: [expect.stringMatching(/^solo-0 is offline here: .*damaged/)],
    });
    const metrics = await Promise.all(
      cluster.brokers.map(async ({ httpAddress }) =>
        (await fetch(`http://${httpAddress}/metrics`)).text(),
      ),
    );
    const figures = metrics.join('').match(/^relevo_controller_offline_\w+ \d+$/gm) ?? [];
    expect(figures).toContain('relevo_controller_offline_partitions 1');
    expect(figures).toContain('relevo_controller_offline_replicas 1');
  });

  test('the commands name it, and what keeps it', async () => {
    const topic = await cli(['topic', 'describe', 'solo']);
    expect(topic.out).toMatch(/partition.*leader.*in sync.*eligible.*offline/);
    expect(topic.out).toMatch(/none.*no leader: the log of broker 3 cannot be used/);
    const status = await cli(['cluster', 'status']);
    expect(status.out).toMatch(/2 partitions: 1 without a leader,.* 1 replica offline/);
    expect(status.out).toMatch(/\nsolo-0 has no leader: the log on broker 3.* cannot be used/);
    const doctor = await run(['doctor', '--broker', cluster.broker(1).address]);
    expect(doctor.exitCode).toBe(1);
    expect(doctor.out).toMatch(/FAIL +partitions +cluster: 1 of 2 partitions without a leader/);
    expect(doctor.out).toMatch(/of solo-0 the only logs .* the log of broker 3 tells why/);
    expect(doctor.out).toMatch(
      /warn +brokers +broker 3: replicas whose logs it cannot use: solo-0/,
    );
  });

  test('consumers are told: an error where an end is wanted, else a line, and they go on trying', async () => {
    const ended = await cli(['consume', 'solo']);
    expect(ended.exitCode).not.toBe(0);
    expect(ended.errors).toMatch(/solo-0: it has no leader: the log of broker 3 cannot be used/);
    const told = /solo-0 cannot be read for \S+ s: it has no leader: .* broker 3 .*; still trying/;
    const followed = await cli(['consume', 'solo', '--follow'], told);
    expect(followed.errors).toMatch(told);
    const stalls: Stall[] = [];
    const consumer = relevo.consumer({
      topics: ['solo', 'orders'],
      from: 'earliest',
      onStalled: (stall) => stalls.push(stall),
    });
    const { value } = await consumer[Symbol.asyncIterator]().next();
    expect(value).toMatchObject({ topic: 'orders' });
    await until('the consumer is told', () => stalls.length > 0);
    await consumer.close();
    expect(stalls[0]).toMatchObject({ topic: 'solo', partition: 0, code: 'LEADER_NOT_AVAILABLE' });
  }, 60_000);
});

test('a broker with another secret says so once, and why it does not serve', async () => {
  const cluster = await TestCluster.create();
  try {
    const [first, second, other] = cluster.brokers;
    if (first === undefined || second === undefined || other === undefined)
      throw new Error('three');
    const secret = join(cluster.directory, 'another-secret');
    writeFileSync(secret, 'another secret than the rest of the cluster has\n', { mode: 0o600 });
    const settings = readFileSync(other.configFile, 'utf8');
    writeFileSync(
      other.configFile,
      settings.replace(/^cluster\.secret\.file: .*$/m, `cluster.secret.file: "${secret}"`),
    );
    for (const broker of [first, second]) broker.start();
    // Founding a cluster takes all its voters, so that the two wait for the third.
    other.start();
    const event = 'the secret here is not that of other nodes: they do not work together';
    const errors = (): readonly { readonly event: string }[] =>
      other.logLines().filter(({ level }) => level === 'error');
    await until('it tells of the secret', () => errors().length > 0);
    const reason = await until('it is not ready for that reason', async () => {
      const answer = await fetch(`http://${other.httpAddress}/readyz`);
      const { reason: why } = (await answer.json()) as { readonly reason: string };
      return why.includes('secret') ? why : undefined;
    });
    expect(reason).toMatch(/its cluster secret is not that of the node at .*: put the same/);
    expect(errors().map((line) => line.event)).toEqual([event]);
    expect(other.logLines().find((line) => line.event === event)?.['do']).toMatch(
      /the same cluster\.secret\.file on every node/,
    );
  } finally {
    await cluster.destroy();
  }
}, 60_000);
