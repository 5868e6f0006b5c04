/** Reads partition logs straight from simulated disks and holds the replicas against each other (P1). */
import { assert } from '@relevo/base/assert';
import { bytesEqual } from '@relevo/base/bytes';
import { partitionName } from '@relevo/base/ids';
import { parsePartitionName } from '@relevo/log/file-names';
import { partitionDirectory } from '@relevo/log/partition-directory';
import { journalNumber, youngContents } from '@relevo/log/young-logs';
import { partsOf } from './simulated-disk.ts';
import type { SimulatedDisk } from './simulated-disk.ts';

const BATCH_LENGTH_AT = 8;
/** Base offset and length come before what the length counts. */
const BATCH_OVERHEAD = 12;
const LAST_OFFSET_DELTA_AT = 23;

interface StoredBatch {
  readonly baseOffset: number;
  readonly lastOffset: number;
  readonly bytes: Uint8Array;
  /** Where it lies: a file of the replica's directory, and the position in it. */
  readonly file: string;
  readonly position: number;
}

/** The whole batches of a partition on one disk, in order; a torn tail is left out. */
export function storedBatches(disk: SimulatedDisk, dataDir: string, name: string): StoredBatch[] {
  const directory = directoryOf(dataDir, name);
  if (disk.lookup(directory) === undefined) {
    const journal = disk.list(dataDir).filter((entry) => journalNumber(entry.name) !== undefined);
    return youngBatches(
      journal.map((entry) => [entry.name, disk.contents(`${dataDir}/${entry.name}`)] as const),
      name,
    );
  }
  const files = disk.list(directory).filter((entry) => entry.name.endsWith('.log'));
  return files.flatMap(({ name: file }) => batchesIn(disk.contents(`${directory}/${file}`), file));
}

/** The batches of a log that exists in the journal only. */
function youngBatches(
  journal: readonly (readonly [string, Uint8Array])[],
  name: string,
): StoredBatch[] {
  const inOrder = journal.toSorted(([a], [b]) => (journalNumber(a) ?? 0) - (journalNumber(b) ?? 0));
  const found = youngContents(inOrder.map(([, bytes]) => bytes)).get(name);
  return found === undefined ? [] : batchesIn(found.content.bytes(), 'the journal of young logs');
}

/** Where a replica lies, by the name of its partition. */
export function directoryOf(dataDir: string, name: string): string {
  const parsed = parsePartitionName(name);
  assert(parsed !== undefined, 'a log has the name of a partition', { name });
  return `${dataDir}/${partitionDirectory(parsed.topic, parsed.partition)}`;
}

function batchesIn(bytes: Uint8Array, file: string): StoredBatch[] {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const batches: StoredBatch[] = [];
  for (let at = 0; at + LAST_OFFSET_DELTA_AT + 4 <= bytes.length;) {
    const end = at + BATCH_OVERHEAD + view.getInt32(at + BATCH_LENGTH_AT);
    if (end <= at + BATCH_OVERHEAD || end > bytes.length) break;
    const baseOffset = Number(view.getBigInt64(at));
    const lastOffset = baseOffset + view.getInt32(at + LAST_OFFSET_DELTA_AT);
    batches.push({ baseOffset, lastOffset, bytes: bytes.subarray(at, end), file, position: at });
    at = end;
  }
  return batches;
}

/** The offset after the last whole batch that a power cut could not take from this disk. */
export function durableEnd(disk: SimulatedDisk, dataDir: string, name: string): number {
  const directory = disk.image.durable(partsOf(directoryOf(dataDir, name)));
  let end = 0;
  if (directory?.kind !== 'directory') {
    const root = disk.image.durable(partsOf(dataDir));
    if (root?.kind !== 'directory') return 0;
    const journal = [...root.durable].flatMap(([fileName, node]) =>
      node.kind === 'file' && journalNumber(fileName) !== undefined
        ? [[fileName, node.durable.view()] as const]
        : [],
    );
    return (youngBatches(journal, name).at(-1)?.lastOffset ?? -1) + 1;
  }
  for (const [fileName, node] of [...directory.durable].sort(([a], [b]) => (a < b ? -1 : 1))) {
    if (node.kind !== 'file' || !fileName.endsWith('.log')) continue;
    for (const batch of batchesIn(node.durable.view(), fileName)) end = batch.lastOffset + 1;
  }
  return end;
}

export interface ReplicaOnDisk {
  readonly broker: number;
  readonly disk: SimulatedDisk;
  readonly dataDir: string;
}

/**
 * What differs from `from` up to `highWatermark` between the replicas of a partition; empty when nothing
 * does. What is below `from` may be gone from some.
 */
export function compareReplicas(
  replicas: readonly ReplicaOnDisk[],
  topic: string,
  partition: number,
  highWatermark: number,
  from = 0,
): string[] {
  const name = partitionName(topic, partition);
  const differences: string[] = [];
  const logs = replicas.map(({ broker, disk, dataDir }) => {
    const all = storedBatches(disk, dataDir, name);
    const isMeant = ({ baseOffset, lastOffset }: StoredBatch): boolean =>
      lastOffset < highWatermark && baseOffset >= from;
    return { broker, batches: all.filter(isMeant) };
  });
  for (const { broker, batches } of logs) {
    // A batch may lie across `from`.
    let next = from > 0 ? (batches[0]?.baseOffset ?? highWatermark) : 0;
    for (const { baseOffset, lastOffset } of batches) {
      if (baseOffset !== next) {
        differences.push(`${name} on broker ${broker}: ${baseOffset} stands where ${next} belongs`);
      }
      next = lastOffset + 1;
    }
    if (next < highWatermark) {
      differences.push(`${name} on broker ${broker} ends at ${next}, below ${highWatermark}`);
    }
  }
  const [first, ...others] = logs;
  for (const other of first === undefined ? [] : others) {
    const count = Math.min(first?.batches.length ?? 0, other.batches.length);
    for (let at = 0; at < count; at++) {
      const [a, b] = [first?.batches[at], other.batches[at]];
      if (a === undefined || b === undefined || bytesEqual(a.bytes, b.bytes)) continue;
      differences.push(
        `${name} differs between brokers ${first?.broker} and ${other.broker} at offset ${a.baseOffset}`,
      );
      break;
    }
  }
  return differences;
}
