import { expect, test } from 'vitest';
import { brokerId, offset, producerEpoch, producerId } from '@relevo/base/ids';
import { BatchError } from '@relevo/record/batch-error';
import { decodeControlBatch, encodeControlBatch } from '@relevo/record/control-batch';
import { crc32c } from '@relevo/record/crc32c';
import { decodeRecords } from '@relevo/record/records';
import { ANY_BATCH, validateBatch } from '@relevo/record/validate';
import { batchOf, record } from './batches.ts';

const OPTIONS = { timestampMs: 99, producerId: producerId(8), producerEpoch: producerEpoch(1) };

test.each(['commit', 'abort'] as const)('a %s marker survives the round trip', (type) => {
  const marker = { type, coordinatorEpoch: 12 };
  const batch = encodeControlBatch(marker, { ...OPTIONS, baseOffset: offset(5) }, crc32c);
  const header = validateBatch(batch, 0, batch.length, crc32c, ANY_BATCH);
  expect(header).toMatchObject({ isControl: true, isTransactional: true, baseOffset: 5 });
  expect(header).toMatchObject({ producerId: 8, producerEpoch: 1, baseSequence: -1 });
  expect(decodeControlBatch(batch)).toEqual(marker);
  const [key] = decodeRecords(batch).map((view) => [...(view.key ?? [])]);
  expect(key).toEqual([0, 0, 0, type === 'commit' ? 1 : 0]);
});

test('a leader change survives the round trip', () => {
  const change = {
    type: 'leaderChange',
    leader: brokerId(2),
    voters: [brokerId(1), brokerId(2), brokerId(3)],
    grantingVoters: [brokerId(2), brokerId(3)],
  } as const;
  const batch = encodeControlBatch(change, { timestampMs: 1 }, crc32c);
  validateBatch(batch, 0, batch.length, crc32c, ANY_BATCH);
  expect(decodeControlBatch(batch)).toEqual(change);
});

test('a batch of data is no control batch', () => {
  expect(() => decodeControlBatch(batchOf([record('a')]))).toThrow(BatchError);
});

test('a marker that is cut off is refused', () => {
  const batch = batchOf([record(Uint8Array.of(0, 0, 1), { key: Uint8Array.of(0, 0, 0, 1) })], {
    isControl: true,
  });
  expect(() => decodeControlBatch(batch)).toThrow(BatchError);
});

test('a kind from the future is passed over', () => {
  const batch = batchOf([record(null, { key: Uint8Array.of(0, 0, 0, 9) })], { isControl: true });
  expect(decodeControlBatch(batch)).toEqual({ type: 'other', number: 9 });
});
