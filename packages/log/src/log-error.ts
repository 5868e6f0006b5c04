import { RelevoError, messageOf } from '@relevo/base/errors';
import type { ErrorCode } from '@relevo/base/errors';
import { DiskError } from '@relevo/base/ports';

/** What can go wrong with a partition log. */
export type LogErrorKind =
  | 'corrupt'
  | 'offline'
  | 'closed'
  | 'diskFull'
  | 'outOfRange'
  | 'badBatch'
  | 'tooLarge'
  | 'badTimestamp'
  | 'outOfOrderSequence'
  | 'duplicateSequence'
  | 'oldProducerEpoch'
  | 'unknownProducer'
  | 'oldLeaderEpoch'
  | 'notNext'
  | 'foreign'
  | 'locked';

export interface LogErrorFacts {
  /** What a client is told. */
  readonly code: ErrorCode;
  readonly meaning: string;
}

const facts = (code: ErrorCode, meaning: string): LogErrorFacts => ({ code, meaning });

/** What each kind means, and what a client is told. README.md repeats the meanings. */
export const LOG_ERRORS: Readonly<Record<LogErrorKind, LogErrorFacts>> = {
  corrupt: facts('STORAGE_ERROR', 'bytes that were durable are damaged or gone; nothing is cut'),
  offline: facts('STORAGE_ERROR', 'a write, sync or read of the log has failed: it takes no more'),
  closed: facts('STORAGE_ERROR', 'the log was closed or deleted'),
  diskFull: facts('DISK_FULL', 'no room for the append; reads go on, and appends when there is'),
  outOfRange: facts('OFFSET_OUT_OF_RANGE', 'the offset is not in the log'),
  badBatch: facts('CORRUPT_MESSAGE', 'the bytes are not whole batches, or fail their checksum'),
  tooLarge: facts('MESSAGE_TOO_LARGE', 'the batch is above max.message.bytes'),
  badTimestamp: facts('INVALID_TIMESTAMP', 'the timestamp is too far ahead, or of the wrong type'),
  outOfOrderSequence: facts('OUT_OF_ORDER_SEQUENCE_NUMBER', 'a batch before this one is missing'),
  duplicateSequence: facts('DUPLICATE_SEQUENCE_NUMBER', 'appended before, offset forgotten'),
  oldProducerEpoch: facts('INVALID_PRODUCER_EPOCH', 'a newer producer has this id'),
  unknownProducer: facts('UNKNOWN_PRODUCER_ID', 'not the first sequence of a producer not known'),
  oldLeaderEpoch: facts('FENCED_LEADER_EPOCH', 'the epoch is below the latest in the log'),
  notNext: facts(
    'OFFSET_OUT_OF_RANGE',
    'a follower was given batches that do not continue its log',
  ),
  foreign: facts('INCONSISTENT_CLUSTER_ID', 'the data is of another cluster, broker or topic'),
  locked: facts('STORAGE_ERROR', 'another process uses the data directory'),
};

/** A log operation that failed; `code` is what a client is told, `kind` what the log knows. */
export class LogError extends RelevoError {
  readonly kind: LogErrorKind;

  constructor(kind: LogErrorKind, message: string, options?: ErrorOptions) {
    super(LOG_ERRORS[kind].code, message, options);
    this.kind = kind;
  }
}

export const isDiskError = (thrown: unknown, code: DiskError['code']): boolean =>
  thrown instanceof DiskError && thrown.code === code;

/** For what was not written and has changed nothing: it may be tried again. */
export const noRoomFor = (path: string, cause: unknown): LogError =>
  new LogError('diskFull', `no room for ${path}: ${messageOf(cause)}`, { cause });
