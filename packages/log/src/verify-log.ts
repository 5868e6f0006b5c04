/**
 * Looks through a log's directory without opening it for use: every batch, both indexes, epochs and
 * snapshots. Nothing is changed. For a log that no broker has open.
 *
 *     damage   batches; partition.metadata and segments that held records; epochs that contradict them;
 *              a log that held records and is gone
 *     note     what follows from the batches and is made anew where it is missing, old or wrong: indexes,
 *              producer snapshots, an epoch file that cannot be read; a torn tail; what was never synced
 */
import type { LeaderEpoch, Offset, Uuid } from '@relevo/base/ids';
import { NO_LEADER_EPOCH } from '@relevo/base/ids';
import type { Crc32c, Disk, DiskFile } from '@relevo/base/ports';
import { BatchError } from '@relevo/record/batch-error';
import { BATCH_OVERHEAD, readBatchHeader } from '@relevo/record/batch-header';
import type { BatchHeader } from '@relevo/record/batch-header';
import { ANY_BATCH, validateBatch } from '@relevo/record/validate';
import { FileWindow } from './batch-scan.ts';
import { readFile } from './checkpoint-file.ts';
import {
  EPOCH_FILE,
  HIGH_WATERMARKS_FILE,
  LOG_STARTS_FILE,
  LOG_SUFFIX,
  METADATA_FILE,
  OFFSET_INDEX_SUFFIX,
  RECOVERY_POINTS_FILE,
  RECOVERY_SUFFIX,
  SNAPSHOT_SUFFIX,
  SYNCED_SUFFIX,
  TIME_INDEX_SUFFIX,
  TRUNCATION_FILE,
  offsetFileName,
  parseOffsetFileName,
} from './file-names.ts';
import type { LostLog, NotedLog } from './durable-logs.ts';
import { readFailedLogs } from './failed-logs.ts';
import { knownExtent } from './known-extent.ts';
import type { KnownExtent } from './known-extent.ts';
import { LeaderEpochCache } from './leader-epoch-cache.ts';
import { readOffsets } from './offset-checkpoint.ts';
import type { StoredOffsets } from './offset-checkpoint.ts';
import { OffsetIndex } from './offset-index.ts';
import { identifyPartition, partitionDirectory } from './partition-directory.ts';
import { readTopicId } from './partition-metadata.ts';
import { decodeSnapshot } from './producer-snapshot.ts';
import { readTruncation } from './recovery-point.ts';
import { decodeRecoveryStart } from './recovery-start.ts';
import { firstToScan } from './recovery.ts';
import { TimeIndex } from './time-index.ts';
import { judgeTail } from './torn-tail.ts';

const WINDOW_BYTES = 2 ** 20;
/** Findings that are listed per log; more are only counted. */
export const FINDINGS_MAX = 100;

export interface Finding {
  /** `note`: nothing is wrong, or what is wrong is mended at the next start. */
  readonly severity: 'damage' | 'note';
  readonly path: string;
  /** In the file, where the finding has a place. */
  readonly position?: number;
  readonly message: string;
}

export interface LogReport {
  readonly directory: string;
  readonly topicId: Uuid | undefined;
  readonly segments: number;
  readonly batches: number;
  readonly records: number;
  readonly bytes: number;
  readonly startOffset: Offset;
  readonly endOffset: Offset;
  readonly latestEpoch: LeaderEpoch;
  /** At most FINDINGS_MAX. */
  readonly findings: readonly Finding[];
  /** All of that severity. */
  readonly damages: number;
}

export interface StoredBatch {
  readonly path: string;
  readonly position: number;
  readonly header: BatchHeader;
  /** The whole batch; valid until the next one is taken. */
  readonly bytes: Uint8Array;
  readonly error: BatchError | undefined;
}

/** What is known of the log in `directory`, by the data directory around it and by its own files. */
export function knownExtentOf(disk: Disk, directory: string): KnownExtent {
  const slash = directory.lastIndexOf('/');
  const root = directory.slice(0, slash);
  const stored = (file: string): StoredOffsets => readOffsets(disk, `${root}/${file}`);
  const points = stored(RECOVERY_POINTS_FILE).offsets;
  const found = identifyPartition(disk, root, directory.slice(slash + 1), points?.keys());
  const name = found?.name ?? directory.slice(slash + 1);
  const proof = ({ offsets, unproven }: StoredOffsets): Offset | undefined =>
    unproven.has(name) ? undefined : offsets?.get(name);
  const isTruncated = disk.exists(`${directory}/${TRUNCATION_FILE}`);
  return knownExtent({
    logStart: proof(stored(LOG_STARTS_FILE)),
    recoveryPoint: points?.get(name),
    highWatermark: proof(stored(HIGH_WATERMARKS_FILE)),
    syncedSegment: offsetsOf(disk, directory, SYNCED_SUFFIX).at(-1),
    truncation: isTruncated ? readTruncation(disk, directory) : undefined,
  });
}

