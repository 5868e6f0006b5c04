import { describe, expect, test } from 'vitest';
import { RpcError, route } from '@relevo/base/ports';
import type { Codec, Listener, MessageStream, Method, Ports } from '@relevo/base/ports';
import { utf8Decode, utf8Encode } from '@relevo/base/bytes';
import { DEFAULT_LINK } from '@relevo/simulation/simulated-network';
import { SimulationFailure, World } from '@relevo/simulation/world';

const text: Codec<string> = { encode: utf8Encode, decode: utf8Decode };
const PING: Method<string, string, 'unary'> = {
  path: '/toy/Ping',
  kind: 'unary',
  audience: 'client',
  request: text,
  response: text,
};
const CHAT: Method<string, string, 'bidi'> = {
  path: '/toy/Chat',
  kind: 'bidi',
  audience: 'client',
  request: text,
  response: text,
};

/** A server that answers pings and echoes chats, on a disk that counts them durably. */
function toyServer(ports: Ports, streams: MessageStream<string>[] = []): Promise<Listener> {
  const file = ports.disk.open('/count', 'create');
  ports.disk.syncDirectoryNow('/');
  const ping = async (request: string): Promise<string> => {
    file.write(utf8Encode('x'), file.size());
    await file.datasync();
    return `${request} ${file.size()}`;
  };
  return ports.transport.listen('server:1', [
    route(PING, ping),
    route<string, string, 'bidi'>(CHAT, (stream) => {
      streams.push(stream);
      return { onMessage: (message) => stream.send(message), onEnd: () => undefined };
    }),
  ]);
}

/** Boots a process and gives its ports to the scenario. */
function ports(world: World, name: string): Promise<Ports> {
  return new Promise((resolve) => world.process(name).boot(resolve));
}

/** A client pings a server through kills, pauses and cuts; the answers tell what happened. */
async function toyRun(seed: number | string): Promise<{ hash: string; answers: string[] }> {
  const profile = { ...DEFAULT_LINK, meanMs: 2, tailChance: 0.05, breakChance: 0.002 };
  const world = new World({ seed, network: { profile } });
  const answers: string[] = [];
  await world.run(async () => {
    const start = (booted: Ports): void => void toyServer(booted);
    const server = world.process('server');
    server.boot(start);
    const client = await ports(world, 'client');
    const channel = client.transport.dial('server:1');
    const chaos = async (): Promise<void> => {
      for (let round = 0; round < 5; round++) {
        await world.sleep(world.prng.between(1, 100));
        await server.kill({ unsynced: 'lose' });
        await world.sleep(world.prng.between(1, 50));
        server.boot(start);
        await world.sleep(20);
        server.pause();
        await world.sleep(10);
        server.resume();
      }
    };
    const pings = async (): Promise<void> => {
      for (let i = 0; i < 300; i++) {
        const answer = channel.call(PING, `ping ${i}`, { deadlineMs: 50 });
        answers.push(await answer.catch((error: unknown) => `${i} ${String(error)}`));
        await new Promise<void>((resolve) => client.timers.after(1, resolve));
      }
    };
    await Promise.all([chaos(), pings()]);
  });
  return { hash: `${world.trace.hash} ${world.prng.recorder.last}`, answers };
}

describe('determinism', () => {
  test('one seed gives one trace, another seed another', async () => {
    const hashes = new Set<string>();
    for (let seed = 0; seed < 10; seed++) {
      const [one, two] = [await toyRun(seed), await toyRun(seed)];
      expect(two).toEqual(one);
      hashes.add(one.hash);
    }
    expect(hashes.size).toBe(10);
  });

  test('faults are seen for what they are', async () => {
    const { answers } = await toyRun('faults');
    const count = (what: string): number => answers.filter((line) => line.includes(what)).length;
    expect(count('ping')).toBeGreaterThan(100);
    expect(count('connection refused')).toBeGreaterThan(5);
    expect(count('connection reset')).toBeGreaterThan(0);
  });
});

