/**
 * What a container image holds of Relevo, and nothing else:
 *
 *     node deploy/image.mjs FOLDER
 *
 * copies the pack of deploy/bundle.mjs with its code cache, the launcher, and the packages that stay
 * outside the pack with all that they depend on, as the lock file installed them.
 */
import { cpSync, existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { LOADED_WHEN_WANTED, OUTSIDE_THE_PACK } from './bundle-outside.mjs';

const ROOT = resolve(dirname(fileURLToPath(import.meta.url)), '..');
const CLI = join(ROOT, 'packages', 'cli');
/** Of no use at run time. */
const LEFT_OUT =
  /\.(?:d\.[cm]?ts|ts|map|md|markdown|flow)$|[\\/](?:test|tests|docs|example|examples)$/i;

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
const cache = `relevo.${process.version}-${process.arch}.cache`;
for (const name of ['relevo.cjs', cache]) {
  cpSync(join(CLI, 'dist', name), join(launcher, 'dist', name));
}
// There are no sources that the pack could be older than.
writeFileSync(join(launcher, 'dist', 'relevo.inputs.json'), '[]');
cpSync(join(ROOT, 'LICENSE'), join(target, 'LICENSE'));

/** By the folder that holds it, so that a version of its own comes along where a package has one. */
const copied = new Set();

function copy(name, from) {
  const folder = find(name, from);
  if (folder === undefined) return false;
  if (copied.has(folder)) return true;
  copied.add(folder);
  cpSync(folder, join(target, folder.slice(ROOT.length)), {
    recursive: true,
    filter: (path) => !LEFT_OUT.test(path) && path !== join(folder, 'node_modules'),
  });
  const {
    dependencies = {},
    peerDependencies = {},
    peerDependenciesMeta = {},
    optionalDependencies = {},
  } = JSON.parse(readFileSync(join(folder, 'package.json'), 'utf8'));
  for (const dependency of Object.keys({ ...dependencies, ...peerDependencies })) {
    if (optionalDependencies[dependency] !== undefined) continue;
    if (peerDependenciesMeta[dependency]?.optional === true) continue;
    if (!copy(dependency, folder)) {
      throw new Error(`${dependency}, which ${name} needs, is not installed: run npm ci`);
    }
  }
  // Native code for this platform; what is for others is not installed.
  for (const dependency of Object.keys(optionalDependencies)) copy(dependency, folder);
  return true;
}

/** As Node.js looks for it: beside the package, then in each folder above. */
function find(name, from) {
  for (let folder = from; folder.startsWith(ROOT); folder = dirname(folder)) {
    const candidate = join(folder, 'node_modules', name);
    if (existsSync(join(candidate, 'package.json'))) return candidate;
  }
  return undefined;
}

for (const name of [...OUTSIDE_THE_PACK, ...LOADED_WHEN_WANTED]) {
  const runtime = join(ROOT, 'packages', 'runtime');
  if (!copy(name, runtime)) throw new Error(`${name} is not installed: run npm ci`);
}

// What is missing shows here, and not with the first call that needs it.
const load = createRequire(join(launcher, 'dist', 'relevo.cjs'));
for (const name of [...OUTSIDE_THE_PACK, ...LOADED_WHEN_WANTED]) load(name);
