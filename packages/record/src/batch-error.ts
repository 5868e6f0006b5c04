import type { ErrorCode } from '@relevo/base/errors';

/** What can be wrong with a record batch. */
export type BatchErrorCode =
  | 'TRUNCATED'
  | 'TOO_SMALL'
  | 'TOO_LARGE'
  | 'BAD_MAGIC'
  | 'BAD_CRC'
  | 'BAD_ATTRIBUTES'
  | 'BAD_COMPRESSION'
  | 'BAD_COMPRESSED_DATA'
  | 'BAD_OFFSET'
  | 'BAD_COUNT'
  | 'BAD_LENGTH'
  | 'BAD_SEQUENCE'
  | 'BAD_TIMESTAMP'
  | 'BAD_RECORD';

export interface BatchErrorFacts {
  /** How a broker answers a producer that sent such a batch. */
  readonly wireCode: ErrorCode;
  readonly meaning: string;
}

const facts = (wireCode: ErrorCode, meaning: string): BatchErrorFacts => ({ wireCode, meaning });

/** What each code means, and what a broker tells the producer. README.md repeats the meanings. */
export const BATCH_ERRORS: Readonly<Record<BatchErrorCode, BatchErrorFacts>> = {
  TRUNCATED: facts('CORRUPT_MESSAGE', 'fewer bytes are at hand than the batch says it has'),
  TOO_SMALL: facts('CORRUPT_MESSAGE', 'the length field is below what a header takes'),
  TOO_LARGE: facts('MESSAGE_TOO_LARGE', 'the batch, or what it unpacks to, is above the limit'),
  BAD_MAGIC: facts('CORRUPT_MESSAGE', 'the format version is not 2'),
  BAD_CRC: facts('CORRUPT_MESSAGE', 'the bytes do not match their checksum'),
  BAD_ATTRIBUTES: facts('INVALID_RECORD', 'unknown attribute bits are set, or they contradict'),
  BAD_COMPRESSION: facts('UNSUPPORTED_COMPRESSION_TYPE', 'the compression codec is not known'),
  BAD_COMPRESSED_DATA: facts('CORRUPT_MESSAGE', 'the records do not unpack'),
  BAD_OFFSET: facts('INVALID_RECORD', 'the offsets are negative, too large or not in order'),
  BAD_COUNT: facts('INVALID_RECORD', 'the record count is not the number of records'),
  BAD_LENGTH: facts('INVALID_RECORD', 'a length field in a record reaches past its end'),
  BAD_SEQUENCE: facts('INVALID_RECORD', 'producer id, epoch and sequence do not go together'),
  BAD_TIMESTAMP: facts('INVALID_TIMESTAMP', 'a timestamp is below -1 or above the stated maximum'),
  BAD_RECORD: facts('INVALID_RECORD', 'a record is malformed'),
};

/** A batch that may not be stored or read. The message names the field and the value found. */
export class BatchError extends Error {
  override readonly name = 'BatchError';
  readonly code: BatchErrorCode;

  constructor(code: BatchErrorCode, message: string, options?: ErrorOptions) {
    super(message, options);
    this.code = code;
  }

  /** How a broker answers a producer that sent such a batch. */
  get wireCode(): ErrorCode {
    return BATCH_ERRORS[this.code].wireCode;
  }
}
