/**
 * Random histories of a log on the simulated disk, with power cuts: whatever was synced is there
 * afterwards, nothing is there that was not appended, and what follows from the log follows from it.
 */
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { bytesEqual } from '@relevo/base/bytes';
import type { Offset } from '@relevo/base/ids';
import { DEFAULT_LOG_CONFIG } from '@relevo/log/log-config';
import { encodeSnapshot } from '@relevo/log/producer-snapshot';
import { ProducerState } from '@relevo/log/producer-state';
import { nextOffsetAt, readBatchHeader } from '@relevo/record/batch-header';
import { crc32c } from '@relevo/record/crc32c';
import type { PartitionLog } from '@relevo/log/partition-log';
import type { EventOwner } from '@relevo/simulation/scheduler';
import type { SimulatedDisk } from '@relevo/simulation/simulated-disk';
import {
  NOW_MS,
  at,
  batch,
  config,
  epoch,
  newDisk,
  openLog,
  readAll,
  recordingLogger,
} from './support.ts';

type Step =
  | { readonly do: 'append'; readonly records: number; readonly valueBytes: number }
  | { readonly do: 'newEpoch' }
  | { readonly do: 'sync' }
  | { readonly do: 'startSync' }
  | { readonly do: 'hang' }
  | { readonly do: 'checkpoint' }
  | { readonly do: 'truncate' | 'truncateBelow'; readonly share: number }
  | { readonly do: 'restartAt'; readonly ahead: number }
  | { readonly do: 'retain'; readonly share: number }
  | { readonly do: 'reopen' }
  | { readonly do: 'kill' }
  | { readonly do: 'powerCut' };

const step: fc.Arbitrary<Step> = fc.oneof(
  {
    weight: 120,
    arbitrary: fc.record({
      do: fc.constant('append' as const),
      records: fc.integer({ min: 1, max: 4 }),
      valueBytes: fc.integer({ min: 1, max: 900 }),
    }),
  },
  { weight: 10, arbitrary: fc.constant({ do: 'newEpoch' as const }) },
  { weight: 30, arbitrary: fc.constant({ do: 'sync' as const }) },
  { weight: 10, arbitrary: fc.constant({ do: 'startSync' as const }) },
  { weight: 10, arbitrary: fc.constant({ do: 'hang' as const }) },
  { weight: 10, arbitrary: fc.constant({ do: 'checkpoint' as const }) },
  {
    weight: 10,
    arbitrary: fc.record({
      do: fc.constantFrom('truncate', 'truncate', 'truncate', 'truncateBelow'),
      share: fc.double({ min: 0, max: 1, noNaN: true }),
    }),
  },
  {
    weight: 2,
    arbitrary: fc.record({
      do: fc.constant('restartAt' as const),
      ahead: fc.integer({ min: 0, max: 20 }),
    }),
  },
  {
    weight: 5,
    arbitrary: fc.record({
      do: fc.constant('retain' as const),
      share: fc.double({ min: 0, max: 1, noNaN: true }),
    }),
  },
  { weight: 5, arbitrary: fc.constant({ do: 'reopen' as const }) },
  { weight: 5, arbitrary: fc.constant({ do: 'kill' as const }) },
  { weight: 20, arbitrary: fc.constant({ do: 'powerCut' as const }) },
);

interface Kept {
  readonly base: number;
  readonly next: number;
  readonly bytes: Uint8Array;
}

/** What was appended where, and what of it must still be there. */
class History {
  readonly disk: SimulatedDisk;
  process: EventOwner = { name: 'none', host: 'none', alive: false, paused: false, held: [] };
  log: PartitionLog;
  batches: Kept[] = [];
  /** As the log was before truncations that a power cut may still undo. */
  before: Kept[][] = [];
  synced = 0;
  highWatermark = 0;
  /** What a truncation below the high watermark leaves untold of producers is not missed. */
  knowsProducers = true;
  recoveryPoint = 0;
  epoch = 0;
  logger = recordingLogger();
  sequence = 0;
  hung = false;

  constructor(seed: number) {
    this.disk = newDisk(seed);
    this.log = this.open(false);
  }

