/**
 * The settings of a topic: Kafka's names, with our ranges and defaults. What is set on a topic is kept as
 * text, as it was given; a setting that is absent follows the default, which each node may have changed
 * in its configuration (`TopicDefaults`).
 */
import { RelevoError } from '@relevo/base/errors';
import { BATCH_BYTES_MAX } from '@relevo/base/limits';
import { nearest } from '@relevo/base/nearest';

export type CleanupPolicy = 'delete';
export type FlushMode = 'sync' | 'os';
export type TimestampType = 'CreateTime' | 'LogAppendTime';

/** Settings as values. */
export interface TopicSettings {
  /** Delete old segments. Compaction does not exist yet. Default: delete. */
  readonly cleanupPolicy: CleanupPolicy;
  /** Batches are kept as the producer compressed them. Default: producer. */
  readonly compressionType: 'producer';
  /**
   * `sync`: nothing is acknowledged or reported as replicated before it is fsynced; `os`: left to the
   * system, as Kafka does: a power cut may lose acknowledged records. Default: sync.
   */
  readonly flushMode: FlushMode;
  /** Bytes of log between two entries of the offset index. Default: 4,096. */
  readonly indexIntervalBytes: number;
  /** The largest batch, bytes, 1 KiB to 8 MiB. Default: 1 MiB. */
  readonly maxMessageBytes: number;
  /** Default: CreateTime. */
  readonly messageTimestampType: TimestampType;
  /** acks=all needs so many replicas in sync; see `minInSync`. Default: 2. */
  readonly minInsyncReplicas: number;
  /** Per partition; -1: no limit. Default: -1. */
  readonly retentionBytes: number;
  /** -1: keep for ever. Default: 7 days. */
  readonly retentionMs: number;
  /** A segment that has grown to this is closed. Default: 1 GiB. */
  readonly segmentBytes: number;
  /** A segment that has grown this old is closed. Default: 7 days. */
  readonly segmentMs: number;
  /** Let a replica that is not in sync lead when none is left. Default: false. */
  readonly uncleanLeaderElectionEnable: boolean;
}

const DAY_MS = 24 * 3600 * 1000;
const KIB = 1024;
const MIB = 1024 * KIB;
const GIB = 1024 * MIB;

export const TOPIC_DEFAULTS: TopicSettings = {
  cleanupPolicy: 'delete',
  compressionType: 'producer',
  flushMode: 'sync',
  indexIntervalBytes: 4 * KIB,
  maxMessageBytes: MIB,
  messageTimestampType: 'CreateTime',
  minInsyncReplicas: 2,
  retentionBytes: -1,
  retentionMs: 7 * DAY_MS,
  segmentBytes: GIB,
  segmentMs: 7 * DAY_MS,
  uncleanLeaderElectionEnable: false,
};

type Kind =
  | { readonly type: 'integer'; readonly min: number; readonly max: number }
  | { readonly type: 'oneOf'; readonly values: readonly string[] };

interface Setting {
  readonly field: keyof TopicSettings;
  readonly kind: Kind;
}

const integer = (field: keyof TopicSettings, min: number, max: number): Setting => ({
  field,
  kind: { type: 'integer', min, max },
});
const oneOf = (field: keyof TopicSettings, ...values: string[]): Setting => ({
  field,
  kind: { type: 'oneOf', values },
});

const INTEGER = /^-?\d{1,16}$/;
const SAFE_MAX = Number.MAX_SAFE_INTEGER;
const INT32_MAX = 2 ** 31 - 1;

/** Every setting there is, by the name under which users know it. */
const SETTINGS: ReadonlyMap<string, Setting> = new Map([
  ['cleanup.policy', oneOf('cleanupPolicy', 'delete')],
  ['compression.type', oneOf('compressionType', 'producer')],
  ['flush.mode', oneOf('flushMode', 'sync', 'os')],
  ['index.interval.bytes', integer('indexIntervalBytes', 0, INT32_MAX)],
  ['max.message.bytes', integer('maxMessageBytes', 1 * KIB, BATCH_BYTES_MAX)],
  ['message.timestamp.type', oneOf('messageTimestampType', 'CreateTime', 'LogAppendTime')],
  ['min.insync.replicas', integer('minInsyncReplicas', 1, 32_767)],
  ['retention.bytes', integer('retentionBytes', -1, SAFE_MAX)],
  ['retention.ms', integer('retentionMs', -1, SAFE_MAX)],
  ['segment.bytes', integer('segmentBytes', 64 * KIB, INT32_MAX)],
  ['segment.ms', integer('segmentMs', 1000, SAFE_MAX)],
  ['unclean.leader.election.enable', oneOf('uncleanLeaderElectionEnable', 'true', 'false')],
]);

