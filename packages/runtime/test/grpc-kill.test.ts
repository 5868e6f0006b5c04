/** Servers in processes of their own, killed and frozen for real: how soon does the client know? */
import { fork } from 'node:child_process';
import type { ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { fileURLToPath } from 'node:url';
import type { Channel, RpcError } from '@relevo/base/ports';
import { GrpcTransport } from '@relevo/runtime/grpc-transport';
import { afterEach, expect, test } from 'vitest';
import { echo, echoStream, silentLogger } from './transport-peer.ts';

const PEER = fileURLToPath(new URL('./transport-peer.ts', import.meta.url));
const transport = new GrpcTransport({ logger: silentLogger });
const children: ChildProcess[] = [];
const channels: Channel[] = [];

afterEach(() => {
  for (const channel of channels.splice(0)) channel.close();
  for (const child of children.splice(0)) child.kill('SIGKILL');
});

async function start(address: string): Promise<{ child: ChildProcess; address: string }> {
  const child = fork(PEER, [address], {
    execArgv: ['--import', 'tsx', '--conditions=@relevo/source'],
  });
  children.push(child);
  const [taken] = (await once(child, 'message')) as [string];
  return { child, address: taken };
}

function dial(address: string): Channel {
  const channel = transport.dial(address);
  channels.push(channel);
  return channel;
}

/** A stream that is open; resolves with its end. */
async function openStream(channel: Channel): Promise<{ ended: Promise<RpcError | undefined> }> {
  return new Promise((resolve, reject) => {
    const ended = new Promise<RpcError | undefined>((resolveEnd) => {
      const stream = channel.open(echoStream, {
        onMessage: () => resolve({ ended }),
        onEnd: (error) => {
          resolveEnd(error);
          reject(error ?? new Error('it ended'));
        },
      });
      stream.send('hello');
    });
  });
}

/** Long past what any of these tests takes: whoever waits for it fails by the test's own limit. */
const NEVER_MS = 3_600_000;

test('SIGKILL of the server ends its streams', async () => {
  for (let i = 0; i < 3; i++) {
    const { child, address } = await start('127.0.0.1:0');
    const { ended } = await openStream(dial(address));
    child.kill('SIGKILL');
    expect(await ended).toMatchObject({ status: 'UNAVAILABLE' });
  }
});

test('a dead address is refused each time, and the first call reaches it once it is back', async () => {
  const first = await start('127.0.0.1:0');
  const channel = dial(first.address);
  const { ended } = await openStream(channel);
  first.child.kill('SIGKILL');
  await ended;
  // The back-off of grpc-js would be at a minute and more after so many: each call dials for itself.
  for (let i = 0; i < 30; i++) {
    const error: RpcError = await channel
      .call(echo, 'x', { deadlineMs: NEVER_MS })
      .then(expect.unreachable, (thrown) => thrown);
    expect(error.status).toBe('UNAVAILABLE');
    // While the kernel still buries the process, connections break as they are made.
    expect(error.message).toMatch(/ECONNREFUSED|ECONNRESET|broke as it was made/);
  }
  await start(first.address);
  expect(await channel.call(echo, 'back', { deadlineMs: NEVER_MS })).toBe('back');
});

test('after calls in a tight loop while the server was away, the next one reaches it', async () => {
  const first = await start('127.0.0.1:0');
  const channel = dial(first.address);
  await channel.call(echo, 'x', { deadlineMs: NEVER_MS });
  first.child.kill('SIGKILL');
  await once(first.child, 'exit');
  let listens = false;
  let refused = 0;
  const second = start(first.address).then(() => (listens = true));
  while (!listens) {
    const reached = await channel.call(echo, 'x', { deadlineMs: NEVER_MS }).then(
      () => true,
      () => false,
    );
    if (reached) break;
    refused++;
  }
  await second;
  expect(refused).toBeGreaterThan(0);
  expect(await channel.call(echo, 'back', { deadlineMs: NEVER_MS })).toBe('back');
});

test('a frozen server that takes connections but says nothing ends calls at their deadline', async () => {
  const { child, address } = await start('127.0.0.1:0');
  child.kill('SIGSTOP');
  const channel = dial(address);
  await expect(channel.call(echo, 'x', { deadlineMs: 100 })).rejects.toMatchObject({
    status: 'DEADLINE_EXCEEDED',
  });
  expect(await transport.probe(address, 1000)).toBe('accepted');
  child.kill('SIGCONT');
  expect(await channel.call(echo, 'thawed', { deadlineMs: 5000 })).toBe('thawed');
});