/** The data directory around `directory` says that a write or a sync of the log there has failed. */
export function hasFailedWrite(disk: Disk, directory: string): boolean {
  const slash = directory.lastIndexOf('/');
  const root = directory.slice(0, slash);
  const failed = readFailedLogs(disk, root);
  if (failed === undefined) return true;
  const found = identifyPartition(disk, root, directory.slice(slash + 1), failed.keys());
  return found !== undefined && failed.get(found.name)?.why === 'failed';
}

/** Base offsets of the segments in a directory, in order. */
export const segmentBases = (disk: Disk, directory: string): Offset[] =>
  offsetsOf(disk, directory, LOG_SUFFIX);

/**
 * The batches of a segment file, bad ones too as long as they say how long they are; returns where they
 * end, and why if that is not the end of the file.
 */
export function* storedBatches(
  file: DiskFile,
  crc32c: Crc32c,
  from = 0,
): Generator<StoredBatch, { readonly position: number; readonly error?: BatchError }, undefined> {
  const end = file.size();
  const window = new FileWindow(file, end);
  let position = from;
  while (position < end) {
    let header: BatchHeader;
    try {
      header = readBatchHeader(window.view(position, BATCH_OVERHEAD, WINDOW_BYTES));
    } catch (error) {
      if (error instanceof BatchError) return { position, error };
      throw error;
    }
    const bytes = window.view(position, header.sizeInBytes, WINDOW_BYTES);
    if (bytes.length < header.sizeInBytes) {
      const message = `the batch has ${header.sizeInBytes} bytes, ${bytes.length} are there`;
      return { position, error: new BatchError('TRUNCATED', message) };
    }
    yield { path: file.path, position, header, bytes, error: errorOf(bytes, crc32c) };
    position += header.sizeInBytes;
  }
  return { position };
}

function errorOf(bytes: Uint8Array, crc32c: Crc32c): BatchError | undefined {
  try {
    validateBatch(bytes, 0, bytes.length, crc32c, ANY_BATCH);
    return undefined;
  } catch (error) {
    if (error instanceof BatchError) return error;
    throw error;
  }
}

export interface VerifyOptions {
  readonly directory: string;
  /** What must be there. Default: not known. */
  readonly known?: KnownExtent;
  /** Records of it were synced: not all of it may be missing. Default: not known. */
  readonly noted?: NotedLog | undefined;
  /** A write or a sync of it has failed; default: not known. */
  readonly hasFailedWrite?: boolean;
  /** The broker stopped in order: every file is taken at its word. Default: false. */
  readonly cleanShutdown?: boolean;
}

/** The report on a log that is gone; `root` is its data directory. */
export function reportOfLost(root: string, log: LostLog): LogReport {
  const directory = `${root}/${partitionDirectory(log.topic, log.partition)}`;
  const held =
    log.recoveryPoint === undefined || log.recoveryPoint === 0
      ? 'records in it were synced'
      : `all below offset ${log.recoveryPoint} was synced`;
  const message = `the log is gone, yet ${held}: put the directory back`;
  return {
    directory,
    topicId: log.topicId,
    segments: 0,
    batches: 0,
    records: 0,
    bytes: 0,
    startOffset: 0 as Offset,
    endOffset: 0 as Offset,
    latestEpoch: NO_LEADER_EPOCH,
    findings: [{ severity: 'damage', path: directory, message }],
    damages: 1,
  };
}

export const verifyLog = (
  options: VerifyOptions,
  deps: { readonly disk: Disk; readonly crc32c: Crc32c },
): LogReport => new Verification(options, deps).run();

const NO_FACTS = {
  logStart: undefined,
  recoveryPoint: undefined,
  highWatermark: undefined,
  syncedSegment: undefined,
  truncation: undefined,
};

