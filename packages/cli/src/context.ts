/**
 * What every command is given. A command module exports a function from a `Host` to a commander
 * `Command`; its action is wrapped by `action`, which makes the `CommandContext` from the common
 * options, prints whatever was thrown in one shape, and sets the exit code:
 *
 *     export function logCommand(host: Host): Command {
 *       const log = new Command('log').description('look into a data directory, offline');
 *       withOutputOptions(log.command('dump').argument('<dir>')).action(
 *         action(host, async (context, dir: string, options: { from?: string }) => {
 *           context.out.result({ dir }, () => `…`);
 *           return EXIT.ok;
 *         }),
 *       );
 *       return log;
 *     }
 */
import type { Readable } from 'node:stream';
import { Command, InvalidArgumentError } from 'commander';
import type { Relevo } from '@relevo/client';
import { RelevoError } from '@relevo/base/errors';
import { RpcError } from '@relevo/base/ports';
import { CommandError, EXIT, usageError, type ExitCode } from './exit-codes.ts';
import { Output, type Streams } from './output.ts';

/** The process around a command; a test passes its own. */
export interface Host extends Streams {
  readonly stdin: Readable & { readonly isTTY?: boolean };
  readonly env: Readonly<Record<string, string | undefined>>;
  /** What node runs to get another process of this program. */
  readonly program: string;
  /** Aborted when the user wants to stop (Ctrl-C, SIGTERM). */
  readonly signal: AbortSignal;
  /** What the process is to end with; set by `action`. */
  exitCode: ExitCode;
}

export interface CommandContext {
  readonly host: Host;
  readonly out: Output;
  readonly signal: AbortSignal;
  /** gRPC addresses to begin with. */
  readonly bootstrap: readonly string[];
  /**
   * Connects on the first call, until `signal` is aborted; closed by `action` when the command ends.
   */
  connect(signal?: AbortSignal): Promise<Relevo>;
}

export const DEFAULT_BOOTSTRAP = 'localhost:9093';
/** Someone waits for it; a script that cannot be sure that the cluster is up calls again. */
const CONNECT_TIMEOUT_MS = 3000;

interface CommonOptions {
  readonly json?: boolean;
  readonly bootstrap?: string;
}

/** Adds --json. */
export const withOutputOptions = (command: Command): Command =>
  command.option('--json', 'print JSON: one object, or one a line where there is a stream of them');

/** Adds --json and --bootstrap. */
export const withClusterOptions = (command: Command): Command =>
  withOutputOptions(command).option(
    '-b, --bootstrap <addresses>',
    `gRPC addresses of some brokers, comma-separated (RELEVO_BOOTSTRAP; ${DEFAULT_BOOTSTRAP})`,
  );

/**
 * Makes a commander action of `run`, which gets the context, then what commander passes: arguments
 * and options. It resolves to the exit code; nothing means 0.
 */
export function action<Args extends readonly unknown[]>(
  host: Host,
  run: (context: CommandContext, ...args: Args) => Promise<ExitCode | void>,
): (...args: unknown[]) => Promise<void> {
  return async (...args) => {
    const command = args.at(-1);
    if (!(command instanceof Command)) throw new TypeError('not called by commander');
    const options: CommonOptions = command.optsWithGlobals();
    const out = new Output(host, options.json === true);
    let session: Session | undefined;
    try {
      session = new Session(bootstrapOf(host, options));
      const context = contextOf(host, out, session);
      // Commander has checked arguments and options against the declaration of the command.
      host.exitCode = (await run(context, ...(args.slice(0, -1) as unknown as Args))) ?? EXIT.ok;
    } catch (thrown) {
      out.progressDone();
      host.exitCode = printError(out, thrown);
    } finally {
      await session?.close();
    }
    try {
      await out.settled();
    } catch (thrown) {
      const exitCode = printError(out, thrown);
      if (host.exitCode === EXIT.ok) host.exitCode = exitCode;
    }
  };
}

const contextOf = (host: Host, out: Output, session: Session): CommandContext => ({
  host,
  out,
  get signal() {
    return host.signal;
  },
  bootstrap: session.bootstrap,
  connect: (signal) => session.connect(signal),
});

