/**
 * Brings a log back from its directory, in steps (`steps.ts`).
 *
 * After a shutdown in order everything is taken as it is found. After any other, what lies below the
 * *recovery point*, which was synced and is known to be, is taken; the segment with the last record below
 * it, from its last recovery start on (`recovery-start.ts`), and all after it are read batch by batch with
 * their CRCs. Where a batch does not check out there are three
 * cases: below the recovery point it is corruption, and the log refuses to open; above it, `torn-tail.ts`
 * tells damage, which is corruption too, from a torn tail, which is cut. What is kept is synced before
 * it counts. What the log must hold in any case is said in `known-extent.ts`.
 */
import { isMutated } from '@relevo/base/mutations';
import type { Offset, Uuid } from '@relevo/base/ids';
import type { Clock, Crc32c, Disk, Logger } from '@relevo/base/ports';
import type { BatchHeader } from '@relevo/record/batch-header';
import type { ScanEnd } from './batch-scan.ts';
import { parentOf, readHint } from './checkpoint-file.ts';
import {
  DELETED_SUFFIX,
  EPOCH_FILE,
  LOG_SUFFIX,
  METADATA_FILE,
  OFFSET_INDEX_SUFFIX,
  RECOVERY_SUFFIX,
  SNAPSHOT_SUFFIX,
  SYNCED_SUFFIX,
  TEMPORARY_SUFFIX,
  TIME_INDEX_SUFFIX,
  TRUNCATION_FILE,
  offsetFileName,
  parseOffsetFileName,
} from './file-names.ts';
import { knownExtent } from './known-extent.ts';
import type { KnownExtent } from './known-extent.ts';
import { LeaderEpochCache } from './leader-epoch-cache.ts';
import type { LogConfig } from './log-config.ts';
import { LogError } from './log-error.ts';
import { readTopicId, writeTopicId } from './partition-metadata.ts';
import { ProducerSnapshots } from './producer-snapshots.ts';
import { ProducerState } from './producer-state.ts';
import type { SegmentCache } from './segment-cache.ts';
import { RecoveryStarts } from './recovery-start.ts';
import { readTruncation } from './recovery-point.ts';
import type { Truncation } from './recovery-point.ts';
import { Segment } from './segment.ts';
import { corrupt, walkHeaders } from './segment-walk.ts';
import { syncDirectoryStep, syncFileStep, syncStep } from './steps.ts';
import type { Steps } from './steps.ts';
import { judgeTailSteps } from './torn-tail.ts';

export interface RecoveryOptions {
  readonly directory: string;
  readonly topicId: Uuid;
  /** To be kept in `partition.metadata`, where the directory's name does not tell it. */
  readonly topic?: string | undefined;
  readonly config: LogConfig;
  /** The broker stopped in order: every log was closed. */
  readonly cleanShutdown: boolean;
  /** Everything below was synced. Default: 0, or after a clean shutdown the end of the log. */
  readonly recoveryPoint?: Offset | undefined;
  /** Records of it were synced: its directory may be neither missing nor empty. Default: not known. */
  readonly heldRecords?: boolean | undefined;
  /** Where the log begins, if that is above its first segment. */
  readonly logStartOffset?: Offset | undefined;
  /** No segment below it went before this was durable: the log may not begin later. Default: not known. */
  readonly startProof?: Offset | undefined;
  /** All below was synced, as with the recovery point, should that be lost. Default: not known. */
  readonly highWatermark?: Offset | undefined;
  /** A log that is not there has no files before `make` or the first append. Default: false. */
  readonly makeLater?: boolean | undefined;
}

export interface RecoveryDeps {
  readonly disk: Disk;
  readonly crc32c: Crc32c;
  readonly logger: Logger;
  readonly cache: SegmentCache;
  /** Tells when producers have been silent for too long; default: never. */
  readonly clock?: Pick<Clock, 'monotonicMs'>;
}

