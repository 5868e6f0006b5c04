/**
 * A node's configuration. Sources in rising priority: defaults, the YAML file, `RELEVO_…` environment
 * variables (`.` becomes `_`), flags. Keys bear Kafka's names where the meaning is Kafka's. Nested YAML is
 * flattened with dots, so `log: { dir: x }` and `log.dir: x` say the same.
 */
import { BATCH_BYTES_MAX } from '@relevo/base/limits';
import { nearest } from '@relevo/base/nearest';
import type { ListenerAddress } from '@relevo/controller/records';
import { YOUNG_BYTES_MAX } from '@relevo/log/young-logs';
import { z } from 'zod';

/** A configuration that cannot be used: one line per mistake, each naming the key and what to set. */
export class ConfigError extends Error {
  override readonly name = 'ConfigError';
}

const HOST_PORT = /^(\[[0-9a-fA-F:]+\]|[A-Za-z0-9._-]+):(\d{1,5})$/;

const hostPort = z
  .string()
  .refine((text) => HOST_PORT.test(text) && Number(text.split(':').at(-1)) <= 65535, {
    error: 'must be host:port, for example 127.0.0.1:9093',
  });

/** The name of a listener that is given none. */
const DEFAULT_LISTENER = 'default';
const NAMED = /^(?:([A-Za-z0-9_-]{1,64}):\/\/)?(.+)$/;

/** `host:port`, or `name://host:port` for each of several, with commas between them or as a list. */
const namedAddresses = z
  .union([z.string(), z.array(z.string())])
  .transform((value) =>
    (Array.isArray(value) ? value : value.split(',')).map((address) => address.trim()),
  )
  .pipe(
    z
      .array(
        z.string().refine((text) => hostPort.safeParse(NAMED.exec(text)?.[2]).success, {
          error:
            'must be host:port, for example 127.0.0.1:9093, or name://host:port for each of several',
        }),
      )
      .min(1),
  )
  .transform((list) =>
    list.map((text): ListenerAddress => {
      const [, listener = DEFAULT_LISTENER, address] = NAMED.exec(text) ?? [];
      return { listener, address: String(address) };
    }),
  );

/** As people and YAML write numbers; templates of Helm make 8.64e+07 of 86400000. */
const DECIMAL = /^[+-]?\d+(?:\.\d+)?(?:e[+-]?\d+)?$/i;

const integer = (min: number, max: number): z.ZodType<number> => {
  const error = `must be a whole number from ${min} to ${max}`;
  return z.preprocess(
    (value) => (typeof value === 'string' && DECIMAL.test(value.trim()) ? Number(value) : value),
    z.number({ error }).int({ error }).min(min, { error }).max(max, { error }),
  );
};
const milliseconds = (min = 1): z.ZodType<number> => integer(min, 2 ** 31 - 1);
const boolean = z
  .union([z.boolean(), z.enum(['true', 'false'])])
  .transform((v) => String(v) === 'true');

export type Role = 'broker' | 'controller';
const ROLES: readonly Role[] = ['broker', 'controller'];

const roles = z
  .union([z.string(), z.array(z.string())])
  .transform((value) =>
    (Array.isArray(value) ? value : value.split(',')).map((role) => role.trim()),
  )
  .pipe(z.array(z.enum(ROLES)).min(1));

const names = z
  .union([z.string(), z.array(z.string())])
  .transform((value) =>
    (Array.isArray(value) ? value : value.split(',')).map((name) => name.trim()),
  );

const VOTER = /^(\d+)@(.+)$/;
const VOTER_ERROR = 'each voter must be ID@host:port, for example 1@127.0.0.1:9093';
const voters = z
  .union([z.string(), z.array(z.string())], { error: VOTER_ERROR })
  .transform((value) =>
    (Array.isArray(value) ? value : value.split(',')).map((voter) => voter.trim()),
  )
  .pipe(
    z
      .array(
        z.string().refine((text) => HOST_PORT.test(VOTER.exec(text)?.[2] ?? ''), {
          error: VOTER_ERROR,
        }),
      )
      .min(1),
  )
  .transform((list) =>
    list.map((text) => {
      const [, id, address] = VOTER.exec(text) ?? [];
      return { id: Number(id), address: String(address) };
    }),
  );

