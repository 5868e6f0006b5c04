/**
 * `relevo doctor` against real brokers. Each way of advertising addresses wrongly is a listener of its own
 * on the same brokers, so that they keep working together while the doctor looks.
 */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { createServer, type AddressInfo } from 'node:net';
import { fileURLToPath } from 'node:url';
import { Relevo } from '@relevo/client';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { TestCluster, nowMs } from '../lib/cluster.ts';
import { until } from '../lib/wait.ts';

const CLI = fileURLToPath(new URL('../../packages/cli/bin/launch.cjs', import.meta.url));
const IDS = [1, 2, 3];
/** Listeners whose advertised addresses are wrong, each in its way. */
const WRONG = ['swapped', 'shared', 'lost'];

interface Finding {
  readonly check: string;
  readonly status: 'ok' | 'warn' | 'fail';
  readonly subject: string;
  readonly found: string;
  readonly change: string | null;
}

interface Diagnosis {
  readonly exitCode: number | null;
  readonly verdict: string;
  readonly checks: readonly Finding[];
  readonly text: string;
}

let cluster: TestCluster;
/** Where broker `id` listens on the listener. */
let at: (listener: string, id: number) => string;

beforeAll(async () => {
  cluster = await TestCluster.start({
    listeners: WRONG,
    settingsOf: (id, address) => {
      at = (listener, broker) => address(broker, listener);
      return {
        'listener.grpc': [
          `inside://${address(id)}`,
          ...WRONG.map((listener) => `${listener}://${address(id, listener)}`),
        ].join(','),
        'advertised.grpc': [
          `inside://${address(id)}`,
          `swapped://${address(id === 2 ? 3 : id === 3 ? 2 : 1, 'swapped')}`,
          `shared://${address(id === 3 ? 2 : id, 'shared')}`,
          `lost://${id === 3 ? 'broker-3.invalid:9093' : address(id, 'lost')}`,
        ].join(','),
      };
    },
  });
  const relevo = await Relevo.connect({ brokers: cluster.bootstrap });
  await relevo.admin.createTopic({ topic: 'orders', partitions: 6, replicationFactor: 3 });
  await relevo.close();
}, 60_000);

afterAll(() => cluster.destroy());

async function run(argv: readonly string[]): Promise<{ exitCode: number | null; out: string }> {
  const child = spawn(process.execPath, [CLI, ...argv], { stdio: ['ignore', 'pipe', 'inherit'] });
  let out = '';
  child.stdout.on('data', (chunk: Buffer) => (out += chunk.toString()));
  await once(child, 'close');
  return { exitCode: child.exitCode, out };
}

async function doctor(...brokers: readonly string[]): Promise<Diagnosis> {
  const given = brokers.flatMap((broker) => ['--broker', broker]);
  const { exitCode, out } = await run(['doctor', '--json', ...given]);
  const { checks, verdict } = JSON.parse(out) as Pick<Diagnosis, 'checks' | 'verdict'>;
  const text = checks.map((one) => JSON.stringify(one)).join('\n');
  return { exitCode, checks, verdict, text };
}

const of = ({ checks }: Diagnosis, check: string): readonly Finding[] =>
  checks.filter((finding) => finding.check === check);

const inside = (id: number): string => cluster.broker(id).address;

test('a healthy cluster has nothing to change', async () => {
  const diagnosis = await until('the cluster to be all well', async () => {
    const seen = await doctor(inside(1), inside(2));
    return seen.verdict === 'ok' ? seen : undefined;
  });
  expect(diagnosis.exitCode).toBe(0);
  expect(diagnosis.checks.every(({ change }) => change === null)).toBe(true);
  expect([...new Set(diagnosis.checks.map(({ check }) => check))]).toEqual([
    ...['resolve', 'connect', 'service', 'cluster-id', 'advertised', 'brokers', 'version', 'clock'],
    ...['quorum', 'controller', 'partitions', 'listeners', 'secret', 'round-trip'],
  ]);
  expect(of(diagnosis, 'advertised').map(({ found }) => found)).toEqual(
    IDS.map((id) => `it answers as broker ${id}`),
  );
  expect(of(diagnosis, 'quorum')[0]?.found).toContain('3 of 3 voters heard, survives 1 more');
  expect(of(diagnosis, 'partitions')[0]?.found).toBe(
    '1 topic, 6 partitions: all in sync and led as they should be',
  );
}, 60_000);

