/**
 * Packs the microservices of packages/examples for a container image:
 *
 *     node deploy/examples.mjs FOLDER
 */
import { rmSync } from 'node:fs';
import { dirname, join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { build } from 'esbuild';
import { LOADED_WHEN_WANTED, OUTSIDE_THE_PACK } from './bundle-outside.mjs';
import { copyPackages } from './copy-packages.mjs';

const ROOT = resolve(dirname(fileURLToPath(import.meta.url)), '..');

const target = process.argv[2];
if (target === undefined) {
  console.error('usage: node deploy/examples.mjs FOLDER');
  process.exit(2);
}
rmSync(target, { recursive: true, force: true });
const source = join(ROOT, 'packages', 'examples', 'src');
await build({
  absWorkingDir: ROOT,
  entryPoints: [join(source, 'producer.ts'), join(source, 'consumer.ts')],
  outdir: target,
  outExtension: { '.js': '.mjs' },
  bundle: true,
  platform: 'node',
  format: 'esm',
  target: 'node20',
  conditions: ['@relevo/source'],
  external: [...OUTSIDE_THE_PACK, ...LOADED_WHEN_WANTED],
  // Packed CommonJS modules ask for Node.js' own modules by this name.
  banner: {
    js: "import { createRequire as requireFrom } from 'node:module'; const require = requireFrom(import.meta.url);",
  },
  logLevel: 'warning',
});
copyPackages(
  OUTSIDE_THE_PACK.filter((name) => !name.includes('grpc')),
  target,
);
