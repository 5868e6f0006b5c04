/**
 * One log in its data directory, on a disk that fails: restarts, kills and power cuts, retention and
 * truncations, failed syncs, and injuries of any file (a flipped bit, a zeroed sector, a shorter file, none,
 * an older one). No loss passes in silence: a log that opens has what it must have, as it was, or says
 * at the latest when it is read that it is damaged; and one that was not injured is never called damaged.
 *
 * What was appended since the last checkpoint may be lost with an injury unnoticed: it looks like what a
 * power cut takes (packages/log/README.md).
 */
import { brokerId, uuid } from '@relevo/base/ids';
import type { LeaderEpoch, Offset } from '@relevo/base/ids';
import type { Logger } from '@relevo/base/ports';
import { utf8Decode, utf8Encode } from '@relevo/base/bytes';
import { DEFAULT_LOG_CONFIG } from '@relevo/log/log-config';
import { LogDirectory } from '@relevo/log/log-directory';
import { LogError } from '@relevo/log/log-error';
import type { PartitionLog } from '@relevo/log/partition-log';
import { BatchBuilder, NO_HEADERS } from '@relevo/record/batch-builder';
import { nextOffsetAt, sizeInBytesAt } from '@relevo/record/batch-header';
import { crc32c } from '@relevo/record/crc32c';
import { decodeRecords } from '@relevo/record/records';
import type { RunFigures, RunOptions } from '../failover-run.ts';
import { Prng } from '../prng.ts';
import type { EventOwner } from '../scheduler.ts';
import { SimulatedDisk } from '../simulated-disk.ts';
import { SimulationFailure } from '../world.ts';

const ROOT = '/data';
const NAME = 'orders-0';
const LIVES = 12;
const STEPS_MAX = 25;
const TOPIC_ID = uuid('AAAAAAAAAAAAAAAAAAAAAA');
const NOW_MS = 1_750_000_000_000;
const SECTOR_BYTES = 512;

export async function logInjuriesRun(
  seed: number | string,
  options: RunOptions = {},
): Promise<RunFigures> {
  const run = new InjuriesRun(seed, options);
  try {
    await run.run();
  } catch (error) {
    throw new SimulationFailure(error, {
      seed: String(seed),
      timeMs: run.events,
      transcript: run.transcript,
    });
  }
  return run.figures();
}

interface Life {
  readonly owner: EventOwner;
  readonly directory: LogDirectory;
  readonly log: PartitionLog;
}

class InjuriesRun {
  readonly transcript: string[] = [];
  events = 0;
  readonly #prng: Prng;
  readonly #disk: SimulatedDisk;
  /** In larger ones a recovery begins to read in the middle. */
  readonly #segmentBytes: number;
  readonly #options: RunOptions;
  /** Values by offset, as they are to be read. */
  #values: Map<number, string> = new Map();
  /** Told as synced. */
  #synced = 0;
  /** Known to the checkpoints. */
  #checkpointed = 0;
  /** Where the log begins at the latest, and at the earliest that a checkpoint knows. */
  #start = 0;
  #startAtLeast = 0;
  /** The log was emptied, and no checkpoint says yet where it begins. */
  #isAnew = false;
  #epoch = 0;
  #salt = 0;
  #acknowledged = 0;
  #injured: string | undefined;
  /** Since the log was last begun anew. */
  #wasInjured = false;
  #writeFailed = false;
  /** Older contents by path. */
  readonly #older: Map<string, Uint8Array> = new Map();
  readonly #counts = { injuries: 0, noticed: 0, failedWrites: 0, powerCuts: 0 };

  constructor(seed: number | string, options: RunOptions) {
    this.#prng = new Prng(`log-injuries/${seed}`);
    this.#options = options;
    this.#segmentBytes = this.#prng.pick([900, 900, 12_000]);
    this.#disk = new SimulatedDisk({ prng: this.#prng.split('disk') });
    this.#disk.port().makeDirectory(ROOT);
    this.#disk.port().syncDirectoryNow('/');
  }

  figures(): RunFigures {
    const { injuries, noticed, failedWrites, powerCuts } = this.#counts;
    return {
      acknowledged: this.#acknowledged,
      // For want of names of their own: injuries, those that were noticed, and failures of the disk.
      unknown: injuries,
      failed: noticed,
      failoverMs: [],
      wholeMs: [],
      elections: failedWrites + powerCuts,
      events: this.events,
      virtualMs: 0,
      fingerprint: `${crc32c(utf8Encode(this.transcript.join('\n'))).toString(16)}-${this.#prng.integer(0, 2 ** 30)}`,
    };
  }

  async run(): Promise<void> {
    for (let life = 0; life < LIVES; life++) {
      const started = await this.#boot();
      if (started === undefined) {
        // As the broker does with the log of a peer at hand: it is set aside, and begun anew.
        await this.#beginAnew();
        continue;
      }
      await this.#live(started);
    }
  }

