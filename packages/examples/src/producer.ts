/** The process of the producer service. */
import { once } from 'node:events';
import { producerService, type ProducerService } from './producer-service.ts';
import { runService } from './service.ts';
import { SettingsError } from './settings.ts';

/** No address of this machine, a name that nobody knows, a port that only root may have. */
const NEVER = new Set(['EADDRNOTAVAIL', 'ENOTFOUND', 'EACCES', 'EINVAL']);

await runService('producer', async ({ relevo, settings, logger, signal }) => {
  const { TOPIC: topic, DELIVERY_TIMEOUT_MS: deliveryTimeoutMs, HOST: host, PORT: port } = settings;
  const service = producerService(relevo, { topic, deliveryTimeoutMs });
  logger.info({ address: await listen(service, host, port), topic }, 'listening');
  if (!signal.aborted) await once(signal, 'abort');
  await service.close();
});

async function listen(service: ProducerService, host: string, port: number): Promise<string> {
  try {
    return await service.listen(host, port);
  } catch (error) {
    const code = error instanceof Error && 'code' in error ? String(error.code) : '';
    if (!NEVER.has(code)) throw error;
    const message = `the environment cannot be used: nothing can listen on HOST ${host}, PORT ${port} (${code})`;
    throw new SettingsError(message, { cause: error });
  }
}
