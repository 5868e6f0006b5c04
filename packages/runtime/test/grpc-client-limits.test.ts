/** What clients may hold open, seen over real connections. */
import { RpcError, route } from '@relevo/base/ports';
import type { Channel, MessageStream, Method } from '@relevo/base/ports';
import { ClientBook } from '@relevo/runtime/client-limits';
import { GrpcTransport } from '@relevo/runtime/grpc-transport';
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { echo, echoStream, silentLogger } from './transport-peer.ts';

const internalStream: Method<string, string, 'bidi'> = {
  ...echoStream,
  path: '/test.Cluster/Stream',
  audience: 'cluster',
};
const refusals: string[] = [];
const book = new ClientBook({ connections: 4, calls: 12, callsPerConnection: 5 }, (why) =>
  refusals.push(why),
);
const transport = new GrpcTransport({ logger: silentLogger, clients: book });
const channels: Channel[] = [];
let address = '';
let close: () => Promise<void>;

beforeEach(async () => {
  const answer = (stream: MessageStream<string>): { onMessage: () => void; onEnd: () => void } => ({
    onMessage: () => void stream.send('open'),
    onEnd: () => undefined,
  });
  const listener = await transport.listen('127.0.0.1:0', [
    route(echo, (text) => Promise.resolve(text)),
    route(echoStream, answer),
    route(internalStream, answer),
  ]);
  address = listener.address;
  close = () => listener.close(0);
});

afterEach(async () => {
  for (const channel of channels.splice(0)) channel.close();
  await close();
  refusals.length = 0;
});

function dial(): Channel {
  const channel = transport.dial(address);
  channels.push(channel);
  return channel;
}

/** A stream that the server has taken, or the error with which it was refused. */
const open = (
  channel: Channel,
  method: Method<string, string, 'bidi'> = echoStream,
): Promise<MessageStream<string> | RpcError> =>
  new Promise((resolve) => {
    const stream = channel.open(method, {
      onMessage: () => resolve(stream),
      onEnd: (error) => resolve(error ?? new RpcError('OK', 'ended')),
    });
    stream.send('x');
  });

const EXHAUSTED = { status: 'RESOURCE_EXHAUSTED', code: 'THROTTLED' };

test('streams above the limit are refused at once, and there is room again when one ends', async () => {
  const channel = dial();
  const opened = await Promise.all(Array.from({ length: 5 }, () => open(channel)));
  expect(opened.filter((one) => one instanceof RpcError)).toEqual([]);
  const refused = await open(channel);
  const message = expect.stringContaining('this connection has 5 calls open') as unknown;
  expect(refused).toMatchObject({ ...EXHAUSTED, message });
  // A call of another kind is one as well; the connection itself goes on.
  await expect(channel.call(echo, 'x', { deadlineMs: 60_000 })).rejects.toMatchObject(EXHAUSTED);
  expect(await open(channel, internalStream)).not.toBeInstanceOf(RpcError);
  expect(await dial().call(echo, 'other', { deadlineMs: 60_000 })).toBe('other');

  const [first] = opened;
  if (first === undefined || first instanceof RpcError) throw new Error('it was opened');
  first.cancel(new RpcError('CANCELLED', 'enough'));
  await vi.waitFor(() => expect(book.calls).toBe(4), 10_000);
  expect(await open(channel)).not.toBeInstanceOf(RpcError);
  expect(refusals).toHaveLength(2);
});

test('all connections together have a limit, and give back what they held when they break', async () => {
  const opened: (MessageStream<string> | RpcError)[] = [];
  for (const channel of [dial(), dial(), dial()]) {
    for (let i = 0; i < 5; i++) opened.push(await open(channel));
  }
  const errors = opened.filter((one) => one instanceof RpcError);
  expect(errors).toHaveLength(3);
  for (const error of errors) expect(error).toMatchObject(EXHAUSTED);
  for (const channel of channels.splice(0)) channel.close();
  await vi.waitFor(() => expect([book.calls, book.connections]).toEqual([0, 0]), 10_000);
  expect(await open(dial())).not.toBeInstanceOf(RpcError);
});

test('of too many connections an idle one is closed, and who has calls keeps them', async () => {
  const busy = dial();
  const stream = await open(busy);
  for (let i = 0; i < 8; i++) {
    expect(await dial().call(echo, `caller ${i}`, { deadlineMs: 60_000 })).toBe(`caller ${i}`);
  }
  await vi.waitFor(() => expect(book.connections).toBe(4), 10_000);
  expect(stream).not.toBeInstanceOf(RpcError);
  expect(book.calls).toBe(1);
  // Those whose connections were closed dial anew.
  for (const channel of channels) {
    expect(await channel.call(echo, 'again', { deadlineMs: 60_000 })).toBe('again');
  }
});
