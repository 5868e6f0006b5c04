/**
 * What @grpc/grpc-js keeps to itself and has no option for. Asserted before it is used, so that a version
 * that is laid out differently fails the first test and not a user.
 */
import type { Http2Server, ServerHttp2Session, ServerOptions } from 'node:http2';
import type { Socket } from 'node:net';
import type { Server } from '@grpc/grpc-js';
import { assert } from '@relevo/base/assert';

const SAME_LAYOUT =
  'this version of @grpc/grpc-js is laid out as the one that Relevo was tested with';

/**
 * Widens a server's windows, before it is bound: grpc-js does so for clients alone, and with HTTP/2's
 * 64 KiB uploads crawl.
 */
export function widenStreamWindows(server: Server, windowBytes: number): void {
  const { commonServerOptions } = server as unknown as { commonServerOptions?: ServerOptions };
  assert(commonServerOptions?.maxSessionMemory !== undefined, SAME_LAYOUT);
  commonServerOptions.settings = {
    ...commonServerOptions.settings,
    initialWindowSize: windowBytes,
  };
}

/** Calls `onSession` and `onSocket` for each connection of a server that has been bound. */
export function watchConnections(
  server: Server,
  onSession: (session: ServerHttp2Session) => void,
  onSocket: (socket: Socket) => void,
): void {
  const { http2Servers } = server as unknown as { http2Servers?: Map<Http2Server, unknown> };
  assert(http2Servers instanceof Map && http2Servers.size > 0, SAME_LAYOUT);
  for (const http2Server of http2Servers.keys()) {
    http2Server.on('session', onSession);
    http2Server.on('connection', onSocket);
  }
}
