/**
 * The tree of commands. Each lives in a module of its own that is loaded only when it is asked for:
 * `relevo broker` must not pay for what `relevo bench` needs.
 */
import { VERSION } from '@relevo/base/version';
import { Command, CommanderError } from 'commander';
import { printError, type Host } from './context.ts';
import { CommandError, EXIT } from './exit-codes.ts';
import { Output } from './output.ts';

interface Entry {
  readonly summary: string;
  readonly load: () => Promise<(host: Host) => Command>;
}

const COMMANDS: Readonly<Record<string, Entry>> = {
  start: {
    summary: 'run a cluster on this machine until Ctrl-C',
    load: async () => (await import('./commands/start.ts')).startCommand,
  },
  broker: {
    summary: 'run one broker from its configuration file',
    load: async () => (await import('./commands/broker.ts')).brokerCommand,
  },
  health: {
    summary: 'ask one broker whether it serves',
    load: async () => (await import('./commands/health.ts')).healthCommand,
  },
  topic: {
    summary: 'create, list, describe, alter and delete topics',
    load: async () => (await import('./commands/topic.ts')).topicCommand,
  },
  produce: {
    summary: 'write records to a topic, a line of input each',
    load: async () => (await import('./commands/produce.ts')).produceCommand,
  },
  consume: {
    summary: 'read records from a topic',
    load: async () => (await import('./commands/consume.ts')).consumeCommand,
  },
  cluster: {
    summary: 'look at the cluster, move leadership',
    load: async () => (await import('./commands/cluster.ts')).clusterCommand,
  },
  doctor: {
    summary: 'find out why a client can or cannot work with a cluster',
    load: async () => (await import('./commands/doctor.ts')).doctorCommand,
  },
  secret: {
    summary: 'make the secret that the nodes of a cluster share',
    load: async () => (await import('./commands/secret.ts')).secretCommand,
  },
  log: {
    summary: 'dump or verify a data directory, offline',
    load: async () => (await import('./commands/log.ts')).logCommand,
  },
  bench: {
    summary: 'measure throughput and latency',
    load: async () => (await import('./commands/bench.ts')).benchCommand,
  },
};

/** Runs one command line; the outcome is in `host.exitCode`, nothing is thrown for a user's mistake. */
export async function runProgram(argv: readonly string[], host: Host): Promise<void> {
  const program = new Command('relevo')
    .description('A replicated event log: brokers, topics, records.')
    .version(VERSION)
    .showSuggestionAfterError(true);
  const asked = named(argv);
  for (const [name, { summary, load }] of Object.entries(COMMANDS)) {
    if (name === asked) program.addCommand((await load())(host).summary(summary));
    else program.addCommand(new Command(name).description(summary).allowUnknownOption());
  }
  settle(program, host);
  const out = new Output(host, false);
  try {
    await program.parseAsync(argv, { from: 'user' });
  } catch (thrown) {
    if (thrown instanceof CommandError) {
      host.exitCode = printError(out, thrown);
      return;
    }
    if (!(thrown instanceof CommanderError)) throw thrown;
    host.exitCode = thrown.exitCode === 0 ? EXIT.ok : EXIT.usage;
    // Of --help and --version.
    await out.settled().catch((lost: unknown) => {
      host.exitCode = printError(out, lost);
    });
  }
}

/** Loads the module of every command. */
export async function loadCommands(): Promise<void> {
  for (const { load } of Object.values(COMMANDS)) await load();
}

/** The command that a command line is about: its first word that is no option, past a `help`. */
function named(argv: readonly string[]): string | undefined {
  const words = argv.filter((word) => !word.startsWith('-'));
  return words[0] === 'help' ? words[1] : words[0];
}

/** Lets `command` and all below it print to the host and throw instead of ending the process. */
function settle(command: Command, host: Host): void {
  command.exitOverride();
  command.configureOutput({
    writeOut: (text) => host.stdout.write(text),
    writeErr: (text) => host.stderr.write(text),
    outputError: (text, write) => write(text.replace(/^error: /, 'relevo: ')),
  });
  command.showHelpAfterError(`(run it with --help to see how it is used)`);
  for (const below of command.commands) settle(below, host);
}
