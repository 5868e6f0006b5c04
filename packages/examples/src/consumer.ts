/** The process of the consumer service. */
import { consumerService } from './consumer-service.ts';
import { runService } from './service.ts';

await runService('consumer', ({ relevo, settings, signal }) =>
  consumerService(relevo, {
    topic: settings.TOPIC,
    print: (line) => console.log(line),
    signal,
  }),
);