const KIB = 1024;
const MIB = 1024 * KIB;
const GIB = 1024 * MIB;

/** Every key there is, with its range and default. */
const fields = {
  'cluster.id': z
    .string({ error: 'must be text: put it between quotes' })
    .regex(/^[A-Za-z0-9_-]{1,64}$/, 'must be 1 to 64 of A-Z a-z 0-9 _ -'),
  'node.id': integer(0, 2 ** 31 - 1),
  'process.roles': roles.default(['broker', 'controller']),
  'broker.rack': z.string().default(''),
  'log.dir': z.string({ error: 'must be the path of a directory' }).min(1, 'must not be empty'),
  'listener.grpc': namedAddresses.default([
    { listener: DEFAULT_LISTENER, address: '127.0.0.1:9093' },
  ]),
  'listener.http': z.union([z.literal('none'), hostPort]).default('127.0.0.1:9094'),
  'advertised.grpc': namedAddresses.optional(),
  'inter.broker.listener.name': z.string().optional(),
  'cluster.listener.names': names.optional(),
  'cluster.secret.file': z.string().default(''),
  'cluster.auth.required': z
    .union([boolean, z.literal('auto')], { error: 'must be true, false or auto' })
    .optional(),
  'controller.quorum.voters': voters,
  'controller.quorum.election.timeout.ms': milliseconds(50).default(500),
  'controller.quorum.heartbeat.interval.ms': milliseconds(10).default(100),
  'controller.quorum.resolve.timeout.ms': milliseconds(1000).default(60_000),
  'broker.heartbeat.interval.ms': milliseconds(10).default(250),
  'broker.session.timeout.ms': milliseconds(100).default(1500),
  'replica.lag.time.max.ms': milliseconds(100).default(5000),
  'leader.handback.delay.ms': milliseconds(0).default(2000),
  'controlled.shutdown.timeout.ms': milliseconds(0).default(10_000),
  'num.partitions': integer(1, 100_000).default(1),
  'default.replication.factor': integer(1, 32_767).default(3),
  'min.insync.replicas': integer(1, 32_767).default(2),
  'unclean.leader.election.enable': boolean.default(false),
  'flush.mode': z.enum(['sync', 'os']).default('sync'),
  'max.connections': integer(1, 1_000_000).default(10_000),
  'max.calls': integer(1, 1_000_000).default(10_000),
  'max.calls.per.connection': integer(1, 1000).default(500),
  'message.max.bytes': integer(1 * KIB, BATCH_BYTES_MAX).default(MIB),
  'log.segment.bytes': integer(64 * KIB, 2 * GIB - 1).default(GIB),
  'log.roll.ms': integer(1000, Number.MAX_SAFE_INTEGER).default(7 * 24 * 3600 * 1000),
  'log.index.interval.bytes': integer(0, 2 ** 31 - 1).default(4 * KIB),
  'log.retention.ms': integer(-1, Number.MAX_SAFE_INTEGER).default(7 * 24 * 3600 * 1000),
  'log.retention.bytes': integer(-1, Number.MAX_SAFE_INTEGER).default(-1),
  'log.retention.check.interval.ms': milliseconds(100).default(30_000),
  'deleted.topic.directory.retention.ms': milliseconds(0).default(3_600_000),
  'log.message.timestamp.type': z.enum(['CreateTime', 'LogAppendTime']).default('CreateTime'),
  'log.disk.reserve.bytes': integer(0, Number.MAX_SAFE_INTEGER).default(64 * MIB),
  'log.young.bytes.max': integer(0, 1024 * MIB).default(YOUNG_BYTES_MAX),
  'log.level': z.enum(['debug', 'info', 'warn', 'error', 'silent']).default('info'),
  'log.pretty': boolean.default(false),
} satisfies Record<keyof NodeConfig, z.ZodType>;
const schema: z.ZodType<Settings> = z.object(fields);

export interface Voter {
  readonly id: number;
  readonly address: string;
}

