/**
 * Our transport beside a bare bidirectional stream of @grpc/grpc-js, between two processes:
 *
 *     node --import tsx --conditions=@relevo/source packages/runtime/test/transport-speed.ts
 *
 * Up: the client sends messages of one size with 8 MiB in flight, the server answers each with 8 bytes.
 * Down: the other way round. Small: 100 B each way, 256 in flight. Unary: 100 B, 64 in flight.
 */
import { fork } from 'node:child_process';
import type { ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { fileURLToPath } from 'node:url';
import * as grpc from '@grpc/grpc-js';
import type { Codec, Logger, MessageStream, Method } from '@relevo/base/ports';
import { route } from '@relevo/base/ports';
import { GrpcTransport } from '@relevo/runtime/grpc-transport';

const IN_FLIGHT_BYTES = 8 * 1024 * 1024;
const SECONDS = Number(process.env['SECONDS'] ?? 0.7);
const ROUNDS = 3;
const bytes: Codec<Uint8Array> = { encode: (value) => value, decode: (value) => value };
const identity = (value: Buffer): Buffer => value;
const stream: Method<Uint8Array, Uint8Array, 'bidi'> = {
  path: '/speed.Speed/Stream',
  kind: 'bidi',
  audience: 'client',
  request: bytes,
  response: bytes,
};
const unary: Method<Uint8Array, Uint8Array, 'unary'> = {
  path: '/speed.Speed/Unary',
  kind: 'unary',
  audience: 'client',
  request: bytes,
  response: bytes,
};
const quiet: Logger = {
  debug: () => undefined,
  info: () => undefined,
  warn: () => undefined,
  error: console.error,
  child: () => quiet,
};
const bareOptions = {
  'grpc-node.flow_control_window': IN_FLIGHT_BYTES,
  'grpc.max_receive_message_length': -1,
  'grpc.max_send_message_length': -1,
};

/** The first 4 bytes of a request say how large an answer it wants. */
const answerTo = (request: Uint8Array, answers: Map<number, Buffer>): Buffer => {
  const size = Buffer.from(request.buffer, request.byteOffset, 4).readUInt32BE();
  const answer = answers.get(size) ?? Buffer.alloc(size);
  answers.set(size, answer);
  return answer;
};

// ------------------------------------------------------------------------------------------- servers

async function serve(kind: string): Promise<string> {
  const answers = new Map<number, Buffer>();
  if (kind === 'ours') {
    const transport = new GrpcTransport({ logger: quiet });
    const listener = await transport.listen('127.0.0.1:0', [
      route(stream, (out) => ({
        onMessage: (request) => void out.send(answerTo(request, answers)),
        onEnd: () => out.end(),
      })),
      route(unary, (request) => Promise.resolve(answerTo(request, answers))),
    ]);
    return listener.address;
  }
  const server = new grpc.Server(bareOptions);
  const bidi = (call: grpc.ServerDuplexStream<Buffer, Buffer>): void => {
    call.on('data', (request: Buffer) => call.write(answerTo(request, answers)));
    call.on('end', () => call.end());
    call.on('error', () => undefined);
  };
  const single = (
    call: grpc.ServerUnaryCall<Buffer, Buffer>,
    callback: grpc.sendUnaryData<Buffer>,
  ): void => callback(null, answerTo(call.request, answers));
  server.register(stream.path, bidi, identity, identity, 'bidi');
  server.register(unary.path, single, identity, identity, 'unary');
  const port = await new Promise<number>((resolve, reject) =>
    server.bindAsync('127.0.0.1:0', grpc.ServerCredentials.createInsecure(), (error, bound) =>
      error === null ? resolve(bound) : reject(error),
    ),
  );
  return `127.0.0.1:${port}`;
}

// ------------------------------------------------------------------------------------------- clients

interface Caller {
  /** Calls `onAnswer` for each answer; returns what sends. */
  open(onAnswer: () => void): (message: Buffer) => void;
  unary(message: Buffer): Promise<unknown>;
  close(): void;
}

function ours(address: string): Caller {
  const channel = new GrpcTransport({ logger: quiet }).dial(address);
  return {
    open: (onAnswer) => {
      const out: MessageStream<Uint8Array> = channel.open(stream, {
        onMessage: onAnswer,
        onEnd: () => undefined,
      });
      return (message) => void out.send(message);
    },
    unary: (message) => channel.call(unary, message, { deadlineMs: 10_000 }),
    close: () => channel.close(),
  };
}

function bare(address: string): Caller {
  const client = new grpc.Client(address, grpc.credentials.createInsecure(), bareOptions);
  return {
    open: (onAnswer) => {
      const call = client.makeBidiStreamRequest(stream.path, identity, identity);
      call.on('data', onAnswer);
      call.on('error', () => undefined);
      return (message) => void call.write(message);
    },
    unary: (message) =>
      new Promise((resolve, reject) =>
        client.makeUnaryRequest(unary.path, identity, identity, message, (error, answer) =>
          error === null ? resolve(answer) : reject(error),
        ),
      ),
    close: () => client.close(),
  };
}

function request(size: number, answerSize: number): Buffer {
  const message = Buffer.alloc(size);
  message.writeUInt32BE(answerSize);
  return message;
}

/** Answers a second. */
async function streamRate(caller: Caller, message: Buffer, inFlight: number): Promise<number> {
  let answers = 0;
  let started = 0;
  let start = performance.now();
  let done: (() => void) | undefined;
  const finished = new Promise<void>((resolve) => (done = resolve));
  const send = caller.open(() => {
    const now = performance.now();
    // The first fifth warms up.
    if (started === 0 && now - start > SECONDS * 200) {
      started = now;
      answers = 0;
    }
    answers++;
    if (now - start > SECONDS * 1200) done?.();
    else send(message);
  });
  start = performance.now();
  for (let i = 0; i < inFlight; i++) send(message);
  await finished;
  return (answers / (performance.now() - started)) * 1000;
}

async function unaryRate(caller: Caller, message: Buffer, inFlight: number): Promise<number> {
  let answers = 0;
  const start = performance.now();
  const loop = async (): Promise<void> => {
    while (performance.now() - start < SECONDS * 1000) {
      await caller.unary(message);
      answers++;
    }
  };
  await Promise.all(Array.from({ length: inFlight }, loop));
  return answers / ((performance.now() - start) / 1000);
}

interface Side {
  readonly child: ChildProcess;
  readonly dial: () => Caller;
}

async function start(kind: 'ours' | 'bare'): Promise<Side> {
  const child = fork(fileURLToPath(import.meta.url), [kind], { execArgv: process.execArgv });
  const [address] = (await once(child, 'message')) as [string];
  return { child, dial: () => (kind === 'ours' ? ours(address) : bare(address)) };
}

/** Microseconds of CPU that both processes have used. */
async function cpuUs(child: ChildProcess): Promise<number> {
  child.send('cpu');
  const [used] = (await once(child, 'message')) as [number];
  const { user, system } = process.cpuUsage();
  return used + user + system;
}

interface Figure {
  readonly rate: number;
  readonly cpuUs: number;
}

type Measurement = (caller: Caller) => Promise<number>;

async function measure(side: Side, rate: Measurement): Promise<Figure> {
  const caller = side.dial();
  const before = await cpuUs(side.child);
  const start = performance.now();
  const perSecond = await rate(caller);
  const messages = (perSecond * (performance.now() - start)) / 1000;
  const used = (await cpuUs(side.child)) - before;
  caller.close();
  return { rate: perSecond, cpuUs: used / messages };
}

const MEASUREMENTS: readonly (readonly [string, Measurement])[] = [
  ...[16, 64, 1024].flatMap((kib): [string, Measurement][] => {
    const size = kib * 1024;
    const inFlight = IN_FLIGHT_BYTES / size;
    return [
      [`up ${kib} KiB`, (caller) => streamRate(caller, request(size, 8), inFlight)],
      [`down ${kib} KiB`, (caller) => streamRate(caller, request(8, size), inFlight)],
    ];
  }),
  ['small', (caller) => streamRate(caller, request(100, 100), 256)],
  ['ping-pong', (caller) => streamRate(caller, request(100, 100), 1)],
  ['unary', (caller) => unaryRate(caller, request(100, 100), 64)],
];

async function main(only: string | undefined): Promise<void> {
  const sides = { ours: await start('ours'), bare: await start('bare') };
  const table: Record<string, Record<string, number>> = {};
  for (const [name, rate] of MEASUREMENTS) {
    if (only !== undefined && !name.includes(only)) continue;
    // Turn and turn about, and the best of each, as others use the machine too.
    const own: Figure[] = [];
    const base: Figure[] = [];
    for (let round = 0; round < ROUNDS; round++) {
      own.push(await measure(sides.ours, rate));
      base.push(await measure(sides.bare, rate));
    }
    const best = (figures: Figure[]): number => Math.max(...figures.map((figure) => figure.rate));
    const cpu = (figures: Figure[]): number => Math.min(...figures.map((figure) => figure.cpuUs));
    table[name] = {
      oursPerS: Math.round(best(own)),
      barePerS: Math.round(best(base)),
      ratio: Number((best(own) / best(base)).toFixed(2)),
      oursCpuUs: Number(cpu(own).toFixed(1)),
      bareCpuUs: Number(cpu(base).toFixed(1)),
    };
  }
  console.table(table);
  for (const { child } of Object.values(sides)) child.kill('SIGKILL');
  process.exit(0);
}

const [asked] = process.argv.slice(2);
if (asked === 'ours' || asked === 'bare') {
  process.send?.(await serve(asked));
  process.on('message', () => {
    const { user, system } = process.cpuUsage();
    process.send?.(user + system);
  });
} else {
  await main(asked);
}
