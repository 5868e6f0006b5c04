/** The half of directory-lock.ts that the kernel keeps: a socket in the directory, listened at. */
import {
  closeSync,
  existsSync,
  linkSync,
  openSync,
  renameSync,
  rmSync,
  statSync,
  unlinkSync,
} from 'node:fs';
import { createServer, type Server } from 'node:net';
import process from 'node:process';
import { Worker } from 'node:worker_threads';

const SOCKET = '.lock.socket';
/** Stale sockets that may be met in a row, each left by a process that died while we looked. */
const ATTEMPTS_MAX = 5;
/** A kernel takes or refuses a connection of this kind at once. */
const ANSWER_MS = 2000;

export interface LockSocket {
  release(): void;
}

const NONE: LockSocket = { release: () => undefined };

/**
 * Listens in `directory` until released; blocking. Throws what `held` gives where another process does.
 * Where sockets are no files, or the file system takes none, nothing is locked.
 */
export function lockSocket(directory: string, held: () => Error): LockSocket {
  if (process.platform === 'win32') return NONE;
  const path = `${directory}/${SOCKET}`;
  for (let attempt = 0; attempt < ATTEMPTS_MAX; attempt++) {
    const server = listenAt(directory, path);
    if (server !== undefined) return server;
    if (!existsSync(path)) return NONE;
    const found = inodeOf(path);
    if (isAnswered(directory, path)) throw held();
    discard(path, found);
  }
  throw held();
}

/**
 * Paths of sockets have 107 bytes at most; the one by way of our own descriptor of the directory is short.
 * Where there is no /proc, or no leave to read the directory, the plain one has to do.
 */
function shortened(directory: string, path: string): { readonly path: string; close(): void } {
  const plain = { path, close: () => undefined };
  if (process.platform !== 'linux') return plain;
  try {
    const fd = openSync(directory, 'r');
    return { path: `/proc/self/fd/${fd}/${SOCKET}`, close: () => closeSync(fd) };
  } catch {
    return plain;
  }
}

function listenAt(directory: string, path: string): LockSocket | undefined {
  const short = shortened(directory, path);
  const server: Server = createServer((socket) => socket.destroy());
  // That it could not listen shows at once; nobody waits for the event.
  server.on('error', () => undefined);
  server.listen(short.path);
  if (!server.listening) {
    short.close();
    return undefined;
  }
  server.unref();
  return {
    release() {
      rmSync(path, { force: true });
      server.close(() => short.close());
    },
  };
}

/** Asked by another thread, so that this one can wait for the answer. */
function isAnswered(directory: string, path: string): boolean {
  const short = shortened(directory, path);
  const answer = new Int32Array(new SharedArrayBuffer(4));
  const worker = new Worker(ASK, { eval: true, workerData: { path: short.path, answer } });
  Atomics.wait(answer, 0, 0, ANSWER_MS);
  void worker.terminate();
  short.close();
  // Without an answer nothing is known: better to refuse than to share a directory.
  return Atomics.load(answer, 0) !== REFUSED;
}

const REFUSED = 2;
const ASK = `
  const { workerData: { path, answer } } = require('node:worker_threads');
  const told = (what) => { Atomics.store(answer, 0, what); Atomics.notify(answer, 0); };
  const socket = require('node:net').connect(path);
  socket.once('connect', () => told(1));
  socket.once('error', ({ code }) => told(code === 'ECONNREFUSED' || code === 'ENOENT' ? ${REFUSED} : 3));
`;

const inodeOf = (path: string): number | undefined =>
  statSync(path, { throwIfNoEntry: false })?.ino;

/** Moves a stale socket away; if another process took its place meanwhile, that one is put back. */
function discard(path: string, stale: number | undefined): void {
  const away = `${path}.stale.${process.pid}`;
  try {
    renameSync(path, away);
    if (inodeOf(away) !== stale) linkSync(away, path);
    unlinkSync(away);
  } catch {
    // Another process was quicker: the next attempt sees what it has left.
  }
}
