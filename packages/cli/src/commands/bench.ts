/** `relevo bench`: how fast a running cluster is, seen from one client. */
import { Command, Option } from 'commander';
import { benchConsume } from '../bench/consume.ts';
import { NUMBER_BYTES, benchEndToEnd } from '../bench/end-to-end.ts';
import { benchProduce } from '../bench/produce.ts';
import { printEndToEnd, printFigures } from '../bench/report.ts';
import { withTarget, type TargetOptions } from '../bench/target.ts';
import {
  action,
  integerBetween,
  withClusterOptions,
  type CommandContext,
  type Host,
} from '../context.ts';
import { EXIT, type ExitCode } from '../exit-codes.ts';

const KIB = 1024;
const RECORD_BYTES_MAX = 1024 * KIB;
const RECORDS_MAX = Number.MAX_SAFE_INTEGER;

export function benchCommand(host: Host): Command {
  const bench = new Command('bench').description(
    'Measure a running cluster from this process. Without --topic, a topic is made for it and deleted.',
  );
  target(bench.command('produce'))
    .description('write records: throughput, and the latency of acknowledgements')
    .addOption(records(1_000_000))
    .addOption(recordBytes(KIB, 0))
    .addOption(rate())
    .option('--keys <n>', 'different keys, 0 for none', integerBetween(0, 1e9), 0)
    .addOption(
      new Option('--acks <n>', 'as of a producer')
        .choices(['all', 'leader', 'none'])
        .default('all'),
    )
    .addOption(
      new Option('--compression <codec>', 'of batches')
        .choices(['none', 'gzip', 'snappy', 'lz4', 'zstd'])
        .default('none'),
    )
    .option('--linger <ms>', 'how long a batch waits to be filled', integerBetween(0, 60_000), 5)
    .option(
      '--batch-bytes <n>',
      'size of a full batch',
      integerBetween(KIB, 16 * KIB * KIB),
      64 * KIB,
    )
    .action(action(host, produce));
  target(bench.command('consume'))
    .description('read a topic from its beginning; one of its own is filled first')
    .addOption(records(1_000_000))
    .addOption(recordBytes(KIB, 0))
    .action(action(host, consume));
  target(bench.command('end-to-end'))
    .description('latency from the send to the arrival at a consumer, at a steady rate')
    .option('--rate <n>', 'records per second', integerBetween(1, 10_000_000), 1000)
    .option('--duration <s>', 'how long', integerBetween(1, 86_400), 10)
    .option('--warm-up <s>', 'before that, not counted', integerBetween(0, 3600), 2)
    .addOption(recordBytes(100, NUMBER_BYTES))
    .option('--linger <ms>', 'how long a batch waits to be filled', integerBetween(0, 60_000), 0)
    .action(action(host, endToEnd));
  return bench;
}

const target = (command: Command): Command =>
  withClusterOptions(command)
    .option('-t, --topic <topic>', 'an existing topic; its records stay')
    .option('-p, --partitions <n>', 'of a topic made for it', integerBetween(1, 100_000), 6)
    .option('-r, --replication-factor <n>', 'of a topic made for it', integerBetween(1, 32_767))
    .option('--keep', 'do not delete the topic made for it');

const records = (preset: number): Option =>
  new Option('-n, --records <n>', 'how many records')
    .argParser(integerBetween(1, RECORDS_MAX))
    .default(preset);

const recordBytes = (preset: number, min: number): Option =>
  new Option('-s, --record-bytes <n>', 'size of a value')
    .argParser(integerBetween(min, RECORD_BYTES_MAX))
    .default(preset);

const rate = (): Option =>
  new Option('--rate <n>', 'records per second (default: as fast as it goes)').argParser(
    integerBetween(1, 100_000_000),
  );

interface ProduceOptions extends TargetOptions {
  readonly records: number;
  readonly recordBytes: number;
  readonly rate?: number;
  readonly keys: number;
  readonly acks: 'all' | 'leader' | 'none';
  readonly compression: 'none' | 'gzip' | 'snappy' | 'lz4' | 'zstd';
  readonly linger: number;
  readonly batchBytes: number;
}

const produce = (context: CommandContext, options: ProduceOptions): Promise<ExitCode> =>
  withTarget(context, options, async (relevo, topic) => {
    const { rate: ratePerS = Infinity, linger: lingerMs } = options;
    const load = { ...options, topic, ratePerS, lingerMs };
    const figures = await benchProduce(context, relevo, load);
    printFigures(context, figures);
    return figures.failed === 0 ? EXIT.ok : EXIT.failed;
  });

interface ConsumeOptions extends TargetOptions {
  readonly records: number;
  readonly recordBytes: number;
}

const consume = (context: CommandContext, options: ConsumeOptions): Promise<ExitCode> =>
  withTarget(context, options, async (relevo, topic) => {
    if (options.topic === undefined) {
      context.out.note('writing the records to read …');
      await benchProduce(context, relevo, { ...FILLING, ...options, topic });
      context.out.note('reading them …');
    }
    printFigures(context, await benchConsume(context, relevo, topic, options.records));
    return EXIT.ok;
  });

const FILLING = {
  keys: 0,
  ratePerS: Infinity,
  acks: 'all',
  compression: 'none',
  lingerMs: 5,
  batchBytes: 64 * KIB,
} as const;

interface EndToEndOptions extends TargetOptions {
  readonly rate: number;
  readonly duration: number;
  readonly warmUp: number;
  readonly recordBytes: number;
  readonly linger: number;
}

const endToEnd = (context: CommandContext, options: EndToEndOptions): Promise<ExitCode> =>
  withTarget(context, options, async (relevo, topic) => {
    const figures = await benchEndToEnd(context, relevo, {
      topic,
      ratePerS: options.rate,
      durationMs: options.duration * 1000,
      warmUpMs: options.warmUp * 1000,
      recordBytes: options.recordBytes,
      lingerMs: options.linger,
    });
    printEndToEnd(context, figures);
    return EXIT.ok;
  });
