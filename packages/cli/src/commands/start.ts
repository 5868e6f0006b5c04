/** `relevo start`: a cluster of broker processes on this machine, for as long as it runs. */
import { relative } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { Command } from 'commander';
import type { DescribedCluster, ListedTopic } from '@relevo/client';
import { partitionsLine, quorumLine } from '../cluster-view.ts';
import { action, integerBetween, type CommandContext, type Host } from '../context.ts';
import { CommandError, EXIT, type ExitCode } from '../exit-codes.ts';
import { answering, clusterIdAt, refuseTakenAddresses } from '../local-cluster/addresses.ts';
import {
  BROKERS_DEFAULT,
  BROKERS_MAX,
  PORT_DEFAULT,
  planLayout,
  refuseDataElsewhere,
  releaseLayout,
  writeLayout,
  type LocalBroker,
  type LocalCluster,
} from '../local-cluster/layout.ts';
import { BrokerProcess, endText } from '../local-cluster/processes.ts';
import { table } from '../output.ts';
import { durationText, plural } from '../units.ts';

/** A cluster of many partitions needs long to come up; one that hangs is to be reported. */
const READY_TIMEOUT_MS = 60_000;
/** For moving leaderships and closing logs, before SIGKILL. */
const STOP_PATIENCE_MS = 20_000;
/** For a broker that has said that it is ready. */
const ANSWER_TIMEOUT_MS = 10_000;
/** When our own processes have all ended, whether others of the cluster answer is asked so often. */
const WATCH_EVERY_MS = 1000;
/** A broker that is started by hand needs a moment. */
const SILENCES_MAX = 5;
const TOPICS_SHOWN = 10;

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
        'takes up where it stood. A broker that died may be started again by hand (relevo broker); it ' +
        'is then left running when this command ends.',
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
  const startedMs = performance.now();
  const cluster = planLayout({
    directory: options.data,
    brokers: options.brokers,
    port: options.port,
    fresh: options.fresh === true,
  });
  refuseDataElsewhere(cluster, context.host.env);
  await refuseTakenAddresses(cluster, cluster.isNew);
  writeLayout(cluster);
  const processes = cluster.brokers.map(
    (broker) => new BrokerProcess(broker, context.host, options.pretty === true),
  );
  try {
    await allReady(processes, context.signal);
    await allOurs(cluster, processes);
    await welcome(context, cluster, performance.now() - startedMs);
    return await untilStopped(context, cluster, processes);
  } finally {
    await stopAll(context, cluster, processes);
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

/** Makes sure that who says it is ready is who we started: a port may be lost to another in a race. */
async function allOurs(cluster: LocalCluster, processes: readonly BrokerProcess[]): Promise<void> {
  const ids = await Promise.all(
    cluster.brokers.map(({ grpc }) => clusterIdAt(grpc, ANSWER_TIMEOUT_MS)),
  );
  for (const one of processes) one.checkRunning();
  const stranger = cluster.brokers.find((_, index) => ids[index] !== cluster.clusterId);
  if (stranger === undefined) return;
  throw new CommandError(
    `not broker ${stranger.id} but another process answers on ${stranger.grpc}; stop it, then start ` +
      'again',
  );
}

/** What runs, and what to do with it. */
async function welcome(
  context: CommandContext,
  cluster: LocalCluster,
  readyMs: number,
): Promise<void> {
  const { Relevo } = await import('@relevo/client');
  const relevo = await Relevo.connect({
    brokers: cluster.brokers.map(({ grpc }) => grpc),
    logLevel: 'error',
  });
  try {
    const description = await relevo.admin.describeCluster();
    const topics = await relevo.admin.listTopics();
    context.out.line(welcomeText(cluster, description, topics, readyMs));
  } finally {
    await relevo.close();
  }
}

function welcomeText(
  cluster: LocalCluster,
  description: DescribedCluster,
  topics: readonly ListedTopic[],
  readyMs: number,
): string {
  const elsewhere = cluster.port === PORT_DEFAULT ? '' : ` --bootstrap localhost:${cluster.port}`;
  const topic = topics[0]?.topic ?? 'orders';
  const where = relative(process.cwd(), cluster.directory);
  return [
    `Relevo is running: ${plural(cluster.brokers.length, 'broker')}, ready in ${durationText(readyMs)}, ` +
      `data in ${where === '' || where.startsWith('..') ? cluster.directory : `./${where}`}`,
    '',
    table(
      ['broker', 'gRPC', 'HTTP', 'role', 'leads', 'replicas', 'log'],
      cluster.brokers.map(({ id, grpc, http, logFile }) => {
        const facts = description.brokers.find((broker) => broker.id === id);
        const role = roleOf(id, description);
        return [id, grpc, http, role, facts?.leaders, facts?.replicas, relative('', logFile)];
      }),
    ),
    '',
    quorumLine(description),
    partitionsLine(description),
    ...(topics.length === 0 ? [] : ['', topicsTable(topics)]),
    '',
    'Next, in another terminal:',
    ...(topics.length > 0 ? [] : [`  npx relevo topic create ${topic} --partitions 6${elsewhere}`]),
    `  echo hello | npx relevo produce ${topic}${elsewhere}`,
    `  npx relevo consume ${topic} --from earliest --follow${elsewhere}`,
    `  npx relevo cluster status --watch${elsewhere}`,
    '',
    'Ctrl-C stops the cluster; the next start takes up where it stood.',
  ].join('\n');
}

function roleOf(id: number, { controllerId, voters }: DescribedCluster): string {
  if (id === controllerId) return 'broker, quorum leader';
  return voters.some((voter) => voter.id === id) ? 'broker, voter' : 'broker';
}

function topicsTable(topics: readonly ListedTopic[]): string {
  const shown = topics.slice(0, TOPICS_SHOWN);
  const more = topics.length - shown.length;
  const rows = shown.map(({ topic, partitions, replicationFactor }) => [
    topic,
    partitions,
    replicationFactor,
  ]);
  const drawn = table(['topic', 'partitions', 'replicas'], rows);
  return more === 0 ? drawn : `${drawn}\n… and ${more} more: npx relevo topic list`;
}

/** Returns when the user wants to stop; throws when no broker of the cluster is left. */
async function untilStopped(
  context: CommandContext,
  cluster: LocalCluster,
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
  const nobodyLeft = allEnded.then(() => untilNobodyAnswers(context, cluster));
  if ((await Promise.race([stopped, nobodyLeft])) === 'stopped') return EXIT.ok;
  throw new CommandError('no broker is left; the log files say why');
}

/**
 * Of our own processes none runs. Each may have been killed and started again by hand, so brokers are
 * looked for at their addresses.
 */
async function untilNobodyAnswers(context: CommandContext, cluster: LocalCluster): Promise<void> {
  const { signal } = context;
  let told = false;
  for (let silences = 0; silences < SILENCES_MAX && !signal.aborted;) {
    const others = await answering(cluster, cluster.brokers);
    silences = others.length === 0 ? silences + 1 : 0;
    if (others.length > 0 && !told) {
      told = true;
      context.out.note(
        `every broker that was started here has ended; started by hand and serving: ${addresses(others)}; ` +
          'Ctrl-C ends this command and leaves those running',
      );
    }
    await delay(WATCH_EVERY_MS, undefined, { signal }).catch(() => undefined);
  }
}

const addresses = (brokers: readonly LocalBroker[]): string =>
  brokers.map(({ id, grpc }) => `broker ${id} (${grpc})`).join(', ');

/** Stops the brokers that were started here; those started by hand have terminals of their own. */
async function stopAll(
  context: CommandContext,
  cluster: LocalCluster,
  processes: readonly BrokerProcess[],
): Promise<void> {
  const gone = processes.filter((one) => !one.running).map(({ broker }) => broker);
  const others = context.signal.aborted ? await answering(cluster, gone) : [];
  await stopOwn(context, processes);
  if (others.length === 0) return;
  context.out.note(
    `started by hand, so left running: ${addresses(others)}; Ctrl-C in its own terminal stops each`,
  );
}

async function stopOwn(
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
