/** One injury of one file of a data directory: what a disk, or a person, may do to it. */
import {
  closeSync,
  copyFileSync,
  existsSync,
  mkdirSync,
  openSync,
  readdirSync,
  rmSync,
  statSync,
  truncateSync,
  writeSync,
  readSync,
} from 'node:fs';
import { dirname, join, relative } from 'node:path';
import type { Prng } from '@relevo/simulation/prng';

export type InjuryKind =
  'flipped bit' | 'zeroed sector' | 'shortened' | 'removed' | 'older version';

export interface Injury {
  readonly kind: InjuryKind;
  /** Relative to the data directory. */
  readonly file: string;
  /** The byte that was changed, or the new length. */
  readonly at: number;
}

const SECTOR_BYTES = 512;
const IN_PLACE: readonly InjuryKind[] = ['flipped bit', 'zeroed sector'];
const ANY: readonly InjuryKind[] = [...IN_PLACE, 'shortened', 'removed', 'older version'];

/** Regular files below `directory`, relative to it. */
export const filesIn = (directory: string): string[] =>
  readdirSync(directory, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => relative(directory, join(entry.parentPath, entry.name)))
    .sort();

/** Copies what is there now, so that a later injury may bring it back. */
export function remember(directory: string, into: string): void {
  for (const file of filesIn(directory)) {
    const copy = join(into, file);
    if (existsSync(copy)) continue;
    mkdirSync(dirname(copy), { recursive: true });
    copyFileSync(join(directory, file), copy);
  }
}

/**
 * Injures a file of a data directory. While its broker runs, batches are changed where they lie; else
 * anything may happen to any file.
 */
export function injure(
  prng: Prng,
  directory: string,
  options: { readonly running: boolean; readonly olderFrom: string },
): Injury {
  const files = filesIn(directory).filter((file) => statSync(join(directory, file)).size > 0);
  const group = prng.pick(options.running ? [LOGS] : [LOGS, LOGS, LOGS, BESIDE, TOP, QUORUM]);
  const candidates = files.filter((file) => group.test(file));
  const file = prng.pick(candidates.length > 0 ? candidates : files);
  const path = join(directory, file);
  const kind = prng.pick(options.running ? IN_PLACE : ANY);
  const size = statSync(path).size;
  const at = prng.integer(0, size - 1);
  switch (kind) {
    case 'flipped bit':
      overwrite(path, at, flip(path, at, prng.integer(0, 7)));
      return { kind, file, at };
    case 'zeroed sector': {
      const from = at - (at % SECTOR_BYTES);
      overwrite(path, from, Buffer.alloc(Math.min(SECTOR_BYTES, size - from)));
      return { kind, file, at: from };
    }
    case 'shortened':
      truncateSync(path, at);
      return { kind, file, at };
    case 'removed':
      rmSync(path);
      return { kind, file, at: 0 };
    case 'older version': {
      const older = join(options.olderFrom, file);
      if (existsSync(older)) copyFileSync(older, path);
      else rmSync(path);
      return { kind: existsSync(older) ? kind : 'removed', file, at: 0 };
    }
  }
}

/** Batches of partitions. */
const LOGS = /^[^/]+-\d+\/\d{20}\.log$/;
/** What lies beside them. */
const BESIDE = /^[^/]+-\d+\/(?!\d{20}\.log$)/;
const TOP = /^[^/]+$/;
const QUORUM = /^quorum\//;

function flip(path: string, at: number, bit: number): Buffer {
  const byte = Buffer.alloc(1);
  const file = openSync(path, 'r');
  readSync(file, byte, 0, 1, at);
  closeSync(file);
  byte[0] = (byte[0] ?? 0) ^ (1 << bit);
  return byte;
}

function overwrite(path: string, at: number, bytes: Buffer): void {
  const file = openSync(path, 'r+');
  writeSync(file, bytes, 0, bytes.length, at);
  closeSync(file);
}
