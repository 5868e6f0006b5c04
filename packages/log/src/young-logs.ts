/**
 * The journal of young logs. A file of its own costs a log a directory, two files and four syncs, which
 * thousands of logs that are made at once cannot pay before their first records count. So the first records
 * of all of them go to one file of the data directory, `young-logs.N`, and one sync makes them durable:
 *
 *     young ──(16 KiB, or its turn comes)──> its own directory is made, synced and named ──> settled
 *
 * A log that is settled is named for good before anything is appended to its own file: where its directory
 * is there, what the journal has of it is void. Where it is not, the journal is the log; after a restart the
 * directory is made of it before the log is opened. A journal file whose logs are all settled or gone is
 * removed, the oldest first: none outlives one that says more of the same logs.
 *
 * What of a log is known to be durable and is missing here is damage, as anywhere (`known-extent.ts`,
 * `durable-logs.ts`). An entry that is damaged takes the log that it is of, or all where that is not known.
 */
import { messageOf } from '@relevo/base/errors';
import type { Uuid } from '@relevo/base/ids';
import { DiskError } from '@relevo/base/ports';
import type { Crc32c, Disk, Logger } from '@relevo/base/ports';
import { crc32c as crcOf } from '@relevo/record/crc32c';
import { readFile, writeFile } from './checkpoint-file.ts';
import { LOG_SUFFIX, METADATA_FILE, TEMPORARY_SUFFIX, offsetFileName } from './file-names.ts';
import { JournalFile } from './journal-file.ts';
import { LogError, isDiskError } from './log-error.ts';
import { isOrdinaryTopic, partitionDirectory } from './partition-directory.ts';
import { encodeMetadata } from './partition-metadata.ts';
import { syncDirectoryStep, syncFileStep } from './steps.ts';
import type { Steps } from './steps.ts';
import { YoungContent, encodeKey, scanEntries } from './young-entries.ts';
import type { YoungKey } from './young-entries.ts';
import { YoungFile } from './young-file.ts';
import type { YoungJournal } from './young-file.ts';

const FILE_NAME = /^young-logs\.([1-9]\d{0,14})$/;
/** The default of `bytesMax`. */
export const YOUNG_BYTES_MAX: number = 32 * 2 ** 20;
/** A log that begins with more has its own files at once. */
const FIRST_BYTES_MAX = 64 * 2 ** 10;
/** A log that has more is to have its own files. */
export const YOUNG_LOG_BYTES: number = 16 * 2 ** 10;
/** Before they are made it may grow so far. */
const LOG_BYTES_MAX = 2 ** 20;
const JOURNAL_FILE_BYTES = 8 * 2 ** 20;
const NOTHING = new Uint8Array(0);

/** What the journal has of a log that has no directory. */
export interface FoundYoung extends YoungKey {
  readonly content: YoungContent;
  /** Entries of it are missing that no power cut took. */
  isDamaged: boolean;
  /** The journal files of earlier starts that hold entries of the log. */
  readonly files: Set<OldFile>;
}

interface OldFile {
  readonly number: number;
  readonly path: string;
  readonly logs: Set<FoundYoung>;
}

export interface YoungLogsDeps {
  readonly disk: Disk;
  readonly crc32c: Crc32c;
  readonly logger: Logger;
}

/** The logs that are in the journal alone, by name. Changes nothing; for who only looks. */
export function readYoungLogs(disk: Disk, root: string): Map<string, FoundYoung> {
  return read(disk, root, crcOf).found;
}

/** What journal files leave of each log, whether it has a directory or not. In the order of their numbers. */
export function youngContents(files: Iterable<Uint8Array>): ReadonlyMap<string, FoundYoung> {
  const reading = new Reading(crcOf, undefined);
  let number = 0;
  for (const bytes of files) reading.read({ number: ++number, path: '', logs: new Set() }, bytes);
  return reading.found;
}

/** The number of a journal file, or undefined for any other name. */
export function journalNumber(name: string): number | undefined {
  const number = FILE_NAME.exec(name)?.[1];
  return number === undefined ? undefined : Number(number);
}

export class YoungLogs implements YoungJournal {
  readonly #deps: YoungLogsDeps;
  readonly #root: string;
  readonly #bytesMax: number;
  readonly #found: Map<string, FoundYoung>;
  readonly #old: OldFile[];
  /** In order, the last is written to; with the logs of which each has entries. */
  readonly #files: { readonly file: JournalFile; readonly logs: Set<YoungFile> }[] = [];
  readonly #live: Map<YoungFile, { bytes: number }> = new Map();
  #nextNumber: number;
  #bytes = 0;
  #removing = false;

  /** `bytesMax`: of all young logs; 0: none is. */
  constructor(root: string, deps: YoungLogsDeps, bytesMax: number = YOUNG_BYTES_MAX) {
    this.#deps = deps;
    this.#root = root;
    this.#bytesMax = bytesMax;
    const { found, files } = read(deps.disk, root, deps.crc32c, deps.logger);
    this.#found = found;
    this.#old = files;
    this.#nextNumber = (files.at(-1)?.number ?? 0) + 1;
    this.#removeOld();
  }

