/**
 * The `Logger` port over pino: one JSON object a line with `level`, `time` (ISO 8601), `event` and the
 * fields, or lines for people.
 */
import { createRequire } from 'node:module';
import { destination, pino, stdSerializers, stdTimeFunctions } from 'pino';
import type { DestinationStream, Logger as Pino } from 'pino';
import type { LogFields, Logger } from '@relevo/base/ports';

export type LogLevel = 'debug' | 'info' | 'warn' | 'error' | 'silent';

export interface LoggerOptions {
  /** What is less severe is left out. Default: info. */
  readonly level?: LogLevel;
  /** Coloured lines for people instead of JSON. Default: false. */
  readonly pretty?: boolean;
  /** Default: stderr. */
  readonly to?: 'stderr' | 'stdout';
}

export interface ClosableLogger extends Logger {
  /** Writes what is still in memory; done at exit as well. */
  flush(): void;
}

export function createLogger(options: LoggerOptions = {}): ClosableLogger {
  const { level = 'info', pretty = false, to = 'stderr' } = options;
  const fd = to === 'stderr' ? 2 : 1;
  const sink = pretty ? prettySink(fd) : jsonSink(fd);
  const root = pino(
    {
      level,
      messageKey: 'event',
      base: null,
      timestamp: stdTimeFunctions.isoTime,
      formatters: { level: (label) => ({ level: label }) },
      serializers: { error: stdSerializers.err },
    },
    sink.stream,
  );
  process.once('exit', sink.flush);
  return Object.assign(new PinoLogger(root), { flush: sink.flush });
}

interface Sink {
  readonly stream: DestinationStream;
  readonly flush: () => void;
}

/** Lines are written off the loop, so that a slow terminal or pipe holds nothing up. */
function jsonSink(fd: number): Sink {
  const stream = destination({ fd, sync: false });
  const flush = (): void => {
    try {
      stream.flushSync();
    } catch {
      // The other end is gone, or was never opened: there is nobody to read it.
    }
  };
  return { stream, flush };
}

/** In order and at once: it is for a terminal, and for tests that read it. */
function prettySink(fd: number): Sink {
  // Loaded when asked for: it is no small module.
  const load = createRequire(import.meta.url) as (name: 'pino-pretty') => PrettyModule;
  const stream = load('pino-pretty')({
    destination: fd,
    sync: true,
    colorize: process.stderr.isTTY && fd === 2,
    messageKey: 'event',
    translateTime: 'SYS:HH:MM:ss.l',
    singleLine: true,
  });
  return { stream, flush: () => undefined };
}

type PrettyModule = (options: Readonly<Record<string, unknown>>) => DestinationStream;

class PinoLogger implements Logger {
  readonly #pino: Pino;

  constructor(root: Pino) {
    this.#pino = root;
  }

  debug(event: string, fields?: LogFields): void {
    this.#pino.debug(fields, event);
  }

  info(event: string, fields?: LogFields): void {
    this.#pino.info(fields, event);
  }

  warn(event: string, fields?: LogFields): void {
    this.#pino.warn(fields, event);
  }

  error(event: string, fields?: LogFields): void {
    this.#pino.error(fields, event);
  }

  child(fields: LogFields): Logger {
    return new PinoLogger(this.#pino.child(fields));
  }
}
