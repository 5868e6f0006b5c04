/**
 * What a voter keeps on its disk, in `DATA/quorum`: its hard state, the newest snapshot, and
 * the log after it as an ordinary partition log.
 *
 * Damage is found out at the start and reported; nothing is repaired, and the node does not vote. What
 * tells damage from a crash: every file has a CRC; the log never ends below the commit index of the hard
 * state, never begins after the snapshot's end, and holds no term that the hard state has not seen.
 */
import { assert } from '@relevo/base/assert';
import { messageOf } from '@relevo/base/errors';
import { QUORUM_LOG_ID, logIndex, term as toTerm } from '@relevo/base/ids';
import type { LogIndex, Offset } from '@relevo/base/ids';
import { DiskError } from '@relevo/base/ports';
import type { Clock, Crc32c, Disk, Logger } from '@relevo/base/ports';
import { TEMPORARY_SUFFIX } from '@relevo/log/file-names';
import { DEFAULT_LOG_CONFIG } from '@relevo/log/log-config';
import type { LogConfig } from '@relevo/log/log-config';
import { LogError } from '@relevo/log/log-error';
import { PartitionLog } from '@relevo/log/partition-log';
import { flawOfEntry, flawOfTerm } from '@relevo/raft/message-check';
import type { Entry, Snapshot } from '@relevo/raft/messages';
import type { HardState, Ready } from '@relevo/raft/ready';
import { entriesOfBatches, entryToBatch } from './entry-batch.ts';
import {
  checkpointName,
  checkpointNames,
  damaged,
  readNewestCheckpoint,
  readState,
  writeCheckpoint,
  writeState,
  writeStateNow,
} from './quorum-files.ts';
import type { StateOwner } from './quorum-files.ts';

const MIB = 2 ** 20;
const READ_BYTES = 4 * MIB;
/** Small segments: what a snapshot covers is removed by whole segments. */
const LOG_CONFIG: LogConfig = {
  ...DEFAULT_LOG_CONFIG,
  segmentBytes: 4 * MIB,
  segmentMs: Number.MAX_SAFE_INTEGER,
  retentionMs: -1,
  maxMessageBytes: 2 ** 31 - 1,
};
const FIRST_INDEX = 1 as Offset;

export interface QuorumStorageDeps {
  readonly disk: Disk;
  readonly crc32c: Crc32c;
  readonly clock: Clock;
  readonly logger: Logger;
}

export interface QuorumStorageOptions extends StateOwner {
  /** Without a trailing slash; made if it is missing. */
  readonly directory: string;
}

/** What the core starts from. */
export interface StoredQuorum {
  readonly hardState: HardState;
  readonly snapshot: Snapshot | undefined;
  /** After the snapshot, or from index 1. */
  readonly entries: readonly Entry[];
}

const NEW_STATE: HardState = { term: toTerm(0), vote: undefined, commit: logIndex(0) };

export class QuorumStorage {
  readonly #deps: QuorumStorageDeps;
  readonly #options: QuorumStorageOptions;
  readonly #log: PartitionLog;

  /**
   * Opens or makes the storage. Throws, or rejects with, a LogError: `corrupt`, `foreign` for another
   * node's directory, `offline` or `diskFull` where the disk fails.
   */
  static async open(
    options: QuorumStorageOptions,
    deps: QuorumStorageDeps,
  ): Promise<{ readonly storage: QuorumStorage; readonly stored: StoredQuorum }> {
    try {
      return await openStorage(options, deps);
    } catch (error) {
      if (!(error instanceof DiskError)) throw error;
      const kind = error.code === 'FULL' ? 'diskFull' : 'offline';
      const message = `cannot open the quorum's log in ${options.directory}: ${error.message}`;
      throw new LogError(kind, message, { cause: error });
    }
  }

  /** For `open` alone. */
  constructor(options: QuorumStorageOptions, deps: QuorumStorageDeps, log: PartitionLog) {
    this.#options = options;
    this.#deps = deps;
    this.#log = log;
  }

  /**
   * Carries out what the Readies ask for, in order; all of it is durable when this resolves. Not to be
   * called while it runs. May be called again with the same ones where it rejected for want of room;
   * after any other failure the storage takes nothing more.
   */
  async write(readies: readonly Ready[]): Promise<void> {
    const { directory } = this.#options;
    const hardState = readies.findLast((ready) => ready.hardState !== undefined)?.hardState;
    if (hardState !== undefined) {
      assertSound(flawOfTerm(hardState.term));
      await writeState(this.#deps, directory, this.#options, hardState);
    }
    for (const ready of readies) {
      if (ready.snapshot !== undefined) await this.#install(ready.snapshot);
      if (ready.truncateFrom !== undefined) this.#log.truncateTo(offsetOf(ready.truncateFrom));
      for (const entry of ready.entries) this.#append(entry);
    }
    await this.#log.sync();
  }

  #append(entry: Entry): void {
    assertSound(flawOfEntry(entry));
    // An earlier attempt came so far.
    if (entry.index < this.#log.logEndOffset) return;
    const nowMs = this.#deps.clock.wallMs();
    this.#log.appendAsFollower(entryToBatch(entry, this.#deps.crc32c), nowMs);
  }

  async #install(snapshot: Snapshot): Promise<void> {
    await this.saveSnapshot(snapshot);
    this.#log.truncateFullyAndStartAt(offsetOf(snapshot.index + 1));
  }

