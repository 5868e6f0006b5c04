/** Bad input: each gets one clear error, nothing else is disturbed, nothing is lost. */
import { randomBytes } from 'node:crypto';
import { chmodSync, writeFileSync } from 'node:fs';
import { connect } from 'node:net';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';
import { errorCodeOf } from '@relevo/base/errors';
import { RpcError } from '@relevo/base/ports';
import { Relevo } from '@relevo/client';
import { BatchBuilder, NO_HEADERS } from '@relevo/record/batch-builder';
import {
  BATCH_LENGTH_AT,
  BATCH_OVERHEAD,
  RECORD_COUNT_AT,
  writeCrc,
} from '@relevo/record/batch-header';
import type { CompressionType } from '@relevo/record/compression';
import { ProduceService, produceRequest } from '@relevo/rpc/gen/client/produce';
import type { ProduceResponse } from '@relevo/rpc/gen/client/produce';
import { crc32c } from '@relevo/runtime/crc32c';
import { createPorts } from '@relevo/runtime/ports';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { TestCluster, type BrokerProcess } from '../lib/cluster.ts';
import { until } from '../lib/wait.ts';

const TOPIC = 'orders';
let cluster: TestCluster;
let relevo: Relevo;
let written = 0;
const ports = createPorts({ logger: { level: 'silent' } });

beforeAll(async () => {
  cluster = await TestCluster.start();
  relevo = await Relevo.connect({ brokers: cluster.bootstrap });
  await relevo.admin.createTopic({ topic: TOPIC, partitions: 3, replicationFactor: 3 });
}, 60_000);

afterAll(async () => {
  await relevo.close();
  await cluster.destroy();
});

let pids: (number | undefined)[] = [];
beforeEach(() => {
  pids = cluster.brokers.map(({ pid }) => pid);
});

// Whatever came in: the same processes run, serve, and have lost nothing.
afterEach(async () => {
  expect(cluster.brokers.map(({ pid }) => pid)).toEqual(pids);
  expect(cluster.brokers.every(({ running }) => running)).toBe(true);
  const producer = relevo.producer();
  await producer.send({ topic: TOPIC, value: `record ${written++}` });
  await producer.close();
  const ends = await relevo.admin.listOffsets({ topic: TOPIC, at: 'latest' });
  expect(ends.reduce((sum, { offset }) => sum + offset, 0)).toBe(written);
});

const reasonOf = async (promise: Promise<unknown>): Promise<string> => {
  try {
    await promise;
  } catch (error) {
    return error instanceof Error ? `${(error as { code?: string }).code}: ${error.message}` : '';
  }
  throw new Error('it did not fail');
};

test('garbage on each port is dropped', async () => {
  for (const broker of cluster.brokers) {
    for (const address of [broker.address, broker.httpAddress]) {
      for (const garbage of [
        randomBytes(100_000),
        Buffer.from('GET / HTTP/1.1\r\n\r\n'),
        Buffer.alloc(0),
      ]) {
        const [host, port] = address.split(':');
        await new Promise<void>((done) => {
          const socket = connect(Number(port), host, () => socket.end(garbage));
          socket.on('error', () => done());
          socket.on('close', () => done());
          socket.resume();
          socket.setTimeout(3000, () => socket.destroy());
        });
      }
    }
  }
});

