/** `relevo produce`: a record for each line of a file or of stdin. */
import { createReadStream } from 'node:fs';
import type { Readable } from 'node:stream';
import { Command, Option } from 'commander';
import {
  action,
  integerBetween,
  withClusterOptions,
  type CommandContext,
  type Host,
} from '../context.ts';
import { unescapeBytes } from '../escapes.ts';
import { CommandError, EXIT, usageError, type ExitCode } from '../exit-codes.ts';
import { LineSplitter, indexOfBytes } from '../lines.ts';
import { Progress } from '../progress.ts';
import { bytesText, count, durationText, plural } from '../units.ts';

const PROGRESS_EVERY_MS = 250;
/** Bounds what is in flight between reading and acknowledgement. */
const UNACKED_BYTES_MAX = 32 * 1024 * 1024;
const UNACKED_RECORDS_MAX = 100_000;
const READ_CHUNK_BYTES = 256 * 1024;

const COMPRESSIONS = ['none', 'gzip', 'snappy', 'lz4', 'zstd'] as const;
type Compression = (typeof COMPRESSIONS)[number];

interface ProduceOptions {
  readonly file?: string;
  readonly keySeparator?: string;
  readonly partition?: number;
  readonly header: readonly (readonly [string, string])[];
  readonly compression: Compression;
  readonly acks: 'all' | '1' | '0';
  readonly linger: number;
}

export function produceCommand(host: Host): Command {
  return withClusterOptions(
    new Command('produce')
      .description(
        'Write a record for each line of a file or of stdin. Lines end with LF, which is left away; ' +
          'all other bytes are kept as they are.',
      )
      .argument('<topic>', 'topic to write to')
      .option('-f, --file <file>', 'read this instead of stdin')
      .option('-K, --key-separator <text>', 'what stands between key and value (\\t, \\x00 … work)')
      .option('-p, --partition <n>', 'write to this partition only', integerBetween(0, 2 ** 31 - 1))
      .option('-H, --header <key=value>', 'a header of every record; may be repeated', header, [])
      .addOption(
        new Option('--compression <codec>', 'of batches').choices(COMPRESSIONS).default('none'),
      )
      .addOption(
        new Option('--acks <n>', 'who must have a record')
          .choices(['all', '1', '0'])
          .default('all'),
      )
      .option('--linger <ms>', 'how long a batch waits to be filled', integerBetween(0, 60_000), 5)
      .action(action(host, produce)),
  );
}

function header(
  text: string,
  earlier: readonly (readonly [string, string])[],
): readonly (readonly [string, string])[] {
  const at = text.indexOf('=');
  if (at <= 0) throw usageError(`--header ${text}: it must be KEY=VALUE`);
  return [...earlier, [text.slice(0, at), text.slice(at + 1)]];
}

interface KeyAndValue {
  readonly key?: Uint8Array;
  readonly value: Uint8Array;
}

/** Cuts a line into key and value at the first separator. */
export function keyAndValue(
  line: Uint8Array,
  separator: Uint8Array | undefined,
  lineNumber: number,
): KeyAndValue {
  if (separator === undefined) return { value: line };
  const at = indexOfBytes(line, separator);
  if (at < 0) {
    throw new CommandError(
      `line ${lineNumber} has no key separator, so it has no key; every line needs one with ` +
        '--key-separator',
    );
  }
  return { key: line.subarray(0, at), value: line.subarray(at + separator.length) };
}

async function produce(
  context: CommandContext,
  topic: string,
  options: ProduceOptions,
): Promise<ExitCode> {
  const separator =
    options.keySeparator === undefined ? undefined : unescapeBytes(options.keySeparator);
  if (separator?.length === 0) throw usageError('--key-separator must not be empty');
  const input = openInput(context, options.file);
  const relevo = await context.connect();
  await relevo.admin.describeTopic(topic);
  const producer = relevo.producer({
    acks: acksOf(options.acks),
    compression: options.compression,
    lingerMs: options.linger,
  });
  const tally = new Tally();
  const headers = Object.fromEntries(options.header);
  const progress = new Progress(PROGRESS_EVERY_MS, (ms) =>
    context.out.progress(tally.progressText(ms)),
  ).start();
  const splitter = new LineSplitter();
  const send = (line: Uint8Array): void => {
    const record = keyAndValue(line, separator, splitter.lines);
    tally.sent(line.length);
    producer
      .send({
        topic,
        ...record,
        headers,
        ...(options.partition !== undefined && { partition: options.partition }),
      })
      .then(
        ({ partition, offset }) => tally.acked(line.length, partition, offset),
        (error: unknown) => tally.failed(line.length, error),
      );
  };
  try {
    for await (const chunk of input) {
      for (const line of splitter.push(chunk)) send(line);
      await tally.room();
      if (context.signal.aborted || tally.error !== undefined) break;
    }
    for (const line of splitter.end()) send(line);
    await producer.flush();
    await tally.settled();
  } finally {
    progress.stop();
    context.out.progressDone();
    await producer.close();
  }
  return report(context, topic, tally, progress.elapsedMs);
}

