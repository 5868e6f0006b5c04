/**
 * `relevo log dump` and `relevo log verify`: look into a data directory while no broker runs on it. Both
 * only read. `relevo log accept-loss` says that what a failed write has left of a log is to be used.
 */
import { existsSync } from 'node:fs';
import { basename, dirname, join, relative, resolve } from 'node:path';
import { Command } from 'commander';
import { messageOf } from '@relevo/base/errors';
import { DiskError } from '@relevo/base/ports';
import type { Disk } from '@relevo/base/ports';
import { acceptLoss } from '@relevo/log/accept-loss';
import type { AcceptedLoss } from '@relevo/log/accept-loss';
import { DURABLE_LOGS_FILE, lostLogs, notedLog } from '@relevo/log/durable-logs';
import { readYoungLogs } from '@relevo/log/young-logs';
import {
  CLEAN_SHUTDOWN_FILE,
  LOG_SUFFIX,
  QUORUM_DIRECTORY,
  RECOVERY_POINTS_FILE,
  offsetFileName,
} from '@relevo/log/file-names';
import { identifyPartition, isPartitionDirectory } from '@relevo/log/partition-directory';
import { LogError } from '@relevo/log/log-error';
import {
  hasFailedWrite,
  knownExtentOf,
  reportOfLost,
  segmentBases,
  storedBatches,
  verifyLog,
} from '@relevo/log/verify-log';
import type { Finding, LogReport, StoredBatch } from '@relevo/log/verify-log';
import { unpackRecords } from '@relevo/record/records';
import { codecs } from '@relevo/runtime/compression';
import { crc32c } from '@relevo/runtime/crc32c';
import { NodeDisk } from '@relevo/runtime/disk';
import {
  action,
  integerBetween,
  withOutputOptions,
  type CommandContext,
  type Host,
} from '../context.ts';
import { CommandError, EXIT, type ExitCode } from '../exit-codes.ts';
import { table } from '../output.ts';
import { recordJson } from '../record-format.ts';
import { bytesText, count, plural } from '../units.ts';

/** Directories below the one that is named, in which logs are looked for. */
const DEPTH_MAX = 3;
/** What the records of one batch may unpack to. */
const UNPACKED_BYTES_MAX = 256 * 2 ** 20;

export function logCommand(host: Host): Command {
  const log = new Command('log').description(
    'Look into the logs of a data directory, and mend them, while no broker runs on it.',
  );
  withOutputOptions(
    log
      .command('dump <dir>')
      .description('show the batches of a log, or of all logs in a data directory')
      .option('-r, --records', 'show the records too')
      .option('--from <offset>', 'begin there', integerBetween(0, Number.MAX_SAFE_INTEGER), 0)
      .option('-n, --max <n>', 'at most so many batches per log', integerBetween(1, 2 ** 31))
      .action(action(host, dump)),
  );
  withOutputOptions(
    log
      .command('verify <dir>')
      .description(
        'check every checksum, offset, index and epoch; ends with 1 where there is damage',
      )
      .action(action(host, verify)),
  );
  withOutputOptions(
    log
      .command('accept-loss <dir> <log...>')
      .description(
        'accept that logs of which a write or sync has failed may lack records, where no other replica has them',
      )
      .action(action(host, accept)),
  );
  return log;
}

// ------------------------------------------------------------------------------------ accept-loss

/** `logs`: names such as orders-0. Nothing is done for any of them where one is not known. */
async function accept(
  context: CommandContext,
  directory: string,
  logs: readonly string[],
): Promise<ExitCode> {
  const disk = new NodeDisk();
  const root = resolve(directory);
  if (!existsSync(root)) throw new CommandError(`${directory} does not exist`);
  const done: AcceptedLoss[] = [];
  let lock: { release(): void } | undefined;
  try {
    lock = disk.lock(root);
    for (const name of logs) {
      done.push(acceptLoss(disk, root, name));
      await new Promise((turn) => setImmediate(turn));
      context.signal.throwIfAborted();
    }
  } catch (error) {
    if (!(error instanceof LogError || error instanceof DiskError)) throw error;
    throw new CommandError(error.message);
  } finally {
    lock?.release();
  }
  context.out.result({ accepted: done }, () =>
    [
      ...done.map(({ name, bytes }) => `${name}: ${bytesText(bytes)} written anew`),
      'these logs are opened at the next start of the broker; run relevo log verify before, to see ' +
        'whether what they hold is whole',
    ].join('\n'),
  );
  return EXIT.ok;
}

// ---------------------------------------------------------------------------------------- finding

interface Found {
  /** Their directories. */
  readonly logs: readonly string[];
  /** Of logs that should be there and are not. */
  readonly lost: readonly LogReport[];
}

