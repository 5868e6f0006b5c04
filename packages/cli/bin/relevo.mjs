#!/usr/bin/env node
/**
 * `npx relevo`. In a checkout of the workspace it first sees to it that what runs is what the sources
 * say; installed as a package there is nothing to see to.
 */
import { existsSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

const bootstrap = new URL('../../../deploy/bootstrap.mjs', import.meta.url);
if (existsSync(fileURLToPath(bootstrap))) {
  const { prepare } = await import(bootstrap.href);
  prepare();
}
await import('./launch.cjs');
