/**
 * Keeps the real world out: while a simulated event runs, whatever would bring in real time, real
 * chance or real I/O throws. The stubs are put in place once for a run and are inert between batches of
 * events, so that the test runner beside us keeps its clock and its timers.
 */
import childProcess from 'node:child_process';
import nodeCrypto from 'node:crypto';
import dgram from 'node:dgram';
import dns from 'node:dns';
import fs from 'node:fs';
import fsPromises from 'node:fs/promises';
import http from 'node:http';
import http2 from 'node:http2';
import { syncBuiltinESMExports } from 'node:module';
import net from 'node:net';
import timers from 'node:timers';
import timersPromises from 'node:timers/promises';
import workerThreads from 'node:worker_threads';
import zlib from 'node:zlib';

/** Simulated code reached around its ports. */
export class HostGuardError extends Error {
  override readonly name = 'HostGuardError';

  constructor(what: string) {
    super(`simulated code called ${what}: use a port (clock, timers, random, disk, transport)`);
  }
}

type Holder = Record<string, unknown>;
type Callable = (...args: unknown[]) => unknown;

interface Target {
  /** As the message calls it. */
  readonly name: string;
  readonly holder: object;
  readonly keys: readonly string[];
}

/** Asynchronous or outward-bound; the synchronous readers stay, for source maps and module loading. */
const FS_KEYS = [
  ...['open', 'read', 'write', 'readFile', 'writeFile', 'appendFile', 'fsync', 'fdatasync'],
  ...['stat', 'readdir', 'mkdir', 'rename', 'rm', 'unlink', 'access', 'copyFile', 'truncate'],
  ...['openSync', 'writeSync', 'writeFileSync', 'fsyncSync', 'fdatasyncSync', 'renameSync'],
  ...['createReadStream', 'createWriteStream', 'watch'],
];
const ZLIB_KEYS = [
  ...['gzip', 'gunzip', 'deflate', 'inflate', 'deflateRaw', 'inflateRaw', 'unzip'],
  ...['brotliCompress', 'brotliDecompress', 'zstdCompress', 'zstdDecompress'],
];
const CRYPTO_KEYS = [
  ...['randomBytes', 'randomUUID', 'randomInt', 'randomFill', 'randomFillSync'],
  'getRandomValues',
];

const TARGETS: readonly Target[] = [
  {
    name: 'globalThis',
    holder: globalThis,
    keys: [
      ...['setTimeout', 'setInterval', 'setImmediate', 'fetch', 'WeakRef'],
      ...['FinalizationRegistry', 'MessageChannel', 'BroadcastChannel'],
    ],
  },
  { name: 'Date', holder: Date, keys: ['now'] },
  { name: 'performance', holder: performance, keys: ['now'] },
  { name: 'Math', holder: Math, keys: ['random'] },
  { name: 'AbortSignal', holder: AbortSignal, keys: ['timeout'] },
  { name: 'crypto', holder: globalThis.crypto, keys: ['getRandomValues', 'randomUUID'] },
  { name: 'process', holder: process, keys: ['hrtime'] },
  { name: 'process.hrtime', holder: process.hrtime, keys: ['bigint'] },
  { name: 'node:crypto', holder: nodeCrypto, keys: CRYPTO_KEYS },
  { name: 'node:fs', holder: fs, keys: FS_KEYS },
  { name: 'node:fs/promises', holder: fsPromises, keys: Object.keys(fsPromises) },
  { name: 'node:zlib', holder: zlib, keys: ZLIB_KEYS },
  { name: 'node:timers', holder: timers, keys: ['setTimeout', 'setInterval', 'setImmediate'] },
  {
    name: 'node:timers/promises',
    holder: timersPromises,
    keys: ['setTimeout', 'setInterval', 'setImmediate'],
  },
  { name: 'node:net', holder: net, keys: ['connect', 'createConnection', 'createServer'] },
  { name: 'node:http', holder: http, keys: ['request', 'get', 'createServer'] },
  { name: 'node:http2', holder: http2, keys: ['connect', 'createServer', 'createSecureServer'] },
  { name: 'node:dgram', holder: dgram, keys: ['createSocket'] },
  { name: 'node:dns', holder: dns, keys: ['lookup', 'resolve'] },
  { name: 'node:child_process', holder: childProcess, keys: ['spawn', 'exec', 'execFile', 'fork'] },
  { name: 'node:worker_threads', holder: workerThreads, keys: ['Worker'] },
];

let inside = 0;
let installs = 0;
const restorers: (() => void)[] = [];

function guarded(original: Callable, what: string): Callable {
  return new Proxy(original, {
    apply(target, self, args: unknown[]): unknown {
      if (inside > 0) throw new HostGuardError(what);
      return Reflect.apply(target, self, args);
    },
    construct(target, args: unknown[], newTarget): object {
      if (inside > 0) throw new HostGuardError(`new ${what}`);
      return Reflect.construct(target, args, newTarget) as object;
    },
  });
}

/** `new Date(ms)` only formats; `new Date()` and `Date()` read the clock. */
function guardedDate(original: DateConstructor): DateConstructor {
  return new Proxy(original, {
    apply(target, self, args: unknown[]): unknown {
      if (inside > 0) throw new HostGuardError('Date()');
      return Reflect.apply(target, self, args);
    },
    construct(target, args: unknown[], newTarget): object {
      if (inside > 0 && args.length === 0) throw new HostGuardError('new Date()');
      return Reflect.construct(target, args, newTarget) as object;
    },
  });
}

function replace(holder: Holder, key: string, by: unknown): void {
  const before = Object.getOwnPropertyDescriptor(holder, key);
  if (before !== undefined && before.configurable !== true && before.writable !== true) return;
  const descriptor = { value: by, writable: true, enumerable: before?.enumerable ?? true };
  if (before?.configurable === false) holder[key] = by;
  else Object.defineProperty(holder, key, { ...descriptor, configurable: true });
  restorers.push(() => {
    if (before === undefined) delete holder[key];
    else if (before.configurable === false) holder[key] = before.value;
    else Object.defineProperty(holder, key, before);
  });
}

/** Puts the stubs in place; `uninstall` takes them away. Nests. */
export function installHostGuards(): void {
  if (installs++ > 0) return;
  for (const { name, holder, keys } of TARGETS) {
    const record = holder as Holder;
    for (const key of keys) {
      const original = record[key];
      if (typeof original === 'function') {
        replace(record, key, guarded(original as Callable, `${name}.${key}`));
      }
    }
  }
  replace(globalThis as unknown as Holder, 'Date', guardedDate(Date));
  syncBuiltinESMExports();
}

export function uninstallHostGuards(): void {
  if (--installs > 0) return;
  for (const restore of restorers.reverse()) restore();
  restorers.length = 0;
  syncBuiltinESMExports();
}

/** Runs `batch` with the real world locked out. */
export function withoutHost<Result>(batch: () => Result): Result {
  inside++;
  try {
    return batch();
  } finally {
    inside--;
  }
}
