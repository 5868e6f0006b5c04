/** A server in a process of its own, for tests that kill it. Arguments: the address to listen on. */
import { route } from '@relevo/base/ports';
import type { Codec, Logger, Method } from '@relevo/base/ports';
import { GrpcTransport } from '@relevo/runtime/grpc-transport';

export const textCodec: Codec<string> = {
  encode: (text) => Buffer.from(text),
  decode: (bytes) => Buffer.from(bytes).toString(),
};
export const echoStream: Method<string, string, 'bidi'> = {
  path: '/test.Test/Stream',
  kind: 'bidi',
  audience: 'client',
  request: textCodec,
  response: textCodec,
};
export const echo: Method<string, string, 'unary'> = {
  path: '/test.Test/Echo',
  kind: 'unary',
  audience: 'client',
  request: textCodec,
  response: textCodec,
};

export const silentLogger: Logger = {
  debug: () => undefined,
  info: () => undefined,
  warn: () => undefined,
  error: () => undefined,
  child: () => silentLogger,
};

const [address] = process.argv.slice(2);
if (address !== undefined && process.send !== undefined) {
  const transport = new GrpcTransport({ logger: silentLogger });
  const listener = await transport.listen(address, [
    route(echoStream, (stream) => ({
      onMessage: (text) => void stream.send(text),
      onEnd: () => stream.end(),
    })),
    route(echo, (text) => Promise.resolve(text)),
  ]);
  process.send(listener.address);
}