describe('batches', () => {
  const goodBatch = (): Uint8Array => {
    const builder = new BatchBuilder();
    for (let i = 0; i < 10; i++)
      builder.append(`key-${i}`, `value-${i}`, NO_HEADERS, 1_700_000_000_000);
    return builder.build({}, crc32c);
  };
  /** Ten records by the header, and whatever in place of the compressed ones. */
  const packed = (type: CompressionType, records: Uint8Array): Uint8Array => {
    const builder = new BatchBuilder();
    for (let i = 0; i < 10; i++) builder.append(null, `value-${i}`, NO_HEADERS, 1_700_000_000_000);
    return builder.build({ compressed: { type, records } }, crc32c);
  };
  const withCrc = (batch: Uint8Array): Uint8Array => {
    writeCrc(batch, 0, batch.length, crc32c);
    return batch;
  };
  const changed = (at: number, value: number): Uint8Array => {
    const batch = goodBatch();
    new DataView(batch.buffer, batch.byteOffset).setInt32(at, value);
    return batch;
  };

  async function produceRaw(batch: Uint8Array): Promise<ProduceResponse | RpcError> {
    const { topicId, partitions } = await relevo.admin.describeTopic(TOPIC);
    const leader = cluster.broker(partitions[0]?.leader ?? -1);
    const channel = ports.transport.dial(leader.address);
    try {
      return await new Promise((resolve) => {
        const stream = channel.open(ProduceService.stream, {
          onMessage: resolve,
          onEnd: (error) => resolve(error ?? new RpcError('UNKNOWN', 'ended without an answer')),
        });
        stream.send(
          produceRequest({
            correlationId: 1,
            topicId,
            partition: 0,
            leaderEpoch: -1,
            acks: -1,
            timeoutMs: 5000,
            batch,
          }),
        );
      });
    } finally {
      channel.close();
    }
  }

  test.each([
    [
      'a wrong CRC',
      () => {
        const batch = goodBatch();
        batch[70] = (batch[70] ?? 0) ^ 1;
        return batch;
      },
    ],
    ['more records than there are', () => withCrc(changed(RECORD_COUNT_AT, 11))],
    ['fewer records than there are', () => withCrc(changed(RECORD_COUNT_AT, 9))],
    ['a length beyond the end', () => changed(BATCH_LENGTH_AT, 100_000)],
    ['a length that cuts it short', () => changed(BATCH_LENGTH_AT, 60)],
    ['a negative length', () => changed(BATCH_LENGTH_AT, -1)],
    ['no bytes', () => new Uint8Array()],
    ['random bytes', () => new Uint8Array(randomBytes(500))],
    ['no gzip', () => packed('gzip', Buffer.from('this is not gzip at all'))],
    ['no snappy', () => packed('snappy', Buffer.from('this is not snappy at all'))],
    ['no lz4', () => packed('lz4', Buffer.from('this is not lz4 at all'))],
    ['no zstd', () => packed('zstd', Buffer.from('this is not zstd at all'))],
    [
      'fewer records than there are, in gzip',
      () => packed('gzip', gzipSync(goodBatch().subarray(BATCH_OVERHEAD, -20))),
    ],
    ['two batches in one', () => new Uint8Array([...goodBatch(), ...goodBatch()])],
  ])('%s is refused with one error', async (_, make) => {
    const answer = await produceRaw(make());
    if (answer instanceof RpcError) throw answer;
    expect(['CORRUPT_MESSAGE', 'INVALID_RECORD']).toContain(errorCodeOf(answer.error));
    expect(answer.message).toContain(`${TOPIC}-0`);
  });

  test('a batch above max.message.bytes is refused with what the limit is', async () => {
    const builder = new BatchBuilder();
    builder.append(null, new Uint8Array(2 * 1024 * 1024), NO_HEADERS, 0);
    const answer = await produceRaw(builder.build({}, crc32c));
    if (answer instanceof RpcError) throw answer;
    expect(errorCodeOf(answer.error)).toBe('MESSAGE_TOO_LARGE');
    expect(answer.message).toContain('1048576');
  });

  test('a gRPC message above the limit ends its own stream with RESOURCE_EXHAUSTED', async () => {
    const answer = await produceRaw(new Uint8Array(64 * 1024 * 1024));
    expect(answer).toBeInstanceOf(RpcError);
    expect((answer as RpcError).status).toBe('RESOURCE_EXHAUSTED');
  });
});

describe('requests', () => {
  test('an unknown topic', async () => {
    const producer = relevo.producer({ deliveryTimeoutMs: 3000 });
    expect(await reasonOf(producer.send({ topic: 'ordrs', value: 'x' }))).toMatch(
      /UNKNOWN_TOPIC.*ordrs/,
    );
    expect(await reasonOf(relevo.admin.describeTopic('ordrs'))).toMatch(/UNKNOWN_TOPIC.*ordrs/);
    await producer.close();
  });

  test.each(['', '.', '..', 'a/b', 'ä', 'x'.repeat(250), 'two words'])(
    'the topic name "%s"',
    async (topic) => {
      expect(await reasonOf(relevo.admin.createTopic({ topic }))).toMatch(
        /INVALID_TOPIC.*topic name/,
      );
    },
  );

  test('a replication factor above the brokers', async () => {
    const reason = await reasonOf(relevo.admin.createTopic({ topic: 'big', replicationFactor: 4 }));
    expect(reason).toMatch(/INVALID_REPLICATION_FACTOR.*4 live brokers.*3/);
  });

  test('negative and huge counts', async () => {
    for (const partitions of [-7, 1_000_000]) {
      expect(await reasonOf(relevo.admin.createTopic({ topic: 'n', partitions }))).toMatch(
        /INVALID_PARTITIONS/,
      );
    }
    expect(await reasonOf(relevo.admin.createTopic({ topic: 'n', replicationFactor: -3 }))).toMatch(
      /INVALID_REPLICATION/,
    );
  });

  test('a mistyped setting names the nearest known one', async () => {
    const config = { 'retention.mss': 1000 };
    const reason = await reasonOf(relevo.admin.createTopic({ topic: 'n', config }));
    expect(reason).toMatch(/INVALID_CONFIG.*did you mean retention\.ms/);
  });

  test('a topic that exists', async () => {
    expect(await reasonOf(relevo.admin.createTopic({ topic: TOPIC }))).toMatch(
      /TOPIC_ALREADY_EXISTS/,
    );
  });

  test('an offset beyond the log', async () => {
    const consumer = relevo.consumer({ topics: [TOPIC], from: { offset: 1_000_000 } });
    const reading = (async () => {
      for await (const record of consumer) return record;
      return undefined;
    })();
    expect(await reasonOf(reading)).toMatch(/OFFSET_OUT_OF_RANGE/);
    await consumer.close();
  });
});

