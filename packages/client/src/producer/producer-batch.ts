/**
 * Records of one partition on their way together, from the first append to the settling of all of
 * them.
 *
 *   open --seal--> sealed --build--> built --settle--> settled
 *
 * `built` may be sent several times. The sequence number is given when the batch is built, just before
 * it is sent for the first time, so that what never left leaves no gap.
 */
import { assert } from '@relevo/base/assert';
import { BatchBuilder } from '@relevo/record/batch-builder';
import type { BatchOptions, FieldInput, HeaderInput } from '@relevo/record/batch-builder';
import { patchProducer, readBatchHeader, sequenceAfter } from '@relevo/record/batch-header';
import type { CompressionType } from '@relevo/record/compression';
import { decodeRecords } from '@relevo/record/records';
import type { Crc32c } from '@relevo/base/ports';
import type { ProduceResponse } from '@relevo/rpc/gen/client/produce';
import type { ClientError } from '../errors.ts';
import type { ProducerIdentity } from './identity.ts';
import type { Delivery, Receipt } from './producer-options.ts';

/** Where one `send` waits for its receipt. */
export interface SendHandle {
  resolve: (receipt: Receipt) => void;
  reject: (error: ClientError) => void;
  timestamp: number;
}

/** What a batch's settling is told to. */
export type DeliveryHandler = (delivery: Delivery) => void;

export class ProducerBatch {
  readonly topic: string;
  readonly partition: number;
  /** On the monotonic clock, ms. */
  readonly createdMs: number;
  readonly deadlineMs: number;
  /** Waited long enough: to be sent as soon as the way is free. */
  due = false;
  /** How often it was sent. */
  attempts = 0;
  /** It may be in the log: it was sent, and nobody said that it is not. */
  isInDoubt = false;
  /** That, before the last sending. */
  wasInDoubt = false;
  /** Came, and waits for the batches before. */
  answer: ProduceResponse | undefined;
  bytes: Uint8Array | undefined;
  #builder: BatchBuilder | undefined;
  #compressed: { type: CompressionType; records: Uint8Array } | undefined;
  #packing = false;
  /** By place in the batch; undefined for an enqueued record. Shorter when the rest is enqueued. */
  readonly #handles: (SendHandle | undefined)[] = [];
  #recordCount = 0;
  #sizeInBytes: number;
  #settled = false;
  readonly #settledListeners: (() => void)[] = [];

  constructor(place: BatchPlace, builder: BatchBuilder) {
    this.topic = place.topic;
    this.partition = place.partition;
    this.createdMs = place.createdMs;
    this.deadlineMs = place.deadlineMs;
    this.#builder = builder;
    this.#sizeInBytes = builder.sizeInBytes;
  }

  get recordCount(): number {
    return this.#recordCount;
  }

  /** Uncompressed, header included: what it is accounted for with. */
  get sizeInBytes(): number {
    return this.#sizeInBytes;
  }

  get isSettled(): boolean {
    return this.#settled;
  }

  /** Ready to be built: nothing is being compressed. */
  get isPacked(): boolean {
    return !this.#packing;
  }

