import type { Offset } from '@relevo/base/ids';
import { FetchPurgatory, ProducePurgatory } from '@relevo/broker/purgatory';
import type { WaitingFetch } from '@relevo/broker/purgatory';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';

const at = (offset: number): Offset => offset as Offset;

describe('waiting produces', () => {
  test('leave in the order of their offsets when the watermark passes, each once', () => {
    fc.assert(
      fc.property(
        fc.array(fc.record({ end: fc.nat(3000), watermark: fc.nat(3000) }), { maxLength: 3000 }),
        (steps) => {
          const purgatory = new ProducePurgatory<number>();
          const left: number[] = [];
          let added = 0;
          for (const { end, watermark } of steps) {
            purgatory.add(at(end), Infinity, end);
            added += 1;
            if (watermark % 3 === 0) {
              const before = left.length;
              purgatory.reach(at(watermark), (value) => left.push(value));
              const now = left.slice(before);
              expect(now).toEqual([...now].sort((a, b) => a - b));
              expect(now.every((value) => value <= watermark)).toBe(true);
            }
          }
          purgatory.reach(at(3000), (value) => left.push(value));
          expect(left).toHaveLength(added);
          expect(purgatory.size).toBe(0);
        },
      ),
      { numRuns: 30 },
    );
  });

  test('expire at their own deadlines, and tell when to look next', () => {
    const purgatory = new ProducePurgatory<string>();
    expect(purgatory.earliestDeadlineMs).toBe(Infinity);
    purgatory.add(at(1), 500, 'slow');
    purgatory.add(at(2), 100, 'fast');
    purgatory.add(at(3), 300, 'middle');
    expect(purgatory.earliestDeadlineMs).toBe(100);
    const gone: string[] = [];
    purgatory.expire(99, (value) => gone.push(value));
    expect(gone).toEqual([]);
    purgatory.expire(300, (value) => gone.push(value));
    expect(gone).toEqual(['fast', 'middle']);
    expect(purgatory.earliestDeadlineMs).toBe(500);
    purgatory.reach(at(9), (value) => gone.push(value));
    expect(gone).toEqual(['fast', 'middle', 'slow']);
  });

  test('all leave when leadership is lost', () => {
    const purgatory = new ProducePurgatory<number>();
    for (let offset = 1; offset <= 5; offset++) purgatory.add(at(offset), 9, offset);
    purgatory.reach(at(2), () => {});
    const rest: number[] = [];
    purgatory.drain((value) => rest.push(value));
    expect(rest).toEqual([3, 4, 5]);
    expect(purgatory.size).toBe(0);
  });
});

describe('waiting fetches', () => {
  const fetchOf = (
    keys: string[],
    missingBytes: number,
    deadlineMs = 1000,
  ): WaitingFetch<string> => ({
    keys,
    missingBytes,
    deadlineMs,
  });

  test('wake when what they miss has come, from any of their partitions', () => {
    const purgatory = new FetchPurgatory<string, WaitingFetch<string>>();
    const small = fetchOf(['a'], 1);
    const large = fetchOf(['a', 'b'], 100);
    purgatory.add(small);
    purgatory.add(large);
    const woken: unknown[] = [];
    purgatory.advanced('a', 60, (fetch) => woken.push(fetch));
    expect(woken).toEqual([small]);
    purgatory.advanced('c', 1000, (fetch) => woken.push(fetch));
    purgatory.advanced('b', 39, (fetch) => woken.push(fetch));
    expect(woken).toEqual([small]);
    purgatory.advanced('b', 1, (fetch) => woken.push(fetch));
    expect(woken).toEqual([small, large]);
    expect(purgatory.size).toBe(0);
  });

  test('wake when a partition of theirs is gone, and at their deadlines, each once', () => {
    const purgatory = new FetchPurgatory<string, WaitingFetch<string>>();
    const [one, two] = [fetchOf(['a', 'b'], 9, 50), fetchOf(['b'], 9, 70)];
    purgatory.add(one);
    purgatory.add(two);
    expect(purgatory.earliestDeadlineMs).toBe(50);
    const woken: unknown[] = [];
    purgatory.wake('a', (fetch) => woken.push(fetch));
    purgatory.expire(60, (fetch) => woken.push(fetch));
    expect(woken).toEqual([one]);
    expect(purgatory.earliestDeadlineMs).toBe(70);
    purgatory.expire(70, (fetch) => woken.push(fetch));
    purgatory.remove(two);
    expect(woken).toEqual([one, two]);
    expect(purgatory.earliestDeadlineMs).toBe(Infinity);
  });
});
