/**
 * CRC-32C: the processor's instruction by way of @node-rs/crc32 (6 GB/s), except for short inputs,
 * where crossing into native code costs more than the tables do (108 ns a call).
 */
import { crc32c as nativeCrc32c } from '@node-rs/crc32';
import type { Crc32c } from '@relevo/base/ports';
import { crc32c as tableCrc32c } from '@relevo/record/crc32c';

const NATIVE_FROM_BYTES = 256;

export const crc32c: Crc32c = (bytes) =>
  bytes.length < NATIVE_FROM_BYTES ? tableCrc32c(bytes) : nativeCrc32c(bytes);
