/**
 * When this node takes a snapshot of its state machine: after so many entries or bytes. Once the file is
 * durable the core forgets what it covers, and so does the log on the disk. One at a time.
 */
import type { LogIndex } from '@relevo/base/ids';
import type { Logger } from '@relevo/base/ports';
import type { Entry, Snapshot } from '@relevo/raft/messages';
import type { RaftNode } from '@relevo/raft/raft-node';
import type { QuorumStorage } from './quorum-storage.ts';

export interface SnapshotsDeps {
  readonly storage: QuorumStorage;
  readonly core: RaftNode;
  /** The state after everything that was applied. */
  readonly takeSnapshot: () => Uint8Array;
  readonly logger: Logger;
}

export interface SnapshotsOptions {
  /** Default: 10,000. */
  readonly snapshotEntries?: number;
  /** Default: 16 MiB. */
  readonly snapshotBytes?: number;
  readonly onFailure: (error: unknown) => void;
}

const DEFAULT_ENTRIES = 10_000;
const DEFAULT_BYTES = 16 * 2 ** 20;

export class Snapshots {
  readonly #deps: SnapshotsDeps;
  readonly #options: SnapshotsOptions;
  #entries = 0;
  #bytes = 0;
  #saving: Promise<void> | undefined;
  /** Of the newest that came from the leader. */
  #installedIndex = 0;
  #stopped = false;

  constructor(deps: SnapshotsDeps, options: SnapshotsOptions) {
    this.#deps = deps;
    this.#options = options;
  }

  /** The state machine has applied these. */
  applied(entries: readonly Entry[]): void {
    this.#entries += entries.length;
    for (const { data } of entries) this.#bytes += data.length;
    const { snapshotEntries = DEFAULT_ENTRIES, snapshotBytes = DEFAULT_BYTES } = this.#options;
    const isDue = this.#entries >= snapshotEntries || this.#bytes >= snapshotBytes;
    const last = entries.at(-1);
    if (!isDue || last === undefined || this.#saving !== undefined || this.#stopped) return;
    this.#take(last.index);
  }

  /** The leader's snapshot is on the disk: one of our own that is older is not wanted any more. */
  installed(index: LogIndex): void {
    this.#installedIndex = index;
    this.#entries = 0;
    this.#bytes = 0;
  }

  async stop(): Promise<void> {
    this.#stopped = true;
    await this.#saving;
  }

  #take(index: LogIndex): void {
    const { core, takeSnapshot } = this.#deps;
    const metadata = core.snapshotMetadata(index);
    if (metadata === undefined) return;
    const snapshot: Snapshot = { ...metadata, data: takeSnapshot() };
    this.#entries = 0;
    this.#bytes = 0;
    this.#saving = this.#save(snapshot).finally(() => (this.#saving = undefined));
  }

  async #save(snapshot: Snapshot): Promise<void> {
    const { storage, core, logger } = this.#deps;
    const { index, term, data } = snapshot;
    try {
      await storage.saveSnapshot(snapshot);
      if (this.#stopped || this.#installedIndex >= index) return;
      core.compact(snapshot);
      storage.trim(index);
      logger.info('snapshot of the quorum taken', { index, term, bytes: data.length });
    } catch (error) {
      if (!this.#stopped) this.#options.onFailure(error);
    }
  }
}
