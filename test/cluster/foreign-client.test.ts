/** What a client without the SDK relies on: grpc-js alone stands for any language's gRPC. */
import { Client, credentials, status } from '@grpc/grpc-js';
import type { ServiceError } from '@grpc/grpc-js';
import { utf8Encode } from '@relevo/base/bytes';
import type { Method } from '@relevo/base/ports';
import { Relevo } from '@relevo/client';
import { FetchService, fetchPartition, fetchRequest } from '@relevo/rpc/gen/client/fetch';
import {
  ProduceService,
  initProducerIdRequest,
  plainRecord,
  produceRequest,
  sendRequest,
} from '@relevo/rpc/gen/client/produce';
import type { Receipt, SendRequest, SendResponse } from '@relevo/rpc/gen/client/produce';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { TestCluster } from '../lib/cluster.ts';
import { pause } from '../lib/wait.ts';

const TOPIC = 'orders';
let cluster: TestCluster;
let relevo: Relevo;
let topicId: string;
const clients = new Map<string, Client>();

beforeAll(async () => {
  cluster = await TestCluster.start();
  relevo = await Relevo.connect({ brokers: cluster.bootstrap });
  const made = { topic: TOPIC, partitions: 1, replicationFactor: 3 };
  ({ topicId } = await relevo.admin.createTopic(made));
}, 60_000);

afterAll(async () => {
  for (const client of clients.values()) client.close();
  await relevo.close();
  await cluster.destroy();
});

function clientOf(address: string): Client {
  const client = clients.get(address) ?? new Client(address, credentials.createInsecure());
  clients.set(address, client);
  return client;
}

const toBuffer = (bytes: Uint8Array): Buffer => Buffer.from(bytes);

/** A unary call; cancelled after `patienceMs`. */
function call<Request, Response>(
  address: string,
  method: Method<Request, Response, 'unary'>,
  request: Request,
  patienceMs = 20_000,
): Promise<Response> {
  return new Promise((resolve, reject) => {
    const { path, request: encoder, response: decoder } = method;
    const made = clientOf(address).makeUnaryRequest<Request, Response>(
      path,
      (message) => toBuffer(encoder.encode(message)),
      (bytes) => decoder.decode(bytes),
      request,
      (error: ServiceError | null, answer?: Response) => {
        clearTimeout(timer);
        if (error !== null || answer === undefined) reject(error ?? new Error('no answer'));
        else resolve(answer);
      },
    );
    const timer = setTimeout(() => made.cancel(), patienceMs);
  });
}

/** As `for r in stub.Stream(iter(requests))`: says all, then takes answers to their end. */
function stream<Request, Response>(
  address: string,
  method: Method<Request, Response, 'bidi'>,
  requests: readonly Request[],
): Promise<Response[]> {
  return new Promise((resolve, reject) => {
    const { path, request: encoder, response: decoder } = method;
    const made = clientOf(address).makeBidiStreamRequest<Request, Response>(
      path,
      (message) => toBuffer(encoder.encode(message)),
      (bytes) => decoder.decode(bytes),
    );
    const answers: Response[] = [];
    made.on('data', (answer: Response) => answers.push(answer));
    made.on('error', reject);
    made.on('end', () => resolve(answers));
    for (const request of requests) made.write(request);
    made.end();
  });
}

const leader = async (): Promise<number> =>
  (await relevo.admin.describeTopic(TOPIC)).partitions[0]?.leader ?? -1;

/** The call through one broker after the other until one answers. */
async function insist(request: SendRequest, first: number): Promise<readonly Receipt[]> {
  for (let attempt = 0; ; attempt++) {
    const broker = cluster.brokers[(first + attempt) % cluster.brokers.length];
    try {
      return (await call(broker?.address ?? '', ProduceService.send, request, 8_000)).receipts;
    } catch (error) {
      const { code } = error as ServiceError;
      if (code !== status.UNAVAILABLE && code !== status.CANCELLED) throw error;
      await pause(50);
    }
  }
}

test('20 numbered calls, each cancelled and repeated, leave 20 records and one receipt each', async () => {
  const [first] = cluster.brokers;
  const ask = initProducerIdRequest();
  const made = await call(first?.address ?? '', ProduceService.initProducerId, ask);
  const { producerId } = made;
  for (let at = 0; at < 20; at++) {
    const records = [plainRecord({ value: utf8Encode(`record ${at}`) })];
    const numbers = { producerId, producerEpoch: 0, partition: 0, sequence: at };
    const request = sendRequest({ topic: TOPIC, records, ...numbers });
    const gateway = cluster.brokers[at % 3]?.address ?? '';
    const cancelled = call(gateway, ProduceService.send, request, at % 4).catch(
      (): SendResponse => ({ receipts: [] }),
    );
    if (at === 7) {
      const victim = cluster.broker(await leader());
      await victim.kill();
      const [again] = await insist(request, at);
      victim.start();
      await cluster.ready();
      expect(again?.offset).toBe(at);
    }
    const [one] = await insist(request, at + 1);
    const [two] = await insist(request, at + 2);
    await cancelled;
    const told = ({ offset, timestampMs, leaderEpoch }: Receipt): unknown => ({
      ...{ offset, timestampMs, leaderEpoch },
    });
    expect([one, two].map((each) => each && told(each))).toEqual([
      one && told(one),
      one && told(one),
    ]);
    expect(one?.offset).toBe(at);
  }
  const values: string[] = [];
  for await (const record of relevo.consumer({ topics: [TOPIC], from: 'earliest' })) {
    if (values.push(String(record.value)) === 20) break;
  }
  expect(values).toEqual(Array.from({ length: 20 }, (_, at) => `record ${at}`));
  const [end] = await relevo.admin.listOffsets({ topic: TOPIC, at: 'latest' });
  expect(end?.offset).toBe(20);
}, 120_000);

test('a stream whose client has said all is ended by the broker when all is answered', async () => {
  const { address } = cluster.broker(await leader());
  const write = produceRequest({ correlationId: 1, topicId, leaderEpoch: -1, acks: -1 });
  const written = await stream(address, ProduceService.stream, [write]);
  expect(written.map(({ correlationId }) => correlationId)).toEqual([1]);
  expect(await stream(address, ProduceService.stream, [])).toEqual([]);
  const partitions = [fetchPartition({ topicId, leaderEpoch: -1, offset: 0 })];
  const reads = [1, 2].map((correlationId) =>
    fetchRequest({ correlationId, maxWaitMs: 200, minBytes: 1, partitions }),
  );
  const read = await stream(address, FetchService.stream, reads);
  expect(read.map(({ correlationId }) => correlationId).toSorted((a, b) => a - b)).toEqual([1, 2]);
  expect(await stream(address, FetchService.stream, [])).toEqual([]);
}, 30_000);
