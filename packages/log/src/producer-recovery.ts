import type { Offset } from '@relevo/base/ids';
import type { Crc32c, Disk, Logger } from '@relevo/base/ports';
import { readFile } from './checkpoint-file.ts';
import { SNAPSHOT_SUFFIX, offsetFileName } from './file-names.ts';
import { decodeSnapshot } from './producer-snapshot.ts';
import type { ProducerState } from './producer-state.ts';
import type { Segment } from './segment.ts';
import { walkHeaders } from './segment-walk.ts';

export interface ProducerSource {
  readonly state: ProducerState;
  readonly directory: string;
  /** Their batches are taken, in so far as they come after the snapshot. */
  readonly segments: readonly Segment[];
  /** Offsets of the snapshots that are there, growing. */
  readonly snapshots: readonly Offset[];
  /** Snapshots beyond are removed: the log ends, or is not sure, there. */
  readonly atMost: Offset;
}

export interface ProducersLoaded {
  /** The state holds the batches below by the snapshot. */
  readonly from: Offset;
  readonly snapshots: Offset[];
}

/** Brings the state from the latest intact snapshot and the batches after it. */
export function loadProducers(
  source: ProducerSource,
  deps: { readonly disk: Disk; readonly crc32c: Crc32c; readonly logger: Logger },
): ProducersLoaded {
  const { state, directory, segments, atMost } = source;
  const { disk, crc32c, logger } = deps;
  const pathOf = (at: Offset): string => `${directory}/${offsetFileName(at, SNAPSHOT_SUFFIX)}`;
  const usable: Offset[] = [];
  for (const at of source.snapshots) {
    if (at <= atMost) usable.push(at);
    else disk.remove(pathOf(at));
  }
  state.clear();
  let from = 0 as Offset;
  for (let at = usable.at(-1); at !== undefined; at = usable.at(-1)) {
    const snapshot = decodeSnapshot(readFile(disk, pathOf(at)) ?? new Uint8Array(0), crc32c);
    if (snapshot !== undefined) {
      state.restore(snapshot.entries, snapshot.logTimeMs);
      from = at;
      break;
    }
    logger.warn('passed over a damaged producer snapshot', { path: pathOf(at) });
    disk.remove(pathOf(at));
    usable.pop();
  }
  for (const segment of segments) {
    if (segment.nextOffset <= from) continue;
    const start = from <= segment.baseOffset ? 0 : segment.locate(from).position;
    walkHeaders(segment, start, (header) => {
      if (header.baseOffset >= from) state.note(header);
    });
  }
  return { from, snapshots: usable };
}
