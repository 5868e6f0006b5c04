/**
 * Snapshots on the wire: in pieces, so that one may be larger than a message, and heartbeats pass
 * between them.
 */
import { concatBytes } from '@relevo/base/bytes';
import { logIndex, term as toTerm } from '@relevo/base/ids';
import { decodeConfiguration, encodeConfiguration } from '@relevo/raft/configuration';
import type { InstallSnapshot, Message, Snapshot } from '@relevo/raft/messages';
import type { RaftMessage, RaftSnapshotRequest } from '@relevo/rpc/gen/cluster/raft';
import { MalformedMessage, checked, envelopeFromWire, envelopeToWire } from './quorum-messages.ts';

/** On a slow link what else is said waits for a few of them. */
export const PIECE_BYTES: number = 128 * 1024;
/** Smaller ones come last alone. */
const PIECE_BYTES_MIN = 16 * 1024;
/** A snapshot above this is taken for garbage. */
export const SNAPSHOT_BYTES_MAX: number = 2 ** 30;

export type SnapshotMessage = Message & { readonly body: InstallSnapshot };

export const isSnapshot = (message: Message): message is SnapshotMessage =>
  message.body.kind === 'snapshot';

/** At least one piece. */
export function* piecesOf(clusterId: string, message: SnapshotMessage): Generator<RaftMessage> {
  const { index, term, configuration, data } = message.body.snapshot;
  const membership = encodeConfiguration(configuration);
  for (let offset = 0; offset === 0 || offset < data.length; offset += PIECE_BYTES) {
    const value: RaftSnapshotRequest = {
      lastIndex: index,
      lastTerm: term,
      membership,
      data: data.subarray(offset, offset + PIECE_BYTES),
      offset,
      totalBytes: data.length,
    };
    yield envelopeToWire(clusterId, message, { case: 'snapshotRequest', value });
  }
}

/** Puts together the pieces that come on one stream. */
export class SnapshotAssembler {
  #pieces: Uint8Array[] = [];
  #received = 0;
  #totalBytes = 0;
  #index = -1;

  /** The whole message after the last piece; throws MalformedMessage. */
  take(wire: RaftMessage, piece: RaftSnapshotRequest): Message | undefined {
    const { offset, totalBytes, data, lastIndex } = piece;
    if (offset === 0) this.#begin(lastIndex, totalBytes);
    const isLast = offset + data.length === totalBytes;
    const fits =
      offset === this.#received &&
      offset + data.length <= totalBytes &&
      (data.length >= PIECE_BYTES_MIN || isLast);
    if (lastIndex !== this.#index || totalBytes !== this.#totalBytes || !fits) {
      throw new MalformedMessage(`piece ${offset} of snapshot ${lastIndex} does not continue it`);
    }
    // Copied, so that no piece keeps the message that it came in; room is taken as the bytes come.
    this.#pieces.push(data.slice());
    this.#received += data.length;
    if (this.#received < totalBytes) return undefined;
    const snapshot = checked(() => this.#whole(piece));
    this.#begin(-1, 0);
    return { ...envelopeFromWire(wire), body: { kind: 'snapshot', snapshot } };
  }

  #begin(index: number, totalBytes: number): void {
    if (totalBytes < 0 || totalBytes > SNAPSHOT_BYTES_MAX) {
      throw new MalformedMessage(`a snapshot of ${totalBytes} bytes is too large`);
    }
    this.#index = index;
    this.#totalBytes = totalBytes;
    this.#pieces = [];
    this.#received = 0;
  }

  #whole({ lastIndex, lastTerm, membership }: RaftSnapshotRequest): Snapshot {
    return {
      index: logIndex(lastIndex),
      term: toTerm(lastTerm),
      configuration: decodeConfiguration(membership),
      data: concatBytes(this.#pieces),
    };
  }
}
