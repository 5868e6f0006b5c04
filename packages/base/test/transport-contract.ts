/**
 * What every transport must do, the one over gRPC and the simulated one alike. `makeWorld` gives two
 * transports that can reach each other and a way to run a scenario (a simulated world runs its events
 * only then).
 */
import { describe, expect, test } from 'vitest';
import { RPC_MESSAGE_BYTES_MAX } from '@relevo/base/limits';
import { RpcError, route } from '@relevo/base/ports';
import type { MessageStream, PeerInfo } from '@relevo/base/ports';
import {
  BIDI,
  Bench,
  Inbox,
  SERVER_STREAM,
  UNARY,
  detailOf,
  failure,
  type On,
  type TransportWorld,
} from './transport-bench.ts';

export type { TransportWorld } from './transport-bench.ts';

const MIB = 2 ** 20;

export function transportContract(
  name: string,
  makeWorld: () => TransportWorld | Promise<TransportWorld>,
): void {
  const on: On = (what, run) => {
    test(what, async () => {
      const world = await makeWorld();
      try {
        await world.run(() => run(new Bench(world), world));
      } finally {
        await world.dispose();
      }
    });
  };
  describe(`${name}: calls`, () => callContract(on));
  describe(`${name}: streams`, () => streamContract(on));
  describe(`${name}: flow control`, () => flowContract(on));
  describe(`${name}: endings`, () => endContract(on));
  describe(`${name}: connections`, () => connectionContract(on));
}

