/** Errors on their way through gRPC: its status, and Relevo's own code and detail in the trailers. */
import { Metadata, status as grpcStatus } from '@grpc/grpc-js';
import type { StatusObject } from '@grpc/grpc-js';
import { ERRORS, RelevoError, errorCodeOf, messageOf } from '@relevo/base/errors';
import type { ErrorCode, GrpcStatus } from '@relevo/base/errors';
import { RpcError } from '@relevo/base/ports';
import { ErrorDetailCodec, errorDetail } from '@relevo/rpc/gen/common/errors';

/** Holds an encoded ErrorDetail. */
const DETAIL_TRAILER = 'relevo-error-bin';
/** The code's name once more, for people who look at the trailers. */
const CODE_TRAILER = 'relevo-error';
/** Longer messages make trailers that HTTP/2 peers refuse. */
const MESSAGE_LENGTH_MAX = 2000;

/** An operating failure; anything else that a handler throws is a bug. */
export const isExpected = (thrown: unknown): boolean =>
  thrown instanceof RpcError || thrown instanceof RelevoError;

/** What a handler threw, as the error that its caller gets. */
export function toRpcError(thrown: unknown): RpcError {
  if (thrown instanceof RpcError) return thrown;
  if (thrown instanceof RelevoError) {
    return new RpcError(ERRORS[thrown.code].status, thrown.message, { code: thrown.code });
  }
  return new RpcError('INTERNAL', messageOf(thrown), { code: 'UNKNOWN_SERVER_ERROR' });
}

/** What a handler written for grpc-js gave for an error. */
export function fromGrpcFailure(thrown: unknown): RpcError {
  const { code, details } = thrown as Partial<StatusObject>;
  if (typeof code !== 'number') return toRpcError(thrown);
  return new RpcError(nameOf(code), details ?? messageOf(thrown));
}

/** What a server sends for it. */
export function toGrpcStatus(error: RpcError): StatusObject {
  const metadata = new Metadata();
  const detail = error.detail ?? encodedCode(error);
  if (error.code !== undefined) metadata.set(CODE_TRAILER, error.code);
  if (detail !== undefined) metadata.set(DETAIL_TRAILER, Buffer.from(detail));
  const details = wellFormed(error.message.slice(0, MESSAGE_LENGTH_MAX));
  return { code: grpcStatus[error.status], details, metadata };
}

const encodedCode = ({ code }: RpcError): Uint8Array | undefined =>
  code === undefined
    ? undefined
    : ErrorDetailCodec.encode(errorDetail({ code: ERRORS[code].number }));

/** Half a surrogate pair, as cutting may leave one, would make grpc-js throw. */
const wellFormed = (text: string): string => text.replace(/[\ud800-\udbff]$/, '');

/** What a client gets; undefined when the call ended well. */
export function fromGrpcStatus(
  { code, details, metadata }: StatusObject,
  address: string,
): RpcError | undefined {
  if (code === grpcStatus.OK) return undefined;
  const [detail] = metadata.get(DETAIL_TRAILER);
  const [named] = metadata.get(CODE_TRAILER);
  if (detail instanceof Buffer) {
    const relevoCode = typeof named === 'string' ? codeNamed(named) : codeWithin(detail);
    return new RpcError(nameOf(code), details, { code: relevoCode, detail });
  }
  const status = isBroken(code, details) ? 'UNAVAILABLE' : nameOf(code);
  return new RpcError(status, plain(details, address));
}

/** What grpc-js says of a connection that could not be made, in fewer words. */
function plain(details: string, address: string): string {
  const reason = /Last error: (?:Error: )?(.*?)(?: \(\S+Z\))?\. Resolution note/.exec(details)?.[1];
  if (reason === 'Failed to connect') return `the connection to ${address} broke as it was made`;
  if (reason !== undefined) return `cannot connect to ${address}: ${reason}`;
  if (details.startsWith('Name resolution failed')) {
    return `cannot connect to ${address}: its host name is not known here`;
  }
  if (details === 'Connection dropped') return `the connection to ${address} broke`;
  return `${address}: ${details}`;
}

/** A newer broker may have codes that we do not know. */
const codeNamed = (name: string): ErrorCode =>
  name in ERRORS ? (name as ErrorCode) : 'UNKNOWN_SERVER_ERROR';

function codeWithin(detail: Uint8Array): ErrorCode | undefined {
  try {
    return errorCodeOf(ErrorDetailCodec.decode(detail).code);
  } catch {
    return undefined;
  }
}

const nameOf = (code: number): GrpcStatus => (grpcStatus[code] ?? 'UNKNOWN') as GrpcStatus;

/**
 * Whether grpc-js, not the server, ended the call because the connection went away under it; depending
 * on the moment it says so in several ways.
 */
const isBroken = (code: number, details: string): boolean =>
  (code === grpcStatus.INTERNAL &&
    /^(Failed to start HTTP\/2 stream|Received RST_STREAM)/.test(details)) ||
  (code === grpcStatus.CANCELLED && details === 'Call cancelled');
