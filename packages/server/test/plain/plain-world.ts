/** The plain services beside simulated brokers, on a host of their own. */
import { RpcError } from '@relevo/base/ports';
import { TOPIC_DEFAULTS } from '@relevo/controller/topic-config';
import { plainRecord, sendRequest } from '@relevo/rpc/gen/client/produce';
import type { PlainRecord, Receipt, SendRequest } from '@relevo/rpc/gen/client/produce';
import { PlainProducer } from '@relevo/server/plain/plain-producer';
import type { PlainProducerDeps } from '@relevo/server/plain/plain-producer';
import { utf8Encode } from '@relevo/base/bytes';
import { PartitionWorld } from '../partitions/partition-world.ts';
import type { TestClient } from '../partitions/partition-world.ts';

export const plainDeps = (world: PartitionWorld, { ports }: TestClient): PlainProducerDeps => ({
  ...ports,
  image: () => world.image,
  assertCurrent: () => undefined,
  topicDefaults: TOPIC_DEFAULTS,
  newProducerId: () => world.broker(1).manager.newProducerId(),
});

export class PlainSender {
  readonly #producer: PlainProducer;

  constructor(world: PartitionWorld, client: TestClient) {
    this.#producer = new PlainProducer(plainDeps(world, client));
  }

  async send(
    topic: string,
    values: readonly string[],
    more: Partial<SendRequest> = {},
  ): Promise<readonly Receipt[]> {
    const records = values.map((value): PlainRecord => plainRecord({ value: utf8Encode(value) }));
    const { receipts } = await this.#producer.send(sendRequest({ topic, records, ...more }));
    return receipts;
  }

  /** `CODE: message` of the refusal, or `acknowledged`. */
  async outcome(
    topic: string,
    values: readonly string[],
    more: Partial<SendRequest> = {},
  ): Promise<string> {
    return outcomeOf(this.send(topic, values, more));
  }
}

export async function outcomeOf(call: Promise<unknown>): Promise<string> {
  try {
    await call;
    return 'acknowledged';
  } catch (error) {
    if (error instanceof RpcError) return `${error.code ?? error.status}: ${error.message}`;
    if (!(error instanceof Error)) throw error;
    return `${'code' in error ? String(error.code) : error.name}: ${error.message}`;
  }
}

/** One topic `orders` with one partition, led by broker 1 of as many as there are replicas. */
export async function withOrders(
  replicas: readonly number[],
  scenario: (world: PartitionWorld, client: TestClient) => Promise<void>,
  config: Readonly<Record<string, string>> = {},
): Promise<void> {
  const world = new PartitionWorld();
  await world.run(async () => {
    await world.boot(...replicas);
    world.createTopic('orders', [replicas], config);
    await world.world.until(
      'broker 1 leads',
      () => world.broker(1).manager.status().leading === 1,
      3000,
    );
    await scenario(world, await world.client());
  });
}