describe('processes', () => {
  test('after a kill nothing of the old incarnation happens', async () => {
    const world = new World({ seed: 1 });
    const seen: string[] = [];
    await world.run(async () => {
      const broker = world.process('broker');
      broker.boot(({ timers, disk, transport }) => {
        timers.after(10, () => seen.push('timer before'));
        timers.after(100, () => seen.push('timer'));
        const file = disk.open('/a', 'create');
        timers.after(49.9, () => void file.datasync().then(() => seen.push('sync')));
        void transport.probe('nowhere:1', 100).then((result) => seen.push(result));
      });
      await world.sleep(50);
      await broker.kill({ unsynced: 'keep' });
      expect(broker.alive).toBe(false);
      await world.sleep(1_000);
      broker.boot(({ timers, disk }) => {
        seen.push(`second ${disk.exists('/a')}`);
        timers.after(1, () => seen.push('second timer'));
      });
      await world.sleep(1_000);
    });
    expect(seen.filter((line) => line !== 'refused')).toEqual([
      'timer before',
      'second true',
      'second timer',
    ]);
  });

  test('a directory lock ends with its holder', async () => {
    const world = new World({ seed: 1 });
    const take = (booted: Ports): void => {
      booted.disk.makeDirectory('/data');
      booted.disk.syncDirectoryNow('/');
      booted.disk.lock('/data');
    };
    await world.run(async () => {
      world.process('a').boot(take);
      await world.sleep(1);
      await world.process('a').kill({ unsynced: 'keep' });
      world.process('a').boot(take);
      await world.sleep(1);
    });
  });

  test('while paused nothing runs; then everything does, in order', async () => {
    const world = new World({ seed: 1 });
    const seen: string[] = [];
    await world.run(async () => {
      const process = world.process('a');
      process.boot(({ timers, clock }) => {
        const log = (name: string): void => {
          seen.push(`${name} ${clock.monotonicMs() >= 500}`);
        };
        timers.after(10, () => log('first'));
        timers.after(30, () => log('second'));
        timers.after(20, () => {
          log('middle');
          timers.soon(() => log('soon'));
        });
      });
      await world.sleep(15);
      process.pause();
      await world.sleep(500);
      expect(seen).toEqual(['first false']);
      process.resume();
      await world.sleep(10);
    });
    expect(seen).toEqual(['first false', 'middle true', 'soon true', 'second true']);
  });

  test('soon comes before any later event; timers run at their own clock’s rate', async () => {
    const world = new World({ seed: 1 });
    const seen: string[] = [];
    await world.run(async () => {
      const process = world.process('a');
      process.clock.rate = 2;
      process.boot(({ timers, clock }) => {
        timers.after(0, () => seen.push('after 0'));
        timers.soon(() => seen.push('soon'));
        queueMicrotask(() => seen.push('microtask'));
        timers.after(1_000, () => seen.push(`${Math.round(clock.monotonicMs() / 100)}`));
      });
      await world.sleep(499);
      expect(seen).toEqual(['microtask', 'soon', 'after 0']);
      await world.sleep(2);
    });
    expect(seen.at(-1)).toBe('10');
  });

  test('a sync covers what was written before it began, and no more', async () => {
    const outcomes = new Set<string>();
    for (let seed = 0; seed < 50; seed++) {
      const world = new World({ seed });
      await world.run(async () => {
        const { disk } = await ports(world, 'a');
        const file = disk.open('/a', 'create');
        disk.syncDirectoryNow('/');
        file.write(utf8Encode('before'), 0);
        const syncing = file.datasync();
        file.write(utf8Encode(' after'), 6);
        await syncing;
        await world.process('a').kill({ unsynced: 'lose' });
        outcomes.add(utf8Decode(world.process('a').disk.contents('/a')).replaceAll('\0', '.'));
      });
    }
    expect([...outcomes].sort()).toEqual(['before', 'before after', 'before......']);
  });

  test('wall clocks jump, the monotonic ones do not', async () => {
    const world = new World({ seed: 1, wallOffsetMaxMs: 0 });
    await world.run(async () => {
      const process = world.process('a');
      const { clock } = await ports(world, 'a');
      const [wall, monotonic] = [clock.wallMs(), clock.monotonicMs()];
      process.clock.wallOffsetMs = -5_000;
      expect(clock.wallMs()).toBe(wall - 5_000);
      expect(clock.monotonicMs()).toBe(monotonic);
      expect(Number.isInteger(clock.wallMs())).toBe(true);
    });
  });
});

