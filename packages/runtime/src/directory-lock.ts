/**
 * An exclusive lock on a directory, in two parts.
 *
 * A socket `.lock.socket` at which the holder listens: whoever can connect to it knows that the holder lives.
 * It ends with the process, however that ends, stands while the process is frozen (the kernel takes the
 * connection), and holds between containers, which see each other's files but not each other's processes.
 *
 * A file `.lock`, for people, and for systems whose sockets are no files: it names the holder by process id
 * and start time. A lock that outlived its holder (SIGKILL, power cut) is told apart by asking whether that
 * very process still runs; the start time keeps a reused process id from passing for it. A zombie, dead but not
 * yet reaped by its parent, holds no files any more and counts as gone. The file appears whole (written aside,
 * then linked), so that nobody ever reads half a holder.
 */
import {
  linkSync,
  readdirSync,
  readFileSync,
  realpathSync,
  renameSync,
  rmSync,
  statSync,
  unlinkSync,
  writeFileSync,
} from 'node:fs';
import process from 'node:process';
import { DiskError } from '@relevo/base/ports';
import { diskErrorFrom } from './disk-error.ts';
import { lockSocket } from './lock-socket.ts';

/** Stale locks that may be met in a row, each left by a process that died while we looked. */
const TAKE_ATTEMPTS_MAX = 5;

const LOCK_FILE = '.lock';

/** What this process holds: the file cannot tell our own second attempt from a stale lock. */
const held = new Set<string>();

export function lockDirectory(directory: string): { release(): void } {
  let real: string;
  try {
    real = realpathSync(directory);
  } catch (thrown) {
    throw diskErrorFrom(thrown, 'lock', directory);
  }
  if (held.has(real)) throw refused(directory, `process ${process.pid} (this one)`);
  const path = `${real}/${LOCK_FILE}`;
  const socket = lockSocket(real, () => {
    const pid = contentOf(path)?.split(' ')[0]?.trim();
    return refused(directory, pid === undefined ? 'another process' : `process ${pid}`);
  });
  try {
    take(path, directory);
  } catch (thrown) {
    socket.release();
    throw thrown;
  }
  held.add(real);
  let released = false;
  return {
    release() {
      if (released) return;
      released = true;
      held.delete(real);
      rmSync(path, { force: true });
      socket.release();
    },
  };
}

function take(lockPath: string, directory: string): void {
  const own = `${process.pid} ${statOf(process.pid).started}\n`;
  const aside = `${lockPath}.${process.pid}`;
  try {
    writeFileSync(aside, own);
  } catch (thrown) {
    const error = notWritable(thrown, directory);
    if (error.code !== 'DENIED') rmSync(aside, { force: true });
    throw error;
  }
  try {
    for (let attempt = 0; attempt < TAKE_ATTEMPTS_MAX; attempt++) {
      if (linked(aside, lockPath)) return;
      const holder = contentOf(lockPath);
      if (holder === undefined) continue;
      if (isAlive(holder)) throw refused(directory, `process ${holder.split(' ')[0]}`);
      discard(lockPath, holder);
    }
  } catch (thrown) {
    if (thrown instanceof DiskError) throw thrown;
    throw diskErrorFrom(thrown, 'lock', directory);
  } finally {
    rmSync(aside, { force: true });
  }
  throw refused(directory, 'several processes that come and go');
}

function linked(aside: string, lockPath: string): boolean {
  try {
    linkSync(aside, lockPath);
    return true;
  } catch (thrown) {
    if (diskErrorFrom(thrown, 'lock', lockPath).code === 'EXISTS') return false;
    throw thrown;
  }
}

/** Moves a stale lock away; if another process took its place meanwhile, that one is put back. */
function discard(lockPath: string, stale: string): void {
  const away = `${lockPath}.stale.${process.pid}`;
  try {
    renameSync(lockPath, away);
  } catch (thrown) {
    if (diskErrorFrom(thrown, 'lock', lockPath).code === 'NOT_FOUND') return;
    throw thrown;
  }
  if (contentOf(away) !== stale) linked(away, lockPath);
  unlinkSync(away);
}

function contentOf(path: string): string | undefined {
  try {
    return readFileSync(path, 'utf8');
  } catch (thrown) {
    if (diskErrorFrom(thrown, 'read', path).code === 'NOT_FOUND') return undefined;
    throw thrown;
  }
}

function isAlive(holder: string): boolean {
  const [pidText = '', started = ''] = holder.trim().split(' ');
  const pid = Number(pidText);
  if (!Number.isInteger(pid) || pid <= 0 || pid === process.pid) return false;
  try {
    process.kill(pid, 0);
  } catch (thrown) {
    // EPERM: it runs, under another user.
    if (diskErrorFrom(thrown, 'signal', pidText).code !== 'DENIED') return false;
  }
  const now = statOf(pid);
  if (DEAD_STATES.has(now.state) && !hasOtherThreads(pid)) return false;
  return now.started === '' || started === '' || now.started === started;
}

/** Zombie and dead, in the letters of proc(5). */
const DEAD_STATES: ReadonlySet<string> = new Set(['Z', 'X', 'x']);

interface ProcessStat {
  /** One letter. */
  readonly state: string;
  /** In clock ticks since boot. */
  readonly started: string;
}

/** A process that is being killed may lose its first thread while others still hold its files. */
function hasOtherThreads(pid: number): boolean {
  try {
    return readdirSync(`/proc/${pid}/task`).length > 1;
  } catch {
    return false;
  }
}

/** What /proc tells of a process; empty where there is none. */
function statOf(pid: number): ProcessStat {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'utf8');
    // The second field is the name in parentheses, which may hold anything; the third is the state, the
    // 22nd the start time.
    const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
    return { state: fields[0] ?? '', started: fields[19] ?? '' };
  } catch {
    return { state: '', started: '' };
  }
}

/** A volume that came with another owner is met by every second user of containers. */
function notWritable(thrown: unknown, directory: string): DiskError {
  const error = diskErrorFrom(thrown, 'write to', directory);
  if (error.code !== 'DENIED') return error;
  const { uid, gid } = statSync(directory);
  const own = `${process.getuid?.()}:${process.getgid?.()}`;
  const message =
    `user ${own} may not write to ${directory}, which belongs to ${uid}:${gid}: give it to that user ` +
    `(chown -R ${own} ${directory}), mount it writable, or choose another log.dir`;
  return new DiskError('DENIED', directory, message, { cause: thrown });
}

const refused = (directory: string, holder: string): DiskError =>
  new DiskError(
    'LOCKED',
    directory,
    `${directory} is in use by ${holder}; stop it, or choose another directory`,
  );
