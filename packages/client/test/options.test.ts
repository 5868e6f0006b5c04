/** What is wrong with an option is said where it is given, in words that name it. */
import { World } from '@relevo/simulation/world';
import { expect, test } from 'vitest';
import { ClientError, Relevo, serializers } from '@relevo/client';
import type { ConsumerOptions, ProducerOptions, RelevoOptions } from '@relevo/client';
import { ModelCluster } from './model-cluster.ts';

type Wrong = readonly [options: object, words: RegExp];

const PRODUCER: readonly Wrong[] = [
  [{ acks: 1 }, /^acks must be "all", "leader" or "none", not 1$/],
  [{ acks: -1 }, /^acks must be .*, not -1$/],
  [{ acks: 'al' }, /^acks must be .*, not 'al': did you mean "all"\?$/],
  [{ acks: 'leader', idempotent: true }, /^idempotent needs acks "all"/],
  [{ idempotent: 'yes' }, /^idempotent must be true or false, not 'yes'$/],
  [{ compression: 'br' }, /^compression must be "none", "gzip", .* or "zstd", not 'br'/],
  [{ compression: 'gzipp' }, /did you mean "gzip"\?$/],
  [{ compresion: 'gzip' }, /^a producer has no option "compresion": did you mean "compression"\?/],
  [{ retries: 3 }, /^a producer has no option "retries".* \(there are acks, idempotent, /],
  [{ lingerMs: '5' }, /^lingerMs must be a number from 0 to 60000, not '5'$/],
  [{ lingerMs: NaN }, /^lingerMs must be/],
  [{ batchBytes: 1 }, /^batchBytes must be a whole number from 1024 to 8388608, not 1$/],
  [{ maxRecordBytes: 2_000_000.5 }, /^maxRecordBytes must be a whole number/],
  [{ bufferBytes: 1024 }, /^bufferBytes must be a whole number from 65536/],
  [{ deliveryTimeoutMs: 0 }, /^deliveryTimeoutMs must be/],
  [{ requestTimeoutMs: 1000.5 }, /^requestTimeoutMs must be a whole number/],
  [{ maxInFlight: 6 }, /^maxInFlight must be a whole number from 1 to 5, not 6$/],
  [{ value: serializers.json }, /^value must be an object with serialize, not .*to be called/],
  [{ key: {} }, /^key must be an object with serialize, not \{\}$/],
  [{ onDelivery: true }, /^onDelivery must be a function, not true$/],
];

const CONSUMER: readonly Wrong[] = [
  [{}, /^give a consumer either topics or partitions$/],
  [{ topics: 'orders' }, /^topics must be an array, not 'orders'$/],
  [{ topics: [] }, /at least one/],
  [{ topics: [7] }, /^a topic must be a name, not 7$/],
  [{ topic: 'orders' }, /^a consumer has no option "topic": did you mean "topics"\?/],
  [{ topics: ['orders'], groupId: 'g' }, /^a consumer has no option "groupId"/],
  [{ topics: ['orders'], from: 'begin' }, /^from must be "earliest" or "latest", not 'begin'/],
  [{ topics: ['orders'], from: 0 }, /^from must be/],
  [{ topics: ['orders'], from: { offset: -1 } }, /^-1 is no offset/],
  [{ topics: ['orders'], from: { timestamp: 'now' } }, /^from.timestamp must be a whole number/],
  [{ topics: ['orders'], from: { time: 5 } }, /no option "time"/],
  [{ topics: ['orders'], onOutOfRange: 'ignore' }, /^onOutOfRange must be "error", "earliest"/],
  [{ topics: ['orders'], checkCrc: 0 }, /^checkCrc must be true or false, not 0$/],
  [{ topics: ['orders'], maxWaitMs: 0.5 }, /^maxWaitMs must be a whole number/],
  [{ topics: ['orders'], fetchBytes: 1 }, /^fetchBytes must be/],
  [{ topics: ['orders'], value: serializers.json }, /^value must be an object with deserialize/],
  [{ topics: ['orders'], signal: 'stop' }, /^signal must be an object with addEventListener/],
  [{ topics: ['orders'], onGap: {} }, /^onGap must be a function/],
  [{ partitions: { topic: 'orders', partition: 0 } }, /^partitions must be an array/],
  [{ partitions: ['orders'] }, /^the options of a partition of a consumer must be an object/],
  [{ partitions: [{ topic: 'orders' }] }, /^a partition of orders must be a whole number/],
  [{ partitions: [{ topic: 'orders', partition: 0, offset: 5 }] }, /no option "offset"/],
];

const CLIENT: readonly Wrong[] = [
  [{}, /^brokers must be an array, not undefined$/],
  [{ brokers: 'localhost:9093' }, /^brokers must be an array, not 'localhost:9093'$/],
  [{ brokers: ['localhost'] }, /^brokers must be a list of host:port.*not "localhost"$/],
  [{ brokers: [9093] }, /^a broker must be a name, not 9093$/],
  [{ brokers: ['b:1'], broker: 1 }, /^a client has no option "broker": did you mean "brokers"\?/],
  [{ brokers: ['b:1'], logLevel: 'warm' }, /^logLevel must be "debug".*did you mean "warn"\?$/],
  [{ brokers: ['b:1'], logger: {} }, /^logger must be an object with debug, /],
  [{ brokers: ['b:1'], connectTimeoutMs: -5 }, /^connectTimeoutMs must be/],
  [{ brokers: ['b:1'], signal: {} }, /^signal must be/],
];

const RECORD: readonly Wrong[] = [
  [
    { topic: 'orders', messages: [{ value: 'a' }] },
    /^a record has no field "messages": one record/,
  ],
  [
    { topic: 'orders', val: 'a' },
    /^a record has no field "val": did you mean "value"\? \(there are/,
  ],
  [{ topic: 'orders', value: 'a', header: {} }, /no field "header": did you mean "headers"\?/],
  [{ topic: 'orders', value: 'a', partitions: 1 }, /did you mean "partition"\?/],
  [
    { topic: 'orders' },
    /^a record for "orders" has no value: give it one, or null for a tombstone$/,
  ],
  [{ topic: 'orders', value: undefined }, /^a record for "orders" has no value/],
  [{ value: 'a' }, /^topic must be a name, not undefined$/],
  [{ topic: 7, value: 'a' }, /^topic must be a name, not 7$/],
  [{ topic: 'orders', value: 'a', partition: '0' }, /^partition must be a whole number from 0 /],
  [{ topic: 'orders', value: 'a', partition: null }, /^partition must be a whole number from 0 /],
  [{ topic: 'orders', value: 'a', timestamp: '1700000000000' }, /^timestamp 1700000000000 is not/],
  [
    { topic: 'orders', value: 'a', headers: 'x=1' },
    /^headers must be an object, or a list .*'x=1'/,
  ],
  [{ topic: 'orders', value: 'a', headers: null }, /^headers must be .* not null$/],
  [{ topic: 'orders', value: 'a', headers: new Map([['a', 'b']]) }, /^headers must be .* not Map/],
  [
    { topic: 'orders', value: 'a', headers: ['ab'] },
    /^a header must be \[name, value\], not 'ab'$/,
  ],
  [{ topic: 'orders', value: 'a', headers: [['a']] }, /^a header must be \[name, value\]/],
  [[{ topic: 'orders', value: 'a' }], /^a record must be an object such as .*, not \[/],
  ['orders' as never, /^a record must be an object/],
];

type Call = (admin: Relevo['admin'], options: never) => Promise<unknown>;
const ADMIN: readonly (readonly [name: string, call: Call, options: object, words: RegExp])[] = [
  [
    'createTopic',
    (admin, options) => admin.createTopic(options),
    { topic: 'a', partition: 3 },
    /^a new topic has no option "partition": did you mean "partitions"\?/,
  ],
  [
    'createTopic',
    (admin, options) => admin.createTopic(options),
    { topic: 'a', numPartitions: 3 },
    /^a new topic has no option "numPartitions".*\(there are topic, partitions/,
  ],
  [
    'createTopic',
    (admin, options) => admin.createTopic(options),
    { topic: 'a', config: new Map([['retention.ms', 1]]) },
    /^config must be an object of settings by name, not Map/,
  ],
  [
    'createTopic',
    (admin, options) => admin.createTopic(options),
    { topic: 'a', config: { 'retention.ms': undefined } },
    /^config\["retention.ms"\] must be text, a number or a boolean, not undefined$/,
  ],
  [
    'createTopic',
    (admin, options) => admin.createTopic(options),
    { topic: 'a', partitions: '3' },
    /^partitions must be a whole number/,
  ],
  [
    'alterTopicConfig',
    (admin, options) => admin.alterTopicConfig(options),
    { topic: 'orders', config: { 'retention.ms': 1 } },
    /^a change of settings has no option "config"/,
  ],
  [
    'listOffsets',
    (admin, options) => admin.listOffsets(options),
    { topic: 'orders', partition: 0 },
    /^a query for offsets has no option "partition": did you mean "partitions"\?/,
  ],
  [
    'electLeaders',
    (admin, options) => admin.electLeaders(options),
    { topics: ['orders'] },
    /^a request for elections has no option "topics": did you mean "topic"\?/,
  ],
  [
    'electLeaders',
    (admin, options) => admin.electLeaders(options),
    { partitions: [0] },
    /^partitions need the topic that they are of$/,
  ],
  [
    'deleteTopic',
    (admin, options) => admin.deleteTopic('orders', options),
    { timeout: 5 },
    /^a deletion has no option "timeout"/,
  ],
  [
    'deleteTopic',
    (admin, options) => admin.deleteTopic(options),
    { topic: 'orders' },
    /^topic must be a name, not \{/,
  ],
  [
    'listTopics',
    (admin, options) => admin.listTopics(options),
    { timeoutMs: '5' },
    /^timeoutMs must be a number from 1 to/,
  ],
];

/** Says no with INVALID_ARGUMENT. */
function refused(make: () => unknown, words: RegExp): void {
  try {
    make();
  } catch (error) {
    expect(error).toBeInstanceOf(ClientError);
    expect(error).toMatchObject({ code: 'INVALID_ARGUMENT' });
    expect((error as ClientError).message).toMatch(words);
    return;
  }
  throw new Error('it was taken');
}

test('of a producer and a consumer', async () => {
  const world = new World({ seed: 1 });
  await world.run(async () => {
    const cluster = new ModelCluster(world);
    cluster.createTopic('orders', 1);
    const client = await cluster.connect();
    for (const [options, words] of PRODUCER) {
      refused(() => client.producer(options as ProducerOptions<string, string>), words);
    }
    for (const [options, words] of CONSUMER) {
      refused(() => client.consumer(options as ConsumerOptions<string, string>), words);
    }
    refused(() => client.producer(null as never), /^the options of a producer must be an object/);
    // A choice that was left open is none.
    const open = { compression: undefined, key: undefined } as object;
    await client.producer(open).send({ topic: 'orders', value: 'a' });
    await client.close();
  });
});

test.each(CLIENT)('of a client: %j', async (options, words) => {
  const connecting = Relevo.connect(options as RelevoOptions);
  const error: unknown = await connecting.catch((thrown: unknown) => thrown);
  refused(() => {
    throw error;
  }, words);
});

test('of a record, a send and the admin’s calls; nothing is written, changed or deleted', async () => {
  const world = new World({ seed: 1 });
  await world.run(async () => {
    const cluster = new ModelCluster(world);
    cluster.createTopic('orders', 1);
    const client = await cluster.connect();
    const producer = client.producer({ onDelivery: () => undefined });
    for (const [record, words] of RECORD) {
      const rejected: unknown = await producer
        .send(record as never)
        .catch((thrown: unknown) => thrown);
      refused(() => {
        throw rejected;
      }, words);
      refused(() => producer.enqueue(record as never), words);
    }
    const record = { topic: 'orders', value: 'a' };
    const signl = { signl: undefined } as object;
    for (const call of [producer.send(record, signl), producer.flush(signl)]) {
      await expect(call).rejects.toThrow(/has no option "signl": did you mean "signal"\?/);
    }
    for (const [, call, options, words] of ADMIN) {
      const rejected: unknown = await call(client.admin, options as never).catch(
        (thrown: unknown) => thrown,
      );
      refused(() => {
        throw rejected;
      }, words);
    }
    const open = { key: undefined, headers: undefined, partition: undefined, timestamp: undefined };
    const taken = { topic: 'orders', value: null, ...open } as never;
    expect((await producer.send(taken)).offset).toBe(0);
    await client.close();
  });
});
