import { describe, expect, test } from 'vitest';
import { Latencies } from '@relevo/cli/bench/latencies';
import { Pace } from '@relevo/cli/bench/pace';

describe('latencies', () => {
  test('of 1 to 1000 ms the percentiles are where they should be', () => {
    const latencies = new Latencies();
    for (let ms = 1; ms <= 1000; ms++) latencies.add(ms);
    const { p50Ms, p99Ms, p999Ms, maxMs } = latencies.summary();
    expect(latencies.count).toBe(1000);
    const near = (value: number, expected: number): void =>
      expect(Math.abs(value - expected) / expected).toBeLessThan(0.002);
    near(p50Ms, 500);
    near(p99Ms, 990);
    near(p999Ms, 999);
    near(maxMs, 1000);
  });

  test('none are all zero', () => {
    expect(new Latencies().summary()).toEqual({ p50Ms: 0, p99Ms: 0, p999Ms: 0, maxMs: 0 });
  });
});

describe('pace', () => {
  const taken = (pace: Pace, nowMs: number): number[] => {
    const times: number[] = [];
    for (let at = pace.take(nowMs); at !== undefined; at = pace.take(nowMs)) times.push(at);
    return times;
  };

  test('a record a millisecond at 1000/s', () => {
    const pace = new Pace(1000, 5000);
    expect(taken(pace, 5000)).toEqual([5000]);
    expect(pace.waitMs(5000)).toBe(1);
    expect(taken(pace, 5000.5)).toEqual([]);
    expect(taken(pace, 5001)).toEqual([5001]);
  });

  test('a small delay is the timer, a long one counts as latency', () => {
    const pace = new Pace(1000, 0);
    expect(taken(pace, 1.5)).toEqual([1.5, 1.5]);
    expect(taken(pace, 10)).toEqual([2, 3, 4, 5, 6, 7, 10, 10, 10]);
  });

  test('without a rate there is always one due', () => {
    const pace = new Pace(Infinity, 0);
    expect([pace.take(7), pace.take(7), pace.waitMs(7)]).toEqual([7, 7, 0]);
  });
});
