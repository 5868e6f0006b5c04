/** `relevo broker`: one broker in this process. */
import { Command } from 'commander';
import type { Host } from '../context.ts';
import { CommandError, EXIT, type ExitCode } from '../exit-codes.ts';

interface BrokerOptions {
  readonly config?: string;
  readonly set: Readonly<Record<string, string>>;
  readonly pretty?: boolean;
  readonly stopWithStdin?: boolean;
  readonly bootstrap?: boolean;
}

export function brokerCommand(host: Host): Command {
  return new Command('broker')
    .description(
      'Run one broker until SIGTERM or SIGINT. Settings come from the file, then RELEVO_… variables ' +
        '(dots become underscores), then --set, in rising priority.',
    )
    .option('-c, --config <file>', 'YAML file of settings (default: RELEVO_CONFIG, else none)')
    .option(
      '--set <key=value>',
      'one setting, above file and environment; may be repeated',
      setting,
      {},
    )
    .option('--pretty', 'log lines for people instead of JSON')
    .option('--stop-with-stdin', 'stop as on SIGTERM when stdin ends: for a parent that may die')
    .option(
      '--bootstrap',
      'found the cluster without the other voters, or go on alone with the log that this one has: typed once, ' +
        'by a person, on ONE broker, where the others are gone for good',
    )
    .action(async (options: BrokerOptions) => {
      if (options.stopWithStdin === true) stopWithStdin(host);
      const { runBroker } = await import('@relevo/server/main');
      const flags = { ...options.set, ...(options.pretty === true && { 'log.pretty': 'true' }) };
      host.exitCode = exitCodeOf(
        await runBroker(options.config ?? host.env['RELEVO_CONFIG'], flags, {
          bootstrap: options.bootstrap ?? false,
        }),
      );
    });
}

const exitCodeOf = (code: number): ExitCode =>
  code === EXIT.ok || code === EXIT.configuration ? code : EXIT.failed;

function setting(text: string, earlier: Readonly<Record<string, string>>): Record<string, string> {
  const at = text.indexOf('=');
  if (at <= 0) throw new CommandError(`--set ${text}: it must be KEY=VALUE`, EXIT.usage);
  return { ...earlier, [text.slice(0, at)]: text.slice(at + 1) };
}

function stopWithStdin(host: Host): void {
  host.stdin.once('end', () => process.kill(process.pid, 'SIGTERM'));
  host.stdin.resume();
}