/** The settings under the keys of the file. Durations in ms, sizes in bytes. */
export interface NodeConfig {
  /** Names the cluster; nodes of different clusters refuse each other. No default. */
  readonly 'cluster.id': string;
  /** Unique in the cluster, from 0. No default. */
  readonly 'node.id': number;
  /** Default: both. */
  readonly 'process.roles': readonly Role[];
  /** Replicas are spread over racks. Default: none. */
  readonly 'broker.rack': string;
  /**
   * The data directory, for this node alone. In a file relative to the file, elsewhere to the working
   * directory. No default.
   */
  readonly 'log.dir': string;
  /**
   * Where gRPC listens, for clients and other nodes: one address, or one under a name for each network
   * that callers come from. Default: 127.0.0.1:9093.
   */
  readonly 'listener.grpc': readonly ListenerAddress[];
  /** /metrics, /healthz and /readyz, or `none`. Default: 127.0.0.1:9094. */
  readonly 'listener.http': string;
  /** What callers of each listener are told to dial, for each in turn. Default: where it listens. */
  readonly 'advertised.grpc': readonly ListenerAddress[];
  /** The listener by which other nodes reach this one. Default: the first. */
  readonly 'inter.broker.listener.name': string;
  /**
   * The listeners on which the cluster's own services (consensus, registration, replication) are served;
   * the others serve clients alone. Default: the one by which other nodes reach this one, and the one
   * that `controller.quorum.voters` names for it.
   */
  readonly 'cluster.listener.names': readonly string[];
  /**
   * A file with the secret by which the nodes of the cluster prove to one another that they belong to it:
   * one or two, one a line, the first for proving. Nobody but its owner may have access. Default: none.
   */
  readonly 'cluster.secret.file': string;
  /**
   * Whether callers of the cluster's own services must prove themselves. `auto`, for the rolling restart that
   * gives a cluster its secret: as soon as all nodes can. Default: true with a secret, false without.
   */
  readonly 'cluster.auth.required': boolean | 'auto';
  /** `ID@host:port` of each controller, the same on every node. No default. */
  readonly 'controller.quorum.voters': readonly Voter[];
  /** A follower waits between this and twice this for its leader. Default: 500. */
  readonly 'controller.quorum.election.timeout.ms': number;
  /** Default: 100. */
  readonly 'controller.quorum.heartbeat.interval.ms': number;
  /**
   * A node that for so long after its start cannot resolve the host names of a majority of the quorum's
   * voters ends. Default: 60,000.
   */
  readonly 'controller.quorum.resolve.timeout.ms': number;
  /** Default: 250. */
  readonly 'broker.heartbeat.interval.ms': number;
  /** A broker that is silent for longer is fenced. Default: 1,500. */
  readonly 'broker.session.timeout.ms': number;
  /** A follower that lags for longer leaves the in-sync set. Default: 5,000. */
  readonly 'replica.lag.time.max.ms': number;
  /** How long the preferred leader must be in sync before it leads again. Default: 2,000. */
  readonly 'leader.handback.delay.ms': number;
  /** How long a stop may wait for its leaderships to move. Default: 10,000. */
  readonly 'controlled.shutdown.timeout.ms': number;
  /** Of topics created without a count. Default: 1. */
  readonly 'num.partitions': number;
  /** Of topics created without one. Default: 3. */
  readonly 'default.replication.factor': number;
  /** acks=all needs so many in sync; a topic may set its own. Default: 2. */
  readonly 'min.insync.replicas': number;
  /** Let a replica that is not in sync lead when none is left: loses records. Default: false. */
  readonly 'unclean.leader.election.enable': boolean;
  /** `sync`: fsync before every acknowledgement; `os`: leave it to the system (Kafka's way). Default: sync. */
  readonly 'flush.mode': 'sync' | 'os';
  /**
   * Open connections, 1 to 1,000,000. Beyond it the one that has been idle for longest is closed. Default:
   * 10,000.
   */
  readonly 'max.connections': number;
  /** Calls and streams of clients that are open at a time, 1 to 1,000,000. Default: 10,000. */
  readonly 'max.calls': number;
  /** Of those, how many on one connection, 1 to 1,000. Default: 500. */
  readonly 'max.calls.per.connection': number;
  /** The largest batch, 1 KiB to 8 MiB. Default: 1 MiB. */
  readonly 'message.max.bytes': number;
  /** Default: 1 GiB. */
  readonly 'log.segment.bytes': number;
  /** Default: 7 days. */
  readonly 'log.roll.ms': number;
  /** Default: 4 KiB. */
  readonly 'log.index.interval.bytes': number;
  /** -1: keep for ever. Default: 7 days. */
  readonly 'log.retention.ms': number;
  /** Per partition; -1: no limit. Default: -1. */
  readonly 'log.retention.bytes': number;
  /** Default: 30,000. */
  readonly 'log.retention.check.interval.ms': number;
  /**
   * How long a directory stays that a deleted topic has left here, because the broker was down or its log
   * was set aside. From when the broker, once started, has seen that the topic was deleted. Default: 1 h.
   */
  readonly 'deleted.topic.directory.retention.ms': number;
  /** Default: CreateTime. */
  readonly 'log.message.timestamp.type': 'CreateTime' | 'LogAppendTime';
  /** Appends are refused when less than this is free. Default: 64 MiB. */
  readonly 'log.disk.reserve.bytes': number;
  /**
   * Bytes of new logs whose first records lie in one journal until files of their own are made. 0: they have
   * those at once. Default: 32 MiB.
   */
  readonly 'log.young.bytes.max': number;
  /** Default: info. */
  readonly 'log.level': 'debug' | 'info' | 'warn' | 'error' | 'silent';
  /** Log lines for people instead of JSON. Default: false. */
  readonly 'log.pretty': boolean;
}

