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

/** A stream that is open, and the moment of its end. */
async function openStream(
  channel: Channel,
): Promise<{ ended: Promise<{ error: RpcError | undefined; atMs: number }> }> {
  return new Promise((resolve, reject) => {
    const ended = new Promise<{ error: RpcError | undefined; atMs: number }>((resolveEnd) => {
      const stream = channel.open(echoStream, {
        onMessage: () => resolve({ ended }),
        onEnd: (error) => {
          resolveEnd({ error, atMs: performance.now() });
          reject(error ?? new Error('it ended'));
        },
      });
      stream.send('hello');
    });
  });
}

const median = (values: number[]): number =>
  values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)] ?? Number.NaN;

test('SIGKILL of the server ends a stream within milliseconds', async () => {
  const tookMs: number[] = [];
  for (let i = 0; i < 3; i++) {
    const { child, address } = await start('127.0.0.1:0');
    const { ended } = await openStream(dial(address));
    const killedAtMs = performance.now();
    child.kill('SIGKILL');
    const { error, atMs } = await ended;
    expect(error).toMatchObject({ status: 'UNAVAILABLE' });
    tookMs.push(atMs - killedAtMs);
  }
  console.info('kill to end, ms:', tookMs.map((ms) => ms.toFixed(1)).join(' '));
  expect(median(tookMs)).toBeLessThan(100);
});

test('a dead address is refused at once, each time, and reached as soon as it is back', async () => {
  const first = await start('127.0.0.1:0');
  const channel = dial(first.address);
  const { ended } = await openStream(channel);
  first.child.kill('SIGKILL');
  await ended;
  const refusedMs: number[] = [];
  for (let i = 0; i < 30; i++) {
    const askedAtMs = performance.now();
    const error: RpcError = await channel
      .call(echo, 'x', { deadlineMs: 5000 })
      .then(expect.unreachable, (thrown) => thrown);
    expect(error.status).toBe('UNAVAILABLE');
    // While the kernel still buries the process, connections break as they are made.
    expect(error.message).toMatch(/ECONNREFUSED|ECONNRESET|broke as it was made/);
    refusedMs.push(performance.now() - askedAtMs);
  }
  expect(median(refusedMs)).toBeLessThan(50);
  await start(first.address);
  const askedAtMs = performance.now();
  expect(await channel.call(echo, 'back', { deadlineMs: 5000 })).toBe('back');
  const reachedMs = performance.now() - askedAtMs;
  console.info('refused, ms:', median(refusedMs).toFixed(1), 'reached, ms:', reachedMs.toFixed(1));
  expect(reachedMs).toBeLessThan(200);
});

test('while the server is away, calls in a tight loop reach it soon after it listens', async () => {
  const first = await start('127.0.0.1:0');
  const channel = dial(first.address);
  await channel.call(echo, 'x', { deadlineMs: 5000 });
  first.child.kill('SIGKILL');
  await once(first.child, 'exit');
  const second = start(first.address);
  let failures = 0;
  let backAtMs = 0;
  void second.then(() => (backAtMs = performance.now()));
  for (;;) {
    try {
      await channel.call(echo, 'x', { deadlineMs: 5000 });
      break;
    } catch {
      failures++;
    }
  }
  const reachedAtMs = performance.now();
  await second;
  const afterMs = reachedAtMs - backAtMs;
  console.info('refused', failures, 'times, reached', afterMs.toFixed(1), 'ms after it listened');
  expect(failures).toBeGreaterThan(20);
  expect(afterMs).toBeLessThan(400);
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
