/**
 * The closed set of error codes that cross the wire, with Kafka's numbers where the meaning is the
 * same. One table says for each what it means to a user, whether a retry can help and which gRPC status
 * carries it. `proto/relevo/v1/errors.proto` bears the same names and numbers (a test holds them
 * together).
 */
export type GrpcStatus =
  | 'OK'
  | 'CANCELLED'
  | 'UNKNOWN'
  | 'INVALID_ARGUMENT'
  | 'DEADLINE_EXCEEDED'
  | 'NOT_FOUND'
  | 'ALREADY_EXISTS'
  | 'PERMISSION_DENIED'
  | 'RESOURCE_EXHAUSTED'
  | 'FAILED_PRECONDITION'
  | 'ABORTED'
  | 'OUT_OF_RANGE'
  | 'UNIMPLEMENTED'
  | 'INTERNAL'
  | 'UNAVAILABLE'
  | 'DATA_LOSS'
  | 'UNAUTHENTICATED';

export type ErrorCode =
  | 'NONE'
  | 'UNKNOWN_SERVER_ERROR'
  | 'OFFSET_OUT_OF_RANGE'
  | 'CORRUPT_MESSAGE'
  | 'UNKNOWN_TOPIC_OR_PARTITION'
  | 'LEADER_NOT_AVAILABLE'
  | 'NOT_LEADER_OR_FOLLOWER'
  | 'REQUEST_TIMED_OUT'
  | 'MESSAGE_TOO_LARGE'
  | 'INVALID_TOPIC_EXCEPTION'
  | 'NOT_ENOUGH_REPLICAS'
  | 'NOT_ENOUGH_REPLICAS_AFTER_APPEND'
  | 'INVALID_REQUIRED_ACKS'
  | 'CLUSTER_AUTHORIZATION_FAILED'
  | 'INVALID_TIMESTAMP'
  | 'TOPIC_ALREADY_EXISTS'
  | 'INVALID_PARTITIONS'
  | 'INVALID_REPLICATION_FACTOR'
  | 'INVALID_REPLICA_ASSIGNMENT'
  | 'INVALID_CONFIG'
  | 'NOT_CONTROLLER'
  | 'INVALID_REQUEST'
  | 'OUT_OF_ORDER_SEQUENCE_NUMBER'
  | 'DUPLICATE_SEQUENCE_NUMBER'
  | 'INVALID_PRODUCER_EPOCH'
  | 'UNKNOWN_PRODUCER_ID'
  | 'STORAGE_ERROR'
  | 'FENCED_LEADER_EPOCH'
  | 'UNKNOWN_LEADER_EPOCH'
  | 'STALE_BROKER_EPOCH'
  | 'OFFSET_NOT_AVAILABLE'
  | 'PREFERRED_LEADER_NOT_AVAILABLE'
  | 'ELECTION_NOT_NEEDED'
  | 'INVALID_RECORD'
  | 'UNKNOWN_TOPIC_ID'
  | 'DUPLICATE_BROKER_REGISTRATION'
  | 'BROKER_ID_NOT_REGISTERED'
  | 'INCONSISTENT_CLUSTER_ID'
  | 'NEW_LEADER_ELECTED'
  | 'INELIGIBLE_REPLICA'
  | 'INVALID_UPDATE_VERSION'
  | 'UNSUPPORTED_COMPRESSION_TYPE'
  | 'DISK_FULL'
  | 'THROTTLED'
  | 'SHUTTING_DOWN'
  | 'OLDER_DATA_DIRECTORY'
  | 'LOG_TRUNCATED';

export interface ErrorFacts {
  /** Kafka's number, or from 10,000 where Kafka has none. */
  readonly number: number;
  readonly retriable: boolean;
  readonly status: GrpcStatus;
  readonly meaning: string;
}

const facts = (
  number: number,
  retriable: boolean,
  status: GrpcStatus,
  meaning: string,
): ErrorFacts => ({ number, retriable, status, meaning });

