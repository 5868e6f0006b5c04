/** `relevo start`: a cluster of broker processes on this machine, for as long as it runs. */
import { Command } from 'commander';
import type { Relevo } from '@relevo/client';
import { action, integerBetween, type CommandContext, type Host } from '../context.ts';
import { CommandError, EXIT, type ExitCode } from '../exit-codes.ts';
import {
  BROKERS_DEFAULT,
  BROKERS_MAX,
  PORT_DEFAULT,
  prepareLayout,
  releaseLayout,
  type LocalCluster,
} from '../local-cluster/layout.ts';
import { BrokerProcess, endText } from '../local-cluster/processes.ts';
import { durationText, plural } from '../units.ts';

/** A cluster of many partitions needs long to come up; one that hangs is to be reported. */
const READY_TIMEOUT_MS = 60_000;
/** For moving leaderships and closing logs, before SIGKILL. */
const STOP_PATIENCE_MS = 20_000;

interface StartOptions {
  readonly brokers?: number;
  readonly data: string;
  readonly port?: number;
  readonly fresh?: boolean;
  readonly pretty?: boolean;
}

export function startCommand(host: Host): Command {
  return new Command('start')
    .description(
      'Run a cluster on this machine until Ctrl-C. Data is kept in a directory, and the next start ' +
        'takes up where it stood.',
    )
    .option(
      '--brokers <n>',
      `broker processes, when the cluster is made (default: ${BROKERS_DEFAULT})`,
      integerBetween(1, BROKERS_MAX),
    )
    .option('--data <dir>', 'data directory', 'data')
    .option(
      '--port <p>',
      `gRPC port of the first broker, when the cluster is made; HTTP is p+1, the next broker's are 10 ` +
        `higher (default: ${PORT_DEFAULT})`,
      integerBetween(1, 65_535 - BROKERS_MAX * 10),
    )
    .option('--fresh', 'wipe the data directory first')
    .option('--pretty', 'show the log lines of the brokers, made readable')
    .action(action(host, start));
}

async function start(context: CommandContext, options: StartOptions): Promise<ExitCode> {
  const cluster = prepareLayout({
    directory: options.data,
    brokers: options.brokers,
    port: options.port,
    fresh: options.fresh === true,
  });
  const processes = cluster.brokers.map(
    (broker) => new BrokerProcess(broker, context.host, options.pretty === true),
  );
  try {
    await allReady(processes, context.signal);
    await printWelcome(context, cluster);
    return await untilStopped(context, processes);
  } finally {
    await stopAll(context, processes);
    releaseLayout(cluster);
  }
}

async function allReady(processes: readonly BrokerProcess[], stop: AbortSignal): Promise<void> {
  const late = AbortSignal.timeout(READY_TIMEOUT_MS);
  const waited = Promise.all(processes.map((one) => one.ready(AbortSignal.any([stop, late]))));
  try {
    await waited;
  } catch (thrown) {
    if (!late.aborted) throw thrown;
    const logs = processes.map(({ broker }) => broker.logFile).join(', ');
    throw new CommandError(
      `the brokers were not ready after ${durationText(READY_TIMEOUT_MS)}; see ${logs}`,
      EXIT.failed,
      { cause: thrown },
    );
  }
}

/** Returns when the user wants to stop, or no broker is left. */
async function untilStopped(
  context: CommandContext,
  processes: readonly BrokerProcess[],
): Promise<ExitCode> {
  const stopped = new Promise<'stopped'>((resolve) => {
    if (context.signal.aborted) resolve('stopped');
    context.signal.addEventListener('abort', () => resolve('stopped'), { once: true });
  });
  const allEnded = Promise.all(
    processes.map(async (one) => {
      const end = await one.ended;
      if (context.signal.aborted) return;
      const { id, configFile, logFile } = end.broker;
      context.out.note(
        `broker ${id} has ended (${endText(end)}); see ${logFile}; to start it again:\n` +
          `  npx relevo broker --config ${configFile}`,
      );
    }),
  );
  if ((await Promise.race([stopped, allEnded])) === 'stopped') return EXIT.ok;
  throw new CommandError('no broker is left; the log files say why');
}

async function stopAll(
  context: CommandContext,
  processes: readonly BrokerProcess[],
): Promise<void> {
  const running = processes.filter((one) => one.running);
  if (running.length === 0) return;
  const started = performance.now();
  context.out.note(`stopping ${plural(running.length, 'broker')} …`);
  const orderly = await Promise.all(running.map((one) => one.stop(STOP_PATIENCE_MS)));
  running.forEach(({ broker }, index) => {
    if (orderly[index] === true) return;
    context.out.note(
      `broker ${broker.id} had not stopped after ${durationText(STOP_PATIENCE_MS)} and was killed; ` +
        `see ${broker.logFile}`,
    );
  });
  context.out.note(`stopped in ${durationText(performance.now() - started)}`);
}
