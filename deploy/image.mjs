/**
 * What a container image holds of Relevo, and nothing else:
 *
 *     node deploy/image.mjs FOLDER
 *
 * copies the pack of deploy/bundle.mjs with its code cache, the launcher, and the packages that stay
 * outside the pack with all that they depend on, as the lock file installed them.
 */
import { chmodSync, cpSync, mkdirSync, rmSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { LOADED_WHEN_WANTED, OUTSIDE_THE_PACK } from './bundle-outside.mjs';
import { copyPackages } from './copy-packages.mjs';

const ROOT = resolve(dirname(fileURLToPath(import.meta.url)), '..');
const CLI = join(ROOT, 'packages', 'cli');
const target = process.argv[2];
if (target === undefined) {
  console.error('usage: node deploy/image.mjs FOLDER');
  process.exit(2);
}
rmSync(target, { recursive: true, force: true });

const launcher = join(resolve(target), 'packages', 'cli');
mkdirSync(join(launcher, 'bin'), { recursive: true });
mkdirSync(join(launcher, 'dist'), { recursive: true });
cpSync(join(CLI, 'bin', 'launch.cjs'), join(launcher, 'bin', 'launch.cjs'));
chmodSync(join(launcher, 'bin', 'launch.cjs'), 0o755);
const cache = `relevo.${process.version}-${process.arch}.cache`;
for (const name of ['relevo.cjs', cache]) {
  cpSync(join(CLI, 'dist', name), join(launcher, 'dist', name));
}
// There are no sources that the pack could be older than.
writeFileSync(join(launcher, 'dist', 'relevo.inputs.json'), '[]');
cpSync(join(ROOT, 'LICENSE'), join(target, 'LICENSE'));

copyPackages([...OUTSIDE_THE_PACK, ...LOADED_WHEN_WANTED], target);

// What is missing shows here, and not with the first call that needs it.
const load = createRequire(join(launcher, 'dist', 'relevo.cjs'));
for (const name of [...OUTSIDE_THE_PACK, ...LOADED_WHEN_WANTED]) load(name);
