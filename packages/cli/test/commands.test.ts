/** The commands against a broker that `relevo start` runs. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest';
import { relevo as run, type Outcome } from './host.ts';
import { PROGRAM, StartedCluster } from './started-cluster.ts';

let cluster: StartedCluster;
beforeAll(async () => {
  cluster = await StartedCluster.start(1);
});
afterAll(() => cluster.destroy());

const relevo = (
  argv: readonly string[],
  stdin?: string | Uint8Array | Readable,
): Promise<Outcome> =>
  run(argv, {
    env: { RELEVO_BOOTSTRAP: cluster.bootstrap },
    ...(stdin !== undefined && { stdin }),
  });

/** Runs a command that must succeed. */
async function ok(argv: readonly string[], stdin?: string | Uint8Array): Promise<string> {
  const { exitCode, stdout, stderr } = await relevo(argv, stdin);
  expect({ exitCode, stderr }).toMatchObject({ exitCode: 0 });
  return stdout;
}

const json = async (argv: readonly string[], stdin?: string): Promise<unknown> =>
  JSON.parse(await ok([...argv, '--json'], stdin));

describe('start', () => {
  test('tells what runs and what to do next', () => {
    expect(cluster.output).toContain('Relevo is running: 1 broker, ready in');
    expect(cluster.output).toContain(cluster.bootstrap);
    expect(cluster.output).toContain('controller 1 (term');
    expect(cluster.output).toContain(
      `npx relevo topic create orders --partitions 6 --bootstrap localhost:${cluster.port}`,
    );
  });

  test('a second one on the same directory is refused', async () => {
    const { exitCode, stderr } = await relevo(['start', '--data', cluster.data]);
    expect(exitCode).toBe(1);
    expect(stderr).toContain(`is run by process ${cluster.pid} already`);
  });

  test('a second one on the same ports is refused, and leaves no trace', async () => {
    const data = join(cluster.directory, 'second');
    const { exitCode, stdout, stderr } = await relevo([
      'start',
      ...['--brokers', '1', '--port', String(cluster.port), '--data', data],
    ]);
    expect({ exitCode, stdout }).toEqual({ exitCode: 1, stdout: '' });
    expect(stderr).toContain(`${cluster.bootstrap} (gRPC of broker 1): in use by the cluster `);
    expect(stderr).toContain(`127.0.0.1:${cluster.port + 1} (HTTP of broker 1): in use\n`);
    expect(stderr).toContain('Stop what has them, or choose other ports with --port\n');
    expect(existsSync(data)).toBe(false);
  });
});

describe('topics', () => {
  test('are created, listed, described, altered and deleted', async () => {
    expect(await ok(['topic', 'create', 'life', '-p', '2', '-c', 'retention.ms=3600000'])).toBe(
      'created topic life: 2 partitions, 1 replica\n',
    );
    expect(await ok(['topic', 'list'])).toMatch(/^life +2 +1$/m);
    expect(await ok(['topic', 'describe', 'life'])).toMatch(
      /^life \(id \S{22}, 2 partitions\)\nsettings: retention.ms=3600000\n/,
    );
    await ok(['topic', 'alter', 'life', '-p', '3', '--unset', 'retention.ms']);
    expect(await json(['topic', 'describe', 'life'])).toMatchObject([
      {
        topic: 'life',
        partitions: [0, 1, 2].map((partition) => ({ partition, leader: 1, isr: [1] })),
      },
    ]);
    expect(await ok(['topic', 'delete', 'life'])).toBe('deleted topic life\n');
    const gone = await relevo(['topic', 'describe', 'life']);
    expect(gone.exitCode).toBe(1);
    expect(gone.stderr).toContain('topic "life" does not exist');
  });

  test('one that exists is an error, or not with --if-not-exists', async () => {
    await ok(['topic', 'create', 'twice']);
    const { exitCode, stderr } = await relevo(['topic', 'create', 'twice', '--json']);
    expect(exitCode).toBe(1);
    expect(JSON.parse(stderr)).toMatchObject({ error: { code: 'TOPIC_ALREADY_EXISTS' } });
    expect(await json(['topic', 'create', 'twice', '--if-not-exists'])).toEqual({
      topic: 'twice',
      created: false,
    });
  });

  test.each([
    ['delete', 'nope'],
    ['alter', 'nope', '-p', '3'],
    ['alter', 'nope', '-c', 'retention.ms=1000'],
    ['describe', 'nope'],
  ])('%s of a topic that does not exist says where to find those that do', async (...argv) => {
    const { exitCode, stderr } = await relevo(['topic', ...argv]);
    expect(exitCode).toBe(1);
    expect(stderr).toContain(
      'topic "nope" does not exist: relevo topic list shows those that do\n',
    );
  });

  test('of one that is mistyped, which was meant', async () => {
    await ok(['topic', 'create', 'invoices']);
    for (const argv of [
      ['delete', 'invoice'],
      ['alter', 'invoice', '-p', '3'],
    ]) {
      const { stderr } = await relevo(['topic', ...argv]);
      expect(stderr).toContain('topic "invoice" does not exist: did you mean "invoices"?\n');
    }
    await ok(['topic', 'delete', 'invoices']);
  });

  test.each<[string[], string]>([
    [['topic', 'create', 'a/b'], 'a/b'],
    [['topic', 'create', 'wide', '-r', '5'], 'replication factor'],
    [['topic', 'create', 'odd', '-c', 'retention.mss=1'], 'retention.ms'],
    [['topic', 'delete', 'nothing'], 'nothing'],
    [['produce', 'nothing'], 'topic "nothing" does not exist'],
    [['consume', 'nothing', '--from', 'later'], '--from later: it must be'],
  ])('%j fails with a clear error', async (argv, expected) => {
    const { exitCode, stderr, stdout } = await relevo(argv);
    expect(exitCode).not.toBe(0);
    expect(stderr).toContain(expected);
    expect(stderr).not.toContain('    at ');
    expect(stdout).toBe('');
  });
});