/** A stream's life as its client saw it. */
async function chatThrough(fault: (world: World) => Promise<void>, seed = 1): Promise<string[]> {
  const world = new World({ seed });
  const seen: string[] = [];
  await world.run(async () => {
    world.process('server').boot((booted) => void toyServer(booted));
    const client = await ports(world, 'client');
    const stream = client.transport.dial('server:1').open(CHAT, {
      onMessage: (message) => seen.push(message),
      onEnd: (error) => seen.push(`${error?.status} at ${Math.round(world.nowMs / 1_000)} s`),
    });
    stream.send('before');
    await world.sleep(10);
    await fault(world);
    stream.send('after');
    await world.sleep(30_000);
  });
  return seen;
}

describe('the network', () => {
  test('a kill resets at once, and a dial is refused until the restart', async () => {
    const seen = await chatThrough(async (world) => {
      await world.process('server').kill({ unsynced: 'keep' });
      await world.sleep(5);
      const client = await ports(world, 'probe');
      expect(await client.transport.probe('server:1', 1_000)).toBe('refused');
      world.process('server').boot((booted) => void toyServer(booted));
      await world.sleep(5);
      expect(await client.transport.probe('server:1', 1_000)).toBe('accepted');
    });
    expect(seen).toEqual(['before', 'UNAVAILABLE at 0 s']);
  });

  test('a stopped process is silent, its kernel still takes dials; then all comes', async () => {
    const seen = await chatThrough(async (world) => {
      world.process('server').pause();
      const client = await ports(world, 'probe');
      expect(await client.transport.probe('server:1', 1_000)).toBe('accepted');
      await world.sleep(20_000);
      world.process('server').resume();
    });
    expect(seen).toEqual(['before', 'after']);
  });

  test('a frozen host is silent to dials too, and its connections time out', async () => {
    const seen = await chatThrough(async (world) => {
      world.process('server').freeze();
      const client = await ports(world, 'probe');
      expect(await client.transport.probe('server:1', 1_000)).toBe('silent');
      await world.sleep(20_000);
      world.process('server').thaw();
    });
    expect(seen[0]).toBe('before');
    expect(seen[1]).toMatch(/UNAVAILABLE at (8|9|1[0-3]) s/);
  });

  test('a host that lost power answers old connections with a reset when it is back', async () => {
    const seen = await chatThrough(async (world) => {
      await world.process('server').kill({ unsynced: 'lose', silent: true });
      await world.sleep(2_000);
      world.process('server').boot((booted) => void toyServer(booted));
      await world.sleep(10);
    });
    expect(seen).toEqual(['before', 'UNAVAILABLE at 2 s']);
  });

  test('a short cut delays, both ways and one way', async () => {
    const both = await chatThrough(async (world) => {
      world.network.partition(['client'], ['server']);
      world.scheduler.after(3e6, { kind: 'heal', target: 'test' }, () => world.network.heal());
    });
    expect(both).toEqual(['before', 'after']);
    const answersCut = await chatThrough(async (world) => {
      world.network.setBlocked('server', 'client', true);
      const client = await ports(world, 'client2');
      expect(await client.transport.probe('server:1', 1_000)).toBe('accepted');
      world.scheduler.after(3e6, { kind: 'heal', target: 'test' }, () => world.network.heal());
    });
    expect(answersCut).toEqual(['before', 'after']);
  });

  test('a lasting one-way cut ends in a time-out', async () => {
    const seen = await chatThrough(async (world) => {
      world.network.setBlocked('server', 'client', true);
    });
    expect(seen[0]).toBe('before');
    expect(seen[1]).toMatch(/UNAVAILABLE at (8|9|1[0-3]) s/);
  });

  test('no connection is left behind', async () => {
    const world = new World({ seed: 1 });
    await world.run(async () => {
      for (let round = 0; round < 5; round++) {
        world.process('server').boot((booted) => void toyServer(booted));
        const client = await ports(world, 'client');
        const channel = client.transport.dial('server:1');
        await channel.call(PING, 'x', { deadlineMs: 1_000 });
        expect(world.network.connectionCount).toBe(1);
        await world.process(round % 2 === 0 ? 'server' : 'client').kill({ unsynced: 'keep' });
        await world.sleep(10);
        expect(world.network.connectionCount).toBe(0);
        await world.process('server').kill({ unsynced: 'keep' });
        await world.process('client').kill({ unsynced: 'keep' });
      }
    });
  });
});

