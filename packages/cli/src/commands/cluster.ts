/** `relevo cluster`: status and leadership. */
import { setTimeout as delay } from 'node:timers/promises';
import { Command } from 'commander';
import { messageOf } from '@relevo/base/errors';
import { clusterText } from '../cluster-view.ts';
import {
  action,
  integerBetween,
  withClusterOptions,
  type CommandContext,
  type Host,
} from '../context.ts';
import { EXIT, type ExitCode } from '../exit-codes.ts';
import { table } from '../output.ts';
import { plural } from '../units.ts';

const WATCH_EVERY_MS = 500;

export function clusterCommand(host: Host): Command {
  const cluster = new Command('cluster').description('Look at the cluster, move leadership.');
  withClusterOptions(
    cluster
      .command('status')
      .description('brokers, leaders, in-sync replicas, the controller quorum')
      .option('-w, --watch', 'show it again and again until Ctrl-C')
      .option(
        '--every <ms>',
        'pause between two looks',
        integerBetween(50, 3_600_000),
        WATCH_EVERY_MS,
      )
      .action(action(host, status)),
  );
  withClusterOptions(
    cluster
      .command('elect-preferred [topic]')
      .description('give leadership to the preferred replicas that are in sync')
      .action(action(host, electPreferred)),
  );
  return cluster;
}

async function status(
  context: CommandContext,
  options: { watch?: boolean; every: number },
): Promise<void> {
  const { admin } = await context.connect();
  if (options.watch !== true) {
    const cluster = await admin.describeCluster();
    context.out.result(cluster, () => clusterText(cluster));
    return;
  }
  const show = await display(context);
  while (!context.signal.aborted && context.out.open) {
    try {
      const cluster = await admin.describeCluster();
      show(context.out.json ? JSON.stringify(cluster) : clusterText(cluster));
    } catch (thrown) {
      // A cluster that is electing is what one watches for.
      show(context.out.json ? JSON.stringify({ error: messageOf(thrown) }) : messageOf(thrown));
    }
    await delay(options.every, undefined, { signal: context.signal }).catch(() => undefined);
  }
}

/** On a terminal each look replaces the one before; elsewhere they follow each other. */
async function display({ out, host }: CommandContext): Promise<(text: string) => void> {
  if (!out.terminal) return (text) => out.line(out.json ? text : `${text}\n`);
  const { createLogUpdate } = await import('log-update');
  const update = createLogUpdate(host.stdout);
  return (text) => update(`${text}\n\n${new Date().toLocaleTimeString()}, Ctrl-C ends`);
}

async function electPreferred(
  context: CommandContext,
  topic: string | undefined,
): Promise<ExitCode> {
  const { admin } = await context.connect();
  const results = await admin.electLeaders(topic === undefined ? {} : { topic });
  const failed = results.filter(({ error }) => error !== undefined);
  const outcome = results.map(({ error, ...moved }) => ({
    ...moved,
    error: error === undefined ? null : { code: error.code, message: error.message },
  }));
  context.out.result(outcome, () =>
    results.length === 0
      ? 'every partition is led by its preferred leader'
      : table(
          ['topic', 'partition', 'leader', 'outcome'],
          results.map(({ topic: name, partition, leader, error }) => [
            name,
            partition,
            leader ?? 'none',
            error?.message ?? 'moved',
          ]),
        ),
  );
  if (failed.length === 0) return EXIT.ok;
  context.out.note(`${plural(failed.length, 'partition')} could not be moved`);
  return EXIT.failed;
}