function callContract(on: On): void {
  on('a call is answered, many at once each with its own answer', async (bench, world) => {
    const listener = await bench.listen([route(UNARY, async (request) => `re: ${request}`)]);
    const channel = world.client.dial(listener.address);
    const numbers = Array.from({ length: 50 }, (_, index) => String(index));
    const answers = await Promise.all(
      numbers.map((number) => channel.call(UNARY, number, { deadlineMs: 5_000 })),
    );
    expect(answers).toEqual(numbers.map((number) => `re: ${number}`));
    expect(await channel.call(UNARY, '', { deadlineMs: 5_000 })).toBe('re: ');
  });

  on('an error keeps status, message, code and detail', async (bench, world) => {
    const detail = detailOf(6);
    const listener = await bench.listen([
      route(UNARY, () =>
        Promise.reject(
          new RpcError('FAILED_PRECONDITION', 'broker 2 leads “örders-3”; ask it', {
            code: 'NOT_LEADER_OR_FOLLOWER',
            detail,
          }),
        ),
      ),
    ]);
    const channel = world.client.dial(listener.address);
    const error = await failure(channel.call(UNARY, 'x', { deadlineMs: 5_000 }));
    expect(error.status).toBe('FAILED_PRECONDITION');
    expect(error.code).toBe('NOT_LEADER_OR_FOLLOWER');
    expect(error.message).toContain('broker 2 leads “örders-3”; ask it');
    expect([...(error.detail ?? [])]).toEqual([...detail]);
  });

  on('an unknown method is UNIMPLEMENTED', async (bench, world) => {
    const listener = await bench.listenBidi();
    const channel = world.client.dial(listener.address);
    const error = await failure(channel.call(UNARY, 'x', { deadlineMs: 5_000 }));
    expect(error.status).toBe('UNIMPLEMENTED');
  });

  on('a call without an answer ends at its deadline', async (bench, world) => {
    const listener = await bench.listen([route(UNARY, () => new Promise(() => undefined))]);
    const channel = world.client.dial(listener.address);
    const error = await failure(channel.call(UNARY, 'x', { deadlineMs: 50 }));
    expect(error.status).toBe('DEADLINE_EXCEEDED');
  });

  on('where nobody listens a call is UNAVAILABLE', async (_bench, world) => {
    const channel = world.client.dial(world.unusedAddress);
    const error = await failure(channel.call(UNARY, 'x', { deadlineMs: 5_000 }));
    expect(error.status).toBe('UNAVAILABLE');
  });

  on('a request that cannot be decoded fails alone', async (bench, world) => {
    const listener = await bench.listen([route(UNARY, async (request) => request)]);
    const channel = world.client.dial(listener.address);
    const error = await failure(channel.call(UNARY, 'malformed', { deadlineMs: 5_000 }));
    expect(['INTERNAL', 'INVALID_ARGUMENT']).toContain(error.status);
    expect(await channel.call(UNARY, 'fine', { deadlineMs: 5_000 })).toBe('fine');
  });

  on('a message of 4 MiB comes whole', async (bench, world) => {
    const listener = await bench.listen([route(UNARY, async (request) => request)]);
    const channel = world.client.dial(listener.address);
    const request = 'abcdefgh'.repeat(MIB / 2);
    const answer = await channel.call(UNARY, request, { deadlineMs: 5_000 });
    expect(answer === request).toBe(true);
  });

  on('a message above the limit is refused, and disturbs nothing', async (bench, world) => {
    const listener = await bench.listenBidi(({ stream, inbox }) => {
      inbox.afterMessage = (message): unknown => stream.send(message);
    });
    const channel = world.client.dial(listener.address);
    const [large, small] = [new Inbox(), new Inbox()];
    const smallStream = channel.open(BIDI, small);
    expect(channel.open(BIDI, large).send('x'.repeat(RPC_MESSAGE_BYTES_MAX + 1))).toBe(false);
    expect((await bench.ended(large))?.status).toBe('RESOURCE_EXHAUSTED');
    smallStream.send('fine');
    await bench.until('the other stream lives', () => small.messages.length === 1);
  });

  on('what a handler throws ends its stream with that error', async (bench, world) => {
    const listener = await bench.listenBidi(({ inbox }) => {
      inbox.afterMessage = (): void => {
        throw new RpcError('NOT_FOUND', 'no such thing', { code: 'UNKNOWN_TOPIC_ID' });
      };
    });
    const inbox = new Inbox();
    world.client.dial(listener.address).open(BIDI, inbox).send('first');
    const error = await bench.ended(inbox);
    expect(error).toMatchObject({ status: 'NOT_FOUND', code: 'UNKNOWN_TOPIC_ID' });
  });

  on('the handler learns who calls, and under which name', async (bench, world) => {
    const peers: PeerInfo[] = [];
    const listener = await bench.listen([
      route(UNARY, async (request, peer) => {
        peers.push(peer);
        return request;
      }),
    ]);
    await world.client.dial(listener.address).call(UNARY, 'x', { deadlineMs: 5_000 });
    expect(peers[0]?.address).not.toBe('');
    expect(peers[0]?.authority).toBe(listener.address);
  });
}

