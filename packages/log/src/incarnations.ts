/**
 * The starts of a data directory, in its file `incarnations`, a line each, the newest last. A start is written
 * before anything is promised in its name, so that an older copy of the directory can be told: it does not know
 * of the starts since (`@relevo/base/incarnation`).
 */
import { utf8Decode, utf8Encode } from '@relevo/base/bytes';
import type { Uuid } from '@relevo/base/ids';
import { makeIncarnation, numberOfStart, parseIncarnation } from '@relevo/base/incarnation';
import type { Incarnation } from '@relevo/base/incarnation';
import type { Disk } from '@relevo/base/ports';
import { readFile, replaceFileNow } from './checkpoint-file.ts';

const FILE = 'incarnations';
/** So many starts are named. */
const NAMED_MAX = 200;

/** Notes a new start, durably, and gives the last ones, this one last. */
export function beginIncarnation(disk: Disk, root: string, id: Uuid): readonly Incarnation[] {
  const path = `${root}/${FILE}`;
  const before = readIncarnations(disk, path);
  const number = (numberOfStart(before.at(-1) ?? '') ?? 0) + 1;
  const named = [...before, makeIncarnation(number, id)].slice(-NAMED_MAX);
  replaceFileNow(disk, path, utf8Encode(`${named.join('\n')}\n`));
  return named;
}

/** What can be read of them; a damaged file names none. */
function readIncarnations(disk: Disk, path: string): Incarnation[] {
  const lines = utf8Decode(readFile(disk, path) ?? new Uint8Array(0)).split('\n');
  try {
    return lines.filter((line) => line !== '').map(parseIncarnation);
  } catch (error) {
    if (!(error instanceof RangeError)) throw error;
    return [];
  }
}
