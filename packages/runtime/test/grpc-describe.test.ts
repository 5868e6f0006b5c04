import { credentials, loadPackageDefinition } from '@grpc/grpc-js';
import type { Client, GrpcObject } from '@grpc/grpc-js';
import { loadFileDescriptorSetFromBuffer, loadSync } from '@grpc/proto-loader';
import type { Listener, Logger } from '@relevo/base/ports';
import { route } from '@relevo/base/ports';
import { MetadataService } from '@relevo/rpc/gen/client/metadata';
import { ProduceService } from '@relevo/rpc/gen/client/produce';
import { SERVICES } from '@relevo/rpc/gen/descriptor';
import { describingRoutes } from '@relevo/runtime/grpc-describe';
import { GrpcTransport } from '@relevo/runtime/grpc-transport';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import descriptor from 'protobufjs/ext/descriptor/index.js';
import type { IDescriptorProto, IFileDescriptorProto } from 'protobufjs/ext/descriptor/index.js';
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

type Reply = Record<string, unknown>;

/** A conversation with the reflection service. */
async function reflecting(version: string, talk: (ask: Ask) => Promise<void>): Promise<void> {
  const asked = client(
    proto('@grpc/reflection', `proto/grpc/reflection/${version}/reflection.proto`),
    `grpc.reflection.${version}.ServerReflection`,
  );
  const stream = asked['ServerReflectionInfo']?.();
  const failed = new Promise<never>((_, reject) => stream?.once('error', reject));
  const ask: Ask = (request) => {
    const reply = new Promise<Reply>((resolve) => stream?.once('data', resolve));
    stream?.write(request);
    return Promise.race([reply, failed]);
  };
  await talk(ask);
  const ended = new Promise((resolve) => stream?.once('end', resolve));
  stream?.end();
  await ended;
  asked.close();
}
type Ask = (request: unknown) => Promise<Reply>;

const filesOf = (reply: Reply): readonly Buffer[] =>
  (reply['fileDescriptorResponse'] as { fileDescriptorProto: Buffer[] }).fileDescriptorProto;

test.each(['v1', 'v1alpha'])('reflection %s lists what is served, and describes it', (version) =>
  reflecting(version, async (ask) => {
    const list = await ask({ listServices: '*' });
    const { service } = list['listServicesResponse'] as { service: { name: string }[] };
    expect(service.map(({ name }) => name).toSorted()).toStrictEqual([
      'grpc.health.v1.Health',
      'relevo.client.v1.Metadata',
      'relevo.client.v1.Produce',
    ]);
    const files = filesOf(await ask({ fileContainingSymbol: 'relevo.client.v1.Produce' }));
    // What a tool makes of it: a FileDescriptorSet, whose field 1 holds the files.
    const set = Buffer.concat(files.flatMap((file) => [fieldHead(file), file]));
    const definition = loadFileDescriptorSetFromBuffer(set);
    expect(Object.keys(definition['relevo.client.v1.Produce'] ?? {})).toStrictEqual([
      'Stream',
      'Send',
      'InitProducerId',
    ]);
    expect(definition).toHaveProperty(['relevo.client.v1.ProduceRequest']);
    expect(definition).toHaveProperty(['relevo.common.v1.CurrentLeader']);
  }),
);

/** As strictly as protobuf's own libraries do: by full names, among a file and its direct imports. */
test('every type that a served descriptor names is declared where protobuf looks for it', () =>
  reflecting('v1', async (ask) => {
    const files = new Map<string, IFileDescriptorProto>();
    const fetch = async (request: unknown): Promise<void> => {
      for (const bytes of filesOf(await ask(request))) {
        const file = descriptor.FileDescriptorProto.decode(bytes) as IFileDescriptorProto;
        const name = file.name ?? '';
        if (files.has(name)) continue;
        files.set(name, file);
        for (const imported of importsOf(file)) await fetch({ fileByFilename: imported });
      }
    };
    for (const service of [...SERVICES, 'grpc.health.v1.Health']) {
      await fetch({ fileContainingSymbol: service });
    }
    const named = [...files.values()].flatMap((file) => {
      const visible = [file, ...importsOf(file).map((name) => files.get(name))].flatMap((from) =>
        from === undefined ? [] : declaredIn(from),
      );
      return namedIn(file).map((name) => ({ name, found: visible.includes(name) }));
    });
    expect(named.length).toBeGreaterThan(100);
    expect(named.filter(({ found }) => !found)).toStrictEqual([]);
  }));

const importsOf = ({ dependency = [] }: IFileDescriptorProto): readonly string[] =>
  dependency as string[];

/** Full names, each with a dot before it. */
function declaredIn({ package: package_ = '', ...file }: IFileDescriptorProto): readonly string[] {
  const within = (prefix: string, message: IDescriptorProto): string[] => {
    const name = `${prefix}.${message.name}`;
    return [
      name,
      ...(message.enumType ?? []).map((type) => `${name}.${type.name}`),
      ...(message.nestedType ?? []).flatMap((type) => within(name, type)),
    ];
  };
  return [
    ...(file.enumType ?? []).map((type) => `.${package_}.${type.name}`),
    ...(file.messageType ?? []).flatMap((type) => within(`.${package_}`, type)),
  ];
}

function namedIn({ messageType = [], service = [] }: IFileDescriptorProto): readonly string[] {
  const within = ({ field = [], nestedType = [] }: IDescriptorProto): string[] => [
    ...field.flatMap(({ typeName = '' }) => (typeName === '' ? [] : [typeName])),
    ...nestedType.flatMap(within),
  ];
  const methods = service.flatMap(({ method = [] }) => method);
  return [
    ...messageType.flatMap(within),
    ...methods.flatMap(({ inputType = '', outputType = '' }) => [inputType, outputType]),
  ];
}

test('packages that cannot be loaded fail the call, with a line in the log, and nothing else', async () => {
  const lines: string[] = [];
  const logger: Logger = { ...silentLogger, error: (event) => void lines.push(event) };
  const load = (): Promise<never> => Promise.reject(new Error('no such package'));
  const whole = listener;
  listener = await new GrpcTransport({ logger }).listen(
    '127.0.0.1:0',
    describingRoutes([], { logger, load }),
  );
  const failed = { code: 13, details: expect.stringContaining('no such package') as string };
  try {
    await expect(check('')).rejects.toMatchObject(failed);
    const asking = reflecting('v1', async (ask) => void (await ask({ listServices: '*' })));
    await expect(asking).rejects.toMatchObject(failed);
    const watched = health()['Watch']?.({ service: '' });
    const error = await new Promise((resolve) => watched?.once('error', resolve));
    expect(error).toMatchObject(failed);
    expect(lines).toStrictEqual(Array(3).fill('health and reflection cannot be loaded'));
  } finally {
    await listener.close(0);
    listener = whole;
  }
});

/** Tag and length of field 1. */
function fieldHead({ length }: Buffer): Buffer {
  const head = [0x0a];
  let rest = length;
  for (; rest > 0x7f; rest >>>= 7) head.push((rest & 0x7f) | 0x80);
  return Buffer.from([...head, rest]);
}
