/** A real Prometheus on this machine, and what can be asked of it. */
import { spawn, spawnSync, type ChildProcess } from 'node:child_process';
import { existsSync } from 'node:fs';
import { delimiter, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { until } from '../lib/wait.ts';

/** Where .ci/run unpacks Debian's package. */
const UNPACKED = fileURLToPath(
  new URL('../../node_modules/.cache/prometheus/usr/bin', import.meta.url),
);

/** Path of `prometheus` or `promtool`; undefined where there is none. */
export const findProgram = (name: string): string | undefined =>
  [...(process.env['PATH'] ?? '').split(delimiter), UNPACKED]
    .map((folder) => join(folder, name))
    .find((path) => existsSync(path));

/** All that promtool says when it is not content; nothing when it is. */
export function promtool(program: string, folder: string, args: readonly string[]): string[] {
  const { status, stdout, stderr, error } = spawnSync(program, args, {
    cwd: folder,
    encoding: 'utf8',
    timeout: 30_000,
  });
  if (status === 0) return [];
  const why = error === undefined ? '' : `${error.message}\n`;
  return [`promtool ${args.join(' ')}:\n${why}${stdout}${stderr}`];
}

export interface Sample {
  readonly metric: Readonly<Record<string, string>>;
  readonly value: number;
}

export interface Rule {
  readonly name: string;
  readonly query: string;
  readonly health: string;
  readonly lastError?: string;
  readonly state: string;
}

export class Prometheus {
  readonly #child: ChildProcess;
  readonly #url: string;
  #output = '';
  readonly #exit: Promise<void>;
  readonly #onExit = (): void => void this.#child.kill('SIGKILL');

  private constructor(child: ChildProcess, url: string) {
    this.#child = child;
    this.#url = url;
    child.stdout?.on('data', (chunk: Buffer) => (this.#output += chunk.toString()));
    child.stderr?.on('data', (chunk: Buffer) => (this.#output += chunk.toString()));
    this.#exit = new Promise((done) => child.once('exit', () => done()));
    process.once('exit', this.#onExit);
  }

  /** Resolves when it answers. `directory` holds its data. */
  static async start(options: {
    readonly program: string;
    readonly configFile: string;
    readonly directory: string;
    readonly address: string;
  }): Promise<Prometheus> {
    const child = spawn(
      options.program,
      [
        `--config.file=${options.configFile}`,
        `--storage.tsdb.path=${options.directory}`,
        `--web.listen-address=${options.address}`,
        '--log.level=warn',
      ],
      { stdio: ['ignore', 'pipe', 'pipe'] },
    );
    const server = new Prometheus(child, `http://${options.address}`);
    try {
      await until('Prometheus to be ready', async () => {
        if (child.exitCode !== null) throw new Error(`it ended: ${server.#output.slice(-2000)}`);
        return (await fetch(`${server.#url}/-/ready`)).ok;
      });
    } catch (error) {
      await server.stop();
      throw error;
    }
    return server;
  }

  async stop(): Promise<void> {
    process.removeListener('exit', this.#onExit);
    if (this.#child.exitCode === null && this.#child.signalCode === null) {
      this.#child.kill('SIGKILL');
    }
    await this.#exit;
  }

  /** An instant query. Rejects with what Prometheus says of a query that it does not take. */
  async query(expr: string): Promise<Sample[]> {
    interface Result {
      readonly resultType: string;
      readonly result: readonly {
        readonly metric: Readonly<Record<string, string>>;
        readonly value: readonly [number, string];
      }[];
    }
    const { resultType, result } = await this.#get<Result>('query', { query: expr });
    if (resultType !== 'vector') throw new Error(`gives a ${resultType}, not a vector: ${expr}`);
    return result.map(({ metric, value: [, value] }) => ({ metric, value: Number(value) }));
  }

  labelValues(metric: string, label: string): Promise<string[]> {
    return this.#get<string[]>(`label/${label}/values`, { 'match[]': metric });
  }

  async rules(): Promise<Rule[]> {
    const { groups } = await this.#get<{ readonly groups: readonly { rules: Rule[] }[] }>('rules');
    return groups.flatMap(({ rules }) => rules);
  }

  /** Names of the alerts that fire now. */
  async firing(): Promise<Set<string>> {
    const rules = await this.rules();
    return new Set(rules.filter(({ state }) => state === 'firing').map(({ name }) => name));
  }

  async #get<Data>(path: string, parameters: Readonly<Record<string, string>> = {}): Promise<Data> {
    const search = new URLSearchParams(parameters).toString();
    const response = await fetch(`${this.#url}/api/v1/${path}?${search}`, {
      signal: AbortSignal.timeout(10_000),
    });
    const body = (await response.json()) as { status: string; error?: string; data: Data };
    if (body.status !== 'success') {
      throw new Error(`Prometheus refuses ${path} ${search}: ${body.error ?? response.statusText}`);
    }
    return body.data;
  }
}