  // --------------------------------------------------------------------------------- a life

  /** Undefined: the log was found damaged, as it may be. */
  async #boot(): Promise<Life | undefined> {
    const owner: EventOwner = { name: 'b', host: 'b', alive: true, paused: false, held: [] };
    try {
      const directory = this.#openDirectory(owner);
      const log = directory.openLog({
        topic: 'orders',
        partition: 0,
        topicId: TOPIC_ID,
        config: {
          ...DEFAULT_LOG_CONFIG,
          segmentBytes: this.#segmentBytes,
          indexIntervalBytes: 150,
          retentionMs: -1,
        },
        nowMs: NOW_MS,
      });
      const life = { owner, directory, log };
      await this.#checkRestart(life);
      return life;
    } catch (error) {
      await this.#end(owner);
      if (!(error instanceof LogError)) throw error;
      this.#noticed(error);
      return undefined;
    }
  }

  #noticed(error: LogError): void {
    this.#note(`noticed: ${error.message}`);
    if (this.#injured === undefined && !this.#writeFailed) {
      throw new Error(`nothing was injured, yet: ${error.message}`);
    }
    this.#counts.noticed++;
  }

  #openDirectory(owner: EventOwner): LogDirectory {
    return LogDirectory.open(
      { root: ROOT, brokerId: brokerId(1), clusterId: 'one', newDirectoryId: () => TOPIC_ID },
      {
        disk: this.#disk.port(owner),
        crc32c,
        logger: this.#logger(),
        clock: { monotonicMs: () => 0 },
      },
    );
  }

  async #live({ owner, directory, log }: Life): Promise<void> {
    const steps = this.#prng.integer(1, STEPS_MAX);
    for (let step = 0; step < steps && log.state === 'online'; step++) {
      this.events++;
      const before = log.recoveryPoint;
      await this.#step(directory, log);
      // What was written for a recovery counts the most where nothing was synced since.
      if (log.recoveryPoint > before && this.#prng.chance(0.3)) break;
    }
    await this.#stop({ owner, directory, log });
  }

  async #step(directory: LogDirectory, log: PartitionLog): Promise<void> {
    const kind = this.#prng.pick([
      ...Array<'append'>(10).fill('append'),
      ...Array<'sync'>(5).fill('sync'),
      'checkpoint',
      'checkpoint',
      'retain',
      'truncate',
      'settle',
      'restart',
      'failSync',
    ] as const);
    switch (kind) {
      case 'append':
        return this.#append(log);
      case 'sync':
        await log.sync();
        this.#syncedTo(log.syncedEndOffset);
        return;
      case 'checkpoint':
        return await this.#checkpoint(directory, log);
      case 'retain': {
        const most = Math.max(log.logStartOffset, this.#checkpointed);
        const to = this.#prng.integer(log.logStartOffset, most);
        this.#note(`delete records before ${to}`);
        if (to > log.logEndOffset) return;
        log.deleteRecordsBefore(to as Offset);
        log.applyRetention(NOW_MS, this.#checkpointed as Offset);
        this.#start = log.logStartOffset;
        await new Promise(setImmediate);
        return;
      }
      case 'truncate':
        return this.#truncate(log);
      case 'settle':
        await log.settle();
        return;
      case 'restart':
        if (!this.#prng.chance(0.2)) return;
        return this.#restart(log);
      case 'failSync':
        if (!this.#prng.chance(0.15)) return;
        return await this.#failSync(directory, log);
    }
  }

  #append(log: PartitionLog): void {
    const builder = new BatchBuilder();
    const base = log.logEndOffset;
    const count = this.#prng.integer(1, 3);
    for (let at = 0; at < count; at++) {
      const value = `${this.#salt++}/`.repeat(this.#prng.integer(1, 40));
      this.#values.set(base + at, value);
      builder.append(null, utf8Encode(value), NO_HEADERS, NOW_MS + this.#salt);
    }
    log.appendAsLeader(builder.build({}, crc32c), this.#epoch as LeaderEpoch, NOW_MS);
    this.#note(`append ${count} at ${base}`);
  }

  async #checkpoint(directory: LogDirectory, log: PartitionLog): Promise<void> {
    // Often something lies above the high watermark that is not synced, and is not by this.
    const { syncedEndOffset, recoveryPoint, logEndOffset } = log;
    const isBehind = syncedEndOffset > recoveryPoint && this.#prng.chance(0.5);
    const highWatermark = isBehind ? syncedEndOffset : logEndOffset;
    // What a power cut may still take was never old.
    if (!isBehind) this.#keepOlder();
    await directory.checkpoint(new Map([[NAME, highWatermark]]));
    this.#syncedTo(log.syncedEndOffset);
    this.#checkpointed = log.recoveryPoint;
    this.#startAtLeast = log.logStartOffset;
    this.#isAnew = false;
    this.#note(`checkpoint at ${this.#checkpointed}, start ${this.#startAtLeast}`);
  }

  #syncedTo(end: number): void {
    this.#acknowledged += Math.max(0, end - this.#synced);
    this.#synced = end;
    this.#note(`synced to ${end}`);
  }

  #truncate(log: PartitionLog): void {
    const sure = Math.max(log.logStartOffset, this.#checkpointed);
    const from = this.#prng.chance(0.8) ? sure : log.logStartOffset;
    if (from > log.logEndOffset) return;
    const to = this.#prng.integer(from, log.logEndOffset) as Offset;
    let end: number;
    try {
      end = log.truncateTo(to);
    } catch (error) {
      // What lies below the log's start is not read when it opens, and may be read now.
      if (!(error instanceof LogError) || !this.#wasInjured) throw error;
      this.#writeFailed = true;
      this.#noticed(error);
      return;
    }
    this.#note(`truncate to ${end}`);
    // An older copy of one file, from before a truncation, cannot be told from the right one.
    this.#older.clear();
    this.#cut(end);
    this.#epoch++;
  }

  #restart(log: PartitionLog): void {
    const at = log.logEndOffset + this.#prng.integer(0, 20);
    log.truncateFullyAndStartAt(at as Offset);
    this.#note(`restart at ${at}`);
    this.#values.clear();
    this.#synced = at;
    // No record was synced since: without its metadata the log is begun anew.
    this.#checkpointed = 0;
    this.#start = at;
    this.#startAtLeast = 0;
    this.#isAnew = true;
    this.#epoch++;
  }

  #cut(end: number): void {
    for (const offset of this.#values.keys()) if (offset >= end) this.#values.delete(offset);
    this.#synced = Math.min(this.#synced, end);
    this.#checkpointed = Math.min(this.#checkpointed, end);
  }

  async #failSync(directory: LogDirectory, log: PartitionLog): Promise<void> {
    this.#append(log);
    this.#disk.fail({ operation: 'datasync', path: /(orders-0.*\.log|young-logs\.\d+)$/ });
    const failed = await log.sync().then(
      () => false,
      () => true,
    );
    this.#disk.clearFaults();
    this.#note(`a sync that was to fail: ${failed ? 'failed' : 'did not'}`);
    if (!failed) return;
    this.#counts.failedWrites++;
    this.#writeFailed = true;
    await directory.checkpoint(new Map());
  }

  // ------------------------------------------------------------------------------- its end

  async #stop({ owner, directory, log }: Life): Promise<void> {
    const how = this.#prng.pick(['in order', 'killed', 'power cut', 'power cut'] as const);
    this.#note(`stop: ${how}`);
    if (how === 'in order') {
      const end = log.logEndOffset;
      await directory.close(new Map([[NAME, end]]));
      if (log.state === 'closed') {
        this.#syncedTo(end);
        this.#checkpointed = end;
        this.#startAtLeast = log.logStartOffset;
        this.#isAnew = false;
      }
    }
    await this.#end(owner);
    if (how === 'power cut') {
      this.#counts.powerCuts++;
      this.#note(`power cut: ${this.#disk.crash()}`);
    }
    await new Promise(setImmediate);
    if (!this.#writeFailed && this.#prng.chance(0.4)) this.#injure();
  }

  async #end(owner: EventOwner): Promise<void> {
    // What is under way on a disk without delays is through by then.
    await new Promise(setImmediate);
    owner.alive = false;
    this.#disk.releaseLocks(owner);
  }

  #files(): string[] {
    const port = this.#disk.port();
    const found: string[] = [];
    for (const { name, directory } of port.list(ROOT)) {
      if (!directory) found.push(`${ROOT}/${name}`);
    }
    const log = `${ROOT}/${NAME}`;
    if (port.exists(log)) for (const { name } of port.list(log)) found.push(`${log}/${name}`);
    return found.filter((path) => !path.endsWith('/.lock'));
  }

  #keepOlder(): void {
    if (!this.#prng.chance(0.3)) return;
    for (const path of this.#files()) this.#older.set(path, this.#disk.contents(path));
  }

  #injure(): void {
    const path = this.#prng.pick(this.#files());
    const bytes = this.#disk.contents(path);
    const older = this.#older.get(path);
    const kind = this.#prng.pick(['flip', 'zero', 'shorten', 'remove', 'older'] as const);
    this.#note(`${kind} ${path} of ${bytes.length} bytes`);
    if (kind === 'remove') this.#disk.port().remove(path);
    else if (kind === 'older') {
      if (older === undefined) return;
      this.#put(path, older);
    } else {
      if (bytes.length === 0) return;
      const at = this.#prng.integer(0, bytes.length - 1);
      const changed = bytes.slice();
      if (kind === 'flip') changed[at] = (changed[at] ?? 0) ^ (1 << this.#prng.integer(0, 7));
      else if (kind === 'zero') {
        const from = Math.floor(at / SECTOR_BYTES) * SECTOR_BYTES;
        changed.fill(0, from, from + SECTOR_BYTES);
      }
      this.#put(path, kind === 'shorten' ? changed.subarray(0, at) : changed);
    }
    this.#injured = path;
    this.#wasInjured = true;
    this.#counts.injuries++;
  }

  #put(path: string, bytes: Uint8Array): void {
    const port = this.#disk.port();
    const file = port.open(path, 'create');
    file.truncate(0);
    file.write(bytes, 0);
    file.datasyncNow();
    file.close();
    port.syncDirectoryNow(path.slice(0, path.lastIndexOf('/')));
  }

  // ------------------------------------------------------------------------------- checking

  /** Throws a LogError where the log finds the damage only now, and an Error where nothing does. */
  async #checkRestart({ directory, log }: Life): Promise<void> {
    const { logStartOffset: start, logEndOffset: end } = log;
    this.#note(`opened: ${start} to ${end}`);
    const must = this.#injured === undefined ? this.#synced : this.#checkpointed;
    // A power cut may leave nothing at all of a young log that was never synced.
    if (this.#writeFailed && Math.max(end, this.#synced) > 0) {
      throw new Error('a log is trusted of which a sync has failed');
    }
    this.#writeFailed = false;
    const found = await valuesOf(log);
    if (end < must) throw new Error(`it ends at ${end}, though ${must} was synced`);
    const isKnown = this.#injured === undefined || !this.#isAnew;
    if (isKnown && start > Math.max(this.#start, this.#startAtLeast)) {
      throw new Error(`it begins at ${start}, though all from ${this.#start} on was kept`);
    }
    for (let offset = Math.max(start, this.#start); offset < Math.min(end, must); offset++) {
      const wanted = this.#values.get(offset);
      if (wanted !== undefined && found.get(offset) !== wanted) {
        throw new Error(`offset ${offset} has other bytes than were written`);
      }
    }
    this.#injured = undefined;
    this.#values = found;
    this.#synced = end;
    this.#checkpointed = Math.min(this.#checkpointed, end);
    this.#start = start;
    this.#epoch = Math.max(this.#epoch, log.latestEpoch) + 1;
    // A notice that comes late would be taken for one of the next injury.
    await this.#checkpoint(directory, log);
  }

  async #beginAnew(): Promise<void> {
    const port = this.#disk.port();
    for (const { name } of port.list(ROOT)) {
      if (name === NAME) port.removeTree(`${ROOT}/${name}`);
      else port.remove(`${ROOT}/${name}`);
    }
    await port.syncDirectory(ROOT);
    this.#values.clear();
    this.#older.clear();
    this.#synced = 0;
    this.#checkpointed = 0;
    this.#start = 0;
    this.#startAtLeast = 0;
    this.#isAnew = false;
    this.#injured = undefined;
    this.#wasInjured = false;
    this.#writeFailed = false;
    this.#note('begun anew');
  }

  #note(text: string): void {
    this.transcript.push(text);
    this.#tell('info', text, {});
  }

  #tell(level: 'debug' | 'info' | 'warn' | 'error', event: string, fields: object): void {
    this.#options.onLog?.({
      timeMs: this.events,
      process: 'log',
      level,
      event,
      fields: { ...fields },
    });
  }

  #logger(): Logger {
    const write =
      (level: 'debug' | 'info' | 'warn' | 'error') =>
      (event: string, fields = {}): void =>
        this.#tell(level, event, fields);
    return {
      debug: write('debug'),
      info: write('info'),
      warn: write('warn'),
      error: write('error'),
      child: () => this.#logger(),
    };
  }
}

async function valuesOf(log: PartitionLog): Promise<Map<number, string>> {
  const values = new Map<number, string>();
  let next = log.logStartOffset;
  while (next < log.logEndOffset) {
    const bytes = await log.read(next, 4096, log.logEndOffset, true);
    if (bytes.length === 0)
      throw new Error(`offset ${next} of the log cannot be read, and nothing says why`);
    for (let at = 0; at < bytes.length; at += sizeInBytesAt(bytes, at)) {
      const batch = bytes.subarray(at, at + sizeInBytesAt(bytes, at));
      for (const { offset, value } of decodeRecords(batch)) {
        values.set(offset, value === null ? '' : utf8Decode(value));
      }
      next = nextOffsetAt(bytes, at);
    }
  }
  return values;
}
