/**
 * How a command ends, for scripts. 78 is EX_CONFIG of sysexits.h: a supervisor that sees it need not
 * try again, because a person has to change something first.
 */
export const EXIT = {
  ok: 0,
  /** The operation was tried and failed, wholly or in part. */
  failed: 1,
  /** The command line makes no sense: unknown option, missing argument, value out of range. */
  usage: 2,
  /** The configuration file or the environment makes no sense. */
  configuration: 78,
} as const;

export type ExitCode = (typeof EXIT)[keyof typeof EXIT];

/**
 * A failure that a command words itself. The message says what happened, to what, and what to do:
 * it is printed as it stands, without a stack.
 */
export class CommandError extends Error {
  override readonly name = 'CommandError';
  readonly exitCode: ExitCode;

  constructor(message: string, exitCode: ExitCode = EXIT.failed, options?: ErrorOptions) {
    super(message, options);
    this.exitCode = exitCode;
  }
}

/** Whatever was thrown, as an error. */
export const asError = (thrown: unknown): Error =>
  thrown instanceof Error ? thrown : new Error(String(thrown), { cause: thrown });

export const usageError = (message: string): CommandError => new CommandError(message, EXIT.usage);