  // ------------------------------------------------------------------------- from before the start

  /** Those that have no directory yet. */
  get found(): ReadonlyMap<string, FoundYoung> {
    return this.#found;
  }

  has(name: string, topicId: Uuid): boolean {
    return this.#found.get(name)?.topicId === topicId;
  }

  /** Makes the directory of such a log, durably. Throws a LogError where it is damaged. */
  *makeDirectory(name: string): Steps<void> {
    const found = this.#found.get(name);
    if (found === undefined) return;
    if (found.isDamaged) {
      throw new LogError(
        'corrupt',
        `the log of ${name} is damaged: its first records lie in the journal of young logs in ` +
          `${this.#root}, which lacks some that were synced. Where another in-sync replica has the log, ` +
          'it is copied anew from there',
      );
    }
    yield* this.#makeDirectory(found);
    this.#settleFound(found);
  }

  *#makeDirectory({ topic, partition, topicId, content }: FoundYoung): Steps<void> {
    const { disk } = this.#deps;
    const directory = `${this.#root}/${partitionDirectory(topic, partition)}`;
    if (disk.exists(directory)) return;
    const aside = directory + TEMPORARY_SUFFIX;
    const stated = isOrdinaryTopic(topic) ? undefined : topic;
    const segment = `${aside}/${offsetFileName(0, LOG_SUFFIX)}`;
    disk.removeTree(aside);
    disk.makeDirectory(aside);
    writeFile(disk, `${aside}/${METADATA_FILE}`, encodeMetadata(topicId, stated));
    writeFile(disk, segment, content.bytes());
    yield syncFileStep(disk, `${aside}/${METADATA_FILE}`);
    yield syncFileStep(disk, segment);
    yield syncDirectoryStep(disk, aside);
    disk.rename(aside, directory);
    yield syncDirectoryStep(disk, this.#root);
  }

  /** Nobody wants it any more, or it was copied anew. In force at once; durable when this resolves. */
  async drop(name: string): Promise<void> {
    const found = this.#found.get(name);
    if (found === undefined) return;
    this.#settleFound(found);
    await this.#gone(encodeKey(found));
  }

