/**
 * How fast 64 KiB batches of 1 KiB records are checked, appended and read, and what a log costs that
 * does nothing; beside it, what the bare write of the same bytes takes. On a file system in memory:
 *
 *     node --expose-gc --import tsx --conditions=@relevo/source packages/log/test/append-speed.ts /dev/shm
 */
import process from 'node:process';
import { uuid } from '@relevo/base/ids';
import type { LeaderEpoch, Offset } from '@relevo/base/ids';
import type { Logger } from '@relevo/base/ports';
import { DEFAULT_LOG_CONFIG } from '@relevo/log/log-config';
import { PartitionLog } from '@relevo/log/partition-log';
import { BatchBuilder, NO_HEADERS } from '@relevo/record/batch-builder';
import { validateBatch } from '@relevo/record/validate';
import { crc32c } from '@relevo/runtime/crc32c';
import { NodeDisk } from '@relevo/runtime/disk';

const RECORDS = 64;
const VALUE_BYTES = 1000;
const BATCHES = 1000;
const LOGS = 2000;
const NOW_MS = 1_700_000_000_000;
const LIMITS = { maxBytes: 2 ** 20, records: 'whole' } as const;
const SILENT: Logger = {
  debug: () => undefined,
  info: () => undefined,
  warn: () => undefined,
  error: () => undefined,
  child: () => SILENT,
};

const disk = new NodeDisk();
const root = `${process.argv[2] ?? '/dev/shm'}/relevo-append-speed`;
disk.removeTree(root);
disk.makeDirectory(root);

const open = (name: string): PartitionLog =>
  PartitionLog.open(
    {
      directory: `${root}/${name}-0`,
      topicId: uuid('AAAAAAAAAAAAAAAAAAAAAA'),
      config: DEFAULT_LOG_CONFIG,
      cleanShutdown: false,
      nowMs: NOW_MS,
    },
    { disk, crc32c, logger: SILENT },
  );

function makeBatch(salt: number): Uint8Array {
  const builder = new BatchBuilder(RECORDS * (VALUE_BYTES + 20));
  const value = Uint8Array.from({ length: VALUE_BYTES }, (_, at) => (at * 7 + salt) % 251);
  for (let index = 0; index < RECORDS; index++) builder.append(null, value, NO_HEADERS, NOW_MS);
  return builder.build({}, crc32c);
}

/** Per second of CPU and of the clock: a busy machine spoils the second. */
function measure(what: string, bytes: number, run: () => void): void {
  const clock = process.hrtime.bigint();
  const before = process.cpuUsage();
  run();
  const { user, system } = process.cpuUsage(before);
  const seconds = Number(process.hrtime.bigint() - clock) / 1e9;
  const perCpu = (bytes / ((user + system) / 1e6) / 1e9).toFixed(2);
  console.log(
    `${what.padEnd(28)} ${perCpu} GB/s of CPU, ${(bytes / seconds / 1e9).toFixed(2)} GB/s`,
  );
}

function each(what: string, count: number, run: (index: number) => void): void {
  const clock = process.hrtime.bigint();
  for (let index = 0; index < count; index++) run(index);
  const us = Number(process.hrtime.bigint() - clock) / 1e3 / count;
  console.log(`${what.padEnd(28)} ${us.toFixed(0)} µs`);
}

const batches = Array.from({ length: 16 }, (_, salt) => makeBatch(salt));
const bytes = BATCHES * (batches[0]?.length ?? 0);
const forEach = (run: (batch: Uint8Array, index: number) => void): void => {
  for (let index = 0; index < BATCHES; index++)
    run(batches[index % 16] ?? new Uint8Array(0), index);
};
const check = (batch: Uint8Array): void => {
  validateBatch(batch, 0, batch.length, crc32c, LIMITS);
};

const log = open('speed');
const append = (batch: Uint8Array): void => {
  log.appendAsLeader(batch, 0 as LeaderEpoch, NOW_MS);
};
for (let round = 0; round < 3; round++) {
  const file = disk.open(`${root}/bare-${round}`, 'create');
  measure('bare write', bytes, () => {
    forEach((batch, index) => file.write(batch, index * batch.length));
  });
  file.close();
  disk.remove(file.path);
  measure('check', bytes, () => forEach(check));
  measure('append', bytes, () => forEach(append));
  measure('check and append', bytes, () => {
    forEach((batch) => {
      check(batch);
      append(batch);
    });
  });
}
const end = log.logEndOffset;
measure('read of 1 MiB, in memory', 100 * 2 ** 20, () => {
  for (let index = 0; index < 100; index++) {
    void log.read((end - RECORDS * 500 + index * RECORDS) as Offset, 2 ** 20, end, true);
  }
});

const kept: PartitionLog[] = [];
globalThis.gc?.();
const heapBefore = process.memoryUsage().heapUsed;
each('a new log', LOGS, (index) => kept.push(open(`idle-${index}`)));
globalThis.gc?.();
const heap = (process.memoryUsage().heapUsed - heapBefore) / kept.length;
console.log(`${'heap of an idle log'.padEnd(28)} ${heap.toFixed(0)} bytes`);
each('an empty log after a crash', LOGS, (index) => open(`idle-${index}`));
disk.removeTree(root);
