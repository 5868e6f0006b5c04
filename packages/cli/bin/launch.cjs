#!/usr/bin/env node
/**
 * Runs the command line as it has been built: from the pack of deploy/bundle.mjs where that is up to
 * date, else module by module. CommonJS, because only there a code cache can be given to V8 on Node.js
 * 20.
 */
'use strict';
const { existsSync, readFileSync, statSync, writeFileSync } = require('node:fs');
const Module = require('node:module');
const { constants } = require('node:os');
const path = require('node:path');
const { pathToFileURL } = require('node:url');
const { Script } = require('node:vm');

const ROOT = path.join(__dirname, '..', '..', '..');
const DIST = path.join(__dirname, '..', 'dist');
const PACK = path.join(DIST, 'relevo.cjs');
const CODE_CACHE = path.join(DIST, `relevo.${process.version}-${process.arch}.cache`);

/**
 * Syncs and reads of files share libuv's threads, which only wait for the disk. With four, thousands of
 * partitions stand in line, and a file system commits what so many syncs at once ask for together.
 */
process.env.UV_THREADPOOL_SIZE ??= '16';

/**
 * The first process of a container is spared the default action of signals (kill(2)): until the command has
 * a handler of its own, this one ends it.
 */
function endAtSignals() {
  for (const signal of ['SIGTERM', 'SIGINT']) {
    const end = () => {
      if (process.listenerCount(signal) === 1) process.exit(128 + constants.signals[signal]);
    };
    process.on(signal, end);
  }
}

/** Whether every module is still as it was when the pack was made. */
function isFresh() {
  const list = path.join(DIST, 'relevo.inputs.json');
  if (!existsSync(list) || !existsSync(PACK)) return false;
  return JSON.parse(readFileSync(list, 'utf8')).every(([name, mtimeMs]) => {
    const found = statSync(path.join(ROOT, name), { throwIfNoEntry: false });
    return found !== undefined && found.mtimeMs === mtimeMs;
  });
}

/** There is no import() in the pack: one would fail in a script that comes out of the cache. */
function compile() {
  const cachedData = existsSync(CODE_CACHE) ? readFileSync(CODE_CACHE) : undefined;
  return new Script(Module.wrap(readFileSync(PACK, 'utf8')), {
    filename: PACK,
    ...(cachedData !== undefined && { cachedData }),
  });
}

function run(script) {
  const module = { exports: {} };
  script.runInThisContext()(module.exports, Module.createRequire(PACK), module, PACK, DIST);
  return module.exports;
}

/** Loads all there is, so that the cache knows the code of every module. */
async function writeCodeCache() {
  const script = compile();
  await run(script).loadEverything();
  writeFileSync(CODE_CACHE, script.createCachedData());
}

if (process.pid === 1) endAtSignals();
if (process.argv[2] === '--write-code-cache') void writeCodeCache();
else if (isFresh()) void run(compile()).main();
else void import(pathToFileURL(path.join(DIST, 'main.js')).href);
