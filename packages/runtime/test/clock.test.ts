import { CryptoRandom, NodeTimers, SystemClock } from '@relevo/runtime/clock';
import { expect, test } from 'vitest';

const timers = new NodeTimers();
const clock = new SystemClock();

test('a timer fires once, not before its time, and never from within the call', async () => {
  const start = clock.monotonicMs();
  let fired = 0;
  await new Promise<void>((resolve) => {
    timers.after(20.4, () => {
      fired++;
      resolve();
    });
    timers.after(0, () => undefined);
    expect(fired).toBe(0);
  });
  expect(clock.monotonicMs() - start).toBeGreaterThanOrEqual(20);
  expect(fired).toBe(1);
});

test('a cancelled timer does not fire', async () => {
  let fired = false;
  const handle = timers.after(1, () => (fired = true));
  handle.cancel();
  await new Promise<void>((resolve) => timers.after(10, resolve));
  expect(fired).toBe(false);
  handle.cancel();
});

test('what is to run soon runs in order, after what is at hand, each in its turn', async () => {
  const order: string[] = [];
  const done = new Promise<void>((resolve) => {
    timers.soon(() => {
      order.push('first');
      timers.soon(() => {
        order.push('next turn');
        resolve();
      });
    });
    timers.soon(() => order.push('second'));
    queueMicrotask(() => order.push('microtask'));
    process.nextTick(() => order.push('tick'));
    order.push('now');
  });
  await done;
  expect(order.slice(0, 1)).toStrictEqual(['now']);
  expect(order.slice(1, 3).toSorted()).toStrictEqual(['microtask', 'tick']);
  expect(order.slice(3)).toStrictEqual(['first', 'second', 'next turn']);
});

test('one that throws keeps the others not from their turn', async () => {
  const uncaught = new Promise<unknown>((resolve) => {
    const [others] = [process.listeners('uncaughtException')];
    process.removeAllListeners('uncaughtException');
    process.once('uncaughtException', (error) => {
      for (const listener of others) process.on('uncaughtException', listener);
      resolve(error);
    });
  });
  const ran = new Promise<void>((resolve) => {
    timers.soon(() => {
      throw new Error('on purpose');
    });
    timers.soon(resolve);
  });
  expect(await uncaught).toMatchObject({ message: 'on purpose' });
  await ran;
});

test('random numbers lie in [0, 1) and spread evenly', () => {
  const random = new CryptoRandom();
  const draws = Array.from({ length: 20_000 }, () => random.float());
  expect(Math.min(...draws)).toBeGreaterThanOrEqual(0);
  expect(Math.max(...draws)).toBeLessThan(1);
  const buckets = Array.from({ length: 10 }, (_, i) =>
    draws.filter((draw) => Math.floor(draw * 10) === i),
  );
  for (const { length } of buckets) expect(Math.abs(length - 2000)).toBeLessThan(300);
  expect(new Set(draws).size).toBeGreaterThan(19_990);
  expect(random.bytes(16)).toHaveLength(16);
});
