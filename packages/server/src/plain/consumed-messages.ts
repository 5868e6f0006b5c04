/** Plain records in messages of a size that suits: a compressed batch may hold far more than one takes. */
import { RPC_MESSAGE_BYTES_MAX } from '@relevo/base/limits';
import { RpcError } from '@relevo/base/ports';
import type { ConsumedRecord } from '@relevo/rpc/gen/client/fetch';

/** A message is full when it holds so much, bytes; a single larger record goes alone. */
const MESSAGE_BYTES_AIM = 1024 * 1024;
/** What the wire format adds to a record, and to each of its headers, at most. */
const FIELD_BYTES_MAX = 64;

/**
 * The records in groups, each for one message, in order. The first record that no message takes ends the
 * list: `tooLarge` tells of it.
 */
export function inMessages(
  records: readonly ConsumedRecord[],
  partitionName: string,
): { readonly messages: readonly ConsumedRecord[][]; readonly tooLarge: RpcError | undefined } {
  const messages: ConsumedRecord[][] = [];
  let room = 0;
  for (const record of records) {
    const bytes = sizeOf(record);
    if (bytes > RPC_MESSAGE_BYTES_MAX) {
      return { messages, tooLarge: tooLargeError(record, partitionName, bytes) };
    }
    const last = messages.at(-1);
    if (last !== undefined && bytes <= room) last.push(record);
    else {
      messages.push([record]);
      room = MESSAGE_BYTES_AIM;
    }
    room -= bytes;
  }
  return { messages, tooLarge: undefined };
}

function sizeOf({ key, value, headers }: ConsumedRecord): number {
  let bytes = FIELD_BYTES_MAX + (key?.length ?? 0) + (value?.length ?? 0);
  for (const header of headers) {
    // A character takes at most three bytes.
    bytes += FIELD_BYTES_MAX + 3 * header.key.length + (header.value?.length ?? 0);
  }
  return bytes;
}

const tooLargeError = (record: ConsumedRecord, partitionName: string, bytes: number): RpcError =>
  new RpcError(
    'RESOURCE_EXHAUSTED',
    `${partitionName} offset ${record.offset}: the record has about ${bytes} bytes uncompressed, and a ` +
      `message takes ${RPC_MESSAGE_BYTES_MAX}: read it through Fetch (the SDK does), or begin at offset ` +
      `${record.offset + 1} to go past it`,
    { code: 'MESSAGE_TOO_LARGE' },
  );