type Derived =
  | 'advertised.grpc'
  | 'inter.broker.listener.name'
  | 'cluster.listener.names'
  | 'cluster.auth.required';
type Settings = Omit<NodeConfig, Derived> & {
  readonly [Key in Derived]?: NodeConfig[Key] | undefined;
};

/** What to set a key to that has no default. */
const REQUIRED: Readonly<Record<string, string>> = {
  'cluster.id': 'the name that all nodes of the cluster share, for example my-cluster',
  'node.id': 'a number that no other node of the cluster has, for example 1',
  'log.dir': 'a data directory for this node alone, for example data/broker-1',
  'controller.quorum.voters':
    'ID@host:port of each controller, the same on every node, for example 1@127.0.0.1:9093',
};

/** Settings that are paths. */
const PATH_KEYS: ReadonlySet<string> = new Set([
  'log.dir',
  'cluster.secret.file',
] satisfies (keyof NodeConfig)[]);

export const CONFIG_KEYS: readonly string[] = Object.keys(fields);

/** Environment variables of ours that are not settings of a node. */
const OTHER_VARIABLES = new Set([
  'RELEVO_BOOTSTRAP',
  'RELEVO_BROKERS',
  'RELEVO_CONFIG',
  'RELEVO_IMAGE',
  'RELEVO_REWRITE',
]);

export interface ConfigSources {
  /** The parsed YAML. */
  readonly file?: unknown;
  readonly environment?: Readonly<Record<string, string | undefined>>;
  /** Keys as in the file. */
  readonly flags?: Readonly<Record<string, string>>;
  /** Names the file in errors. */
  readonly fileName?: string;
  /** What a path in the file means. Default: itself. */
  readonly pathFrom?: (path: string) => string;
}

