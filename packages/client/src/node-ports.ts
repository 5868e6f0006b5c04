/** The ports made real on Node.js: what `Relevo.connect` works with. */
import type { Logger } from '@relevo/base/ports';
import { CryptoRandom, NodeTimers, SystemClock } from '@relevo/runtime/clock';
import { codecs } from '@relevo/runtime/compression';
import { crc32c } from '@relevo/runtime/crc32c';
import { GrpcTransport } from '@relevo/runtime/grpc-transport';
import { createLogger } from '@relevo/runtime/logger';
import type { LogLevel } from '@relevo/runtime/logger';
import type { ClientPorts } from './client-ports.ts';

export interface NodePortsOptions {
  readonly logger?: Logger | undefined;
  readonly logLevel?: LogLevel | undefined;
}

/** One a level for the whole process: each keeps a stream to stderr. */
const LOGGERS = new Map<LogLevel, Logger>();

export function createClientPorts(options: NodePortsOptions): ClientPorts {
  const logger = options.logger ?? sharedLogger(options.logLevel ?? 'warn');
  return {
    clock: new SystemClock(),
    timers: new NodeTimers(),
    random: new CryptoRandom(),
    transport: new GrpcTransport({ logger }),
    logger,
    crc32c,
    codecs,
  };
}

function sharedLogger(level: LogLevel): Logger {
  const known = LOGGERS.get(level);
  if (known !== undefined) return known;
  const logger = createLogger({ level });
  LOGGERS.set(level, logger);
  return logger;
}