/** What each code means; `status` is how gRPC calls that fail with it end. */
export const ERRORS: Readonly<Record<ErrorCode, ErrorFacts>> = {
  NONE: facts(0, false, 'OK', 'no error'),
  UNKNOWN_SERVER_ERROR: facts(-1, false, 'INTERNAL', 'the broker met a bug; see its log'),
  OFFSET_OUT_OF_RANGE: facts(1, false, 'OUT_OF_RANGE', 'the offset is not in the log'),
  CORRUPT_MESSAGE: facts(2, false, 'INVALID_ARGUMENT', 'the batch fails its checksum or lies'),
  UNKNOWN_TOPIC_OR_PARTITION: facts(3, true, 'NOT_FOUND', 'no such topic or partition here'),
  LEADER_NOT_AVAILABLE: facts(5, true, 'UNAVAILABLE', 'the partition has no leader right now'),
  NOT_LEADER_OR_FOLLOWER: facts(6, true, 'FAILED_PRECONDITION', 'another broker leads'),
  REQUEST_TIMED_OUT: facts(7, true, 'DEADLINE_EXCEEDED', 'no answer in time; outcome unknown'),
  MESSAGE_TOO_LARGE: facts(10, false, 'INVALID_ARGUMENT', 'the batch is above max.message.bytes'),
  INVALID_TOPIC_EXCEPTION: facts(17, false, 'INVALID_ARGUMENT', 'the topic name is illegal'),
  NOT_ENOUGH_REPLICAS: facts(19, true, 'UNAVAILABLE', 'fewer in sync than min.insync.replicas'),
  NOT_ENOUGH_REPLICAS_AFTER_APPEND: facts(
    20,
    true,
    'UNAVAILABLE',
    'appended, then the in-sync set shrank; outcome unknown',
  ),
  INVALID_REQUIRED_ACKS: facts(21, false, 'INVALID_ARGUMENT', 'acks must be 0, 1 or -1 (all)'),
  CLUSTER_AUTHORIZATION_FAILED: facts(
    31,
    false,
    'PERMISSION_DENIED',
    'the call is for the nodes of the cluster, and the caller has not proved to be that node',
  ),
  INVALID_TIMESTAMP: facts(32, false, 'INVALID_ARGUMENT', 'the timestamp is out of range'),
  TOPIC_ALREADY_EXISTS: facts(36, false, 'ALREADY_EXISTS', 'a topic of that name exists'),
  INVALID_PARTITIONS: facts(37, false, 'INVALID_ARGUMENT', 'the partition count is not possible'),
  INVALID_REPLICATION_FACTOR: facts(
    38,
    false,
    'INVALID_ARGUMENT',
    'the replication factor is below 1 or above the number of live brokers',
  ),
  INVALID_REPLICA_ASSIGNMENT: facts(39, false, 'INVALID_ARGUMENT', 'the assignment is illegal'),
  INVALID_CONFIG: facts(40, false, 'INVALID_ARGUMENT', 'a setting is unknown or out of range'),
  NOT_CONTROLLER: facts(41, true, 'UNAVAILABLE', 'another node is the active controller'),
  INVALID_REQUEST: facts(42, false, 'INVALID_ARGUMENT', 'the request contradicts itself'),
  OUT_OF_ORDER_SEQUENCE_NUMBER: facts(
    45,
    false,
    'FAILED_PRECONDITION',
    'a batch of this producer is missing before this one',
  ),
  DUPLICATE_SEQUENCE_NUMBER: facts(46, false, 'ALREADY_EXISTS', 'appended before'),
  INVALID_PRODUCER_EPOCH: facts(47, false, 'ABORTED', 'a newer producer has this id'),
  UNKNOWN_PRODUCER_ID: facts(59, false, 'NOT_FOUND', 'the broker holds no state of the producer'),
  STORAGE_ERROR: facts(56, true, 'UNAVAILABLE', 'the disk of the broker failed'),
  FENCED_LEADER_EPOCH: facts(74, true, 'FAILED_PRECONDITION', 'the request names an old epoch'),
  UNKNOWN_LEADER_EPOCH: facts(75, true, 'UNAVAILABLE', 'the request names an epoch to come'),
  STALE_BROKER_EPOCH: facts(77, false, 'ABORTED', 'the broker has registered anew since'),
  OFFSET_NOT_AVAILABLE: facts(78, true, 'UNAVAILABLE', 'the new leader does not know it yet'),
  PREFERRED_LEADER_NOT_AVAILABLE: facts(80, true, 'UNAVAILABLE', 'it is not in sync'),
  ELECTION_NOT_NEEDED: facts(84, false, 'FAILED_PRECONDITION', 'the leader is the right one'),
  INVALID_RECORD: facts(87, false, 'INVALID_ARGUMENT', 'a record in the batch is malformed'),
  UNKNOWN_TOPIC_ID: facts(100, true, 'NOT_FOUND', 'no topic has this id'),
  DUPLICATE_BROKER_REGISTRATION: facts(
    101,
    false,
    'ALREADY_EXISTS',
    'a live broker has this id already',
  ),
  BROKER_ID_NOT_REGISTERED: facts(102, true, 'NOT_FOUND', 'the broker is not registered'),
  INCONSISTENT_CLUSTER_ID: facts(104, false, 'FAILED_PRECONDITION', 'it is another cluster'),
  NEW_LEADER_ELECTED: facts(10_000, true, 'UNAVAILABLE', 'leadership moved while waiting'),
  INELIGIBLE_REPLICA: facts(107, true, 'FAILED_PRECONDITION', 'the replica may not join the ISR'),
  INVALID_UPDATE_VERSION: facts(95, true, 'ABORTED', 'the partition epoch has moved on'),
  UNSUPPORTED_COMPRESSION_TYPE: facts(76, false, 'UNIMPLEMENTED', 'the codec is not known'),
  DISK_FULL: facts(10_001, true, 'RESOURCE_EXHAUSTED', 'the broker keeps no room for appends'),
  THROTTLED: facts(10_002, true, 'RESOURCE_EXHAUSTED', 'the broker has too much in hand'),
  SHUTTING_DOWN: facts(10_003, true, 'UNAVAILABLE', 'the broker is stopping'),
  OLDER_DATA_DIRECTORY: facts(
    10_004,
    false,
    'FAILED_PRECONDITION',
    'the data directory is an older copy of one that has started since',
  ),
  LOG_TRUNCATED: facts(10_005, false, 'DATA_LOSS', 'records that were read are gone from the log'),
};

const BY_NUMBER: ReadonlyMap<number, ErrorCode> = new Map(
  Object.entries(ERRORS).map(([code, { number }]) => [number, code as ErrorCode]),
);

/** The code of a number from the wire; one that is not known is UNKNOWN_SERVER_ERROR. */
export const errorCodeOf = (number: number): ErrorCode =>
  BY_NUMBER.get(number) ?? 'UNKNOWN_SERVER_ERROR';

/** An operating failure that a user may meet. The message says what happened, to what, what to do. */
export class RelevoError extends Error {
  override readonly name = 'RelevoError';
  readonly code: ErrorCode;

  constructor(code: ErrorCode, message: string, options?: ErrorOptions) {
    super(message, options);
    this.code = code;
  }

  get retriable(): boolean {
    return ERRORS[this.code].retriable;
  }
}

/** The message of anything that was thrown. */
export const messageOf = (thrown: unknown): string =>
  thrown instanceof Error ? thrown.message : String(thrown);