export interface RecoveredLog {
  /** In order, at least one; the last is active. */
  readonly segments: Segment[];
  readonly epochs: LeaderEpochCache;
  readonly producers: ProducerState;
  readonly snapshots: ProducerSnapshots;
  readonly starts: RecoveryStarts;
  /** It is new, and has no files yet. */
  readonly isUnmade: boolean;
  /** All that is in the log is synced, and the directory entries too. */
  readonly isDurable: boolean;
  /** What the data directory's checkpoint says, lowered by a truncation. */
  readonly recoveryPoint: Offset;
  readonly startOffset: Offset;
  /** By its file. */
  readonly truncation: Truncation | undefined;
  /** See `synced-segment.ts`. */
  readonly syncedSegment: Offset | undefined;
}

const ZERO = 0 as Offset;

export const recoverLog = (options: RecoveryOptions, deps: RecoveryDeps): Steps<RecoveredLog> =>
  new Recovery(options, deps).run();

/**
 * Up to where a producer snapshot is sure to tell of this log, and not of one that was truncated since:
 * the recovery point, or where the first segment begins, for all before was below the high watermark
 * when it was deleted.
 */
export const sureOfProducers = (recoveryPoint: Offset, firstBase: Offset): Offset =>
  Math.max(recoveryPoint, firstBase) as Offset;

class Recovery {
  readonly #options: RecoveryOptions;
  readonly #deps: RecoveryDeps;
  readonly #producers: ProducerState;
  #epochs: LeaderEpochCache = new LeaderEpochCache();
  #snapshots: ProducerSnapshots;
  #starts: RecoveryStarts;
  /** Names in the directory: who asks for a file that is not there pays for an error. */
  readonly #names: Set<string> = new Set();
  /** Batches below are in the producer state already, by a snapshot. */
  #producersUpTo: Offset = ZERO;
  #known: KnownExtent;
  #truncation: Truncation | undefined;
  /** Recovery starts were removed. */
  #hasDropped = false;
  /** By files that name them, growing. */
  #syncedSegments: Offset[] = [];

