/**
 * Which logs of a data directory hold records that are on stable storage, in a file of the data
 * directory, `durable-logs`: in the form of a checkpoint, a line `topic partition topic-id` for each. What
 * has changed since is in `durable-logs.changes`, a line `crc32c topic partition topic-id` for a log that was
 * noted, `crc32c topic partition` for one that was struck out: thousands of logs that are made at once would
 * write the whole list thousands of times. When the changes are many, the list is replaced, and they are
 * emptied. Changes that are in the list already change nothing.
 *
 * A log is noted before the first of its records counts as durable, and struck out when it is deleted.
 * So a log that is noted and whose directory is missing or empty was *lost*, however young it was; one
 * that is not noted never held anything that was acknowledged, and may be begun anew. The topic id tells
 * a log from one of the same name whose topic was deleted.
 *
 * A data directory without the file was last used by a version that did not write it. There the recovery
 * points stand in: what they name was durable, of a topic id that only the log itself could tell.
 */
import { partitionName, uuid } from '@relevo/base/ids';
import type { Offset, Uuid } from '@relevo/base/ids';
import { defined } from '@relevo/base/assert';
import { utf8Decode, utf8Encode } from '@relevo/base/bytes';
import { DiskError } from '@relevo/base/ports';
import type { Disk, DiskFile } from '@relevo/base/ports';
import { crc32c } from '@relevo/record/crc32c';
import {
  decodeCheckpoint,
  encodeCheckpoint,
  parentOf,
  readHint,
  replaceFileDurably,
} from './checkpoint-file.ts';
import {
  DELETED_SUFFIX,
  LOG_SUFFIX,
  METADATA_FILE,
  RECOVERY_POINTS_FILE,
  parsePartitionName,
} from './file-names.ts';
import { GroupCommit } from './group-commit.ts';
import { readOffsets } from './offset-checkpoint.ts';
import { deletedDirectory, identifyPartition, partitionDirectory } from './partition-directory.ts';
import { readTopicId } from './partition-metadata.ts';

/** In a data directory in which a log has held records. */
export const DURABLE_LOGS_FILE = 'durable-logs';

/** Stands for a topic id that is not known: any may be meant. */
const UNKNOWN_ID = '-';

/** A log whose records were on stable storage, and that is gone. */
export interface LostLog {
  /** `orders-3` */
  readonly name: string;
  readonly topic: string;
  readonly partition: number;
  /** Undefined: not known. */
  readonly topicId: Uuid | undefined;
  /** All below was synced, by the last checkpoint that knew the log. */
  readonly recoveryPoint: Offset | undefined;
}

interface Note {
  readonly topicId: Uuid | undefined;
  /** In the file: all are written at each change. */
  readonly line: string;
  /** Durable when that many changes are. */
  readonly change: number;
}

/** Changes in their file, above which the list is written anew, if it has not more lines itself. */
const CHANGES_MIN = 1_000;
const CHANGES_SUFFIX = '.changes';

export class DurableLogs {
  readonly #disk: Disk;
  readonly #path: string;
  readonly #notes: Map<string, Note> = new Map();
  readonly #commit: GroupCommit = new GroupCommit(() => this.#write());
  #changes = 0;
  #durableChanges = 0;
  #isWritten: boolean;
  /** To be appended to the changes. */
  #unwritten: string[] = [];
  #changesFile: DiskFile | undefined;
  #changesBytes = 0;
  #changesLines = 0;
  /**
   * The list must be written anew before anything is appended to the changes. So it is at first: what a power
   * cut has left behind the last whole change must not stand before others, and the file may be missing.
   */
  #mustReplace = true;

  /** `root`: the data directory. */
  constructor(disk: Disk, root: string) {
    this.#disk = disk;
    this.#path = `${root}/${DURABLE_LOGS_FILE}`;
    const found = readNotes(disk, root);
    this.#isWritten = found.isWritten;
    // What the recovery points say is written down with the first change.
    if (!found.isWritten && found.notes.size > 0) this.#changes = 1;
    for (const [name, topicId] of found.notes) {
      this.#notes.set(name, { topicId, line: lineOf(name, topicId), change: this.#changes });
    }
  }

  /** The log of that topic id held durable records when the name was last noted. */
  has(name: string, topicId: Uuid): boolean {
    const note = this.#notes.get(name);
    return note !== undefined && (note.topicId === undefined || note.topicId === topicId);
  }

