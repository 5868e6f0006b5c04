/** `relevo consume`: records to stdout. */
import { Command } from 'commander';
import { RelevoError } from '@relevo/base/errors';
import type { Admin, ConsumedRecord, Consumer, Relevo, Stall, StartPosition } from '@relevo/client';
import {
  action,
  integerBetween,
  withClusterOptions,
  type CommandContext,
  type Host,
} from '../context.ts';
import type { Output } from '../output.ts';
import { parsePosition } from '../position.ts';
import { compileFormat, type RecordFormat } from '../record-format.ts';
import { durationText, plural } from '../units.ts';

type RawRecord = ConsumedRecord<Buffer | null, Buffer | null>;

const DEFAULT_FORMAT = '%v\\n';
/** Records are written in pieces of about this size: a write a record would cost more than the rest. */
const WRITE_BYTES = 64 * 1024;
/** How long a partition may take to say where it begins and ends. */
const BOUNDS_TIMEOUT_MS = 10_000;
/** Of how many partitions an error tells where they begin and end. */
const BOUNDS_SHOWN = 5;

interface ConsumeOptions {
  readonly from: string;
  readonly partition?: readonly number[];
  readonly max?: number;
  readonly follow?: boolean;
  readonly format?: string;
}

export function consumeCommand(host: Host): Command {
  return withClusterOptions(
    new Command('consume')
      .description(
        'Read records, up to the end of the topic as it is at the start, or on and on with --follow.',
      )
      .argument('<topic>', 'topic to read')
      .option(
        '--from <position>',
        'earliest, latest, an offset, a time (ISO 8601 or @ms since 1970) or how long ago (15m)',
        'earliest',
      )
      .option('-p, --partition <n>', 'only this one; may be repeated', partition)
      .option(
        '-n, --max <n>',
        'stop after so many records',
        integerBetween(0, Number.MAX_SAFE_INTEGER),
      )
      .option('-f, --follow', 'wait for more at the end, until Ctrl-C')
      .option(
        '--format <format>',
        `json, or text with %o offset %p partition %t topic %k key %v value %h headers %T ms %d date ` +
          `%K %S sizes, and \\n \\t … (default: ${DEFAULT_FORMAT}; json with --json)`,
      )
      .action(action(host, consume)),
  );
}

const number = integerBetween(0, 2 ** 31 - 1);
const partition = (text: string, earlier: readonly number[] = []): readonly number[] => [
  ...earlier,
  number(text),
];

async function consume(
  context: CommandContext,
  topic: string,
  options: ConsumeOptions,
): Promise<void> {
  const format = compileFormat(options.format ?? (context.out.json ? 'json' : DEFAULT_FORMAT));
  const position = parsePosition(options.from, Date.now());
  const relevo = await context.connect(context.signal);
  const writer = new RecordWriter(context.out, format, options.max ?? Infinity);
  const where = { topic, partitions: options.partition, from: position };
  if (options.follow === true) await follow(context, relevo, where, writer);
  else await readToEnds(context, relevo, await rangesOf(relevo, where), writer);
  await writer.flush();
  if (context.out.progressTerminal) context.out.note(plural(writer.records, 'record'));
}

interface Where {
  readonly topic: string;
  /** Undefined: all, those made later too. */
  readonly partitions: readonly number[] | undefined;
  readonly from: StartPosition;
}

/** What there is to read of a partition when the command starts. */
interface Range {
  readonly topic: string;
  readonly partition: number;
  readonly start: number;
  readonly end: number;
}

async function rangesOf({ admin }: Relevo, where: Where): Promise<readonly Range[]> {
  const { topic, partitions, from } = where;
  const query = {
    topic,
    timeoutMs: BOUNDS_TIMEOUT_MS,
    ...(partitions !== undefined && { partitions }),
  };
  const ends = await admin.listOffsets({ ...query, at: 'latest' });
  if (typeof from === 'object' && 'offset' in from) {
    const short = ends.filter(({ offset }) => from.offset > offset);
    if (short.length > 0) throw await beyondEnd(admin, query, from.offset, short);
  }
  const starts = await startsOf(admin, query, from);
  return ends.map(({ partition, offset: end }) => {
    const start = starts(partition);
    // -1: no record is as late as was asked for, so there is nothing to read.
    return { topic, partition, start: start < 0 ? end : start, end };
  });
}

/** What --follow would be told by the broker. */
async function beyondEnd(
  admin: Admin,
  query: { readonly topic: string },
  offset: number,
  short: readonly { readonly partition: number; readonly offset: number }[],
): Promise<RelevoError> {
  const partitions = short.map(({ partition: one }) => one);
  const starts = await admin.listOffsets({ ...query, partitions, at: 'earliest' });
  const bounds = short.slice(0, BOUNDS_SHOWN).map(({ partition: one, offset: end }) => {
    const start = starts.find((found) => found.partition === one)?.offset ?? 0;
    return `${query.topic}-${one} has ${start === end ? `none, and next ${end}` : `${start} to ${end - 1}`}`;
  });
  const more = short.length > BOUNDS_SHOWN ? ` and ${short.length - BOUNDS_SHOWN} more` : '';
  return new RelevoError(
    'OFFSET_OUT_OF_RANGE',
    `offset ${offset} is past the end of the log: ${bounds.join(', ')}${more}; give another --from ` +
      '(earliest, latest, an offset, a time), or the --partition that has it',
  );
}

