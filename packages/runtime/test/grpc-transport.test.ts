import { once } from 'node:events';
import { connect as connectHttp2 } from 'node:http2';
import type { Settings } from 'node:http2';
import { createServer, connect as connectTcp } from 'node:net';
import type { AddressInfo } from 'node:net';
import { Client, credentials, status as grpcStatus } from '@grpc/grpc-js';
import { RelevoError } from '@relevo/base/errors';
import { RpcError, route } from '@relevo/base/ports';
import type {
  Channel,
  Codec,
  Listener,
  MessageStream,
  Method,
  Route,
  StreamEvents,
} from '@relevo/base/ports';
import { ErrorDetailCodec, errorDetail } from '@relevo/rpc/gen/common/errors';
import { MESSAGE_BYTES_MAX, STREAM_QUEUE_BYTES, WINDOW_BYTES } from '@relevo/runtime/grpc-options';
import { GrpcTransport } from '@relevo/runtime/grpc-transport';
import { afterEach, describe, expect, test, vi } from 'vitest';
import { echo, echoStream, silentLogger, textCodec } from './transport-peer.ts';

const LOCAL = '127.0.0.1:0';
const errors: string[] = [];
const logger = {
  ...silentLogger,
  error: (event: string, fields?: object) => void errors.push(event + JSON.stringify(fields)),
};
const transport = new GrpcTransport({ logger });
const listeners: Listener[] = [];
const channels: Channel[] = [];

afterEach(async () => {
  for (const channel of channels.splice(0)) channel.close();
  await Promise.all(listeners.splice(0).map((listener) => listener.close(0)));
  errors.length = 0;
});

async function serve(...routes: Route[]): Promise<Channel> {
  const listener = await transport.listen(LOCAL, routes);
  listeners.push(listener);
  return dial(listener.address);
}

function dial(address: string): Channel {
  const channel = transport.dial(address);
  channels.push(channel);
  return channel;
}

/** What a stream told, and promises for what it is to tell. */
class Recorder<In> implements StreamEvents<In> {
  readonly messages: In[] = [];
  readonly ended: Promise<RpcError | undefined>;
  drains = 0;
  ends = 0;
  #end: (error: RpcError | undefined) => void = () => undefined;

