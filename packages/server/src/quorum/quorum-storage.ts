/**
 * What a voter keeps on its disk, in `DATA/quorum`: who it is and its hard state, the newest snapshot, the
 * log after it as an ordinary partition log, and how far that is durable.
 *
 * Damage is found out at the start; nothing is repaired, and nothing votes with what is left (L6). What
 * tells damage from a crash: every file has a CRC; the log holds the entry that the durable mark names,
 * never begins after the snapshot's end, and holds no term that the hard state has not seen; a write that
 * failed has left its note. `voter-directory.ts` tells what becomes of a damaged voter.
 */
import { assert, defined } from '@relevo/base/assert';
import { messageOf } from '@relevo/base/errors';
import { isMutated } from '@relevo/base/mutations';
import { QUORUM_LOG_ID, logIndex, term as toTerm } from '@relevo/base/ids';
import type { LogIndex, Offset, Term } from '@relevo/base/ids';
import { DiskError } from '@relevo/base/ports';
import type { Clock, Crc32c, Disk, Logger } from '@relevo/base/ports';
import { TEMPORARY_SUFFIX } from '@relevo/log/file-names';
import { DEFAULT_LOG_CONFIG } from '@relevo/log/log-config';
import type { LogConfig } from '@relevo/log/log-config';
import { LogError } from '@relevo/log/log-error';
import { PartitionLog } from '@relevo/log/partition-log';
import { flawOfEntry, flawOfTerm } from '@relevo/raft/message-check';
import type { Entry, Snapshot } from '@relevo/raft/messages';
import type { EntryId } from '@relevo/raft/raft-log';
import type { HardState, Ready } from '@relevo/raft/ready';
import type { Member } from '@relevo/raft/configuration';
import { DurableMark, NO_MARK, readMark } from './durable-mark.ts';
import type { Mark, WrittenMark } from './durable-mark.ts';
import { entriesOfBatches, entryToBatch } from './entry-batch.ts';
import {
  checkpointName,
  checkpointNames,
  damaged,
  isFull,
  readNewestCheckpoint,
  readState,
  writeCheckpoint,
  writeState,
  writeStateNow,
} from './quorum-files.ts';
import type { FoundState, StateOwner, VoterIdentity } from './quorum-files.ts';

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
  /** Who a voter becomes that has no files yet. */
  readonly newIdentity: () => VoterIdentity;
  /** The first members of a cluster of an older version, which did not write them down. */
  readonly configured: readonly Member[];
  /** Called before a term or vote is written. */
  readonly beforePromise?: () => void;
  /** What can be read is taken, though more was durable. Default: false. */
  readonly acceptLoss?: boolean;
}

/** What the core starts from. */
export interface StoredQuorum {
  readonly hardState: HardState;
  readonly snapshot: Snapshot | undefined;
  /** After the snapshot, or from index 1. */
  readonly entries: readonly Entry[];
}

const NEW_STATE: HardState = { term: toTerm(0), vote: undefined, commit: logIndex(0) };

interface Opened {
  readonly storage: QuorumStorage;
  readonly stored: StoredQuorum;
}

export class QuorumStorage {
  readonly #deps: QuorumStorageDeps;
  readonly #options: QuorumStorageOptions;
  readonly #log: PartitionLog;
  readonly #durable: DurableMark;
  #identity: VoterIdentity;
  #hardState: HardState;
  /** Of the newest snapshot; the log may begin after it. */
  #snapshot: EntryId;
  #stateWrites: Promise<void> = Promise.resolve();