  /** Durable when this resolves; older ones are gone then. */
  async saveSnapshot(snapshot: Snapshot): Promise<void> {
    const { directory } = this.#options;
    const { disk } = this.#deps;
    await writeCheckpoint(this.#deps, directory, snapshot);
    const name = checkpointName(snapshot.index, snapshot.term);
    for (const other of checkpointNames(disk, directory)) {
      if (other < name) disk.remove(`${directory}/${other}`);
    }
  }

  /** Removes what a durable snapshot after `index` covers, as far as whole segments go. */
  trim(index: LogIndex): void {
    if (this.#log.state !== 'online' || index + 1 > this.#log.logEndOffset) return;
    this.#log.deleteRecordsBefore(offsetOf(index + 1));
    this.#log.applyRetention(this.#deps.clock.wallMs(), this.#log.logEndOffset);
  }

  async close(): Promise<void> {
    await this.#log.close();
  }
}

/** What a start would refuse is not written. */
const assertSound = (flaw: string | undefined): void =>
  assert(flaw === undefined, 'only what can be read again is stored', { flaw });

const offsetOf = (index: number): Offset => index as Offset;

async function openStorage(
  options: QuorumStorageOptions,
  deps: QuorumStorageDeps,
): Promise<{ readonly storage: QuorumStorage; readonly stored: StoredQuorum }> {
  const { directory } = options;
  const { disk } = deps;
  disk.makeDirectory(directory);
  for (const { name } of disk.list(directory)) {
    if (name.endsWith(TEMPORARY_SUFFIX)) disk.remove(`${directory}/${name}`);
  }
  const snapshot = readNewestCheckpoint(deps, directory);
  const hardState = readState(deps, directory, options) ?? makeState(options, deps);
  const flaw = flawOfTerm(hardState.term);
  if (flaw !== undefined) throw damaged(directory, flaw);
  const log = openLog(directory, deps);
  const found = await readEntries(log, directory);
  const entries = joinWithSnapshot(log, found, snapshot, directory);
  const last = entries.at(-1) ?? snapshot ?? { index: logIndex(0), term: toTerm(0) };
  if (last.index < hardState.commit) {
    const what = `it ends at entry ${last.index}, though ${hardState.commit} was committed`;
    throw damaged(directory, what);
  }
  if (last.term > hardState.term) {
    const what = `it has an entry of term ${last.term}, but quorum-state knows ${hardState.term}`;
    throw damaged(directory, what);
  }
  const storage = new QuorumStorage(options, deps, log);
  return { storage, stored: { hardState, snapshot, entries } };
}

/** A first start. Whatever else is here was written after such a file, which must have been lost. */
function makeState(options: QuorumStorageOptions, deps: QuorumStorageDeps): HardState {
  const { directory } = options;
  const names = deps.disk.list(directory).map(({ name }) => name);
  const [other] = names.filter((name) => name.endsWith('.log') || name.endsWith('.checkpoint'));
  if (other !== undefined) {
    throw damaged(directory, `${other} is there, but quorum-state is missing`);
  }
  writeStateNow(deps, directory, options, NEW_STATE);
  const parent = directory.slice(0, directory.lastIndexOf('/'));
  if (parent !== '') deps.disk.syncDirectoryNow(parent);
  return NEW_STATE;
}

function openLog(directory: string, deps: QuorumStorageDeps): PartitionLog {
  try {
    return PartitionLog.open(
      {
        directory,
        topicId: QUORUM_LOG_ID,
        config: LOG_CONFIG,
        cleanShutdown: false,
        logStartOffset: FIRST_INDEX,
        nowMs: deps.clock.wallMs(),
      },
      deps,
    );
  } catch (error) {
    if (error instanceof LogError && error.kind === 'corrupt') {
      throw damaged(directory, error.message, error);
    }
    throw error;
  }
}

async function readEntries(log: PartitionLog, directory: string): Promise<Entry[]> {
  const entries: Entry[] = [];
  let at = log.logStartOffset;
  try {
    while (at < log.logEndOffset) {
      const bytes = await log.read(at, READ_BYTES, log.logEndOffset, true);
      for (const entry of entriesOfBatches(bytes)) {
        const flaw = flawOfEntry(entry);
        if (flaw !== undefined) throw new RangeError(flaw);
        entries.push(entry);
        at = offsetOf(entry.index + 1);
      }
    }
  } catch (error) {
    const isDamage =
      error instanceof RangeError || (error instanceof LogError && error.kind === 'corrupt');
    if (!isDamage) throw error;
    throw damaged(directory, messageOf(error), error);
  }
  return entries;
}

/**
 * The entries after the snapshot. A log that ends before it, or has another entry in its place, is one
 * that a snapshot from the leader was to replace when the node crashed.
 */
function joinWithSnapshot(
  log: PartitionLog,
  entries: readonly Entry[],
  snapshot: Snapshot | undefined,
  directory: string,
): readonly Entry[] {
  const first = log.logStartOffset;
  const through = snapshot?.index ?? 0;
  if (first > through + 1) {
    const what = `the log begins with entry ${first}, but no snapshot covers those before`;
    throw damaged(directory, what);
  }
  if (snapshot === undefined) return entries;
  const at = entries.find((entry) => entry.index === snapshot.index);
  const replaced = at === undefined ? log.logEndOffset <= through : at.term !== snapshot.term;
  if (!replaced) return entries.filter((entry) => entry.index > snapshot.index);
  log.truncateFullyAndStartAt(offsetOf(through + 1));
  return [];
}
