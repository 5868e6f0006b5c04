/** Settings of both services, from the environment: a container's way. */
import { z } from 'zod';

export interface Settings {
  /** host:port of some brokers. Default: localhost:9093. */
  readonly RELEVO_BROKERS: readonly string[];
  /** Default: messages. */
  readonly TOPIC: string;
  /** Of the topic, if it has to be made: 1 to 10,000, default: 6. */
  readonly PARTITIONS: number;
  /** Likewise. 1 to 50, default: 3. */
  readonly REPLICATION_FACTOR: number;
  /** Where HTTP listens. Default: 127.0.0.1. */
  readonly HOST: string;
  /** 0: any that is free. Default: 8080. */
  readonly PORT: number;
  /** After so long without an acknowledgement a caller is told to try again, ms. Default: 5,000. */
  readonly DELIVERY_TIMEOUT_MS: number;
}

const ADDRESS = /^(?:\[[^\]\s]+\]|[^:[\]\s/]+):(\d{1,5})$/;
const TOPIC_NAME = /^(?!\.{1,2}$)[A-Za-z0-9._-]{1,249}$/;
const DAY_MS = 86_400_000;

/** Of digits alone: a variable that is there but empty is a mistake, and no 0. */
const integer = (min: number, max: number, byDefault: number): z.ZodType<number> => {
  const error = `must be an integer from ${min} to ${max}`;
  return z
    .string()
    .regex(/^\d{1,15}$/, { error, abort: true })
    .transform(Number)
    .pipe(z.number().min(min, { error }).max(max, { error }))
    .default(byDefault);
};

const isAddress = (address: string): boolean => {
  const port = Number(ADDRESS.exec(address)?.[1]);
  return port >= 1 && port <= 65_535;
};

const schema: z.ZodType<Settings> = z.object({
  RELEVO_BROKERS: z
    .string()
    .default('localhost:9093')
    .transform((text) => text.split(',').map((address) => address.trim()))
    .refine((addresses) => addresses.every(isAddress), {
      error: 'must be host:port, or several with commas between',
    }),
  TOPIC: z
    .string()
    .regex(TOPIC_NAME, { error: 'must be 1 to 249 of A-Z a-z 0-9 . _ - and not . or ..' })
    .default('messages'),
  PARTITIONS: integer(1, 10_000, 6),
  REPLICATION_FACTOR: integer(1, 50, 3),
  HOST: z
    .string()
    .regex(/^\S+$/, { error: 'must be a host name or an address' })
    .default('127.0.0.1'),
  PORT: integer(0, 65_535, 8080),
  DELIVERY_TIMEOUT_MS: integer(100, DAY_MS, 5_000),
});

/** EX_CONFIG of sysexits.h: somebody has to change something before it is worth another try. */
export const EXIT_CONFIGURATION = 78;

/** A mistake in the settings; the message is one line that says which and what is wrong. */
export class SettingsError extends Error {
  override readonly name = 'SettingsError';
}

/** Throws a SettingsError that names every mistake. */
export function readSettings(environment: Readonly<Record<string, string | undefined>>): Settings {
  const parsed = schema.safeParse(environment);
  if (parsed.success) return parsed.data;
  const mistakes = parsed.error.issues.map(({ path, message }) => {
    const name = path.join('.');
    return `${name} ${message}, not ${JSON.stringify(environment[name])}`;
  });
  throw new SettingsError(`the environment cannot be used: ${mistakes.join('; ')}`);
}