function streamContract(on: On): void {
  on('a server stream gives its messages in order and ends well', async (bench, world) => {
    const listener = await bench.listen([
      route(SERVER_STREAM, (request, stream) => {
        for (let i = 0; i < 500; i++) stream.send(`${request} ${i}`);
        stream.end();
        return { onEnd: () => undefined };
      }),
    ]);
    const inbox = new Inbox();
    world.client.dial(listener.address).subscribe(SERVER_STREAM, 'row', inbox);
    expect(await bench.ended(inbox)).toBeUndefined();
    expect(inbox.messages).toEqual(Array.from({ length: 500 }, (_, index) => `row ${index}`));
  });

  on('messages keep their order both ways', async (bench, world) => {
    const listener = await bench.listenBidi(({ stream, inbox }) => {
      inbox.afterMessage = (message): unknown => stream.send(`re: ${message}`);
    });
    const inbox = new Inbox();
    const stream = world.client.dial(listener.address).open(BIDI, inbox);
    for (let i = 0; i < 2_000; i++) stream.send(String(i));
    await bench.until('all have come back', () => inbox.messages.length >= 2_000);
    expect(inbox.messages).toEqual(Array.from({ length: 2_000 }, (_, index) => `re: ${index}`));
    expect(inbox.ends).toBe(0);
  });

  on('no handler is called from within the call that opens the stream', async (bench, world) => {
    const listener = await bench.listenBidi(({ stream }) => stream.send('welcome'));
    const good = world.client.dial(listener.address);
    for (const channel of [good, good, world.client.dial(world.unusedAddress)]) {
      let opened = false;
      const check = (): void => expect(opened).toBe(true);
      const inbox = new Inbox();
      const events = {
        onMessage: (message: string) => (check(), inbox.onMessage(message)),
        onEnd: (error: RpcError | undefined) => (check(), inbox.onEnd(error)),
      };
      channel.open(BIDI, events);
      opened = true;
      await bench.until('something comes', () => inbox.ends + inbox.messages.length > 0);
    }
  });

  on('empty messages are messages', async (bench, world) => {
    const listener = await bench.listenBidi(({ stream, inbox }) => {
      inbox.afterMessage = (message): unknown => stream.send(message);
    });
    const inbox = new Inbox();
    const stream = world.client.dial(listener.address).open(BIDI, inbox);
    for (const message of ['', 'a', '']) stream.send(message);
    await bench.until('all have come back', () => inbox.messages.length === 3);
    expect(inbox.messages).toEqual(['', 'a', '']);
  });

  on(
    'a half-close reaches the server after all messages; it may answer on',
    async (bench, world) => {
      const listener = await bench.listenBidi(({ stream, inbox }) => {
        const onEnd = inbox.onEnd.bind(inbox);
        inbox.onEnd = (error): void => {
          onEnd(error);
          stream.send(`got ${inbox.messages.length}`);
          stream.send('bye');
          stream.end();
        };
      });
      const inbox = new Inbox();
      const stream = world.client.dial(listener.address).open(BIDI, inbox);
      for (let i = 0; i < 100; i++) stream.send(String(i));
      stream.end();
      expect(stream.send('too late')).toBe(false);
      expect(await bench.ended(inbox)).toBeUndefined();
      expect(inbox.messages).toEqual(['got 100', 'bye']);
      const accepted = await bench.firstAccepted();
      expect(accepted.inbox.ends).toBe(1);
      expect(accepted.inbox.error).toBeUndefined();
    },
  );

  on(
    'a handler that asks for it is told of the half-close, and of the end when the call is over',
    async (bench, world) => {
      const told: string[] = [];
      const listener = await bench.listen([
        route(BIDI, (stream) => ({
          onMessage: (message) => void told.push(message),
          onHalfClose: () => {
            told.push('half-close');
            world.timers.after(20, () => {
              stream.send('answer');
              stream.end();
            });
          },
          onEnd: (error) => void told.push(`end ${error?.status}`),
        })),
      ]);
      const inbox = new Inbox();
      const stream = world.client.dial(listener.address).open(BIDI, inbox);
      stream.send('one');
      stream.end();
      expect(await bench.ended(inbox)).toBeUndefined();
      expect(inbox.messages).toEqual(['answer']);
      await bench.until('the handler hears of the end', () => told.length === 3);
      expect(told).toEqual(['one', 'half-close', 'end undefined']);
    },
  );

  on('a caller that gives up after its half-close ends the call', async (bench, world) => {
    const told: string[] = [];
    const listener = await bench.listen([
      route(BIDI, () => ({
        onMessage: (message) => void told.push(message),
        onHalfClose: () => void told.push('half-close'),
        onEnd: (error) => void told.push(`end ${error?.status}`),
      })),
    ]);
    const inbox = new Inbox();
    const stream = world.client.dial(listener.address).open(BIDI, inbox);
    stream.send('one');
    stream.end();
    await bench.until('the handler hears of it', () => told.length === 2);
    stream.cancel(new RpcError('CANCELLED', 'enough'));
    await bench.until('the handler hears of the end', () => told.length === 3);
    expect(told).toEqual(['one', 'half-close', 'end CANCELLED']);
  });

  on(
    'the call of a caller that has said all ends, whatever its handler does',
    async (bench, world) => {
      const listener = await bench.listenBidi(({ stream, inbox }) => {
        inbox.afterMessage = (message): unknown => stream.send(message);
      });
      const inbox = new Inbox();
      const stream = world.client.dial(listener.address).open(BIDI, inbox);
      stream.send('one');
      stream.end();
      expect(await bench.ended(inbox)).toBeUndefined();
      expect(inbox.messages).toEqual(['one']);
    },
  );

  on('streams on one channel live and die apart', async (bench, world) => {
    const listener = await bench.listenBidi(({ stream, inbox }) => {
      inbox.afterMessage = (message): unknown => stream.send(message);
    });
    const channel = world.client.dial(listener.address);
    const [bad, good] = [new Inbox(), new Inbox()];
    const badStream = channel.open(BIDI, bad);
    const goodStream = channel.open(BIDI, good);
    goodStream.send('one');
    badStream.send('malformed');
    const error = await bench.ended(bad);
    expect(['INTERNAL', 'INVALID_ARGUMENT']).toContain(error?.status);
    goodStream.send('two');
    await bench.until('the good one lives', () => good.messages.length === 2);
    expect(good.ends).toBe(0);
  });
}

