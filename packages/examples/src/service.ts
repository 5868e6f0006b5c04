/** What both services have in common: a connection that waits for the cluster, the topic, the end. */
import { ClientError, Relevo } from '@relevo/client';
import { pino, type Logger } from 'pino';
import { EXIT_CONFIGURATION, readSettings, type Settings } from './settings.ts';

/** A cluster that starts together with its clients needs a moment. */
const CONNECT_TIMEOUT_MS = 60_000;
const TRY_AGAIN_MS = 500;

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
  let settings: Settings;
  try {
    settings = readSettings(process.env);
  } catch (error) {
    console.error(error instanceof Error ? error.message : error);
    process.exit(EXIT_CONFIGURATION);
  }
  try {
    const relevo = await connect(settings, stop.signal);
    await service({ relevo, settings, logger, signal: stop.signal });
    await relevo.close();
    logger.info('ended');
  } catch (error) {
    if (stop.signal.aborted) process.exit(0);
    logger.fatal({ err: error }, 'the service cannot go on');
    process.exit(1);
  }
}

async function connect(settings: Settings, signal: AbortSignal): Promise<Relevo> {
  const { RELEVO_BROKERS: brokers, TOPIC: topic } = settings;
  const relevo = await Relevo.connect({
    brokers: [...brokers],
    connectTimeoutMs: CONNECT_TIMEOUT_MS,
    signal,
  });
  const { PARTITIONS: partitions, REPLICATION_FACTOR: replicationFactor } = settings;
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
      await new Promise((resolve) => setTimeout(resolve, TRY_AGAIN_MS));
    }
  }
}
