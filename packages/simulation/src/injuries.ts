/** Damage to what was durable of a replica: what a failing disk, or a person, does to its files. */
import { directoryOf, storedBatches } from './replica-checker.ts';
import type { ReplicaOnDisk } from './replica-checker.ts';
import type { Prng } from './prng.ts';

export type Injury =
  /** A bit of one of the last batches, in what its CRC covers: a recovery reads these. */
  | 'bitFlip'
  /** The replica's directory is gone. */
  | 'lostDirectory';

/** Of a batch: where what the CRC covers begins. */
const CRC_COVERS_FROM = 21;

const LAST_BATCHES = 5;

/** Says what was done; undefined where the replica holds nothing that could be hurt. */
export function injure(
  replica: ReplicaOnDisk,
  name: string,
  injury: Injury,
  prng: Prng,
): string | undefined {
  const { disk, dataDir } = replica;
  const directory = directoryOf(dataDir, name);
  const batches = storedBatches(disk, dataDir, name);
  const batch = batches.length === 0 ? undefined : prng.pick(batches.slice(-LAST_BATCHES));
  if (batch === undefined || disk.lookup(directory) === undefined) return undefined;
  if (injury === 'lostDirectory') {
    const port = disk.port();
    port.rename(directory, `${dataDir}/lost-and-found-${prng.integer(0, 2 ** 30)}`);
    port.syncDirectoryNow(dataDir);
    return `lost the directory of ${name}`;
  }
  const at = batch.position + prng.integer(CRC_COVERS_FROM, batch.bytes.length - 1);
  disk.flipBit(`${directory}/${batch.file}`, at, prng.integer(0, 7));
  return `flipped a bit of ${name} at byte ${at} of ${batch.file} (offset ${batch.baseOffset})`;
}