class Verification {
  readonly #directory: string;
  readonly #known: KnownExtent;
  readonly #heldRecords: boolean;
  readonly #notedId: Uuid | undefined;
  readonly #hasFailedWrite: boolean;
  readonly #isClosed: boolean;
  readonly #disk: Disk;
  readonly #crc32c: Crc32c;
  readonly #findings: Finding[] = [];
  readonly #epochs: LeaderEpochCache = new LeaderEpochCache();
  /** After a crash the log is read from there on, and tells its epochs itself. */
  #readFrom: Offset = 0 as Offset;
  #damages = 0;
  #batches = 0;
  #records = 0;
  #bytes = 0;
  #expected: Offset | undefined;
  #epoch: LeaderEpoch = NO_LEADER_EPOCH;

  constructor(options: VerifyOptions, deps: { readonly disk: Disk; readonly crc32c: Crc32c }) {
    this.#directory = options.directory;
    this.#known = options.known ?? knownExtent(NO_FACTS);
    this.#heldRecords = options.noted !== undefined || this.#known.syncedEnd > 0;
    this.#notedId = options.noted?.topicId;
    this.#hasFailedWrite = options.hasFailedWrite === true;
    this.#isClosed = options.cleanShutdown === true;
    this.#disk = deps.disk;
    this.#crc32c = deps.crc32c;
  }

  run(): LogReport {
    const directory = this.#directory;
    const { start, syncedEnd } = this.#known;
    const bases = this.#basesFrom(start);
    const topicId = readTopicId(this.#disk, directory);
    this.#assertSegments(bases);
    this.#readFrom = bases[firstToScan(bases, this.#known.recoveryPoint)] ?? (0 as Offset);
    for (const [at, base] of bases.entries()) this.#segment(base, at === bases.length - 1);
    const endOffset = this.#expected ?? (0 as Offset);
    if (endOffset < syncedEnd) {
      const message = `the log ends at ${endOffset}, yet all below ${syncedEnd} was synced`;
      this.#damage(directory, message);
    }
    if (topicId === undefined || bases.length === 0) this.#judgeMissing(topicId, bases.length);
    if (topicId !== undefined && topicId !== (this.#notedId ?? topicId)) {
      const message = `it names topic id ${topicId}, durable-logs has ${this.#notedId}`;
      this.#damage(`${directory}/${METADATA_FILE}`, message);
    }
    if (this.#hasFailedWrite) {
      const message =
        'a write or a sync has failed: the log is not opened before it is copied anew from another ' +
        'replica, or relevo log accept-loss says that records may be lost';
      this.#damage(directory, message);
    }
    this.#epochFile(endOffset);
    this.#snapshots();
    this.#recoveryStarts();
    return {
      directory,
      topicId,
      segments: bases.length,
      batches: this.#batches,
      records: this.#records,
      bytes: this.#bytes,
      startOffset: bases[0] ?? (0 as Offset),
      endOffset,
      latestEpoch: this.#epoch,
      findings: this.#findings,
      damages: this.#damages,
    };
  }

  /** Without those that were being deleted when a power cut brought some of them back. */
  #basesFrom(start: Offset | undefined): Offset[] {
    const bases = segmentBases(this.#disk, this.#directory);
    const from = bases.findLastIndex((base) => base <= (start ?? 0));
    return bases.slice(Math.max(0, from));
  }

  #assertSegments(bases: readonly Offset[]): void {
    const { start, segment } = this.#known;
    const [first] = bases;
    if (first !== undefined && start !== undefined && first > start) {
      const message = `the log begins at ${start}, its first segment at ${first}: those before are gone`;
      this.#damage(this.#directory, message);
    }
    if (segment !== undefined && !bases.includes(segment)) {
      this.#damage(this.#path(segment, LOG_SUFFIX), 'the segment is gone, yet it was synced');
    }
  }

  /** A crash may take what was never synced; then nothing else of the log counted either. */
  #judgeMissing(topicId: Uuid | undefined, segments: number): void {
    const [path, what] =
      topicId === undefined
        ? [`${this.#directory}/${METADATA_FILE}`, 'missing or damaged']
        : [this.#directory, 'no segment is there'];
    if (this.#heldRecords || this.#batches > 0) {
      this.#damage(path, `${what}: the broker does not open the log without it`);
    } else {
      this.#note(path, `${what}; nothing was ever synced, the log is begun anew at the next start`);
    }
    if (topicId === undefined && segments === 0 && this.#heldRecords) {
      this.#damage(this.#directory, 'no segment is there');
    }
  }

  #segment(base: Offset, isLast: boolean): void {
    const path = this.#path(base, LOG_SUFFIX);
    if (this.#expected !== undefined && this.#expected !== base) {
      const message = `it begins at ${base}, the segment before ends at ${this.#expected}`;
      const isTorn = this.#expected >= this.#known.syncedEnd && this.#expected < base;
      if (isTorn) this.#note(path, `${message} (a torn tail, cut at the next start)`);
      else this.#damage(path, message);
    }
    this.#expected = base;
    const file = this.#disk.open(path, 'readOnly');
    try {
      const indexes = [this.#offsetIndex(base, file.size()), this.#timeIndex(base)];
      const batches = storedBatches(file, this.#crc32c);
      let next = batches.next();
      for (; next.done !== true; next = batches.next()) {
        this.#batch(next.value, file);
        for (const index of indexes) index.see(next.value);
      }
      if (next.value.error !== undefined) this.#end(file, next.value.position, next.value.error);
      this.#bytes += file.size();
      for (const index of indexes) this.#judgeIndex(index, isLast);
    } finally {
      file.close();
    }
  }

  #batch(batch: StoredBatch, file: DiskFile): void {
    const { header, position, path } = batch;
    const expected = this.#expected ?? header.baseOffset;
    if (batch.error !== undefined) this.#bad(file, position, expected, batch.error.message);
    else if (header.baseOffset !== expected) {
      this.#damage(path, `offset ${expected} is missing, ${header.baseOffset} is there`, position);
    }
    if (header.partitionLeaderEpoch < this.#epoch) {
      const message = `the leader epoch falls from ${this.#epoch} to ${header.partitionLeaderEpoch}`;
      this.#damage(path, message, position);
    } else {
      this.#epoch = header.partitionLeaderEpoch;
      this.#epochs.begin(this.#epoch, header.baseOffset);
    }
    this.#batches++;
    this.#records += header.recordCount;
    this.#expected = header.nextOffset;
  }

  /** The file ends with bytes that are no batch. */
  #end(file: DiskFile, position: number, error: BatchError): void {
    this.#bad(file, position, this.#expected ?? (0 as Offset), error.message);
  }

