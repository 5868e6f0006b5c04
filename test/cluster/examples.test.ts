/** The microservices of packages/examples on a real cluster. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { connect } from 'node:net';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { Relevo } from '@relevo/client';
import { consumerService } from '@relevo/examples/consumer-service';
import { producerService, type ProducerService } from '@relevo/examples/producer-service';
import { TestCluster } from '../lib/cluster.ts';
import { until } from '../lib/wait.ts';

const TOPIC = 'messages';

let cluster: TestCluster;
let relevo: Relevo;
let service: ProducerService;
let url: string;
const stop = new AbortController();
const printed: string[][] = [[], []];
const consuming: Promise<void>[] = [];

beforeAll(async () => {
  cluster = await TestCluster.start();
  relevo = await Relevo.connect({ brokers: cluster.bootstrap });
  await relevo.admin.createTopic({ topic: TOPIC, partitions: 6, replicationFactor: 3 });
  service = producerService(relevo, { topic: TOPIC, deliveryTimeoutMs: 1_500 });
  url = `${await service.listen('127.0.0.1', 0)}/api/messages`;
  for (const lines of printed) {
    const print = (line: string): void => void lines.push(line);
    consuming.push(consumerService(relevo, { topic: TOPIC, print, signal: stop.signal }));
  }
  await until('both consumers to read', () => printed.every((lines) => lines.length === 1));
});

afterAll(async () => {
  stop.abort();
  await Promise.all(consuming);
  await service?.close();
  await relevo?.close();
  await cluster?.destroy();
});

const post = (body: unknown): Promise<Response> =>
  fetch(url, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: typeof body === 'string' ? body : JSON.stringify(body),
  });

test('a message is acknowledged with its receipt and printed by every consumer soon after', async () => {
  await post({ message: 'the first one opens the way' });
  for (let number = 0; number < 20; number++) {
    const message = `message ${number}`;
    const answer = await post({ message, key: `k${number}`, headers: { source: 'test' } });
    expect(answer.status).toBe(202);
    const receipt = (await answer.json()) as { topic: string; syncedOn: number[] };
    expect(receipt.topic).toBe(TOPIC);
    expect(new Set(receipt.syncedOn)).toEqual(new Set([1, 2, 3]));
    await until(
      'both to print it',
      () =>
        printed.every((lines) => lines.some((line) => line.endsWith(` k${number}: ${message}`))),
      { everyMs: 2 },
    );
  }
});

test.each([
  [{}, 'message'],
  [{ message: '' }, 'message'],
  [{ message: 7 }, 'message'],
  [{ message: 'x', key: '' }, 'key'],
  [{ message: 'x', headers: { a: 1 } }, 'headers.a'],
  [{ message: 'x', nonsense: true }, 'nonsense'],
  [{ message: 'half of \ud83d' }, 'message'],
  [{ message: 'x', key: '\udc00' }, 'key'],
  [{ message: 'x', headers: { a: '\ud83dx' } }, 'headers.a'],
  ['{"message": "x"', ''],
  ['"just text"', ''],
])('400 for %j, naming the field', async (body, field) => {
  const answer = await post(body);
  expect(answer.status).toBe(400);
  const { errors } = (await answer.json()) as { errors: { field: string; message: string }[] };
  expect(errors.map((error) => error.field)).toContain(field);
  expect(errors.every(({ message }) => message.length > 0)).toBe(true);
});

test.each([
  [404, 'GET', 'application/json', undefined],
  [413, 'POST', 'application/json', JSON.stringify({ message: 'x'.repeat(1024 * 1024) })],
  [415, 'POST', 'text/plain', 'hello'],
])('%d has the shape of 400', async (status, method, type, body) => {
  const answer = await fetch(url, {
    method,
    headers: { 'content-type': type },
    ...(body !== undefined && { body }),
  });
  expect(answer.status).toBe(status);
  expect(await answer.json()).toEqual({ errors: [{ field: '', message: expect.any(String) }] });
});

test('a half-sent request holds the end up for no more than the grace', async () => {
  const other = producerService(relevo, { topic: TOPIC, deliveryTimeoutMs: 1_500 });
  // All addresses of the name have servers of their own.
  const { port } = new URL(await other.listen('localhost', 0));
  const socket = connect(Number(port), '127.0.0.1');
  await once(socket, 'connect');
  socket.on('error', () => undefined);
  socket.write(
    'POST /api/messages HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n' +
      'Content-Length: 100\r\n\r\n{"mess',
  );
  await other.close();
  expect(socket.writableEnded, 'the client has not given up').toBe(false);
  socket.destroy();
});

test('a topic that cannot be made yet is told in the log, again and again', async () => {
  const file = new URL('../../packages/examples/src/consumer.ts', import.meta.url);
  const child = spawn(
    process.execPath,
    ['--import', 'tsx', '--conditions=@relevo/source', fileURLToPath(file)],
    {
      env: {
        PATH: process.env['PATH'],
        RELEVO_BROKERS: cluster.bootstrap.join(','),
        TOPIC: 'too-many-replicas',
        REPLICATION_FACTOR: '9',
      },
      stdio: ['ignore', 'pipe', 'inherit'],
    },
  );
  const ended = once(child, 'exit');
  let said = '';
  child.stdout.on('data', (chunk: Buffer) => (said += chunk.toString()));
  const warnings = (): string[] =>
    said.split('\n').filter((line) => line.includes('INVALID_REPLICATION_FACTOR'));
  await until('two warnings', () => warnings().length >= 2);
  expect(warnings()[0]).toMatch(/"level":40.*replication factor 9/);
  child.kill('SIGTERM');
  expect(await ended).toEqual([0, null]);
  expect(warnings().length).toBeLessThan(4);
});

test('503 with Retry-After while the cluster cannot take it, 202 when it can again', async () => {
  await cluster.broker(1).kill();
  await cluster.broker(2).kill();
  const refused = await post({ message: 'nobody is there', key: 'k' });
  expect(refused.status).toBe(503);
  expect(Number(refused.headers.get('retry-after'))).toBeGreaterThan(0);
  expect(await refused.json()).toHaveProperty('outcomeUnknown');
  cluster.broker(1).start();
  cluster.broker(2).start();
  await until(
    'messages to be taken again',
    async () => (await post({ message: 'back again' })).status === 202,
    { deadlineMs: 30_000, everyMs: 200 },
  );
}, 60_000);
