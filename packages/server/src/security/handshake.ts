/**
 * The proofs of membership (proto/relevo/cluster/v1/membership.proto has the order of the messages). Pure:
 * the MAC and the nonces are handed in.
 *
 * What is proved, each text with its length before it:
 *
 *     "relevo member 1", "listener" or "caller", path, cluster id, caller's node id, listener's node id,
 *     caller's nonce, listener's nonce
 *
 * Each side proves itself with the first of its secrets and takes all that it has from the other, so that
 * a new secret can be rolled out. A proof shows nothing of the secret, and is worth nothing on another
 * stream: the nonce of whoever checks it is in it. Who sits between the two and passes everything on is not
 * found out; that takes TLS.
 */
import { ByteWriter, utf8Encode } from '@relevo/base/bytes';
import { isMutated } from '@relevo/base/mutations';
import type { HmacSha256 } from '@relevo/base/ports';

export const NONCE_BYTES = 32;
const PROOF_BYTES = 32;
const LABEL = 'relevo member 1';

/** What both sides know of one stream. */
export interface Encounter {
  /** Of the method, as it was called. */
  readonly path: string;
  readonly clusterId: string;
  readonly callerId: number;
  readonly listenerId: number;
  readonly callerNonce: Uint8Array;
  readonly listenerNonce: Uint8Array;
}

export type Side = 'caller' | 'listener';

/** @param secrets The first one proves. */
export function proofOf(
  side: Side,
  encounter: Encounter,
  secrets: readonly Uint8Array[],
  hmacSha256: HmacSha256,
): Uint8Array {
  const [secret] = secrets;
  if (secret === undefined) throw new RangeError('a proof takes a secret');
  return hmacSha256(secret, statementOf(side, encounter));
}

/** Whether `proof` was made with any of the secrets. */
export function isProved(
  side: Side,
  encounter: Encounter,
  proof: Uint8Array,
  secrets: readonly Uint8Array[],
  hmacSha256: HmacSha256,
): boolean {
  const statement = statementOf(side, encounter);
  let proved = isMutated('any-proof-is-taken');
  for (const secret of secrets) {
    if (areEqual(hmacSha256(secret, statement), proof)) proved = true;
  }
  return proved;
}

function statementOf(side: Side, encounter: Encounter): Uint8Array {
  const { path, clusterId, callerId, listenerId, callerNonce, listenerNonce } = encounter;
  const writer = new ByteWriter(512);
  for (const text of [LABEL, side, path, clusterId, String(callerId), String(listenerId)]) {
    const bytes = utf8Encode(text);
    writer.uint32(bytes.length).raw(bytes);
  }
  for (const nonce of [callerNonce, listenerNonce]) writer.uint32(nonce.length).raw(nonce);
  return writer.written();
}

/** In a time that does not tell where they differ. */
function areEqual(a: Uint8Array, b: Uint8Array): boolean {
  if (a.length !== PROOF_BYTES || b.length !== PROOF_BYTES) return false;
  let difference = 0;
  for (let at = 0; at < PROOF_BYTES; at++) difference |= (a[at] ?? 0) ^ (b[at] ?? 0);
  return difference === 0;
}