  /** By a process of its own: what comes back to the one before finds it dead. */
  open(cleanShutdown: boolean): PartitionLog {
    this.process.alive = false;
    this.process = { name: 'broker', host: 'broker', alive: true, paused: false, held: [] };
    this.logger = recordingLogger();
    return openLog(
      this.disk.port(this.process),
      {
        cleanShutdown,
        recoveryPoint: at(this.recoveryPoint),
        config: config({ segmentBytes: 4000, indexIntervalBytes: 300, retentionMs: -1 }),
      },
      { logger: this.logger },
    );
  }

  async run(steps: readonly Step[]): Promise<void> {
    for (const one of steps) {
      await this.take(one);
      if (!/append|sync|newEpoch|hang/i.test(one.do)) await this.check();
    }
    await this.check();
  }

  async take(one: Step): Promise<void> {
    const { log } = this;
    if (/sync|checkpoint|reopen|kill/.test(one.do)) this.unhang();
    switch (one.do) {
      case 'append': {
        const bytes = batch({
          count: one.records,
          valueBytes: one.valueBytes,
          producer: 7,
          producerEpoch: this.epoch,
          sequence: this.sequence,
          timestampMs: NOW_MS + this.batches.length,
        });
        const result = log.appendAsLeader(bytes, epoch(this.epoch), NOW_MS);
        expect(result.kind).toBe('appended');
        this.sequence += one.records;
        this.batches.push({ base: result.baseOffset, next: result.nextOffset, bytes });
        return;
      }
      case 'newEpoch':
        this.epoch++;
        this.sequence = 0;
        log.beginEpoch(epoch(this.epoch));
        return;
      case 'sync':
        // With nothing to wait for, it does not wait for a truncation either.
        if (log.syncedEndOffset < log.logEndOffset) this.before = [];
        await log.sync();
        this.synced = log.syncedEndOffset;
        return;
      case 'startSync':
        log.sync().catch(() => undefined);
        return;
      case 'hang':
        // Syncs that are asked for from now on are under way until somebody waits for one.
        this.disk.hang();
        this.hung = true;
        return;
      case 'checkpoint':
        await log.advanceRecoveryPoint(log.logEndOffset);
        this.synced = Math.max(this.synced, log.syncedEndOffset);
        this.highWatermark = log.logEndOffset;
        this.recoveryPoint = log.recoveryPoint;
        log.checkpoint().written();
        return;
      case 'truncate':
      case 'truncateBelow':
        return this.truncate(one.share, one.do === 'truncateBelow');
      case 'restartAt': {
        const start = at(log.logEndOffset + one.ahead);
        log.truncateFullyAndStartAt(start);
        this.batches = [];
        this.before = [];
        this.synced = start;
        this.highWatermark = start;
        this.knowsProducers = true;
        return this.beginProducer();
      }
      case 'retain': {
        const start = at(Math.floor(this.highWatermark * one.share));
        log.deleteRecordsBefore(start);
        log.applyRetention(NOW_MS, at(this.highWatermark));
        return;
      }
      case 'reopen':
        expect(await log.close()).toBe(true);
        this.recoveryPoint = log.recoveryPoint;
        this.synced = log.logEndOffset;
        return await this.reopened(true);
      case 'kill':
        return await this.reopened(false);
      case 'powerCut':
        this.process.alive = false;
        this.disk.crash();
        // What comes back now comes to a dead process.
        this.unhang();
        await new Promise(setImmediate);
        return await this.reopened(false);
    }
  }

  unhang(): void {
    this.hung = false;
    this.disk.unhang();
  }

  /** To the high watermark or above; or, as after an unclean election, `below` it. */
  truncate(share: number, below: boolean): void {
    const { log } = this;
    const from = below ? log.logStartOffset : Math.max(log.logStartOffset, this.highWatermark);
    if (below) this.knowsProducers = false;
    const offset = at(from + Math.floor((log.logEndOffset - from) * share));
    const end = log.truncateTo(offset);
    this.before.push(this.batches);
    this.batches = this.batches.filter(({ next }) => next <= end);
    this.synced = Math.min(this.synced, end);
    this.highWatermark = Math.min(this.highWatermark, end);
    this.beginProducer();
  }

