/**
 * A cluster of real broker processes on this machine, started as a user starts them, to be killed,
 * frozen and restarted by tests. Only processes that it started are ever signalled.
 */
import { spawn, type ChildProcess } from 'node:child_process';
import {
  appendFileSync,
  existsSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { performance } from 'node:perf_hooks';
import { fileURLToPath } from 'node:url';
import { freePorts } from './ports.ts';
import { DEADLINE_MS, until } from './wait.ts';

const CLI = fileURLToPath(new URL('../../packages/cli/bin/launch.cjs', import.meta.url));

type Settings = Readonly<Record<string, string | number | boolean>>;

/** The gRPC address of a broker, or that of one of its further listeners. */
type AddressOf = (id: number, listener?: string) => string;

export interface ClusterOptions {
  /** Default 3. */
  readonly brokers?: number;
  /** Added to every broker's configuration. */
  readonly settings?: Settings;
  /** Names of further listeners, to be configured by `settingsOf`. Default: none. */
  readonly listeners?: readonly string[];
  /** Added to one broker's configuration. */
  readonly settingsOf?: (id: number, at: AddressOf) => Settings;
  /** Default true: the brokers share a secret, and prove to one another that they have it. */
  readonly secret?: boolean;
  /** Arguments for node itself, for example `--cpu-prof`, by broker id. */
  readonly nodeArguments?: (id: number) => readonly string[];
}

export interface LogLine {
  readonly event: string;
  readonly [field: string]: unknown;
}

export class BrokerProcess {
  readonly id: number;
  readonly address: string;
  readonly httpAddress: string;
  readonly configFile: string;
  readonly logFile: string;
  readonly directory: string;
  readonly #nodeArguments: readonly string[];
  #child: ChildProcess | undefined;
  #exit: Promise<number | null> = Promise.resolve(null);

  constructor(facts: {
    id: number;
    address: string;
    httpAddress: string;
    configFile: string;
    logFile: string;
    directory: string;
    nodeArguments: readonly string[];
  }) {
    this.id = facts.id;
    this.address = facts.address;
    this.httpAddress = facts.httpAddress;
    this.configFile = facts.configFile;
    this.logFile = facts.logFile;
    this.directory = facts.directory;
    this.#nodeArguments = facts.nodeArguments;
  }

  get pid(): number | undefined {
    return this.#child?.pid;
  }

  get running(): boolean {
    return (
      this.#child !== undefined && this.#child.exitCode === null && this.#child.signalCode === null
    );
  }

  start(): void {
    if (this.running) throw new Error(`broker ${this.id} is running already`);
    if (!existsSync(CLI)) throw new Error(`${CLI} is missing: run npm run build first`);
    const child = spawn(
      process.execPath,
      [...this.#nodeArguments, CLI, 'broker', '--config', this.configFile],
      { stdio: ['ignore', 'pipe', 'pipe'], env: withoutSettings(process.env) },
    );
    const keep = (chunk: Buffer): void => appendFileSync(this.logFile, chunk);
    child.stdout.on('data', keep);
    child.stderr.on('data', keep);
    this.#child = child;
    this.#exit = new Promise((resolve) => child.once('exit', (code) => resolve(code)));
  }

  signal(signal: NodeJS.Signals): void {
    if (!this.running || this.pid === undefined)
      throw new Error(`broker ${this.id} is not running`);
    process.kill(this.pid, signal);
  }

  /** SIGKILL, and waits until the process is gone. */
  async kill(): Promise<void> {
    this.signal('SIGKILL');
    await this.#exit;
  }

  /** SIGTERM, and waits for the end; gives the exit code. */
  async stop(deadlineMs = 30_000): Promise<number | null> {
    this.signal('SIGTERM');
    return this.exited(deadlineMs);
  }

  async exited(deadlineMs = 30_000): Promise<number | null> {
    let timer: NodeJS.Timeout | undefined;
    const late = new Promise<never>((_, reject) => {
      timer = setTimeout(
        () => reject(new Error(`broker ${this.id} had not ended after ${deadlineMs} ms`)),
        deadlineMs,
      );
    });
    try {
      return await Promise.race([this.#exit, late]);
    } finally {
      clearTimeout(timer);
    }
  }

  /** The parsed JSON log lines so far, of all the runs. */
  logLines(): LogLine[] {
    if (!existsSync(this.logFile)) return [];
    return readFileSync(this.logFile, 'utf8')
      .split('\n')
      .filter((line) => line.startsWith('{') && line.endsWith('}'))
      .map((line) => JSON.parse(line) as LogLine);
  }

  logText(): string {
    return existsSync(this.logFile) ? readFileSync(this.logFile, 'utf8') : '';
  }
}

/** What the caller's shell sets for other brokers is none of ours. */
const withoutSettings = (environment: NodeJS.ProcessEnv): NodeJS.ProcessEnv =>
  Object.fromEntries(Object.entries(environment).filter(([name]) => !name.startsWith('RELEVO_')));

/** Whatever ends this process, no broker is left behind. */
const living = new Set<TestCluster>();
process.once('exit', () => {
  for (const { brokers } of living) {
    for (const broker of brokers) if (broker.running) broker.signal('SIGKILL');
  }
});

export class TestCluster {
  readonly brokers: readonly BrokerProcess[];
  readonly directory: string;

  private constructor(brokers: readonly BrokerProcess[], directory: string) {
    this.brokers = brokers;
    this.directory = directory;
    living.add(this);
  }

  static async create(options: ClusterOptions = {}): Promise<TestCluster> {
    const count = options.brokers ?? 3;
    const directory = mkdtempSync(join(tmpdir(), 'relevo-cluster-'));
    const further = options.listeners ?? [];
    const each = 2 + further.length;
    const ports = await freePorts(count * each);
    const ids = Array.from({ length: count }, (_, index) => index + 1);
    const address = (id: number, index: number): string =>
      `127.0.0.1:${ports[(id - 1) * each + index]}`;
    const grpc: AddressOf = (id, listener) =>
      address(id, listener === undefined ? 0 : 2 + further.indexOf(listener));
    const http = (id: number): string => address(id, 1);
    const voters = ids.slice(0, Math.min(count, 3)).map((id) => `${id}@${grpc(id)}`);
    const secretFile = join(directory, 'cluster-secret');
    writeFileSync(secretFile, `the secret of this test cluster ${process.pid}\n`, { mode: 0o600 });
    const brokers = ids.map((id) => {
      const settings = {
        'cluster.id': 'test-cluster',
        'node.id': id,
        'process.roles': id <= 3 ? 'broker,controller' : 'broker',
        'log.dir': join(directory, `broker-${id}`),
        'listener.grpc': grpc(id),
        'listener.http': http(id),
        'controller.quorum.voters': voters.join(','),
        'log.disk.reserve.bytes': 0,
        ...(options.secret === false ? {} : { 'cluster.secret.file': secretFile }),
        ...options.settings,
        ...options.settingsOf?.(id, grpc),
      };
      const configFile = join(directory, `broker-${id}.yaml`);
      const lines = Object.entries(settings).map(
        ([key, value]) => `${key}: ${JSON.stringify(value)}`,
      );
      writeFileSync(configFile, `${lines.join('\n')}\n`);
      return new BrokerProcess({
        id,
        address: grpc(id),
        httpAddress: http(id),
        configFile,
        logFile: join(directory, `broker-${id}.log`),
        directory: String(settings['log.dir']),
        nodeArguments: options.nodeArguments?.(id) ?? [],
      });
    });
    return new TestCluster(brokers, directory);
  }

  static async start(options: ClusterOptions = {}): Promise<TestCluster> {
    const cluster = await TestCluster.create(options);
    try {
      for (const broker of cluster.brokers) broker.start();
      await cluster.ready();
      return cluster;
    } catch (error) {
      await cluster.destroy({ keep: true });
      throw error;
    }
  }

  get bootstrap(): string[] {
    return this.brokers.map((broker) => broker.address);
  }

  broker(id: number): BrokerProcess {
    const found = this.brokers.find((broker) => broker.id === id);
    if (found === undefined) throw new Error(`there is no broker ${id}`);
    return found;
  }

  /** Waits until every running broker says over HTTP that it is ready to serve. */
  async ready(deadlineMs = DEADLINE_MS): Promise<void> {
    await Promise.all(
      this.brokers
        .filter((broker) => broker.running)
        .map((broker) =>
          until(
            `broker ${broker.id} to be ready`,
            async () => {
              if (!broker.running) throw new Error(`it ended:\n${broker.logText().slice(-2000)}`);
              return (await fetch(`http://${broker.httpAddress}/readyz`)).ok;
            },
            { deadlineMs },
          ),
        ),
    );
  }

  /** Ends every process and, unless told to keep it, removes the data. */
  async destroy(options: { keep?: boolean } = {}): Promise<void> {
    for (const broker of this.brokers) {
      if (!broker.running) continue;
      // A frozen process takes SIGKILL, but not SIGTERM.
      await broker.kill();
    }
    living.delete(this);
    if (options.keep !== true) rmSync(this.directory, { recursive: true, force: true });
  }
}

/** Resident memory of a process in bytes and its CPU time in ms, from /proc. */
export function processCost(pid: number): { rssBytes: number; cpuMs: number } {
  const status = readFileSync(`/proc/${pid}/status`, 'utf8');
  const rssKib = Number(/VmRSS:\s+(\d+)/.exec(status)?.[1] ?? 0);
  const fields = readFileSync(`/proc/${pid}/stat`, 'utf8').split(') ')[1]?.split(' ') ?? [];
  const ticks = Number(fields[11]) + Number(fields[12]);
  return { rssBytes: rssKib * 1024, cpuMs: ticks * 10 };
}

export const nowMs = (): number => performance.now();