describe('failures', () => {
  const failing = async (main: (world: World) => void): Promise<SimulationFailure> => {
    const world = new World({ seed: 'F', limitMs: 60_000 });
    world.note('fault', 'test', 'something was done');
    const run = world.run(async () => {
      main(world);
      await new Promise(() => undefined);
    });
    const error: unknown = await run.catch((thrown: unknown) => thrown);
    if (!(error instanceof SimulationFailure)) throw new Error('a failure was expected');
    expect(error.seed).toBe('F');
    expect(error.transcript.join('\n')).toContain('something was done');
    return error;
  };

  test('a bug in an event, in a promise or in a handler ends the run', async () => {
    const thrown = await failing((world) =>
      world.process('a').boot(() => {
        throw new Error('a bug');
      }),
    );
    expect(thrown.message).toContain('a bug');
    const rejected = await failing((world) =>
      world.process('a').boot(() => void Promise.reject(new Error('a loose promise'))),
    );
    expect(rejected.message).toContain('a loose promise');
    const handler = await failing((world) =>
      world.process('a').boot(({ transport }) => {
        const broken = (): Promise<string> => Promise.reject(new TypeError('not a function'));
        void transport.listen('a:1', [route(PING, broken)]);
        void transport
          .dial('a:1')
          .call(PING, 'x', { deadlineMs: 100 })
          .catch(() => undefined);
      }),
    );
    expect(handler.message).toContain('not a function');
  });

  test('a scenario that can never end, or spins, is found', async () => {
    expect((await failing(() => undefined)).message).toContain('nothing is left to happen');
    const tick = (run: Ports): void => void run.timers.after(1_000, () => tick(run));
    expect((await failing((world) => world.process('a').boot(tick))).message).toContain('not done');
    const spin = (run: Ports): void => run.timers.soon(() => spin(run));
    const spun = await failing((world) => world.process('a').boot(spin));
    expect(spun.message).toContain('no time has passed');
  });

  test('reaching around the ports throws, inside a run only', async () => {
    const attempts: [string, () => unknown][] = [
      ['Date.now', () => Date.now()],
      ['new Date()', () => new Date()],
      ['performance.now', () => performance.now()],
      ['Math.random', () => Math.random()],
      ['setTimeout', () => setTimeout(() => undefined, 0)],
      ['setImmediate', () => setImmediate(() => undefined)],
      ['AbortSignal.timeout', () => AbortSignal.timeout(1)],
      ['crypto.randomUUID', () => crypto.randomUUID()],
      ['process.hrtime', () => process.hrtime()],
      ['process.hrtime.bigint', () => process.hrtime.bigint()],
      ['WeakRef', () => new WeakRef({})],
    ];
    const world = new World({ seed: 1 });
    await world.run(async () => {
      for (const [what, attempt] of attempts) expect(attempt, what).toThrow('use a port');
      expect(new Date(0).toISOString()).toBe('1970-01-01T00:00:00.000Z');
      await Promise.resolve();
    });
    for (const [, attempt] of attempts) expect(attempt).not.toThrow();
  });

  test('builtin modules are guarded too', async () => {
    const { readFile } = await import('node:fs/promises');
    const { randomBytes } = await import('node:crypto');
    const world = new World({ seed: 1 });
    await world.run(async () => {
      const fs = process.getBuiltinModule('node:fs');
      expect(() => fs.openSync('/dev/null', 'r')).toThrow('use a port');
      const crypto = process.getBuiltinModule('node:crypto');
      expect(() => crypto.randomBytes(1)).toThrow('use a port');
    });
    expect(randomBytes(1).length).toBe(1);
    expect((await readFile('/dev/null')).length).toBe(0);
  });
});

test('an RpcError is what a handler’s RpcError becomes, and nothing is shared', async () => {
  const world = new World({ seed: 1 });
  await world.run(async () => {
    const detail = Uint8Array.of(1, 2, 3);
    world.process('server').boot(({ transport }) => {
      const refuse = (): Promise<string> =>
        Promise.reject(new RpcError('ABORTED', 'no', { detail }));
      void transport.listen('server:1', [route(PING, refuse)]);
    });
    const client = await ports(world, 'client');
    const call = client.transport.dial('server:1').call(PING, 'x', { deadlineMs: 100 });
    const error: unknown = await call.catch((thrown: unknown) => thrown);
    expect(error).toBeInstanceOf(RpcError);
    expect(error instanceof RpcError && error.detail).not.toBe(detail);
    expect(error).toMatchObject({ status: 'ABORTED', detail });
  });
});