/** Joins the sources and checks every value; throws a ConfigError that lists all mistakes at once. */
export function resolveConfig(sources: ConfigSources): NodeConfig {
  const where = sources.fileName ?? 'the configuration';
  const mistakes: string[] = [];
  const merged: Record<string, unknown> = {};
  const take = (key: string, value: unknown, name: string): void => {
    if (isEmpty(value)) mistakes.push(`${name} is empty: give it a value, or leave it out`);
    else merged[key] = value;
  };
  for (const [key, value] of flatten(sources.file, where)) {
    const isPath = PATH_KEYS.has(key) && typeof value === 'string' && !isEmpty(value);
    const meant = isPath ? (sources.pathFrom?.(value) ?? value) : value;
    if (CONFIG_KEYS.includes(key)) take(key, meant, key);
    else mistakes.push(unknownKey(key, CONFIG_KEYS, where));
  }
  const variables = new Map(
    CONFIG_KEYS.map((key) => [`RELEVO_${key.toUpperCase().replaceAll('.', '_')}`, key]),
  );
  for (const [name, value] of Object.entries(sources.environment ?? {})) {
    if (!name.startsWith('RELEVO_') || OTHER_VARIABLES.has(name) || value === undefined) continue;
    const key = variables.get(name);
    if (key !== undefined) take(key, value, name);
    else mistakes.push(unknownKey(name, variables.keys(), 'the environment'));
  }
  for (const [key, value] of Object.entries(sources.flags ?? {})) {
    if (CONFIG_KEYS.includes(key)) take(key, value, `--set ${key}`);
    else mistakes.push(unknownKey(key, CONFIG_KEYS, 'the flags'));
  }
  const parsed = schema.safeParse(merged);
  if (!parsed.success) mistakes.push(...wrongValues(parsed.error.issues, merged));
  if (mistakes.length === 0 && parsed.success) mistakes.push(...contradictions(parsed.data));
  if (mistakes.length > 0 || !parsed.success) {
    const lines = mistakes.map((mistake) => `\n  - ${mistake}`).join('');
    const nothing = sources.file === undefined && Object.keys(merged).length === 0;
    throw new ConfigError(
      `${nothing ? 'nothing is configured' : `${where} cannot be used`}:${lines}` +
        (sources.file === undefined ? SOURCES_HINT : ''),
    );
  }
  const settings = parsed.data;
  return {
    ...settings,
    'advertised.grpc': advertised(settings),
    'inter.broker.listener.name': interBrokerListener(settings),
    'cluster.listener.names': settings['cluster.listener.names'] ?? clusterListeners(settings),
    'cluster.auth.required':
      settings['cluster.secret.file'] !== '' && (settings['cluster.auth.required'] ?? true),
  };
}

/** What an unset variable leaves behind in a compose file or a template. */
const isEmpty = (value: unknown): boolean =>
  value === null || (typeof value === 'string' && value.trim() === '');

const SOURCES_HINT =
  '\nSettings come from --config FILE (or the file that RELEVO_CONFIG names), from RELEVO_… variables ' +
  '(RELEVO_CLUSTER_ID for cluster.id) and from --set KEY=VALUE; the later win.';

/** Each mistake once, in the order of the keys. */
function wrongValues(
  issues: readonly { readonly path: readonly PropertyKey[]; readonly message: string }[],
  given: Readonly<Record<string, unknown>>,
): ReadonlySet<string> {
  const found = new Set<string>();
  for (const { path, message } of issues) {
    const key = String(path[0]);
    const value = given[key];
    found.add(
      value === undefined
        ? `${key} is not set: set it to ${REQUIRED[key]}`
        : `${key} (${JSON.stringify(value)}): ${message}`,
    );
  }
  return found;
}

function unknownKey(key: string, known: Iterable<string>, where: string): string {
  const guess = nearest(key, known);
  return `${key}: no such setting in ${where}${guess === undefined ? '' : ` (did you mean ${guess}?)`}`;
}

const interBrokerListener = (settings: Settings): string =>
  settings['inter.broker.listener.name'] ??
  settings['listener.grpc'][0]?.listener ??
  DEFAULT_LISTENER;

/** Those that the other nodes dial: for the broker, and for the voter. */
function clusterListeners(settings: Settings): readonly string[] {
  const inter = interBrokerListener(settings);
  const voter = voterListener(settings);
  return voter === undefined || voter === inter ? [inter] : [inter, voter];
}

/** The listener that the others dial for this node's vote; undefined: it has none, or behind a proxy. */
function voterListener(settings: Settings): string | undefined {
  const id = settings['node.id'];
  const voter = settings['controller.quorum.voters'].find((one) => one.id === id);
  if (voter === undefined || !settings['process.roles'].includes('controller')) return undefined;
  const all = advertised(settings);
  const portOf = (address: string): string => address.slice(address.lastIndexOf(':'));
  const samePort = settings['listener.grpc'].filter(
    ({ address }) => portOf(address) === portOf(voter.address),
  );
  const named = all.find(({ address }) => address === voter.address);
  return (named ?? (samePort.length === 1 ? samePort[0] : undefined))?.listener;
}

/** One for each listener. */
const advertised = (settings: Settings): readonly ListenerAddress[] =>
  settings['listener.grpc'].map(
    (own) => settings['advertised.grpc']?.find(({ listener }) => listener === own.listener) ?? own,
  );

