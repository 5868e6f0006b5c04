/**
 * What `relevo start` keeps below its data directory:
 *
 *     cluster.json      id, number of brokers, ports: what the cluster was made with
 *     broker-N.yaml     configuration of broker N; made once, then left to the user; its paths are relative
 *                       to it, so that the whole can be moved and copied
 *     cluster-secret    by which the brokers know one another; for its owner alone
 *     broker-N.log      its log lines
 *     broker-N/         its data
 *     running.pid       the `relevo start` that runs the cluster
 */
import { randomBytes } from 'node:crypto';
import {
  existsSync,
  mkdirSync,
  readFileSync,
  readdirSync,
  realpathSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { basename, dirname, isAbsolute, join, relative, resolve } from 'node:path';
import { uuidFromBytes } from '@relevo/base/ids';
import { readConfig } from '@relevo/server/config/config-file';
import { ConfigError } from '@relevo/server/config/node-config';
import { CommandError, EXIT, usageError } from '../exit-codes.ts';
import { makeSecretFile } from './secret-file.ts';

export const BROKERS_DEFAULT = 3;
export const BROKERS_MAX = 32;
/** gRPC port of the first broker; HTTP is the next one, the next broker's are 10 higher. */
export const PORT_DEFAULT = 9093;
const PORTS_APART = 10;
const VOTERS_MAX = 3;
const HOST = '127.0.0.1';
const LOG_BYTES_KEPT = 16 * 1024 * 1024;

export interface LocalBroker {
  readonly id: number;
  readonly grpc: string;
  readonly http: string;
  readonly configFile: string;
  readonly logFile: string;
}

export interface LocalCluster {
  readonly directory: string;
  readonly clusterId: string;
  readonly port: number;
  readonly brokers: readonly LocalBroker[];
}

export interface LayoutOptions {
  readonly directory: string;
  /** Not given: what the directory says, else the default. */
  readonly brokers?: number | undefined;
  readonly port?: number | undefined;
  /** Wipe the directory first. */
  readonly fresh: boolean;
}

interface Description {
  readonly clusterId: string;
  readonly brokers: number;
  readonly port: number;
}

/** A cluster as it is, or as it will be once its layout is written. */
export interface PlannedCluster extends LocalCluster {
  /** Whether the directory holds no cluster yet, or one that is to be wiped. */
  readonly isNew: boolean;
}

/** What a start would run, or why it cannot; changes nothing. */
export function planLayout(options: LayoutOptions): PlannedCluster {
  const directory = resolve(options.directory);
  refuseForeign(directory);
  refuseRunning(directory);
  const found = options.fresh ? undefined : foundDescription(directory, options);
  const { clusterId, brokers: size, port } = found ?? newDescription(options);
  const brokers = Array.from({ length: size }, (_, index): LocalBroker => {
    const grpcPort = port + index * PORTS_APART;
    const id = index + 1;
    return {
      id,
      grpc: `${HOST}:${grpcPort}`,
      http: `${HOST}:${grpcPort + 1}`,
      configFile: join(directory, `broker-${id}.yaml`),
      logFile: join(directory, `broker-${id}.log`),
    };
  });
  return { directory, brokers, clusterId, port, isNew: found === undefined };
}

/**
 * Throws where a broker of the cluster would keep its data elsewhere than in the cluster's directory: it
 * was moved or copied with a configuration that names the old place. Changes nothing.
 */
export function refuseDataElsewhere(
  cluster: PlannedCluster,
  environment: Readonly<Record<string, string | undefined>>,
): void {
  if (cluster.isNew) return;
  if (environment['RELEVO_LOG_DIR'] !== undefined) {
    throw new CommandError(
      'RELEVO_LOG_DIR is set, and would be the data directory of every broker; unset it',
      EXIT.configuration,
    );
  }
  for (const { id, configFile } of cluster.brokers) {
    if (!existsSync(configFile)) continue;
    const directory = dataDirectoryOf(configFile, environment);
    if (isWithin(cluster.directory, directory)) continue;
    throw new CommandError(
      `${configFile} has log.dir ${directory}, which is not in ${cluster.directory}: set log.dir there ` +
        `to broker-${id}, which is relative to the file, to use the data beside it (and so for each ` +
        `broker), or start the cluster that it belongs to with --data ${dirname(directory)}`,
      EXIT.configuration,
    );
  }
}

function dataDirectoryOf(
  configFile: string,
  environment: Readonly<Record<string, string | undefined>>,
): string {
  try {
    return readConfig(configFile, { environment })['log.dir'];
  } catch (error) {
    if (!(error instanceof ConfigError)) throw error;
    throw new CommandError(error.message, EXIT.configuration, { cause: error });
  }
}

/** Symbolic links aside. */
function isWithin(directory: string, path: string): boolean {
  const steps = relative(realPath(directory), realPath(path));
  return steps !== '' && !steps.startsWith('..') && !isAbsolute(steps);
}

/** Of a path whose end may not exist yet. */
const realPath = (path: string): string =>
  existsSync(path) ? realpathSync(path) : join(realPath(dirname(path)), basename(path));

/** Makes the directory ready for a start. */
export function writeLayout(cluster: PlannedCluster): void {
  const { directory, brokers, clusterId, port, isNew } = cluster;
  if (isNew) empty(directory);
  mkdirSync(directory, { recursive: true });
  if (isNew) {
    const made: Description = { clusterId, brokers: brokers.length, port };
    makeSecretFile(join(directory, SECRET_FILE));
    writeFileSync(descriptionFile(directory), `${JSON.stringify(made, null, 2)}\n`);
  }
  for (const broker of brokers) {
    if (!existsSync(broker.configFile))
      writeFileSync(broker.configFile, configText(cluster, broker));
    keepLogShort(broker.logFile);
  }
  writeFileSync(pidFile(directory), `${process.pid}\n`);
}

export const releaseLayout = (cluster: LocalCluster): void =>
  rmSync(pidFile(cluster.directory), { force: true });

const SECRET_FILE = 'cluster-secret';
const descriptionFile = (directory: string): string => join(directory, 'cluster.json');
const pidFile = (directory: string): string => join(directory, 'running.pid');

const newDescription = (options: LayoutOptions): Description => ({
  clusterId: uuidFromBytes(randomBytes(16)),
  brokers: options.brokers ?? BROKERS_DEFAULT,
  port: options.port ?? PORT_DEFAULT,
});

function foundDescription(directory: string, options: LayoutOptions): Description | undefined {
  const path = descriptionFile(directory);
  if (!existsSync(path)) return undefined;
  const found = readDescription(path);
  for (const key of ['brokers', 'port'] as const) {
    const wanted = options[key];
    if (wanted !== undefined && wanted !== found[key]) {
      throw usageError(
        `the cluster in ${directory} was made with --${key} ${found[key]}, not ${wanted}; leave the ` +
          'option away, name another directory with --data, or wipe this one with --fresh',
      );
    }
  }
  return found;
}

function readDescription(path: string): Description {
  try {
    const read: unknown = JSON.parse(readFileSync(path, 'utf8'));
    if (isDescription(read)) return read;
  } catch {
    // The same answer as for JSON that says something else.
  }
  throw new CommandError(
    `${path} does not describe a cluster; put back {"clusterId": …, "brokers": …, "port": …} as the ` +
      'broker-*.yaml files beside it have them, or wipe the directory with --fresh',
    EXIT.configuration,
  );
}

const isDescription = (value: unknown): value is Description =>
  typeof value === 'object' &&
  value !== null &&
  'clusterId' in value &&
  typeof value.clusterId === 'string' &&
  'brokers' in value &&
  Number.isInteger(value.brokers) &&
  'port' in value &&
  Number.isInteger(value.port);

/** We write into, and wipe, only what is ours. */
function refuseForeign(directory: string): void {
  if (!existsSync(directory) || existsSync(descriptionFile(directory))) return;
  if (!statSync(directory).isDirectory()) {
    throw usageError(`--data ${directory} is a file; name a directory`);
  }
  if (readdirSync(directory).length > 0) {
    throw usageError(
      `${directory} is not empty and has no cluster.json, so it is not a data directory of ` +
        '`relevo start`; name another one with --data',
    );
  }
}

function refuseRunning(directory: string): void {
  const path = pidFile(directory);
  if (!existsSync(path)) return;
  const pid = Number(readFileSync(path, 'utf8'));
  if (!Number.isInteger(pid) || pid <= 0 || pid === process.pid || !isAlive(pid)) return;
  throw new CommandError(
    `the cluster in ${directory} is run by process ${pid} already; stop that one first (if it is no ` +
      `relevo, remove ${path})`,
  );
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (thrown) {
    return thrown instanceof Error && 'code' in thrown && thrown.code === 'EPERM';
  }
}

function empty(directory: string): void {
  if (!existsSync(directory)) return;
  for (const name of readdirSync(directory)) {
    rmSync(join(directory, name), { recursive: true, force: true });
  }
}

function keepLogShort(path: string): void {
  if (existsSync(path) && statSync(path).size > LOG_BYTES_KEPT) renameSync(path, `${path}.1`);
}

/** Paths are relative to the file: it serves `relevo broker --config` from anywhere, and can be moved. */
function configText(cluster: LocalCluster, broker: LocalBroker): string {
  const size = cluster.brokers.length;
  const voters = cluster.brokers.slice(0, size < VOTERS_MAX ? 1 : VOTERS_MAX);
  const votes = voters.some((voter) => voter.id === broker.id);
  const settings: Readonly<Record<string, string | number>> = {
    'cluster.id': cluster.clusterId,
    'node.id': broker.id,
    'process.roles': votes ? 'broker,controller' : 'broker',
    'controller.quorum.voters': voters.map((voter) => `${voter.id}@${voter.grpc}`).join(','),
    'listener.grpc': broker.grpc,
    'listener.http': broker.http,
    'log.dir': `broker-${broker.id}`,
    // A cluster that was made without one goes on as it was.
    ...(existsSync(join(cluster.directory, SECRET_FILE)) && { 'cluster.secret.file': SECRET_FILE }),
    'default.replication.factor': Math.min(size, 3),
    'min.insync.replicas': size >= 3 ? 2 : 1,
  };
  const lines = Object.entries(settings).map(([key, value]) => `${key}: ${JSON.stringify(value)}`);
  return [
    `# Broker ${broker.id} of the cluster that \`relevo start\` made here. It is written once: settings`,
    '# that you add or change are kept. Paths are relative to this file. To run this broker alone:',
    `#     npx relevo broker --config PATH/TO/${basename(broker.configFile)}`,
    ...lines,
    '',
  ].join('\n');
}
