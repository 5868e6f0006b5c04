/**
 * The newest start of each peer's data directory that this voter has heard of, in `peer-starts` in the
 * quorum's directory. A peer that comes back without knowing of it runs on an older copy of that directory
 * (mistake 8's kin for voters): it has forgotten votes and entries that it had promised.
 *
 * What is remembered is written off the loop, a moment after it was heard, so that a power cut may lose it;
 * it is a second line behind the controller's (`decideRegistration`). A file that cannot be read is begun
 * anew.
 */
import { utf8Decode, utf8Encode } from '@relevo/base/bytes';
import { isOlderCopy } from '@relevo/base/incarnation';
import { isMutated } from '@relevo/base/mutations';
import { messageOf } from '@relevo/base/errors';
import type { Disk, Logger } from '@relevo/base/ports';
import { readFile, replaceFileDurably } from '@relevo/log/checkpoint-file';
import type { ReplicaKey } from '@relevo/raft/messages';

const FILE = 'peer-starts';
const PEERS_MAX = 1000;

export interface PeerMemoryDeps {
  readonly disk: Disk;
  readonly logger: Logger;
}

export class PeerMemory {
  readonly #deps: PeerMemoryDeps;
  readonly #path: string;
  /** By id and directory id; the ones heard of last stand last. */
  readonly #newest: Map<string, string>;
  #writing: Promise<void> | undefined;
  #isWritten = true;

  constructor(directory: string, deps: PeerMemoryDeps) {
    this.#deps = deps;
    this.#path = `${directory}/${FILE}`;
    this.#newest = read(deps.disk, this.#path);
  }

  /**
   * What is remembered of the peer and is none of its `incarnations` (oldest first); undefined where it
   * knows of all, and then its newest is remembered.
   */
  laterThan({ id, directoryId }: ReplicaKey, incarnations: readonly string[]): string | undefined {
    const name = `${id} ${directoryId}`;
    const known = this.#newest.get(name);
    const newest = incarnations.at(-1);
    if (known !== undefined && isOlderCopy(incarnations, known)) {
      if (!isMutated('older-voter-is-heard')) return known;
    }
    if (newest === undefined || newest === known) return undefined;
    this.#newest.delete(name);
    this.#newest.set(name, newest);
    for (const oldest of this.#newest.keys()) {
      if (this.#newest.size <= PEERS_MAX) break;
      this.#newest.delete(oldest);
    }
    this.#isWritten = false;
    this.#writing ??= this.#write();
    return undefined;
  }

  /** Resolves when nothing is being written. */
  async close(): Promise<void> {
    await this.#writing;
  }

  async #write(): Promise<void> {
    while (!this.#isWritten) {
      this.#isWritten = true;
      const lines = [...this.#newest].map(([name, start]) => `${name} ${start}\n`);
      try {
        await replaceFileDurably(this.#deps.disk, this.#path, utf8Encode(lines.join('')));
      } catch (error) {
        const facts = { path: this.#path, error: messageOf(error) };
        this.#deps.logger.warn('the starts of peers could not be noted', facts);
      }
    }
    this.#writing = undefined;
  }
}

function read(disk: Disk, path: string): Map<string, string> {
  const newest = new Map<string, string>();
  const text = utf8Decode(readFile(disk, path) ?? new Uint8Array(0));
  for (const line of text.split('\n')) {
    const [id, directoryId, start, ...more] = line.split(' ');
    if (id === undefined || directoryId === undefined || start === undefined) continue;
    if (more.length === 0) newest.set(`${id} ${directoryId}`, start);
  }
  return newest;
}