/** The logs in `directory`: itself, or those in it or below it. */
function findLogs(disk: Disk, directory: string): Found {
  const root = resolve(directory);
  if (!existsSync(root)) throw new CommandError(`${directory} does not exist`);
  const found: string[] = [];
  const lost: LogReport[] = [];
  const look = (path: string, depth: number): void => {
    const entries = disk.list(path);
    const name = basename(path);
    const isNamedSo = name === QUORUM_DIRECTORY || isPartitionDirectory(name);
    // `broker-1`, which `relevo start` makes, could be the name of a partition too.
    if (isNamedSo && (segmentBases(disk, path).length > 0 || entries.some(isMetadata))) {
      found.push(path);
      return;
    }
    if (entries.some(isKeptForAllLogs)) {
      lost.push(
        ...lostLogs(disk, path, readYoungLogs(disk, path)).map((each) => reportOfLost(path, each)),
      );
    }
    if (depth === DEPTH_MAX) return;
    for (const entry of entries) if (entry.directory) look(join(path, entry.name), depth + 1);
  };
  try {
    look(root, 0);
  } catch (error) {
    throw new CommandError(`cannot look into ${directory}: ${messageOf(error)}`);
  }
  if (found.length + lost.length > 0) return { logs: found, lost };
  throw new CommandError(
    `there is no log in ${directory}; give a data directory, or a partition's such as data/orders-0`,
  );
}

const isKeptForAllLogs = ({ name }: { readonly name: string }): boolean =>
  name === DURABLE_LOGS_FILE || name === RECOVERY_POINTS_FILE;

const isMetadata = ({ name }: { readonly name: string }): boolean => name === 'partition.metadata';

// ----------------------------------------------------------------------------------------- verify

async function verify(context: CommandContext, directory: string): Promise<ExitCode> {
  const disk = new NodeDisk();
  const { out } = context;
  const { logs, lost } = findLogs(disk, directory);
  warnOfBroker(context, logs);
  const reports: LogReport[] = [...lost];
  for (const path of logs) {
    out.progress(`${reports.length - lost.length} of ${plural(logs.length, 'log')}: ${path}`);
    const known = knownExtentOf(disk, path);
    const noted = notedLog(disk, path);
    const facts = {
      hasFailedWrite: hasFailedWrite(disk, path),
      cleanShutdown: existsSync(join(path, '..', CLEAN_SHUTDOWN_FILE)),
    };
    reports.push(verifyLog({ directory: path, known, noted, ...facts }, { disk, crc32c }));
    // Lets Ctrl-C through.
    await new Promise((turn) => setImmediate(turn));
    context.signal.throwIfAborted();
  }
  out.progressDone();
  const damages = reports.reduce((sum, report) => sum + report.damages, 0);
  out.result({ damages, logs: reports }, () => verifyText(reports, directory));
  return damages === 0 ? EXIT.ok : EXIT.failed;
}

/** A broker that runs writes while we read: what is half written would pass for damage. */
function warnOfBroker({ out }: CommandContext, logs: readonly string[]): void {
  const locked = logs.map((path) => join(path, '..', '.lock')).find((path) => existsSync(path));
  if (locked === undefined) return;
  out.note(`${locked} is there: if a broker runs on this directory, stop it first`);
}

function verifyText(reports: readonly LogReport[], directory: string): string {
  const rows = reports.map((report) => [
    nameIn(directory, report.directory),
    `${report.startOffset} to ${report.endOffset}`,
    report.segments,
    count(report.batches),
    count(report.records),
    bytesText(report.bytes),
    report.latestEpoch,
    report.damages === 0 ? 'ok' : plural(report.damages, 'damage'),
  ]);
  const head = ['log', 'offsets', 'segments', 'batches', 'records', 'size', 'epoch', 'state'];
  const findings = reports.flatMap((report) => [
    ...report.findings.map(findingText),
    ...moreText(report),
  ]);
  const damages = reports.reduce((sum, report) => sum + report.damages, 0);
  const verdict =
    damages === 0
      ? `${plural(reports.length, 'log')} in order`
      : `${plural(damages, 'damage')} found; start the broker: it copies a damaged log anew from another ` +
        'in-sync replica. Where there is none, the partition is offline, and nothing more is lost, until ' +
        'the directory, or a backup of it, is put back, or, after a failed write, until you accept the ' +
        'loss with relevo log accept-loss';
  return [table(head, rows), ...findings, verdict].join('\n');
}

const findingText = ({ severity, path, position, message }: Finding): string =>
  `${severity}: ${path}${position === undefined ? '' : ` at byte ${position}`}: ${message}`;

function moreText(report: LogReport): string[] {
  const listed = report.findings.filter(({ severity }) => severity === 'damage').length;
  const more = report.damages - listed;
  return more > 0 ? [`damage: ${report.directory}: and ${count(more)} more`] : [];
}

const nameIn = (directory: string, path: string): string =>
  relative(resolve(directory), path) || basename(path);

// ------------------------------------------------------------------------------------------- dump

interface DumpOptions {
  readonly records?: boolean;
  readonly from: number;
  readonly max?: number;
}