  /**
   * Opens or makes the storage. Throws, or rejects with, a LogError: `corrupt`, `foreign` for another
   * node's directory, `offline` or `diskFull` where the disk fails.
   */
  static async open(options: QuorumStorageOptions, deps: QuorumStorageDeps): Promise<Opened> {
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
  constructor(
    options: QuorumStorageOptions,
    deps: QuorumStorageDeps,
    parts: {
      readonly log: PartitionLog;
      readonly durable: DurableMark;
      readonly identity: VoterIdentity;
      readonly hardState: HardState;
      readonly snapshot: EntryId;
    },
  ) {
    this.#options = options;
    this.#deps = deps;
    this.#log = parts.log;
    this.#durable = parts.durable;
    this.#identity = parts.identity;
    this.#hardState = parts.hardState;
    this.#snapshot = parts.snapshot;
  }

  get identity(): VoterIdentity {
    return this.#identity;
  }

  /** In force at once; durable with the next hard state, or when `writeIdentity` resolves. */
  changeIdentity(change: Partial<Omit<VoterIdentity, 'directoryId'>>): void {
    this.#identity = { ...this.#identity, ...change };
  }

  writeIdentity(): Promise<void> {
    return this.#writeState();
  }

  /**
   * Carries out what the Readies ask for, in order; all of it is durable when this resolves. Not to be
   * called while it runs. May be called again with the same ones where it rejected for want of room;
   * after any other failure the storage takes nothing more, and the next start knows of it.
   */
  async write(readies: readonly Ready[]): Promise<void> {
    try {
      await this.#write(readies);
    } catch (error) {
      if (!isFull(error)) await this.#noteFailure();
      throw error;
    }
  }

  async #noteFailure(): Promise<void> {
    try {
      await this.#durable.noteFailure();
    } catch (error) {
      // Then the durable mark alone tells the next start how far the log must go.
      const facts = { directory: this.#options.directory, why: messageOf(error) };
      this.#deps.logger.error('that the quorum’s log failed could not be noted', facts);
    }
  }

  async #write(readies: readonly Ready[]): Promise<void> {
    const hardState = readies.findLast((ready) => ready.hardState !== undefined)?.hardState;
    if (hardState !== undefined) {
      assertSound(flawOfTerm(hardState.term));
      this.#options.beforePromise?.();
      this.#hardState = hardState;
      await this.#writeState();
    }
    for (const ready of readies) {
      if (ready.snapshot !== undefined) await this.#install(ready.snapshot);
      if (ready.truncateFrom !== undefined) await this.#truncate(ready.truncateFrom);
      for (const entry of ready.entries) this.#append(entry);
    }
    await this.#log.sync();
    await this.#mark(this.#log.logEndOffset - 1);
  }

  /** One at a time, each with the newest of all that it holds. */
  #writeState(): Promise<void> {
    const { directory } = this.#options;
    const run = (): Promise<void> =>
      writeState(this.#deps, { owner: this.#options, directory }, this.#identity, this.#hardState);
    const written = this.#stateWrites.then(run, run);
    this.#stateWrites = written;
    return written;
  }

  #append(entry: Entry): void {
    assertSound(flawOfEntry(entry));
    // An earlier attempt came so far.
    if (entry.index < this.#log.logEndOffset) return;
    const nowMs = this.#deps.clock.wallMs();
    this.#log.appendAsFollower(entryToBatch(entry, this.#deps.crc32c), nowMs);
  }

  async #truncate(from: LogIndex): Promise<void> {
    if (from <= this.#durable.mark.index) await this.#mark(from - 1);
    this.#log.truncateTo(offsetOf(from));
  }

  async #install(snapshot: Snapshot): Promise<void> {
    await this.saveSnapshot(snapshot);
    if (snapshot.index < this.#durable.mark.index) await this.#mark(snapshot.index);
    this.#log.truncateFullyAndStartAt(offsetOf(snapshot.index + 1));
  }

