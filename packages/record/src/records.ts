/**
 * Reads the records of a batch lazily: a record is a place in the bytes, and key, value and headers
 * are views made when they are asked for.
 */
import { ByteReader, BytesError, utf8Decode } from '@relevo/base/bytes';
import type { Offset } from '@relevo/base/ids';
import { BatchError } from './batch-error.ts';
import { BATCH_OVERHEAD, readBatchHeader } from './batch-header.ts';
import type { BatchHeader } from './batch-header.ts';
import type { CompressionCodecs } from './compression.ts';

export type RecordHeaderView = readonly [name: string, value: Uint8Array | null];

const NO_HEADERS: readonly RecordHeaderView[] = [];

/** One record. Its views share the memory of the batch: copy what is to outlive it. */
export interface RecordView {
  readonly offset: Offset;
  /** Ms since 1970 UTC; -1: none. */
  readonly timestamp: number;
  readonly key: Uint8Array | null;
  readonly value: Uint8Array | null;
  readonly headers: readonly RecordHeaderView[];
}

/**
 * Walks over the records of a batch. It is the record that it stands on: nothing is made for a record
 * but the views that are asked for, which stay valid when it goes on.
 */
export class RecordCursor implements RecordView {
  readonly #reader: ByteReader;
  readonly #bytes: Uint8Array;
  readonly #header: BatchHeader;
  #read = 0;
  #offset: number;
  #timestamp = -1;
  #keyAt = 0;
  #keyLength = -1;
  #valueAt = 0;
  #valueLength = -1;
  #headersAt = 0;
  #end = 0;

  /**
   * The records of the uncompressed batch at `at`, or of `unpacked`, its decompressed records section;
   * `next` moves to the first. Throws a BatchError.
   */
  constructor(
    bytes: Uint8Array,
    at = 0,
    header: BatchHeader = readBatchHeader(bytes, at),
    unpacked?: Uint8Array,
  ) {
    if (header.compression !== 'none' && unpacked === undefined) {
      const message = `${header.compression} records must be unpacked`;
      throw new BatchError('BAD_COMPRESSED_DATA', message);
    }
    const end = at + header.sizeInBytes;
    if (end > bytes.length) {
      throw new BatchError('TRUNCATED', `${end - bytes.length} bytes missing`);
    }
    this.#reader =
      unpacked === undefined
        ? new ByteReader(bytes, at + BATCH_OVERHEAD, end)
        : new ByteReader(unpacked);
    this.#bytes = this.#reader.bytes;
    this.#header = header;
    this.#offset = header.baseOffset;
  }

  /**
   * Moves to the next record; false when there is none. Throws a BatchError where the bytes are not
   * records; the CRC is not checked.
   */
  next(): boolean {
    if (this.#read === this.#header.recordCount) {
      const { remaining } = this.#reader;
      if (remaining === 0) return false;
      throw new BatchError('BAD_COUNT', `${remaining} bytes follow the last record`);
    }
    this.#told(this.#readOne);
    this.#read++;
    return true;
  }

  /** What the bytes lack, as a BatchError. */
  #told<Result>(read: () => Result): Result {
    try {
      return read();
    } catch (error) {
      if (!(error instanceof BytesError)) throw error;
      const message = `record ${this.#read}: ${error.message}`;
      throw new BatchError('BAD_LENGTH', message, { cause: error });
    }
  }

  get offset(): Offset {
    // Within the batch's offsets, which its header was checked for.
    return this.#offset as Offset;
  }

  get timestamp(): number {
    return this.#timestamp;
  }

  get key(): Uint8Array | null {
    if (this.#keyLength < 0) return null;
    return this.#bytes.subarray(this.#keyAt, this.#keyAt + this.#keyLength);
  }

  get value(): Uint8Array | null {
    if (this.#valueLength < 0) return null;
    return this.#bytes.subarray(this.#valueAt, this.#valueAt + this.#valueLength);
  }

  get headers(): readonly RecordHeaderView[] {
    // The count comes first, and most records have none.
    if (this.#bytes[this.#headersAt] === 0) return NO_HEADERS;
    return this.#told(() => this.#readHeaders());
  }

  #readHeaders(): RecordHeaderView[] {
    const reader = new ByteReader(this.#bytes, this.#headersAt, this.#end);
    const count = reader.varint();
    const headers: RecordHeaderView[] = [];
    for (let index = 0; index < count; index++) {
      const name = utf8Decode(reader.view(reader.varint()));
      const valueLength = reader.varint();
      headers.push([name, valueLength < 0 ? null : reader.view(valueLength)]);
    }
    return headers;
  }

  readonly #readOne = (): void => {
    const reader = this.#reader;
    const header = this.#header;
    const length = reader.varint();
    const end = reader.position + length;
    if (length < 1 || end > reader.end) {
      throw new BytesError(`its length ${length} reaches past the end`);
    }
    reader.skip(1);
    const timestampDelta = reader.varlong();
    const offsetDelta = reader.varint();
    if (offsetDelta < 0 || offsetDelta > header.lastOffsetDelta) {
      throw new BatchError('BAD_OFFSET', `offset delta ${offsetDelta}`);
    }
    this.#keyLength = reader.varint();
    this.#keyAt = reader.position;
    if (this.#keyLength > 0) reader.skip(this.#keyLength);
    this.#valueLength = reader.varint();
    this.#valueAt = reader.position;
    if (this.#valueLength > 0) reader.skip(this.#valueLength);
    this.#headersAt = reader.position;
    if (this.#headersAt >= end) throw new BytesError('a field reaches past its end');
    this.#end = end;
    reader.position = end;
    this.#offset = header.baseOffset + offsetDelta;
    this.#timestamp =
      header.timestampType === 'logAppendTime'
        ? header.maxTimestamp
        : header.baseTimestamp + timestampDelta;
  };
}

/** The bytes after the header, compressed or not: a view. */
export const recordsSection = (bytes: Uint8Array, at: number, header: BatchHeader): Uint8Array =>
  bytes.subarray(at + BATCH_OVERHEAD, at + header.sizeInBytes);

/** All records of a batch, as RecordCursor's constructor takes it. Throws a BatchError. */
export function decodeRecords(
  bytes: Uint8Array,
  at = 0,
  header: BatchHeader = readBatchHeader(bytes, at),
  unpacked?: Uint8Array,
): RecordView[] {
  return allOf(new RecordCursor(bytes, at, header, unpacked));
}

/** As `decodeRecords`, for compressed batches too; `maxBytes` bounds what they may unpack to. */
export async function unpackRecords(
  bytes: Uint8Array,
  at: number,
  codecs: Pick<CompressionCodecs, 'decompress'>,
  maxBytes: number,
): Promise<RecordView[]> {
  const header = readBatchHeader(bytes, at);
  if (header.compression === 'none') return decodeRecords(bytes, at, header);
  const packed = recordsSection(bytes, at, header);
  const unpacked = await codecs.decompress(header.compression, packed, maxBytes);
  return decodeRecords(bytes, at, header, unpacked);
}

function allOf(cursor: RecordCursor): RecordView[] {
  const records: RecordView[] = [];
  while (cursor.next()) {
    const { offset, timestamp, key, value, headers } = cursor;
    records.push({ offset, timestamp, key, value, headers });
  }
  return records;
}
