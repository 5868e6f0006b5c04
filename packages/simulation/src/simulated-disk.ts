/**
 * The disk of a simulated host. It outlives the processes on it: each incarnation gets a `Disk` port of
 * its own by `port(…)`, which is dead with it. A kill leaves the page cache alone (the operating system
 * still has it); a power cut is `crash`. Latencies, errors, failed syncs, a full and a hung disk are
 * switched on from outside.
 */
import { utf8Encode } from '@relevo/base/bytes';
import { DiskError } from '@relevo/base/ports';
import type { DirectoryEntry, Disk, DiskErrorCode } from '@relevo/base/ports';
import { DirectoryNode, DiskImage } from './disk-image.ts';
import type { CrashMode, FileNode, TreeNode } from './disk-image.ts';
import { SimulatedDiskPort } from './simulated-disk-port.ts';
import type { Prng } from './prng.ts';
import type { EventOwner, Scheduler } from './scheduler.ts';

export type DiskOperation =
  'open' | 'read' | 'write' | 'truncate' | 'datasync' | 'rename' | 'remove' | 'syncDirectory';

export interface DiskFault {
  readonly operation: DiskOperation;
  /** Only paths that match; default: all. */
  readonly path?: RegExp;
  /** Default: IO. */
  readonly code?: DiskErrorCode;
  /** How often it strikes; default: once. */
  readonly times?: number;
}

/** Delays of one kind of operation: exponential around `meanMs`, and a long tail. */
export interface LatencyRange {
  readonly meanMs: number;
  readonly tailChance: number;
  readonly tailMs: number;
}

export interface DiskLatency {
  readonly sync: LatencyRange;
  readonly read: LatencyRange;
}

export const DEFAULT_DISK_LATENCY: DiskLatency = {
  sync: { meanMs: 0.2, tailChance: 0.002, tailMs: 20 },
  read: { meanMs: 0.05, tailChance: 0.001, tailMs: 5 },
};

export interface SimulatedDiskOptions {
  readonly prng: Prng;
  /** Without one, off-the-loop work is done by the time the call returns, and no time passes. */
  readonly scheduler?: Scheduler;
  /** In the trace; default `disk`. */
  readonly name?: string;
  readonly latency?: DiskLatency;
  /** Default: 64 GiB. */
  readonly capacityBytes?: number;
}

/** Rates of errors per operation, from 0 to 1. */
export interface DiskErrorRates {
  read: number;
  write: number;
  datasync: number;
}

export class SimulatedDisk {
  readonly name: string;
  readonly image: DiskImage = new DiskImage();
  readonly #prng: Prng;
  readonly #scheduler: Scheduler | undefined;
  latency: DiskLatency;
  capacityBytes: number;
  readonly errorRates: DiskErrorRates = { read: 0, write: 0, datasync: 0 };
  #usedBytes = 0;
  readonly #faults: { fault: DiskFault; left: number }[] = [];
  readonly #locks: Map<string, EventOwner | undefined> = new Map();
  #hung = false;
  #waiting: (() => void)[] = [];

  constructor(options: SimulatedDiskOptions) {
    this.#prng = options.prng;
    this.#scheduler = options.scheduler;
    this.name = options.name ?? 'disk';
    this.latency = options.latency ?? DEFAULT_DISK_LATENCY;
    this.capacityBytes = options.capacityBytes ?? 64 * 2 ** 30;
  }

  /** The disk as one process sees it, as long as `owner` lives. `spend` is told of bytes that block its loop. */
  port(owner?: EventOwner, spend?: (bytes: number) => void): Disk {
    return new SimulatedDiskPort(this, owner, spend);
  }

  get usedBytes(): number {
    return this.#usedBytes;
  }

  // ------------------------------------------------------------------------------- faults

  /** Lets the next matching operation fail. */
  fail(fault: DiskFault): void {
    this.#faults.push({ fault, left: fault.times ?? 1 });
  }

  /** Takes back all that `fail` and `errorRates` have set. */
  clearFaults(): void {
    this.#faults.length = 0;
    this.errorRates.read = 0;
    this.errorRates.write = 0;
    this.errorRates.datasync = 0;
  }

  /** Syncs and reads do not come back before `unhang`; what is synchronous still works. */
  hang(): void {
    this.#hung = true;
  }

