import { RPC_MESSAGE_BYTES_MAX } from '@relevo/base/limits';
import {
  ConsumedRecordsCodec,
  consumedRecord,
  consumedRecords,
} from '@relevo/rpc/gen/client/fetch';
import type { ConsumedRecord } from '@relevo/rpc/gen/client/fetch';
import { recordHeader } from '@relevo/rpc/gen/client/produce';
import { inMessages } from '@relevo/server/plain/consumed-messages';
import { describe, expect, test } from 'vitest';

const record = (offset: number, bytes: number): ConsumedRecord =>
  consumedRecord({ offset, value: new Uint8Array(bytes) });

describe('records in messages', () => {
  test('none is lost, the order stays, and no message is above the limit', () => {
    const records = Array.from({ length: 60 }, (_, offset) => record(offset, 700 * 1024));
    records.splice(30, 0, record(30, RPC_MESSAGE_BYTES_MAX - 200));
    const { messages, tooLarge } = inMessages(records, 'orders-0');
    expect(tooLarge).toBeUndefined();
    expect(messages.flat()).toEqual(records);
    expect(messages.length).toBe(61);
    for (const message of messages) {
      const encoded = ConsumedRecordsCodec.encode(consumedRecords({ records: message }));
      expect(encoded.length).toBeLessThanOrEqual(RPC_MESSAGE_BYTES_MAX);
    }
  });

  test('small records share messages', () => {
    const records = Array.from({ length: 1_000 }, (_, offset) => record(offset, 1_000));
    expect(inMessages(records, 'orders-0').messages.length).toBe(2);
    expect(inMessages([], 'orders-0').messages).toEqual([]);
  });

  test('the size counts headers, and a record that no message takes is told of', () => {
    const headers = [recordHeader({ key: 'h', value: new Uint8Array(RPC_MESSAGE_BYTES_MAX) })];
    const large = consumedRecord({ offset: 7, headers });
    const { messages, tooLarge } = inMessages([record(6, 1), large, record(8, 1)], 'orders-0');
    expect(messages.flat().map(({ offset }) => offset)).toEqual([6]);
    expect(tooLarge).toMatchObject({ status: 'RESOURCE_EXHAUSTED', code: 'MESSAGE_TOO_LARGE' });
    expect(tooLarge?.message).toMatch(/orders-0 offset 7: .* begin at offset 8 to go past it/);
  });
});
