/**
 * File descriptors of `proto/` and of the standard health service, as protoc would write them: protobufjs'
 * own are not what protobuf asks for (relative type names, no imports, map entries under other names), and
 * tools that are stricter than protobufjs, such as grpcurl, refuse them.
 *
 * Source: google/protobuf/descriptor.proto
 */
import { readFileSync } from 'node:fs';
import { protoPath as healthProtoPath } from 'grpc-health-check';
import protobuf from 'protobufjs';
import descriptor from 'protobufjs/ext/descriptor/index.js';
import type {
  IDescriptorProto,
  IEnumDescriptorProto,
  IFieldDescriptorProto,
  IServiceDescriptorProto,
} from 'protobufjs/ext/descriptor/index.js';
import { absolutePath, protoPaths } from './proto-files.ts';

/** The name under which everybody imports it. */
const HEALTH = 'grpc/health/v1/health.proto';

/** Encoded `FileDescriptorProto`s; a file comes after those that it imports. */
export function fileDescriptors(): readonly Uint8Array[] {
  const root = new protobuf.Root();
  const sources = new Map(
    [
      ...protoPaths().map((path) => [path, absolutePath(path)] as const),
      [HEALTH, healthProtoPath],
    ].map(([name = '', path = '']) => [name, readFileSync(path, 'utf8')]),
  );
  const files = [...sources].map(([name, source]) => fileOf(name, source, root));
  root.resolveAll();
  const written = new Map<string, Uint8Array>();
  const write = (file: File): void => {
    if (written.has(file.name)) return;
    for (const imported of file.imports) {
      const found = files.find(({ name }) => name === imported);
      if (found === undefined) throw new Error(`${file.name} imports ${imported}: no such file`);
      write(found);
    }
    written.set(file.name, encode(file));
  };
  files.forEach(write);
  return [...written.values()];
}

interface File {
  readonly name: string;
  readonly package: string;
  readonly imports: readonly string[];
  readonly declared: readonly protobuf.ReflectionObject[];
}

function fileOf(name: string, source: string, root: protobuf.Root): File {
  const before = new Set(all(root));
  const parsed = protobuf.parse(source, root, { keepCase: true });
  if (parsed.package === undefined) throw new Error(`${name} names no package`);
  return {
    name,
    package: parsed.package,
    imports: parsed.imports ?? [],
    declared: all(root).filter((object) => !before.has(object)),
  };
}

/** What is declared in packages, not within messages. */
const all = (namespace: protobuf.NamespaceBase): readonly protobuf.ReflectionObject[] =>
  namespace.nestedArray.flatMap((object) =>
    object instanceof protobuf.Namespace &&
    !(object instanceof protobuf.Type || object instanceof protobuf.Service)
      ? all(object)
      : [object],
  );

function encode({ name, package: package_, imports, declared }: File): Uint8Array {
  const message = descriptor.FileDescriptorProto.fromObject({
    name,
    package: package_,
    dependency: imports,
    messageType: declared.filter((object) => object instanceof protobuf.Type).map(messageOf),
    enumType: declared.filter((object) => object instanceof protobuf.Enum).map(enumOf),
    service: declared.filter((object) => object instanceof protobuf.Service).map(serviceOf),
    syntax: 'proto3',
  });
  return descriptor.FileDescriptorProto.encode(message).finish();
}

function messageOf(type: protobuf.Type): IDescriptorProto {
  refuse(type, isGiven(type.reserved) || isGiven(type.extensions), 'reserved or extensions');
  // Those of `optional` fields, which no author has written, have to come last.
  const oneofs = type.oneofsArray.toSorted(
    (a, b) => Number(isSynthetic(a)) - Number(isSynthetic(b)),
  );
  const maps = type.fieldsArray.filter((field) => field instanceof protobuf.MapField);
  return {
    name: type.name,
    field: type.fieldsArray.map((field) => fieldOf(field, oneofs)),
    nestedType: [
      ...type.nestedArray.filter((object) => object instanceof protobuf.Type).map(messageOf),
      ...maps.map(entryOf),
    ],
    enumType: type.nestedArray.filter((object) => object instanceof protobuf.Enum).map(enumOf),
    oneofDecl: oneofs.map(({ name }) => ({ name })),
  };
}

