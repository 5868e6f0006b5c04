/** What may befall the disk of a voter that is off. */
import type { DirectoryNode } from '../disk-image.ts';
import { SECTOR_BYTES } from '../disk-image.ts';
import type { Prng } from '../prng.ts';
import type { SimulatedDisk } from '../simulated-disk.ts';

export type Injury =
  'zeroed' | 'truncated' | 'emptied' | 'removed' | 'flipped' | 'directory' | 'wiped' | 'older';

const INJURIES: readonly Injury[] = [
  ...(['zeroed', 'zeroed', 'truncated', 'truncated', 'emptied', 'removed'] as const),
  ...(['flipped', 'directory', 'wiped', 'older'] as const),
];

/** Hurts the quorum's files on the disk, in a way and a place that the seed says; durably. */
export function hurtDisk(
  disk: SimulatedDisk,
  root: string,
  older: DirectoryNode,
  prng: Prng,
): Injury {
  const injury = prng.pick(INJURIES);
  const quorum = `${root}/quorum`;
  switch (injury) {
    case 'wiped':
      disk.wipe();
      return injury;
    case 'older':
      disk.restore(older);
      return injury;
    case 'directory':
      disk.port().removeTree(quorum);
      break;
    default:
      hurtFile(disk, quorum, injury, prng);
  }
  disk.port().syncDirectoryNow(root);
  return injury;
}

/** Mostly a log: there what was committed last is lost without a trace. */
function hurtFile(
  disk: SimulatedDisk,
  directory: string,
  injury: 'zeroed' | 'truncated' | 'emptied' | 'removed' | 'flipped',
  prng: Prng,
): void {
  const port = disk.port();
  const names = port.list(directory).map(({ name }) => name);
  const logs = names.filter((name) => name.endsWith('.log'));
  const name = prng.pick(logs.length > 0 && prng.chance(0.7) ? logs : names);
  const path = `${directory}/${name}`;
  const size = disk.contents(path).length;
  if (injury === 'removed') {
    port.remove(path);
    port.syncDirectoryNow(directory);
    return;
  }
  if (injury === 'flipped') {
    if (size > 0) disk.flipBit(path, prng.integer(0, size - 1), prng.integer(0, 7));
    return;
  }
  const file = port.open(path, 'existing');
  if (injury === 'zeroed') {
    const sector = prng.integer(0, Math.max(0, Math.ceil(size / SECTOR_BYTES) - 1)) * SECTOR_BYTES;
    file.write(new Uint8Array(Math.min(SECTOR_BYTES, size - sector)), sector);
  } else {
    file.truncate(injury === 'emptied' ? 0 : prng.integer(0, size));
  }
  file.datasyncNow();
  file.close();
}
