/**
 * The standard health and reflection services, for tools such as grpcurl and for orchestrators. Their
 * packages are loaded with the first call: most brokers never get one, and start the sooner.
 */
import { EventEmitter } from 'node:events';
import type { Server, ServiceDefinition, UntypedServiceImplementation } from '@grpc/grpc-js';
import type { PackageDefinition } from '@grpc/proto-loader';
import { messageOf } from '@relevo/base/errors';
import { RpcError, route } from '@relevo/base/ports';
import type { Codec, Logger, MessageStream, Method, Route } from '@relevo/base/ports';
import { fromGrpcFailure } from './grpc-status.ts';
import { asBuffer } from './grpc-stream.ts';

/** By path. */
type Handlers = ReadonlyMap<string, Handler>;

interface Handler {
  readonly decode: (bytes: Buffer) => unknown;
  readonly encode: (message: unknown) => Buffer;
  readonly run: (call: CallLike, answer?: Answer) => void;
}

/** What the packages' handlers use of a call of grpc-js. */
type CallLike = EventEmitter & {
  request?: unknown;
  write?: (message: unknown) => boolean;
  end?: () => void;
};
type Answer = (error: unknown, message: unknown) => void;

const HEALTH = '/grpc.health.v1.Health';
const REFLECTIONS = [
  '/grpc.reflection.v1.ServerReflection',
  '/grpc.reflection.v1alpha.ServerReflection',
];

const bytes: Codec<Uint8Array> = { encode: (value) => value, decode: (value) => value };
const method = <Kind extends Route['kind']>(
  path: string,
  kind: Kind,
): Method<Uint8Array, Uint8Array, Kind> => ({
  path,
  kind,
  audience: 'client',
  request: bytes,
  response: bytes,
});

interface DescribeDeps {
  /** Hears of packages that cannot be loaded. */
  readonly logger: Logger;
  /** Default: from the packages themselves. */
  readonly load?: (services: readonly string[]) => Promise<Handlers>;
}

/** Routes that tell of those given that are for clients, and of themselves. */
export function describingRoutes(
  routes: readonly Route[],
  { logger, load = loadHandlers }: DescribeDeps,
): readonly Route[] {
  // What is for the cluster's own nodes is no news for callers.
  const open = routes.filter((each) => each.method.audience === 'client');
  const services = [...new Set(open.map(({ method: { path } }) => path.split('/')[1] ?? ''))];
  let loaded: Promise<Handlers> | undefined;
  const handlerOf = async (path: string): Promise<Handler> => {
    loaded ??= load(services);
    let handlers: Handlers;
    try {
      handlers = await loaded;
    } catch (error) {
      // The next call tries again.
      loaded = undefined;
      logger.error('health and reflection cannot be loaded', { path, error });
      const what = `${path} cannot be served: ${messageOf(error)}`;
      throw new RpcError('INTERNAL', what, { code: 'UNKNOWN_SERVER_ERROR' });
    }
    const handler = handlers.get(path);
    if (handler === undefined) throw new RpcError('UNIMPLEMENTED', `${path} is not served here`);
    return handler;
  };
  return [
    unaryRoute(`${HEALTH}/Check`, handlerOf),
    unaryRoute(`${HEALTH}/List`, handlerOf),
    watchRoute(`${HEALTH}/Watch`, handlerOf),
    ...REFLECTIONS.map((service) => bidiRoute(`${service}/ServerReflectionInfo`, handlerOf)),
  ];
}

type HandlerOf = (path: string) => Promise<Handler>;

const unaryRoute = (path: string, handlerOf: HandlerOf): Route =>
  route(method(path, 'unary'), async (request) => {
    const handler = await handlerOf(path);
    const call: CallLike = new EventEmitter();
    call.request = handler.decode(asBuffer(request));
    return new Promise((resolve, reject) => {
      handler.run(call, (error, message) => {
        if (error === null || error === undefined) resolve(handler.encode(message));
        else reject(fromGrpcFailure(error));
      });
    });
  });

const watchRoute = (path: string, handlerOf: HandlerOf): Route =>
  route(method(path, 'serverStream'), (request, stream) => {
    const call = callOn(stream);
    const started = handlerOf(path).then((handler) => {
      call.request = handler.decode(asBuffer(request));
      call.write = (message) => stream.send(handler.encode(message));
      handler.run(call);
    });
    cancelOnFailure(started, stream);
    return { onEnd: () => void call.emit('cancelled') };
  });

const bidiRoute = (path: string, handlerOf: HandlerOf): Route =>
  route<Uint8Array, Uint8Array, 'bidi'>(method(path, 'bidi'), (stream) => {
    const call = callOn(stream);
    const started = handlerOf(path).then((handler) => {
      call.write = (message) => stream.send(handler.encode(message));
      handler.run(call);
      return handler;
    });
    // At once: a rejection that nobody has asked for by then would end the process.
    cancelOnFailure(started, stream);
    const then = (run: (handler: Handler) => void): void =>
      cancelOnFailure(started.then(run), stream);
    return {
      onMessage: (message) => then(({ decode }) => call.emit('data', decode(asBuffer(message)))),
      onEnd: (error) => then(() => error ?? call.emit('end')),
    };
  });

function callOn(stream: MessageStream<Uint8Array>): CallLike {
  const call: CallLike = new EventEmitter();
  call.end = () => stream.end();
  return call;
}

function cancelOnFailure(started: Promise<unknown>, stream: MessageStream<Uint8Array>): void {
  started.catch((error: unknown) => stream.cancel(fromGrpcFailure(error)));
}

async function loadHandlers(services: readonly string[]): Promise<Handlers> {
  const [health, reflection, { DESCRIPTORS }] = await Promise.all([
    import('grpc-health-check'),
    import('@grpc/reflection'),
    import('@relevo/rpc/gen/descriptor'),
  ]);
  const handlers = new Map<string, Handler>();
  const collector = { addService: collectInto(handlers) } as unknown as Server;
  const serving = ['', ...services].map((service) => [service, 'SERVING'] as const);
  new health.HealthImplementation(Object.fromEntries(serving)).addToServer(collector);
  const files: PackageDefinition[string] = {
    // Only the bytes are looked at; this is the one format that needs no more than them.
    format: 'Protocol Buffer 3 EnumDescriptorProto',
    type: {},
    fileDescriptorProtos: DESCRIPTORS.map((file) => Buffer.from(file, 'base64')),
  };
  const listed = [...services, HEALTH.slice(1)];
  new reflection.ReflectionService({ files }, { services: listed }).addToServer(collector);
  return handlers;
}

/** Stands for `Server.addService`, and keeps what it is given. */
function collectInto(
  handlers: Map<string, Handler>,
): (definition: ServiceDefinition, implementation: UntypedServiceImplementation) => void {
  return (definition, implementation) => {
    for (const [name, one] of Object.entries(definition)) {
      const run = implementation[name] ?? implementation[one.originalName ?? ''];
      if (run === undefined) continue;
      handlers.set(one.path, {
        decode: one.requestDeserialize,
        encode: one.responseSerialize,
        run: run as unknown as Handler['run'],
      });
    }
  };
}