async function startsOf(
  admin: Admin,
  query: { readonly topic: string; readonly partitions?: readonly number[] },
  from: StartPosition,
): Promise<(partition: number) => number> {
  if (typeof from === 'object' && 'offset' in from) return () => from.offset;
  const at = typeof from === 'object' ? from.timestamp : from;
  const found = await admin.listOffsets({ ...query, at });
  const byPartition = new Map(found.map(({ partition, offset }) => [partition, offset]));
  return (partition) => byPartition.get(partition) ?? -1;
}

/** Reads each partition up to where it ended when the command started. */
async function readToEnds(
  context: CommandContext,
  relevo: Relevo,
  ranges: readonly Range[],
  writer: RecordWriter,
): Promise<void> {
  const left = new Map(
    ranges.filter(({ start, end }) => start < end).map((range) => [range.partition, range]),
  );
  if (left.size === 0 || writer.done) return;
  const consumer = relevo.consumer({
    partitions: [...left.values()].map(({ topic, partition: one, start }) => ({
      topic,
      partition: one,
      from: { offset: start },
    })),
    onStalled: (stall) => context.out.note(stallText(stall)),
    signal: untilUnwanted(context),
  });
  for await (const records of batches(context, consumer)) {
    const range = left.get(records[0]?.partition ?? -1);
    if (range === undefined) continue;
    const wanted = records.filter(({ offset }) => offset < range.end);
    await writer.write(wanted);
    if ((records.at(-1)?.offset ?? -1) + 1 >= range.end) left.delete(range.partition);
    if (left.size === 0 || writer.done) return;
  }
}

/** Reads on and on. */
async function follow(
  context: CommandContext,
  relevo: Relevo,
  { topic, partitions, from }: Where,
  writer: RecordWriter,
): Promise<void> {
  if (writer.done) return;
  const consumer = relevo.consumer({
    ...(partitions === undefined
      ? { topics: [topic] }
      : { partitions: partitions.map((one) => ({ topic, partition: one })) }),
    from,
    // Retention may overtake a slow reader. Who asked for an offset is to hear that it is gone.
    onOutOfRange: typeof from === 'object' && 'offset' in from ? 'error' : 'earliest',
    onGap: (gap) =>
      context.out.note(
        `${gap.topic}-${gap.partition}: offsets ${gap.from} to ${gap.to - 1} left the log unread`,
      ),
    onStalled: (stall) => context.out.note(stallText(stall)),
    signal: untilUnwanted(context),
  });
  for await (const records of batches(context, consumer)) {
    await writer.write(records);
    if (writer.done) return;
  }
}

const stallText = ({ topic, partition: one, forMs, message }: Stall): string =>
  `${topic}-${one} cannot be read for ${durationText(forMs)}: ${message}; still trying`;

/** Aborted when the user wants to stop, or nobody takes what is printed. */
const untilUnwanted = ({ signal, out }: CommandContext): AbortSignal =>
  AbortSignal.any([signal, out.gone]);

/** What a consumer gives until the user wants to stop, or nobody takes what is printed. */
async function* batches(
  { signal, out }: CommandContext,
  consumer: Consumer,
): AsyncGenerator<readonly RawRecord[], void, undefined> {
  try {
    yield* consumer.batches();
  } catch (thrown) {
    if (!signal.aborted && out.open) throw thrown;
  }
}

/** Formats records and writes them in pieces; what is at hand is never held back for more. */
class RecordWriter {
  records = 0;
  readonly #out: Output;
  readonly #format: RecordFormat;
  readonly #max: number;
  #parts: Uint8Array[] = [];
  #bytes = 0;
  #scheduled: NodeJS.Immediate | undefined;
  /** The last write that was not waited for; what comes next waits. */
  #written: Promise<void> = Promise.resolve();

  constructor(out: Output, format: RecordFormat, max: number) {
    this.#out = out;
    this.#format = format;
    this.#max = max;
  }

  /** Nothing more is wanted. */
  get done(): boolean {
    return this.records >= this.#max || !this.#out.open;
  }

  async write(records: readonly RawRecord[]): Promise<void> {
    await this.#written;
    for (const record of records) {
      if (this.done) return;
      this.records++;
      const part = this.#format(record);
      this.#parts.push(part);
      this.#bytes += part.length;
      if (this.#bytes >= WRITE_BYTES) await this.flush();
    }
    if (this.#bytes === 0) return;
    this.#scheduled ??= setImmediate(() => {
      this.#written = this.flush();
    });
  }

  flush(): Promise<void> {
    clearImmediate(this.#scheduled);
    this.#scheduled = undefined;
    if (this.#bytes === 0) return Promise.resolve();
    const whole = Buffer.concat(this.#parts, this.#bytes);
    this.#parts = [];
    this.#bytes = 0;
    return this.#out.bytes(whole);
  }
}