test('as text it ends with a verdict', async () => {
  const { exitCode, out } = await run(['doctor', '--bootstrap', inside(1)]);
  expect(exitCode).toBe(0);
  expect(out).toMatch(/^ok {4}resolve +127\.0\.0\.1:\d+: 127\.0\.0\.1\n/);
  expect(out).toMatch(/\n\nok: \d+ checks, clients here can work with the cluster\n$/);
});

test('a name that is not advertised: where all further calls go, and what to set', async () => {
  const name = inside(1).replace('127.0.0.1', 'localhost');
  const diagnosis = await doctor(name);
  expect(diagnosis).toMatchObject({ exitCode: 0, verdict: 'ok' });
  const [finding] = of(diagnosis, 'advertised-name');
  expect(finding).toMatchObject({ status: 'ok', subject: name });
  expect(finding?.found).toContain(`all further calls go to ${inside(1)}, which is reached`);
  expect(finding?.found).toContain(`advertised.grpc: inside://${name}, swapped://`);
});

test('two brokers whose advertised addresses are swapped', async () => {
  const diagnosis = await doctor(at('swapped', 1));
  expect(diagnosis).toMatchObject({ exitCode: 1, verdict: 'fail' });
  const [first, second, third] = of(diagnosis, 'advertised');
  expect(first?.status).toBe('ok');
  expect(second).toMatchObject({ status: 'fail', found: 'broker 3 answers there' });
  expect(second?.change).toContain('set advertised.grpc of broker 2 to inside://');
  expect(second?.change).toContain(`swapped://${at('swapped', 2)}`);
  expect(third).toMatchObject({ status: 'fail', found: 'broker 2 answers there' });
  expect(third?.change).toContain(`swapped://${at('swapped', 3)}`);
});

test('two brokers that advertise the same address', async () => {
  const diagnosis = await doctor(at('shared', 1));
  expect(diagnosis).toMatchObject({ exitCode: 1, verdict: 'fail' });
  const [first, second, third] = of(diagnosis, 'advertised');
  expect(first?.status).toBe('ok');
  const found = 'brokers 2 and 3 advertise the same address; broker 2 answers there';
  expect(second).toMatchObject({
    status: 'fail',
    found,
    change: 'it is right for this one: change that of broker 3',
  });
  expect(third).toMatchObject({ status: 'fail', found });
  expect(third?.change).toContain('set advertised.grpc of broker 3 to shared://HOST:PORT');
});

test('an advertised name that does not resolve', async () => {
  const diagnosis = await doctor(at('lost', 1));
  expect(diagnosis).toMatchObject({ exitCode: 1, verdict: 'fail' });
  const failed = diagnosis.checks.filter(({ status }) => status !== 'ok');
  expect(failed).toHaveLength(2);
  expect(failed[0]).toMatchObject({
    check: 'advertised',
    subject: 'broker 3 at broker-3.invalid:9093',
  });
  expect(failed[1]).toMatchObject({ check: 'partitions', status: 'fail' });
  expect(failed[1]?.found).toMatch(/ of 6 partitions led by broker 3, which does not answer here/);
  expect(failed[0]?.found).toMatch(/broker-3\.invalid (is not known here|cannot be looked up)/);
  expect(failed[0]?.change).toContain('set advertised.grpc of broker 3 to lost://HOST:PORT');
  // With that very listener among the given ones it knows what would do.
  const more = await doctor(at('lost', 1), at('lost', 3));
  const [, , third] = of(more, 'advertised');
  expect(third?.change).toContain(`lost://${at('lost', 3)}, where it answers`);
  const names = of(more, 'advertised-name');
  expect(names).toHaveLength(1);
  expect(names[0]).toMatchObject({ status: 'fail', subject: at('lost', 3) });
});

