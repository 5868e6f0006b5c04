/**
 * What a command prints. Results go to stdout, as text for people or as JSON for programs (--json);
 * everything about the work itself (progress, notes, errors) goes to stderr, so that a pipe carries
 * results alone.
 */
import type { Writable } from 'node:stream';
import { createRequire } from 'node:module';
import type Table from 'cli-table3';
import { CommandError, EXIT } from './exit-codes.ts';

const require = createRequire(import.meta.url);

export interface Streams {
  readonly stdout: Writable & { readonly isTTY?: boolean; readonly columns?: number };
  readonly stderr: Writable & { readonly isTTY?: boolean; readonly columns?: number };
}

export type Cell = string | number | boolean | null | undefined;

export class Output {
  /** Whether results are JSON. */
  readonly json: boolean;
  readonly #streams: Streams;
  readonly #gone = new AbortController();
  /** Why results were lost. */
  #failure: Error | undefined;
  #drained: Promise<void> | undefined;

  constructor(streams: Streams, json: boolean) {
    this.#streams = streams;
    this.json = json;
    streams.stdout.on('error', (error: NodeJS.ErrnoException) => {
      // A reader that has seen enough (`| head`) closes the pipe: no failure of ours. A full disk is.
      if (error.code !== 'EPIPE') this.#failure ??= error;
      this.#gone.abort();
    });
    streams.stdout.on('close', () => this.#gone.abort());
    // Who cannot be told is not told; the exit code remains.
    streams.stderr.on('error', () => undefined);
  }

  /** False once whoever read our output has gone, or it cannot be written. */
  get open(): boolean {
    return !this.#gone.signal.aborted;
  }

  /** Aborted when `open` becomes false. */
  get gone(): AbortSignal {
    return this.#gone.signal;
  }

  /** Resolves when stdout has taken everything; rejects when results were lost. */
  async settled(): Promise<void> {
    if (this.open)
      await new Promise<void>((resolve) => this.#streams.stdout.write('', () => resolve()));
    // A write's callback runs before the stream's error event.
    await new Promise<void>((resolve) => void setImmediate(resolve));
    if (this.#failure === undefined) return;
    throw new CommandError(
      `stdout cannot be written: ${this.#failure.message}; what was printed is not complete`,
      EXIT.failed,
      { cause: this.#failure },
    );
  }

  /** Whether stdout is a terminal: live displays make sense only there. */
  get terminal(): boolean {
    return this.#streams.stdout.isTTY === true && !this.json;
  }

  /** Whether progress on stderr is seen by a person. */
  get progressTerminal(): boolean {
    return this.#streams.stderr.isTTY === true;
  }

  /** The command's one result: `value` as JSON on one line, or the text of `human`. */
  result(value: unknown, human: () => string): void {
    const text = this.json ? JSON.stringify(value) : human();
    if (text !== '') this.line(text);
  }

  /** A line on stdout. */
  line(text: string): void {
    if (this.open) this.#streams.stdout.write(`${text}\n`);
  }

  /** Bytes on stdout, as they are; resolves when more may be written. */
  async bytes(chunk: Uint8Array): Promise<void> {
    const { stdout } = this.#streams;
    if (!this.open || stdout.write(chunk)) return;
    await this.#room();
  }

  /** Resolves when stdout takes more, or never will; one wait for all that come meanwhile. */
  #room(): Promise<void> {
    const { stdout } = this.#streams;
    const gone = this.#gone.signal;
    this.#drained ??= new Promise((resolve) => {
      const done = (): void => {
        stdout.off('drain', done);
        gone.removeEventListener('abort', done);
        this.#drained = undefined;
        resolve();
      };
      stdout.on('drain', done);
      gone.addEventListener('abort', done);
    });
    return this.#drained;
  }

  /** A line on stderr. */
  note(text: string): void {
    this.#streams.stderr.write(`${text}\n`);
  }

  /** Rewrites the last line of stderr on a terminal; nothing elsewhere. */
  progress(text: string): void {
    if (this.progressTerminal) this.#streams.stderr.write(`\r\u001b[2K${text}`);
  }

  /** Takes the progress line away. */
  progressDone(): void {
    if (this.progressTerminal) this.#streams.stderr.write('\r\u001b[2K');
  }
}

/** A table for people; numbers are set to the right, but for the first column, which names the row. */
export function table(head: readonly string[], rows: readonly (readonly Cell[])[]): string {
  // Loaded when first drawn: it is a tenth of the start-up time of a command that needs none.
  const CliTable = require('cli-table3') as typeof Table;
  const numeric = head.map(
    (_, column) =>
      column > 0 &&
      rows.every((row) => typeof row[column] === 'number' || row[column] === undefined),
  );
  const drawn = new CliTable({
    head: [...head],
    colAligns: numeric.map((right) => (right && rows.length > 0 ? 'right' : 'left')),
    style: { head: [], border: [], compact: true, 'padding-left': 0, 'padding-right': 1 },
    chars: PLAIN,
  });
  drawn.push(...rows.map((row) => row.map(show)));
  return drawn
    .toString()
    .split('\n')
    .map((line: string) => line.trimEnd())
    .filter((line: string) => line !== '')
    .join('\n');
}

const show = (cell: Cell): string => (cell === undefined || cell === null ? '-' : String(cell));

/** Columns two blanks apart, no lines: it can be read, copied, and cut by column. */
const PLAIN = {
  top: '',
  'top-mid': '',
  'top-left': '',
  'top-right': '',
  bottom: '',
  'bottom-mid': '',
  'bottom-left': '',
  'bottom-right': '',
  left: '',
  'left-mid': '',
  mid: '',
  'mid-mid': '',
  right: '',
  'right-mid': '',
  middle: ' ',
};
