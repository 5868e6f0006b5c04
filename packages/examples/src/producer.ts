/** The process of the producer service. */
import { producerService } from './producer-service.ts';
import { runService } from './service.ts';

await runService('producer', async ({ relevo, settings, logger, signal }) => {
  const { TOPIC: topic, DELIVERY_TIMEOUT_MS: deliveryTimeoutMs, HOST: host, PORT: port } = settings;
  const service = producerService(relevo, { topic, deliveryTimeoutMs });
  logger.info({ address: await service.listen(host, port), topic }, 'listening');
  await new Promise((resolve) => signal.addEventListener('abort', resolve, { once: true }));
  await service.close();
});