export const TOPIC_SETTING_NAMES: readonly string[] = [...SETTINGS.keys()];

export const MIN_INSYNC_REPLICAS = 'min.insync.replicas';

/** Refuses with INVALID_CONFIG what is unknown or out of range. */
export function checkTopicSetting(name: string, value: string): void {
  const setting = SETTINGS.get(name);
  if (setting === undefined) throw unknownSetting(name);
  const { kind } = setting;
  if (kind.type === 'oneOf') {
    if (kind.values.includes(value)) return;
    throw new RelevoError(
      'INVALID_CONFIG',
      `${name} cannot be "${value}": set it to ${kind.values.join(' or ')}`,
    );
  }
  const number = INTEGER.test(value) ? Number(value) : Number.NaN;
  if (number >= kind.min && number <= kind.max) return;
  throw new RelevoError(
    'INVALID_CONFIG',
    `${name} cannot be "${value}": set it to a whole number from ${kind.min} to ${kind.max}`,
  );
}

export function checkTopicSettingName(name: string): void {
  if (!SETTINGS.has(name)) throw unknownSetting(name);
}

function unknownSetting(name: string): RelevoError {
  const guess = nearest(name, SETTINGS.keys());
  const hint =
    guess === undefined ? `known are ${TOPIC_SETTING_NAMES.join(', ')}` : `did you mean ${guess}?`;
  return new RelevoError('INVALID_CONFIG', `topics have no setting "${name}": ${hint}`);
}

/** The settings in force on a topic. `config` has passed `checkTopicSetting`. */
export function topicSettings(
  config: ReadonlyMap<string, string>,
  defaults: TopicSettings = TOPIC_DEFAULTS,
): TopicSettings {
  if (config.size === 0) return defaults;
  const settings: Record<string, unknown> = { ...defaults };
  for (const [name, value] of config) {
    const setting = SETTINGS.get(name);
    // A newer controller may know more settings than this node, and other values.
    const known = setting === undefined ? undefined : valueOf(setting, value);
    if (setting !== undefined && known !== undefined) settings[setting.field] = known;
  }
  // Each field was given a value of its type by `valueOf`, from a text that was checked.
  return settings as unknown as TopicSettings;
}

function valueOf(setting: Setting, value: string): unknown {
  if (setting.kind.type === 'integer') {
    if (!INTEGER.test(value)) return undefined;
    // The range may have become narrower since the value was set.
    return Math.min(Math.max(Number(value), setting.kind.min), setting.kind.max);
  }
  if (!setting.kind.values.includes(value)) return undefined;
  return setting.field === 'uncleanLeaderElectionEnable' ? value === 'true' : value;
}

/** Every setting with the value in force, as text, by name. */
export function describeTopicSettings(
  config: ReadonlyMap<string, string>,
  defaults: TopicSettings = TOPIC_DEFAULTS,
): readonly { readonly name: string; readonly value: string; readonly isDefault: boolean }[] {
  const settings = topicSettings(config, defaults);
  return [...SETTINGS].map(([name, { field }]) => ({
    name,
    value: String(settings[field]),
    isDefault: !config.has(name),
  }));
}

/**
 * How many replicas must be in sync for acks=all: min.insync.replicas, but never more than there are
 * replicas, so that the default of 2 does not make topics with a single replica unwritable. Setting more
 * than there are replicas on a topic itself is refused.
 */
export const minInSync = (settings: TopicSettings, replicationFactor: number): number =>
  Math.min(settings.minInsyncReplicas, replicationFactor);
