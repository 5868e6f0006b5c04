/** The broker processes of `relevo start`: spawned together, watched, stopped together. */
import { spawn, type ChildProcess } from 'node:child_process';
import { closeSync, createWriteStream, openSync, readFileSync } from 'node:fs';
import { request } from 'node:http';
import { setTimeout as delay } from 'node:timers/promises';
import type { Host } from '../context.ts';
import { CommandError, EXIT, type ExitCode } from '../exit-codes.ts';
import type { LocalBroker } from './layout.ts';

/** Between two looks at a broker that is starting. */
const POLL_MS = 15;
const PROBE_TIMEOUT_MS = 1000;
const ERROR_LINES_SHOWN = 5;

export interface BrokerEnd {
  readonly broker: LocalBroker;
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
}

export class BrokerProcess {
  readonly broker: LocalBroker;
  /** Resolves when the process has ended, however it did. */
  readonly ended: Promise<BrokerEnd>;
  readonly #child: ChildProcess;
  #end: BrokerEnd | undefined;
  /** Where in the log file this run begins. */
  readonly #logStart: number;

  /** @param pretty Whether log lines are shown on the host's stderr too, for people. */
  constructor(broker: LocalBroker, host: Host, pretty: boolean) {
    this.broker = broker;
    this.#logStart = logSize(broker.logFile);
    const log = openSync(broker.logFile, 'a');
    this.#child = spawn(process.execPath, commandLine(host.program, broker, pretty), {
      // A group of its own: Ctrl-C in the terminal is for us, and we stop the brokers in order.
      detached: true,
      // The pipe to its stdin breaks when we die, however we do: it stops then.
      stdio: ['pipe', pretty ? 'pipe' : log, pretty ? 'pipe' : log],
    });
    closeSync(log);
    if (pretty) show(this.#child, broker, host);
    this.ended = new Promise((resolve) => {
      const end = (code: number | null, signal: NodeJS.Signals | null): void => {
        this.#end = { broker, code, signal };
        resolve(this.#end);
      };
      this.#child.once('exit', end);
      this.#child.once('error', () => end(EXIT.failed, null));
    });
  }

  get running(): boolean {
    return this.#end === undefined;
  }

  /** Resolves when the broker says that it serves; rejects when it ends or `signal` is aborted. */
  async ready(signal: AbortSignal): Promise<void> {
    while (!(await answersReady(this.broker.http))) {
      this.checkRunning();
      await delay(POLL_MS, undefined, { signal });
    }
    // What answers may be somebody else.
    this.checkRunning();
  }

  /** Throws when the process has ended, with what it said of it. */
  checkRunning(): void {
    if (this.#end !== undefined) throw this.#startFailure(this.#end);
  }

  /** SIGTERM, then SIGKILL when it has not ended after `patienceMs`; says whether it ended by itself. */
  async stop(patienceMs: number): Promise<boolean> {
    this.#child.kill('SIGTERM');
    const patience = new AbortController();
    const late = delay(patienceMs, true, { signal: patience.signal, ref: false }).catch(
      () => false,
    );
    if (!(await Promise.race([this.ended.then(() => false), late]))) {
      patience.abort();
      return true;
    }
    this.#child.kill('SIGKILL');
    await this.ended;
    return false;
  }

  #startFailure(end: BrokerEnd): CommandError {
    const exitCode: ExitCode = end.code === EXIT.configuration ? EXIT.configuration : EXIT.failed;
    const { id, logFile } = this.broker;
    const errors = lastErrors(readFileSync(logFile).subarray(this.#logStart).toString());
    return new CommandError(
      `broker ${id} ended while starting (${endText(end)}); its log is ${logFile}${errors}`,
      exitCode,
    );
  }
}

export const endText = ({ code, signal }: Pick<BrokerEnd, 'code' | 'signal'>): string =>
  signal === null ? `exit code ${code}` : `signal ${signal}`;

function commandLine(program: string, broker: LocalBroker, pretty: boolean): string[] {
  return [
    ...process.execArgv,
    program,
    'broker',
    '--config',
    broker.configFile,
    '--stop-with-stdin',
    ...(pretty ? ['--pretty'] : []),
  ];
}

/** Passes a broker's lines to the log file and, marked with its id, to the terminal. */
function show(child: ChildProcess, broker: LocalBroker, host: Host): void {
  const file = createWriteStream(broker.logFile, { flags: 'a' });
  for (const stream of [child.stdout, child.stderr]) {
    let rest = '';
    stream?.setEncoding('utf8').on('data', (text: string) => {
      file.write(text);
      const lines = (rest + text).split('\n');
      rest = lines.pop() ?? '';
      for (const line of lines) host.stderr.write(`[${broker.id}] ${line}\n`);
    });
  }
}

/** Asks /readyz; nothing there counts as no. */
function answersReady(address: string): Promise<boolean> {
  return new Promise((resolve) => {
    const asked = request(`http://${address}/readyz`, { timeout: PROBE_TIMEOUT_MS, agent: false });
    asked.once('response', (response) => {
      response.resume();
      resolve(response.statusCode === 200);
    });
    asked.once('timeout', () => asked.destroy());
    asked.once('error', () => resolve(false));
    asked.end();
  });
}

function logSize(path: string): number {
  try {
    return readFileSync(path).length;
  } catch {
    return 0;
  }
}

/**
 * What a broker says of its end: the lines that are no JSON (it prints its last words on stderr, for
 * people), or else the messages of the errors it logged.
 */
export function lastErrors(log: string): string {
  const lines = log.split('\n').filter((line) => line.trim() !== '');
  const words = lines.filter((line) => parseLine(line) === undefined);
  const logged = lines.flatMap((line) => {
    const entry = parseLine(line);
    return entry !== undefined && isError(entry) ? [errorMessage(entry)] : [];
  });
  return (words.length > 0 ? words : logged)
    .slice(-ERROR_LINES_SHOWN)
    .map((message) => `\n  ${message}`)
    .join('');
}

type Entry = Readonly<Record<string, unknown>>;

function parseLine(line: string): Entry | undefined {
  try {
    const value: unknown = JSON.parse(line);
    return typeof value === 'object' && value !== null ? { ...value } : undefined;
  } catch {
    return undefined;
  }
}

const isError = (entry: Entry): boolean => entry['level'] === 'error';

function errorMessage(entry: Entry): string {
  const reason = entry['reason'];
  const event = String(entry['event']);
  return typeof reason === 'string' ? `${event}: ${reason}` : event;
}