/** Sends 64 KiB messages until `send` asks to wait; returns how many were taken. */
function fill(stream: MessageStream<string>): number {
  const message = 'x'.repeat(65_536);
  let sent = 1;
  while (stream.send(message)) {
    sent++;
    if (sent > 4_096) throw new Error('256 MiB were taken, and send never asked to wait');
  }
  return sent;
}

function flowContract(on: On): void {
  on('a client that is not read is told to wait, then to go on', async (bench, world) => {
    const listener = await bench.listenBidi();
    const inbox = new Inbox();
    const stream = world.client.dial(listener.address).open(BIDI, inbox);
    stream.send('first');
    const { stream: far, inbox: farInbox } = await bench.firstAccepted();
    far.pause();
    let sent = fill(stream);
    expect(stream.queuedBytes()).toBeGreaterThan(0);
    // The buffers on the way may take more than once; then nothing moves any more.
    for (let drains = -1; drains !== inbox.drains;) {
      drains = inbox.drains;
      await bench.sleep(100);
      if (inbox.drains > drains) sent += fill(stream);
    }
    const before = farInbox.messages.length;
    const drains = inbox.drains;
    await bench.sleep(50);
    expect(farInbox.messages.length).toBe(before);
    far.resume();
    await bench.until('the rest arrives', () => farInbox.messages.length === sent + 1);
    await bench.until('the sender is told', () => inbox.drains > drains);
    expect(stream.queuedBytes()).toBe(0);
  });

  on('a server that is not read is told to wait, then to go on', async (bench, world) => {
    const listener = await bench.listenBidi();
    const inbox = new Inbox();
    const stream = world.client.dial(listener.address).open(BIDI, inbox);
    stream.send('first');
    stream.pause();
    const { stream: far, inbox: farInbox } = await bench.firstAccepted();
    let sent = fill(far);
    for (let drains = -1; drains !== farInbox.drains;) {
      drains = farInbox.drains;
      await bench.sleep(100);
      if (farInbox.drains > drains) sent += fill(far);
    }
    expect(far.queuedBytes()).toBeGreaterThan(0);
    stream.resume();
    await bench.until('all arrives', () => inbox.messages.length === sent);
    await bench.until('nothing is queued', () => far.queuedBytes() === 0);
  });

  on('a pause in the middle holds at once, and loses nothing', async (bench, world) => {
    const listener = await bench.listenBidi(({ stream }) => {
      for (let i = 0; i < 200; i++) stream.send(String(i));
      stream.end();
    });
    const inbox = new Inbox();
    const stream = world.client.dial(listener.address).open(BIDI, inbox);
    const seenAfterPause: number[] = [];
    inbox.afterMessage = (message): void => {
      if (Number(message) % 50 !== 25) return;
      stream.pause();
      const seen = inbox.messages.length;
      world.timers.after(20, () => {
        seenAfterPause.push(inbox.messages.length - seen);
        stream.resume();
      });
    };
    expect(await bench.ended(inbox)).toBeUndefined();
    expect(seenAfterPause).toEqual([0, 0, 0, 0]);
    expect(inbox.messages).toEqual(Array.from({ length: 200 }, (_, index) => String(index)));
  });
}