  #bad(file: DiskFile, position: number, expected: Offset, message: string): void {
    const bad = { file, position, fileBytes: file.size(), expected, crc32c: this.#crc32c };
    const isTorn = expected >= this.#known.syncedEnd && judgeTail(bad) === 'torn';
    const what = `the batch at offset ${expected}: ${message}`;
    if (isTorn) this.#note(file.path, `${what} (a torn tail, cut at the next start)`, position);
    else this.#damage(file.path, what, position);
  }

  #offsetIndex(base: Offset, fileBytes: number): IndexCheck {
    const path = this.#path(base, OFFSET_INDEX_SUFFIX);
    const bytes = readFile(this.#disk, path);
    const index = bytes && OffsetIndex.decode(base, bytes, fileBytes);
    return new IndexCheck(path, bytes !== undefined, index?.entries, (at, { position, header }) => {
      const entry = index?.entry(at);
      if (entry === undefined || entry.position > position) return 'later';
      if (entry.position === position && entry.offset === header.lastOffset) return 'right';
      return `entry ${at} says that a batch to offset ${entry.offset} begins at byte ${entry.position}`;
    });
  }

  #timeIndex(base: Offset): IndexCheck {
    const path = this.#path(base, TIME_INDEX_SUFFIX);
    const bytes = readFile(this.#disk, path);
    const index = bytes && TimeIndex.decode(base, bytes);
    return new IndexCheck(path, bytes !== undefined, index?.entries, (at, { header }) => {
      const entry = index?.entry(at);
      if (entry === undefined || entry.offset > header.lastOffset) return 'later';
      const isOf = entry.offset === header.lastOffset;
      if (isOf && entry.timestamp === header.maxTimestamp) return 'right';
      return `entry ${at} says that offset ${entry.offset} ends a batch of ${entry.timestamp} ms`;
    });
  }

