import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { utf8Decode, utf8Encode } from '@relevo/base/bytes';
import { decodeCheckpoint, encodeCheckpoint } from '@relevo/log/checkpoint-file';
import { offsetFileName, parseOffsetFileName, parsePartitionName } from '@relevo/log/file-names';
import { LeaderEpochCache } from '@relevo/log/leader-epoch-cache';
import { LOG_ERRORS, LogError } from '@relevo/log/log-error';
import type { LogErrorKind } from '@relevo/log/log-error';
import { OffsetIndex } from '@relevo/log/offset-index';
import { decodeSnapshot, encodeSnapshot } from '@relevo/log/producer-snapshot';
import { ProducerState } from '@relevo/log/producer-state';
import { TimeIndex } from '@relevo/log/time-index';
import { readBatchHeader } from '@relevo/record/batch-header';
import { crc32c } from '@relevo/record/crc32c';
import { readFileSync } from 'node:fs';
import { at, batch, epoch } from './support.ts';

const growing = (max: number): fc.Arbitrary<number[]> =>
  fc
    .uniqueArray(fc.integer({ min: 1, max }), { maxLength: 60 })
    .map((values) => values.toSorted((a, b) => a - b));

describe('the offset index', () => {
  test('has Kafka’s bytes: relative offset and position, four bytes each', () => {
    const index = new OffsetIndex(at(1000));
    index.append(at(1007), 300);
    index.append(at(1300), 70_000);
    expect(Buffer.from(index.encoded()).toString('hex')).toBe('000000070000012c0000012c00011170');
  });

  test('finds the last entry at or below an offset, as a look through all of them does', () => {
    fc.assert(
      fc.property(growing(500), fc.integer({ min: 0, max: 520 }), (offsets, wanted) => {
        const index = new OffsetIndex(at(7));
        for (const [place, offset] of offsets.entries()) index.append(at(7 + offset), place + 1);
        const expected = offsets.findLastIndex((offset) => offset <= wanted);
        expect(index.floor(7 + wanted)).toBe(expected);
        const decoded = OffsetIndex.decode(at(7), index.encoded(), 1000);
        expect(decoded?.encoded()).toEqual(index.encoded());
        expect(decoded?.floor(7 + wanted)).toBe(expected);
      }),
    );
  });

  test.each([
    ['a cut entry', '0000000700'],
    ['zeros', '0000000000000000'],
    ['a falling offset', '00000007000001000000000700000200'],
    ['a falling position', '00000007000002000000000800000200'],
    ['a position beyond the log', '0000000700002000'],
    ['a negative offset', 'ffffffff00000100'],
  ])('with %s is no index', (_, hex) => {
    expect(
      OffsetIndex.decode(at(0), new Uint8Array(Buffer.from(hex, 'hex')), 8192),
    ).toBeUndefined();
  });
});

describe('the time index', () => {
  test('has Kafka’s bytes: a timestamp of eight and a relative offset of four', () => {
    const index = new TimeIndex(at(10));
    index.append(1_700_000_000_000, at(12));
    index.append(1_700_000_000_000, at(14));
    expect(Buffer.from(index.encoded()).toString('hex')).toBe('0000018bcfe5680000000002');
  });

  test('finds the last entry that is not later, and forgets what is cut', () => {
    fc.assert(
      fc.property(growing(500), fc.integer({ min: 0, max: 520 }), (times, wanted) => {
        const index = new TimeIndex(at(3));
        for (const [place, time] of times.entries()) index.append(time, at(3 + place));
        const found = times.findLastIndex((time) => time <= wanted);
        expect(index.floor(wanted)).toEqual(
          found === -1 ? undefined : { timestamp: times[found], offset: 3 + found },
        );
        index.truncateTo(at(3 + wanted));
        expect(index.entries).toBe(Math.min(times.length, wanted));
      }),
    );
  });
});