function listenerMistakes(settings: Settings): string[] {
  const found: string[] = [];
  const names = settings['listener.grpc'].map(({ listener }) => listener);
  const known = names.join(', ');
  if (new Set(names).size !== names.length) {
    found.push(
      `listener.grpc: a name stands there twice (${known}): write name://host:port for each`,
    );
  }
  const told = (settings['advertised.grpc'] ?? []).map(({ listener }) => listener);
  for (const name of told.filter((one) => !names.includes(one))) {
    found.push(`advertised.grpc: listener.grpc has no "${name}", only ${known}`);
  }
  if (new Set(told).size !== told.length) found.push('advertised.grpc: a name stands there twice');
  const inter = settings['inter.broker.listener.name'];
  if (inter !== undefined && !names.includes(inter)) {
    found.push(`inter.broker.listener.name: listener.grpc has no "${inter}", only ${known}`);
  }
  found.push(...clusterListenerMistakes(settings, known));
  for (const { listener, address } of advertised(settings)) {
    if (!/^(0\.0\.0\.0|\[::\]):/.test(address)) continue;
    const prefix = listener === DEFAULT_LISTENER ? '' : `${listener}://`;
    found.push(
      `advertised.grpc (${prefix}${address}): clients cannot dial a wildcard address; set ` +
        `advertised.grpc to ${prefix}HOST:PORT, a name or address under which they reach this node`,
    );
  }
  return found;
}

function clusterListenerMistakes(settings: Settings, known: string): string[] {
  const serving = settings['cluster.listener.names'];
  if (serving === undefined) return [];
  const found: string[] = [];
  const names = settings['listener.grpc'].map(({ listener }) => listener);
  for (const name of serving.filter((one) => !names.includes(one))) {
    found.push(`cluster.listener.names: listener.grpc has no "${name}", only ${known}`);
  }
  const inter = interBrokerListener(settings);
  const voter = voterListener(settings) ?? inter;
  for (const name of new Set([inter, voter])) {
    if (!names.includes(name) || serving.includes(name)) continue;
    const dialled = name === inter ? 'inter.broker.listener.name' : 'controller.quorum.voters';
    found.push(
      `cluster.listener.names (${serving.join(', ')}) lacks "${name}", by which the other nodes reach ` +
        `this one (${dialled}): add it`,
    );
  }
  return found;
}

function contradictions(settings: Settings): string[] {
  const found: string[] = [];
  const ids = settings['controller.quorum.voters'].map((voter) => voter.id);
  if (new Set(ids).size !== ids.length) {
    found.push('controller.quorum.voters: an id stands there twice');
  }
  if (settings['process.roles'].includes('controller') && !ids.includes(settings['node.id'])) {
    found.push(
      `node.id ${settings['node.id']} has the role controller but is not among controller.quorum.voters ` +
        `(${ids.join(', ')}): add it there or take the role away`,
    );
  }
  if (settings['broker.heartbeat.interval.ms'] * 3 > settings['broker.session.timeout.ms']) {
    found.push(
      'broker.session.timeout.ms must be at least three times broker.heartbeat.interval.ms',
    );
  }
  const demanded = settings['cluster.auth.required'] ?? false;
  if (demanded !== false && settings['cluster.secret.file'] === '') {
    found.push(
      `cluster.auth.required is ${demanded}, but there is no cluster.secret.file: name the file with the ` +
        'secret that all nodes share (`relevo secret create FILE` makes one)',
    );
  }
  return [...found, ...listenerMistakes(settings)];
}

/** Leaves of nested maps, their keys joined with dots. */
function flatten(value: unknown, where: string, prefix = ''): [string, unknown][] {
  if (value === undefined || value === null) return [];
  if (typeof value !== 'object' || Array.isArray(value)) {
    throw new ConfigError(`${where} must be a map of settings, one "key: value" a line`);
  }
  return Object.entries(value).flatMap(([name, inner]: [string, unknown]): [string, unknown][] => {
    const key = prefix === '' ? name : `${prefix}.${name}`;
    const nested = typeof inner === 'object' && inner !== null && !Array.isArray(inner);
    return nested ? flatten(inner, where, key) : [[key, inner]];
  });
}
