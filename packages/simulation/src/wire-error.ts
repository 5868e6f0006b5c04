/** Errors across the simulated wire: what a handler threw, and what the caller gets. */
import { ERRORS, RelevoError, messageOf } from '@relevo/base/errors';
import type { ErrorCode } from '@relevo/base/errors';
import { RpcError } from '@relevo/base/ports';
import { ErrorDetailCodec, errorDetail } from '@relevo/rpc/gen/common/errors';
import type { WireError } from './simulated-connection.ts';

export function toWire(error: RpcError): WireError {
  const { status, message, code, detail } = error;
  return { status, message, code, detail: detail?.slice() ?? encodedCode(code) };
}

const encodedCode = (code: ErrorCode | undefined): Uint8Array | undefined =>
  code === undefined
    ? undefined
    : ErrorDetailCodec.encode(errorDetail({ code: ERRORS[code].number }));

export const fromWire = (error: WireError): RpcError =>
  new RpcError(error.status, error.message, { code: error.code, detail: error.detail });

/** What a handler threw, as the error its caller gets. */
export function toRpcError(thrown: unknown): RpcError {
  if (thrown instanceof RpcError) return thrown;
  if (thrown instanceof RelevoError) {
    return new RpcError(ERRORS[thrown.code].status, thrown.message, { code: thrown.code });
  }
  return new RpcError('INTERNAL', messageOf(thrown), { code: 'UNKNOWN_SERVER_ERROR' });
}

/** An operating failure; anything else that a handler throws is a bug. */
export const isExpected = (thrown: unknown): boolean =>
  thrown instanceof RpcError || thrown instanceof RelevoError;
