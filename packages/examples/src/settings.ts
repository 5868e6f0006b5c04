/** Settings of both services, from the environment: a container's way. */
import { z } from 'zod';

export interface Settings {
  /** host:port of some brokers. Default: localhost:9093. */
  readonly RELEVO_BROKERS: readonly string[];
  /** Default: messages. */
  readonly TOPIC: string;
  /** Of the topic, if it has to be made. Default: 6. */
  readonly PARTITIONS: number;
  /** Likewise. Default: 3. */
  readonly REPLICATION_FACTOR: number;
  /** Where HTTP listens. Default: 127.0.0.1. */
  readonly HOST: string;
  /** Default: 8080. */
  readonly PORT: number;
  /** After so long without an acknowledgement a caller is told to try again, ms. Default: 5,000. */
  readonly DELIVERY_TIMEOUT_MS: number;
}

const schema: z.ZodType<Settings> = z.object({
  RELEVO_BROKERS: z
    .string()
    .default('localhost:9093')
    .transform((text) => text.split(',').map((address) => address.trim())),
  TOPIC: z.string().min(1).default('messages'),
  PARTITIONS: z.coerce.number().int().min(1).default(6),
  REPLICATION_FACTOR: z.coerce.number().int().min(1).default(3),
  HOST: z.string().default('127.0.0.1'),
  PORT: z.coerce.number().int().min(0).max(65_535).default(8080),
  DELIVERY_TIMEOUT_MS: z.coerce.number().int().min(100).default(5_000),
});

/** EX_CONFIG of sysexits.h: somebody has to change something before it is worth another try. */
export const EXIT_CONFIGURATION = 78;

/** Throws an Error with one line for each mistake. */
export function readSettings(environment: Readonly<Record<string, string | undefined>>): Settings {
  const parsed = schema.safeParse(environment);
  if (parsed.success) return parsed.data;
  const lines = parsed.error.issues.map(({ path, message }) => `  ${path.join('.')}: ${message}`);
  throw new Error(`the environment cannot be used:\n${lines.join('\n')}`);
}
