/** `relevo produce`: a record for each line of a file or of stdin. */
import { open } from 'node:fs/promises';
import type { Readable } from 'node:stream';
import { Command, Option } from 'commander';
import type { Delivery, Producer } from '@relevo/client';
import { messageOf } from '@relevo/base/errors';
import {
  action,
  integerBetween,
  withClusterOptions,
  type CommandContext,
  type Host,
} from '../context.ts';
import { unescapeBytes } from '../escapes.ts';
import { CommandError, EXIT, asError, usageError, type ExitCode } from '../exit-codes.ts';
import { LineSplitter, indexOfBytes } from '../lines.ts';
import { Progress } from '../progress.ts';
import { bytesText, count, durationText, plural } from '../units.ts';

const PROGRESS_EVERY_MS = 250;
const READ_CHUNK_BYTES = 256 * 1024;

const COMPRESSIONS = ['none', 'gzip', 'snappy', 'lz4', 'zstd'] as const;
type Compression = (typeof COMPRESSIONS)[number];
const ACKS = ['all', 'leader', 'none'] as const;
type Acks = (typeof ACKS)[number];

interface ProduceOptions {
  readonly file?: string;
  readonly keySeparator?: string;
  readonly partition?: number;
  readonly header: readonly (readonly [string, string])[];
  readonly compression: Compression;
  readonly acks: Acks;
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
      .addOption(new Option('--acks <n>', 'who must have a record').choices(ACKS).default('all'))
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
  const separator = separatorOf(options.keySeparator);
  const input = await openInput(context, options.file);
  let halted = false;
  // Ends the reading when the user wants to stop, and at the first failure, even of an idle stdin.
  const halt = (): void => {
    halted = true;
    input.destroy();
  };
  context.signal.addEventListener('abort', halt, { once: true });
  if (context.signal.aborted) halt();
  const relevo = await context.connect(context.signal);
  // A producer waits for a topic to appear; someone who mistyped its name should not.
  await relevo.admin.describeTopic(topic);
  const tally = new Tally(halt);
  const producer = relevo.producer({
    acks: options.acks,
    compression: options.compression,
    lingerMs: options.linger,
    onDelivery: (delivery) => tally.settle(delivery),
  });
  const progress = new Progress(PROGRESS_EVERY_MS, (ms) =>
    context.out.progress(tally.progressText(ms)),
  ).start();
  const common = {
    topic,
    headers: options.header,
    ...(options.partition !== undefined && { partition: options.partition }),
  };
  const splitter = new LineSplitter();
  let unread: Error | null = null;
  const send = (line: Uint8Array): boolean => {
    tally.bytes += line.length;
    return enqueue(
      producer,
      { ...common, ...keyAndValue(line, separator, splitter.lines) },
      splitter,
    );
  };
  try {
    await sendLines(input, splitter, { send, drained: () => producer.drained() }).catch(
      (thrown: unknown) => {
        // A failed stream is destroyed by itself: only who destroyed it knows whether that was meant.
        if (thrown === input.errored) unread = input.errored;
        else if (!halted || thrown instanceof CommandError) tally.error ??= asError(thrown);
      },
    );
    await producer.flush();
  } finally {
    progress.stop();
    context.out.progressDone();
    await producer.close();
  }
  if (unread !== null) tally.error ??= readFailure(options.file, unread, splitter, tally);
  return report(context, topic, tally, progress.elapsedMs);
}

function separatorOf(text: string | undefined): Uint8Array | undefined {
  if (text === undefined) return undefined;
  const separator = unescapeBytes(text);
  if (separator.length === 0) throw usageError('--key-separator must not be empty');
  return separator;
}

interface Sink {
  /** False: wait for `drained` before more. */
  readonly send: (line: Uint8Array) => boolean;
  readonly drained: () => Promise<void>;
}

/** Sends every line of `input`, no faster than the sink takes them. */
async function sendLines(input: Readable, splitter: LineSplitter, sink: Sink): Promise<void> {
  for await (const chunk of input) {
    for (const line of splitter.push(chunk)) if (!sink.send(line)) await sink.drained();
  }
  for (const line of splitter.end()) sink.send(line);
}