/** What a handler may be told when its caller has cancelled: see `StreamEvents.onEnd`. */
const cancelled = (error: RpcError | undefined): boolean =>
  error === undefined || error.status === 'CANCELLED';

function endContract(on: On): void {
  on('a client’s cancel ends both sides, once', async (bench, world) => {
    const listener = await bench.listenBidi();
    const inbox = new Inbox();
    const stream = world.client.dial(listener.address).open(BIDI, inbox);
    stream.send('first');
    const accepted = await bench.firstAccepted();
    let inCall = true;
    const onEnd = inbox.onEnd.bind(inbox);
    inbox.onEnd = (error): void => {
      expect(inCall, 'not from within cancel').toBe(false);
      onEnd(error);
    };
    stream.cancel(new RpcError('CANCELLED', 'no longer wanted'));
    inCall = false;
    expect((await bench.ended(inbox))?.status).toBe('CANCELLED');
    expect(cancelled(await bench.ended(accepted.inbox))).toBe(true);
    stream.cancel(new RpcError('CANCELLED', 'again'));
    expect(stream.send('too late')).toBe(false);
    await bench.until('the server side is over', () => !accepted.stream.send('too late'));
    await bench.sleep(20);
    expect([inbox.ends, accepted.inbox.ends]).toEqual([1, 1]);
  });

  on('a server’s cancel carries its error to the client', async (bench, world) => {
    const listener = await bench.listenBidi(({ stream, inbox }) => {
      inbox.afterMessage = (): void =>
        stream.cancel(
          new RpcError('ABORTED', 'a newer epoch is known', {
            code: 'FENCED_LEADER_EPOCH',
            detail: detailOf(74),
          }),
        );
    });
    const inbox = new Inbox();
    const stream = world.client.dial(listener.address).open(BIDI, inbox);
    stream.send('first');
    const error = await bench.ended(inbox);
    expect(error).toMatchObject({ status: 'ABORTED', code: 'FENCED_LEADER_EPOCH' });
    expect(error?.message).toContain('a newer epoch is known');
    expect([...(error?.detail ?? [])]).toEqual([...detailOf(74)]);
    expect(stream.send('too late')).toBe(false);
    await bench.sleep(20);
    expect(inbox.ends).toBe(1);
  });

  on('a subscriber’s cancel reaches the server', async (bench, world) => {
    const far = new Inbox();
    const listener = await bench.listen([
      route(SERVER_STREAM, (_request, stream) => {
        stream.send('one');
        return { onEnd: (error) => far.onEnd(error) };
      }),
    ]);
    const inbox = new Inbox();
    const stream = world.client.dial(listener.address).subscribe(SERVER_STREAM, 'x', inbox);
    await bench.until('the first message', () => inbox.messages.length === 1);
    stream.cancel(new RpcError('CANCELLED', 'enough'));
    expect(cancelled(await bench.ended(far))).toBe(true);
    await bench.sleep(20);
    expect(far.ends).toBe(1);
  });

  on('a server’s own end needs no word from the client', async (bench, world) => {
    const listener = await bench.listenBidi(({ stream, inbox }) => {
      inbox.afterMessage = (): void => {
        stream.send('last');
        stream.end();
        expect(stream.send('too late')).toBe(false);
      };
    });
    const inbox = new Inbox();
    const stream = world.client.dial(listener.address).open(BIDI, inbox);
    stream.send('first');
    expect(await bench.ended(inbox)).toBeUndefined();
    expect(inbox.messages).toEqual(['last']);
    expect(stream.send('too late')).toBe(false);
  });

  on('closing a channel ends its streams and calls with CANCELLED', async (bench, world) => {
    const far: Inbox[] = [];
    const listener = await bench.listen([
      route(UNARY, () => new Promise(() => undefined)),
      route(BIDI, () => {
        const inbox = new Inbox();
        far.push(inbox);
        return inbox;
      }),
    ]);
    const channel = world.client.dial(listener.address);
    const inbox = new Inbox();
    channel.open(BIDI, inbox).send('first');
    const call = failure(channel.call(UNARY, 'x', { deadlineMs: 5_000 }));
    await bench.until('the server has it', () => far[0]?.messages.length === 1);
    channel.close();
    expect((await bench.ended(inbox))?.status).toBe('CANCELLED');
    expect((await call).status).toBe('CANCELLED');
    await bench.until('the server hears of it', () => far[0]?.ends === 1);
    expect(cancelled(far[0]?.error)).toBe(true);
    const late = failure(channel.call(UNARY, 'x', { deadlineMs: 5_000 }));
    expect((await late).status).toBe('CANCELLED');
  });
}

