/**
 * Reads a node's configuration from its file, the environment and flags. Paths in the file are relative to
 * the file, so that a directory which holds both can be moved and copied; those of the environment and
 * of flags are relative to where the program runs.
 */
import { existsSync, readFileSync } from 'node:fs';
import { dirname, join, resolve } from 'node:path';
import { messageOf } from '@relevo/base/errors';
import { parse } from 'yaml';
import { ConfigError, resolveConfig, type ConfigSources, type NodeConfig } from './node-config.ts';

/** Stands in every data directory that was ever used. */
const OWNER_FILE = 'meta.properties';

/** Throws a ConfigError that names all mistakes. Without a file the other sources are all there is. */
export function readConfig(
  file: string | undefined,
  sources: Pick<ConfigSources, 'environment' | 'flags'>,
): NodeConfig {
  if (file === undefined) return resolveConfig(sources);
  let text: string;
  try {
    text = readFileSync(file, 'utf8');
  } catch (error) {
    throw new ConfigError(`the configuration file cannot be read: ${messageOf(error)}`);
  }
  let parsed: unknown;
  try {
    parsed = parse(text);
  } catch (error) {
    throw new ConfigError(`${file} is not YAML: ${messageOf(error)}`);
  }
  const directory = dirname(resolve(file));
  return resolveConfig({
    ...sources,
    file: parsed,
    fileName: file,
    pathFrom: (path) => besideFile(file, directory, path),
  });
}

/** Throws where the data seems to lie where it would be relative to the working directory. */
function besideFile(file: string, directory: string, path: string): string {
  const beside = resolve(directory, path);
  const here = resolve(path);
  if (beside === here || !isUsed(here) || isUsed(beside)) return beside;
  throw new ConfigError(
    `${file}: log.dir ${path} is relative to the file and means ${beside}, where no data is; there is ` +
      `some in ${here}: set log.dir to that, or move the data`,
  );
}

const isUsed = (directory: string): boolean => existsSync(join(directory, OWNER_FILE));