describe('produce and consume', () => {
  test('what went in by lines comes out as the same bytes', async () => {
    await ok(['topic', 'create', 'bytes']);
    const input = Buffer.concat([
      Buffer.from('plain\ncarriage return\r\n\n€uro\n'),
      Buffer.from([0, 255, 254, 128, 13, 10]),
      Buffer.from('no end of line'),
    ]);
    const file = join(cluster.directory, 'input.bin');
    writeFileSync(file, input);
    const { exitCode } = await relevo(['produce', 'bytes', '--file', file]);
    expect(exitCode).toBe(0);
    const out = await relevo(['consume', 'bytes']);
    expect(out.stdoutBytes).toEqual(Buffer.concat([input, Buffer.from('\n')]));
  });

  test.each([
    ['/nonexistent', 'cannot read /nonexistent: ENOENT: no such file'],
    ['/tmp', 'cannot read /tmp: it is a directory; 0 records were acknowledged'],
    ['/proc/self/mem', 'cannot read /proc/self/mem past line 0: EIO'],
  ])('a file that cannot be read (%s) is one error', async (file, expected) => {
    await ok(['topic', 'create', 'unread', '--if-not-exists']);
    for (const flags of [[], ['--json']]) {
      const { exitCode, stderr } = await relevo(['produce', 'unread', '--file', file, ...flags]);
      expect(exitCode).toBe(1);
      expect(stderr).toContain(expected);
      expect(stderr).toContain('0 records');
      expect(stderr.trim().split('\n')).toHaveLength(1);
    }
  });

  test('an input that fails on its way says how far it came', async () => {
    await ok(['topic', 'create', 'half-read']);
    const input = Readable.from(
      (async function* () {
        yield Buffer.from('one\ntwo\nthr');
        await Promise.resolve();
        throw new Error('the disk is gone');
      })(),
    );
    const { exitCode, stderr } = await relevo(['produce', 'half-read'], input);
    expect(exitCode).toBe(1);
    expect(stderr).toBe(
      'relevo: cannot read stdin past line 2: the disk is gone; 2 records acknowledged before it; ' +
        'when it can be read again, send what follows line 2\n',
    );
    expect(await ok(['consume', 'half-read'])).toBe('one\ntwo\n');
  });

  test('keys, headers, formats', async () => {
    await ok(['topic', 'create', 'keyed', '-p', '3']);
    const summary = await json(
      ['produce', 'keyed', '-K', '\\t', '-H', 'source=test', '-p', '1'],
      'k1\tv1\nk2\tv2\twith a tab\n',
    );
    expect(summary).toMatchObject({
      topic: 'keyed',
      records: 2,
      failed: 0,
      partitions: [{ partition: 1, first: 0, last: 1, records: 2 }],
    });
    expect(await ok(['consume', 'keyed', '--format', '%t-%p@%o %k=%v [%h]\\n'])).toBe(
      'keyed-1@0 k1=v1 [source=test]\nkeyed-1@1 k2=v2\twith a tab [source=test]\n',
    );
    const records = (await ok(['consume', 'keyed', '--json'])).trim().split('\n');
    expect(records.map((line): unknown => JSON.parse(line))).toMatchObject([
      { topic: 'keyed', partition: 1, offset: 0, key: 'k1', value: 'v1' },
      { topic: 'keyed', partition: 1, offset: 1, key: 'k2', headers: [{ key: 'source' }] },
    ]);
  });

  test('a line without the separator is refused, and says which', async () => {
    await ok(['topic', 'create', 'separated']);
    const { exitCode, stderr } = await relevo(['produce', 'separated', '-K', ':'], 'a:1\nb\nc:3\n');
    expect(exitCode).toBe(1);
    expect(stderr).toContain('line 2 has no key separator');
  });

  test('positions and limits', async () => {
    await ok(['topic', 'create', 'range']);
    const lines = Array.from({ length: 100 }, (_, index) => `line ${index}`);
    await ok(['produce', 'range'], lines.join('\n'));
    const read = async (...argv: string[]): Promise<string[]> =>
      (await ok(['consume', 'range', ...argv])).split('\n').slice(0, -1);
    expect(await read()).toEqual(lines);
    expect(await read('--max', '3')).toEqual(lines.slice(0, 3));
    expect(await read('--from', '97')).toEqual(lines.slice(97));
    expect(await read('--from', '1h')).toEqual(lines);
    expect(await read('--from', '2999-01-01')).toEqual([]);
    expect(await read('--from', 'latest')).toEqual([]);
    expect(await read('--from', '100')).toEqual([]);
    expect(await read('--max', '0')).toEqual([]);
    expect(await read('--follow', '--max', '100', '--partition', '0')).toEqual(lines);
    const wrong = await relevo(['consume', 'range', '--partition', '7']);
    expect(wrong.exitCode).toBe(1);
    expect(wrong.stderr).toContain('range');
  });

  test('an offset past the end is an error that tells the bounds', async () => {
    await ok(['topic', 'create', 'short', '-p', '2']);
    await ok(['produce', 'short', '-p', '1'], 'one\ntwo\n');
    const { exitCode, stderr, stdout } = await relevo([
      'consume',
      'short',
      '--from',
      '99',
      '--json',
    ]);
    expect({ exitCode, stdout }).toEqual({ exitCode: 1, stdout: '' });
    expect(JSON.parse(stderr)).toMatchObject({
      error: {
        code: 'OFFSET_OUT_OF_RANGE',
        message: expect.stringContaining(
          'offset 99 is past the end of the log: short-0 has none, and next 0, short-1 has 0 to 1; ',
        ) as string,
      },
    });
    expect((await relevo(['consume', 'short', '--from', '1'])).exitCode).toBe(1);
    expect(await ok(['consume', 'short', '--from', '1', '--partition', '1'])).toBe('two\n');
  });

  test('every line of a long input, once and in order', async () => {
    await ok(['topic', 'create', 'long', '-p', '4']);
    const lines = Array.from({ length: 50_000 }, (_, index) => `${index}`);
    const summary = await json(
      ['produce', 'long', '-K', '|'],
      lines.map((n) => `${n}|${n}\n`).join(''),
    );
    expect(summary).toMatchObject({ records: 50_000, failed: 0 });
    const read = (await ok(['consume', 'long', '--format', '%p %v\\n'])).trim().split('\n');
    const last = new Map<string, number>();
    for (const line of read) {
      const [partition = '', number] = line.split(' ');
      expect(Number(number)).toBeGreaterThan(last.get(partition) ?? -1);
      last.set(partition, Number(number));
    }
    expect(read).toHaveLength(50_000);
    expect(last.size).toBe(4);
  });
});

