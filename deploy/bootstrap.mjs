/**
 * What stands between a fresh clone and a running program; it needs Node.js and nothing else.
 *
 *     node deploy/bootstrap.mjs start [options of `relevo start`]
 *     node deploy/bootstrap.mjs test  [options of `vitest run`]
 *     node deploy/bootstrap.mjs run FILE [arguments]
 *     node deploy/bootstrap.mjs build
 *
 * Installs from the lock file and builds, each only when missing or out of date, with a line for each
 * step; nothing is printed and next to no time passes when there is nothing to do.
 */
import { spawn, spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import {
  existsSync,
  mkdirSync,
  readFileSync,
  readdirSync,
  realpathSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { constants } from 'node:os';
import { dirname, join, resolve } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';

const ROOT = resolve(dirname(fileURLToPath(import.meta.url)), '..');
const STAMPS = join(ROOT, 'node_modules', '.cache', 'relevo');
const NODE_MIN = [20, 19];
/** How often to look whether another process has ended its build. */
const LOCK_POLL_MS = 100;
const LOCK_EMPTY_MAX_MS = 10_000;

/** Makes the workspace ready: the right Node.js, dependencies installed, packages built. */
export function prepare() {
  checkNode();
  install();
  build();
}

function checkNode() {
  const [major = 0, minor = 0] = process.versions.node.split('.').map(Number);
  if (major > NODE_MIN[0] || (major === NODE_MIN[0] && minor >= NODE_MIN[1])) return;
  fail(
    `Relevo needs Node.js ${NODE_MIN.join('.')} or newer and this is ${process.versions.node}; ` +
      'install a newer one (https://nodejs.org) and run the command again',
  );
}

// ------------------------------------------------------------------------------------------ install

/** `npm ci`, unless what is installed is what the lock file asks for. */
function install() {
  const lock = readFileSync(join(ROOT, 'package-lock.json'));
  const wanted = createHash('sha256').update(lock).digest('hex');
  if (readStamp('install') === wanted) return;
  if (!installedMatches(JSON.parse(lock.toString()))) {
    step('installing dependencies (npm ci)', () => npm('ci'));
  }
  writeStamp('install', wanted);
}

/**
 * Whether node_modules, by npm's own account of it, holds what the lock file names. Packages for
 * other platforms are in the lock file alone, so optional ones may be missing.
 */
function installedMatches(lock) {
  const account = join(ROOT, 'node_modules', '.package-lock.json');
  if (!existsSync(account)) return false;
  const installed = JSON.parse(readFileSync(account, 'utf8')).packages;
  return Object.entries(lock.packages).every(([path, wanted]) => {
    if (!path.startsWith('node_modules/')) return true;
    const found = installed[path];
    if (found === undefined) return wanted.optional === true || wanted.peer === true;
    return found.version === wanted.version && found.integrity === wanted.integrity;
  });
}

function npm(...args) {
  const cli = process.env.npm_execpath;
  return cli !== undefined && cli.endsWith('.js')
    ? run(process.execPath, [cli, ...args])
    : run(process.platform === 'win32' ? 'npm.cmd' : 'npm', args);
}

// -------------------------------------------------------------------------------------------- build

/**
 * `tsc -b` of the command line and all below it, unless sources and settings are those of the last
 * good build and its output is there.
 */
function build() {
  if (isBuilt()) return;
  alone(() => {
    // Another process may have done it meanwhile.
    if (isBuilt()) return;
    const sources = fingerprint();
    const tsc = join(ROOT, 'node_modules', 'typescript', 'bin', 'tsc');
    step('building (tsc -b)', () => run(process.execPath, [tsc, '-b', 'packages/cli']));
    const bundler = join(ROOT, 'deploy', 'bundle.mjs');
    step('packing (deploy/bundle.mjs)', () => run(process.execPath, [bundler]));
    writeStamp('build', `${sources} ${outputs()}`);
  });
}

const isBuilt = () => readStamp('build') === `${fingerprint()} ${outputs()}`;

/** Two processes that build at the same time would write over each other: the second waits. */
function alone(work) {
  mkdirSync(STAMPS, { recursive: true });
  const lock = join(STAMPS, 'building');
  for (;;) {
    try {
      writeFileSync(lock, String(process.pid), { flag: 'wx' });
      break;
    } catch (error) {
      if (error.code !== 'EEXIST') throw error;
      if (isAbandoned(lock)) rmSync(lock, { force: true });
      Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, LOCK_POLL_MS);
    }
  }
  // A failed step ends the process.
  process.once('exit', () => rmSync(lock, { force: true }));
  work();
  rmSync(lock, { force: true });
}

/** Its process has ended, or never came to writing down which it is. */
function isAbandoned(lock) {
  const found = statSync(lock, { throwIfNoEntry: false });
  if (found === undefined) return false;
  const owner = existsSync(lock) ? readFileSync(lock, 'utf8') : '';
  return owner === '' ? Date.now() - found.mtimeMs > LOCK_EMPTY_MAX_MS : !isAlive(Number(owner));
}

function isAlive(pid) {
  if (!Number.isInteger(pid) || pid <= 0) return false;
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return error.code === 'EPERM';
  }
}

