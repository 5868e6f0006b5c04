/**
 * Feeds the publisher of a broker that is no controller: follows the metadata log from any one of the
 * controllers. It moves on to the next when its stream breaks, when nothing came for a second (a part
 * is due every 250 ms), or when the controller it follows has known no leader for so long: it may be cut
 * off from the others, and would go on telling old news.
 */
import { brokerId, logIndex, term } from '@relevo/base/ids';
import type { BrokerId } from '@relevo/base/ids';
import { RpcError } from '@relevo/base/ports';
import type {
  Channel,
  Clock,
  Logger,
  MessageStream,
  Random,
  TimerHandle,
  Timers,
  Transport,
} from '@relevo/base/ports';
import { backoffMs } from '@relevo/base/retry';
import type { RetryPolicy } from '@relevo/base/retry';
import { ControllerService, followMetadataRequest } from '@relevo/rpc/gen/cluster/controller';
import type { MetadataLogPart } from '@relevo/rpc/gen/cluster/controller';
import type { MetadataPublisher } from './metadata-publisher.ts';
import { imageOf } from './record-codec.ts';

/** After which silence another controller is followed. */
const SILENCE_MS = 1000;
const RECONNECT: RetryPolicy = { initialMs: 20, maxMs: 500, factor: 2, jitter: 0.2 };

export interface MetadataFollowerDeps {
  readonly clock: Clock;
  readonly timers: Timers;
  readonly random: Random;
  readonly transport: Transport;
  readonly logger: Logger;
  readonly publisher: MetadataPublisher;
}

export interface MetadataFollowerOptions {
  readonly clusterId: string;
  readonly nodeId: BrokerId;
  /** host:port of each; at least one. */
  readonly controllers: readonly string[];
}

export class MetadataFollower {
  readonly #deps: MetadataFollowerDeps;
  readonly #options: MetadataFollowerOptions;
  #next: number;
  #failures = 0;
  #channel: Channel | undefined;
  #stream: MessageStream<never> | undefined;
  #watchdog: TimerHandle | undefined;
  #reconnect: TimerHandle | undefined;
  #lastPartMs = 0;
  #lastLeaderMs = 0;
  #closed = false;

  constructor(deps: MetadataFollowerDeps, options: MetadataFollowerOptions) {
    this.#deps = deps;
    this.#options = options;
    // Brokers spread over the controllers.
    this.#next = Math.floor(deps.random.float() * options.controllers.length);
  }

  start(): void {
    this.#connect();
  }

  close(): void {
    this.#closed = true;
    this.#reconnect?.cancel();
    this.#leave();
  }

  #connect(): void {
    const { clock, transport, publisher } = this.#deps;
    const { controllers, clusterId } = this.#options;
    const address = controllers[this.#next % controllers.length];
    if (address === undefined) throw new RangeError('a follower needs the address of a controller');
    const channel = transport.dial(address);
    this.#channel = channel;
    this.#lastPartMs = clock.monotonicMs();
    this.#lastLeaderMs = this.#lastPartMs;
    const request = followMetadataRequest({
      clusterId,
      brokerId: this.#options.nodeId,
      afterIndex: publisher.image().index,
    });
    this.#stream = channel.subscribe(ControllerService.followMetadata, request, {
      onMessage: (part) => {
        if (this.#channel === channel) this.#apply(part);
      },
      onEnd: (error) => {
        if (this.#channel === channel) this.#moveOn(error?.message ?? 'it ended the stream');
      },
    });
    this.#watch();
  }

  #apply(part: MetadataLogPart): void {
    const { clock, publisher } = this.#deps;
    this.#lastPartMs = clock.monotonicMs();
    this.#failures = 0;
    if (part.snapshot !== undefined) publisher.restoreImage(imageOf(part.snapshot));
    if (part.entries.length > 0) {
      publisher.applyCommitted(
        part.entries.map(({ index, term: entryTerm, data }) => ({
          index: logIndex(index),
          term: term(entryTerm),
          data,
        })),
      );
    }
    if (part.controllerId < 0) return;
    this.#lastLeaderMs = this.#lastPartMs;
    const known = publisher.controller();
    // A controller that lags behind may still name the leader before.
    if (known !== undefined && part.controllerTerm < known.term) return;
    publisher.setController({
      id: brokerId(part.controllerId),
      address: part.controllerAddress,
      term: term(part.controllerTerm),
    });
  }

  #watch(): void {
    this.#watchdog = this.#deps.timers.after(SILENCE_MS / 4, () => {
      const nowMs = this.#deps.clock.monotonicMs();
      if (nowMs - this.#lastPartMs > SILENCE_MS) this.#moveOn('it was silent');
      else if (nowMs - this.#lastLeaderMs > SILENCE_MS) this.#moveOn('it knows no leader');
      else this.#watch();
    });
  }

  #moveOn(reason: string): void {
    const { timers, random, logger } = this.#deps;
    logger.debug('follows the metadata from another controller', {
      left: this.#channel?.address,
      reason,
    });
    this.#leave();
    this.#next++;
    const waitMs = this.#failures === 0 ? 0 : backoffMs(RECONNECT, this.#failures - 1, random);
    this.#failures++;
    this.#reconnect = timers.after(waitMs, () => {
      if (!this.#closed) this.#connect();
    });
  }

  #leave(): void {
    this.#watchdog?.cancel();
    const channel = this.#channel;
    this.#channel = undefined;
    this.#stream?.cancel(new RpcError('CANCELLED', 'another controller is followed'));
    this.#stream = undefined;
    channel?.close();
  }
}