describe('cluster', () => {
  test('status shows brokers, quorum and partitions', async () => {
    const text = await ok(['cluster', 'status']);
    expect(text).toMatch(/^1 +127\.0\.0\.1:\d+ .*serving/m);
    expect(text).toContain('leader');
    expect(await json(['cluster', 'status'])).toMatchObject({ controllerId: 1, offline: 0 });
  });

  test('elect-preferred has nothing to do', async () => {
    expect(await ok(['cluster', 'elect-preferred'])).toBe(
      'every partition is led by its preferred leader\n',
    );
  });

  test('nobody there is an error that says what to do', async () => {
    const { exitCode, stderr } = await relevo(['topic', 'list', '--bootstrap', '127.0.0.1:1']);
    expect(exitCode).toBe(1);
    expect(stderr).toContain('is the cluster running');
  });
});

describe('bench', () => {
  test.each([
    ['produce', '-n', '2000'],
    ['consume', '-n', '2000'],
    ['end-to-end', '--rate', '200', '--duration', '1', '--warm-up', '0'],
  ])('%s gives its figures and leaves no topic', async (...argv) => {
    expect(await json(['bench', ...argv])).toMatchObject({
      benchmark: argv[0],
      records: argv[0] === 'end-to-end' ? 200 : 2000,
      failed: 0,
    });
    expect(await ok(['topic', 'list'])).not.toContain('bench-');
  });
});

