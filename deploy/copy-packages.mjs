/** Copies installed packages, with all that they depend on, as the lock file installed them. */
import { cpSync, existsSync, readFileSync } from 'node:fs';
import { dirname, join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';

const ROOT = resolve(dirname(fileURLToPath(import.meta.url)), '..');
/** Of no use at run time. */
const LEFT_OUT =
  /\.(?:d\.[cm]?ts|ts|map|md|markdown|flow)$|[\\/](?:test|tests|docs|example|examples)$/i;

/** What `packages/runtime` finds under these names, into `target`/node_modules. */
export function copyPackages(names, target) {
  const copied = new Set();
  const copy = (name, from) => {
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
  };
  for (const name of names) {
    const found = copy(name, join(ROOT, 'packages', 'runtime'));
    if (!found) throw new Error(`${name} is not installed: run npm ci`);
  }
}

/** As Node.js looks for it: beside the package, then in each folder above. */
function find(name, from) {
  for (let folder = from; folder.startsWith(ROOT); folder = dirname(folder)) {
    const candidate = join(folder, 'node_modules', name);
    if (existsSync(join(candidate, 'package.json'))) return candidate;
  }
  return undefined;
}