function fieldOf(field: protobuf.Field, oneofs: readonly protobuf.OneOf[]): IFieldDescriptorProto {
  const { proto3_optional: optional = false, ...others } = field.options ?? {};
  refuse(field, Object.keys(others).length > 0, `options (${Object.keys(others).join(', ')})`);
  const isMap = field instanceof protobuf.MapField;
  const type = isMap
    ? { type: fieldType('message'), typeName: `${field.parent?.fullName}.${entryName(field)}` }
    : typeOf(field);
  return {
    name: field.name,
    number: field.id,
    label: field.repeated || isMap ? LABEL.repeated : LABEL.optional,
    ...type,
    jsonName: jsonName(field.name),
    ...(field.partOf !== null && { oneofIndex: oneofs.indexOf(field.partOf) }),
    ...(optional === true && { proto3Optional: true }),
  };
}

const isSynthetic = ({ fieldsArray: [field] }: protobuf.OneOf): boolean =>
  field?.options?.['proto3_optional'] === true;

/** A map is a list of messages with a key and a value. */
function entryOf(field: protobuf.MapField): IDescriptorProto {
  const member = (name: string, number: number): IFieldDescriptorProto => ({
    name,
    number,
    label: LABEL.optional,
    jsonName: name,
  });
  return {
    name: entryName(field),
    field: [
      { ...member('key', 1), type: fieldType(field.keyType) },
      { ...member('value', 2), ...typeOf(field) },
    ],
    options: { mapEntry: true },
  };
}

const LABEL = { optional: 1, repeated: 3 } as const;

function fieldType(name: string): number {
  const found = descriptor.FieldDescriptorProto.getEnum('Type')[`TYPE_${name.toUpperCase()}`];
  if (found === undefined) throw new Error(`descriptor.proto has no type ${name}`);
  return found;
}

/** By its full name with a dot before it, which no scope can change. */
function typeOf(field: Pick<protobuf.FieldBase, 'type' | 'resolvedType'>): {
  type: number;
  typeName?: string;
} {
  const { type, resolvedType } = field;
  if (resolvedType === null) return { type: fieldType(type) };
  const kind = resolvedType instanceof protobuf.Enum ? 'enum' : 'message';
  return { type: fieldType(kind), typeName: resolvedType.fullName };
}

const enumOf = (type: protobuf.Enum): IEnumDescriptorProto => ({
  name: type.name,
  value: Object.entries(type.values).map(([name, number]) => ({ name, number })),
});

const serviceOf = (service: protobuf.Service): IServiceDescriptorProto => ({
  name: service.name,
  method: service.methodsArray.map((method) => ({
    name: method.name,
    inputType: method.resolvedRequestType?.fullName ?? '',
    outputType: method.resolvedResponseType?.fullName ?? '',
    clientStreaming: method.requestStream === true,
    serverStreaming: method.responseStream === true,
  })),
});

/** replication_factor → replicationFactor */
const jsonName = (name: string): string =>
  name.replaceAll(/_+(.?)/g, (_, next: string) => next.toUpperCase());

const entryName = ({ name }: protobuf.FieldBase): string => `${jsonName(`_${name}`)}Entry`;

/** What protobufjs declares as a list may not be there. */
const isGiven = (list: readonly unknown[] | undefined): boolean =>
  list !== undefined && list.length > 0;

function refuse(object: protobuf.ReflectionObject, found: boolean, what: string): void {
  if (found) throw new Error(`${object.fullName} has ${what}: teach packages/rpc/descriptors.ts`);
}