describe('the leader epoch cache', () => {
  const entry = fc.tuple(fc.integer({ min: 1, max: 3 }), fc.integer({ min: 0, max: 4 }));

  test('answers as a list of the epoch of every record does', () => {
    fc.assert(
      fc.property(
        fc.array(entry, { maxLength: 20 }),
        fc.integer({ min: -1, max: 60 }),
        (steps, asked) => {
          const cache = new LeaderEpochCache();
          const epochs: number[] = [];
          let current = 0;
          for (const [step, records] of steps) {
            current += step;
            cache.begin(epoch(current), at(epochs.length));
            for (let index = 0; index < records; index++) epochs.push(current);
          }
          const known = cache.entries.map((one) => Number(one.epoch)).filter((one) => one <= asked);
          const answer = cache.endOffset(epoch(asked), at(epochs.length));
          expect(answer.epoch).toBe(known.at(-1) ?? asked);
          expect(answer.endOffset).toBe(epochs.filter((one) => one <= asked).length);
          for (const [offset, of] of epochs.entries()) expect(cache.epochAt(offset)).toBe(of);
        },
      ),
    );
  });

  test('an epoch without records gives way to the next', () => {
    const cache = new LeaderEpochCache();
    cache.begin(epoch(1), at(0));
    cache.begin(epoch(2), at(10));
    cache.begin(epoch(5), at(10));
    expect(cache.entries).toEqual([
      { epoch: 1, startOffset: 0 },
      { epoch: 5, startOffset: 10 },
    ]);
    expect(cache.endOffset(epoch(3), at(20))).toEqual({ epoch: 1, endOffset: 10 });
    expect(() => cache.begin(epoch(4), at(20))).toThrowError(/never fall/);
  });

  test('is cut at the end and at the start', () => {
    const cache = new LeaderEpochCache();
    for (const number of [1, 3, 7]) cache.begin(epoch(number), at(number * 10));
    cache.advanceStart(at(35));
    expect(cache.entries).toEqual([
      { epoch: 3, startOffset: 35 },
      { epoch: 7, startOffset: 70 },
    ]);
    cache.truncateTo(at(70));
    expect(cache.latestEpoch).toBe(3);
    expect(cache.endOffset(epoch(1), at(60))).toEqual({ epoch: 1, endOffset: 35 });
  });

  test('is a checkpoint of Kafka’s format with a CRC, and a damaged one is refused', () => {
    const cache = new LeaderEpochCache();
    cache.begin(epoch(0), at(0));
    cache.begin(epoch(4), at(100));
    expect(utf8Decode(cache.encoded())).toBe('1\n2\n0 0\n4 100\ncrc32c 23f7648c\n');
    expect(LeaderEpochCache.decode(cache.encoded())?.entries).toEqual(cache.entries);
    for (const text of [
      '',
      '0\n2\n0 0\n',
      '0\n1\nx y\n',
      '1\n0\n',
      '0\n2\n4 0\n3 9\n',
      '0\n1\n4 0',
    ]) {
      expect(LeaderEpochCache.decode(utf8Encode(text))).toBeUndefined();
    }
  });
});

describe('checkpoints', () => {
  test('one of Kafka’s is read, without a CRC', () => {
    expect(decodeCheckpoint(utf8Encode('0\n2\na 0 10\nb 3 20\n'))).toEqual(['a 0 10', 'b 3 20']);
  });

  test('every changed bit of one is noticed', () => {
    const bytes = encodeCheckpoint(['a 0 10', 'b 3 20']);
    for (let bit = 0; bit < bytes.length * 8; bit++) {
      const changed = bytes.slice();
      changed[bit >> 3] = (changed[bit >> 3] ?? 0) ^ (1 << (bit & 7));
      expect(decodeCheckpoint(changed)).toBeUndefined();
    }
  });

  test('every cut of one is noticed', () => {
    const bytes = encodeCheckpoint(['a 0 10', 'b 3 20']);
    expect(decodeCheckpoint(bytes)).toEqual(['a 0 10', 'b 3 20']);
    for (let length = 0; length < bytes.length; length++) {
      expect(decodeCheckpoint(bytes.subarray(0, length))).toBeUndefined();
    }
  });
});

