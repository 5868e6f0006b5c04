/** Whatever is accepted is replicated, fetched and read back: the largest batches, on real brokers. */
import { randomBytes } from 'node:crypto';
import { existsSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { assert } from '@relevo/base/assert';
import { BATCH_BYTES_MAX } from '@relevo/base/limits';
import { Relevo } from '@relevo/client';
import type { DescribedPartition } from '@relevo/client';
import { FetchService, consumeRequest } from '@relevo/rpc/gen/client/fetch';
import type { ConsumedRecord } from '@relevo/rpc/gen/client/fetch';
import { createPorts } from '@relevo/runtime/ports';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { TestCluster } from '../lib/cluster.ts';
import { until } from '../lib/wait.ts';

const TOPIC = 'large';
const ports = createPorts({ logger: { level: 'silent' } });
let cluster: TestCluster;
let relevo: Relevo;

beforeAll(async () => {
  cluster = await TestCluster.start();
  relevo = await Relevo.connect({ brokers: cluster.bootstrap });
  const settings = { 'max.message.bytes': String(BATCH_BYTES_MAX), 'segment.bytes': '65536' };
  await relevo.admin.createTopic({ topic: TOPIC, partitions: 1, config: settings });
}, 60_000);

afterAll(async () => {
  await relevo.close();
  await cluster.destroy();
});

/** The records of the topic by a plain Consume call to one broker. */
async function consumePlain(address: string): Promise<ConsumedRecord[]> {
  const channel = ports.transport.dial(address);
  try {
    return await new Promise<ConsumedRecord[]>((resolve, reject) => {
      const records: ConsumedRecord[] = [];
      channel.subscribe(
        FetchService.consume,
        consumeRequest({ topic: TOPIC, from: { case: 'earliest', value: true }, stopAtEnd: true }),
        {
          onMessage: (message) => records.push(...message.records),
          onEnd: (error) => (error === undefined ? resolve(records) : reject(error)),
        },
      );
    });
  } finally {
    channel.close();
  }
}

test('the largest batch, and a batch that unpacks to more than a message', async () => {
  const producer = relevo.producer({ maxRecordBytes: BATCH_BYTES_MAX, batchBytes: 1024 });
  // What is left for the value beside the headers of the batch and of the record.
  const largest = randomBytes(BATCH_BYTES_MAX - 100);
  const receipt = await producer.send({ topic: TOPIC, value: largest });
  expect(receipt.syncedOn).toHaveLength(3);
  await expect(
    producer.send({ topic: TOPIC, value: randomBytes(BATCH_BYTES_MAX) }),
  ).rejects.toMatchObject({ code: 'MESSAGE_TOO_LARGE' });
  await producer.close();
  // 40 MiB of zeros make a batch of some kilobytes.
  const packing = relevo.producer({
    compression: 'gzip',
    batchBytes: BATCH_BYTES_MAX,
    bufferBytes: 64 * 1024 * 1024,
    maxRecordBytes: BATCH_BYTES_MAX,
    lingerMs: 200,
  });
  const zeros = Buffer.alloc(1024 * 1024);
  await Promise.all(Array.from({ length: 40 }, () => packing.send({ topic: TOPIC, value: zeros })));
  await packing.close();

  const expected = [largest, ...Array.from({ length: 40 }, () => zeros)];
  const same = (values: readonly (Uint8Array | null | undefined)[]): boolean =>
    values.length === expected.length &&
    values.every((value, at) => value != null && expected[at]?.equals(value) === true);
  const read: (Uint8Array | null)[] = [];
  for await (const { value } of relevo.consumer({ topics: [TOPIC], from: 'earliest' })) {
    read.push(value);
    if (read.length === expected.length) break;
  }
  expect(same(read)).toBe(true);
  for (const { address } of cluster.brokers) {
    const records = await consumePlain(address);
    expect(same(records.map(({ value }) => value))).toBe(true);
  }

  // A replica that has lost its log is sent all of it.
  const partition = async (): Promise<DescribedPartition | undefined> =>
    (await relevo.admin.describeTopic(TOPIC)).partitions[0];
  const { leader } = (await partition()) ?? {};
  const follower = cluster.brokers.find(({ id }) => id !== leader);
  assert(follower !== undefined, 'two brokers follow', { leader });
  await follower.kill();
  const log = join(cluster.directory, `broker-${follower.id}`, `${TOPIC}-0`);
  rmSync(log, { recursive: true });
  follower.start();
  const rebuilt = async (): Promise<boolean> =>
    existsSync(join(log, '00000000000000000000.log')) && (await partition())?.isr.length === 3;
  await until('the replica is rebuilt', rebuilt, { deadlineMs: 60_000 });
}, 120_000);
