/**
 * `meta.properties`: to whom a data directory belongs, in Kafka's form. It is written when the directory is
 * first used, and again when its layout changes. The directory id tells a wiped disk from the one before
 * (K5). `version` is that of the layout, see `data-layout.ts`: a program that knows an older layout only
 * refuses the directory instead of beginning anew in it.
 */
import { utf8Decode, utf8Encode } from '@relevo/base/bytes';
import { brokerId, uuid } from '@relevo/base/ids';
import type { BrokerId, Uuid } from '@relevo/base/ids';
import type { Disk } from '@relevo/base/ports';
import { readFile, replaceFileNow } from './checkpoint-file.ts';
import { LogError } from './log-error.ts';

const FILE = 'meta.properties';

export interface MetaProperties {
  readonly clusterId: string;
  readonly nodeId: BrokerId;
  readonly directoryId: Uuid;
}

/** Of this program's layout, and of the ones that it takes over. */
const LAYOUT_VERSION = 2;
const OLDEST_LAYOUT_VERSION = 1;

export interface FoundProperties extends MetaProperties {
  /** The layout is an older one, or its take-over has not begun. */
  readonly isOldLayout: boolean;
}

/** Undefined when there is none. Throws a LogError (`foreign`) when it cannot be understood. */
export function readMetaProperties(disk: Disk, root: string): FoundProperties | undefined {
  const path = `${root}/${FILE}`;
  const bytes = readFile(disk, path);
  if (bytes === undefined) return undefined;
  const fields = new Map<string, string>();
  for (const line of utf8Decode(bytes).split('\n')) {
    const [, name, value] = /^\s*([^#=\s][^=]*?)\s*=\s*(.*?)\s*$/.exec(line) ?? [];
    if (name !== undefined && value !== undefined) fields.set(name, value);
  }
  try {
    const version = layoutVersion(fields.get('version'), path);
    const clusterId = fields.get('cluster.id');
    if (clusterId === undefined || clusterId === '') throw new RangeError('cluster.id is missing');
    return {
      clusterId,
      nodeId: brokerId(Number(fields.get('node.id'))),
      directoryId: uuid(fields.get('directory.id') ?? ''),
      isOldLayout: version < LAYOUT_VERSION,
    };
  } catch (error) {
    if (!(error instanceof RangeError)) throw error;
    const message = `${path} is damaged: ${error.message}; restore it, or use another data directory`;
    throw new LogError('foreign', message, { cause: error });
  }
}

function layoutVersion(text: string | undefined, path: string): number {
  if (text === undefined || !/^\d{1,9}$/.test(text) || Number(text) < OLDEST_LAYOUT_VERSION) {
    throw new RangeError(`version is ${text ?? 'missing'}`);
  }
  const version = Number(text);
  if (version <= LAYOUT_VERSION) return version;
  const message =
    `${path}: the data directory has layout ${version}, and this program knows layouts up to ` +
    `${LAYOUT_VERSION}; start it with the version of relevo that used it last, or a newer one`;
  throw new LogError('foreign', message);
}

/** Durable when this returns. */
export function writeMetaProperties(disk: Disk, root: string, properties: MetaProperties): void {
  const lines = [
    `version=${LAYOUT_VERSION}`,
    `cluster.id=${properties.clusterId}`,
    `node.id=${properties.nodeId}`,
    `directory.id=${properties.directoryId}`,
  ];
  replaceFileNow(disk, `${root}/${FILE}`, utf8Encode(`${lines.join('\n')}\n`));
}

/** Throws a LogError (`foreign`) when the directory is not this broker's. */
export function checkOwner(
  root: string,
  found: MetaProperties,
  expected: { readonly clusterId?: string | undefined; readonly nodeId: BrokerId },
): void {
  if (expected.clusterId !== undefined && found.clusterId !== expected.clusterId) {
    throw new LogError(
      'foreign',
      `${root} holds data of cluster ${found.clusterId}, this is cluster ${expected.clusterId}; ` +
        'use another data directory, or move that one away',
    );
  }
  if (found.nodeId !== expected.nodeId) {
    throw new LogError(
      'foreign',
      `${root} holds data of broker ${found.nodeId}, this is broker ${expected.nodeId}; ` +
        'correct the broker id or the data directory',
    );
  }
}
