import { credentials, loadPackageDefinition } from '@grpc/grpc-js';
import type { Client, GrpcObject } from '@grpc/grpc-js';
import { loadFileDescriptorSetFromBuffer, loadSync } from '@grpc/proto-loader';
import type { Listener } from '@relevo/base/ports';
import { route } from '@relevo/base/ports';
import { MetadataService } from '@relevo/rpc/gen/client/metadata';
import { ProduceService } from '@relevo/rpc/gen/client/produce';
import { GrpcTransport } from '@relevo/runtime/grpc-transport';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { silentLogger } from './transport-peer.ts';

const require = createRequire(import.meta.url);
const proto = (package_: string, path: string): GrpcObject => {
  const file = join(dirname(require.resolve(package_)), '..', path);
  const options = { enums: String, defaults: true, oneofs: true };
  return loadPackageDefinition(loadSync(file, options));
};

let listener: Listener;
beforeAll(async () => {
  const transport = new GrpcTransport({ logger: silentLogger, describe: true });
  listener = await transport.listen('127.0.0.1:0', [
    route(ProduceService.send, () => Promise.resolve({ receipts: [] })),
    route(MetadataService.getMetadata, () => Promise.reject(new Error('not asked here'))),
  ]);
});
afterAll(() => listener.close(0));

/** A client made by grpc-js from the service's own .proto file, as any other language would. */
function client(object: GrpcObject, path: string): Client & Record<string, Method> {
  let found: unknown = object;
  for (const part of path.split('.')) found = (found as Record<string, unknown>)[part];
  const Made = found as new (address: string, how: unknown) => Client & Record<string, Method>;
  return new Made(listener.address, credentials.createInsecure());
}
type Method = (...parameters: unknown[]) => NodeJS.EventEmitter & {
  write(message: unknown): void;
  end(): void;
  cancel(): void;
};

const health = (): ReturnType<typeof client> =>
  client(proto('grpc-health-check', '../proto/health/v1/health.proto'), 'grpc.health.v1.Health');

const check = (service: string): Promise<unknown> =>
  new Promise((resolve, reject) => {
    const asked = health();
    asked['Check']?.({ service }, (error: Error | null, answer: unknown) => {
      asked.close();
      if (error === null) resolve(answer);
      else reject(error);
    });
  });

test('the health service answers for the whole and for each service', async () => {
  expect(await check('')).toStrictEqual({ status: 'SERVING' });
  expect(await check('relevo.client.v1.Produce')).toStrictEqual({ status: 'SERVING' });
  await expect(check('relevo.client.v1.Nothing')).rejects.toMatchObject({ code: 5 });
});

test('health can be watched', async () => {
  const asked = health();
  const watched = asked['Watch']?.({ service: '' });
  watched?.on('error', () => undefined);
  const first = await new Promise((resolve) => watched?.once('data', resolve));
  expect(first).toStrictEqual({ status: 'SERVING' });
  watched?.cancel();
  asked.close();
});

test.each(['v1', 'v1alpha'])('reflection %s lists what is served, and describes it', async (v) => {
  const asked = client(
    proto('@grpc/reflection', `proto/grpc/reflection/${v}/reflection.proto`),
    `grpc.reflection.${v}.ServerReflection`,
  );
  const stream = asked['ServerReflectionInfo']?.();
  const ask = (request: unknown): Promise<Record<string, never>> =>
    new Promise((resolve) => {
      stream?.once('data', resolve);
      stream?.write(request);
    });
  const list = await ask({ listServices: '*' });
  expect(list['listServicesResponse']).toStrictEqual({
    service: [{ name: 'relevo.client.v1.Produce' }, { name: 'relevo.client.v1.Metadata' }].toSorted(
      (a, b) => (a.name < b.name ? -1 : 1),
    ),
  });
  const described = await ask({ fileContainingSymbol: 'relevo.client.v1.Produce' });
  const { fileDescriptorProto } = described['fileDescriptorResponse'] as unknown as {
    fileDescriptorProto: Buffer[];
  };
  // What a tool makes of it: a FileDescriptorSet, whose field 1 holds the files.
  const set = Buffer.concat(fileDescriptorProto.flatMap((file) => [fieldHead(file), file]));
  const definition = loadFileDescriptorSetFromBuffer(set);
  expect(Object.keys(definition['relevo.client.v1.Produce'] ?? {})).toStrictEqual([
    'Stream',
    'Send',
    'InitProducerId',
  ]);
  expect(definition).toHaveProperty(['relevo.client.v1.ProduceRequest']);
  expect(definition).toHaveProperty(['relevo.common.v1.CurrentLeader']);
  const ended = new Promise((resolve) => stream?.once('end', resolve));
  stream?.end();
  await ended;
  asked.close();
});

/** Tag and length of field 1. */
function fieldHead({ length }: Buffer): Buffer {
  const head = [0x0a];
  let rest = length;
  for (; rest > 0x7f; rest >>>= 7) head.push((rest & 0x7f) | 0x80);
  return Buffer.from([...head, rest]);
}
