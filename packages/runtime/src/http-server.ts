/** What operators and orchestrators ask of a process over HTTP: `/metrics`, `/healthz`, `/readyz`. */
import type { PromMetrics } from './metrics.ts';

export interface HttpServerOptions {
  readonly host: string;
  /** 0 takes a free one. */
  readonly port: number;
  readonly metrics: PromMetrics;
  /** Why the process should be restarted; undefined: it is well. */
  readonly unhealthy: () => string | undefined;
  /** Why it should get no calls at present; undefined: it is ready. */
  readonly unready: () => string | undefined;
  /** What people should see to though it is ready, a line each; `/readyz` lists the first 20. */
  readonly warnings?: () => readonly string[];
}

const WARNINGS_MAX = 20;

export interface HttpServer {
  /** host:port, with the port that was taken. */
  readonly address: string;
  close(): Promise<void>;
}

/**
 * Rejects with an Error that names the address when it cannot be taken. Loads fastify when it is called:
 * call it when the process serves already.
 */
export async function startHttpServer(options: HttpServerOptions): Promise<HttpServer> {
  const { fastify } = await import('fastify');
  const app = fastify({ logger: false, forceCloseConnections: true });
  app.get('/metrics', async (_request, reply) => {
    const { contentType, body } = await options.metrics.text();
    return reply.type(contentType).send(body);
  });
  const probe = (
    path: string,
    problem: () => string | undefined,
    warningsOf: () => readonly string[] = () => [],
  ): void => {
    app.get(path, (_request, reply) => {
      const reason = problem();
      const warnings = warningsOf().slice(0, WARNINGS_MAX);
      const more = warnings.length === 0 ? {} : { warnings };
      void reply
        .code(reason === undefined ? 200 : 503)
        .send(
          reason === undefined ? { status: 'ok', ...more } : { status: 'failing', reason, ...more },
        );
    });
  };
  probe('/healthz', options.unhealthy);
  probe('/readyz', options.unready, options.warnings);
  const { host, port } = options;
  try {
    await app.listen({ host, port });
  } catch (error) {
    throw cannotListen(`${host}:${port}`, error);
  }
  const taken = app.server.address();
  const takenPort = typeof taken === 'object' && taken !== null ? taken.port : port;
  return { address: `${host}:${takenPort}`, close: () => app.close() };
}

function cannotListen(address: string, error: unknown): Error {
  const { code, message } = error as NodeJS.ErrnoException;
  const why =
    code === 'EADDRINUSE'
      ? 'the port is in use; stop the process that has it, or choose another port'
      : message;
  return new Error(`cannot serve HTTP on ${address}: ${why}`, { cause: error });
}
