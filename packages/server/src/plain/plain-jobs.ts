/** What one call wants written to one partition, cut to batches that the topic takes. */
import { RelevoError } from '@relevo/base/errors';
import { producerEpoch, producerId } from '@relevo/base/ids';
import type { Crc32c } from '@relevo/base/ports';
import { BatchBuilder, type HeaderInput } from '@relevo/record/batch-builder';
import { BATCH_OVERHEAD, TIMESTAMP_MAX_MS } from '@relevo/record/batch-header';
import type { PlainRecord, Receipt } from '@relevo/rpc/gen/client/produce';

/** Waiting jobs go into one batch up to about so many bytes. */
const BATCH_BYTES = 64 * 1024;
/**
 * What a record may take more than where it is the first of a batch: of the offset delta 2 bytes, of the
 * timestamp delta 9, of its length 1.
 */
const NOT_FIRST_BYTES = 12;
/** Measures records; nothing is ever written to it. */
const MEASURE = new BatchBuilder();

export interface JobRecord {
  /** Its place in the call. */
  readonly index: number;
  readonly key: Uint8Array | null;
  readonly value: Uint8Array | null;
  readonly headers: readonly HeaderInput[];
  readonly timestampMs: number;
  /** Room that it takes in a batch, at most. */
  readonly bytes: number;
}

/** Of all jobs of one call. */
export interface Call {
  readonly acks: number;
  readonly endMs: number;
}

/** Records of one call for one partition that go into one batch. */
export interface Job {
  readonly call: Call;
  readonly records: readonly JobRecord[];
  /** Of its records. */
  readonly bytes: number;
  /** `max.message.bytes` of the topic. */
  readonly batchBytesMax: number;
  /** Of the queue; `withdrawn`: was answered while it waited. */
  state: 'queued' | 'underWay' | 'withdrawn';
  readonly resolve: (receipts: readonly Receipt[]) => void;
  readonly reject: (error: unknown) => void;
}

/** A batch of one record that is larger is refused; `topic`: for the message. */
export interface BatchLimit {
  readonly topic: string;
  readonly maxBytes: number;
}

/** Throws a RelevoError where no batch can hold the record. */
export function jobRecord(
  record: PlainRecord | undefined,
  index: number,
  wallMs: number,
  limit: BatchLimit,
): JobRecord {
  if (record === undefined) throw new RangeError('a record is missing');
  const timestampMs = record.timestampMs ?? wallMs;
  if (!(timestampMs >= 0 && timestampMs <= TIMESTAMP_MAX_MS)) {
    const message = `timestamp_ms is ${timestampMs}: use ms since 1970, from 0 to ${TIMESTAMP_MAX_MS}`;
    throw new RelevoError('INVALID_TIMESTAMP', message);
  }
  const key = record.key ?? null;
  const value = record.value ?? null;
  const headers = record.headers.map((header): HeaderInput => [header.key, header.value ?? null]);
  const alone = MEASURE.sizeAfter(key, value, headers, timestampMs);
  if (alone > limit.maxBytes) {
    const message =
      `record ${index} of the call makes a batch of ${alone} bytes, ${limit.maxBytes} are the most ` +
      `that "${limit.topic}" takes (max.message.bytes): send less in one record, or raise the setting`;
    throw new RelevoError('MESSAGE_TOO_LARGE', message);
  }
  const bytes = alone - BATCH_OVERHEAD + NOT_FIRST_BYTES;
  return { index, key, value, headers, timestampMs, bytes };
}

/** The records in their order, in runs of which each fits into a batch of `maxBytes`. */
export function runsOf(
  records: readonly JobRecord[],
  maxBytes: number,
): { readonly records: readonly JobRecord[]; readonly bytes: number }[] {
  const runs: { records: JobRecord[]; bytes: number }[] = [];
  let run: { records: JobRecord[]; bytes: number } | undefined;
  for (const record of records) {
    if (run === undefined || BATCH_OVERHEAD + run.bytes + record.bytes > maxBytes) {
      run = { records: [], bytes: 0 };
      runs.push(run);
    }
    run.records.push(record);
    run.bytes += record.bytes;
  }
  return runs;
}

/** The first job, and those behind it that fit into the same batch. A large one goes alone. */
export function takeJobs(queue: Job[]): Job[] {
  const taken: Job[] = [];
  let bytes = BATCH_OVERHEAD;
  for (const job of queue) {
    const fits = bytes + job.bytes <= Math.min(BATCH_BYTES, job.batchBytesMax);
    if (taken.length > 0 && !(fits && job.call.acks === taken[0]?.call.acks)) break;
    bytes += job.bytes;
    taken.push(job);
  }
  queue.splice(0, taken.length);
  return taken;
}

export interface BatchProducer {
  readonly id: number;
  readonly epoch: number;
  readonly sequence: number;
}

export function buildBatch(
  jobs: readonly Pick<Job, 'records'>[],
  producer: BatchProducer,
  crc32c: Crc32c,
): Uint8Array {
  const builder = new BatchBuilder();
  for (const { records } of jobs) {
    for (const { key, value, headers, timestampMs } of records) {
      builder.append(key, value, headers, timestampMs);
    }
  }
  return builder.build(
    {
      producerId: producerId(producer.id),
      producerEpoch: producerEpoch(producer.epoch),
      baseSequence: producer.sequence,
    },
    crc32c,
  );
}
