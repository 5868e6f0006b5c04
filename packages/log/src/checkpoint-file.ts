/**
 * Small files that are replaced whole and durably: written aside, synced, renamed, and the directory
 * synced. Whoever reads one finds the old content or the new, never a mixture.
 *
 * Kafka's checkpoint format is text: a version (0), the number of entries, then an entry a line. Version
 * 1 is our own: a last line `crc32c` has the CRC-32C of all before it, for one flipped bit makes another
 * number of a digit. Version 0 is read too.
 */
import { utf8Decode, utf8Encode } from '@relevo/base/bytes';
import { DiskError } from '@relevo/base/ports';
import type { Disk, DiskFile } from '@relevo/base/ports';
import { crc32c } from '@relevo/record/crc32c';
import { TEMPORARY_SUFFIX } from './file-names.ts';
import { isDiskError } from './log-error.ts';

const VERSION = '1';
const VERSION_WITHOUT_CRC = '0';

export const parentOf = (path: string): string => path.slice(0, path.lastIndexOf('/'));

/** Writes a file that is not there yet. */
export function writeFile(disk: Disk, path: string, bytes: Uint8Array): void {
  const file = disk.open(path, 'create');
  try {
    file.write(bytes, 0);
  } finally {
    file.close();
  }
}

/** Replaces the file, without making that durable. */
export function replaceFile(disk: Disk, path: string, bytes: Uint8Array): void {
  const aside = path + TEMPORARY_SUFFIX;
  writeAnew(disk, aside, bytes).close();
  disk.rename(aside, path);
}

/** Replaces the file durably, blocking: for start-up, recovery and rare events. */
export function replaceFileNow(disk: Disk, path: string, bytes: Uint8Array): void {
  // Not the name that a replacement off the loop may be using.
  const aside = `${path}.now${TEMPORARY_SUFFIX}`;
  const file = writeAnew(disk, aside, bytes);
  try {
    file.datasyncNow();
  } finally {
    file.close();
  }
  disk.rename(aside, path);
  disk.syncDirectoryNow(parentOf(path));
}

/**
 * Replaces the file durably, off the loop; one at a time per path. `isCurrent` is asked right before the
 * rename: if the content is out of date by then, the file stays as it is.
 */
export async function replaceFileDurably(
  disk: Disk,
  path: string,
  bytes: Uint8Array,
  isCurrent: () => boolean = () => true,
): Promise<void> {
  const aside = path + TEMPORARY_SUFFIX;
  const file = writeAnew(disk, aside, bytes);
  try {
    await file.datasync();
  } finally {
    file.close();
  }
  if (!isCurrent()) return;
  disk.rename(aside, path);
  await disk.syncDirectory(parentOf(path));
}

/** Writes a file from its start, and leaves it open. */
export function writeAnew(disk: Disk, path: string, bytes: Uint8Array): DiskFile {
  const file = disk.open(path, 'create');
  try {
    file.truncate(0);
    file.write(bytes, 0);
    return file;
  } catch (error) {
    file.close();
    throw error;
  }
}

/** Makes a file durable that is there already; nothing where it is not. */
export function syncFileNow(disk: Disk, path: string): void {
  try {
    const file = disk.open(path, 'existing');
    try {
      file.datasyncNow();
    } finally {
      file.close();
    }
  } catch (error) {
    if (!isDiskError(error, 'NOT_FOUND')) throw error;
  }
}

/** The whole file, or undefined when there is none. */
export function readFile(disk: Disk, path: string): Uint8Array | undefined {
  try {
    const file = disk.open(path, 'readOnly');
    try {
      const bytes = new Uint8Array(file.size());
      return bytes.subarray(0, file.readSync(bytes, 0));
    } finally {
      file.close();
    }
  } catch (error) {
    if (isDiskError(error, 'NOT_FOUND')) return undefined;
    throw error;
  }
}

/** As `readFile`, for what can be made anew: undefined too where the file cannot be read. */
export function readHint(disk: Disk, path: string): Uint8Array | undefined {
  try {
    return readFile(disk, path);
  } catch (error) {
    if (error instanceof DiskError) return undefined;
    throw error;
  }
}

export function encodeCheckpoint(entries: readonly string[]): Uint8Array {
  const text = `${[VERSION, entries.length, ...entries].join('\n')}\n`;
  return utf8Encode(`${text}crc32c ${crcOf(text)}\n`);
}

/** The entries, or undefined when the text is not a whole checkpoint. */
export function decodeCheckpoint(bytes: Uint8Array): string[] | undefined {
  const text = utf8Decode(bytes);
  const lines = text.split('\n');
  const [version, count, ...entries] = lines;
  if (entries.pop() !== '') return undefined;
  if (version === VERSION) {
    const stated = entries.pop();
    const covered = `${lines.slice(0, -2).join('\n')}\n`;
    if (stated !== `crc32c ${crcOf(covered)}`) return undefined;
  } else if (version !== VERSION_WITHOUT_CRC) {
    return undefined;
  }
  return entries.length === Number(count) ? entries : undefined;
}

/** The checkpoint is of the version that has a CRC, and that keeps the promises of ours. */
export const isOurCheckpoint = (bytes: Uint8Array): boolean =>
  utf8Decode(bytes.subarray(0, 2)) === `${VERSION}\n`;

const crcOf = (text: string): string => crc32c(utf8Encode(text)).toString(16).padStart(8, '0');
