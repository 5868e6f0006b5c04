import type { BatchHeader } from '@relevo/record/batch-header';
import { scanSteps } from './batch-scan.ts';
import { LOG_SUFFIX } from './file-names.ts';
import { LogError } from './log-error.ts';
import type { Segment } from './segment.ts';
import type { Steps } from './steps.ts';

/** Damage where nothing may be cut (L4). */
export const corrupt = (place: string, what: string): LogError =>
  new LogError(
    'corrupt',
    `${place} is damaged: ${what}; nothing was cut. Where another in-sync replica has the log, it is ` +
      'copied anew from there; where there is none, put the file, or a backup of the directory, back',
  );

/** The headers of a segment's batches from `position` on, all of which must be there. */
export function* walkHeaders(
  segment: Segment,
  position: number,
  visit: (header: BatchHeader) => void,
): Steps<void> {
  const options = { file: segment.file(), from: position, to: segment.sizeBytes };
  const end = yield* scanSteps(options, (header) => {
    visit(header);
  });
  if (end.error === undefined) return;
  throw corrupt(`${segment.path(LOG_SUFFIX)} at byte ${end.position}`, end.error.message);
}