describe('the producer snapshot', () => {
  const filled = (): ProducerState => {
    const state = new ProducerState(86_400_000, () => 0);
    let offset = 0;
    for (let round = 0; round < 7; round++) {
      for (const producer of [3, 9, 4]) {
        const bytes = batch({ count: 2, producer, sequence: round * 2, baseOffset: offset });
        state.note(readBatchHeader(bytes));
        offset += 2;
      }
    }
    return state;
  };

  test('brings the state back as it was, all five batches of each producer', () => {
    const state = filled();
    const bytes = encodeSnapshot(state, crc32c);
    const restored = new ProducerState(86_400_000, () => 0);
    restored.restore(decodeSnapshot(bytes, crc32c) ?? []);
    expect(restored.entries()).toEqual(state.entries());
    expect(restored.entries()[0]?.batches.length).toBe(5);
    expect(encodeSnapshot(restored, crc32c)).toEqual(bytes);
  });

  test('one of an earlier version, with times in its tail, is read', () => {
    const state = filled();
    const bytes = encodeSnapshot(state, crc32c);
    expect(decodeSnapshot(withTimes(bytes, state.entries().length), crc32c)).toEqual(
      decodeSnapshot(bytes, crc32c),
    );
  });

  test('any byte changed or missing is noticed', () => {
    const bytes = encodeSnapshot(filled(), crc32c);
    for (let place = 0; place < bytes.length; place++) {
      const damaged = bytes.slice();
      damaged[place] = (damaged[place] ?? 0) ^ 0x10;
      expect(decodeSnapshot(damaged, crc32c)).toBeUndefined();
      expect(decodeSnapshot(bytes.subarray(0, place), crc32c)).toBeUndefined();
    }
  });
});

/** The same entries (all of five batches) as "RLV1" has them: 8 bytes after the mark, 8 before each count. */
function withTimes(bytes: Uint8Array, entryCount: number): Uint8Array {
  const tailAt = 10 + entryCount * 46;
  const perEntry = 1 + 4 * 32;
  const time = new Uint8Array(8).fill(7);
  const parts = [bytes.subarray(0, tailAt), Uint8Array.of(0x52, 0x4c, 0x56, 0x31), time];
  for (let at = tailAt + 4; at < bytes.length; at += perEntry) {
    parts.push(time, bytes.subarray(at, at + perEntry));
  }
  const old = Uint8Array.from(parts.flatMap((part) => [...part]));
  new DataView(old.buffer).setUint32(2, crc32c(old.subarray(6)));
  return old;
}

describe('names', () => {
  test('segments are named after their base offset, in twenty digits', () => {
    expect(offsetFileName(42, '.log')).toBe('00000000000000000042.log');
    expect(parseOffsetFileName('00000000000000000042.log')).toEqual({ offset: 42, suffix: '.log' });
    expect(parseOffsetFileName('42.log')).toBeUndefined();
    expect(parseOffsetFileName('00000000000000000042.log.deleted')).toBeUndefined();
    expect(parseOffsetFileName('99999999999999999999.log')).toBeUndefined();
  });

  test('a partition’s directory is its topic and number', () => {
    expect(parsePartitionName('my-topic-12')).toEqual({ topic: 'my-topic', partition: 12 });
    expect(parsePartitionName('orders')).toBeUndefined();
    expect(parsePartitionName('orders-03')).toBeUndefined();
    expect(parsePartitionName('orders-3.AAAA.deleted')).toBeUndefined();
  });
});

describe('errors', () => {
  test('README.md tells of each kind, with its code and meaning', () => {
    const text = readFileSync(new URL('../README.md', import.meta.url), 'utf8');
    const readme = text.replaceAll(/ +/g, ' ');
    for (const [kind, { code, meaning }] of Object.entries(LOG_ERRORS)) {
      expect(readme).toContain(`| \`${kind}\` | ${code} | ${meaning} |`);
      expect(new LogError(kind as LogErrorKind, 'x').code).toBe(code);
    }
  });
});
