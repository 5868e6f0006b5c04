/** Makes the file with a cluster's secret; packages/server/src/security says what it holds. */
import { randomBytes } from 'node:crypto';
import { existsSync, linkSync, mkdirSync, rmSync, writeFileSync } from 'node:fs';
import { dirname } from 'node:path';

/** 256 bits. */
const SECRET_BYTES = 32;

/** Whole or not at all, and for its owner alone. False: there was one, and it was left as it is. */
export function makeSecretFile(file: string): boolean {
  if (existsSync(file)) return false;
  mkdirSync(dirname(file), { recursive: true });
  const draft = `${file}.${process.pid}.new`;
  const secret = randomBytes(SECRET_BYTES).toString('base64url');
  writeFileSync(draft, `${secret}\n`, { mode: 0o600, flag: 'wx' });
  try {
    // Takes the place of nothing: whoever comes second keeps what the first one made.
    linkSync(draft, file);
    return true;
  } catch (error) {
    if (error instanceof Error && 'code' in error && error.code === 'EEXIST') return false;
    throw error;
  } finally {
    rmSync(draft, { force: true });
  }
}
