/**
 * The secret that the nodes of a cluster share, one or two of them in a file: the first proves, all are
 * taken from others. A new one is rolled out in three restarts of each node: behind the old one, before it,
 * alone.
 */
import { utf8Encode } from '@relevo/base/bytes';

const SECRET_LENGTH_MIN = 32;
const SECRET_LENGTH_MAX = 1024;
const SECRETS_MAX = 2;
/** What group and others may do with the file: nothing. */
const MODE_OF_OTHERS = 0o077;

/** Why a secret cannot be used; the text is for people, and holds none of it. */
export class SecretError extends Error {
  override readonly name = 'SecretError';
}

/** Of a file's text: one secret a line; empty lines and those that begin with # do not count. */
export function secretsOf(text: string, file: string): readonly Uint8Array[] {
  const lines = text
    .split('\n')
    .map((line) => line.trim())
    .filter((line) => line !== '' && !line.startsWith('#'));
  const how = 'make one with `relevo secret create FILE`';
  if (lines.length === 0) throw new SecretError(`${file} holds no secret; ${how}`);
  if (lines.length > SECRETS_MAX) {
    throw new SecretError(
      `${file} holds ${lines.length} secrets; one or two are used at a time, one a line`,
    );
  }
  for (const [at, line] of lines.entries()) {
    if (line.length >= SECRET_LENGTH_MIN && line.length <= SECRET_LENGTH_MAX) continue;
    throw new SecretError(
      `${file}: secret ${at + 1} has ${line.length} characters; it takes ${SECRET_LENGTH_MIN} to ` +
        `${SECRET_LENGTH_MAX} that nobody can guess: ${how}`,
    );
  }
  return lines.map(utf8Encode);
}

/** Throws where somebody else than the owner may read or write the file. */
export function checkSecretMode(mode: number, file: string): void {
  if ((mode & MODE_OF_OTHERS) === 0) return;
  throw new SecretError(
    `${file} can be read or changed by others (mode ${(mode & 0o777).toString(8).padStart(4, '0')}): ` +
      `it holds the cluster's secret; run chmod 600 ${file}`,
  );
}