/** Brokers that must not start, beside the cluster that runs. */
describe('starting', () => {
  const strays: TestCluster[] = [];
  afterAll(async () => {
    for (const stray of strays) await stray.destroy();
  });

  async function startWith(
    settings: Record<string, string | number>,
    edit?: (broker: BrokerProcess) => void,
  ): Promise<{ code: number | null; text: string }> {
    const other = await TestCluster.create({ brokers: 1, settings });
    strays.push(other);
    const broker = other.broker(1);
    edit?.(broker);
    broker.start();
    const code = await broker.exited(20_000);
    await until('its last words', () => broker.logText() !== '');
    return { code, text: broker.logText() };
  }

  test('a configuration file that is no YAML', async () => {
    const { code, text } = await startWith({}, (broker) =>
      writeFileSync(broker.configFile, 'cluster.id: [unclosed\n: :'),
    );
    expect([code, text]).toEqual([78, expect.stringContaining('is not YAML')]);
  });

  test('a setting that does not exist', async () => {
    const { code, text } = await startWith({ 'broker.session.timeout': 5 });
    expect(code).toBe(78);
    expect(text).toContain('did you mean broker.session.timeout.ms?');
  });

  test('a data directory in use', async () => {
    const { code, text } = await startWith({ 'log.dir': cluster.broker(1).directory });
    expect(code).toBe(1);
    expect(text).toContain(cluster.broker(1).directory);
    expect(text.trimEnd().split('\n'), 'it is said once').toHaveLength(1);
  });

  test("another broker's and another cluster's data directory", async () => {
    const donor = await TestCluster.start({ brokers: 1 });
    strays.push(donor);
    const directory = donor.broker(1).directory;
    await donor.broker(1).stop();
    const voters = (id: number): string => `${id}@${donor.broker(1).address}`;
    const asBroker = await startWith({
      'log.dir': directory,
      'node.id': 7,
      'controller.quorum.voters': voters(7),
    });
    expect([asBroker.code, asBroker.text]).toEqual([78, expect.stringContaining('7')]);
    const asCluster = await startWith({ 'log.dir': directory, 'cluster.id': 'another' });
    expect([asCluster.code, asCluster.text]).toEqual([78, expect.stringContaining('another')]);
  });

  test('a port in use', async () => {
    const { code, text } = await startWith({ 'listener.grpc': cluster.broker(2).address });
    expect(code).toBe(1);
    expect(text).toContain(cluster.broker(2).address);
    expect(text).toMatch(/in use/);
  });

  test('a second broker with an id that is alive', async () => {
    const voters = cluster.brokers.map(({ id, address }) => `${id}@${address}`).join(',');
    const { code, text } = await startWith({
      'node.id': 2,
      'process.roles': 'broker',
      'controller.quorum.voters': voters,
    });
    expect(code).toBe(78);
    expect(text).toMatch(/id 2 is alive at/);
  }, 60_000);

  test('a broker of another cluster', async () => {
    const voters = cluster.brokers.map(({ id, address }) => `${id}@${address}`).join(',');
    const { code, text } = await startWith({
      'cluster.id': 'another',
      'cluster.secret.file': join(cluster.directory, 'cluster-secret'),
      'node.id': 9,
      'process.roles': 'broker',
      'controller.quorum.voters': voters,
    });
    expect(code).toBe(78);
    expect(text).toContain('another');
  }, 60_000);

  test('a secret that others can read, or that is none', async () => {
    const file = join(cluster.directory, 'secret-of-all');
    writeFileSync(file, 'a secret that everybody can read here\n', { mode: 0o644 });
    const open = await startWith({ 'cluster.secret.file': file });
    expect(open.code).toBe(78);
    expect(open.text).toContain(`run chmod 600 ${file}`);
    writeFileSync(file, 'short\n');
    chmodSync(file, 0o600);
    const short = await startWith({ 'cluster.secret.file': file });
    expect(short.code).toBe(78);
    expect(short.text).toContain('has 5 characters');
  }, 60_000);

  test('an address that cannot be resolved or bound', async () => {
    const { code, text } = await startWith({ 'listener.grpc': '203.0.113.1:9093' });
    expect(code).toBe(1);
    expect(text).toContain('203.0.113.1:9093');
  });

  test('a quorum whose host names nobody knows', async () => {
    const { code, text } = await startWith({
      'controller.quorum.voters': '1@broker-1.invalid:9093,2@broker-2.invalid:9093',
      'controller.quorum.resolve.timeout.ms': 1000,
    });
    expect(code).toBe(1);
    // On stderr, which comes by another pipe than the log.
    expect(text).toMatch(
      /^relevo: the broker cannot go on: .* 1@broker-1\.invalid:9093, 2@broker-2\.invalid:9093 could not be resolved/m,
    );
  }, 60_000);

  test('a file where the data directory should be', async () => {
    const file = join(cluster.directory, 'a-file');
    writeFileSync(file, '');
    const { code, text } = await startWith({ 'log.dir': file });
    expect(code).toBe(1);
    expect(text).toContain(file);
  });
});
