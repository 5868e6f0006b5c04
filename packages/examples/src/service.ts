/** What both services have in common: a connection that waits for the cluster, the topic, the end. */
import { ClientError, Relevo } from '@relevo/client';
import { pino, type Logger } from 'pino';
import { EXIT_CONFIGURATION, readSettings, SettingsError, type Settings } from './settings.ts';

/** A cluster that starts together with its clients needs a moment. */
const CONNECT_TIMEOUT_MS = 60_000;
const TRY_AGAIN_MS = 500;
/** Between two lines of the log about the same failure: at first, and at most. */
const REPEAT_MS = { first: 2_000, most: 60_000 } as const;

/** What another try cannot help: somebody has to change a setting. */
const MISTAKES: ReadonlySet<string> = new Set([
  'INVALID_ARGUMENT',
  'INVALID_TOPIC_EXCEPTION',
  'INVALID_PARTITIONS',
  'INVALID_CONFIG',
]);

export interface ServiceContext {
  readonly relevo: Relevo;
  readonly settings: Settings;
  readonly logger: Logger;
  /** SIGTERM or SIGINT. */
  readonly signal: AbortSignal;
}

/** Runs a service as a process: until it is told to end, or fails. */
export async function runService(
  name: string,
  service: (context: ServiceContext) => Promise<void>,
): Promise<void> {
  const logger = pino({ name });
  const stop = new AbortController();
  for (const signal of ['SIGTERM', 'SIGINT'] as const) process.on(signal, () => stop.abort());
  try {
    const settings = readSettings(process.env);
    const relevo = await connect(settings, logger, stop.signal);
    await service({ relevo, settings, logger, signal: stop.signal });
    await relevo.close();
    logger.info('ended');
  } catch (error) {
    if (stop.signal.aborted) process.exit(0);
    if (isMistake(error)) {
      console.error(error.message);
      process.exit(EXIT_CONFIGURATION);
    }
    logger.fatal({ err: error }, 'the service cannot go on');
    process.exit(1);
  }
}

const isMistake = (error: unknown): error is Error =>
  error instanceof SettingsError || (error instanceof ClientError && MISTAKES.has(error.code));

async function connect(settings: Settings, logger: Logger, signal: AbortSignal): Promise<Relevo> {
  const { RELEVO_BROKERS: brokers, TOPIC: topic } = settings;
  const relevo = await Relevo.connect({
    brokers: [...brokers],
    connectTimeoutMs: CONNECT_TIMEOUT_MS,
    signal,
  });
  const { PARTITIONS: partitions, REPLICATION_FACTOR: replicationFactor } = settings;
  let repeatMs: number = REPEAT_MS.first;
  let quietUntil = 0;
  for (;;) {
    try {
      await relevo.admin.createTopic({ topic, partitions, replicationFactor });
      return relevo;
    } catch (error) {
      if (!(error instanceof ClientError)) throw error;
      if (error.code === 'TOPIC_ALREADY_EXISTS') return relevo;
      // Not all brokers have joined yet.
      const early = error.code === 'INVALID_REPLICATION_FACTOR' || error.retriable;
      if (!early || signal.aborted) throw error;
      if (performance.now() >= quietUntil) {
        logger.warn(
          { topic, code: error.code, reason: error.message },
          'no topic yet; trying again',
        );
        quietUntil = performance.now() + repeatMs;
        repeatMs = Math.min(repeatMs * 2, REPEAT_MS.most);
      }
      await new Promise((resolve) => setTimeout(resolve, TRY_AGAIN_MS));
    }
  }
}