  constructor(options: RecoveryOptions, deps: RecoveryDeps) {
    this.#options = options;
    this.#deps = deps;
    const { clock } = deps;
    this.#producers = new ProducerState(
      options.config.producerIdExpirationMs,
      clock === undefined ? () => 0 : () => clock.monotonicMs(),
    );
    this.#snapshots = new ProducerSnapshots(options.directory, [], deps);
    this.#starts = new RecoveryStarts(options.directory, [], deps);
    this.#known = this.#extent();
  }

  *run(): Steps<RecoveredLog> {
    const { directory, topicId, cleanShutdown, heldRecords } = this.#options;
    const { disk } = this.#deps;
    if (!disk.exists(directory)) {
      if (this.#held) throw this.#lost('the directory is gone');
      return this.#options.makeLater === true ? this.#createLater() : this.#create();
    }
    const bases = this.#takeStock();
    this.#known = this.#extent();
    const found = readTopicId(disk, directory);
    if (found !== undefined && found !== topicId) {
      // The data directory knows the log by this topic id: the file has changed, not the owner.
      const says = `partition.metadata names topic id ${found} in place of ${topicId}`;
      if (heldRecords === true) throw corrupt(directory, says);
      const message = `${directory} belongs to topic id ${found}, not ${topicId}; move it away`;
      throw new LogError('foreign', message);
    }
    if (found === undefined || bases.length === 0) return this.#startAgain(bases);
    this.#assertSegments(bases);
    this.#removeOldest(bases);
    const taken = cleanShutdown ? yield* this.#takeClosed(bases) : undefined;
    return taken ?? (yield* this.#scan(bases));
  }

  #extent(): KnownExtent {
    const { startProof, recoveryPoint, highWatermark } = this.#options;
    return knownExtent({
      logStart: startProof,
      recoveryPoint,
      highWatermark,
      syncedSegment: this.#syncedSegments.at(-1),
      truncation: this.#truncation,
    });
  }

  /** Nothing has been changed yet. */
  #assertSegments(bases: readonly Offset[]): void {
    const { directory } = this.#options;
    const { start, segment } = this.#known;
    const first = bases[0] ?? ZERO;
    if (start !== undefined && first > start && !isMutated('missing-segment-passes')) {
      const what = `its first segment begins at offset ${first}, yet the log begins at ${start}`;
      throw corrupt(directory, `${what}: the segments before it are gone`);
    }
    if (segment !== undefined && !bases.includes(segment)) {
      const name = offsetFileName(segment, LOG_SUFFIX);
      throw corrupt(directory, `${name} is gone, yet it was synced`);
    }
  }

  /** Segments that were being deleted when a power cut brought some of them back. */
  #removeOldest(bases: Offset[]): void {
    const { directory } = this.#options;
    const start = this.#known.start ?? ZERO;
    while (bases[1] !== undefined && bases[1] <= start) {
      const base = bases.shift() ?? ZERO;
      for (const suffix of [OFFSET_INDEX_SUFFIX, TIME_INDEX_SUFFIX, LOG_SUFFIX]) {
        this.#deps.disk.remove(`${directory}/${offsetFileName(base, suffix)}`);
      }
    }
  }

  // ----------------------------------------------------------------------------- a new log

  #createLater(): RecoveredLog {
    const { logStartOffset } = this.#options;
    const segment = this.#segment(logStartOffset ?? ZERO);
    segment.begin();
    return { ...this.#result([segment], false, logStartOffset ?? ZERO), isUnmade: true };
  }

  #create(): RecoveredLog {
    const { directory, topicId, topic, logStartOffset } = this.#options;
    this.#deps.disk.makeDirectory(directory);
    writeTopicId(this.#deps.disk, directory, topicId, topic);
    const segment = this.#segment(logStartOffset ?? ZERO);
    segment.create();
    return this.#result([segment], false, logStartOffset ?? ZERO);
  }

  /**
   * The directory's metadata or its only segment is missing: it was made, and never synced. Then
   * nothing in it was ever acknowledged.
   */
  #startAgain(bases: readonly Offset[]): RecoveredLog {
    const { directory } = this.#options;
    const { disk, logger } = this.#deps;
    if (this.#held) {
      throw this.#lost(
        bases.length === 0
          ? 'no segment is there'
          : 'partition.metadata is missing or cannot be understood',
      );
    }
    if (bases.length > 0) logger.warn('removed a log that was never synced', { directory });
    for (const base of bases) disk.remove(`${directory}/${offsetFileName(base, LOG_SUFFIX)}`);
    disk.remove(`${directory}/${METADATA_FILE}`);
    this.#snapshots.clear();
    this.#starts.clear();
    // They must not come back between what is appended from now on.
    disk.syncDirectoryNow(directory);
    return this.#create();
  }

  get #held(): boolean {
    return this.#known.syncedEnd > ZERO || this.#options.heldRecords === true;
  }

  #lost(what: string): LogError {
    const { syncedEnd } = this.#known;
    const held =
      syncedEnd > ZERO ? `all below offset ${syncedEnd} was synced` : 'records in it were synced';
    return new LogError(
      'corrupt',
      `${this.#options.directory} is lost: ${what}, yet ${held}. No empty log takes its place: put the ` +
        'directory back and restart the broker. Where another in-sync replica has the log, it is ' +
        'copied anew from there',
    );
  }

  // ------------------------------------------------------------------- what the directory holds

  /** The base offsets of the segments; what was never completed, or being removed, is removed. */
  #takeStock(): Offset[] {
    const { directory } = this.#options;
    const { disk } = this.#deps;
    const bases: Offset[] = [];
    const snapshots: Offset[] = [];
    const starts: Offset[] = [];
    for (const { name } of disk.list(directory)) {
      if (name.endsWith(DELETED_SUFFIX) || name.endsWith(TEMPORARY_SUFFIX)) {
        disk.remove(`${directory}/${name}`);
        continue;
      }
      this.#names.add(name);
      const parsed = parseOffsetFileName(name);
      if (parsed?.suffix === LOG_SUFFIX) bases.push(parsed.offset);
      if (parsed?.suffix === SNAPSHOT_SUFFIX) snapshots.push(parsed.offset);
      if (parsed?.suffix === RECOVERY_SUFFIX) starts.push(parsed.offset);
      if (parsed?.suffix === SYNCED_SUFFIX) this.#syncedSegments.push(parsed.offset);
    }
    this.#syncedSegments.sort(ascending);
    if (this.#names.has(TRUNCATION_FILE)) this.#truncation = readTruncation(disk, directory);
    this.#snapshots = new ProducerSnapshots(directory, snapshots.sort(ascending), this.#deps);
    this.#starts = new RecoveryStarts(directory, starts.sort(ascending), this.#deps);
    return bases.sort(ascending);
  }

  // --------------------------------------------------------------------- after a clean shutdown

  /** Undefined when the log is not as it should be after one. */
  *#takeClosed(bases: readonly Offset[]): Steps<RecoveredLog | undefined> {
    // The checkpoint was written when all logs were closed: no truncation is newer.
    const { directory, recoveryPoint } = this.#options;
    const segments = bases.map((base) => this.#segment(base));
    const active = adoptSealed(segments, segments.length - 1);
    yield* this.#checkSealed(segments.slice(0, -1));
    const whole = yield* active.adoptClosed();
    const end = active.nextOffset;
    if (!whole || end !== (recoveryPoint ?? end)) {
      const facts = { directory, logEndOffset: end, recoveryPoint };
      this.#deps.logger.warn('log is not as a clean shutdown leaves it', facts);
      for (const segment of segments) segment.close();
      return undefined;
    }
    yield* this.#loadEpochs(segments);
    this.#epochs.truncateTo(end);
    yield* this.#snapshots.load(this.#producers, segments, end);
    this.#starts.truncateTo(end);
    this.#dropMarks(end);
    return this.#result(segments, true, end);
  }

  // ------------------------------------------------------------------------ after any other end

  *#scan(bases: readonly Offset[]): Steps<RecoveredLog> {
    const { directory } = this.#options;
    const { logger } = this.#deps;
    const { recoveryPoint, syncedEnd } = this.#known;
    const segments = bases.map((base) => this.#segment(base));
    const firstScanned = firstToScan(bases, recoveryPoint);
    const below = segments.slice(0, firstScanned);
    const first = adoptSealed(segments, firstScanned);
    yield* this.#checkSealed(below);
    const resumed = yield* this.#resume(first, recoveryPoint);
    if (resumed) below.push(first);
    else {
      yield* this.#loadEpochs(below);
      this.#epochs.truncateTo(first.baseOffset);
    }
    const sure = sureOfProducers(recoveryPoint, bases[0] ?? ZERO);
    this.#producersUpTo = yield* this.#snapshots.load(this.#producers, below, sure);
    const kept = segments.slice(0, firstScanned);
    let foundBytes = 0;
    let keptBytes = 0;
    for (const segment of segments.slice(firstScanned)) {
      foundBytes += segment.file().size();
      const previous = kept.at(-1);
      const isTornBefore =
        kept.length > firstScanned && previous?.nextOffset !== segment.baseOffset;
      if (isTornBefore) continue;
      const next = segments[kept.length + 1];
      const take = (header: BatchHeader): boolean => this.#take(header, next);
      const { crc32c } = this.#deps;
      const end = yield* segment === first && resumed
        ? segment.scanRest(crc32c, take)
        : segment.scan(crc32c, take);
      yield* this.#judge(segment, end, next);
      if (next !== undefined) yield* this.#snapshotAt(segment.nextOffset);
      kept.push(segment);
      keptBytes += segment.sizeBytes;
    }
    const end = kept.at(-1)?.nextOffset ?? ZERO;
    if (end < syncedEnd) {
      const message = `it ends at offset ${end}, yet all below ${syncedEnd} was synced`;
      throw corrupt(directory, message);
    }
    if (keptBytes < foundBytes) {
      const facts = { directory, fromBytes: foundBytes, toBytes: keptBytes, logEndOffset: end };
      logger.warn('truncated a torn tail', facts);
    }
    yield* this.#makeDurable(segments, kept, firstScanned, recoveryPoint);
    this.#dropMarks(end);
    logger.info('recovered', {
      directory,
      logEndOffset: end,
      recoveryPoint,
      segments: kept.length,
    });
    return this.#result(kept, end > ZERO, recoveryPoint);
  }

  /** Takes what lies below the latest recovery start in `segment`, the first that is read; false: all is read. */
  *#resume(segment: Segment, recoveryPoint: Offset): Steps<boolean> {
    const start = yield* this.#starts.load(recoveryPoint);
    // What is not sure yet may be cut, and something else appended in its place.
    this.#hasDropped = this.#starts.truncateTo(recoveryPoint);
    if (start === undefined || start.baseOffset !== segment.baseOffset) return false;
    if (!(yield* segment.resumeAt(start))) {
      const facts = { directory: this.#options.directory, offset: start.offset };
      this.#deps.logger.warn(
        'the log does not lead to its recovery start: it is read whole',
        facts,
      );
      return false;
    }
    this.#epochs = LeaderEpochCache.of(start.epochs);
    return true;
  }

  /** As when the segment was rolled: retention may take it before there is another. */
  *#snapshotAt(end: Offset): Steps<void> {
    if (end < this.#producersUpTo) return;
    const path = yield* this.#snapshots.writeSteps(end, this.#producers);
    if (path !== undefined) yield syncFileStep(this.#deps.disk, path);
  }

  /** Of segments that a truncation has cut: they must not come to count again. */
  #dropMarks(end: Offset): void {
    const { directory } = this.#options;
    const latest = this.#known.segment;
    for (const at of this.#syncedSegments) {
      if (at === latest && at <= end) continue;
      this.#deps.disk.remove(`${directory}/${offsetFileName(at, SYNCED_SUFFIX)}`);
    }
  }

  /** One segment ends where the next begins, or there is a gap in what was synced. */
  *#checkSealed(segments: readonly Segment[]): Steps<void> {
    for (const segment of segments) {
      if (yield* segment.cutToNext()) continue;
      const message = `its batches do not lead to offset ${segment.nextOffset}, where the next begins`;
      throw corrupt(segment.path(LOG_SUFFIX), message);
    }
  }

  /** Takes a batch that checks out and continues the log. */
  #take(header: BatchHeader, next: Segment | undefined): boolean {
    if (next !== undefined && header.nextOffset > next.baseOffset) return false;
    if (header.partitionLeaderEpoch < this.#epochs.latestEpoch) return false;
    this.#epochs.begin(header.partitionLeaderEpoch, header.baseOffset);
    if (header.baseOffset >= this.#producersUpTo) this.#producers.note(header);
    return true;
  }

  /** Throws unless the scan came to the end of the segment, or may be cut where it ended. */
  *#judge(segment: Segment, end: ScanEnd, next: Segment | undefined): Steps<void> {
    const fileBytes = segment.file().size();
    if (end.position === fileBytes) return;
    const expected = segment.nextOffset;
    // A truncation is followed by a new segment, and may itself be lost.
    if (expected === next?.baseOffset) return;
    const place = `${segment.path(LOG_SUFFIX)} at byte ${end.position} (offset ${expected})`;
    const what = end.error?.message ?? 'the batch there does not continue the log';
    const { syncedEnd } = this.#known;
    if (expected < syncedEnd) {
      throw corrupt(place, `${what}, yet all below offset ${syncedEnd} was synced`);
    }
    const { crc32c } = this.#deps;
    const bad = { file: segment.file(), position: end.position, fileBytes, expected, crc32c };
    if ((yield* judgeTailSteps(bad)) === 'damaged') {
      throw corrupt(place, `${what}, and no sector is missing as after a power cut`);
    }
  }

  /** Cuts what was not kept, and syncs what was and lies above the recovery point. */
  *#makeDurable(
    found: Segment[],
    kept: Segment[],
    firstScanned: number,
    recoveryPoint: Offset,
  ): Steps<void> {
    const { directory } = this.#options;
    const dropped = found.slice(kept.length).reverse();
    for (const segment of dropped) segment.markDeleted();
    let changed = dropped.length > 0;
    for (const segment of kept.slice(firstScanned)) {
      const isCut = segment.file().size() > segment.sizeBytes;
      if (isCut) segment.cutTail();
      if (isCut || segment.nextOffset > recoveryPoint) {
        yield syncStep(segment.file());
        changed = true;
      }
      if (segment === kept.at(-1)) continue;
      segment.seal();
      for (const suffix of [OFFSET_INDEX_SUFFIX, TIME_INDEX_SUFFIX]) {
        yield syncFileStep(this.#deps.disk, segment.path(suffix));
      }
    }
    if (changed) {
      // Nothing of the log was ever synced, as far as is known: its metadata was not either.
      const { disk } = this.#deps;
      if (recoveryPoint === ZERO) yield syncFileStep(disk, `${directory}/${METADATA_FILE}`);
      yield syncDirectoryStep(disk, directory);
      yield syncDirectoryStep(disk, parentOf(directory));
    } else if (this.#hasDropped || this.#snapshots.hasDropped) {
      yield syncDirectoryStep(this.#deps.disk, directory);
    }
    for (const segment of dropped) segment.purge();
  }

  // ----------------------------------------------------------------- what follows from the batches

  /** From the file, or where that is missing or damaged from the headers of `segments`. */
  *#loadEpochs(segments: readonly Segment[]): Steps<void> {
    const { directory } = this.#options;
    const path = `${directory}/${EPOCH_FILE}`;
    const isThere = this.#names.has(EPOCH_FILE);
    const bytes = isThere ? readHint(this.#deps.disk, path) : undefined;
    const decoded = bytes === undefined ? undefined : LeaderEpochCache.decode(bytes);
    if (decoded !== undefined) {
      this.#epochs = decoded;
      return;
    }
    if (isThere) this.#deps.logger.warn('rebuilding leader epochs', { directory });
    for (const segment of segments) {
      yield* walkHeaders(segment, 0, (header) => {
        const { partitionLeaderEpoch: epoch, baseOffset } = header;
        if (epoch < this.#epochs.latestEpoch) {
          throw corrupt(segment.path(LOG_SUFFIX), `the leader epoch falls at offset ${baseOffset}`);
        }
        this.#epochs.begin(epoch, baseOffset);
      });
    }
  }

  /** Where the log begins; what the checkpoint says is of before it was emptied. */
  #startOffset(segments: readonly Segment[]): Offset {
    const first = segments[0]?.baseOffset ?? ZERO;
    if (this.#truncation?.beginsAnew === true) return first;
    return Math.max(this.#options.logStartOffset ?? first, first) as Offset;
  }

  #segment(baseOffset: Offset): Segment {
    const { directory, config } = this.#options;
    const { disk, cache } = this.#deps;
    const { indexIntervalBytes } = config;
    return new Segment({ disk, directory, baseOffset, indexIntervalBytes, cache });
  }

  #result(segments: Segment[], isDurable: boolean, recoveryPoint: Offset): RecoveredLog {
    return {
      segments,
      epochs: this.#epochs,
      producers: this.#producers,
      snapshots: this.#snapshots,
      starts: this.#starts,
      isUnmade: false,
      isDurable,
      recoveryPoint,
      startOffset: this.#startOffset(segments),
      truncation: this.#truncation,
      syncedSegment: this.#known.segment,
    };
  }
}

const ascending = (a: number, b: number): number => a - b;

/**
 * The number of the segment with the last record below the recovery point. A segment that begins there
 * does not do: when the point was raised the one before may have been the only one, whose epochs no file
 * has to know (`epoch-file.ts`).
 */
export function firstToScan(bases: readonly Offset[], recoveryPoint: Offset): number {
  const mayBeginThere = isMutated('only-segment-not-read') ? 1 : 0;
  const last = bases.findLastIndex((base) => base < recoveryPoint + mayBeginThere);
  return Math.max(0, last);
}

/** Takes the segments before number `count` as they are; returns that one. */
function adoptSealed(segments: readonly Segment[], count: number): Segment {
  for (let at = 0; at < count; at++) {
    const next = segments[at + 1];
    if (next !== undefined) segments[at]?.adoptSealed(next.baseOffset);
  }
  const rest = segments[count];
  if (rest === undefined) throw new RangeError(`no segment ${count} of ${segments.length}`);
  return rest;
}