function connectionContract(on: On): void {
  on('a probe tells a listener from a refusal', async (bench, world) => {
    const listener = await bench.listenBidi();
    expect(await world.client.probe(listener.address, 2_000)).toBe('accepted');
    expect(await world.client.probe(world.unusedAddress, 2_000)).toBe('refused');
    await listener.close(0);
    expect(await world.client.probe(listener.address, 2_000)).toBe('refused');
  });

  on('where nobody listens a stream ends UNAVAILABLE', async (bench, world) => {
    const channel = world.client.dial(world.unusedAddress);
    const [one, two] = [new Inbox(), new Inbox()];
    channel.open(BIDI, one).send('x');
    channel.subscribe(SERVER_STREAM, 'x', two);
    expect((await bench.ended(one))?.status).toBe('UNAVAILABLE');
    expect((await bench.ended(two))?.status).toBe('UNAVAILABLE');
  });

  on('a taken address cannot be listened on, and the error names it', async (bench, world) => {
    const listener = await bench.listenBidi();
    const again = world.server.listen(listener.address, []);
    await expect(again).rejects.toThrow(listener.address.split(':')[1]);
  });

  on('a closing server lets a running call end', async (bench, world) => {
    let release = (): void => undefined;
    const listener = await bench.listen([
      route(UNARY, (request) => new Promise((resolve) => (release = () => resolve(request)))),
    ]);
    const channel = world.client.dial(listener.address);
    const call = channel.call(UNARY, 'slow', { deadlineMs: 5_000 });
    const original = release;
    await bench.until('the call runs', () => release !== original);
    const closed = listener.close(2_000);
    await bench.sleep(20);
    release();
    expect(await call).toBe('slow');
    await closed;
    const late = await failure(channel.call(UNARY, 'late', { deadlineMs: 1_000 }));
    expect(late.status).toBe('UNAVAILABLE');
  });

  on('a closing server cancels what outlasts its grace', async (bench, world) => {
    const listener = await bench.listenBidi();
    const inbox = new Inbox();
    world.client.dial(listener.address).open(BIDI, inbox).send('first');
    const accepted = await bench.firstAccepted();
    await listener.close(50);
    const error = await bench.ended(inbox);
    expect(['UNAVAILABLE', 'CANCELLED']).toContain(error?.status);
    await bench.until('the server side ends', () => accepted.inbox.ends === 1);
  });

  on('a channel is used again when the server is back', async (bench, world) => {
    const echo = [route(UNARY, async (request: string) => request)];
    const first = await bench.listen(echo);
    const channel = world.client.dial(first.address);
    expect(await channel.call(UNARY, 'one', { deadlineMs: 2_000 })).toBe('one');
    await first.close(0);
    const error = await failure(channel.call(UNARY, 'two', { deadlineMs: 2_000 }));
    expect(error.status).toBe('UNAVAILABLE');
    const second = await bench.listen(echo, first.address);
    let answer: string | undefined;
    for (let attempt = 0; answer === undefined && attempt < 100; attempt++) {
      answer = await channel.call(UNARY, 'three', { deadlineMs: 2_000 }).catch(() => undefined);
      if (answer === undefined) await bench.sleep(20);
    }
    expect(answer).toBe('three');
    await second.close(0);
  });
}
