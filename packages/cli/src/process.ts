/** The process `relevo`: streams, signals and the exit code around `runProgram`. */
import { fileURLToPath } from 'node:url';
import type { Host } from './context.ts';
import { EXIT } from './exit-codes.ts';
import { loadCommands, runProgram } from './program.ts';

const INTERRUPTED = 130;

const host: Host = {
  stdin: process.stdin,
  stdout: process.stdout,
  stderr: process.stderr,
  env: process.env,
  program: fileURLToPath(
    new URL(import.meta.url.endsWith('.ts') ? './main.ts' : '../bin/launch.cjs', import.meta.url),
  ),
  /** Made when first asked for: a command that does not look at it dies of the signal at once. */
  get signal(): AbortSignal {
    const stop = new AbortController();
    const asked = (): void => {
      if (stop.signal.aborted) process.exit(INTERRUPTED);
      stop.abort();
    };
    for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(signal, asked);
    Object.defineProperty(host, 'signal', { value: stop.signal });
    return stop.signal;
  },
  exitCode: EXIT.ok,
};

/** Runs the command line of this process and ends it. */
export async function main(): Promise<void> {
  await runProgram(process.argv.slice(2), host);
  process.exit(host.exitCode);
}

/**
 * Loads what any command would.
 *
 * @public Called by bin/launch.cjs, for the code cache.
 */
export async function loadEverything(): Promise<void> {
  await loadCommands();
  await import('@relevo/client');
  await import('@relevo/server/main');
}