  unhang(): void {
    this.#hung = false;
    const waiting = this.#waiting;
    this.#waiting = [];
    for (const complete of waiting) complete();
  }

  /**
   * A power cut: what was not synced is kept, lost or torn, as the seed says. All processes on the
   * host must be dead by then; their locks are gone.
   */
  crash(): CrashMode {
    const mode = this.image.crash(this.#prng);
    this.#locks.clear();
    this.#usedBytes = sizeOf(this.image.root);
    return mode;
  }

  /** A power cut of which the caller says what it keeps; see `DiskImage.crashKeeping`. */
  crashKeeping(keepName: (at: number) => boolean, files: 'keepAll' | 'loseAll'): void {
    this.image.crashKeeping(keepName, files, this.#prng);
    this.#locks.clear();
    this.#usedBytes = sizeOf(this.image.root);
  }

  /** Gives back what a dead process held. */
  releaseLocks(owner: EventOwner): void {
    for (const [directory, holder] of this.#locks) {
      if (holder === owner) this.#locks.delete(directory);
    }
  }

  /** An empty disk in its place. */
  wipe(): void {
    this.restore(new DirectoryNode());
  }

  /** What is on stable storage now, for `restore`: a backup, or an older disk that comes back. */
  snapshot(): DirectoryNode {
    return this.image.snapshot();
  }

  restore(image: DirectoryNode): void {
    this.image.restore(image);
    this.#locks.clear();
    this.#usedBytes = sizeOf(this.image.root);
  }

  /** A latent error: flips one bit, on stable storage and in what programs see. */
  flipBit(path: string, position: number, bit: number): void {
    const file = this.file(path);
    for (const bytes of [file.visible, file.durable]) {
      const byte = bytes.view(position, position + 1)[0];
      if (byte !== undefined) bytes.write(Uint8Array.of(byte ^ (1 << bit)), position);
    }
  }

  /** Other bytes than were written, on stable storage and in what programs see. */
  overwrite(path: string, bytes: Uint8Array, position: number): void {
    const file = this.file(path);
    for (const face of [file.visible, file.durable]) {
      const room = Math.max(0, Math.min(bytes.length, face.size - position));
      face.write(bytes.subarray(0, room), Math.min(position, face.size));
    }
  }

  /** The file loses its end, on stable storage and in what programs see. */
  shorten(path: string, size: number): void {
    const file = this.file(path);
    this.account(file, path, Math.min(size, file.visible.size));
    for (const face of [file.visible, file.durable]) face.truncate(Math.min(size, face.size));
  }

  /** What programs see of a file, for checkers. */
  contents(path: string): Uint8Array {
    return this.file(path).visible.view().slice();
  }

  // ------------------------------------------------------------------ for the ports of this disk

  file(path: string): FileNode {
    const node = this.lookup(path);
    if (node?.kind !== 'file') throw missing(path);
    return node;
  }

  directory(path: string): DirectoryNode {
    const node = this.lookup(path);
    if (node === undefined) throw missing(path);
    if (node.kind !== 'directory') throw new DiskError('IO', path, `${path} is not a directory`);
    return node;
  }

  lookup(path: string): TreeNode | undefined {
    let node: TreeNode = this.image.root;
    for (const part of partsOf(path)) {
      const child: TreeNode | undefined =
        node.kind === 'directory' ? node.visible.get(part) : undefined;
      if (child === undefined) return undefined;
      node = child;
    }
    return node;
  }

  /** The directory that holds (or would hold) `path`, and the last part of the path. */
  parent(path: string): { directory: DirectoryNode; name: string } {
    const parts = partsOf(path);
    const name = parts.pop();
    if (name === undefined) throw new DiskError('DENIED', path, 'the root has no name to change');
    checkName(path, name);
    return { directory: this.directory(`/${parts.join('/')}`), name };
  }

  list(path: string): DirectoryEntry[] {
    const entries = [...this.directory(path).visible].map(([name, node]) => ({
      name,
      directory: node.kind === 'directory',
    }));
    return entries.sort((a, b) => (a.name < b.name ? -1 : 1));
  }

  /** Throws where a fault is due; every operation asks first. */
  check(operation: DiskOperation, path: string): void {
    for (const [at, entry] of this.#faults.entries()) {
      if (entry.fault.operation !== operation) continue;
      if (entry.fault.path !== undefined && !entry.fault.path.test(path)) continue;
      entry.left--;
      if (entry.left <= 0) this.#faults.splice(at, 1);
      throw faultAt(entry.fault.code ?? 'IO', operation, path);
    }
    const rate = operation in this.errorRates ? this.#rate(operation) : 0;
    if (this.#prng.chance(rate)) throw faultAt('IO', operation, path);
  }

  #rate(operation: DiskOperation): number {
    if (operation === 'read' || operation === 'write' || operation === 'datasync') {
      return this.errorRates[operation];
    }
    return 0;
  }

  /** Counts a growing or shrinking file; throws FULL where there is no room. */
  account(node: FileNode, path: string, newSize: number): void {
    const growth = newSize - node.visible.size;
    if (!node.linked) return;
    if (growth > 0 && this.#usedBytes + growth > this.capacityBytes) {
      throw new DiskError('FULL', path, `no room for ${growth} more bytes in ${path}`);
    }
    this.#usedBytes += growth;
  }

  /** A name is gone: so is the space. */
  unlink(node: TreeNode): void {
    if (node.kind === 'directory') {
      for (const child of node.visible.values()) this.unlink(child);
    } else if (node.linked) {
      node.linked = false;
      this.#usedBytes -= node.visible.size;
    }
  }

  lock(directory: string, owner: EventOwner | undefined): { release(): void } {
    this.directory(directory);
    const key = partsOf(directory).join('/');
    if (this.#locks.has(key)) {
      throw new DiskError('LOCKED', directory, `another process uses ${directory}; stop it first`);
    }
    this.#locks.set(key, owner);
    let held = true;
    return {
      release: (): void => {
        if (held) this.#locks.delete(key);
        held = false;
      },
    };
  }

  /** Does `work` off the loop, after a drawn delay, and settles the promise with what it gives. */
  offLoop<Result>(
    kind: 'sync' | 'read',
    path: string,
    owner: EventOwner | undefined,
    work: () => Result,
  ): Promise<Result> {
    const scheduler = this.#scheduler;
    if (scheduler === undefined) {
      return this.#hung
        ? new Promise((resolve) => {
            // What comes back to a dead process is not seen by it.
            this.#waiting.push(() => {
              if (owner?.alive !== false) resolve(work());
            });
          })
        : new Promise((resolve) => resolve(work()));
    }
    const facts = { kind: `disk-${kind}`, target: this.name, detail: path.length, owner };
    return new Promise((resolve, reject) => {
      const complete = (): void => {
        try {
          resolve(work());
        } catch (error) {
          reject(error);
        }
      };
      scheduler.after(this.#delayUs(this.latency[kind]), facts, () => {
        if (this.#hung) this.#waiting.push(() => scheduler.after(0, facts, complete));
        else complete();
      });
    });
  }

  #delayUs(range: LatencyRange): number {
    const tail = this.#prng.chance(range.tailChance) ? this.#prng.float() * range.tailMs : 0;
    return 1000 * (this.#prng.exponential(range.meanMs) + tail);
  }
}

export const partsOf = (path: string): string[] =>
  path.split('/').filter((part) => part !== '' && part !== '.');

/** What the usual file systems take. */
const NAME_BYTES_MAX = 255;

/** For a name that is to be made. */
export function checkName(path: string, name: string): void {
  const { length } = utf8Encode(name);
  if (length <= NAME_BYTES_MAX) return;
  throw new DiskError('IO', path, `a name in ${path} has ${length} bytes: ENAMETOOLONG`);
}

export const missing = (path: string): DiskError =>
  new DiskError('NOT_FOUND', path, `${path} does not exist`);

const faultAt = (code: DiskErrorCode, operation: DiskOperation, path: string): DiskError =>
  new DiskError(code, path, `${operation} of ${path} failed (simulated fault)`);

function sizeOf(node: TreeNode): number {
  if (node.kind === 'file') return node.linked ? node.visible.size : 0;
  let sum = 0;
  for (const child of node.visible.values()) sum += sizeOf(child);
  return sum;
}
