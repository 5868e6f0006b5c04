/**
 * What some faults need and npm does not have: toxiproxy from the Go proxy, libfaketime from Debian. Each is
 * brought once, into a cache below node_modules.
 */
import { execFile } from 'node:child_process';
import { existsSync, mkdirSync, readdirSync } from 'node:fs';
import { resolve } from 'node:path';
import { promisify } from 'node:util';

const run = promisify(execFile);
const CACHE = resolve(import.meta.dirname, '../../../node_modules/.cache/containers');
const TOXIPROXY = 'github.com/Shopify/toxiproxy/v2/cmd/server@v2.12.0';

/** The path of toxiproxy's server. */
export async function toxiproxy(): Promise<string> {
  const path = `${CACHE}/server`;
  if (existsSync(path)) return path;
  mkdirSync(CACHE, { recursive: true });
  await run('go', ['install', TOXIPROXY], { env: { ...process.env, GOBIN: CACHE } });
  return path;
}

/** The directory of libfaketime's libraries, for containers of Debian on this kind of processor. */
export async function libfaketime(): Promise<string> {
  const into = `${CACHE}/faketime`;
  const machine = process.arch === 'arm64' ? 'aarch64' : 'x86_64';
  const path = `${into}/usr/lib/${machine}-linux-gnu/faketime`;
  if (existsSync(path)) return path;
  mkdirSync(into, { recursive: true });
  const download = (): Promise<unknown> =>
    run('apt-get', ['download', 'libfaketime'], { cwd: into });
  // Lists of packages that are missing or old know nothing of it, or of where it was.
  await download().catch(() => run('apt-get', ['update']).then(download));
  for (const file of readdirSync(into).filter((name) => name.endsWith('.deb'))) {
    await run('dpkg-deb', ['--extract', file, '.'], { cwd: into });
  }
  return path;
}
