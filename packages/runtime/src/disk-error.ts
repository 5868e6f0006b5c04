import { DiskError } from '@relevo/base/ports';
import type { DiskErrorCode } from '@relevo/base/ports';

const CODES: Readonly<Record<string, DiskErrorCode>> = {
  ENOENT: 'NOT_FOUND',
  EEXIST: 'EXISTS',
  ENOTEMPTY: 'EXISTS',
  ENOSPC: 'FULL',
  EDQUOT: 'FULL',
  EACCES: 'DENIED',
  EPERM: 'DENIED',
  EROFS: 'DENIED',
};

/** Node's error as the port's, with what was done to which path. */
export function diskErrorFrom(thrown: unknown, action: string, path: string): DiskError {
  const errno = thrown instanceof Error && 'code' in thrown ? String(thrown.code) : 'unknown error';
  const code = CODES[errno] ?? 'IO';
  return new DiskError(code, path, `cannot ${action} ${path}: ${errno}`, { cause: thrown });
}
