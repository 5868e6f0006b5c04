/** What the doctor makes of whatever may listen on a port: real listeners, the command as it is. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { createServer as createHttpServer } from 'node:http';
import { createServer as createHttp2Server } from 'node:http2';
import { connect, createServer, type AddressInfo, type Server, type Socket } from 'node:net';
import { createServer as createTlsServer } from 'node:tls';
import { route } from '@relevo/base/ports';
import type { Route } from '@relevo/base/ports';
import {
  MetadataService,
  brokerMetadata,
  clusterMetadata,
  nodeDescription,
} from '@relevo/rpc/gen/client/metadata';
import { PromMetrics } from '@relevo/runtime/metrics';
import { createPorts } from '@relevo/runtime/ports';
import { startHttpServer } from '@relevo/runtime/http-server';
import { afterEach, describe, expect, test } from 'vitest';
import { relevo } from './host.ts';

interface Finding {
  readonly check: string;
  readonly status: string;
  readonly subject: string;
  readonly found: string;
  readonly change: string | null;
}

const { transport } = createPorts({ logger: { level: 'silent' } });
const closers: (() => unknown)[] = [];
afterEach(async () => {
  for (const close of closers.splice(0)) await close();
});

async function diagnose(
  ...addresses: readonly string[]
): Promise<{ exitCode: number; verdict: string; checks: readonly Finding[] }> {
  const given = addresses.flatMap((address) => ['--broker', address]);
  const { exitCode, stdout } = await relevo(['doctor', '--json', ...given]);
  const { verdict, checks } = JSON.parse(stdout) as { verdict: string; checks: Finding[] };
  return { exitCode, verdict, checks };
}

/** The one line that is not ok. */
async function complaint(address: string): Promise<Finding | undefined> {
  const { exitCode, checks } = await diagnose(address);
  const bad = checks.filter(({ status }) => status !== 'ok');
  expect(bad).toHaveLength(1);
  expect({ exitCode, status: bad[0]?.status }).toEqual({ exitCode: 1, status: 'fail' });
  return bad[0];
}

