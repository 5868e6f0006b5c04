import { readFileSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import descriptor from 'protobufjs/ext/descriptor/index.js';
import type { IDescriptorProto, IFileDescriptorProto } from 'protobufjs/ext/descriptor/index.js';
import { expect, test } from 'vitest';
import { DESCRIPTORS, SERVICES } from '@relevo/rpc/gen/descriptor';
import { generate } from '../generate.ts';

const COMMITTED = join(import.meta.dirname, '..', 'src', 'gen');

test('src/gen is what `npm run generate` writes', async () => {
  const generated = await generate();
  const committed = readdirSync(COMMITTED, { recursive: true, encoding: 'utf8' })
    .filter((path) => path.endsWith('.ts'))
    .map((path) => [path, readFileSync(join(COMMITTED, path), 'utf8')] as const);
  expect(new Map(committed.toSorted(([a], [b]) => (a < b ? -1 : 1)))).toStrictEqual(
    new Map([...generated].toSorted(([a], [b]) => (a < b ? -1 : 1))),
  );
});

const FILES = DESCRIPTORS.map((base64): IFileDescriptorProto => {
  const file = descriptor.FileDescriptorProto.decode(Buffer.from(base64, 'base64'));
  return descriptor.FileDescriptorProto.toObject(file, { enums: String });
});

test('the descriptors hold every service', () => {
  const services = FILES.flatMap((file) =>
    (file.service ?? []).map((service) => `${file.package}.${service.name}`),
  );
  expect(services.toSorted()).toStrictEqual([...SERVICES, 'grpc.health.v1.Health'].toSorted());
});

test('a file comes after those that it imports', () => {
  const seen: string[] = [];
  for (const { name = '', dependency = [] } of FILES) {
    expect(seen).toEqual(expect.arrayContaining(dependency as string[]));
    seen.push(name);
  }
  expect(seen).toContain('relevo/client/v1/produce.proto');
});

/** As protoc writes it. */
test('optional fields, maps and JSON names are those of protobuf', () => {
  const messages = FILES.flatMap(({ messageType = [] }) => messageType);
  const named = (name: string): IDescriptorProto | undefined =>
    messages.find((message) => message.name === name);
  expect(named('SendRequest')).toMatchObject({
    field: expect.arrayContaining([
      expect.objectContaining({ name: 'timeout_ms', jsonName: 'timeoutMs', proto3Optional: true }),
    ]),
  });
  expect(named('CreateTopicRequest')).toMatchObject({
    nestedType: [{ name: 'ConfigEntry', options: { mapEntry: true } }],
  });
  expect(named('ConsumeRequest')?.oneofDecl).toStrictEqual([
    { name: 'from' },
    // An optional field is a oneof of its own.
    { name: '_leader_epoch' },
  ]);
});
