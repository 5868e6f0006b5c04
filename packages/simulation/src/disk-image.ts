/**
 * A file tree with two faces: what programs see (the page cache) and what is on stable storage. Writes,
 * truncations, creations, renames and removals change the first at once and wait in order until a sync
 * carries them to the second. `crash` lets a power cut decide about each that still waits: done, lost
 * or, for writes, torn at 512-byte sectors; then the stable face is all there is.
 */
import type { Prng } from './prng.ts';

export const SECTOR_BYTES = 512;

/** Bytes that grow by doubling. Beyond `size` the buffer is zero. */
export class GrowingBytes {
  #buffer: Uint8Array = new Uint8Array(0);
  size = 0;

  write(bytes: Uint8Array, position: number): void {
    this.grow(position + bytes.length);
    this.#buffer.set(bytes, position);
  }

  grow(size: number): void {
    if (size <= this.size) return;
    if (size > this.#buffer.length) {
      const grown = new Uint8Array(Math.max(size, this.#buffer.length * 2, SECTOR_BYTES));
      grown.set(this.#buffer.subarray(0, this.size));
      this.#buffer = grown;
    }
    this.size = size;
  }

  truncate(size: number): void {
    if (size > this.size) return this.grow(size);
    this.#buffer.fill(0, size, this.size);
    this.size = size;
  }

  /** A view, valid until the next change. */
  view(start = 0, end: number = this.size): Uint8Array {
    return this.#buffer.subarray(start, Math.min(end, this.size));
  }

  copyFrom(other: GrowingBytes): void {
    this.#buffer = other.#buffer.slice(0, other.size);
    this.size = other.size;
  }
}

type FileChange =
  | { readonly sequence: number; readonly bytes: Uint8Array; readonly position: number }
  | { readonly sequence: number; readonly truncateTo: number };

export class FileNode {
  readonly kind = 'file';
  readonly visible: GrowingBytes = new GrowingBytes();
  readonly durable: GrowingBytes = new GrowingBytes();
  /** Changes that no sync has covered yet. */
  pending: FileChange[] = [];
  /** Counted as used space; false once its name is gone. */
  linked = true;
}

export class DirectoryNode {
  readonly kind = 'directory';
  visible: Map<string, TreeNode> = new Map();
  readonly durable: Map<string, TreeNode> = new Map();
  readonly pending: Set<NameChange> = new Set();
  /** Per name, the last change that reached stable storage: an older one must not undo it. */
  readonly applied: Map<string, number> = new Map();
}

export type TreeNode = FileNode | DirectoryNode;

interface NameEffect {
  readonly directory: DirectoryNode;
  readonly name: string;
  /** Undefined: the name is taken away. */
  readonly node: TreeNode | undefined;
}

/** One atomic change of names; a rename across directories has an effect in each. */
export interface NameChange {
  readonly sequence: number;
  readonly effects: readonly NameEffect[];
}

/** How a power cut treats what was not synced; drawn anew for each crash. */
export type CrashMode = 'keepAll' | 'loseAll' | 'keepPrefix' | 'keepSome';

export class DiskImage {
  #root: DirectoryNode = new DirectoryNode();
  #sequence = 0;
  #dirtyFiles: Set<FileNode> = new Set();

  get root(): DirectoryNode {
    return this.#root;
  }

  /** The number of the latest change: what a sync that starts now will cover. */
  get sequence(): number {
    return this.#sequence;
  }

  write(file: FileNode, bytes: Uint8Array, position: number): void {
    file.visible.write(bytes, position);
    file.pending.push({ sequence: ++this.#sequence, bytes: bytes.slice(), position });
    this.#dirtyFiles.add(file);
  }

  truncate(file: FileNode, size: number): void {
    file.visible.truncate(size);
    file.pending.push({ sequence: ++this.#sequence, truncateTo: size });
    this.#dirtyFiles.add(file);
  }

  /** Changes names at once for programs; on stable storage after `syncDirectory`. */
  rename(effects: readonly NameEffect[]): void {
    const change = { sequence: ++this.#sequence, effects };
    for (const { directory, name, node } of effects) {
      if (node === undefined) directory.visible.delete(name);
      else directory.visible.set(name, node);
      directory.pending.add(change);
    }
  }

  /** Carries the file's changes up to number `upTo` to stable storage. */
  syncFile(file: FileNode, upTo: number): void {
    let done = 0;
    for (const change of file.pending) {
      if (change.sequence > upTo) break;
      applyToFile(file.durable, change);
      done++;
    }
    this.#forget(file, done);
  }

  /** A failed sync: the pages count as clean from now on, and never reach stable storage. */
  dropUnsynced(file: FileNode, upTo: number): void {
    this.#forget(file, file.pending.filter((change) => change.sequence <= upTo).length);
  }

  syncDirectory(directory: DirectoryNode, upTo: number): void {
    for (const change of [...directory.pending]) if (change.sequence <= upTo) settle(change, true);
  }

  /** Changes of names that no sync has covered yet. */
  get pendingNames(): number {
    return this.#pendingNames().length;
  }

  /**
   * A power cut that keeps of the unsynced changes of names those that `keepName` says, in the order in
   * which they were made, and of the files' all or nothing.
   */
  crashKeeping(keepName: (at: number) => boolean, files: 'keepAll' | 'loseAll', prng: Prng): void {
    for (const [at, change] of this.#pendingNames().entries()) settle(change, keepName(at));
    for (const file of this.#dirtyFiles) crashFile(file, files, prng);
    this.#dirtyFiles.clear();
    makeVisible(this.#root);
  }

  /** A power cut. */
  crash(prng: Prng): CrashMode {
    const mode = prng.pick<CrashMode>(['keepAll', 'loseAll', 'loseAll', 'keepPrefix', 'keepSome']);
    const changes = this.#pendingNames();
    const kept = prng.integer(0, changes.length);
    for (const [at, change] of changes.entries()) {
      settle(change, mode === 'keepSome' ? prng.chance(0.5) : keepsPrefix(mode, at < kept));
    }
    for (const file of this.#dirtyFiles) crashFile(file, mode, prng);
    this.#dirtyFiles.clear();
    makeVisible(this.#root);
    return mode;
  }

  /** What a power cut would leave of a node, if nothing unsynced were kept; undefined: nothing. */
  durable(parts: readonly string[]): TreeNode | undefined {
    let node: TreeNode | undefined = this.#root;
    for (const part of parts)
      node = node?.kind === 'directory' ? node.durable.get(part) : undefined;
    return node;
  }

  /** A copy of the stable face, to be put back later with `restore`. */
  snapshot(): DirectoryNode {
    return copyDirectory(this.#root);
  }

  restore(image: DirectoryNode): void {
    this.#root = copyDirectory(image);
    this.#dirtyFiles.clear();
  }

  #forget(file: FileNode, count: number): void {
    file.pending.splice(0, count);
    if (file.pending.length === 0) this.#dirtyFiles.delete(file);
  }

  #pendingNames(): NameChange[] {
    const changes = new Set<NameChange>();
    const walk = (directory: DirectoryNode): void => {
      for (const change of directory.pending) changes.add(change);
      for (const children of [directory.visible, directory.durable]) {
        for (const node of children.values()) if (node.kind === 'directory') walk(node);
      }
    };
    walk(this.#root);
    return [...changes].sort((a, b) => a.sequence - b.sequence);
  }
}

const keepsPrefix = (mode: CrashMode, inPrefix: boolean): boolean =>
  mode === 'keepAll' || (mode === 'keepPrefix' && inPrefix);

function settle(change: NameChange, keep: boolean): void {
  for (const { directory, name, node } of change.effects) {
    directory.pending.delete(change);
    if (!keep || (directory.applied.get(name) ?? 0) > change.sequence) continue;
    directory.applied.set(name, change.sequence);
    if (node === undefined) directory.durable.delete(name);
    else directory.durable.set(name, node);
  }
}

function applyToFile(bytes: GrowingBytes, change: FileChange): void {
  if ('truncateTo' in change) bytes.truncate(change.truncateTo);
  else bytes.write(change.bytes, change.position);
}

function crashFile(file: FileNode, mode: CrashMode, prng: Prng): void {
  const kept = prng.integer(0, file.pending.length);
  for (const [at, change] of file.pending.entries()) {
    if (mode === 'keepSome') crashChange(file.durable, change, prng);
    else if (keepsPrefix(mode, at < kept)) applyToFile(file.durable, change);
    else if (mode === 'keepPrefix' && at === kept) tear(file.durable, change, prng);
  }
  file.pending = [];
}

function crashChange(bytes: GrowingBytes, change: FileChange, prng: Prng): void {
  const fate = prng.pick(['kept', 'lost', 'torn']);
  if (fate === 'kept') applyToFile(bytes, change);
  else if (fate === 'torn') tear(bytes, change, prng);
}

/** Of a write some sectors arrive; now and then only the file's new size does, and zeros stand there. */
function tear(bytes: GrowingBytes, change: FileChange, prng: Prng): void {
  if ('truncateTo' in change) return;
  const end = change.position + change.bytes.length;
  if (prng.chance(0.2)) bytes.grow(end);
  for (let from = change.position; from < end;) {
    const to = Math.min(end, (Math.floor(from / SECTOR_BYTES) + 1) * SECTOR_BYTES);
    if (prng.chance(0.5)) {
      bytes.write(change.bytes.subarray(from - change.position, to - change.position), from);
    }
    from = to;
  }
}

/** After a crash programs see what stable storage holds. */
function makeVisible(directory: DirectoryNode): void {
  directory.visible = new Map(directory.durable);
  directory.pending.clear();
  for (const node of directory.durable.values()) {
    if (node.kind === 'directory') makeVisible(node);
    else {
      node.visible.copyFrom(node.durable);
      node.linked = true;
    }
  }
}

function copyDirectory(directory: DirectoryNode): DirectoryNode {
  const copy = new DirectoryNode();
  for (const [name, node] of directory.durable) {
    let child: TreeNode;
    if (node.kind === 'directory') child = copyDirectory(node);
    else {
      child = new FileNode();
      child.durable.copyFrom(node.durable);
      child.visible.copyFrom(node.durable);
    }
    copy.durable.set(name, child);
    copy.visible.set(name, child);
  }
  return copy;
}
