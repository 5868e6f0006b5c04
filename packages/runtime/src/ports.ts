/** All the ports made real on Node.js, in one bundle. */
import type { Ports } from '@relevo/base/ports';
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
}

/** The same, with what only Node.js' versions can do. */
export interface NodePorts extends Ports {
  readonly logger: ClosableLogger;
  readonly metrics: PromMetrics;
}

export function createPorts(options: PortsOptions = {}): NodePorts {
  const logger = createLogger(options.logger);
  return {
    clock: new SystemClock(),
    timers: new NodeTimers(),
    random: new CryptoRandom(),
    disk: new NodeDisk(),
    transport: new GrpcTransport({ logger, describe: options.describe ?? false }),
    logger,
    metrics: new PromMetrics(),
    crc32c,
    hmacSha256,
  };
}