  async reopened(clean: boolean): Promise<void> {
    const before = this.log.logEndOffset;
    const start = this.log.logStartOffset;
    this.log = this.open(clean);
    const end = this.log.logEndOffset;
    expect(end).toBeGreaterThanOrEqual(this.synced);
    expect(this.log.syncedEndOffset).toBe(end);
    const found = await readAll(this.log);
    this.batches = [this.batches, ...this.before].find((one) => beginsWith(one, found)) ?? [];
    this.before = [];
    if (clean) expect(end).toBe(before);
    if (clean) expect(this.logger.lines.filter(({ level }) => level === 'warn')).toEqual([]);
    this.batches = this.batches.filter(({ next }) => next <= end);
    if (this.log.logStartOffset < start) this.log.deleteRecordsBefore(at(Math.min(start, end)));
    this.synced = Math.max(this.synced, this.log.syncedEndOffset);
    this.beginProducer();
  }

  /** The producer's next sequence is not ours to know: another epoch begins at 0. */
  beginProducer(): void {
    this.epoch++;
    this.sequence = 0;
  }

  async check(): Promise<void> {
    const { log } = this;
    if (this.hung) return;
    const expected = this.batches.filter(({ next }) => next > log.logStartOffset);
    expect(log.logEndOffset).toBe(expected.at(-1)?.next ?? log.logEndOffset);
    const found = await readAll(log, log.logStartOffset, 1500);
    expect(found.length).toBe(expected.length);
    for (const [index, bytes] of found.entries()) {
      const wanted = expected[index];
      expect(nextOffsetAt(bytes)).toBe(wanted?.next);
      expect(bytesEqual(bytes, wanted?.bytes ?? new Uint8Array(0))).toBe(true);
    }
    this.checkEpochs(log.logStartOffset);
    this.checkProducers();
  }

  /** Also of batches that retention has taken since. */
  checkProducers(): void {
    if (!this.knowsProducers) return;
    const state = new ProducerState(DEFAULT_LOG_CONFIG.producerIdExpirationMs, () => 0);
    for (const { bytes } of this.batches) state.note(readBatchHeader(bytes));
    expect(this.log.producerSnapshot()).toEqual(encodeSnapshot(state, crc32c));
  }

  checkEpochs(start: Offset): void {
    for (const { epoch: number, startOffset } of this.log.epochEntries) {
      const first = this.batches.find(({ base }) => base >= startOffset);
      if (first === undefined || startOffset <= start) continue;
      expect(first.base).toBe(startOffset);
      expect(new DataView(first.bytes.buffer, first.bytes.byteOffset).getInt32(12)).toBe(number);
    }
  }
}

/** Whether `found`, which may lack the first ones, is how `batches` begin. */
function beginsWith(batches: readonly Kept[], found: readonly Uint8Array[]): boolean {
  const [first] = found;
  if (first === undefined) return true;
  const from = batches.findIndex(({ next }) => next === nextOffsetAt(first));
  return (
    from !== -1 &&
    found.every((bytes, at) => bytesEqual(bytes, batches[from + at]?.bytes ?? new Uint8Array(0)))
  );
}

describe('power cuts', () => {
  test('the segment that a checkpoint found alone tells its epochs, also where the next begins there', async () => {
    for (let seed = 0; seed < 20; seed++) {
      await new History(seed).run([
        { do: 'append', records: 1, valueBytes: 900 },
        { do: 'reopen' },
        { do: 'append', records: 3, valueBytes: 900 },
        { do: 'checkpoint' },
        { do: 'append', records: 3, valueBytes: 900 },
        { do: 'sync' },
        { do: 'powerCut' },
      ]);
    }
  });

  test('what was synced survives, byte for byte, and nothing else appears', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.integer({ min: 0, max: 2 ** 30 }),
        fc.array(step, { maxLength: 80, size: 'max' }),
        async (seed, steps) => {
          await new History(seed).run(steps);
        },
      ),
      { numRuns: Number(process.env['CRASH_RUNS'] ?? 150) },
    );
  }, 600_000);
});
