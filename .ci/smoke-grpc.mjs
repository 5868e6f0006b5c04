/**
 * What a program in another language, or grpcurl, does with a broker of whose services it knows nothing:
 *
 *     node .ci/smoke-grpc.mjs HOST:PORT TOPIC
 *
 * asks reflection for the services and their descriptors, makes clients from those alone, checks health,
 * and writes and reads plain records. TOPIC has to be empty.
 */
import assert from 'node:assert/strict';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { credentials, loadPackageDefinition } from '@grpc/grpc-js';

const require = createRequire(new URL('../packages/runtime/package.json', import.meta.url));
const { loadFileDescriptorSetFromBuffer, loadSync } = require('@grpc/proto-loader');
const OPTIONS = { keepCase: true, longs: Number, enums: String, defaults: true, oneofs: true };
const WAIT_MS = 20_000;
const RECORDS = 10;

const [address, topic] = process.argv.slice(2);
assert(topic !== undefined, 'usage: node .ci/smoke-grpc.mjs HOST:PORT TOPIC');

/** A service's client out of a package definition. */
function client(definition, service) {
  const Made = service.split('.').reduce((at, part) => at[part], loadPackageDefinition(definition));
  return new Made(address, credentials.createInsecure());
}

const deadline = () => new Date(Date.now() + WAIT_MS);
const unary = (service, method, request) =>
  new Promise((resolve, reject) => {
    service[method](request, { deadline: deadline() }, (error, reply) =>
      error === null ? resolve(reply) : reject(error),
    );
  });

/** A conversation with `grpc.reflection.VERSION.ServerReflection`, closed by `close`. */
function reflection(version) {
  const package_ = dirname(require.resolve('@grpc/reflection/package.json'));
  const proto = join(package_, 'build', 'proto', 'grpc', 'reflection', version, 'reflection.proto');
  const service = client(loadSync(proto, OPTIONS), `grpc.reflection.${version}.ServerReflection`);
  const stream = service.ServerReflectionInfo({ deadline: deadline() });
  const failed = new Promise((_, reject) => stream.once('error', reject));
  return {
    async ask(request) {
      const answer = new Promise((resolve) => stream.once('data', resolve));
      stream.write(request);
      const reply = await Promise.race([answer, failed]);
      const refused = `${JSON.stringify(request)}: ${reply.error_response?.error_message}`;
      assert.notEqual(reply.message_response, 'error_response', refused);
      return reply;
    },
    close: () => stream.end(),
  };
}

/** A FileDescriptorSet: its field 1 holds the files. */
const setOf = (files) =>
  Buffer.concat(files.flatMap((file) => [Buffer.from([0x0a, ...varint(file.length)]), file]));
const varint = (value) =>
  value < 0x80 ? [value] : [(value & 0x7f) | 0x80, ...varint(Math.floor(value / 0x80))];

async function describe(version) {
  const talk = reflection(version);
  const list = await talk.ask({ list_services: '*' });
  const services = list.list_services_response.service.map(({ name }) => name);
  for (const name of ['Produce', 'Fetch', 'Admin', 'Metadata']) {
    assert(services.includes(`relevo.client.v1.${name}`), `${name} is not listed: ${services}`);
  }
  assert(services.includes('grpc.health.v1.Health'), `health is not listed: ${services}`);
  const definitions = new Map();
  for (const service of services) {
    const reply = await talk.ask({ file_containing_symbol: service });
    const files = reply.file_descriptor_response.file_descriptor_proto;
    definitions.set(service, loadFileDescriptorSetFromBuffer(setOf(files), OPTIONS));
  }
  talk.close();
  return (service) => client(definitions.get(service), service);
}

await describe('v1alpha');
const described = await describe('v1');

const health = described('grpc.health.v1.Health');
assert.deepEqual(await unary(health, 'Check', { service: '' }), { status: 'SERVING' });

const sent = Array.from({ length: RECORDS }, (_, n) => `plain ${n}`);
const records = sent.map((text) => ({ key: Buffer.from(`k-${text}`), value: Buffer.from(text) }));
const produce = described('relevo.client.v1.Produce');
const { receipts } = await unary(produce, 'Send', { topic, records });
assert.equal(receipts.length, RECORDS);

const fetch = described('relevo.client.v1.Fetch');
const request = { topic, earliest: true, stop_at_end: true };
const read = [];
for await (const batch of fetch.Consume(request, { deadline: deadline() })) {
  read.push(...batch.records.map(({ value }) => value.toString()));
}
assert.equal(read.length, RECORDS);
assert.deepEqual(new Set(read), new Set(sent));
for (const service of [health, produce, fetch]) service.close();
console.log(`gRPC: described, healthy, and ${RECORDS} plain records written and read`);
process.exit();
