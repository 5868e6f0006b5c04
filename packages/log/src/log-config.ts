/** Settings of one partition's log; topic settings of Kafka's names with dots in place of capitals. */
export interface LogConfig {
  /** `segment.bytes`: a segment is rolled before it grows above this. Up to 2^31-1. */
  readonly segmentBytes: number;
  /** `segment.ms`: … or when its records span more time than this. */
  readonly segmentMs: number;
  /** `index.interval.bytes`: bytes of log per index entry, about. */
  readonly indexIntervalBytes: number;
  /** `retention.ms`: segments whose newest record is older are deleted; -1: never. */
  readonly retentionMs: number;
  /** `retention.bytes`: oldest segments are deleted while the rest is as large; -1: no limit. */
  readonly retentionBytes: number;
  /** `max.message.bytes`: largest batch that a leader takes, header included. */
  readonly maxMessageBytes: number;
  /** `message.timestamp.type`: whose clock the records bear, the producer's or the leader's. */
  readonly timestampType: 'CreateTime' | 'LogAppendTime';
  /** `sync`: an offset counts as synced after fdatasync. `os`: at once; a power cut loses records. */
  readonly flushMode: 'sync' | 'os';
  /** `producer.id.expiration.ms`: a producer that appends nothing for as long is forgotten. */
  readonly producerIdExpirationMs: number;
  /**
   * `message.timestamp.after.max.ms`: a create time further ahead of the leader's clock is refused;
   * such a record would be kept too long. Default: 1 h.
   */
  readonly timestampAfterMaxMs?: number;
}

const HOUR_MS = 3_600_000;

/** Kafka's defaults, but for `flushMode`. */
export const DEFAULT_LOG_CONFIG: LogConfig = {
  segmentBytes: 2 ** 30,
  segmentMs: 7 * 24 * HOUR_MS,
  indexIntervalBytes: 4096,
  retentionMs: 7 * 24 * HOUR_MS,
  retentionBytes: -1,
  maxMessageBytes: 2 ** 20,
  timestampType: 'CreateTime',
  flushMode: 'sync',
  producerIdExpirationMs: 24 * HOUR_MS,
};

export const TIMESTAMP_AFTER_MAX_MS: number = HOUR_MS;
