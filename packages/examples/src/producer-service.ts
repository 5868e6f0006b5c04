/**
 * A microservice that takes messages over HTTP and writes them to a topic.
 *
 *     POST /api/messages   {"message": "…", "key": "…", "headers": {"…": "…"}}
 *
 *     202  acknowledged by all in-sync replicas; the body is the receipt
 *     400  the body is not a message; `errors` says what is wrong with which field
 *     503  the cluster cannot take it now; Retry-After says when to try again, and `outcomeUnknown` whether
 *          it may have been written all the same
 */
import { ClientError, type Producer, type Relevo } from '@relevo/client';
import { fastify, type FastifyInstance, type FastifyReply } from 'fastify';
import { z } from 'zod';

/** A batch may have 1 MiB; a message leaves room for its key and headers. */
const MESSAGE_LENGTH_MAX = 512 * 1024;
const BODY_BYTES_MAX = 1024 * 1024;
/** More than this waiting, and callers are turned away before their messages are taken, bytes. */
const WAITING_BYTES_MAX = 16 * 1024 * 1024;
const RETRY_AFTER_S = 1;

const messageBody = z.strictObject({
  message: z.string().min(1).max(MESSAGE_LENGTH_MAX),
  key: z.string().min(1).max(1024).optional(),
  headers: z.record(z.string().min(1).max(256), z.string().max(8192)).optional(),
});

export interface ProducerService {
  /** http://host:port. */
  listen(host: string, port: number): Promise<string>;
  /** Answers what is under way, then ends. */
  close(): Promise<void>;
}

export interface ProducerServiceOptions {
  readonly topic: string;
  readonly deliveryTimeoutMs: number;
}

export function producerService(relevo: Relevo, options: ProducerServiceOptions): ProducerService {
  const { topic, deliveryTimeoutMs } = options;
  const producer = relevo.producer({ lingerMs: 0, deliveryTimeoutMs });
  const app = fastify({ logger: false, bodyLimit: BODY_BYTES_MAX });
  app.setErrorHandler((error: Error & { statusCode?: number }, _, reply) => {
    const status = error.statusCode ?? 500;
    const message = status < 500 ? error.message : 'the service failed; it is in its log';
    if (status >= 500) console.error(error);
    return reply.code(status).send({ errors: [{ field: '', message }] });
  });
  routes(app, producer, topic);
  return {
    listen: (host, port) => app.listen({ host, port }),
    close: async () => {
      await app.close();
      await producer.close();
    },
  };
}

function routes(app: FastifyInstance, producer: Producer, topic: string): void {
  app.get('/healthz', () => ({ status: 'ok' }));
  app.post('/api/messages', async (request, reply) => {
    const parsed = messageBody.safeParse(request.body);
    if (!parsed.success) {
      const errors = parsed.error.issues.map((issue) => ({
        field: issue.path.join('.'),
        message: issue.message,
      }));
      return reply.code(400).send({ errors });
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
        return reply.code(400).send({ errors: [{ field: 'message', message: error.message }] });
      }
      return unavailable(reply, error.message, error.outcomeUnknown);
    }
  });
}

function unavailable(reply: FastifyReply, reason: string, outcomeUnknown: boolean): FastifyReply {
  return reply.code(503).header('Retry-After', RETRY_AFTER_S).send({ reason, outcomeUnknown });
}
