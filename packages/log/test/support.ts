/** What the tests of this package share: batches, disks and logs on them. */
import { uuid } from '@relevo/base/ids';
import type { LeaderEpoch, Offset, ProducerEpoch, ProducerId } from '@relevo/base/ids';
import { utf8Encode } from '@relevo/base/bytes';
import type { Disk, LogFields, Logger } from '@relevo/base/ports';
import { DEFAULT_LOG_CONFIG } from '@relevo/log/log-config';
import type { LogConfig } from '@relevo/log/log-config';
import { LogError } from '@relevo/log/log-error';
import { PartitionLog } from '@relevo/log/partition-log';
import type { PartitionLogDeps, PartitionLogOptions } from '@relevo/log/log-types';
import { BatchBuilder, NO_HEADERS } from '@relevo/record/batch-builder';
import { nextOffsetAt, sizeInBytesAt } from '@relevo/record/batch-header';
import { crc32c } from '@relevo/record/crc32c';
import { decodeRecords } from '@relevo/record/records';
import { Prng } from '@relevo/simulation/prng';
import { SimulatedDisk } from '@relevo/simulation/simulated-disk';

export const TOPIC_ID = uuid('AAAAAAAAAAAAAAAAAAAAAA');
export const OTHER_TOPIC_ID = uuid('BBBBBBBBBBBBBBBBBBBBBB');
export const DIRECTORY = '/data/orders-0';
export const NOW_MS = 1_700_000_000_000;

export const at = (value: number): Offset => value as Offset;
export const epoch = (value: number): LeaderEpoch => value as LeaderEpoch;

export interface BatchSpec {
  readonly values?: readonly (string | Uint8Array | null)[];
  readonly count?: number;
  readonly valueBytes?: number;
  readonly timestampMs?: number;
  readonly timestamps?: readonly number[];
  readonly producer?: number;
  readonly producerEpoch?: number;
  readonly sequence?: number;
  readonly baseOffset?: number;
  readonly leaderEpoch?: number;
}

let salt = 0;

/** Bytes that are not zero and not twice the same. */
export function value(bytes: number): Uint8Array {
  salt++;
  return Uint8Array.from({ length: bytes }, (_, index) => 1 + ((salt * 31 + index * 7) % 255));
}

export function batch(spec: BatchSpec = {}): Uint8Array {
  const values =
    spec.values ?? Array.from({ length: spec.count ?? 1 }, () => value(spec.valueBytes ?? 20));
  const builder = new BatchBuilder();
  for (const [index, content] of values.entries()) {
    const time = spec.timestamps?.[index] ?? spec.timestampMs ?? NOW_MS;
    builder.append(null, content, NO_HEADERS, time);
  }
  return builder.build(
    {
      ...(spec.baseOffset === undefined ? {} : { baseOffset: at(spec.baseOffset) }),
      ...(spec.leaderEpoch === undefined ? {} : { leaderEpoch: epoch(spec.leaderEpoch) }),
      ...(spec.producer === undefined
        ? {}
        : {
            producerId: spec.producer as ProducerId,
            producerEpoch: (spec.producerEpoch ?? 0) as ProducerEpoch,
            baseSequence: spec.sequence ?? 0,
          }),
    },
    crc32c,
  );
}

export interface LogLine {
  readonly level: string;
  readonly event: string;
  readonly fields: LogFields;
}

export function recordingLogger(lines: LogLine[] = []): Logger & { readonly lines: LogLine[] } {
  const write =
    (level: string) =>
    (event: string, fields: LogFields = {}): void => {
      lines.push({ level, event, fields });
    };
  return {
    lines,
    debug: write('debug'),
    info: write('info'),
    warn: write('warn'),
    error: write('error'),
    child: () => recordingLogger(lines),
  };
}

export const newDisk = (seed: string | number = 1): SimulatedDisk => {
  const disk = new SimulatedDisk({ prng: new Prng(seed) });
  disk.port().makeDirectory('/data');
  disk.port().syncDirectoryNow('/');
  return disk;
};

export const config = (changes: Partial<LogConfig> = {}): LogConfig => ({
  ...DEFAULT_LOG_CONFIG,
  ...changes,
});

/** A log on a disk; what is not said is as after a crash, with nothing known to be synced. */
export function openLog(
  disk: SimulatedDisk | Disk,
  options: Partial<PartitionLogOptions> = {},
  deps: Partial<PartitionLogDeps> = {},
): PartitionLog {
  const port = disk instanceof SimulatedDisk ? disk.port() : disk;
  return PartitionLog.open(
    {
      directory: DIRECTORY,
      topicId: TOPIC_ID,
      config: config(),
      cleanShutdown: false,
      nowMs: NOW_MS,
      ...options,
    },
    { disk: port, crc32c, logger: recordingLogger(), ...deps },
  );
}

/** All batches of a log from `from` on, by reads of `maxBytes`. */
export async function readAll(
  log: PartitionLog,
  from: number = log.logStartOffset,
  maxBytes = 2 ** 20,
  upTo: Offset = log.logEndOffset,
): Promise<Uint8Array[]> {
  const batches: Uint8Array[] = [];
  let next = at(from);
  while (next < upTo) {
    const slice = await log.read(next, maxBytes, upTo, true);
    if (slice.length === 0) break;
    for (let place = 0; place < slice.length;) {
      const size = sizeInBytesAt(slice, place);
      batches.push(slice.subarray(place, place + size));
      next = nextOffsetAt(slice, place);
      place += size;
    }
  }
  return batches;
}

/** The values in a log, as text, by offset. */
export async function readValues(log: PartitionLog, from?: number): Promise<Map<number, string>> {
  const values = new Map<number, string>();
  for (const bytes of await readAll(log, from)) {
    for (const record of decodeRecords(bytes)) {
      values.set(record.offset, new TextDecoder().decode(record.value ?? utf8Encode('null')));
    }
  }
  return values;
}

/** Appends batches of one value each; returns their offsets. */
export const appendValues = (log: PartitionLog, values: readonly string[], leader = 0): number[] =>
  values.map((text) => {
    const result = log.appendAsLeader(batch({ values: [text] }), epoch(leader), NOW_MS);
    return result.baseOffset;
  });

/** Kind and message of the LogError that `run` throws. */
export const messageOf = (run: () => unknown): string => {
  try {
    run();
    return 'no error';
  } catch (error) {
    const { kind, message } = error as LogError;
    return `${kind}: ${message}`;
  }
};

/** The kind of the LogError that `run` throws; `no error` where it throws none. */
export const kindOf = (run: () => unknown): string => {
  try {
    run();
    return 'no error';
  } catch (error) {
    if (!(error instanceof LogError)) throw error;
    return error.kind;
  }
};