  #judgeIndex(index: IndexCheck, isLast: boolean): void {
    const { path, verdict } = index;
    // The last segment's are written when the log is closed: until then they may be missing or old.
    if (verdict === 'right' || (isLast && verdict === 'missing')) return;
    if (verdict === 'missing') this.#note(path, 'missing; it is rebuilt when it is needed');
    else if (isLast) this.#note(path, `${verdict}: it is older than the log, and rebuilt at start`);
    else this.#note(path, `${verdict}: that is not so; it is rebuilt when it is used`);
  }

  /** The file may lag behind the log; what it says must be so. */
  #epochFile(endOffset: Offset): void {
    const path = `${this.#directory}/${EPOCH_FILE}`;
    const bytes = readFile(this.#disk, path);
    if (bytes === undefined) return;
    const cache = LeaderEpochCache.decode(bytes);
    if (cache === undefined) {
      return this.#note(path, 'it cannot be understood; it is rebuilt from the log at start');
    }
    const start = this.#epochs.entries[0]?.startOffset ?? endOffset;
    const countsBelow = this.#isClosed ? endOffset : this.#readFrom;
    for (const { epoch, startOffset } of cache.entries) {
      if (startOffset < start || startOffset >= endOffset) continue;
      const actual = this.#epochs.epochAt(startOffset);
      if (actual === epoch) continue;
      const says = `it says epoch ${epoch} at offset ${startOffset}, the log has ${actual}`;
      if (startOffset < countsBelow) {
        this.#damage(path, `${says}; remove this file alone: it is rebuilt from the log at start`);
      } else {
        this.#note(
          path,
          `${says}: it is older than a truncation, and not used from ${countsBelow} on`,
        );
      }
    }
  }

  #snapshots(): void {
    for (const at of offsetsOf(this.#disk, this.#directory, SNAPSHOT_SUFFIX)) {
      const path = this.#path(at, SNAPSHOT_SUFFIX);
      const bytes = readFile(this.#disk, path);
      if (bytes !== undefined && decodeSnapshot(bytes, this.#crc32c) === undefined) {
        this.#note(path, 'it fails its CRC; an older one and the log are used, and it is rebuilt');
      }
    }
  }

  #recoveryStarts(): void {
    for (const at of offsetsOf(this.#disk, this.#directory, RECOVERY_SUFFIX)) {
      const path = this.#path(at, RECOVERY_SUFFIX);
      const bytes = readFile(this.#disk, path);
      if (bytes === undefined || decodeRecoveryStart(at, bytes, this.#crc32c) !== undefined)
        continue;
      this.#note(path, 'it fails its CRC; after a crash the whole segment is read');
    }
  }

  #path(offset: Offset, suffix: string): string {
    return `${this.#directory}/${offsetFileName(offset, suffix)}`;
  }

  #damage(path: string, message: string, position?: number): void {
    this.#damages++;
    this.#add({ severity: 'damage', path, message, ...(position !== undefined && { position }) });
  }

  #note(path: string, message: string, position?: number): void {
    this.#add({ severity: 'note', path, message, ...(position !== undefined && { position }) });
  }

  #add(finding: Finding): void {
    if (this.#findings.length < FINDINGS_MAX) this.#findings.push(finding);
  }
}

/** Holds the entries of an index against the batches, in the order of both. */
class IndexCheck {
  readonly path: string;
  readonly #exists: boolean;
  readonly #entries: number | undefined;
  readonly #compare: (entry: number, batch: StoredBatch) => string;
  #next = 0;
  #fault: string | undefined;

  /** `compare` says 'later' where the entry is of a later batch, 'right', or what is wrong. */
  constructor(
    path: string,
    exists: boolean,
    entries: number | undefined,
    compare: (entry: number, batch: StoredBatch) => string,
  ) {
    this.path = path;
    this.#exists = exists;
    this.#entries = entries;
    this.#compare = compare;
  }

  see(batch: StoredBatch): void {
    if (this.#fault !== undefined || this.#next >= (this.#entries ?? 0)) return;
    const answer = this.#compare(this.#next, batch);
    if (answer === 'later') return;
    if (answer === 'right') this.#next++;
    else this.#fault = answer;
  }

  /** 'right', 'missing', or what is wrong. */
  get verdict(): string {
    if (!this.#exists) return 'missing';
    if (this.#entries === undefined) return 'the bytes are no index of this segment';
    if (this.#fault !== undefined) return this.#fault;
    if (this.#next === this.#entries) return 'right';
    return `entry ${this.#next} of ${this.#entries} is of no batch`;
  }
}

function offsetsOf(disk: Disk, directory: string, suffix: string): Offset[] {
  const offsets: Offset[] = [];
  for (const { name } of disk.list(directory)) {
    const parsed = parseOffsetFileName(name);
    if (parsed?.suffix === suffix) offsets.push(parsed.offset);
  }
  return offsets.sort((a, b) => a - b);
}
