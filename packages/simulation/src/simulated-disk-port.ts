/** The `Disk` port of one process on a simulated disk. Whatever a dead process calls is a bug here. */
import { assert } from '@relevo/base/assert';
import { DiskError } from '@relevo/base/ports';
import type { DirectoryEntry, Disk, DiskFile } from '@relevo/base/ports';
import { DirectoryNode, FileNode } from './disk-image.ts';
import { checkName, missing, partsOf } from './simulated-disk.ts';
import type { SimulatedDisk } from './simulated-disk.ts';
import type { EventOwner } from './scheduler.ts';

export type OpenMode = 'create' | 'existing' | 'readOnly';

function assertAlive(owner: EventOwner | undefined, what: string): void {
  assert(owner?.alive ?? true, 'a dead process does not touch its disk', {
    process: owner?.name,
    what,
  });
}

export class SimulatedDiskPort implements Disk {
  readonly #disk: SimulatedDisk;
  readonly #owner: EventOwner | undefined;
  readonly #spend: (bytes: number) => void;

  constructor(
    disk: SimulatedDisk,
    owner: EventOwner | undefined,
    spend: (bytes: number) => void = () => undefined,
  ) {
    this.#disk = disk;
    this.#owner = owner;
    this.#spend = spend;
  }

  open(path: string, mode: OpenMode): DiskFile {
    assertAlive(this.#owner, `open ${path}`);
    const disk = this.#disk;
    disk.check('open', path);
    let node = disk.lookup(path);
    if (node?.kind === 'directory') throw new DiskError('IO', path, `${path} is a directory`);
    if (node === undefined) {
      const { directory, name } = disk.parent(path);
      if (mode !== 'create') throw missing(path);
      node = new FileNode();
      disk.image.rename([{ directory, name, node }]);
    }
    return new SimulatedFile(disk, this.#owner, { path, node, mode, spend: this.#spend });
  }

  exists(path: string): boolean {
    assertAlive(this.#owner, `exists ${path}`);
    return this.#disk.lookup(path) !== undefined;
  }

  list(directory: string): readonly DirectoryEntry[] {
    assertAlive(this.#owner, `list ${directory}`);
    return this.#disk.list(directory);
  }

  makeDirectory(path: string): void {
    assertAlive(this.#owner, `make ${path}`);
    let directory = this.#disk.image.root;
    for (const name of partsOf(path)) {
      let node = directory.visible.get(name);
      if (node?.kind === 'file') throw new DiskError('EXISTS', path, `${name} is a file`);
      if (node === undefined) {
        checkName(path, name);
        node = new DirectoryNode();
        this.#disk.image.rename([{ directory, name, node }]);
      }
      directory = node;
    }
  }

  async makeFiles(directory: string, files: ReadonlyMap<string, Uint8Array>): Promise<void> {
    assertAlive(this.#owner, `make ${directory}`);
    const steps = [
      () => this.makeDirectory(directory),
      ...[...files].map(([name, bytes]) => () => {
        const file = this.open(`${directory}/${name}`, 'create');
        file.write(bytes, 0);
        file.close();
      }),
    ];
    for (const step of steps) await this.#disk.offLoop('read', directory, this.#owner, step);
  }

  rename(from: string, to: string): void {
    assertAlive(this.#owner, `rename ${from}`);
    const disk = this.#disk;
    disk.check('rename', from);
    const node = disk.lookup(from);
    if (node === undefined) throw missing(from);
    const source = disk.parent(from);
    const target = disk.parent(to);
    const replaced = target.directory.visible.get(target.name);
    if (replaced === node) return;
    if (replaced !== undefined) {
      const empty = replaced.kind === 'file' || replaced.visible.size === 0;
      if (replaced.kind !== node.kind || !empty) {
        throw new DiskError('EXISTS', to, `${to} is in the way of a rename from ${from}`);
      }
      disk.unlink(replaced);
    }
    disk.image.rename([
      { directory: source.directory, name: source.name, node: undefined },
      { directory: target.directory, name: target.name, node },
    ]);
  }

  remove(path: string): void {
    assertAlive(this.#owner, `remove ${path}`);
    this.#disk.check('remove', path);
    const node = this.#disk.lookup(path);
    if (node === undefined) return;
    if (node.kind === 'directory') throw new DiskError('IO', path, `${path} is a directory`);
    this.#disk.unlink(node);
    this.#disk.image.rename([{ ...this.#disk.parent(path), node: undefined }]);
  }

  removeTree(path: string): void {
    assertAlive(this.#owner, `remove ${path}`);
    this.#disk.check('remove', path);
    const node = this.#disk.lookup(path);
    if (node === undefined) return;
    this.#disk.unlink(node);
    this.#disk.image.rename([{ ...this.#disk.parent(path), node: undefined }]);
  }

  async syncDirectory(directory: string): Promise<void> {
    assertAlive(this.#owner, `sync ${directory}`);
    const disk = this.#disk;
    const node = disk.directory(directory);
    const upTo = disk.image.sequence;
    await disk.offLoop('sync', directory, this.#owner, () => {
      disk.check('syncDirectory', directory);
      disk.image.syncDirectory(node, upTo);
    });
  }

  syncDirectoryNow(directory: string): void {
    assertAlive(this.#owner, `sync ${directory}`);
    this.#disk.check('syncDirectory', directory);
    this.#disk.image.syncDirectory(this.#disk.directory(directory), this.#disk.image.sequence);
  }

  freeBytes(path: string): number {
    assertAlive(this.#owner, `freeBytes ${path}`);
    return Math.max(0, this.#disk.capacityBytes - this.#disk.usedBytes);
  }

  lock(directory: string): { release(): void } {
    assertAlive(this.#owner, `lock ${directory}`);
    return this.#disk.lock(directory, this.#owner);
  }
}

class SimulatedFile implements DiskFile {
  readonly path: string;
  readonly #disk: SimulatedDisk;
  readonly #owner: EventOwner | undefined;
  readonly #node: FileNode;
  readonly #mode: OpenMode;
  readonly #spend: (bytes: number) => void;
  #closed = false;

  constructor(
    disk: SimulatedDisk,
    owner: EventOwner | undefined,
    facts: {
      readonly path: string;
      readonly node: FileNode;
      readonly mode: OpenMode;
      readonly spend: (bytes: number) => void;
    },
  ) {
    this.#disk = disk;
    this.#owner = owner;
    this.path = facts.path;
    this.#node = facts.node;
    this.#mode = facts.mode;
    this.#spend = facts.spend;
  }

  size(): number {
    this.#check('size');
    return this.#node.visible.size;
  }

  write(bytes: Uint8Array, position: number): void {
    this.#checkWritable('write');
    this.#disk.check('write', this.path);
    const size = this.#node.visible.size;
    this.#disk.account(this.#node, this.path, Math.max(size, position + bytes.length));
    this.#disk.image.write(this.#node, bytes, position);
    this.#spend(bytes.length);
  }

  readSync(into: Uint8Array, position: number): number {
    this.#check('read');
    this.#disk.check('read', this.path);
    const bytes = this.#node.visible.view(position, position + into.length);
    into.set(bytes);
    this.#spend(bytes.length);
    return bytes.length;
  }

  async read(position: number, length: number): Promise<Uint8Array> {
    this.#check('read');
    return this.#disk.offLoop('read', this.path, this.#owner, () => {
      this.#disk.check('read', this.path);
      return this.#node.visible.view(position, position + length).slice();
    });
  }

  async datasync(): Promise<void> {
    this.#check('datasync');
    const upTo = this.#disk.image.sequence;
    await this.#disk.offLoop('sync', this.path, this.#owner, () => this.#sync(upTo));
  }

  datasyncNow(): void {
    this.#check('datasync');
    this.#sync(this.#disk.image.sequence);
  }

  truncate(size: number): void {
    this.#checkWritable('truncate');
    this.#disk.check('truncate', this.path);
    this.#disk.account(this.#node, this.path, size);
    this.#disk.image.truncate(this.#node, size);
  }

  close(): void {
    assertAlive(this.#owner, `close ${this.path}`);
    this.#closed = true;
  }

  #sync(upTo: number): void {
    try {
      this.#disk.check('datasync', this.path);
    } catch (error) {
      this.#disk.image.dropUnsynced(this.#node, upTo);
      throw error;
    }
    this.#disk.image.syncFile(this.#node, upTo);
  }

  #check(operation: string): void {
    assertAlive(this.#owner, `${operation} ${this.path}`);
    if (this.#closed) throw new DiskError('IO', this.path, `${operation} of a closed file`);
  }

  #checkWritable(operation: string): void {
    this.#check(operation);
    if (this.#mode === 'readOnly') {
      throw new DiskError('DENIED', this.path, `${operation} of a file opened for reading`);
    }
  }
}