/** Says which line was refused; the others go on. */
function enqueue(
  producer: Producer,
  record: Parameters<Producer['enqueue']>[0],
  { lines }: LineSplitter,
): boolean {
  try {
    return producer.enqueue(record);
  } catch (thrown) {
    throw new CommandError(`line ${lines}: ${messageOf(thrown)}`, EXIT.failed, { cause: thrown });
  }
}

async function openInput(
  { host, out }: CommandContext,
  file: string | undefined,
): Promise<Readable> {
  if (!isStdin(file)) {
    try {
      const handle = await open(file);
      if (!(await handle.stat()).isDirectory()) {
        return handle.createReadStream({ highWaterMark: READ_CHUNK_BYTES });
      }
      await handle.close();
    } catch (thrown) {
      throw unopened(file, messageOf(thrown), thrown);
    }
    throw unopened(file, 'it is a directory');
  }
  if (host.stdin.isTTY === true) out.note('a line a record; Ctrl-D ends');
  return host.stdin;
}

const isStdin = (file: string | undefined): file is undefined | '-' =>
  file === undefined || file === '-';

const unopened = (file: string, why: string, cause?: unknown): CommandError =>
  new CommandError(
    `cannot read ${file}: ${why}; 0 records were acknowledged; name a file of lines with --file`,
    EXIT.failed,
    { cause },
  );

/** How far a file came that could not be read to its end. */
function readFailure(
  file: string | undefined,
  cause: Error,
  { lines }: LineSplitter,
  { records }: Tally,
): CommandError {
  const what = isStdin(file) ? 'stdin' : file;
  return new CommandError(
    `cannot read ${what} past line ${lines}: ${cause.message}; ${plural(records, 'record')} ` +
      `acknowledged before it; when it can be read again, send what follows line ${lines}`,
    EXIT.failed,
    { cause },
  );
}

function report(context: CommandContext, topic: string, tally: Tally, elapsedMs: number): ExitCode {
  const { records, failures, error } = tally;
  const rate = records / (elapsedMs / 1000);
  const result = {
    topic,
    records,
    failed: failures,
    elapsedMs: Math.round(elapsedMs),
    recordsPerS: rate,
    partitions: tally.partitions(),
  };
  context.out.result(
    result,
    () =>
      `${plural(records, 'record')} acknowledged by ${topic} in ${durationText(elapsedMs)}, ` +
      `${count(rate)} records/s`,
  );
  if (error !== undefined) {
    if (failures > 0) context.out.note(`${plural(failures, 'record')} failed; the first says:`);
    throw error;
  }
  if (!context.signal.aborted) return EXIT.ok;
  context.out.note('stopped before the end of the input');
  return EXIT.failed;
}

/** What became of the records. */
class Tally {
  /** Acknowledged. */
  records = 0;
  failures = 0;
  /** The first failure. */
  error: Error | undefined;
  /** Read and sent. */
  bytes = 0;
  readonly #onFailure: () => void;
  readonly #partitions = new Map<number, { first: number; last: number; records: number }>();

  constructor(onFailure: () => void) {
    this.#onFailure = onFailure;
  }

  settle(delivery: Delivery): void {
    if (delivery.error !== undefined) {
      this.failures += delivery.recordCount;
      this.error ??= delivery.error;
      this.#onFailure();
      return;
    }
    const { partition, recordCount, baseOffset } = delivery;
    this.records += recordCount;
    const known = this.#partitions.get(partition);
    const last = baseOffset + recordCount - 1;
    if (known === undefined) {
      this.#partitions.set(partition, { first: baseOffset, last, records: recordCount });
    } else {
      known.last = Math.max(known.last, last);
      known.records += recordCount;
    }
  }

  /** Offsets and counts by partition; between first and last there may be others' records. */
  partitions(): readonly object[] {
    return [...this.#partitions]
      .toSorted(([a], [b]) => a - b)
      .map(([partition, { first, last, records }]) => ({ partition, first, last, records }));
  }

  progressText(elapsedMs: number): string {
    const rate = this.records / (elapsedMs / 1000);
    return (
      `${bytesText(this.bytes)} read, ${plural(this.records, 'record')} acknowledged, ` +
      `${count(rate)} records/s`
    );
  }
}
