/** `relevo health`: whether a broker answers its probes, for a container's health check or a script. */
import { Command } from 'commander';
import { action, withOutputOptions, type CommandContext, type Host } from '../context.ts';
import { hostAndPort } from '../doctor/reach.ts';
import { asError, CommandError, usageError } from '../exit-codes.ts';

const DEFAULT_HTTP = '127.0.0.1:9094';
const TIMEOUT_MS = 2000;

interface HealthOptions {
  readonly http?: string;
  readonly live?: boolean;
}

export function healthCommand(host: Host): Command {
  return withOutputOptions(
    new Command('health')
      .description(
        'Ask one broker whether it serves (/readyz). Exit code 0: it does; 1: it does not, with the reason.',
      )
      .option(
        '--http <host:port>',
        `its HTTP listener (default: RELEVO_LISTENER_HTTP, else ${DEFAULT_HTTP})`,
      )
      .option('--live', 'only whether it is alive (/healthz)')
      .action(action(host, health)),
  );
}

async function health(context: CommandContext, options: HealthOptions): Promise<void> {
  const path = options.live === true ? '/healthz' : '/readyz';
  const address = addressOf(context, options);
  const url = `http://${address}${path}`;
  const answer = await ask(url, context.signal);
  if (answer.status !== 200) throw new CommandError(`the broker at ${address}: ${answer.reason}`);
  context.out.result({ address, status: 'ok' }, () => 'ok');
}

function addressOf(context: CommandContext, options: HealthOptions): string {
  const configured = options.http ?? context.host.env['RELEVO_LISTENER_HTTP'] ?? DEFAULT_HTTP;
  if (hostAndPort(configured) === undefined) {
    throw usageError(
      `"${configured}" is no HTTP address of a broker; --http (or RELEVO_LISTENER_HTTP) is ` +
        `host:port, such as ${DEFAULT_HTTP}`,
    );
  }
  // Where all addresses are listened on, the loopback is among them.
  return configured.replace(/^(?:0\.0\.0\.0|\[::\]):/, '127.0.0.1:');
}

async function ask(
  url: string,
  signal: AbortSignal,
): Promise<{ readonly status: number; readonly reason: string }> {
  let text: string;
  let status: number;
  try {
    const limit = AbortSignal.any([signal, AbortSignal.timeout(TIMEOUT_MS)]);
    const response = await fetch(url, { signal: limit });
    status = response.status;
    text = await response.text();
  } catch (error) {
    signal.throwIfAborted();
    throw new CommandError(`${url} ${whyNot(asError(error))}`, undefined, { cause: error });
  }
  return { status, reason: reasonOf(text) };
}

function whyNot(error: Error): string {
  const cause: unknown = error.cause;
  const code = cause instanceof Error && 'code' in cause ? cause.code : undefined;
  if (error.name === 'TimeoutError') {
    return (
      `does not answer within ${TIMEOUT_MS} ms: the broker is stuck or not reachable from here, or ` +
      'something else has that port'
    );
  }
  if (code === 'ECONNREFUSED') {
    return (
      'refuses connections: the broker is starting, is stopped, or has another listener.http ' +
      '(say which with --http)'
    );
  }
  if (code === 'ENOTFOUND')
    return 'has a host name that nothing here knows; correct it with --http';
  const reason = cause instanceof Error && cause.message !== '' ? cause.message : error.message;
  return `gives no usable answer: ${reason}; is it the HTTP listener of a broker (--http)?`;
}

/** Of the probe's JSON, or whatever else came. */
function reasonOf(text: string): string {
  try {
    const { reason } = JSON.parse(text) as { readonly reason?: unknown };
    if (typeof reason === 'string') return reason;
  } catch {
    // Some other server has the port.
  }
  return `an unexpected answer: ${text.slice(0, 200)}`;
}
