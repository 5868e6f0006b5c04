import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { LogError } from '@relevo/log/log-error';
import type { PartitionLog } from '@relevo/log/partition-log';
import { ProducerState } from '@relevo/log/producer-state';
import { readBatchHeader } from '@relevo/record/batch-header';
import { NOW_MS, batch, config, epoch, newDisk, openLog, readAll } from './support.ts';
import type { BatchSpec } from './support.ts';

const LAST = 2 ** 31 - 1;

/** `ok@offset`, `repeat@offset`, or the kind of the error. */
function send(log: PartitionLog, spec: BatchSpec): string {
  try {
    const result = log.appendAsLeader(batch({ producer: 1, ...spec }), epoch(0), NOW_MS);
    return `${result.kind === 'appended' ? 'ok' : 'repeat'}@${result.baseOffset}`;
  } catch (error) {
    if (error instanceof LogError) return error.kind;
    throw error;
  }
}

const sendAll = (log: PartitionLog, specs: readonly BatchSpec[]): string[] =>
  specs.map((spec) => send(log, spec));

describe('idempotent producers', () => {
  test('sequences are gapless, and a gap is refused', () => {
    const log = openLog(newDisk());
    expect(
      sendAll(log, [
        { sequence: 0, count: 3 },
        { sequence: 3, count: 2 },
        { sequence: 6 },
        { sequence: 5 },
      ]),
    ).toEqual(['ok@0', 'ok@3', 'outOfOrderSequence', 'ok@5']);
    expect(log.logEndOffset).toBe(6);
  });

  test('a repeat of any of the last five gets its first offset and appends nothing', () => {
    const log = openLog(newDisk());
    const specs = [0, 1, 2, 3, 4, 5, 6].map((sequence) => ({ sequence: sequence * 2, count: 2 }));
    sendAll(log, specs);
    expect(sendAll(log, specs)).toEqual([
      ...['duplicateSequence', 'duplicateSequence'],
      ...['repeat@4', 'repeat@6', 'repeat@8', 'repeat@10', 'repeat@12'],
    ]);
    expect(log.logEndOffset).toBe(14);
  });

  test('what overlaps without being a repeat is out of order, or appended before', () => {
    const log = openLog(newDisk());
    sendAll(log, [
      { sequence: 0, count: 4 },
      { sequence: 4, count: 4 },
    ]);
    expect(send(log, { sequence: 6, count: 4 })).toBe('outOfOrderSequence');
    expect(send(log, { sequence: 1, count: 2 })).toBe('duplicateSequence');
  });

  test('after 2^31-1 comes 0, within a batch and between batches', () => {
    for (const start of [LAST, LAST - 1, LAST - 2]) {
      const log = openLog(newDisk());
      const original = batch({
        producer: 1,
        sequence: start,
        count: 3,
        baseOffset: 0,
        leaderEpoch: 0,
      });
      log.appendAsFollower(original, NOW_MS);
      const next = (start + 3) % 2 ** 31;
      expect(send(log, { sequence: next + 1 })).toBe('outOfOrderSequence');
      expect(send(log, { sequence: start, count: 3 })).toBe('repeat@0');
      expect(send(log, { sequence: next })).toBe('ok@3');
      expect(send(log, { sequence: next })).toBe('repeat@3');
    }
  });

  test('epochs: an old one is refused, a new one begins at 0', () => {
    const log = openLog(newDisk());
    expect(
      sendAll(log, [
        { producerEpoch: 1, sequence: 0 },
        { producerEpoch: 1, sequence: 1 },
        { producerEpoch: 0, sequence: 2 },
        { producerEpoch: 2, sequence: 2 },
        { producerEpoch: 2, sequence: 0 },
        { producerEpoch: 1, sequence: 2 },
        { producerEpoch: 2, sequence: 0 },
      ]),
    ).toEqual([
      'ok@0',
      'ok@1',
      'oldProducerEpoch',
      'outOfOrderSequence',
      'ok@2',
      'oldProducerEpoch',
      'repeat@2',
    ]);
  });

  test('who is not known begins at 0, and producers do not disturb each other', () => {
    const log = openLog(newDisk());
    expect(send(log, { producer: 5, sequence: 3 })).toBe('unknownProducer');
    expect(send(log, { producer: 5, sequence: 0 })).toBe('ok@0');
    expect(send(log, { producer: 6, sequence: 0 })).toBe('ok@1');
    expect(send(log, { producer: 5, sequence: 1 })).toBe('ok@2');
  });

  const EXPIRING = { config: config({ producerIdExpirationMs: 1000 }) };

  test('who appends nothing for the expiration is forgotten; a repeat is no append', () => {
    let nowMs = 0;
    const log = openLog(newDisk(), EXPIRING, { clock: { monotonicMs: () => nowMs } });
    send(log, { producer: 1, sequence: 0 });
    nowMs = 600;
    send(log, { producer: 2, sequence: 0 });
    nowMs = 1000;
    expect(send(log, { producer: 1, sequence: 0 })).toBe('repeat@0');
    nowMs = 1001;
    expect(send(log, { producer: 1, sequence: 1 })).toBe('unknownProducer');
    expect(send(log, { producer: 2, sequence: 1 })).toBe('ok@2');
  });

  test('a backfill is deduplicated, however old its records are beside those of others', () => {
    const log = openLog(newDisk(), EXPIRING, { clock: { monotonicMs: () => 0 } });
    const old = { producer: 1, sequence: 0, timestampMs: NOW_MS - 3 * 86_400_000 };
    expect(send(log, old)).toBe('ok@0');
    expect(send(log, { producer: 2, sequence: 0, timestampMs: NOW_MS })).toBe('ok@1');
    expect(send(log, old)).toBe('repeat@0');
    expect(send(log, { producer: 1, sequence: 1, timestampMs: 0 })).toBe('ok@2');
  });

  test('a replica counts from when it learnt of a batch: when copied, after a crash, from a snapshot', async () => {
    let nowMs = 0;
    const deps = { clock: { monotonicMs: () => nowMs } };
    const disk = newDisk();
    const log = openLog(disk, EXPIRING, deps);
    const first = { producer: 1, sequence: 0 };
    send(log, first);
    nowMs = 900;
    const copy = openLog(newDisk(), EXPIRING, deps);
    for (const bytes of await readAll(log)) copy.appendAsFollower(bytes, NOW_MS);
    await log.sync();
    const recovered = openLog(disk, EXPIRING, deps);
    nowMs = 1900;
    expect([send(copy, first), send(recovered, first)]).toEqual(['repeat@0', 'repeat@0']);
    await recovered.close();
    nowMs = 2500;
    const closed = openLog(disk, { ...EXPIRING, cleanShutdown: true }, deps);
    nowMs = 3500;
    expect([send(copy, first), send(closed, first)]).toEqual(['ok@1', 'repeat@0']);
  });

  test('who has expired takes up no room, though nothing is appended any more', () => {
    let nowMs = 0;
    const state = new ProducerState(1000, () => nowMs);
    for (let producer = 0; producer < 100; producer++) {
      state.note(readBatchHeader(batch({ producer, sequence: 0, baseOffset: producer })));
    }
    nowMs = 1001;
    expect([state.size, state.entries().length]).toEqual([100, 0]);
    state.sweep();
    expect(state.size).toBe(0);
  });

  test('a repeat is known after a clean restart, a crash, and a failover', async () => {
    const disk = newDisk();
    const log = openLog(disk);
    const specs = [0, 1, 2, 3, 4, 5].map((sequence) => ({ sequence }));
    sendAll(log, specs);
    const expected = [
      'duplicateSequence',
      'repeat@1',
      'repeat@2',
      'repeat@3',
      'repeat@4',
      'repeat@5',
    ];
    const follower = openLog(newDisk());
    for (const bytes of await readAll(log)) follower.appendAsFollower(bytes, NOW_MS);
    expect(sendAll(follower, specs)).toEqual(expected);
    expect(sendAll(openLog(disk), specs)).toEqual(expected);
    await log.close();
    expect(sendAll(openLog(disk, { cleanShutdown: true }), specs)).toEqual(expected);
  });
});

