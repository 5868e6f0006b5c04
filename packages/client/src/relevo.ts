/**
 * A client of one cluster. It keeps one view of the metadata and one connection per broker, which its
 * producers, consumers and admin share.
 */
import type { Logger } from '@relevo/base/ports';
import { Admin } from './admin.ts';
import type { ClientPorts } from './client-ports.ts';
import { Connections } from './connections.ts';
import { Consumer } from './consumer/consumer.ts';
import type { ConsumerOptions, DefaultData } from './consumer/consumer-options.ts';
import { ClientError, closedError } from './errors.ts';
import { Metadata } from './metadata.ts';
import { checkMethods, checkNames, list, oneOf, text, within } from './options.ts';
import type { NamesOf } from './options.ts';
import { Producer } from './producer/producer.ts';
import type { ProducerOptions } from './producer/producer-options.ts';

export interface RelevoOptions {
  /** host:port of the gRPC port of one broker or more; the others are found through these. */
  readonly brokers: readonly string[];
  /** How long to wait for the first answer, ms. Default: 10,000. */
  readonly connectTimeoutMs?: number;
  readonly signal?: AbortSignal;
  /** How much is written to stderr, as lines of JSON. Default: warn. */
  readonly logLevel?: 'debug' | 'info' | 'warn' | 'error' | 'silent';
  /** In place of stderr. */
  readonly logger?: Logger;
}

/** What a producer takes without serializers. */
export type DefaultInput = Uint8Array | string | null;

const CONNECT_TIMEOUT_MS = 10_000;
const DAY_MS = 86_400_000;
const NAMES: NamesOf<RelevoOptions> = {
  brokers: true,
  connectTimeoutMs: true,
  signal: true,
  logLevel: true,
  logger: true,
};

export class Relevo {
  readonly admin: Admin;
  readonly #ports: ClientPorts;
  readonly #connections: Connections;
  readonly #metadata: Metadata;
  readonly #producers = new Set<Producer<never, never>>();
  readonly #consumers = new Set<Consumer<unknown, unknown>>();
  #closing: Promise<void> | undefined;

  private constructor(ports: ClientPorts, connections: Connections, metadata: Metadata) {
    this.#ports = ports;
    this.#connections = connections;
    this.#metadata = metadata;
    this.admin = new Admin({ ports, metadata, connections });
  }

  /**
   * Connects over gRPC. Rejects with INVALID_ARGUMENT, or with NO_BROKER when none of the brokers answers in time; the message
   * tells what each of them met.
   */
  static async connect(options: RelevoOptions): Promise<Relevo> {
    checkedOptions(options);
    // Loaded here, so that whoever brings ports of their own loads no gRPC.
    const { createClientPorts } = await import('./node-ports.ts');
    const { logger, logLevel } = options;
    return Relevo.over(createClientPorts({ logger, logLevel }), options);
  }

  /** Connects through the given ports: how the simulator does it. */
  static async over(ports: ClientPorts, options: RelevoOptions): Promise<Relevo> {
    const { brokers, connectTimeoutMs } = checkedOptions(options);
    const connections = new Connections(ports.transport);
    const metadata = new Metadata(ports, connections, brokers);
    try {
      await metadata.start(connectTimeoutMs, options.signal);
    } catch (error) {
      metadata.close();
      connections.close();
      throw error;
    }
    return new Relevo(ports, connections, metadata);
  }

  /** The cluster's id. */
  get clusterId(): string {
    return this.#metadata.view.clusterId;
  }

  producer<Key = DefaultInput, Value = DefaultInput>(
    options: ProducerOptions<Key, Value> = {},
  ): Producer<Key, Value> {
    this.#checkOpen();
    const producer: Producer<Key, Value> = new Producer(options, {
      ...this.#deps(),
      onClosed: () => this.#producers.delete(producer),
    });
    this.#producers.add(producer);
    return producer;
  }

  consumer<Key = DefaultData, Value = DefaultData>(
    options: ConsumerOptions<Key, Value>,
  ): Consumer<Key, Value> {
    this.#checkOpen();
    const consumer: Consumer<Key, Value> = new Consumer(options, {
      ...this.#deps(),
      onClosed: () => this.#consumers.delete(consumer),
    });
    this.#consumers.add(consumer);
    return consumer;
  }

  /** Closes the producers (what they hold is sent first), the consumers and the connections. */
  close(): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  async #close(): Promise<void> {
    for (const consumer of [...this.#consumers]) await consumer.close();
    await Promise.all([...this.#producers].map((producer) => producer.close()));
    this.#metadata.close();
    this.#connections.close();
  }

  #checkOpen(): void {
    if (this.#closing !== undefined) throw closedError('the client');
  }

  #deps(): { ports: ClientPorts; metadata: Metadata; connections: Connections } {
    return { ports: this.#ports, metadata: this.#metadata, connections: this.#connections };
  }
}

function checkedOptions(options: RelevoOptions): {
  readonly brokers: readonly string[];
  readonly connectTimeoutMs: number;
} {
  checkNames('client', options, NAMES);
  const brokers = list('brokers', options.brokers).map((address) =>
    text('a broker', address).trim(),
  );
  const wrong = brokers.find((address) => !/^[^\s/]+:\d{1,5}$/.test(address));
  if (brokers.length === 0 || wrong !== undefined) {
    throw new ClientError(
      'INVALID_ARGUMENT',
      `brokers must be a list of host:port, such as "localhost:9093"${wrong === undefined ? '' : `, not "${wrong}"`}`,
    );
  }
  const { connectTimeoutMs = CONNECT_TIMEOUT_MS, logLevel = 'warn' } = options;
  oneOf('logLevel', logLevel, ['debug', 'info', 'warn', 'error', 'silent']);
  checkMethods('logger', options.logger, ['debug', 'info', 'warn', 'error', 'child']);
  checkMethods('signal', options.signal, ['addEventListener', 'removeEventListener']);
  within('connectTimeoutMs', connectTimeoutMs, 1, DAY_MS);
  return { brokers, connectTimeoutMs };
}