/** Which packages have been built: a letter for each. */
const outputs = () =>
  packageFolders()
    .map((folder) => (existsSync(join(folder, 'dist')) ? 'b' : '-'))
    .join('');

const packageFolders = () =>
  readdirSync(join(ROOT, 'packages'))
    .map((name) => join(ROOT, 'packages', name))
    .filter((folder) => existsSync(join(folder, 'tsconfig.json')));

/** Names, times and sizes of all that a build depends on: a few milliseconds, unlike contents. */
function fingerprint() {
  const hash = createHash('sha256');
  const add = (path) => {
    const { mtimeMs, size } = statSync(path);
    hash.update(`${path}\0${mtimeMs}\0${size}\n`);
  };
  add(join(ROOT, 'tsconfig.json'));
  add(join(ROOT, 'tsconfig.base.json'));
  add(join(ROOT, 'deploy', 'bundle.mjs'));
  for (const folder of packageFolders()) {
    add(join(folder, 'package.json'));
    add(join(folder, 'tsconfig.json'));
    walk(join(folder, 'src'), add);
  }
  return hash.digest('hex');
}

function walk(folder, visit) {
  if (!existsSync(folder)) return;
  const entries = readdirSync(folder, { withFileTypes: true });
  entries.sort((a, b) => (a.name < b.name ? -1 : 1));
  for (const entry of entries) {
    const path = join(folder, entry.name);
    if (entry.isDirectory()) walk(path, visit);
    else visit(path);
  }
}

// -------------------------------------------------------------------------------------------- steps

function step(what, work) {
  process.stderr.write(`relevo: ${what} …\n`);
  const started = performance.now();
  const { status, signal, error } = work();
  if (status !== 0) {
    fail(`${what} failed (${error?.message ?? signal ?? `exit code ${status}`}); see above`);
  }
  const seconds = ((performance.now() - started) / 1000).toFixed(1);
  process.stderr.write(`relevo: ${what}: done in ${seconds} s\n`);
}

/** Runs a program to its end; its output goes to stderr, so that ours stays clean. */
const run = (program, args) => spawnSync(program, args, { cwd: ROOT, stdio: ['ignore', 2, 2] });

function readStamp(name) {
  const path = join(STAMPS, name);
  return existsSync(path) ? readFileSync(path, 'utf8') : undefined;
}

function writeStamp(name, value) {
  mkdirSync(STAMPS, { recursive: true });
  writeFileSync(join(STAMPS, name), value);
}

function fail(message) {
  process.stderr.write(`relevo: ${message}\n`);
  process.exit(1);
}

/** Becomes another Node.js program, as far as Node.js allows: its streams, signals and exit code. */
function become(args) {
  const child = spawn(process.execPath, args, { cwd: ROOT, stdio: 'inherit' });
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) {
    // A terminal sends the signal to both of us; a supervisor to us alone.
    process.on(signal, () => child.kill(signal));
  }
  child.on('error', (error) => fail(`cannot run node: ${error.message}`));
  child.on('exit', (code, signal) => {
    process.exit(signal === null ? (code ?? 1) : 128 + (constants.signals[signal] ?? 0));
  });
}

// --------------------------------------------------------------------------------------------- main

async function main([command, ...args]) {
  switch (command) {
    case 'start': {
      prepare();
      // In this process: a second one would cost 40 ms of the time to the first record.
      process.argv.splice(2, process.argv.length - 2, 'start', ...args);
      await import(pathToFileURL(join(ROOT, 'packages', 'cli', 'bin', 'launch.cjs')).href);
      return;
    }
    case 'build':
      prepare();
      return;
    case 'test':
      prepare();
      become([join(ROOT, 'node_modules', 'vitest', 'vitest.mjs'), 'run', ...args]);
      return;
    case 'run': {
      const [file, ...rest] = args;
      if (file === undefined) fail('usage: node deploy/bootstrap.mjs run FILE [arguments]');
      if (!existsSync(join(ROOT, file))) fail(`there is no program ${file} in ${ROOT}`);
      prepare();
      become(['--import', 'tsx', '--conditions=@relevo/source', file, ...rest]);
      return;
    }
    default:
      fail('usage: node deploy/bootstrap.mjs start|test|build|run FILE [arguments]');
  }
}

if (
  process.argv[1] !== undefined &&
  realpathSync(process.argv[1]) === fileURLToPath(import.meta.url)
) {
  await main(process.argv.slice(2));
}
