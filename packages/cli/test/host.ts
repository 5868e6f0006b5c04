/** A process around a command, in memory. */
import { PassThrough, Readable, Writable } from 'node:stream';
import type { Host } from '@relevo/cli/context';
import { runProgram } from '@relevo/cli/program';

export interface Outcome {
  readonly exitCode: number;
  readonly stdout: string;
  readonly stdoutBytes: Buffer;
  readonly stderr: string;
}

class Collected extends Writable {
  readonly chunks: Buffer[] = [];

  override _write(chunk: Buffer, _: BufferEncoding, done: () => void): void {
    this.chunks.push(chunk);
    done();
  }

  bytes(): Buffer {
    return Buffer.concat(this.chunks);
  }
}

/** Runs a command line as the shell would, in this process. */
export async function relevo(
  argv: readonly string[],
  options: { stdin?: string | Uint8Array | Readable; env?: Record<string, string> } = {},
): Promise<Outcome> {
  const stdout = new Collected();
  const stderr = new Collected();
  const host: Host = {
    stdin:
      options.stdin instanceof Readable
        ? options.stdin
        : new PassThrough().end(options.stdin ?? ''),
    stdout,
    stderr,
    env: options.env ?? {},
    program: '/nonexistent',
    signal: new AbortController().signal,
    exitCode: 0,
  };
  await runProgram(argv, host);
  return {
    exitCode: host.exitCode,
    stdout: stdout.bytes().toString(),
    stdoutBytes: stdout.bytes(),
    stderr: stderr.bytes().toString(),
  };
}