  constructor() {
    this.ended = new Promise((resolve) => (this.#end = resolve));
  }

  onMessage(message: In): void {
    expect(this.ends).toBe(0);
    this.messages.push(message);
  }

  onDrain(): void {
    this.drains++;
  }

  onEnd(error: RpcError | undefined): void {
    this.ends++;
    this.#end(error);
  }

  async received(count: number): Promise<readonly In[]> {
    await vi.waitFor(() => expect(this.messages.length).toBeGreaterThanOrEqual(count), 5000);
    return this.messages;
  }
}

const bytesCodec: Codec<Uint8Array> = { encode: (bytes) => bytes, decode: (bytes) => bytes };
const bytesStream: Method<Uint8Array, Uint8Array, 'bidi'> = {
  path: '/test.Test/Bytes',
  kind: 'bidi',
  audience: 'client',
  request: bytesCodec,
  response: bytesCodec,
};
const numbers: Method<string, string, 'serverStream'> = {
  path: '/test.Test/Numbers',
  kind: 'serverStream',
  audience: 'client',
  request: textCodec,
  response: textCodec,
};

const echoRoutes = [
  route(echo, (text) => Promise.resolve(text)),
  route(echoStream, (stream) => ({
    onMessage: (text) => void stream.send(text),
    onEnd: (error) => error ?? stream.end(),
  })),
];

describe('calls', () => {
  test('a unary call gets its answer', async () => {
    const channel = await serve(...echoRoutes);
    expect(await channel.call(echo, 'hello', { deadlineMs: 5000 })).toBe('hello');
    expect(await channel.call(echo, '', { deadlineMs: 5000 })).toBe('');
  });

  test('many at once get each their own', async () => {
    const channel = await serve(...echoRoutes);
    const texts = Array.from({ length: 200 }, (_, i) => `call ${i}`);
    const calls = texts.map((text) => channel.call(echo, text, { deadlineMs: 10_000 }));
    expect(await Promise.all(calls)).toStrictEqual(texts);
  });

  test('a RelevoError comes through with status, code and detail', async () => {
    const channel = await serve(
      route(echo, () => Promise.reject(new RelevoError('UNKNOWN_TOPIC_OR_PARTITION', 'no "ü"'))),
    );
    const call = channel.call(echo, '', { deadlineMs: 5000 });
    const error: RpcError = await call.then(expect.unreachable, (thrown) => thrown);
    expect(error).toBeInstanceOf(RpcError);
    expect(error).toMatchObject({
      status: 'NOT_FOUND',
      code: 'UNKNOWN_TOPIC_OR_PARTITION',
      message: 'no "ü"',
    });
    expect(errors).toEqual([]);
  });

  test('an RpcError with a detail of its own comes through as it is', async () => {
    const detail = ErrorDetailCodec.encode(
      errorDetail({ code: 41, currentLeader: { brokerId: 2, leaderEpoch: 7, address: 'b:1' } }),
    );
    const thrown = new RpcError('UNAVAILABLE', 'ask b', { code: 'NOT_CONTROLLER', detail });
    const channel = await serve(route(echo, () => Promise.reject(thrown)));
    const error: RpcError = await channel
      .call(echo, '', { deadlineMs: 5000 })
      .then(expect.unreachable, (caught) => caught);
    expect(error).toMatchObject({ status: 'UNAVAILABLE', code: 'NOT_CONTROLLER' });
    expect(ErrorDetailCodec.decode(error.detail ?? new Uint8Array()).currentLeader?.address).toBe(
      'b:1',
    );
  });

  test.each([
    ['throws', (): Promise<string> => failWith('a bug')],
    ['rejects', (): Promise<string> => Promise.reject(new Error('a bug'))],
  ])('a handler that %s with anything else is a bug: INTERNAL and a log line', async (_, fail) => {
    const channel = await serve(route(echo, fail));
    await expect(channel.call(echo, '', { deadlineMs: 5000 })).rejects.toMatchObject({
      status: 'INTERNAL',
      message: 'a bug',
    });
    expect(errors).toHaveLength(1);
    expect(errors[0]).toContain('/test.Test/Echo');
  });

  test('no answer in time: DEADLINE_EXCEEDED, and the outcome is unknown', async () => {
    const channel = await serve(route(echo, () => new Promise(() => undefined)));
    await expect(channel.call(echo, '', { deadlineMs: 50 })).rejects.toMatchObject({
      status: 'DEADLINE_EXCEEDED',
      message: expect.stringMatching(/no answer to .*Echo in 50 ms; its outcome is unknown/),
    });
  });

  test('an unknown method is UNIMPLEMENTED', async () => {
    const channel = await serve();
    await expect(channel.call(echo, '', { deadlineMs: 5000 })).rejects.toMatchObject({
      status: 'UNIMPLEMENTED',
    });
  });

  test('a malformed request is refused, a malformed answer reported', async () => {
    const broken: Codec<string> = {
      encode: (text) => textCodec.encode(text),
      decode: () => failWith('not a string'),
    };
    const channel = await serve(
      route({ ...echo, request: broken }, () => Promise.resolve('')),
      ...echoRoutes.slice(1),
    );
    await expect(channel.call(echo, '', { deadlineMs: 5000 })).rejects.toMatchObject({
      status: 'INVALID_ARGUMENT',
      code: 'INVALID_REQUEST',
    });
    const events = new Recorder<string>();
    channel.open({ ...echoStream, response: broken }, events).send('x');
    expect(await events.ended).toMatchObject({ status: 'INTERNAL' });
  });

  test('a request and an answer above the limit are refused', async () => {
    const channel = await serve(
      route(echo, () => Promise.resolve('x'.repeat(MESSAGE_BYTES_MAX + 1))),
    );
    for (const text of ['', 'x'.repeat(MESSAGE_BYTES_MAX + 1)]) {
      await expect(channel.call(echo, text, { deadlineMs: 5000 })).rejects.toMatchObject({
        status: 'RESOURCE_EXHAUSTED',
        message: expect.stringContaining(`the limit is ${MESSAGE_BYTES_MAX}`),
      });
    }
  });

  test('the handler learns who calls, and under which name', async () => {
    const channel = await serve(
      route(echo, (_, peer) => Promise.resolve(`${peer.address} ${peer.authority}`)),
    );
    const answer = await channel.call(echo, '', { deadlineMs: 5000 });
    expect(answer).toMatch(new RegExp(`^127\\.0\\.0\\.1:\\d+ ${channel.address}$`));
  });
});

function failWith(message: string): never {
  throw new Error(message);
}

describe('streams', () => {
  test('messages come in order, and both sides end well', async () => {
    const channel = await serve(...echoRoutes);
    const events = new Recorder<string>();
    const stream = channel.open(echoStream, events);
    const texts = Array.from({ length: 500 }, (_, i) => `message ${i}`);
    for (const text of texts) expect(stream.send(text)).toBe(true);
    stream.end();
    expect(stream.send('too late')).toBe(false);
    expect(await events.ended).toBeUndefined();
    expect(events.messages).toStrictEqual(texts);
    expect(stream.queuedBytes()).toBe(0);
  });

  test('no handler is called from within open, cancel or resume', async () => {
    const channel = await serve(...echoRoutes);
    const events = new Recorder<string>();
    const stream = channel.open(echoStream, events);
    stream.send('a');
    stream.pause();
    stream.resume();
    stream.cancel(new RpcError('CANCELLED', 'enough'));
    expect(events.ends + events.messages.length).toBe(0);
    expect(await events.ended).toMatchObject({ status: 'CANCELLED', message: 'enough' });
    const later = new Recorder<string>();
    channel.close();
    channel.open(echoStream, later);
    expect(later.ends).toBe(0);
    expect(await later.ended).toMatchObject({ status: 'CANCELLED' });
  });

  test('the server may go on sending after the client has ended', async () => {
    const channel = await serve(
      route(echoStream, (stream) => ({
        onMessage: () => undefined,
        onEnd: () => {
          for (const text of ['a', 'b', 'c']) stream.send(text);
          stream.end();
        },
      })),
    );
    const events = new Recorder<string>();
    channel.open(echoStream, events).end();
    expect(await events.ended).toBeUndefined();
    expect(events.messages).toStrictEqual(['a', 'b', 'c']);
  });

  test('a cancel on either side reaches the other', async () => {
    const atServer = new Recorder<string>();
    const channel = await serve(
      route(echoStream, (stream) => ({
        onMessage: (text) => {
          if (text === 'refuse me') stream.cancel(new RpcError('ABORTED', 'as you say'));
          else stream.send(text);
        },
        onEnd: (error) => atServer.onEnd(error),
      })),
    );
    const first = new Recorder<string>();
    channel.open(echoStream, first).send('refuse me');
    expect(await first.ended).toMatchObject({ status: 'ABORTED' });
    expect(await atServer.ended).toMatchObject({ status: 'ABORTED' });
    const second = new Recorder<string>();
    const stream = channel.open(echoStream, second);
    stream.send('a');
    await second.received(1);
    stream.cancel(new RpcError('CANCELLED', 'enough'));
    await vi.waitFor(() => expect(atServer.ends).toBe(2));
  });

  test('streams cancelled in the midst of their messages are each over at the server, once', async () => {
    const sides: MessageStream<string>[] = [];
    let ends = 0;
    const channel = await serve(
      route(echoStream, (stream) => {
        sides.push(stream);
        return {
          onMessage: (text) => void stream.send(text.repeat(100)),
          onEnd: () => void ends++,
        };
      }),
    );
    const streams = Array.from({ length: 100 }, () => new Recorder<string>());
    for (const [i, events] of streams.entries()) {
      const stream = channel.open(echoStream, events);
      for (let sent = 0; sent <= i; sent++) stream.send('x'.repeat(100));
      void events.received(1).then(() => stream.cancel(new RpcError('CANCELLED', 'enough')));
    }
    await vi.waitFor(() => expect(ends).toBe(streams.length), 10_000);
    const over = (): boolean => sides.every((stream) => !stream.send('too late'));
    await vi.waitFor(() => expect(over()).toBe(true), 10_000);
    expect(ends).toBe(streams.length);
  });

  test('a listener closes although a peer says nothing and takes nothing', async () => {
    const listener = await transport.listen(LOCAL, [route(echo, (text) => Promise.resolve(text))]);
    const port = Number(listener.address.split(':').at(-1));
    // Its half of the connection stays open when ours is closed.
    const idle = connectTcp({ host: '127.0.0.1', port, allowHalfOpen: true });
    await once(idle, 'connect');
    let closed = false;
    void listener.close(50).then(() => (closed = true));
    await vi.waitFor(() => expect(closed).toBe(true), 3000);
    idle.destroy();
  });

  test('a handler that throws ends the stream with its error', async () => {
    const channel = await serve(
      route(echoStream, () => ({
        onMessage: () => {
          throw new RelevoError('THROTTLED', 'slow down');
        },
        onEnd: () => undefined,
      })),
    );
    const events = new Recorder<string>();
    channel.open(echoStream, events).send('x');
    expect(await events.ended).toMatchObject({ status: 'RESOURCE_EXHAUSTED', code: 'THROTTLED' });
  });

  test('a server stream runs until it ends, or the caller has enough', async () => {
    const atServer = new Recorder<string>();
    const channel = await serve(
      route(numbers, (limit, stream) => {
        for (let i = 0; i < Number(limit); i++) stream.send(String(i));
        if (limit !== '3') stream.end();
        return atServer;
      }),
    );
    const whole = new Recorder<string>();
    channel.subscribe(numbers, '1000', whole);
    expect(await whole.ended).toBeUndefined();
    expect(whole.messages.at(-1)).toBe('999');
    expect(await atServer.ended).toBeUndefined();
    const part = new Recorder<string>();
    const stream = channel.subscribe(numbers, '3', part);
    await part.received(3);
    expect(atServer.ends).toBe(1);
    stream.cancel(new RpcError('CANCELLED', 'enough'));
    await vi.waitFor(() => expect(atServer.ends).toBe(2));
  });

  test('a paused receiver gets nothing, and the sender notices', async () => {
    const atServer = new Recorder<Uint8Array>();
    let pause: (() => void) | undefined;
    let resume: (() => void) | undefined;
    const channel = await serve(
      route(bytesStream, (stream) => {
        pause = () => stream.pause();
        resume = () => stream.resume();
        pause();
        return atServer;
      }),
    );
    const events = new Recorder<Uint8Array>();
    const stream = channel.open(bytesStream, events);
    const message = new Uint8Array(1024 * 1024);
    let sent = 1;
    while (stream.send(message)) sent++;
    expect(sent * message.length).toBeGreaterThan(STREAM_QUEUE_BYTES);
    // The windows and the sockets take a part; then it stands.
    await standsStill(() => stream.queuedBytes());
    expect(sent * message.length - stream.queuedBytes()).toBeGreaterThan(WINDOW_BYTES / 2);
    expect(stream.send(message)).toBe(stream.queuedBytes() <= STREAM_QUEUE_BYTES);
    sent++;
    while (stream.send(message)) sent++;
    sent++;
    await standsStill(() => stream.queuedBytes());
    expect(stream.queuedBytes()).toBeGreaterThan(STREAM_QUEUE_BYTES / 2);
    expect(atServer.messages).toHaveLength(0);
    const drains = events.drains;
    resume?.();
    await atServer.received(sent);
    expect(events.drains).toBe(drains + 1);
    await vi.waitFor(() => expect(stream.queuedBytes()).toBe(0));
  });

  test('what came before the end is delivered before it, pause or no pause', async () => {
    const channel = await serve(
      route(numbers, (_, stream) => {
        for (const text of ['a', 'b', 'c']) stream.send(text);
        stream.end();
        return { onEnd: () => undefined };
      }),
    );
    const events = new Recorder<string>();
    const stream = channel.subscribe(numbers, '', events);
    stream.pause();
    await standsStill(() => events.messages.length);
    expect(events.messages.length + events.ends).toBe(0);
    stream.resume();
    expect(await events.ended).toBeUndefined();
    expect(events.messages).toStrictEqual(['a', 'b', 'c']);
  });

  test('a good end, too, waits for those who pause', async () => {
    const channel = await serve(...echoRoutes);
    const events = new Recorder<string>();
    const stream = channel.open(echoStream, {
      onMessage: (message) => {
        events.onMessage(message);
        stream.pause();
      },
      onEnd: (error) => events.onEnd(error),
    });
    stream.send('only one');
    stream.end();
    await events.received(1);
    await standsStill(() => events.ends);
    expect(events.ends).toBe(0);
    stream.resume();
    expect(await events.ended).toBeUndefined();
  });

  test('a message above the limit ends the stream with a clear error, on both sides', async () => {
    const channel = await serve(
      route(bytesStream, (stream) => ({
        onMessage: (bytes) => void stream.send(bytes),
        onEnd: () => undefined,
      })),
    );
    const events = new Recorder<Uint8Array>();
    channel.open(bytesStream, events).send(new Uint8Array(MESSAGE_BYTES_MAX + 1));
    expect(await events.ended).toMatchObject({
      status: 'RESOURCE_EXHAUSTED',
      message: expect.stringContaining(String(MESSAGE_BYTES_MAX)),
    });
    const largest = new Recorder<Uint8Array>();
    channel.open(bytesStream, largest).send(new Uint8Array(MESSAGE_BYTES_MAX));
    expect((await largest.received(1))[0]).toHaveLength(MESSAGE_BYTES_MAX);
    // From another client, which has no such limit.
    const foreign = new Client(channel.address, credentials.createInsecure());
    const code = await new Promise((resolve) => {
      const call = foreign.makeBidiStreamRequest(bytesStream.path, identity, identity);
      call.on('error', (error: Error & { code: number }) => resolve(error.code));
      call.on('data', () => undefined);
      call.write(Buffer.alloc(MESSAGE_BYTES_MAX + 1));
    });
    foreign.close();
    expect(code).toBe(grpcStatus.RESOURCE_EXHAUSTED);
  });
});

const identity = (bytes: Buffer): Buffer => bytes;

/** Waits until a figure has not changed over several turns of the loop. */
async function standsStill(read: () => number): Promise<void> {
  let before = read();
  let unchanged = 0;
  while (unchanged < 20) {
    await new Promise((resolve) => setTimeout(resolve, 5));
    unchanged = read() === before ? unchanged + 1 : 0;
    before = read();
  }
}

describe('listeners', () => {
  test('a port in use is an error that names it', async () => {
    const channel = await serve();
    await expect(transport.listen(channel.address, [])).rejects.toThrow(
      `cannot listen on ${channel.address}: the port is in use`,
    );
  });

  test.each(['nowhere', 'localhost', 'localhost:99999', ':9093', 'a:b:1'])(
    '"%s" is no address',
    (address) => {
      expect(() => transport.dial(address)).toThrow(/write host:port/);
    },
  );

  test('close lets calls at hand end, and refuses new ones', async () => {
    let answer: (text: string) => void = () => undefined;
    const asked = new Promise<void>((resolve) => {
      void serve(
        route(echo, () => {
          resolve();
          return new Promise((give) => (answer = give));
        }),
      );
    });
    await vi.waitFor(() => expect(channels).toHaveLength(1));
    const [channel] = channels;
    const [listener] = listeners;
    const call = channel?.call(echo, 'x', { deadlineMs: 5000 });
    await asked;
    const closed = listener?.close(5000);
    const late = dial(listener?.address ?? '').call(echo, 'y', { deadlineMs: 5000 });
    await expect(late).rejects.toMatchObject({ status: 'UNAVAILABLE' });
    answer('done');
    expect(await call).toBe('done');
    await closed;
  });

  test('close cancels what has not ended after its grace', async () => {
    const channel = await serve(...echoRoutes);
    const events = new Recorder<string>();
    const stream = channel.open(echoStream, events);
    stream.send('a');
    await events.received(1);
    await listeners[0]?.close(20);
    expect(await events.ended).toMatchObject({
      status: 'UNAVAILABLE',
      message: expect.stringContaining('shutting down'),
    });
  });

  test('windows are wide for those who send to us, stream by stream and in all', async () => {
    const channel = await serve();
    const session = connectHttp2(`http://${channel.address}`);
    const settings = await new Promise<Settings>((resolve) =>
      session.once('remoteSettings', resolve),
    );
    expect(settings.initialWindowSize).toBe(WINDOW_BYTES);
    await vi.waitFor(() =>
      expect(session.state.remoteWindowSize).toBeGreaterThanOrEqual(WINDOW_BYTES),
    );
    session.destroy();
  });

  test('garbage on the port disturbs nobody else', async () => {
    const channel = await serve(...echoRoutes);
    const events = new Recorder<string>();
    const stream = channel.open(echoStream, events);
    const port = Number(channel.address.split(':')[1]);
    const garbage = [
      'GET / HTTP/1.1\r\n\r\n',
      '\0\0\0\0',
      'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nxxxxxxxxxxx',
    ];
    for (const text of [...garbage, 'y'.repeat(100_000)]) {
      const socket = connectTcp({ port, host: '127.0.0.1' });
      socket.on('error', () => undefined);
      socket.end(text);
      socket.resume();
      await new Promise((resolve) => socket.once('close', resolve));
    }
    stream.send('still here');
    expect(await events.received(1)).toStrictEqual(['still here']);
    expect(await channel.call(echo, 'and here', { deadlineMs: 5000 })).toBe('and here');
  });
});

describe('probe', () => {
  test('tells a listener from a refusal', async () => {
    const server = createServer();
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    const address = `127.0.0.1:${(server.address() as AddressInfo).port}`;
    expect(await transport.probe(address, 1000)).toBe('accepted');
    await new Promise((resolve) => server.close(resolve));
    expect(await transport.probe(address, 1000)).toBe('refused');
  });

  test('a host whose name leads nowhere is unknown', async () => {
    expect(await transport.probe('no-such-host.invalid:9', 5000)).toBe('unknown');
  });
});