function bootstrapOf(host: Host, options: CommonOptions): readonly string[] {
  const given = options.bootstrap ?? host.env['RELEVO_BOOTSTRAP'] ?? DEFAULT_BOOTSTRAP;
  const addresses = given.split(',').map((address) => address.trim());
  const wrong = addresses.find((address) => !/^[^\s/]+:\d{1,5}$/.test(address));
  if (wrong === undefined) return addresses;
  throw usageError(
    `"${wrong}" is no gRPC address of a broker; --bootstrap (or RELEVO_BOOTSTRAP) is host:port, or ` +
      `several with commas between, such as ${DEFAULT_BOOTSTRAP}`,
  );
}

class Session {
  readonly bootstrap: readonly string[];
  #connection: Promise<Relevo> | undefined;

  constructor(bootstrap: readonly string[]) {
    this.bootstrap = bootstrap;
  }

  connect(signal: AbortSignal | undefined): Promise<Relevo> {
    this.#connection ??= this.#connect(signal);
    return this.#connection;
  }

  async #connect(signal: AbortSignal | undefined): Promise<Relevo> {
    const { Relevo } = await import('@relevo/client');
    return Relevo.connect({
      brokers: this.bootstrap,
      connectTimeoutMs: CONNECT_TIMEOUT_MS,
      // What goes wrong for good is thrown; what was retried with success is no news on a terminal.
      logLevel: 'error',
      ...(signal !== undefined && { signal }),
    });
  }

  async close(): Promise<void> {
    const connection = await this.#connection?.catch(() => undefined);
    await connection?.close();
  }
}

/** Prints what was thrown on stderr and says which exit code it means. */
export function printError(out: Output, thrown: unknown): ExitCode {
  const { message, code, exitCode } = explain(thrown);
  out.note(out.json ? JSON.stringify({ error: { code, message } }) : `relevo: ${message}`);
  return exitCode;
}

interface Explanation {
  readonly message: string;
  /** Relevo's error code where there is one, else a short name of the kind of failure. */
  readonly code: string;
  readonly exitCode: ExitCode;
}

export function explain(thrown: unknown): Explanation {
  if (thrown instanceof CommandError) {
    return { message: thrown.message, code: kindOf(thrown.exitCode), exitCode: thrown.exitCode };
  }
  if (thrown instanceof RelevoError) {
    return { message: thrown.message, code: thrown.code, exitCode: EXIT.failed };
  }
  if (isClientError(thrown)) {
    return { message: thrown.message, code: thrown.code, exitCode: EXIT.failed };
  }
  if (thrown instanceof RpcError) {
    const code = thrown.code ?? thrown.status;
    return { message: thrown.message, code, exitCode: EXIT.failed };
  }
  if (thrown instanceof Error && thrown.name === 'AbortError') {
    return { message: 'stopped before it was done', code: 'STOPPED', exitCode: EXIT.failed };
  }
  if (isSystemError(thrown)) {
    return { message: thrown.message, code: thrown.code, exitCode: EXIT.failed };
  }
  // A bug of ours: the stack is what a report needs.
  const message = thrown instanceof Error ? (thrown.stack ?? thrown.message) : String(thrown);
  return { message: `internal error: ${message}`, code: 'INTERNAL', exitCode: EXIT.failed };
}

const kindOf = (exitCode: ExitCode): string => {
  if (exitCode === EXIT.usage) return 'USAGE';
  return exitCode === EXIT.configuration ? 'CONFIGURATION' : 'FAILED';
};

const isSystemError = (thrown: unknown): thrown is Error & { readonly code: string } =>
  thrown instanceof Error && 'syscall' in thrown && 'code' in thrown;

/** By name, so that a command that talks to no cluster does not load the SDK. */
const isClientError = (thrown: unknown): thrown is Error & { readonly code: string } =>
  thrown instanceof Error && thrown.name === 'ClientError' && 'code' in thrown;

/** A parser of commander options: an integer from `min` to `max`. */
export const integerBetween =
  (min: number, max: number) =>
  (text: string): number => {
    const value = Number(text);
    if (!/^-?\d+$/.test(text) || value < min || value > max) {
      throw new InvalidArgumentError(`It must be an integer from ${min} to ${max}.`);
    }
    return value;
  };
