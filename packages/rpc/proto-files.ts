/** The .proto files, read by protobufjs: what the generator writes from. */
import { readFileSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import protobuf from 'protobufjs';

const PROTO = join(import.meta.dirname, '..', '..', 'proto');

/** A .proto file and what it declares, in its order. */
export interface ProtoFile {
  /** Relative to `proto/`: relevo/client/v1/produce.proto */
  readonly path: string;
  /** Relative to `src/gen/`: client/produce */
  readonly module: string;
  readonly source: string;
  readonly types: readonly protobuf.Type[];
  readonly enums: readonly protobuf.Enum[];
  readonly services: readonly protobuf.Service[];
}

export const protoPaths = (): readonly string[] =>
  readdirSync(PROTO, { recursive: true, encoding: 'utf8' })
    .map((path) => path.replaceAll('\\', '/'))
    .filter((path) => path.endsWith('.proto'))
    .sort();

/** Of a file below `proto/`. */
export const absolutePath = (path: string): string => join(PROTO, path);

/** All of `proto/`, with comments; field names in camelCase. */
export function loadRoot(): protobuf.Root {
  const root = new protobuf.Root();
  root.resolvePath = (_origin, target) => join(PROTO, target.replace(`${PROTO}/`, ''));
  root.loadSync([...protoPaths()], {
    alternateCommentMode: true,
    preferTrailingComment: false,
  });
  root.resolveAll();
  return root;
}

export function loadProto(): readonly ProtoFile[] {
  const root = loadRoot();
  const declared: protobuf.ReflectionObject[] = [];
  collect(root, declared);
  return protoPaths().map((path) => {
    const own = declared.filter((object) => object.filename?.endsWith(path));
    return {
      path,
      module: moduleOf(path),
      source: readFileSync(join(PROTO, path), 'utf8'),
      types: own.filter((object) => object instanceof protobuf.Type),
      enums: own.filter((object) => object instanceof protobuf.Enum),
      services: own.filter((object) => object instanceof protobuf.Service),
    };
  });
}

function collect(namespace: protobuf.NamespaceBase, into: protobuf.ReflectionObject[]): void {
  for (const object of namespace.nestedArray) {
    if (object instanceof protobuf.Type && object.nestedArray.length > 0) {
      throw new Error(`${object.fullName} declares types within it: declare them beside it`);
    }
    const declares =
      object instanceof protobuf.Type ||
      object instanceof protobuf.Enum ||
      object instanceof protobuf.Service;
    if (declares) into.push(object);
    else if (object instanceof protobuf.Namespace) collect(object, into);
  }
}

/** relevo/client/v1/metadata_records.proto → client/metadata-records */
export function moduleOf(path: string): string {
  const parts = /^relevo\/(\w+)\/v1\/(\w+)\.proto$/.exec(path);
  if (parts === null) throw new Error(`${path} is not of the form relevo/PART/v1/NAME.proto`);
  return `${parts[1]}/${parts[2]?.replaceAll('_', '-')}`;
}
