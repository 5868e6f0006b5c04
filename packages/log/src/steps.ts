/**
 * Long work on the disk, as a generator of the steps for which it waits: a read, a sync. Whoever drives it
 * does each step at once, blocking, or off the loop and with pauses in between. One recovery is written
 * this way once, and blocks nobody where many logs are recovered beside heartbeats.
 */
import { isMutated } from '@relevo/base/mutations';
import { DiskError } from '@relevo/base/ports';
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
  if (isMutated('recovery-in-one-piece')) return runNow(steps);
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

/** Between two pieces of computing: others may have their turn. */
export const PAUSE: Step = { isShort: true, now: () => undefined, later: () => Promise.resolve() };

/** Reads of so many bytes cost less at once than on a thread. */
const SHORT_READ_BYTES = 16_384;

/** The whole file, of what can be made anew: undefined where there is none, or it cannot be read. */
export function* readHintSteps(disk: Disk, path: string): Steps<Uint8Array | undefined> {
  let file: DiskFile | undefined;
  try {
    file = disk.open(path, 'readOnly');
    const read = readStep(file, file.size());
    yield read;
    return read.bytes;
  } catch (error) {
    if (error instanceof DiskError) return undefined;
    throw error;
  } finally {
    file?.close();
  }
}

function readStep(file: DiskFile, length: number): Step & { bytes: Uint8Array } {
  const step = {
    isShort: length <= SHORT_READ_BYTES,
    bytes: new Uint8Array(0) as Uint8Array,
    now: (): void => {
      const into = new Uint8Array(length);
      step.bytes = into.subarray(0, file.readSync(into, 0));
    },
    later: async (): Promise<void> => {
      step.bytes = await file.read(0, length);
    },
  };
  return step;
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