test('Ctrl-C ends it', async () => {
  const mute = createServer();
  const port = await new Promise<number>((resolve) => {
    mute.listen(0, '127.0.0.1', () => resolve((mute.address() as AddressInfo).port));
  });
  const child = spawn(process.execPath, [CLI, 'doctor', '--broker', `127.0.0.1:${port}`], {
    stdio: ['ignore', 'ignore', 'pipe'],
  });
  const closed = once(child, 'close');
  let err = '';
  child.stderr.on('data', (chunk: Buffer) => (err += chunk.toString()));
  try {
    // The first connection only looks whether there is one; on the second it waits for an answer.
    for (let connections = 0; connections < 2; connections++) await once(mute, 'connection');
    const startMs = nowMs();
    child.kill('SIGINT');
    await closed;
    expect(nowMs() - startMs).toBeLessThan(1500);
    expect({ exitCode: child.exitCode, err }).toEqual({
      exitCode: 1,
      err: 'relevo: stopped before it was done\n',
    });
  } finally {
    child.kill('SIGKILL');
    mute.close();
  }
});

test('a broker that hangs', async () => {
  const third = cluster.broker(3);
  third.signal('SIGSTOP');
  try {
    const startMs = nowMs();
    const diagnosis = await doctor(inside(1));
    expect(nowMs() - startMs).toBeLessThan(8000);
    const [, , finding] = of(diagnosis, 'advertised');
    expect(finding?.status).not.toBe('ok');
    expect(finding?.found).toContain('connections are taken, but nothing is ever said');
    expect(finding?.change).toContain('see whether the broker hangs');
  } finally {
    third.signal('SIGCONT');
  }
  await cluster.ready();
});

test('a killed broker: what is left works, and what to start is said', async () => {
  await cluster.broker(3).kill();
  const diagnosis = await until('broker 3 to be missed', async () => {
    const seen = await doctor(inside(1));
    const [finding] = of(seen, 'brokers');
    const missed = of(seen, 'quorum')[0]?.status === 'warn';
    return finding?.subject === 'broker 3' && missed && seen.verdict === 'warn' ? seen : undefined;
  });
  expect(diagnosis.exitCode).toBe(0);
  const [, , third] = of(diagnosis, 'advertised');
  expect(third).toMatchObject({ status: 'warn', change: 'start broker 3' });
  expect(third?.found).toContain('refused, nothing listens on that port');
  expect(of(diagnosis, 'quorum')[0]).toMatchObject({ status: 'warn' });
  expect(of(diagnosis, 'quorum')[0]?.found).toContain('2 of 3 voters heard, survives 0 more');
  expect(of(diagnosis, 'quorum')[0]?.change).toContain(`start controller 3 at ${inside(3)}`);
  expect(diagnosis.text).toContain('6 of 6 partitions with a replica that is not in sync');
  expect(diagnosis.text).toContain('with more replicas than there are brokers alive (2)');
  expect(diagnosis.text).toContain('not led by the preferred leader');
}, 60_000);

test('without a majority of the controllers', async () => {
  await cluster.broker(2).kill();
  const diagnosis = await until('the last broker to see that it is alone', async () => {
    const seen = await doctor(inside(1));
    return of(seen, 'quorum')[0]?.found.includes('no active controller') ? seen : undefined;
  });
  expect(diagnosis).toMatchObject({ exitCode: 1, verdict: 'fail' });
  const [, second] = of(diagnosis, 'advertised');
  expect(second?.change).toMatch(/^start broker 2, if it does not run; /);
  const [old, led] = of(diagnosis, 'partitions');
  expect(old?.found).toContain('what is told of them is old');
  expect(led).toMatchObject({ status: 'fail' });
  expect(led?.found).toMatch(/ of 6 partitions led by broker 2, which does not answer here/);
  const [quorum] = of(diagnosis, 'quorum');
  expect(quorum?.status).toBe('fail');
  expect(quorum?.change).toContain(`controller.quorum.voters: 1@${inside(1)}, 2@${inside(2)}`);
}, 60_000);
