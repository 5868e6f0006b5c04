import { logIndex, term } from '@relevo/base/ids';
import type { Entry } from '@relevo/raft/messages';
import { RaftLog } from '@relevo/raft/raft-log';
import { describe, expect, test } from 'vitest';

const entry = (index: number, ofTerm: number, bytes = 1): Entry => ({
  index: logIndex(index),
  term: term(ofTerm),
  kind: 'data',
  data: new Uint8Array(bytes),
});

/** A log whose entries 1, 2, … have these terms. */
const logOf = (...terms: number[]): RaftLog =>
  new RaftLog(
    { index: logIndex(0), term: term(0) },
    terms.map((one, at) => entry(at + 1, one)),
  );

describe('what is durable', () => {
  test('an entry that was written, overwritten and written again counts only after the third write', () => {
    const log = logOf(1, 1);
    for (const ofTerm of [1, 2, 1]) {
      if (log.lastIndex === 3) log.truncateFrom(logIndex(3));
      log.append(entry(3, ofTerm));
      log.takeUnoffered();
    }
    log.writeDone();
    expect(log.persistedIndex).toBe(2);
    log.writeDone();
    expect(log.persistedIndex).toBe(2);
    log.writeDone();
    expect(log.persistedIndex).toBe(3);
  });

  test('a truncation takes back what was durable', () => {
    const log = logOf(1, 1, 1);
    log.truncateFrom(logIndex(2));
    expect(log.persistedIndex).toBe(1);
    log.append(entry(2, 2));
    expect(log.takeUnoffered()).toEqual({ truncateFrom: 2, entries: [entry(2, 2)] });
    log.writeDone();
    expect(log.persistedIndex).toBe(2);
  });

  test('what was never offered need not be truncated on the disk', () => {
    const log = logOf(1);
    log.append(entry(2, 1));
    log.truncateFrom(logIndex(2));
    expect(log.hasUnoffered).toBe(false);
  });

  test('a snapshot makes earlier writes worthless', () => {
    const log = logOf(1);
    log.append(entry(2, 1));
    log.takeUnoffered();
    log.restore({ index: logIndex(9), term: term(3) });
    log.append(entry(10, 3));
    log.takeUnoffered();
    log.writeDone();
    expect(log.persistedIndex).toBe(9);
    log.writeDone();
    expect(log.persistedIndex).toBe(10);
  });
});

describe('where two logs may agree', () => {
  test.each([
    // The leader's question was for (index, term); this log answers with the position.
    { terms: [1, 1, 2, 2], index: 4, ofTerm: 1, at: 2, atTerm: 1 },
    { terms: [1, 1, 2, 2], index: 9, ofTerm: 3, at: 4, atTerm: 2 },
    { terms: [4, 4], index: 2, ofTerm: 1, at: 0, atTerm: 0 },
    { terms: [], index: 5, ofTerm: 5, at: 0, atTerm: 0 },
  ])('$terms asked at $index@$ofTerm: $at@$atTerm', ({ terms, index, ofTerm, at, atTerm }) => {
    const log = logOf(...terms);
    expect(log.mayAgreeAt(logIndex(index), term(ofTerm))).toEqual({ index: at, term: atTerm });
  });

  test('below the compaction nothing is known', () => {
    const log = logOf(1, 1, 1, 2);
    log.compactTo(logIndex(3));
    expect(log.mayAgreeAt(logIndex(2), term(1))).toEqual({ index: 2, term: 0 });
  });
});

test.each([
  { other: [4, 2], covers: true },
  { other: [3, 2], covers: true },
  { other: [2, 2], covers: false },
  { other: [1, 3], covers: true },
  { other: [9, 1], covers: false },
])(
  'a log that ends at $other[0]@$other[1] covers one that ends at 3@2: $covers',
  ({ other, covers }) => {
    const [index = 0, ofTerm = 0] = other;
    expect(logOf(1, 2, 2).isCoveredBy({ index: logIndex(index), term: term(ofTerm) })).toBe(covers);
  },
);

test('a slice keeps to its bytes, but holds one entry at least', () => {
  const log = new RaftLog({ index: logIndex(0), term: term(0) }, [
    entry(1, 1, 10),
    entry(2, 1, 10),
    entry(3, 1, 10),
  ]);
  const indexes = (bytesMax: number): number[] =>
    log.slice(logIndex(1), logIndex(3), bytesMax).map((one) => one.index);
  expect(indexes(20)).toEqual([1, 2]);
  expect(indexes(19)).toEqual([1]);
  expect(indexes(0)).toEqual([1]);
  expect(indexes(Infinity)).toEqual([1, 2, 3]);
});

test('a gap and a falling term are bugs', () => {
  expect(() => logOf(1).append(entry(3, 1))).toThrow('no gap');
  expect(() => logOf(2).append(entry(2, 1))).toThrow('do not fall');
});
