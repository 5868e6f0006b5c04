/**
 * A broker process: where a node meets the real ports. Reads the configuration, starts the node, serves
 * HTTP, and stops in order on SIGTERM or SIGINT.
 */
import { readFileSync, statSync } from 'node:fs';
import { messageOf } from '@relevo/base/errors';
import { VERSION } from '@relevo/base/version';
import { codecs } from '@relevo/runtime/compression';
import { startHttpServer, type HttpServer } from '@relevo/runtime/http-server';
import { createPorts, type NodePorts } from '@relevo/runtime/ports';
import { readConfig } from './config/config-file.ts';
import type { NodeConfig } from './config/node-config.ts';
import { createNode, StartError, type Node, type StartOptions } from './node.ts';
import { SecretError, checkSecretMode, secretsOf } from './security/cluster-secret.ts';

/** Exit codes: done; failed while starting or running; not to be started like this (sysexits' EX_CONFIG). */
const EXIT = { ok: 0, failed: 1, configuration: 78 } as const;

/** Open calls may take so long to end once the broker leads nothing any more. */
const FORCED_EXIT_MS = 25_000;

/**
 * Runs a broker until it is told to stop; resolves with the process's exit code. Without a file all
 * settings come from the environment and from flags.
 */
export async function runBroker(
  configFile: string | undefined,
  flags: Readonly<Record<string, string>> = {},
  options: StartOptions = {},
): Promise<number> {
  let config: NodeConfig;
  let clusterSecrets: readonly Uint8Array[];
  try {
    config = readConfig(configFile, { environment: process.env, flags });
    clusterSecrets = readClusterSecrets(config['cluster.secret.file']);
  } catch (error) {
    process.stderr.write(`${messageOf(error)}\n`);
    return EXIT.configuration;
  }
  const ports = createPorts({
    logger: { level: config['log.level'], pretty: config['log.pretty'], to: 'stdout' },
    describe: true,
    clientLimits: {
      connections: config['max.connections'],
      calls: config['max.calls'],
      callsPerConnection: config['max.calls.per.connection'],
    },
  });
  const running = { version: VERSION, node: process.version };
  ports.metrics.gauge('relevo_build_info', 'What runs: always 1.', running).set(1);
  const stop = stopSignal(ports);
  const node = createNode(config, { ...ports, codecs, clusterSecrets }, options);
  let http: HttpServer | undefined;
  try {
    await node.start();
    http = await serveHttp(config, ports, node);
  } catch (error) {
    await node.stop().catch((late: unknown) => ports.logger.error('stop failed', { error: late }));
    ports.logger.flush();
    return failed('cannot start', error);
  }
  const fatal = new Promise<StartError>((resolve) => node.onFatal(resolve));
  const cause = await Promise.race([stop, fatal]);
  const fallen = cause instanceof StartError;
  ports.logger.info('stopping', { cause: fallen ? 'it cannot go on' : cause });
  const forced = setTimeout(() => {
    ports.logger.error('the stop took too long', { limitMs: FORCED_EXIT_MS });
    ports.logger.flush();
    process.exit(EXIT.failed);
  }, FORCED_EXIT_MS);
  forced.unref();
  await node.stop();
  await http?.close();
  ports.logger.info('stopped');
  ports.logger.flush();
  return fallen ? failed('cannot go on', cause) : EXIT.ok;
}

function readClusterSecrets(file: string): readonly Uint8Array[] {
  if (file === '') return [];
  let mode: number;
  let text: string;
  try {
    ({ mode } = statSync(file));
    text = readFileSync(file, 'utf8');
  } catch (error) {
    throw new SecretError(`cluster.secret.file cannot be read: ${messageOf(error)}`);
  }
  checkSecretMode(mode, file);
  return secretsOf(text, file);
}

/** One line that says what is wrong and what to do, the last one, and the exit code that fits it. */
function failed(what: 'cannot start' | 'cannot go on', error: unknown): number {
  const bug = error instanceof TypeError && error.stack !== undefined;
  process.stderr.write(`relevo: the broker ${what}: ${bug ? error.stack : messageOf(error)}\n`);
  const configuration = error instanceof StartError && error.kind === 'configuration';
  return configuration ? EXIT.configuration : EXIT.failed;
}

function serveHttp(
  config: NodeConfig,
  ports: NodePorts,
  node: Node,
): Promise<HttpServer> | undefined {
  const listener = config['listener.http'];
  if (listener === 'none') return undefined;
  const colon = listener.lastIndexOf(':');
  return startHttpServer({
    host: listener.slice(0, colon).replace(/^\[|\]$/g, ''),
    port: Number(listener.slice(colon + 1)),
    metrics: ports.metrics,
    unhealthy: () => node.unhealthy(),
    unready: () => node.unready(),
    warnings: () => node.warnings(),
  });
}

/** Resolves at the first SIGTERM or SIGINT with its name; the second ends the process at once. */
function stopSignal(ports: NodePorts): Promise<string> {
  process.on('uncaughtException', (error) => crash(error, ports));
  process.on('unhandledRejection', (error) => crash(error, ports));
  return new Promise((resolve) => {
    let asked = false;
    const ask = (signal: NodeJS.Signals): void => {
      if (asked) process.exit(EXIT.failed);
      asked = true;
      resolve(signal);
    };
    process.on('SIGTERM', ask);
    process.on('SIGINT', ask);
  });
}

/** A broken invariant: what is on disk is safe, what is in memory is not to be trusted. */
function crash(error: unknown, ports: NodePorts): never {
  ports.logger.error('crashed', { error });
  ports.logger.flush();
  process.exit(EXIT.failed);
}
