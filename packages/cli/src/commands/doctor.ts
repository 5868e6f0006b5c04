/** `relevo doctor`: from the client's side, why a client can or cannot work with a cluster. */
import { Command } from 'commander';
import { action, withClusterOptions, type CommandContext, type Host } from '../context.ts';
import { examine } from '../doctor/examine.ts';
import { findingsText, verdictOf } from '../doctor/findings.ts';
import { judge } from '../doctor/judge.ts';
import { hostAndPort } from '../doctor/reach.ts';
import { EXIT, usageError, type ExitCode } from '../exit-codes.ts';

/** Further ones say nothing new, and each takes its time. */
const GIVEN_MAX = 32;

interface DoctorOptions {
  readonly broker?: readonly string[];
}

const collect = (value: string, before: readonly string[] = []): readonly string[] => [
  ...before,
  ...value.split(',').map((address) => address.trim()),
];

export function doctorCommand(host: Host): Command {
  return withClusterOptions(
    new Command('doctor')
      .description(
        'Find out from here why a client can or cannot work with a cluster: names, connections, ' +
          'advertised addresses, versions, clocks, the quorum, partitions. Each line is ok, warn or ' +
          'FAIL, with what to change. Exit code 0: no FAIL; 1: there is one. The findings come ' +
          'within 12 s; where name servers are silent the process ends when the system gives them up.',
      )
      .option(
        '--broker <host:port>',
        'gRPC address to begin with, as clients have it; may be repeated (default: --bootstrap)',
        collect,
      )
      .action(action(host, doctor)),
  );
}

async function doctor(context: CommandContext, options: DoctorOptions): Promise<ExitCode> {
  const given = [...new Set(options.broker ?? context.bootstrap)];
  const wrong = given.find((address) => hostAndPort(address) === undefined);
  if (wrong !== undefined) {
    throw usageError(`"${wrong}" is no gRPC address of a broker; --broker takes host:port`);
  }
  if (given.length > GIVEN_MAX) {
    throw usageError(`${given.length} addresses were given; name ${GIVEN_MAX} at most`);
  }
  const facts = await unlessStopped(examine(given), context.signal);
  const findings = judge(facts);
  const verdict = verdictOf(findings);
  context.out.result({ checks: findings, verdict }, () => findingsText(findings));
  return verdict === 'fail' ? EXIT.failed : EXIT.ok;
}

/** What is under way ends by its own limits. */
async function unlessStopped<Value>(work: Promise<Value>, signal: AbortSignal): Promise<Value> {
  signal.throwIfAborted();
  let stop = (): void => undefined;
  const stopped = new Promise<never>((_, reject) => {
    stop = () => reject(new DOMException('the doctor was stopped', 'AbortError'));
    signal.addEventListener('abort', stop);
  });
  try {
    return await Promise.race([work, stopped]);
  } finally {
    signal.removeEventListener('abort', stop);
  }
}
