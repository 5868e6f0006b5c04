/** A cluster started as a user starts it: `relevo start`, in a process of its own, as it was built. */
import { spawn, type ChildProcess } from 'node:child_process';
import { mkdtempSync, renameSync, rmSync } from 'node:fs';
import { createServer, type Server } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

/** The program as users run it; `npm run build` makes it. */
export const PROGRAM: string = fileURLToPath(new URL('../bin/launch.cjs', import.meta.url));
const READY_MS = 55_000;

export class StartedCluster {
  readonly directory: string;
  readonly port: number;
  readonly brokers: number;
  #child: ChildProcess | undefined;
  #output = '';
  #data: string;

  private constructor(directory: string, port: number, brokers: number) {
    this.directory = directory;
    this.port = port;
    this.brokers = brokers;
    this.#data = join(directory, 'data');
  }

  /** `prepare` makes the data directory that it finds. */
  static async start(
    brokers: number,
    prepare?: (data: string, port: number) => void,
  ): Promise<StartedCluster> {
    const directory = mkdtempSync(join(tmpdir(), 'relevo-cli-'));
    const cluster = new StartedCluster(directory, await freePorts(brokers), brokers);
    prepare?.(cluster.data, cluster.port);
    await cluster.start();
    return cluster;
  }

  get bootstrap(): string {
    return `127.0.0.1:${this.port}`;
  }

  /** Where the next start looks for it. */
  get data(): string {
    return this.#data;
  }

  /** The stopped cluster's data directory gets another name, and the next start is told it. */
  move(name: string): void {
    const to = join(this.directory, name);
    renameSync(this.#data, to);
    this.#data = to;
  }

  /** What `start` has printed, on both streams. */
  get output(): string {
    return this.#output;
  }

  get pid(): number | undefined {
    return this.#child?.pid;
  }

  /** Resolves when the welcome has been printed to its end. */
  async start(): Promise<void> {
    this.#output = '';
    const child = spawn(
      process.execPath,
      [
        PROGRAM,
        'start',
        ...['--brokers', String(this.brokers), '--port', String(this.port), '--data', this.data],
      ],
      { stdio: ['ignore', 'pipe', 'pipe'] },
    );
    this.#child = child;
    await new Promise<void>((resolve, reject) => {
      const late = setTimeout(() => reject(new Error(`not ready:\n${this.#output}`)), READY_MS);
      const look = (chunk: Buffer): void => {
        this.#output += chunk.toString();
        if (this.#output.includes('Ctrl-C stops the cluster')) {
          clearTimeout(late);
          resolve();
        }
      };
      child.stdout.on('data', look);
      child.stderr.on('data', look);
      child.once('exit', (code) => {
        clearTimeout(late);
        reject(new Error(`relevo start ended with ${code}:\n${this.#output}`));
      });
    });
  }

  /** Sends a signal to `relevo start` and gives its exit code. */
  async signal(signal: NodeJS.Signals): Promise<number | null> {
    const child = this.#child;
    if (child === undefined || child.exitCode !== null) return child?.exitCode ?? null;
    const ended = new Promise<number | null>((resolve) => child.once('exit', resolve));
    child.kill(signal);
    return ended;
  }

  async destroy(): Promise<void> {
    await this.signal('SIGTERM');
    rmSync(this.directory, { recursive: true, force: true });
  }
}

/** A port such that those which `relevo start` takes after it are free as well. */
async function freePorts(brokers: number): Promise<number> {
  for (let attempt = 0; attempt < 50; attempt++) {
    const first = 20_000 + Math.floor(Math.random() * 20_000);
    const wanted = Array.from({ length: brokers }, (_, index) => [
      first + index * 10,
      first + index * 10 + 1,
    ]).flat();
    const held = await Promise.all(wanted.map(hold));
    const servers = held.filter((server) => server !== undefined);
    await Promise.all(servers.map((server) => new Promise((done) => server.close(done))));
    if (servers.length === wanted.length) return first;
  }
  throw new Error('no free ports found');
}

function hold(port: number): Promise<Server | undefined> {
  return new Promise((resolve) => {
    const server = createServer();
    server.once('error', () => resolve(undefined));
    server.listen(port, '127.0.0.1', () => resolve(server));
  });
}