async function dump(
  context: CommandContext,
  directory: string,
  options: DumpOptions,
): Promise<ExitCode> {
  const disk = new NodeDisk();
  const { out } = context;
  let damages = 0;
  for (const path of findLogs(disk, directory).logs) {
    const log = nameIn(directory, path);
    if (!out.json) out.line(`log ${log}`);
    let left = options.max ?? Infinity;
    for (const item of batchesOf(disk, path, options.from)) {
      if (left === 0 || !out.open) break;
      context.signal.throwIfAborted();
      left--;
      if ('header' in item) {
        const records = options.records === true ? await recordsOf(disk, path, item) : undefined;
        showBatch(context, log, item, records);
      } else showEnd(context, log, item);
      if ('header' in item ? item.error !== undefined : true) damages++;
    }
  }
  return damages === 0 ? EXIT.ok : EXIT.failed;
}

interface BadEnd {
  readonly path: string;
  readonly position: number;
  readonly message: string;
}

/** The batches of a log from the one with `from` on, and where a segment ends before its file does. */
function* batchesOf(disk: Disk, path: string, from: number): Generator<StoredBatch | BadEnd> {
  const bases = segmentBases(disk, path);
  const first = Math.max(
    0,
    bases.findLastIndex((base) => base <= from),
  );
  for (const base of bases.slice(first)) {
    const file = disk.open(`${path}/${offsetFileName(base, LOG_SUFFIX)}`, 'readOnly');
    try {
      const batches = storedBatches(file, crc32c);
      let next = batches.next();
      for (; next.done !== true; next = batches.next()) {
        if (next.value.header.nextOffset > from) yield next.value;
      }
      const { position, error } = next.value;
      if (error !== undefined) yield { path: file.path, position, message: error.message };
    } finally {
      file.close();
    }
  }
}

type JsonRecord = Readonly<Record<string, unknown>>;

/** `records`: undefined where they are not asked for. */
function showBatch(
  { out }: CommandContext,
  log: string,
  batch: StoredBatch,
  records: readonly JsonRecord[] | undefined,
): void {
  const { header, error } = batch;
  if (out.json) {
    out.line(JSON.stringify({ ...batchJson(log, batch), ...(records && { records }) }));
    return;
  }
  const producer =
    header.producerId < 0
      ? ''
      : `  producer ${header.producerId}/${header.producerEpoch} sequence ${header.baseSequence}`;
  const kinds = [
    header.isControl ? 'control' : '',
    header.isTransactional ? 'transactional' : '',
    header.compression === 'none' ? '' : header.compression,
  ].filter((kind) => kind !== '');
  out.line(
    `offsets ${header.baseOffset} to ${header.lastOffset}  ${plural(header.recordCount, 'record')}  ` +
      `epoch ${header.partitionLeaderEpoch}  time ${header.maxTimestamp}` +
      `${producer}${kinds.map((kind) => `  ${kind}`).join('')}  ` +
      `${header.sizeInBytes} bytes at ${batch.position} of ${basename(batch.path)}  ` +
      (error === undefined ? 'crc ok' : `DAMAGED: ${error.message}`),
  );
  for (const record of records ?? []) out.line(`  ${JSON.stringify(record)}`);
}

const batchJson = (log: string, batch: StoredBatch): Readonly<Record<string, unknown>> => {
  const { header, error } = batch;
  return {
    log,
    file: basename(batch.path),
    position: batch.position,
    sizeBytes: header.sizeInBytes,
    baseOffset: header.baseOffset,
    lastOffset: header.lastOffset,
    recordCount: header.recordCount,
    leaderEpoch: header.partitionLeaderEpoch,
    baseTimestampMs: header.baseTimestamp,
    maxTimestampMs: header.maxTimestamp,
    timestampType: header.timestampType,
    compression: header.compression,
    producerId: header.producerId,
    producerEpoch: header.producerEpoch,
    baseSequence: header.baseSequence,
    isTransactional: header.isTransactional,
    isControl: header.isControl,
    crc: header.crc,
    error: error?.message ?? null,
  };
};

/** None of a batch that is damaged. */
async function recordsOf(
  disk: Disk,
  path: string,
  { bytes, error }: StoredBatch,
): Promise<JsonRecord[]> {
  if (error !== undefined) return [];
  const name = basename(path);
  const found = identifyPartition(disk, dirname(path), name);
  const { topic, partition } = found ?? { topic: name, partition: 0 };
  const records = await unpackRecords(bytes, 0, codecs, UNPACKED_BYTES_MAX);
  return records.map(({ offset, timestamp, key, value, headers }) =>
    recordJson({ topic, partition, offset, timestamp, key, value, headers }),
  );
}

function showEnd({ out }: CommandContext, log: string, end: BadEnd): void {
  const { path, position, message } = end;
  if (out.json) out.line(JSON.stringify({ log, file: basename(path), position, error: message }));
  else out.line(`${basename(path)} holds no batch from byte ${position} on: ${message}`);
}
