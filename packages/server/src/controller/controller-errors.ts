/** NOT_CONTROLLER on the wire: with the controller that the caller should ask instead, where one is known. */
import { ERRORS } from '@relevo/base/errors';
import { NO_LEADER_EPOCH } from '@relevo/base/ids';
import { RpcError } from '@relevo/base/ports';
import { ErrorDetailCodec } from '@relevo/rpc/gen/common/errors';
import type { ControllerInfo } from '../metadata/metadata-publisher.ts';

export function notController(known: ControllerInfo | undefined): RpcError {
  const detail = ErrorDetailCodec.encode({
    code: ERRORS.NOT_CONTROLLER.number,
    currentLeader:
      known === undefined
        ? undefined
        : { brokerId: known.id, leaderEpoch: NO_LEADER_EPOCH, address: known.address },
  });
  const where =
    known === undefined ? 'none is known here' : `it is node ${known.id} at ${known.address}`;
  const message = `this node is not the active controller (${where})`;
  return new RpcError(ERRORS.NOT_CONTROLLER.status, message, { code: 'NOT_CONTROLLER', detail });
}

/** The address of the active controller that an error names; undefined: none. */
export function controllerHint(error: unknown): string | undefined {
  if (!(error instanceof RpcError) || error.code !== 'NOT_CONTROLLER') return undefined;
  if (error.detail === undefined) return undefined;
  const address = ErrorDetailCodec.decode(error.detail).currentLeader?.address;
  return address === '' ? undefined : address;
}