const acksOf = (text: ProduceOptions['acks']): 'all' | 1 | 0 => {
  if (text === 'all') return 'all';
  return text === '1' ? 1 : 0;
};

function openInput({ host, out }: CommandContext, file: string | undefined): Readable {
  if (file !== undefined && file !== '-') {
    return createReadStream(file, { highWaterMark: READ_CHUNK_BYTES });
  }
  if (host.stdin.isTTY === true) out.note('a line a record; Ctrl-D ends');
  return host.stdin;
}

function report(context: CommandContext, topic: string, tally: Tally, elapsedMs: number): ExitCode {
  const { records, bytes, error } = tally;
  const seconds = elapsedMs / 1000;
  const partitions = tally.partitions();
  context.out.result(
    {
      topic,
      records,
      bytes,
      elapsedMs: Math.round(elapsedMs),
      recordsPerS: records / seconds,
      partitions,
    },
    () =>
      `${plural(records, 'record')} (${bytesText(bytes)}) acknowledged by ${topic} in ` +
      `${durationText(elapsedMs)}, ${count(records / seconds)} records/s`,
  );
  if (error === undefined) return EXIT.ok;
  context.out.note(
    `${plural(tally.failures, 'record')} after ${plural(records, 'acknowledged one')} failed; the first ` +
      'failure says:',
  );
  throw error;
}

/** What has been sent, and what became of it. */
class Tally {
  records = 0;
  bytes = 0;
  failures = 0;
  /** The first failure. */
  error: unknown;
  #unackedRecords = 0;
  #unackedBytes = 0;
  #waiting: { readonly until: () => boolean; readonly go: () => void } | undefined;
  readonly #partitions = new Map<number, { first: number; last: number; records: number }>();

  sent(bytes: number): void {
    this.#unackedRecords++;
    this.#unackedBytes += bytes;
  }

  acked(bytes: number, partition: number, offset: number): void {
    this.records++;
    this.bytes += bytes;
    const known = this.#partitions.get(partition);
    if (known === undefined) {
      this.#partitions.set(partition, { first: offset, last: offset, records: 1 });
    } else {
      known.last = Math.max(known.last, offset);
      known.records++;
    }
    this.#settle(bytes);
  }

  failed(bytes: number, error: unknown): void {
    this.failures++;
    this.error ??= error;
    this.#settle(bytes);
  }

  #settle(bytes: number): void {
    this.#unackedRecords--;
    this.#unackedBytes -= bytes;
    if (this.#waiting?.until() === true) {
      this.#waiting.go();
      this.#waiting = undefined;
    }
  }

  /** Resolves when more may be sent. */
  room(): Promise<void> {
    return this.#wait(
      () => this.#unackedBytes < UNACKED_BYTES_MAX && this.#unackedRecords < UNACKED_RECORDS_MAX,
    );
  }

  /** Resolves when nothing is in flight. */
  settled(): Promise<void> {
    return this.#wait(() => this.#unackedRecords === 0);
  }

  #wait(until: () => boolean): Promise<void> {
    if (until()) return Promise.resolve();
    return new Promise((go) => {
      this.#waiting = { until, go };
    });
  }

  partitions(): readonly object[] {
    return [...this.#partitions]
      .toSorted(([a], [b]) => a - b)
      .map(([partition, { first, last, records }]) => ({ partition, first, last, records }));
  }

  progressText(elapsedMs: number): string {
    const rate = this.records / (elapsedMs / 1000);
    return `${plural(this.records, 'record')}, ${bytesText(this.bytes)}, ${count(rate)} records/s`;
  }
}
