/** The `Transport` port over @grpc/grpc-js. */
import { connect, isIP } from 'node:net';
import { logVerbosity, setLogVerbosity } from '@grpc/grpc-js';
import type { Channel, Listener, Logger, ProbeResult, Route, Transport } from '@relevo/base/ports';
import { ClientBook } from './client-limits.ts';
import { GrpcClientChannel } from './grpc-channel.ts';
import { describingRoutes } from './grpc-describe.ts';
import { GrpcListener } from './grpc-listener.ts';

export interface GrpcTransportOptions {
  /** Hears of handlers that failed with something else than a RelevoError or an RpcError. */
  readonly logger: Logger;
  /** Serve health checks and reflection beside the routes of each listener. Default: false. */
  readonly describe?: boolean;
  /** Counts what clients hold open; default: under the default limits. */
  readonly clients?: ClientBook;
}

export class GrpcTransport implements Transport {
  readonly #options: GrpcTransportOptions;
  readonly #clients: ClientBook;

  constructor(options: GrpcTransportOptions) {
    this.#options = options;
    this.#clients = options.clients ?? new ClientBook();
    // grpc-js writes to stderr by itself what our errors say; GRPC_VERBOSITY brings that back.
    if (process.env['GRPC_VERBOSITY'] === undefined) setLogVerbosity(logVerbosity.NONE);
  }

  dial(address: string): Channel {
    splitAddress(address);
    return new GrpcClientChannel(address);
  }

  listen(address: string, routes: readonly Route[], name = ''): Promise<Listener> {
    splitAddress(address);
    const { logger, describe = false } = this.#options;
    const served = describe ? [...routes, ...describingRoutes(routes, { logger })] : routes;
    return GrpcListener.open({ address, routes: served, name, clients: this.#clients, logger });
  }

  probe(address: string, timeoutMs: number): Promise<ProbeResult> {
    const { host, port } = splitAddress(address);
    return new Promise((resolve) => {
      const socket = connect({ host, port });
      let resolved = isIP(host) !== 0;
      const timer = setTimeout(() => settle(resolved ? 'silent' : 'unknown'), timeoutMs);
      const settle = (result: ProbeResult): void => {
        clearTimeout(timer);
        socket.destroy();
        resolve(result);
      };
      socket.once('lookup', (error: Error | null) => (resolved = error === null));
      socket.once('connect', () => settle('accepted'));
      socket.on('error', (error: NodeJS.ErrnoException) =>
        settle(PROBE_ERRORS[error.code ?? ''] ?? 'silent'),
      );
    });
  }
}

/** Only a refusal shows that nobody listens; an unreachable host may be alive. */
const PROBE_ERRORS: Readonly<Record<string, ProbeResult>> = {
  ECONNREFUSED: 'refused',
  ENOTFOUND: 'unknown',
  EAI_AGAIN: 'unknown',
};

/** Of `host:port` or `[v6 address]:port`. */
function splitAddress(address: string): { readonly host: string; readonly port: number } {
  const parts = /^(?:\[([^\]]+)\]|([^:[\]]+)):(\d{1,5})$/.exec(address);
  const host = parts?.[1] ?? parts?.[2];
  const port = Number(parts?.[3]);
  if (host === undefined || port > 65_535) {
    throw new Error(`"${address}" is not an address; write host:port, such as localhost:9093`);
  }
  return { host, port };
}
