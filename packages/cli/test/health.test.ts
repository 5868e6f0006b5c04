/** `relevo health` says which of the things that can be wrong is wrong. */
import { once } from 'node:events';
import { createServer as createHttpServer } from 'node:http';
import { createServer, type AddressInfo, type Server, type Socket } from 'node:net';
import { afterEach, expect, test } from 'vitest';
import { relevo } from './host.ts';

const open: Server[] = [];
const sockets = new Set<Socket>();
afterEach(() => {
  for (const socket of sockets) socket.destroy();
  sockets.clear();
  for (const server of open.splice(0)) server.close();
});

async function listening(server: Server): Promise<string> {
  open.push(server);
  server.on('connection', (socket: Socket) => sockets.add(socket));
  await once(server.listen(0, '127.0.0.1'), 'listening');
  return `127.0.0.1:${(server.address() as AddressInfo).port}`;
}

const answering = (status: number, body: string): Promise<string> =>
  listening(createHttpServer((_, response) => response.writeHead(status).end(body)));

test.each([
  '',
  'foo',
  'localhost',
  ':9094',
  '127.0.0.1:99999',
  '127.0.0.1:0',
  'http://127.0.0.1:1',
])('%j is a mistake, as an option and as a variable', async (address) => {
  const outcomes = [
    await relevo(['health', '--http', address]),
    await relevo(['health'], { env: { RELEVO_LISTENER_HTTP: address } }),
  ];
  for (const { exitCode, stderr } of outcomes) {
    expect(stderr).toBe(
      `relevo: "${address}" is no HTTP address of a broker; --http (or RELEVO_LISTENER_HTTP) ` +
        'is host:port, such as 127.0.0.1:9094\n',
    );
    expect(exitCode).toBe(2);
  }
});

test('a refusal is told at once, and as one', async () => {
  const server = createServer();
  const address = await listening(server);
  await new Promise((resolve) => server.close(resolve));
  const { exitCode, stderr } = await relevo(['health', '--http', address]);
  expect(stderr).toMatch(/^relevo: http:[^ ]+\/readyz refuses connections: [^\n]+\n$/);
  expect(exitCode).toBe(1);
});

test('silence is told as silence', async () => {
  const address = await listening(createServer());
  const { exitCode, stderr } = await relevo(['health', '--http', address]);
  expect(stderr).toContain('/readyz does not answer within 2000 ms');
  expect(exitCode).toBe(1);
});

test('what hangs up or speaks something else is neither', async () => {
  const address = await listening(createServer((socket) => socket.end('SSH-2.0\r\n')));
  const { exitCode, stderr } = await relevo(['health', '--http', address]);
  expect(stderr).toContain('/readyz gives no usable answer: ');
  expect(exitCode).toBe(1);
});

test('the answer of a broker is passed on', async () => {
  const well = await answering(200, '{"status":"ok"}');
  expect(await relevo(['health', '--http', well])).toMatchObject({ exitCode: 0, stdout: 'ok\n' });
  const port = well.replace(/.*:/, '');
  const env = { RELEVO_LISTENER_HTTP: `0.0.0.0:${port}` };
  expect(await relevo(['health'], { env })).toMatchObject({ exitCode: 0 });
  const ill = await answering(503, '{"status":"fail","reason":"no quorum"}');
  const { exitCode, stderr } = await relevo(['health', '--http', ill]);
  expect(stderr).toBe(`relevo: the broker at ${ill}: no quorum\n`);
  expect(exitCode).toBe(1);
});
