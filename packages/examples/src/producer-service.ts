/**
 * A microservice that takes messages over HTTP and writes them to a topic.
 *
 *     POST /api/messages   {"message": "…", "key": "…", "headers": {"…": "…"}}
 *
 *     202  acknowledged by all in-sync replicas; the body is the receipt
 *     400  the body is not a message; `errors` says what is wrong with which field
 *     503  the cluster cannot take it now; Retry-After says when to try again, `reason` why, and
 *          `outcomeUnknown` whether it may have been written all the same
 *
 * Every other refusal (404, 408, 413, 415, 431) has `errors` too, with an empty `field`.
 */
import { once } from 'node:events';
import { createServer, type Server } from 'node:http';
import type { Socket } from 'node:net';
import { ClientError, type Producer, type Relevo } from '@relevo/client';
import { fastify, type FastifyInstance, type FastifyReply, type FastifyRequest } from 'fastify';
import { z } from 'zod';

/** A batch may have 1 MiB; a message leaves room for its key and headers. */
const MESSAGE_LENGTH_MAX = 512 * 1024;
const BODY_BYTES_MAX = 1024 * 1024;
/** More than this waiting, and callers are turned away before their messages are taken, bytes. */
const WAITING_BYTES_MAX = 16 * 1024 * 1024;
const RETRY_AFTER_S = 1;
/** To send all of a request, ms. */
const REQUEST_TIMEOUT_MS = 10_000;
/** For requests under way when the service is told to end, ms; then their connections are cut. */
const GRACE_MS = 2_000;

/** UTF-8 has no half characters: they would be stored as U+FFFD. */
const text = (min: number, max: number): z.ZodString =>
  z
    .string()
    .min(min)
    .max(max)
    .refine((value) => !/\p{Surrogate}/u.test(value), { error: 'has half of a surrogate pair' });

const messageBody = z.strictObject({
  message: text(1, MESSAGE_LENGTH_MAX),
  key: text(1, 1024).optional(),
  headers: z.record(text(1, 256), text(0, 8192)).optional(),
});

/** What every refusal but 503 answers. */
interface Refusal {
  readonly errors: readonly FieldError[];
}

interface FieldError {
  /** Empty: it is the request, or the body as a whole. */
  readonly field: string;
  readonly message: string;
}

const refusal = (message: string, field = ''): Refusal => ({ errors: [{ field, message }] });

export interface ProducerService {
  /** http://host:port. */
  listen(host: string, port: number): Promise<string>;
  /** Answers what is under way, as far as that takes no more than 2 s, then ends. */
  close(): Promise<void>;
}

export interface ProducerServiceOptions {
  readonly topic: string;
  readonly deliveryTimeoutMs: number;
}

export function producerService(relevo: Relevo, options: ProducerServiceOptions): ProducerService {
  const { topic, deliveryTimeoutMs } = options;
  const producer = relevo.producer({ lingerMs: 0, deliveryTimeoutMs });
  const servers: Server[] = [];
  const app = fastify({
    logger: false,
    bodyLimit: BODY_BYTES_MAX,
    // What comes on an open connection while the service ends is answered like the rest.
    return503OnClosing: false,
    clientErrorHandler: refuseConnection,
    frameworkErrors: failed,
    // A name such as localhost has several addresses, and fastify makes a server for each.
    serverFactory: (handler) => {
      const timing = { requestTimeout: REQUEST_TIMEOUT_MS, connectionsCheckingInterval: 1_000 };
      const server = createServer(timing, handler);
      servers.push(server);
      return server;
    },
  });
  // Text that is no JSON is no message, and is told so by its type.
  app.removeContentTypeParser('text/plain');
  app.setErrorHandler(failed);
  app.setNotFoundHandler(({ method, url }, reply) =>
    reply.code(404).send(refusal(`there is no ${method} ${url}; POST /api/messages`)),
  );
  routes(app, producer, topic);
  return {
    listen: (host, port) => app.listen({ host, port }),
    close: async () => {
      const ended = servers.filter(({ listening }) => listening).map((each) => once(each, 'close'));
      const grace = setTimeout(() => {
        for (const server of servers) server.closeAllConnections();
      }, GRACE_MS);
      await Promise.all([app.close(), ...ended]);
      clearTimeout(grace);
      await producer.close();
    },
  };
}

function routes(app: FastifyInstance, producer: Producer, topic: string): void {
  app.get('/healthz', () => ({ status: 'ok' }));
  app.post('/api/messages', async (request, reply) => {
    const parsed = messageBody.safeParse(request.body);
    if (!parsed.success) {
      return reply.code(400).send({ errors: parsed.error.issues.flatMap(fieldErrors) });
    }
    if (producer.bufferedBytes > WAITING_BYTES_MAX) {
      return unavailable(reply, 'too many messages wait for the cluster', false);
    }
    const { message, key, headers } = parsed.data;
    try {
      const receipt = await producer.send({
        topic,
        value: message,
        ...(key !== undefined && { key }),
        ...(headers !== undefined && { headers }),
      });
      return await reply.code(202).send(receipt);
    } catch (error) {
      if (!(error instanceof ClientError)) throw error;
      if (error.code === 'MESSAGE_TOO_LARGE') {
        return reply.code(400).send(refusal(error.message, 'message'));
      }
      return unavailable(reply, error.message, error.outcomeUnknown);
    }
  });
}

function fieldErrors(issue: z.core.$ZodIssue): FieldError[] {
  const unknown = issue.code === 'unrecognized_keys' ? issue.keys : undefined;
  if (unknown === undefined) return [{ field: issue.path.join('.'), message: issue.message }];
  return unknown.map((key) => ({
    field: [...issue.path, key].join('.'),
    message: 'is unknown; a message has message, key and headers',
  }));
}

/** Also for what fastify refuses before it looks for a route. */
function failed(
  error: Error & { statusCode?: number },
  _: FastifyRequest,
  reply: FastifyReply,
): void {
  const status = error.statusCode ?? 500;
  if (status >= 500) console.error(error);
  const message = status < 500 ? error.message : 'the service failed; it is in its log';
  void reply.code(status).send(refusal(message));
}

/** What is no HTTP, or never comes to its end, belongs to no request that could be answered. */
function refuseConnection(error: Error & { code?: string }, socket: Socket): void {
  if (socket.writable) {
    const [status, message] = CONNECTION_ERRORS[error.code ?? ''] ?? NO_HTTP;
    const body = JSON.stringify(refusal(message));
    socket.write(
      `HTTP/1.1 ${status}\r\nConnection: close\r\nContent-Type: application/json\r\n` +
        `Content-Length: ${Buffer.byteLength(body)}\r\n\r\n${body}`,
    );
  }
  socket.destroy(error);
}

const NO_HTTP = ['400 Bad Request', 'this is no HTTP'] as const;
const CONNECTION_ERRORS: Readonly<Record<string, readonly [string, string]>> = {
  ERR_HTTP_REQUEST_TIMEOUT: [
    '408 Request Timeout',
    `the request did not come to its end within ${REQUEST_TIMEOUT_MS / 1000} s`,
  ],
  HPE_HEADER_OVERFLOW: ['431 Request Header Fields Too Large', 'the headers are too long'],
};

function unavailable(reply: FastifyReply, reason: string, outcomeUnknown: boolean): FastifyReply {
  return reply.code(503).header('Retry-After', RETRY_AFTER_S).send({ reason, outcomeUnknown });
}
