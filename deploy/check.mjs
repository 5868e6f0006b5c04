/**
 * `npm run check`: everything about the source that can be checked without running it. All steps are
 * run even when one fails; `npm run check -- lint format` runs those alone.
 */
import { spawnSync } from 'node:child_process';
import { existsSync, readFileSync, readdirSync } from 'node:fs';
import { dirname, join, relative, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';

const ROOT = resolve(dirname(fileURLToPath(import.meta.url)), '..');
const GENERATED = join(ROOT, 'packages', 'rpc', 'src', 'gen');
const NODE_TS = ['--import', 'tsx', '--conditions=@relevo/source'];

const STEPS = {
  /** Types of packages, programs and tests. */
  types: () => tool('tsc', '-b'),
  /** Bugs, floating promises, and what the layers may not touch (.oxlintrc.json). */
  lint: () => tool('oxlint', '--type-aware', '--report-unused-disable-directives'),
  format: () =>
    tool(
      'prettier',
      '--check',
      '--cache',
      '--cache-strategy',
      'content',
      '--log-level',
      'warn',
      '.',
    ),
  /** Unused files, exports and dependencies (knip.json). */
  dead: () => tool('knip', '--no-progress', '--no-config-hints'),
  /** The generated code is what the generator gives today. */
  generated: () => generated(),
};

function main(asked) {
  const unknown = asked.filter((name) => !(name in STEPS));
  if (unknown.length > 0) {
    process.stderr.write(
      `no such check: ${unknown.join(', ')} (there are: ${Object.keys(STEPS).join(', ')})\n`,
    );
    process.exit(2);
  }
  const failed = [];
  for (const [name, run] of Object.entries(STEPS)) {
    if (asked.length > 0 && !asked.includes(name)) continue;
    const started = performance.now();
    const { ok, output } = run();
    const seconds = ((performance.now() - started) / 1000).toFixed(1);
    if (output.trim() !== '') process.stdout.write(`${output.trimEnd()}\n`);
    process.stdout.write(
      `${ok ? 'ok    ' : 'FAILED'} ${name.padEnd(10)} ${seconds.padStart(6)} s\n`,
    );
    if (!ok) failed.push(name);
  }
  if (failed.length > 0) {
    process.stdout.write(`check failed: ${failed.join(', ')}\n`);
    process.exit(1);
  }
}

/** Runs a program of node_modules/.bin. */
function tool(name, ...args) {
  return run(join(ROOT, 'node_modules', '.bin', name), args);
}

function run(program, args) {
  const { status, stdout, stderr, error } = spawnSync(program, args, {
    cwd: ROOT,
    encoding: 'utf8',
    maxBuffer: 64 * 1024 * 1024,
  });
  const output = `${stdout ?? ''}${stderr ?? ''}${error === undefined ? '' : `${error.message}\n`}`;
  return { ok: status === 0, output };
}

/** Runs the generator in place; what it changes is named, and left for the commit. */
function generated() {
  const generator = join(ROOT, 'packages', 'rpc', 'generate.ts');
  if (!existsSync(generator)) return { ok: false, output: `there is no generator at ${generator}` };
  const before = contents(GENERATED);
  const { ok, output } = run(process.execPath, NODE_TS.concat(generator));
  if (!ok) return { ok, output };
  const after = contents(GENERATED);
  if (after.size === 0) return { ok: false, output: `the generator wrote nothing to ${GENERATED}` };
  const names = [...new Set([...before.keys(), ...after.keys()])];
  const changed = names.filter((name) => before.get(name) !== after.get(name));
  if (changed.length === 0) return { ok: true, output: '' };
  const list = changed.join('\n  ');
  return { ok: false, output: `these were not what the generator gives; commit them:\n  ${list}` };
}

/** Path below `folder` → text, of all files in it. */
function contents(folder) {
  if (!existsSync(folder)) return new Map();
  const files = readdirSync(folder, { recursive: true, withFileTypes: true }).filter((entry) =>
    entry.isFile(),
  );
  return new Map(
    files.map((entry) => {
      const path = join(entry.parentPath, entry.name);
      return [relative(ROOT, path), readFileSync(path, 'utf8')];
    }),
  );
}

main(process.argv.slice(2));