  #settleFound(found: FoundYoung): void {
    this.#found.delete(found.name);
    for (const file of found.files) file.logs.delete(found);
    this.#removeOld();
  }

  // --------------------------------------------------------------------------------- young logs

  /** Whether a new log that begins with so many bytes is to be young. */
  takes(bytes: number): boolean {
    return bytes <= FIRST_BYTES_MAX && this.#bytes + bytes <= this.#bytesMax;
  }

  /** Whether a young log may grow by so many bytes. */
  hasRoomFor(file: YoungFile, bytes: number): boolean {
    return file.size() + bytes <= LOG_BYTES_MAX && this.#bytes + bytes <= 2 * this.#bytesMax;
  }

  /** The first segment of a new log, in `path`. */
  begin(key: YoungKey, path: string): YoungFile {
    const file = new YoungFile(path, key, this);
    this.#live.set(file, { bytes: 0 });
    return file;
  }

  append(file: YoungFile, position: number, records: Uint8Array): JournalFile {
    const { crc32c } = this.#deps;
    const current = this.#current();
    current.file.append({ kind: 'records', key: file.key, position, records }, crc32c);
    current.logs.add(file);
    const live = this.#live.get(file);
    if (live !== undefined) {
      this.#bytes += position + records.length - live.bytes;
      live.bytes = position + records.length;
    }
    return current.file;
  }

  settled(file: YoungFile): void {
    this.#bytes -= this.#live.get(file)?.bytes ?? 0;
    this.#live.delete(file);
    for (const { logs } of this.#files) logs.delete(file);
    this.#removeOld();
  }

  /** A young log is deleted; durable when this resolves. */
  async gone(file: YoungFile): Promise<void> {
    this.settled(file);
    await this.#gone(file.key);
  }

  async #gone(key: Uint8Array): Promise<void> {
    // There is nothing that could come back.
    if (this.#files.length === 0 && this.#old.length === 0) return;
    const { file } = this.#current();
    file.append({ kind: 'gone', key, position: 0, records: NOTHING }, this.#deps.crc32c);
    await file.sync();
    this.#removeOld();
  }

  #current(): { readonly file: JournalFile; readonly logs: Set<YoungFile> } {
    const last = this.#files.at(-1);
    if (last !== undefined && !last.file.isUsedUp && last.file.sizeBytes < JOURNAL_FILE_BYTES) {
      return last;
    }
    const path = `${this.#root}/young-logs.${this.#nextNumber}`;
    const made = { file: new JournalFile(this.#deps.disk, path), logs: new Set<YoungFile>() };
    this.#nextNumber++;
    this.#files.push(made);
    return made;
  }

  // -------------------------------------------------------------------------- files without logs

  #removeOld(): void {
    if (this.#removing) return;
    this.#removing = true;
    this.#removeOldest()
      .catch((error: unknown) => {
        if (!(error instanceof DiskError)) throw error;
        const facts = { directory: this.#root, why: messageOf(error) };
        this.#deps.logger.warn('a journal of young logs could not be removed', facts);
      })
      .finally(() => {
        this.#removing = false;
      });
  }

  async #removeOldest(): Promise<void> {
    // Those that settle in the same turn go together.
    await Promise.resolve();
    const { disk } = this.#deps;
    for (;;) {
      const old = this.#old[0];
      const first = this.#files[0];
      if (old !== undefined) {
        if (old.logs.size > 0) return;
        this.#old.shift();
        disk.remove(old.path);
      } else if (first !== undefined && first.logs.size === 0 && first.file.sizeBytes > 0) {
        this.#files.shift();
        await first.file.close();
        disk.remove(first.file.path);
      } else {
        return;
      }
      await disk.syncDirectory(this.#root);
    }
  }

  /** The files are let go; what they hold stays. */
  async close(): Promise<void> {
    await Promise.all(this.#files.map(({ file }) => file.close()));
  }
}

// -------------------------------------------------------------------------------------- the start

interface Read {
  readonly found: Map<string, FoundYoung>;
  readonly files: OldFile[];
}

function read(disk: Disk, root: string, crc32c: Crc32c, logger?: Logger): Read {
  const files: OldFile[] = disk
    .list(root)
    .flatMap(({ name, directory }) => {
      const number = directory ? undefined : journalNumber(name);
      return number === undefined ? [] : [number];
    })
    .sort((a, b) => a - b)
    .map((number) => ({ number, path: `${root}/young-logs.${number}`, logs: new Set() }));
  const reading = new Reading(crc32c, logger);
  for (const file of files) reading.read(file, bytesOf(disk, file.path, logger));
  const { found } = reading;
  for (const [name, each] of found) {
    if (!disk.exists(`${root}/${partitionDirectory(each.topic, each.partition)}`)) continue;
    found.delete(name);
    for (const file of each.files) file.logs.delete(each);
  }
  return { found, files };
}

/** Undefined: it cannot be read. */
function bytesOf(disk: Disk, path: string, logger: Logger | undefined): Uint8Array | undefined {
  try {
    return readFile(disk, path) ?? NOTHING;
  } catch (error) {
    if (!(error instanceof DiskError) || isDiskError(error, 'NOT_FOUND')) throw error;
    logger?.error('a journal of young logs cannot be read', { path, why: error.message });
    return undefined;
  }
}

class Reading {
  readonly found: Map<string, FoundYoung> = new Map();
  readonly #crc32c: Crc32c;
  readonly #logger: Logger | undefined;
  /** A power cut has taken entries that no sync had covered. */
  #isTorn = false;
  /** All that is found from now on may lack something. */
  #isDamaged = false;

  constructor(crc32c: Crc32c, logger: Logger | undefined) {
    this.#crc32c = crc32c;
    this.#logger = logger;
  }

  read(file: OldFile, bytes: Uint8Array | undefined): void {
    if (bytes === undefined) {
      this.#damaged(undefined, file.path);
      return;
    }
    scanEntries(bytes, this.#crc32c, {
      entry: (key, { kind, position, records }) => {
        if (kind === 'gone') this.#gone(key);
        else this.#take(this.#of(key, file), position, records);
      },
      bad: ({ isTorn, key }) => {
        if (isTorn) this.#torn(file.path);
        else this.#damaged(key, file.path);
      },
    });
  }

  #of(key: YoungKey, file: OldFile): FoundYoung {
    let log = this.found.get(key.name);
    if (log?.topicId !== key.topicId) {
      if (log !== undefined) this.#gone(log);
      log = { ...key, content: new YoungContent(), isDamaged: this.#isDamaged, files: new Set() };
      this.found.set(key.name, log);
    }
    log.files.add(file);
    file.logs.add(log);
    return log;
  }

  #take(log: FoundYoung, position: number, records: Uint8Array): void {
    // What comes behind a gap was not synced either, where a power cut has made it.
    if (log.content.add(position, records) || this.#isTorn) return;
    log.isDamaged = true;
  }

  #gone({ name, topicId }: YoungKey): void {
    const log = this.found.get(name);
    if (log === undefined || log.topicId !== topicId) return;
    this.found.delete(name);
    for (const file of log.files) file.logs.delete(log);
  }

  #torn(path: string): void {
    this.#logger?.warn('passed over what a power cut left of a journal of young logs', { path });
    this.#isTorn = true;
  }

  #damaged(key: number | undefined, path: string): void {
    this.#logger?.error('a journal of young logs is damaged', { path });
    for (const log of this.found.values()) {
      if (key === undefined || crcOf(encodeKey(log)) === key) log.isDamaged = true;
    }
    // Where it is known whose the entry was and it was that log's first, `durable-logs` tells of the log.
    if (key === undefined) this.#isDamaged = true;
  }
}
