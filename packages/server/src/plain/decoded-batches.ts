/** What a leader answered, decoded once for all the consumers that asked for it. */
import type { Crc32c } from '@relevo/base/ports';
import { BatchError } from '@relevo/record/batch-error';
import { readBatchHeader } from '@relevo/record/batch-header';
import { UNPACKED_BYTES_MAX } from '@relevo/record/compression';
import type { CompressionCodecs } from '@relevo/record/compression';
import { unpackRecords } from '@relevo/record/records';
import { batchesOf, verifyCrc } from '@relevo/record/validate';
import type { ConsumedRecord, FetchedPartition } from '@relevo/rpc/gen/client/fetch';
import { recordHeader } from '@relevo/rpc/gen/client/produce';

export interface DecodedBatch {
  readonly nextOffset: number;
  readonly leaderEpoch: number;
  /** All records of the batch; empty for a control batch. */
  readonly records: readonly ConsumedRecord[];
}

export interface DecodedBatches {
  readonly batches: readonly DecodedBatch[];
  /** Why the batch after those cannot be read; undefined: there is none. */
  readonly damage: BatchError | undefined;
  /** The offset after the damaged batch, where its header can be read. */
  readonly afterDamage: number | undefined;
}

export interface BatchDecoderDeps {
  readonly codecs: Pick<CompressionCodecs, 'decompress'>;
  readonly crc32c: Crc32c;
}

export class BatchDecoder {
  readonly #deps: BatchDecoderDeps;
  /** Lives as long as an answer is held by a consumer that it was given to. */
  readonly #decoded = new WeakMap<FetchedPartition, Promise<DecodedBatches>>();

  constructor(deps: BatchDecoderDeps) {
    this.#deps = deps;
  }

  /** Callers must not change what they get: others get the same. */
  decode(fetched: FetchedPartition): Promise<DecodedBatches> {
    const known = this.#decoded.get(fetched);
    if (known !== undefined) return known;
    const decoded = this.#decode(fetched);
    this.#decoded.set(fetched, decoded);
    return decoded;
  }

  async #decode({ partition, batches: bytes }: FetchedPartition): Promise<DecodedBatches> {
    const batches: DecodedBatch[] = [];
    let after: number | undefined;
    try {
      for (const { at, complete } of batchesOf(bytes)) {
        if (!complete) break;
        const header = readBatchHeader(bytes, at);
        // Nobody behind this can check it: records go out without their batch.
        if (!verifyCrc(bytes, at, header.sizeInBytes, this.#deps.crc32c)) {
          throw new BatchError('BAD_CRC', 'its CRC does not match');
        }
        after = header.nextOffset;
        const leaderEpoch = header.partitionLeaderEpoch;
        const records = header.isControl
          ? []
          : await this.#records(bytes, at, { partition, leaderEpoch });
        batches.push({ nextOffset: header.nextOffset, leaderEpoch, records });
        after = undefined;
      }
      return { batches, damage: undefined, afterDamage: undefined };
    } catch (error) {
      if (!(error instanceof BatchError)) throw error;
      return { batches, damage: error, afterDamage: after };
    }
  }

  async #records(
    bytes: Uint8Array,
    at: number,
    from: { readonly partition: number; readonly leaderEpoch: number },
  ): Promise<ConsumedRecord[]> {
    const records = await unpackRecords(bytes, at, this.#deps.codecs, UNPACKED_BYTES_MAX);
    return records.map(({ offset, timestamp, key, value, headers }) => ({
      ...from,
      offset,
      timestampMs: timestamp,
      key: key ?? undefined,
      value: value ?? undefined,
      headers: headers.map(([name, of]) => recordHeader({ key: name, value: of ?? undefined })),
    }));
  }
}