  /** False when there is no room; the handle of an enqueued record is undefined. */
  tryAppend(
    key: FieldInput,
    value: FieldInput,
    headers: readonly HeaderInput[],
    timestampMs: number,
    handle: SendHandle | undefined,
    maxBytes: number,
  ): boolean {
    const builder = this.#builder;
    assert(builder !== undefined, 'only an open batch takes records');
    if (!builder.tryAppend(key, value, headers, timestampMs, maxBytes)) return false;
    if (handle !== undefined) {
      while (this.#handles.length < this.#recordCount) this.#handles.push(undefined);
      this.#handles.push(handle);
    }
    this.#recordCount++;
    this.#sizeInBytes = builder.sizeInBytes;
    return true;
  }

  /** Compresses the records. When that fails they go as they are. */
  async pack(
    type: CompressionType,
    compress: (type: CompressionType, bytes: Uint8Array) => Promise<Uint8Array>,
  ): Promise<void> {
    const builder = this.#builder;
    assert(builder !== undefined, 'a batch is packed before it is built');
    this.#packing = true;
    try {
      const records = await compress(type, builder.records());
      if (records.length < builder.sizeInBytes) this.#compressed = { type, records };
    } finally {
      this.#packing = false;
    }
  }

  /** Completes the bytes. */
  build(identity: ProducerIdentity | undefined, baseSequence: number, crc32c: Crc32c): void {
    const builder = this.#builder;
    assert(builder !== undefined && !this.#packing, 'a batch is built once, when it is packed');
    const compressed = this.#compressed;
    const options: BatchOptions = {
      ...(identity === undefined
        ? {}
        : { producerId: identity.producerId, producerEpoch: identity.producerEpoch, baseSequence }),
      ...(compressed === undefined ? {} : { compressed }),
    };
    this.bytes = builder.build(options, crc32c);
    this.#builder = undefined;
    this.#compressed = undefined;
  }

  /** Gives a built batch another producer epoch; in new memory, for the old may be on its way. */
  rewrite(identity: ProducerIdentity, baseSequence: number, crc32c: Crc32c): void {
    assert(this.bytes !== undefined, 'only a built batch is rewritten');
    const bytes = this.bytes.slice();
    const { producerId, producerEpoch } = identity;
    patchProducer(bytes, 0, { producerId, producerEpoch, baseSequence }, crc32c);
    this.bytes = bytes;
  }

  /**
   * Two batches with the halves of the records and the same sequence numbers, in place of this one, that
   * the broker found too large. Undefined where there is nothing to divide.
   */
  split(crc32c: Crc32c): [ProducerBatch, ProducerBatch] | undefined {
    const { bytes } = this;
    assert(bytes !== undefined, 'only a built batch is split');
    const header = readBatchHeader(bytes);
    if (this.#recordCount < 2 || header.compression !== 'none') return undefined;
    const { producerId, producerEpoch, baseSequence } = header;
    const identity = producerId < 0 ? undefined : { producerId, producerEpoch };
    const records = decodeRecords(bytes, 0, header);
    const middle = Math.ceil(records.length / 2);
    const half = (from: number, to: number): ProducerBatch => {
      const batch = new ProducerBatch(this, new BatchBuilder(bytes.length));
      for (const [index, { key, value, headers, timestamp }] of records.slice(from, to).entries()) {
        const handle = this.#handles[from + index];
        batch.tryAppend(key, value, headers, timestamp, handle, Infinity);
      }
      batch.build(identity, sequenceAfter(Math.max(0, baseSequence), from), crc32c);
      return batch;
    };
    const halves: [ProducerBatch, ProducerBatch] = [half(0, middle), half(middle, records.length)];
    // Together they stand for this one, in the accounts too.
    halves[0].#sizeInBytes = this.#sizeInBytes - halves[1].#sizeInBytes;
    let left = halves.length;
    for (const batch of halves) {
      batch.onSettled(() => {
        if (--left === 0) this.#tellSettled();
      });
    }
    return halves;
  }

  onSent(): void {
    this.attempts++;
    this.answer = undefined;
    this.wasInDoubt = this.isInDoubt;
    this.isInDoubt = true;
  }

  /** The last sending wrote nothing. */
  onNotWritten(): void {
    this.isInDoubt = this.wasInDoubt;
  }

  onSettled(listener: () => void): void {
    if (this.#settled) listener();
    else this.#settledListeners.push(listener);
  }

  succeed(answer: ProduceResponse, deliver: DeliveryHandler): void {
    this.#settle();
    const { topic, partition } = this;
    const { baseOffset, leaderEpoch, logAppendTimeMs, syncedOn } = answer;
    for (let index = 0; index < this.#handles.length; index++) {
      const handle = this.#handles[index];
      if (handle === undefined) continue;
      handle.resolve({
        topic,
        partition,
        offset: baseOffset < 0 ? -1 : baseOffset + index,
        leaderEpoch,
        timestamp: logAppendTimeMs >= 0 ? logAppendTimeMs : handle.timestamp,
        syncedOn,
      });
    }
    if (this.#enqueuedCount() > 0) {
      const recordCount = this.#recordCount;
      deliver({
        topic,
        partition,
        recordCount,
        baseOffset,
        leaderEpoch,
        syncedOn,
        error: undefined,
      });
    }
    this.#tellSettled();
  }

  fail(error: ClientError, deliver: DeliveryHandler): void {
    this.#settle();
    this.#builder = undefined;
    this.#compressed = undefined;
    for (const handle of this.#handles) handle?.reject(error);
    if (this.#enqueuedCount() > 0) {
      const { topic, partition } = this;
      deliver({ topic, partition, recordCount: this.#recordCount, error });
    }
    this.#tellSettled();
  }

  #settle(): void {
    assert(!this.#settled, 'a batch settles once', {
      topic: this.topic,
      partition: this.partition,
    });
    this.#settled = true;
    this.bytes = undefined;
  }

  #tellSettled(): void {
    for (const listener of this.#settledListeners) listener();
  }

  #enqueuedCount(): number {
    let sent = 0;
    for (const handle of this.#handles) if (handle !== undefined) sent++;
    return this.#recordCount - sent;
  }
}

export interface BatchPlace {
  readonly topic: string;
  readonly partition: number;
  /** On the monotonic clock, ms. */
  readonly createdMs: number;
  readonly deadlineMs: number;
}
