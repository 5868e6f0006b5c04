/** All the ports made real on Node.js, in one bundle. */
import type { Logger, Ports } from '@relevo/base/ports';
import { ClientBook } from './client-limits.ts';
import type { ClientLimits } from './client-limits.ts';
import { CryptoRandom, NodeTimers, SystemClock } from './clock.ts';
import { crc32c } from './crc32c.ts';
import { NodeDisk } from './disk.ts';
import { GrpcTransport } from './grpc-transport.ts';
import { hmacSha256 } from './hmac.ts';
import { createLogger } from './logger.ts';
import type { ClosableLogger, LoggerOptions } from './logger.ts';
import { PromMetrics } from './metrics.ts';

export interface PortsOptions {
  readonly logger?: LoggerOptions;
  /** Serve health checks and reflection beside the routes of each listener. Default: false. */
  readonly describe?: boolean;
  /** What clients may hold open. Default: see `CLIENT_LIMITS`. */
  readonly clientLimits?: ClientLimits;
}

/** The same, with what only Node.js' versions can do. */
export interface NodePorts extends Ports {
  readonly logger: ClosableLogger;
  readonly metrics: PromMetrics;
}

export function createPorts(options: PortsOptions = {}): NodePorts {
  const logger = createLogger(options.logger);
  const metrics = new PromMetrics();
  const clients = clientBook(options.clientLimits, logger, metrics);
  return {
    clock: new SystemClock(),
    timers: new NodeTimers(),
    random: new CryptoRandom(),
    disk: new NodeDisk(),
    transport: new GrpcTransport({ logger, clients, describe: options.describe ?? false }),
    logger,
    metrics,
    crc32c,
    hmacSha256,
  };
}

/** A line of refusals comes at most so often, however many there are. */
const REFUSAL_LINE_MS = 10_000;

function clientBook(
  limits: ClientLimits | undefined,
  logger: Logger,
  metrics: PromMetrics,
): ClientBook {
  const refused = metrics.counter(
    'relevo_client_refusals_total',
    'Calls of clients that were refused, and connections that were closed, as too many were open.',
  );
  let nextLineMs = 0;
  const book = new ClientBook(limits, (why) => {
    refused.add(1);
    const nowMs = performance.now();
    if (nowMs < nextLineMs) return;
    nextLineMs = nowMs + REFUSAL_LINE_MS;
    logger.warn('clients hold too much open', { example: why });
  });
  metrics.measure(
    'relevo_client_connections',
    'Open connections, those of other nodes included.',
    () => [{ value: book.connections }],
  );
  metrics.measure('relevo_client_calls', 'Calls and streams of clients that are open.', () => [
    { value: book.calls },
  ]);
  return book;
}