  /** The log is durable up to `index`, or shall end there. */
  async #mark(index: number): Promise<void> {
    const { mark } = this.#durable;
    const term = this.#termAt(index);
    if (mark.index === index && mark.term === term) return;
    await this.#durable.write({ index: logIndex(index), term, failed: false });
  }

  #termAt(index: number): Term {
    if (index === 0) return toTerm(0);
    if (index === this.#snapshot.index) return this.#snapshot.term;
    const epoch = this.#log.epochEntries.findLast(({ startOffset }) => startOffset <= index);
    return toTerm(defined(epoch, `the term of entry ${index}`).epoch);
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
    if (snapshot.index > this.#snapshot.index) this.#snapshot = snapshot;
  }

  /** Removes what a durable snapshot after `index` covers, as far as whole segments go. */
  trim(index: LogIndex): void {
    if (this.#log.state !== 'online' || index + 1 > this.#log.logEndOffset) return;
    this.#log.deleteRecordsBefore(offsetOf(index + 1));
    this.#log.applyRetention(this.#deps.clock.wallMs(), this.#log.logEndOffset);
  }

  async close(): Promise<void> {
    await this.#stateWrites.catch(() => undefined);
    await this.#log.close();
    this.#durable.close();
  }
}

/** What a start would refuse is not written. */
const assertSound = (flaw: string | undefined): void =>
  assert(flaw === undefined, 'only what can be read again is stored', { flaw });

const offsetOf = (index: number): Offset => index as Offset;

async function openStorage(
  options: QuorumStorageOptions,
  deps: QuorumStorageDeps,
): Promise<Opened> {
  const { directory } = options;
  const { disk } = deps;
  disk.makeDirectory(directory);
  for (const { name } of disk.list(directory)) {
    if (name.endsWith(TEMPORARY_SUFFIX)) disk.remove(`${directory}/${name}`);
  }
  const found = readState(deps, { owner: options, directory }) ?? makeState(options, deps);
  const acceptLoss = options.acceptLoss === true || isMutated('voter-trusts-shortened-log');
  const mark = found.isOld || acceptLoss ? undefined : markOf(directory, deps);
  const snapshot = readNewestCheckpoint(deps, directory);
  const flaw = flawOfTerm(found.hardState.term);
  if (flaw !== undefined) throw damaged(directory, flaw);
  const log = openLog(directory, deps);
  try {
    const inLog = await readEntries(log, directory);
    checkBeginning(log.logStartOffset, snapshot, directory);
    if (mark !== undefined) checkMark(mark, inLog, snapshot, directory);
    const isReplaced = isReplacedBy(snapshot, log, inLog);
    const entries = isReplaced
      ? []
      : inLog.filter(({ index }) => snapshot === undefined || index > snapshot.index);
    const last = entries.at(-1) ?? snapshot ?? NOTHING;
    if (!acceptLoss) checkEnd(last, found.hardState, directory);
    const hardState = acceptLoss ? lowered(found.hardState, last) : found.hardState;
    const identity = found.isOld ? ofOldCluster(found, options) : found.identity;
    // What a process that was killed had written and not yet synced counts from here on as well.
    const goesOn = mark !== undefined && mark.index === last.index && mark.term === last.term;
    const durable = goesOn
      ? DurableMark.goOn(deps, directory, mark)
      : DurableMark.make(deps, directory, { ...NO_MARK, ...idOf(last) });
    // The mark first: it must not name an entry that the log has no more.
    if (isReplaced) log.truncateFullyAndStartAt(offsetOf(last.index + 1));
    if (found.isOld || acceptLoss) {
      writeStateNow(deps, { owner: options, directory }, identity, hardState);
    } else disk.syncDirectoryNow(directory);
    const parts = { log, durable, identity, hardState, snapshot: snapshot ?? NOTHING };
    const storage = new QuorumStorage(options, deps, parts);
    return { storage, stored: { hardState, snapshot, entries } };
  } catch (error) {
    await log.close();
    throw error;
  }
}

const NOTHING: EntryId = { index: logIndex(0), term: toTerm(0) };

const idOf = ({ index, term }: EntryId): EntryId => ({ index, term });

function checkBeginning(first: Offset, snapshot: Snapshot | undefined, directory: string): void {
  if (first <= (snapshot?.index ?? 0) + 1) return;
  const what = `the log begins with entry ${first}, but no snapshot covers those before`;
  throw damaged(directory, what);
}

/** Throws where the log as it lies on the disk lacks what the mark names. */
function checkMark(
  mark: Mark,
  inLog: readonly Entry[],
  snapshot: Snapshot | undefined,
  directory: string,
): void {
  if (mark.index <= (snapshot?.index ?? 0)) return;
  const entry = inLog[mark.index - (inLog[0]?.index ?? 0)];
  if (entry?.term === mark.term) return;
  const what =
    entry === undefined
      ? `its log ends at entry ${inLog.at(-1)?.index ?? 0}, though ${mark.index} was durable`
      : `entry ${mark.index} is of term ${entry.term}, though one of ${mark.term} was durable`;
  throw damaged(directory, what);
}

function checkEnd(last: EntryId, { commit, term }: HardState, directory: string): void {
  if (last.index < commit) {
    throw damaged(directory, `it ends at entry ${last.index}, though ${commit} was committed`);
  }
  if (last.term > term) {
    const what = `it has an entry of term ${last.term}, but quorum-state knows ${term}`;
    throw damaged(directory, what);
  }
}

/** A hard state that fits a log of which the end was lost. */
const lowered = ({ term, vote, commit }: HardState, last: EntryId): HardState => ({
  term: toTerm(Math.max(term, last.term)),
  vote: last.term > term ? undefined : vote,
  commit: logIndex(Math.min(commit, last.index)),
});

/** Such a cluster was founded by the configuration alone, its members without their directories. */
function ofOldCluster(
  { identity, hardState }: FoundState,
  options: QuorumStorageOptions,
): VoterIdentity {
  if (hardState.term === 0) return identity;
  const { nodeId, configured } = options;
  const { directoryId } = identity;
  const members = configured.map((member) =>
    member.id === nodeId ? { ...member, directoryId } : member,
  );
  return { ...identity, founding: { members, agreed: true } };
}

function markOf(directory: string, deps: QuorumStorageDeps): WrittenMark {
  let mark: WrittenMark | undefined;
  try {
    mark = readMark(deps, directory);
  } catch (error) {
    if (!(error instanceof RangeError)) throw error;
    throw damaged(directory, error.message, error);
  }
  if (mark === undefined) throw damaged(directory, 'durable-mark is missing');
  if (mark.failed) {
    throw damaged(
      directory,
      'a write or sync of it failed, and what it holds may not be on the disk',
    );
  }
  return mark;
}

/** A first start. Whatever else is here was written after such a file, which must have been lost. */
function makeState(options: QuorumStorageOptions, deps: QuorumStorageDeps): FoundState {
  const { directory, newIdentity } = options;
  const names = deps.disk.list(directory).map(({ name }) => name);
  const [other] = names.filter((name) => name.endsWith('.log') || name.endsWith('.checkpoint'));
  if (other !== undefined) {
    throw damaged(directory, `${other} is there, but quorum-state is missing`);
  }
  const identity = newIdentity();
  DurableMark.make(deps, directory, NO_MARK).close();
  writeStateNow(deps, { owner: options, directory }, identity, NEW_STATE);
  const parent = directory.slice(0, directory.lastIndexOf('/'));
  if (parent !== '') deps.disk.syncDirectoryNow(parent);
  return { identity, hardState: NEW_STATE, isOld: false };
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
    // Whose it is says quorum-state; a log in it that names another topic is damaged.
    if (error instanceof LogError && (error.kind === 'corrupt' || error.kind === 'foreign')) {
      throw damaged(directory, withoutAdvice(error), error);
    }
    throw error;
  }
}

/** What a partition's log says, without what to do about a partition. */
const withoutAdvice = (error: unknown): string =>
  messageOf(error).split(/; (?:nothing was cut|move it away)/)[0] ?? '';

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
    throw damaged(directory, withoutAdvice(error), error);
  }
  return entries;
}

/**
 * A log that ends before the snapshot, or has another entry in its place, is one that a snapshot from the
 * leader was to replace when the node crashed.
 */
function isReplacedBy(
  snapshot: Snapshot | undefined,
  log: PartitionLog,
  entries: readonly Entry[],
): boolean {
  if (snapshot === undefined) return false;
  const at = entries.find((entry) => entry.index === snapshot.index);
  return at === undefined ? log.logEndOffset <= snapshot.index : at.term !== snapshot.term;
}