/** What one producer may do next, from where it stands. */
const action = fc.record({
  producer: fc.integer({ min: 1, max: 3 }),
  bump: fc.boolean(),
  records: fc.integer({ min: 1, max: 3 }),
  agoMs: fc.integer({ min: 0, max: 3000 }),
  truncate: fc.option(fc.double({ min: 0, max: 1, noNaN: true }), { freq: 12 }),
  restart: fc.option(fc.constantFrom('clean', 'crash'), { freq: 12 }),
});

describe('producer state', () => {
  test('is a function of the log: equal at equal offsets, whatever way it came about', async () => {
    await fc.assert(
      fc.asyncProperty(fc.array(action, { maxLength: 60, size: 'max' }), async (actions) => {
        const disk = newDisk();
        const settings = config({ segmentBytes: 900, producerIdExpirationMs: 2000 });
        let log = openLog(disk, { config: settings });
        const sequences = new Map<string, number>();
        let bumps = 0;
        for (const one of actions) {
          if (one.truncate !== null) {
            log.truncateTo(Math.floor(log.logEndOffset * one.truncate) as typeof log.logEndOffset);
            bumps++;
          }
          if (one.restart !== null) {
            const clean = one.restart === 'clean';
            if (clean) await log.close();
            else await log.sync();
            log = openLog(disk, { config: settings, cleanShutdown: clean });
          }
          if (one.bump) bumps++;
          const name = `${one.producer}/${bumps}`;
          const sequence = sequences.get(name) ?? 0;
          const sent = send(log, {
            producer: one.producer,
            producerEpoch: bumps,
            sequence,
            count: one.records,
            timestampMs: NOW_MS - one.agoMs,
          });
          if (sent.startsWith('ok')) sequences.set(name, sequence + one.records);
          else sequences.delete(name);
        }
        const copy = openLog(newDisk(), { config: settings });
        for (const bytes of await readAll(log)) copy.appendAsFollower(bytes, NOW_MS);
        expect(copy.producerSnapshot()).toEqual(log.producerSnapshot());
      }),
      { numRuns: 150 },
    );
  });
});
