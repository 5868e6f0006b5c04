/**
 * The SDK's one error class. A broker's codes come through under their own names; the SDK's own are
 * added to them. README.md lists the latter.
 */
import { ERRORS, errorCodeOf, messageOf } from '@relevo/base/errors';
import type { ErrorCode } from '@relevo/base/errors';
import { RpcError } from '@relevo/base/ports';
import type { Truncation } from './consumer/consumer-options.ts';

/** What can go wrong on this side. */
export type OwnErrorCode =
  | 'DELIVERY_TIMED_OUT'
  | 'TIMED_OUT'
  | 'NO_BROKER'
  | 'CLOSED'
  | 'ABORTED'
  | 'BUFFER_FULL'
  | 'INVALID_ARGUMENT'
  | 'SERIALIZATION_FAILED'
  | 'CORRUPT_RECORDS';

export type ClientErrorCode = OwnErrorCode | ErrorCode;

/** What each of the SDK's own codes means. README.md repeats the meanings. */
export const OWN_ERRORS: Readonly<Record<OwnErrorCode, string>> = {
  DELIVERY_TIMED_OUT: 'the record was not acknowledged before its delivery deadline',
  TIMED_OUT: 'the cluster gave no answer before the deadline',
  NO_BROKER: 'none of the given brokers could be reached',
  CLOSED: 'the producer, consumer or connection was closed meanwhile or before',
  ABORTED: 'the AbortSignal fired',
  BUFFER_FULL: 'more was enqueued than the buffer may hold, against the advice to wait',
  INVALID_ARGUMENT: 'an option or argument is out of its range',
  SERIALIZATION_FAILED: 'a serializer refused a key or a value',
  CORRUPT_RECORDS: 'fetched records do not match their checksum or do not unpack',
};

export interface ClientErrorMore extends ErrorOptions {
  /** Default: false. */
  readonly outcomeUnknown?: boolean;
  /** Of LOG_TRUNCATED. */
  readonly truncation?: Truncation;
}

export class ClientError extends Error {
  override readonly name = 'ClientError';
  readonly code: ClientErrorCode;
  /**
   * True: the operation may have happened or may yet happen (a record may be in the log). False: it
   * did not and will not.
   */
  readonly outcomeUnknown: boolean;
  /** Of LOG_TRUNCATED: which records are gone. */
  readonly truncation: Truncation | undefined;

  constructor(code: ClientErrorCode, message: string, more: ClientErrorMore = {}) {
    super(message, more);
    this.code = code;
    this.outcomeUnknown = more.outcomeUnknown ?? false;
    this.truncation = more.truncation;
  }

  /** Whether trying again later may help. */
  get retriable(): boolean {
    return isErrorCode(this.code)
      ? ERRORS[this.code].retriable
      : this.code === 'NO_BROKER' ||
          this.code === 'TIMED_OUT' ||
          this.code === 'DELIVERY_TIMED_OUT';
  }
}

const isErrorCode = (code: ClientErrorCode): code is ErrorCode => code in ERRORS;

/** `topic "x": the broker's words` with the broker's code. */
export function brokerError(what: string, error: number, message: string): ClientError {
  const code = errorCodeOf(error);
  return new ClientError(code, `${what}: ${message === '' ? ERRORS[code].meaning : message}`);
}

/** A failed call as the SDK's error. */
export function callError(what: string, error: unknown, outcomeUnknown = false): ClientError {
  if (error instanceof ClientError) return error;
  if (!(error instanceof RpcError)) {
    return new ClientError('UNKNOWN_SERVER_ERROR', `${what}: ${messageOf(error)}`, {
      cause: error,
      outcomeUnknown,
    });
  }
  const code = error.code ?? (error.status === 'UNAVAILABLE' ? 'NO_BROKER' : codeOfStatus(error));
  return new ClientError(code, `${what}: ${error.message}`, { cause: error, outcomeUnknown });
}

const codeOfStatus = (error: RpcError): ClientErrorCode =>
  error.status === 'DEADLINE_EXCEEDED' ? 'TIMED_OUT' : 'UNKNOWN_SERVER_ERROR';

/**
 * Whether another attempt, perhaps at another broker, may fare better. A call without Relevo's own code
 * ended in transport: the broker is gone, or silent.
 */
export function isRetriable(error: unknown): boolean {
  if (!(error instanceof RpcError)) return false;
  if (error.code !== undefined) return ERRORS[error.code].retriable;
  return (
    error.status === 'UNAVAILABLE' ||
    error.status === 'DEADLINE_EXCEEDED' ||
    error.status === 'CANCELLED'
  );
}

/** False where the broker said that it did not do it; true where the answer may have been lost. */
export const mayHaveHappened = (error: unknown): boolean =>
  !(error instanceof RpcError) || error.code === undefined || error.code === 'REQUEST_TIMED_OUT';

export const closedError = (what: string, outcomeUnknown = false): ClientError =>
  new ClientError('CLOSED', `${what} is closed`, { outcomeUnknown });

export const abortedError = (what: string, more: ClientErrorMore = {}): ClientError =>
  new ClientError('ABORTED', `${what} was aborted by its signal`, more);