  /** The file is there: a log that it does not name has held nothing durable. */
  get isWritten(): boolean {
    return this.#isWritten;
  }

  /** A log of that name held durable records, of whatever topic id. */
  isNoted(name: string): boolean {
    return this.#notes.has(name);
  }

  /** Durable when this resolves; costs nothing where it is already. Rejects with a DiskError. */
  note(name: string, topicId: Uuid): Promise<void> {
    const known = this.#notes.get(name);
    if (known?.topicId === topicId) {
      return known.change <= this.#durableChanges ? Promise.resolve() : this.#commit.request();
    }
    const line = lineOf(name, topicId);
    this.#notes.set(name, { topicId, line, change: ++this.#changes });
    if (line !== '') this.#unwritten.push(line);
    return this.#commit.request();
  }

  /** In force at once; durable when this resolves. */
  strike(name: string): Promise<void> {
    if (!this.#notes.delete(name)) return Promise.resolve();
    this.#changes++;
    const parsed = parsePartitionName(name);
    if (parsed !== undefined) this.#unwritten.push(`${parsed.topic} ${parsed.partition}`);
    return this.#commit.request();
  }

  /** Resolves when no write is under way. */
  idle(): Promise<void> {
    return this.#commit.idle();
  }

  /** To be called when nothing is noted any more. */
  async close(): Promise<void> {
    await this.#commit.idle();
    this.#changesFile?.close();
    this.#changesFile = undefined;
  }

  async #write(): Promise<void> {
    const changes = this.#changes;
    if (changes === this.#durableChanges) return;
    const isLong = this.#changesLines > Math.max(CHANGES_MIN, this.#notes.size);
    if (this.#mustReplace || isLong) await this.#replace();
    else await this.#append();
    this.#durableChanges = changes;
    this.#isWritten = true;
  }

  async #replace(): Promise<void> {
    this.#mustReplace = true;
    const lines: string[] = [];
    for (const { line } of this.#notes.values()) if (line !== '') lines.push(line);
    this.#unwritten = [];
    await replaceFileDurably(this.#disk, this.#path, encodeCheckpoint(lines));
    const file = this.#changesFile ?? this.#disk.open(this.#path + CHANGES_SUFFIX, 'create');
    this.#changesFile = file;
    file.truncate(0);
    await Promise.all([file.datasync(), this.#disk.syncDirectory(parentOf(this.#path))]);
    this.#changesBytes = 0;
    this.#changesLines = 0;
    this.#mustReplace = false;
  }

  async #append(): Promise<void> {
    const lines = this.#unwritten;
    this.#unwritten = [];
    // After a failure the file may hold a part of this, and the list tells all.
    this.#mustReplace = true;
    const file = defined(this.#changesFile, 'the file was made with the list');
    const bytes = utf8Encode(lines.map((line) => `${crcOf(line)} ${line}\n`).join(''));
    file.write(bytes, this.#changesBytes);
    await file.datasync();
    this.#changesBytes += bytes.length;
    this.#changesLines += lines.length;
    this.#mustReplace = false;
  }
}

/** Empty for a name that is no partition's. */
function lineOf(name: string, topicId: Uuid | undefined): string {
  const parsed = parsePartitionName(name);
  if (parsed === undefined) return '';
  return `${parsed.topic} ${parsed.partition} ${topicId ?? UNKNOWN_ID}`;
}

/**
 * The logs that the data directory `root` should hold and does not. Nothing is changed. `young`: those that
 * are in the journal.
 */
export function lostLogs(
  disk: Disk,
  root: string,
  young: ReadonlyMap<string, { readonly topicId: Uuid }>,
): LostLog[] {
  const directories = disk.list(root).filter(({ directory }) => directory);
  const recoveryPoints = readRecoveryPoints(disk, root);
  const lost: LostLog[] = [];
  for (const [name, topicId] of readNotes(disk, root).notes) {
    const parsed = parsePartitionName(name);
    const youngId = young.get(name)?.topicId;
    if (youngId !== undefined && youngId === (topicId ?? youngId)) continue;
    if (parsed === undefined) continue;
    const directory = partitionDirectory(parsed.topic, parsed.partition);
    const beginning = deletedDirectory(directory, undefined).slice(0, -DELETED_SUFFIX.length);
    const isDeleted = directories.some(
      (each) => each.name.startsWith(beginning) && each.name.endsWith(DELETED_SUFFIX),
    );
    if (isDeleted) continue;
    const isThere = directories.some((each) => each.name === directory);
    if (isThere && !isEmpty(disk, `${root}/${directory}`)) continue;
    lost.push({ name, ...parsed, topicId, recoveryPoint: recoveryPoints.get(name) });
  }
  return lost.sort((a, b) => (a.name < b.name ? -1 : 1));
}

/** The names of all logs that the data directory's files tell of. */
export const knownLogs = (disk: Disk, root: string): ReadonlySet<string> =>
  new Set([...readNotes(disk, root).notes.keys(), ...readRecoveryPoints(disk, root).keys()]);

/** Nothing of a log is in the directory. One that cannot be read is there, whatever it holds. */
function isEmpty(disk: Disk, directory: string): boolean {
  try {
    const entries = disk.list(directory);
    return !entries.some(({ name }) => name === METADATA_FILE || name.endsWith(LOG_SUFFIX));
  } catch (error) {
    if (error instanceof DiskError) return false;
    throw error;
  }
}

/** What the data directory around `directory` has noted of the log there; undefined: nothing. */
export interface NotedLog {
  /** Undefined: not known. */
  readonly topicId?: Uuid | undefined;
}

export function notedLog(disk: Disk, directory: string): NotedLog | undefined {
  const slash = directory.lastIndexOf('/');
  const root = directory.slice(0, slash);
  const { notes } = readNotes(disk, root);
  const found = identifyPartition(disk, root, directory.slice(slash + 1), notes.keys());
  if (found === undefined || !notes.has(found.name)) return undefined;
  return { topicId: notes.get(found.name) };
}

interface Notes {
  readonly notes: Map<string, Uuid | undefined>;
  /** By the file itself, which was there and whole. */
  readonly isWritten: boolean;
}

function readNotes(disk: Disk, root: string): Notes {
  const path = `${root}/${DURABLE_LOGS_FILE}`;
  const written = decodeNotes(readHint(disk, path));
  const changes = readHint(disk, path + CHANGES_SUFFIX) ?? NOTHING;
  if (written !== undefined) return { notes: changed(written, changes), isWritten: true };
  const notes = new Map<string, Uuid | undefined>();
  for (const [name, offset] of readRecoveryPoints(disk, root)) {
    const parsed = offset > 0 ? parsePartitionName(name) : undefined;
    if (parsed === undefined) continue;
    const directory = partitionDirectory(parsed.topic, parsed.partition);
    notes.set(name, readTopicId(disk, `${root}/${directory}`));
  }
  return { notes: changed(notes, changes), isWritten: false };
}

/** The changes up to the first that is not whole: what comes after it no sync has covered. */
function changed(
  notes: Map<string, Uuid | undefined>,
  bytes: Uint8Array,
): Map<string, Uuid | undefined> {
  for (const line of utf8Decode(bytes).split('\n')) {
    const [, stated, rest] = /^([0-9a-f]{8}) (.*)$/.exec(line) ?? [];
    if (rest === undefined || stated !== crcOf(rest)) break;
    const [topic = '', partition, id] = rest.split(' ');
    const name = partitionName(topic, Number(partition));
    if (id === undefined) notes.delete(name);
    else notes.set(name, uuid(id));
  }
  return notes;
}

const crcOf = (text: string): string => crc32c(utf8Encode(text)).toString(16).padStart(8, '0');

const NOTHING = new Uint8Array(0);

const readRecoveryPoints = (disk: Disk, root: string): Map<string, Offset> =>
  readOffsets(disk, `${root}/${RECOVERY_POINTS_FILE}`).offsets ?? new Map<string, Offset>();

/** Undefined where there is no file, or a damaged one. */
function decodeNotes(bytes: Uint8Array | undefined): Map<string, Uuid | undefined> | undefined {
  const lines = bytes === undefined ? undefined : decodeCheckpoint(bytes);
  if (lines === undefined) return undefined;
  const notes = new Map<string, Uuid | undefined>();
  for (const line of lines) {
    const match = /^(\S+) (\d+) (-|[A-Za-z0-9_-]{22})$/.exec(line);
    const [, topic, partition, id] = match ?? [];
    if (topic === undefined || id === undefined) return undefined;
    notes.set(partitionName(topic, Number(partition)), id === UNKNOWN_ID ? undefined : uuid(id));
  }
  return notes;
}