/** Listens on a free port and gives its address. */
async function listening(server: Server): Promise<string> {
  const sockets = new Set<Socket>();
  server.on('connection', (socket: Socket) => {
    sockets.add(socket);
    socket.on('error', () => undefined);
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  closers.push(() => {
    for (const socket of sockets) socket.destroy();
    server.close();
  });
  return `127.0.0.1:${(server.address() as AddressInfo).port}`;
}

async function serving(routes: readonly Route[]): Promise<string> {
  const listener = await transport.listen('127.0.0.1:0', routes);
  closers.push(() => listener.close(0));
  return listener.address;
}

async function refusing(): Promise<string> {
  const server = createServer();
  const address = await listening(server);
  await new Promise((resolve) => server.close(resolve));
  return address;
}

/** A listener that takes no connections and refuses none: its queue is full and nobody empties it. */
async function blackHole(): Promise<string> {
  const script = `
    const server = require('node:net').createServer();
    server.listen({ port: 0, host: '127.0.0.1', backlog: 1 }, () => {
      require('node:fs').writeSync(1, server.address().port + '\\n');
      Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0);
    });`;
  const child = spawn(process.execPath, ['-e', script], { stdio: ['ignore', 'pipe', 'inherit'] });
  closers.push(() => child.kill('SIGKILL'));
  const [line] = (await once(child.stdout, 'data')) as [Buffer];
  const port = Number(line.toString());
  const fillers = [1, 2, 3, 4].map(() => connect({ host: '127.0.0.1', port }));
  for (const filler of fillers) filler.on('error', () => undefined);
  closers.push(() => {
    for (const filler of fillers) filler.destroy();
  });
  await once(fillers[0] ?? child, 'connect');
  return `127.0.0.1:${port}`;
}

const CLUSTER = 'unit-cluster';

interface NodeOptions {
  readonly id: number;
  /** By id. */
  readonly brokers: () => ReadonlyMap<number, string>;
  readonly clusterId?: string;
  readonly roles?: readonly string[];
  readonly aheadMs?: number;
  readonly version?: string;
}

/** What a node tells of itself and of the cluster. */
const nodeRoutes = (options: NodeOptions): Route[] => [metadataRoute(options), nodeRoute(options)];

const metadataRoute = ({ brokers, clusterId = CLUSTER }: NodeOptions): Route =>
  route(MetadataService.getMetadata, () =>
    Promise.resolve(
      clusterMetadata({
        clusterId,
        controllerId: 1,
        brokers: [...brokers()].map(([id, address]) => brokerMetadata({ id, address })),
      }),
    ),
  );

const nodeRoute = (options: NodeOptions): Route =>
  route(MetadataService.getNode, () => {
    const address = options.brokers().get(options.id) ?? '';
    return Promise.resolve(
      nodeDescription({
        nodeId: options.id,
        clusterId: options.clusterId ?? CLUSTER,
        version: options.version ?? '0.1.0',
        roles: options.roles ?? ['broker', 'controller'],
        clockMs: Date.now() + (options.aheadMs ?? 0),
        listener: 'default',
        advertised: [{ listener: 'default', address }],
        controllerId: 1,
      }),
    );
  });

/** Sends each connection to the next of the targets, as a load balancer does. */
async function balancer(targets: readonly string[]): Promise<string> {
  let next = 0;
  return listening(
    createServer((socket) => {
      const [host = '', port] = (targets[next++ % targets.length] ?? '').split(':');
      const target = connect({ host, port: Number(port) });
      target.on('error', () => socket.destroy());
      socket.on('close', () => target.destroy());
      socket.pipe(target).pipe(socket);
    }),
  );
}

describe('reaching an address', () => {
  test('a name that does not resolve', async () => {
    const bad = await complaint('no-such-broker.invalid:9093');
    expect(bad?.check).toBe('resolve');
    expect(bad?.found).toMatch(/no-such-broker\.invalid (is not known here|cannot be looked up)/);
    expect(bad?.change).toContain('correct the name, or make it resolve here');
  });

  test('a port that refuses', async () => {
    const bad = await complaint(await refusing());
    expect(bad).toMatchObject({
      check: 'connect',
      found: '127.0.0.1 refused, nothing listens on that port',
    });
    expect(bad?.change).toContain('start the broker, or use the port that its listener.grpc has');
  });

  test('a port that takes no connection, told in time', async () => {
    const bad = await complaint(await blackHole());
    expect(bad).toMatchObject({ check: 'connect', found: '127.0.0.1 no answer within 1500 ms' });
    expect(bad?.change).toContain('firewalls');
  });
});

describe('what listens there', () => {
  const cases: readonly (readonly [string, () => Promise<string>, string, string])[] = [
    [
      'an HTTP server',
      () => listening(createHttpServer((_, response) => response.end('hello'))),
      'an HTTP server answers ("HTTP/1.1 ',
      'use the port that listener.grpc of the broker has',
    ],
    [
      "a broker's own HTTP port",
      async () => {
        const metrics = new PromMetrics();
        const server = await startHttpServer({
          ...{ host: '127.0.0.1', port: 0, metrics },
          ...{ unhealthy: () => undefined, unready: () => 'starting' },
        });
        closers.push(() => server.close());
        return server.address;
      },
      'the HTTP port of a Relevo broker answers',
      'in place of that of listener.http',
    ],
    [
      'an HTTP/2 server without gRPC',
      () => listening(createHttp2Server((_, response) => response.writeHead(404).end())),
      'an HTTP/2 server that serves no gRPC answers',
      'use the port that listener.grpc of a Relevo broker has',
    ],
    [
      'another gRPC server',
      () => serving([]),
      'a gRPC server that is no Relevo broker answers',
      'use the port that listener.grpc of a Relevo broker has',
    ],
    [
      'a TLS port',
      () => listening(createTlsServer({})),
      'a TLS port answers',
      'Relevo speaks gRPC without TLS',
    ],
    [
      'a Kafka broker',
      () =>
        listening(
          createServer((socket) =>
            socket.once('data', (request) => {
              // What is no request of its own it closes the connection on.
              if (request.readInt32BE(0) !== request.length - 4) return socket.destroy();
              const answer = Buffer.alloc(14);
              answer.writeInt32BE(10, 0);
              request.copy(answer, 4, 8, 12);
              return socket.write(answer);
            }),
          ),
        ),
      'a Kafka broker answers',
      'use the port that listener.grpc of a Relevo broker has',
    ],
    [
      'something that talks first',
      () => listening(createServer((socket) => socket.write('SSH-2.0-OpenSSH_9.2\r\n'))),
      'something else answers ("SSH-2.0-OpenSSH_9.2")',
      'use the port that listener.grpc of a Relevo broker has',
    ],
    [
      'garbage',
      () =>
        listening(
          createServer((socket) => socket.once('data', () => socket.write(Buffer.alloc(64, 0xfe)))),
        ),
      'something else answers ("....',
      'use the port that listener.grpc of a Relevo broker has',
    ],
    [
      'a port without anything behind it',
      () => listening(createServer((socket) => socket.destroy())),
      'connections are taken and closed at once',
      'listen on 0.0.0.0',
    ],
    [
      'a port that never answers',
      () => listening(createServer()),
      'connections are taken, but nothing is ever said',
      'see whether the broker hangs',
    ],
  ];
  test.each(cases)('%s', async (_, listen, found, change) => {
    const bad = await complaint(await listen());
    expect(bad?.check).toBe('service');
    expect(bad?.found).toContain(found);
    expect(bad?.change).toContain(change);
  });
});

describe('brokers', () => {
  /** Nodes with the ids 1 to n; each is found where it listens unless `advertised` says otherwise. */
  async function nodes(
    options: readonly Partial<NodeOptions>[],
    advertised: (own: readonly string[]) => readonly string[] = (own) => own,
  ): Promise<readonly string[]> {
    let brokers: ReadonlyMap<number, string> = new Map();
    const own = await Promise.all(
      options.map((more, index) =>
        serving(nodeRoutes({ id: index + 1, brokers: () => brokers, ...more })),
      ),
    );
    brokers = new Map(advertised(own).map((address, index) => [index + 1, address]));
    return own;
  }

  const named = (checks: readonly Finding[], check: string): readonly Finding[] =>
    checks.filter((finding) => finding.check === check);

  test('a load balancer to begin with is fine', async () => {
    const begin = await balancer(await nodes([{}, {}]));
    const fine = await diagnose(begin);
    expect(named(fine.checks, 'service')[0]).toMatchObject({
      status: 'ok',
      found: 'brokers 1, 2 answer by turns: fine to begin with',
    });
    expect(named(fine.checks, 'advertised').map(({ status }) => status)).toEqual(['ok', 'ok']);
  });

  test('an advertised address that leads to several brokers', async () => {
    let brokers: ReadonlyMap<number, string> = new Map();
    const own = await Promise.all(
      [1, 2].map((id) => serving(nodeRoutes({ id, brokers: () => brokers }))),
    );
    const shared = await balancer(own);
    brokers = new Map([
      [1, own[0] ?? ''],
      [2, shared],
    ]);
    const { exitCode, checks } = await diagnose(own[0] ?? '');
    const [first, second] = named(checks, 'advertised');
    expect({ exitCode, first: first?.status }).toEqual({ exitCode: 1, first: 'ok' });
    expect(second).toMatchObject({
      status: 'fail',
      found: 'brokers 1, 2 answer by turns: a load balancer, or a name of several',
    });
  });

  test('of another cluster', async () => {
    const [here = ''] = await nodes([{}]);
    const [there = ''] = await nodes([{ clusterId: 'other' }]);
    const both = await diagnose(here, there);
    expect(both.exitCode).toBe(1);
    expect(named(both.checks, 'cluster-id')[0]).toMatchObject({
      status: 'fail',
      found: `the given addresses are of several clusters: ${CLUSTER} (${here}), other (${there})`,
    });
    const [entry = ''] = await nodes([{}], (own) => [own[0] ?? '', there]);
    const advertised = await diagnose(entry);
    expect(named(advertised.checks, 'advertised')[1]).toMatchObject({
      status: 'fail',
      found: `a broker of another cluster answers (other, not ${CLUSTER})`,
    });
  });

  test('under a name that leads to them while the advertised one does not', async () => {
    const dead = await refusing();
    const [own = ''] = await nodes([{}], () => [dead]);
    const { exitCode, checks } = await diagnose(own);
    expect(exitCode).toBe(1);
    expect(named(checks, 'advertised-name')[0]).toMatchObject({
      status: 'fail',
      found: `broker 1 does not advertise it: all further calls go to ${dead}, which does not lead to it from here`,
      change: `set advertised.grpc of broker 1 to ${own}`,
    });
    expect(named(checks, 'advertised')[0]?.change).toContain(
      `set advertised.grpc of broker 1 to ${own}, where it answers`,
    );
  });

  test('a controller that is no broker', async () => {
    const [broker = ''] = await nodes([{}]);
    const controller = await serving(
      nodeRoutes({ id: 9, brokers: () => new Map([[1, broker]]), roles: ['controller'] }),
    );
    const { checks } = await diagnose(controller);
    expect(named(checks, 'service')[0]).toMatchObject({
      status: 'warn',
      found:
        'controller 9, which is no broker, answers: it tells of the cluster, but keeps no records',
    });
    expect(named(checks, 'service')[0]?.change).toContain(broker);
  });

  test('older than this program', async () => {
    let address = '';
    address = await serving([metadataRoute({ id: 1, brokers: () => new Map([[1, address]]) })]);
    const { checks } = await diagnose(address);
    expect(named(checks, 'service')[0]).toMatchObject({ status: 'warn' });
    expect(named(checks, 'service')[0]?.found).toContain('older than this program');
  });

  test('clocks and versions apart', async () => {
    const own = await nodes([{}, { aheadMs: 3000, version: '9.9.9' }, { aheadMs: -60_000 }]);
    const { exitCode, checks } = await diagnose(own[0] ?? '');
    expect(exitCode).toBe(1);
    expect(named(checks, 'clock').map(({ status }) => status)).toEqual(['ok', 'warn', 'fail']);
    expect(named(checks, 'clock')[1]?.found).toMatch(/^its clock is (29|30)\d\d ms before/);
    expect(named(checks, 'version')[0]).toMatchObject({
      status: 'warn',
      found: 'brokers 0.1.0 (1, 3), 9.9.9 (2); this program 0.1.0',
    });
  });

  test('one of the given addresses that fails is a warning as long as another works', async () => {
    const [own = ''] = await nodes([{}]);
    const { checks } = await diagnose(await refusing(), own);
    expect(named(checks, 'connect').map(({ status }) => status)).toEqual(['warn', 'ok']);
  });
});

describe('the command line', () => {
  test.each(['localhost', 'http://localhost:9093', 'localhost:99999', 'localhost:0'])(
    '%s is no address',
    async (address) => {
      const { exitCode, stdout, stderr } = await relevo(['doctor', '--broker', address]);
      expect({ exitCode, stdout }).toEqual({ exitCode: 2, stdout: '' });
      expect(stderr).toContain(`"${address}" is no gRPC address of a broker`);
    },
  );

  test('--broker takes several, and --bootstrap and RELEVO_BOOTSTRAP are looked at without it', async () => {
    const [one, two] = [await refusing(), await refusing()];
    const { checks } = await diagnose(`${one},${two}`, one);
    expect(checks.map(({ subject }) => subject)).toEqual([one, one, two, two]);
    const env = { RELEVO_BOOTSTRAP: one };
    expect((await relevo(['doctor'], { env })).stdout).toContain(
      `FAIL  connect  ${one}: 127.0.0.1`,
    );
    const given = await relevo(['doctor', '--bootstrap', two], { env });
    expect(given.stdout).toContain(`FAIL  connect  ${two}`);
    expect(given.stdout).toMatch(/\n {6}-> start the broker/);
    expect(given.stdout).toMatch(/\n\nFAIL: 1 failure and 0 warnings in 2 checks\n$/);
    expect(given.exitCode).toBe(1);
  });
});
