/** Producers and consumers of the production SDK, with everything they see written into a history. */
import type { Buffer } from 'node:buffer';
import type { Ports } from '@relevo/base/ports';
import { ClientError } from '@relevo/client/errors';
import type { Consumer } from '@relevo/client/consumer/consumer';
import type { Producer } from '@relevo/client/producer/producer';
import type { Receipt } from '@relevo/client/producer/producer-options';
import { Relevo } from '@relevo/client/relevo';
import type { History, Sent } from './history.ts';
import type { Plan } from './plan.ts';
import type { Prng } from './prng.ts';
import { simulatedCodecs } from './simulated-codecs.ts';
import type { World } from './world.ts';

export const TOPIC = 'orders';

/** Boots a process for a client and connects it. */
export async function connectClient(
  world: World,
  name: string,
  brokers: readonly string[],
): Promise<Relevo> {
  const ports = await new Promise<Ports>((resolve) => world.process(name).boot(resolve));
  return Relevo.over({ ...ports, codecs: simulatedCodecs }, { brokers, connectTimeoutMs: 60_000 });
}

export interface WorkloadOptions {
  readonly world: World;
  readonly plan: Plan;
  readonly history: History;
  readonly prng: Prng;
  /** Told of every acknowledgement. */
  readonly onAck: (sent: Sent) => void;
}

/** One producer that sends at its rate until it is stopped. */
export class ProducerLoop {
  readonly #name: string;
  readonly #options: WorkloadOptions;
  readonly #producer: Producer;
  readonly #prng: Prng;
  readonly #done: Promise<void>;
  #stopped = false;
  #count = 0;
  readonly #unsettled: Set<Promise<void>> = new Set();

  constructor(name: string, client: Relevo, options: WorkloadOptions) {
    this.#name = name;
    this.#options = options;
    this.#prng = options.prng.split(name);
    const { lingerMs, deliveryTimeoutMs } = options.plan;
    const compression = this.#prng.chance(0.1) ? 'gzip' : 'none';
    this.#producer = client.producer({ lingerMs, deliveryTimeoutMs, compression });
    this.#done = this.#run();
  }

  /** Sends no more; resolves when every send has settled. */
  async stop(): Promise<void> {
    this.#stopped = true;
    await this.#done;
    await this.#producer.flush();
    await Promise.all(this.#unsettled);
  }

  async #run(): Promise<void> {
    const { world, plan } = this.#options;
    while (!this.#stopped) {
      const burst = this.#prng.chance(0.1) ? this.#prng.integer(2, 30) : 1;
      for (let i = 0; i < burst; i++) this.#send();
      await world.sleep(this.#prng.exponential(plan.sendEveryMs * burst));
    }
  }

  #send(): void {
    const { plan, history } = this.#options;
    const partition = this.#prng.integer(0, plan.partitions - 1);
    const id = `${this.#name}-${this.#count++}`;
    const value = padded(id, this.#prng.integer(0, plan.valueBytesMax));
    const sent = history.send(this.#name, partition, id);
    const settled = this.#producer
      .send({ topic: TOPIC, partition, key: this.#name, value })
      .then(
        (receipt) => this.#acknowledged(sent, receipt),
        (error: unknown) => this.#failed(sent, error),
      )
      .then(() => void this.#unsettled.delete(settled));
    this.#unsettled.add(settled);
  }

  #acknowledged(sent: Sent, receipt: Receipt): void {
    sent.outcome = 'acknowledged';
    sent.offset = receipt.offset;
    sent.leaderEpoch = receipt.leaderEpoch;
    const { world, onAck } = this.#options;
    if (receipt.partition !== sent.partition) {
      world.fail(new Error(`sent to partition ${sent.partition}, receipt of ${receipt.partition}`));
    }
    onAck(sent);
  }

  #failed(sent: Sent, error: unknown): void {
    if (!(error instanceof ClientError)) {
      this.#options.world.fail(error);
      return;
    }
    sent.outcome = error.outcomeUnknown ? 'unknown' : 'failed';
    sent.reason = `${error.code}: ${error.message}`;
    this.#options.world.note('send', this.#name, `${sent.outcome}: ${sent.reason}`);
  }
}

/** `p0-17 7 xxxxxxx`: an id, the length of what follows, and that. */
export const padded = (id: string, length: number): string =>
  `${id} ${length} ${'x'.repeat(length)}`;

/** The id in a value that is whole; a value that is not counts as one that nobody sent. */
export function idOf(value: Buffer | null): string {
  if (value === null) return 'null';
  const head = value.subarray(0, 40).toString('latin1');
  const [id = '', length = ''] = head.split(' ', 2);
  const bodyAt = id.length + length.length + 2;
  const isWhole =
    value.length === bodyAt + Number(length) &&
    value.indexOf(120, bodyAt) === (value.length > bodyAt ? bodyAt : -1) &&
    (value.length === bodyAt || value.at(-1) === 120);
  return isWhole ? id : `damaged: ${head}`;
}

/** One consumer that reads everything from the start and keeps following. */
export class ConsumerLoop {
  readonly #name: string;
  readonly #world: World;
  readonly #history: History;
  readonly #next: Map<number, number> = new Map();
  readonly #consumer: Consumer;

  constructor(name: string, client: Relevo, world: World, history: History) {
    this.#name = name;
    this.#world = world;
    this.#history = history;
    this.#consumer = client.consumer({ topics: [TOPIC], from: 'earliest', maxWaitMs: 200 });
    this.#run().catch((error: unknown) => world.fail(error));
  }

  /** The offset after the last record that was read. */
  next(partition: number): number {
    return this.#next.get(partition) ?? 0;
  }

  close(): Promise<void> {
    return this.#consumer.close();
  }

  async #run(): Promise<void> {
    for await (const { partition, offset, value } of this.#consumer) {
      this.#history.read(this.#name, { partition, offset, value: idOf(value) });
      this.#next.set(partition, offset + 1);
    }
    this.#world.note('closed', this.#name, 'the consumer has ended');
  }
}
