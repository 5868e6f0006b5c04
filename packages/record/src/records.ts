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
export class RecordView {
  readonly offset: Offset;
  /** Ms since 1970 UTC; -1: none. */
  readonly timestamp: number;
  readonly #bytes: Uint8Array;
  readonly #keyAt: number;
  readonly #keyLength: number;
  readonly #valueAt: number;
  readonly #valueLength: number;
  readonly #headersAt: number;
  readonly #end: number;

  constructor(bytes: Uint8Array, offset: Offset, timestamp: number, places: RecordPlaces) {
    this.#bytes = bytes;
    this.offset = offset;
    this.timestamp = timestamp;
    this.#keyAt = places.keyAt;
    this.#keyLength = places.keyLength;
    this.#valueAt = places.valueAt;
    this.#valueLength = places.valueLength;
    this.#headersAt = places.headersAt;
    this.#end = places.end;
  }

  get key(): Uint8Array | null {
    if (this.#keyLength < 0) return null;
    return this.#bytes.subarray(this.#keyAt, this.#keyAt + this.#keyLength);
  }

  get value(): Uint8Array | null {
    if (this.#valueLength < 0) return null;
    return this.#bytes.subarray(this.#valueAt, this.#valueAt + this.#valueLength);
  }

  /** Bytes of key and value. */
  get payloadBytes(): number {
    return Math.max(0, this.#keyLength) + Math.max(0, this.#valueLength);
  }

  get headers(): readonly RecordHeaderView[] {
    // The count comes first, and most records have none.
    if (this.#bytes[this.#headersAt] === 0) return NO_HEADERS;
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
}

interface RecordPlaces {
  readonly keyAt: number;
  readonly keyLength: number;
  readonly valueAt: number;
  readonly valueLength: number;
  readonly headersAt: number;
  readonly end: number;
}

/** The bytes after the header, compressed or not: a view. */
export const recordsSection = (bytes: Uint8Array, at: number, header: BatchHeader): Uint8Array =>
  bytes.subarray(at + BATCH_OVERHEAD, at + header.sizeInBytes);

/**
 * The records of the uncompressed batch at `at`, or of `unpacked`, its decompressed records section.
 * Throws a BatchError where the bytes are not records; the CRC is not checked.
 */
export function decodeRecords(
  bytes: Uint8Array,
  at = 0,
  header: BatchHeader = readBatchHeader(bytes, at),
  unpacked?: Uint8Array,
): RecordView[] {
  if (header.compression !== 'none' && unpacked === undefined) {
    throw new BatchError('BAD_COMPRESSED_DATA', `${header.compression} records must be unpacked`);
  }
  const end = at + header.sizeInBytes;
  if (end > bytes.length) throw new BatchError('TRUNCATED', `${end - bytes.length} bytes missing`);
  const reader =
    unpacked === undefined
      ? new ByteReader(bytes, at + BATCH_OVERHEAD, end)
      : new ByteReader(unpacked);
  const records: RecordView[] = [];
  try {
    for (let index = 0; index < header.recordCount; index++) {
      records.push(readRecord(reader, header));
    }
  } catch (error) {
    if (!(error instanceof BytesError)) throw error;
    const message = `record ${records.length}: ${error.message}`;
    throw new BatchError('BAD_LENGTH', message, { cause: error });
  }
  if (reader.remaining !== 0) {
    throw new BatchError('BAD_COUNT', `${reader.remaining} bytes follow the last record`);
  }
  return records;
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

function readRecord(reader: ByteReader, header: BatchHeader): RecordView {
  const length = reader.varint();
  const start = reader.position;
  const end = start + length;
  if (length < 1 || end > reader.end) {
    throw new BytesError(`its length ${length} reaches past the end`);
  }
  reader.skip(1);
  const timestampDelta = reader.varlong();
  const offsetDelta = reader.varint();
  if (offsetDelta < 0 || offsetDelta > header.lastOffsetDelta) {
    throw new BatchError('BAD_OFFSET', `offset delta ${offsetDelta}`);
  }
  const keyLength = reader.varint();
  const keyAt = reader.position;
  if (keyLength > 0) reader.skip(keyLength);
  const valueLength = reader.varint();
  const valueAt = reader.position;
  if (valueLength > 0) reader.skip(valueLength);
  const headersAt = reader.position;
  if (headersAt >= end) throw new BytesError('a field reaches past its end');
  reader.position = end;
  const timestamp =
    header.timestampType === 'logAppendTime'
      ? header.maxTimestamp
      : header.baseTimestamp + timestampDelta;
  // Within the batch's offsets, which its header was checked for.
  const offset = (header.baseOffset + offsetDelta) as Offset;
  const places = { keyAt, keyLength, valueAt, valueLength, headersAt, end };
  return new RecordView(reader.bytes, offset, timestamp, places);
}
