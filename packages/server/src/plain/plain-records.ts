/**
 * `Produce.Send` and `Fetch.Consume`: plain records for callers without a batch encoder, from any broker.
 */
import { route } from '@relevo/base/ports';
import type { Route } from '@relevo/base/ports';
import type { CompressionCodecs } from '@relevo/record/compression';
import { FetchService, type FetchRequest, type FetchResponse } from '@relevo/rpc/gen/client/fetch';
import { ProduceService } from '@relevo/rpc/gen/client/produce';
import { BatchDecoder } from './decoded-batches.ts';
import { LeaderCalls } from './leader-calls.ts';
import { LeaderFetches } from './leader-fetches.ts';
import { LeaderOffsets } from './leader-offsets.ts';
import { PlainConsumer } from './plain-consumer.ts';
import { PlainProducer, type PlainProducerDeps } from './plain-producer.ts';

export interface PlainRecordsDeps extends PlainProducerDeps {
  readonly codecs: Pick<CompressionCodecs, 'decompress'>;
}

export class PlainRecords {
  readonly #deps: PlainRecordsDeps;
  readonly #producer: PlainProducer;
  readonly #calls: LeaderCalls<FetchRequest, FetchResponse>;
  readonly #fetches: LeaderFetches;
  readonly #offsets: LeaderOffsets;
  readonly #decoder: BatchDecoder;
  readonly #consumers = new Set<PlainConsumer>();

  constructor(deps: PlainRecordsDeps) {
    this.#deps = deps;
    this.#producer = new PlainProducer(deps);
    this.#calls = new LeaderCalls(deps.transport, FetchService.stream);
    this.#fetches = new LeaderFetches({ timers: deps.timers, calls: this.#calls });
    this.#offsets = new LeaderOffsets({
      timers: deps.timers,
      channel: (address) => this.#calls.channel(address),
    });
    this.#decoder = new BatchDecoder(deps);
  }

  routes(): Route[] {
    return [
      route(ProduceService.send, (request) => this.#producer.send(request)),
      route(FetchService.consume, (request, stream) => {
        const consumer = new PlainConsumer(
          { ...this.#deps, fetches: this.#fetches, offsets: this.#offsets, decoder: this.#decoder },
          request,
          stream,
        );
        this.#consumers.add(consumer);
        consumer.start();
        return {
          onDrain: () => consumer.drained(),
          onEnd: () => {
            consumer.stop();
            this.#consumers.delete(consumer);
          },
        };
      }),
    ];
  }

  close(): void {
    for (const consumer of this.#consumers) consumer.stop();
    this.#producer.close();
    this.#calls.close();
  }
}