/** Waits until `start` prints `text`. */
const printed = (text: string): Promise<void> =>
  vi.waitFor(() => expect(cluster.output).toContain(text), { timeout: 55_000, interval: 20 });

/** The process of broker 1, as the system tells it. */
function brokerPid(): number {
  const children = readFileSync(`/proc/${cluster.pid}/task/${cluster.pid}/children`, 'utf8');
  return Number(children.trim().split(' ')[0]);
}

/** Neither gone nor waiting for somebody to ask how it ended. */
const isAlive = (pid: number): boolean =>
  existsSync(`/proc/${pid}/stat`) && !readFileSync(`/proc/${pid}/stat`, 'utf8').includes(') Z ');

describe('stop and start again', () => {
  test('Ctrl-C ends it in order, and everything is there again', async () => {
    await ok(['topic', 'create', 'kept']);
    await ok(['produce', 'kept'], 'one\ntwo\n');
    expect(await cluster.signal('SIGINT')).toBe(0);
    expect(cluster.output).toContain('stopped in');
    expect(existsSync(join(cluster.data, 'running.pid'))).toBe(false);
    await cluster.start();
    expect(await ok(['consume', 'kept'])).toBe('one\ntwo\n');
  });

  test('a broker that crashes is reported, and how to start it again', async () => {
    process.kill(brokerPid(), 'SIGKILL');
    await printed('broker 1 has ended (signal SIGKILL)');
    await printed(`npx relevo broker --config ${join(cluster.data, 'broker-1.yaml')}`);
    await printed('relevo: no broker is left; the log files say why');
    await cluster.start();
    expect(await ok(['consume', 'kept'])).toBe('one\ntwo\n');
  });

  test('a broker that is started again by hand keeps start going, and is left to who did', async () => {
    process.kill(brokerPid(), 'SIGKILL');
    await printed('broker 1 has ended (signal SIGKILL)');
    const byHand = spawn(
      process.execPath,
      [PROGRAM, 'broker', '--config', join(cluster.data, 'broker-1.yaml')],
      { stdio: 'ignore' },
    );
    try {
      await printed(`started by hand and serving: broker 1 (${cluster.bootstrap})`);
      expect(await ok(['consume', 'kept'])).toBe('one\ntwo\n');
      expect(await cluster.signal('SIGINT')).toBe(0);
      expect(cluster.output).toContain(
        `started by hand, so left running: broker 1 (${cluster.bootstrap})`,
      );
      const again = await relevo(['start', '--data', cluster.data]);
      expect(again.exitCode).toBe(1);
      expect(again.stderr).toContain('in use by a broker of this very cluster');
    } finally {
      const ended = once(byHand, 'exit');
      byHand.kill('SIGTERM');
      await ended;
    }
    await cluster.start();
  });

  test('when start is killed its brokers stop too, and the next start goes on', async () => {
    const broker = brokerPid();
    await cluster.signal('SIGKILL');
    await vi.waitFor(() => expect(isAlive(broker)).toBe(false), { timeout: 55_000, interval: 20 });
    await cluster.start();
    expect(await ok(['consume', 'kept'])).toBe('one\ntwo\n');
  });
});
