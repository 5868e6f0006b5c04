import { mkdirSync, mkdtempSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, relative } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { readConfig } from '@relevo/server/config/config-file';

let directory = '';
beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'relevo-config-'));
});
afterEach(() => rmSync(directory, { recursive: true }));

function configure(logDir: string): string {
  const file = join(directory, 'broker-1.yaml');
  const voters = 'controller.quorum.voters: "1@127.0.0.1:9093"';
  writeFileSync(
    file,
    `cluster.id: "one"\nnode.id: 1\n${voters}\nlog.dir: ${JSON.stringify(logDir)}\n`,
  );
  return file;
}

describe('a path in the configuration', () => {
  test('of the file is relative to the file, and absolute if it is', () => {
    const file = configure('broker-1');
    expect(readConfig(file, {})['log.dir']).toBe(join(directory, 'broker-1'));
    expect(readConfig(relative('', file), {})['log.dir']).toBe(join(directory, 'broker-1'));
    expect(readConfig(configure('/srv/broker-1'), {})['log.dir']).toBe('/srv/broker-1');
  });

  test('of the environment and of flags is as it is', () => {
    const file = configure('broker-1');
    expect(readConfig(file, { flags: { 'log.dir': 'x' } })['log.dir']).toBe('x');
    expect(readConfig(file, { environment: { RELEVO_LOG_DIR: 'y' } })['log.dir']).toBe('y');
  });

  test('is no way past data that lies where it would be relative to the working directory', () => {
    const here = join(directory, 'here');
    const logDir = relative('', here);
    // So deep that it leads elsewhere from the file.
    const deep = join(directory, 'a/b/c/d/e/f/g/h');
    mkdirSync(deep, { recursive: true });
    const file = join(deep, 'broker-1.yaml');
    renameSync(configure(logDir), file);
    mkdirSync(here);
    writeFileSync(join(here, 'meta.properties'), '');
    expect(() => readConfig(file, {})).toThrow(
      `${file}: log.dir ${logDir} is relative to the file and means ${join(deep, logDir)}, where no ` +
        `data is; there is some in ${here}: set log.dir to that, or move the data`,
    );
  });
});
