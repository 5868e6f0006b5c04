/** Who a call of a cluster service is from. */
import { RelevoError } from '@relevo/base/errors';
import type { PeerInfo } from '@relevo/base/ports';

/** Throws where the caller has proved to be another node than the one that it speaks for. */
export function checkSpeaksFor(caller: PeerInfo, nodeId: number): void {
  const { member, address } = caller;
  if (member === undefined || member === nodeId) return;
  throw new RelevoError(
    'CLUSTER_AUTHORIZATION_FAILED',
    `the caller at ${address} is node ${member} and speaks for node ${nodeId}: check its node.id`,
  );
}
