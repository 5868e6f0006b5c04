/**
 * Long work on the disk, as a generator of the steps for which it waits: a read, a sync. Whoever drives it
 * does each step at once, blocking, or off the loop and with pauses in between. One recovery is written
 * this way once, and blocks nobody where many logs are recovered beside heartbeats.
 */
import type { Disk, DiskFile } from '@relevo/base/ports';
import { isDiskError } from './log-error.ts';
import { syncFileNow } from './checkpoint-file.ts';

export interface Step {
  /** Costs less at once than a way through the threads of the disk. */
  readonly isShort: boolean;
  now(): void;
  later(): Promise<void>;
}

export type Steps<Result> = Generator<Step, Result, void>;

/** Who has worked for long enough lets others have their turn. */
export interface Pace {
  /** Undefined: go on. Throws, or rejects, when the work is to end. */
  breathe(): Promise<void> | undefined;
}

/** Does everything at once. */
export function runNow<Result>(steps: Steps<Result>): Result {
  for (let next = steps.next(); ; next = steps.next()) {
    if (next.done === true) return next.value;
    next.value.now();
  }
}

/** Does the steps off the loop; between them it goes by `pace`. */
export async function runInSlices<Result>(steps: Steps<Result>, pace: Pace): Promise<Result> {
  let next = steps.next();
  while (next.done !== true) {
    let failure: { readonly error: unknown } | undefined;
    try {
      if (next.value.isShort) next.value.now();
      else await next.value.later();
      await pace.breathe();
    } catch (error) {
      failure = { error };
    }
    next = failure === undefined ? steps.next() : steps.throw(failure.error);
  }
  return next.value;
}

export const syncStep = (file: DiskFile): Step => ({
  isShort: false,
  now: () => file.datasyncNow(),
  later: () => file.datasync(),
});

export const syncDirectoryStep = (disk: Disk, directory: string): Step => ({
  isShort: false,
  now: () => disk.syncDirectoryNow(directory),
  later: () => disk.syncDirectory(directory),
});

/** A file that is there already; nothing where it is not. */
export const syncFileStep = (disk: Disk, path: string): Step => ({
  isShort: false,
  now: () => syncFileNow(disk, path),
  later: () => syncFile(disk, path),
});

async function syncFile(disk: Disk, path: string): Promise<void> {
  try {
    const file = disk.open(path, 'existing');
    try {
      await file.datasync();
    } finally {
      file.close();
    }
  } catch (error) {
    if (!isDiskError(error, 'NOT_FOUND')) throw error;
  }
}
