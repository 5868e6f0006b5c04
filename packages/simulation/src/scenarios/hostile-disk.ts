/** What befalls the files of a broker: of its logs, of the quorum, of its data directory. */
import { QUORUM_DIRECTORY } from '@relevo/log/file-names';
import { SECTOR_BYTES } from '../disk-image.ts';
import type { Prng } from '../prng.ts';
import type { DiskFault, SimulatedDisk } from '../simulated-disk.ts';
import type { LiveKind } from './hostile-plan.ts';

export type FileInjury = 'bitFlip' | 'zeroedSector' | 'lostTail' | 'vanishedFile';

/** Whose file it is: what is counted, and what may end a process. */
export type FileOwner = 'partition' | 'quorum' | 'directory';

interface Found {
  readonly path: string;
  readonly owner: FileOwner;
}

/** Files of the data directory itself that the broker rewrites at any time are seldom chosen. */
const OWNERS: readonly FileOwner[] = [
  ...(['partition', 'partition', 'partition', 'partition', 'partition'] as const),
  ...(['quorum', 'quorum', 'directory'] as const),
];

export function filesOf(disk: SimulatedDisk, root: string): Found[] {
  if (disk.lookup(root) === undefined) return [];
  return disk.list(root).flatMap(({ name, directory }): Found[] => {
    const path = `${root}/${name}`;
    if (!directory) return name === '.lock' ? [] : [{ path, owner: 'directory' }];
    const owner = name === QUORUM_DIRECTORY ? 'quorum' : 'partition';
    return disk
      .list(path)
      .filter((entry) => !entry.directory)
      .map((entry): Found => ({ path: `${path}/${entry.name}`, owner }));
  });
}

export interface Injured {
  readonly path: string;
  readonly owner: FileOwner;
  readonly what: string;
}

/** Hurts one file, durably; undefined where there is none to hurt. */
export function injureFile(
  disk: SimulatedDisk,
  root: string,
  injury: FileInjury,
  prng: Prng,
): Injured | undefined {
  const all = filesOf(disk, root).filter(({ path }) => disk.contents(path).length > 0);
  const wanted = prng.pick(OWNERS);
  const owned = all.filter(({ owner }) => owner === wanted);
  // Logs hold what counts; the rest can be worked out from them.
  const logs = owned.filter(({ path }) => path.endsWith('.log'));
  const found = logs.length > 0 && prng.chance(0.6) ? logs : owned;
  if (found.length === 0) return undefined;
  const { path, owner } = prng.pick(found);
  return { path, owner, what: hurt(disk, path, injury, prng) };
}

function hurt(disk: SimulatedDisk, path: string, injury: FileInjury, prng: Prng): string {
  const { length } = disk.contents(path);
  switch (injury) {
    case 'bitFlip': {
      const at = prng.integer(0, length - 1);
      disk.flipBit(path, at, prng.integer(0, 7));
      return `a bit of byte ${at} of ${length}`;
    }
    case 'zeroedSector': {
      const sector = prng.integer(0, Math.ceil(length / SECTOR_BYTES) - 1) * SECTOR_BYTES;
      disk.overwrite(path, new Uint8Array(Math.min(SECTOR_BYTES, length - sector)), sector);
      return `the sector at ${sector} of ${length}`;
    }
    case 'lostTail': {
      const size = prng.integer(0, length - 1);
      disk.shorten(path, size);
      return `all from ${size} on of ${length}`;
    }
    case 'vanishedFile': {
      const port = disk.port();
      port.remove(path);
      port.syncDirectoryNow(path.slice(0, path.lastIndexOf('/')));
      return 'the whole file';
    }
  }
}

/** Renames the directory of a partition, or of the quorum, out of sight; gives its name. */
export function loseDirectory(disk: SimulatedDisk, root: string, prng: Prng): string | undefined {
  if (disk.lookup(root) === undefined) return undefined;
  const names = disk
    .list(root)
    .filter((entry) => entry.directory && !/\.(set-aside|deleted)$/.test(entry.name))
    .map(({ name }) => name);
  if (names.length === 0) return undefined;
  const name = prng.pick(names);
  const port = disk.port();
  port.removeTree(`${root}/${name}`);
  port.syncDirectoryNow(root);
  return name;
}

/** What each live fault does to a file; undefined: nothing, the disk call fails. */
export const LIVE_INJURIES: Readonly<
  Record<LiveKind, 'bitFlip' | 'zeroedSector' | 'vanishedFile' | undefined>
> = {
  liveBitFlip: 'bitFlip',
  liveZeroedSector: 'zeroedSector',
  liveVanishedFile: 'vanishedFile',
  failingSync: undefined,
  failingReads: undefined,
  failingWrites: undefined,
};

/** Whose syncs fail: those of partitions, mostly. */
export function drawSync(prng: Prng): Pick<DiskFault, 'path' | 'code' | 'times'> {
  const path = prng.pick([/-\d+\/\d+\.log$/, /-\d+\/\d+\.log$/, /\/quorum\//, /./]);
  return { path, code: prng.pick(['IO', 'IO', 'FULL']), times: prng.integer(1, 3) };
}

export const kindOf = (directory: string): string =>
  directory === QUORUM_DIRECTORY ? 'the quorum' : 'a partition';
