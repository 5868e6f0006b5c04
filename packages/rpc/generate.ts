/**
 * Writes `src/gen/` from `proto/`: for each .proto file a module with an interface, a maker and a codec
 * for each message and the method descriptors of each service; and one with the descriptors of all, for
 * server reflection. The same input gives the same output, byte for byte.
 *
 *     npm run generate
 */
import { mkdirSync, readFileSync, readdirSync, realpathSync, rmSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { format } from 'prettier';
import protobuf from 'protobufjs';

const PACKAGE = dirname(fileURLToPath(import.meta.url));
const PROTO = join(PACKAGE, '..', '..', 'proto');
const OUTPUT = join(PACKAGE, 'src', 'gen');
const COLUMNS = 100;

/** A .proto file and what it declares, in its order. */
interface ProtoFile {
  /** Relative to `proto/`: relevo/client/v1/produce.proto */
  readonly path: string;
  /** Relative to `src/gen/`: client/produce */
  readonly module: string;
  readonly source: string;
  readonly types: readonly protobuf.Type[];
  readonly enums: readonly protobuf.Enum[];
  readonly services: readonly protobuf.Service[];
}

/** The generated files by their path under `src/gen/`. */
export async function generate(): Promise<ReadonlyMap<string, string>> {
  const files = loadProto();
  const output = new Map<string, string>();
  for (const file of files) {
    output.set(`${file.module}.ts`, await pretty(moduleSource(file)));
  }
  output.set('descriptor.ts', await pretty(descriptorSource(files)));
  return output;
}

const pretty = (source: string): Promise<string> =>
  format(source, { parser: 'typescript', printWidth: COLUMNS, singleQuote: true });

// --------------------------------------------------------------------------------------------- input

export const protoPaths = (): readonly string[] =>
  readdirSync(PROTO, { recursive: true, encoding: 'utf8' })
    .map((path) => path.replaceAll('\\', '/'))
    .filter((path) => path.endsWith('.proto'))
    .sort();

/** All of `proto/`, with comments; field names as `keepCase` says. */
export function loadRoot(keepCase: boolean): protobuf.Root {
  const root = new protobuf.Root();
  root.resolvePath = (_origin, target) => join(PROTO, target.replace(`${PROTO}/`, ''));
  root.loadSync([...protoPaths()], {
    keepCase,
    alternateCommentMode: true,
    preferTrailingComment: false,
  });
  return root.resolveAll();
}

function loadProto(): readonly ProtoFile[] {
  const root = loadRoot(false);
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
function moduleOf(path: string): string {
  const parts = /^relevo\/(\w+)\/v1\/(\w+)\.proto$/.exec(path);
  if (parts === null) throw new Error(`${path} is not of the form relevo/PART/v1/NAME.proto`);
  return `${parts[1]}/${parts[2]?.replaceAll('_', '-')}`;
}

// -------------------------------------------------------------------------------------------- modules

/** Collects what a module needs from elsewhere while its body is written. */
class Imports {
  readonly #file: ProtoFile;
  readonly #byModule = new Map<string, Set<string>>();

  constructor(file: ProtoFile) {
    this.#file = file;
  }

  use(module: string, name: string): string {
    const names = this.#byModule.get(module) ?? new Set();
    this.#byModule.set(module, names.add(name));
    return name;
  }

  wire(name: string): string {
    return this.use('../../wire.ts', name);
  }

  /** A name of another proto file's module; nothing to import where it is our own. */
  generated(object: protobuf.ReflectionObject, name: string, type: boolean): string {
    const path = protoPaths().find((candidate) => object.filename?.endsWith(candidate)) ?? '';
    const module = moduleOf(path);
    if (module !== this.#file.module) this.use(`../${module}.ts`, type ? `type ${name}` : name);
    return name;
  }

  toString(): string {
    return [...this.#byModule]
      .sort(([a], [b]) => (a < b ? -1 : 1))
      .map(([module, names]) => importOf(module, [...names]))
      .join('\n');
  }
}

/** Of types alone, an import that leaves nothing behind at run time. */
function importOf(module: string, names: readonly string[]): string {
  const bare = (name: string): string => name.replace(/^type /, '');
  const sorted = names.toSorted((a, b) => (bare(a) < bare(b) ? -1 : 1));
  return names.every((name) => name.startsWith('type '))
    ? `import type { ${sorted.map(bare).join(', ')} } from '${module}';`
    : `import { ${sorted.join(', ')} } from '${module}';`;
}

function moduleSource(file: ProtoFile): string {
  const imports = new Imports(file);
  const body = [
    ...file.enums.map(enumSource),
    ...file.types.map((type) => messageSource(type, imports)),
    ...file.services.map((service) => serviceSource(service, imports)),
  ];
  const about =
    /^((?:\/\/.*\n)+)/
      .exec(file.source)?.[1]
      ?.replaceAll(/^\/\/ ?/gm, '')
      .trim() ?? '';
  const head = doc(
    `Generated by packages/rpc/generate.ts from proto/${file.path};\nchange that and run \`npm run generate\`.\n\n${about}`,
  );
  return `${head}${imports.toString()}\n\n${body.join('\n')}`;
}

/** A docstring; empty where there is nothing to say. */
function doc(text: string | null | undefined): string {
  if (text === null || text === undefined || text.trim() === '') return '';
  const lines = text.trim().replaceAll('*/', '*\\/').split('\n');
  if (lines.length === 1 && (lines[0] ?? '').length < COLUMNS - 10) return `/** ${lines[0]} */\n`;
  return `/**\n${lines.map((line) => ` * ${line}`.trimEnd()).join('\n')}\n */\n`;
}

function serviceSource(service: protobuf.Service, imports: Imports): string {
  imports.use('@relevo/base/ports', 'type Method');
  const types: string[] = [];
  const values: string[] = [];
  for (const method of service.methodsArray) {
    const request = resolvedType(method.resolvedRequestType, method);
    const response = resolvedType(method.resolvedResponseType, method);
    const name = lowerFirst(method.name);
    const kind = kindOf(method);
    const typeName = (type: protobuf.Type): string => imports.generated(type, type.name, true);
    const codec = (type: protobuf.Type): string => imports.generated(type, codecOf(type), false);
    types.push(
      `${doc(method.comment)}readonly ${name}: ` +
        `Method<${typeName(request)}, ${typeName(response)}, '${kind}'>;`,
    );
    values.push(
      `${name}: { path: '/${fullName(service)}/${method.name}', kind: '${kind}', ` +
        `request: ${codec(request)}, response: ${codec(response)} },`,
    );
  }
  const name = `${service.name}Service`;
  return (
    `${doc(service.comment)}export interface ${name} {\n${types.join('\n')}\n}\n` +
    `export const ${name}: ${name} = {\n${values.join('\n')}\n};\n`
  );
}

function kindOf(method: protobuf.Method): string {
  if (method.requestStream && !method.responseStream) {
    throw new Error(`${method.fullName}: a stream of requests with one answer is not supported`);
  }
  return method.requestStream ? 'bidi' : method.responseStream ? 'serverStream' : 'unary';
}

function enumSource(type: protobuf.Enum): string {
  const values = Object.entries(type.values).map(
    ([name, number]) => `${doc(type.comments[name])}${name}: ${number},`,
  );
  return `${doc(type.comment)}export const ${type.name} = {\n${values.join('\n')}\n} as const;\n`;
}

function descriptorSource(files: readonly ProtoFile[]): string {
  const head = doc(
    'Generated by packages/rpc/generate.ts from proto/; change that and run `npm run generate`.\n\n' +
      'All of it as protobufjs writes a root to JSON, with the field names of the .proto files: for ' +
      'server\nreflection, without reading files.',
  );
  const services = files.flatMap((file) => file.services.map(fullName));
  return (
    `${head}export const DESCRIPTOR: object = ${JSON.stringify(loadRoot(true).toJSON())};\n\n` +
    `/** The full names of the services. */\n` +
    `export const SERVICES: readonly string[] = ${JSON.stringify(services)};\n`
  );
}

// ------------------------------------------------------------------------------------------- messages

/** How one kind of scalar is written; `{}` stands for the value. */
interface Scalar {
  readonly type: string;
  readonly empty: string;
  readonly wireType: 0 | 2;
  /** Its encoded size without the tag: a number, or a function of wire.ts or of the encoder. */
  readonly size: string;
  /** The method of Encoder and Decoder. */
  readonly method: string;
}

const integer = (method: string): Scalar => ({
  type: 'number',
  empty: '0',
  wireType: 0,
  size: `${method}Size`,
  method,
});

const SCALARS: ReadonlyMap<string, Scalar> = new Map([
  ...['int32', 'uint32', 'sint32', 'int64', 'uint64', 'sint64'].map((name): [string, Scalar] => [
    name,
    integer(name),
  ]),
  ['bool', { type: 'boolean', empty: 'false', wireType: 0, size: '1', method: 'bool' }],
  ['string', { type: 'string', empty: "''", wireType: 2, size: 'stringSize', method: 'string' }],
  [
    'bytes',
    { type: 'Uint8Array', empty: 'NO_BYTES', wireType: 2, size: 'bytesSize', method: 'bytes' },
  ],
]);

/** Local names that the generated readers use themselves. */
const TAKEN = new Set(['decoder', 'end', 'tag', 'packed', 'case', 'default', 'switch', 'new']);

/** Writes the code of one field; `Imports` learns what it takes. */
class FieldWriter {
  readonly field: protobuf.Field;
  readonly name: string;
  readonly #imports: Imports;

  constructor(field: protobuf.Field, imports: Imports) {
    if (TAKEN.has(field.name)) throw new Error(`${field.fullName}: choose another name`);
    this.field = field;
    this.name = field.name;
    this.#imports = imports;
  }

  /** A field that knows whether it is there. */
  get #hasPresence(): boolean {
    const { field } = this;
    return (
      field.options?.['proto3_optional'] === true || field.resolvedType instanceof protobuf.Type
    );
  }

  get #message(): protobuf.Type | undefined {
    const { resolvedType } = this.field;
    return resolvedType instanceof protobuf.Type ? resolvedType : undefined;
  }

  get #scalar(): Scalar {
    const name = this.field.resolvedType instanceof protobuf.Enum ? 'int32' : this.field.type;
    const scalar = SCALARS.get(name);
    if (scalar === undefined) throw new Error(`${this.field.fullName}: ${name} is not supported`);
    return scalar;
  }

  get #packed(): boolean {
    return this.field.repeated && this.#message === undefined && this.#scalar.wireType === 0;
  }

  /** The type of one value. */
  get itemType(): string {
    const message = this.#message;
    if (message !== undefined) return this.#imports.generated(message, message.name, true);
    return this.#scalar.type;
  }

  get type(): string {
    if (this.field instanceof protobuf.MapField) {
      if (this.field.keyType !== 'string' || this.field.type !== 'string') {
        throw new Error(`${this.field.fullName}: of maps only map<string, string> is supported`);
      }
      return 'ReadonlyMap<string, string>';
    }
    if (this.field.repeated) return `readonly ${this.itemType}[]`;
    return this.#hasPresence ? `${this.itemType} | undefined` : this.itemType;
  }

  get declaration(): string {
    return `${doc(this.field.comment)}readonly ${this.name}: ${this.type};`;
  }

  /** What stands for a field that is not there. */
  get empty(): string {
    if (this.field.map) return 'new Map()';
    if (this.field.repeated) return '[]';
    return this.#hasPresence ? 'undefined' : this.#emptyItem;
  }

  get #emptyItem(): string {
    const { empty } = this.#scalar;
    return empty === 'NO_BYTES' ? this.#imports.wire(empty) : empty;
  }

  #tag(wireType: number): number {
    return this.field.id * 8 + wireType;
  }

  get #tagSize(): number {
    return this.field.id < 16 ? 1 : 2;
  }

  #writeTag(wireType: number): string {
    const tag = this.#tag(wireType);
    return tag < 128 ? `encoder.byte(${tag});` : `encoder.varint(${tag});`;
  }

  /** The size of one value without its tag, as an expression. */
  #itemSize(value: string): string {
    const message = this.#message;
    if (message !== undefined) {
      return `encoder.close(encoder.open(), ${this.#callee(message, 'size')}(${value}, encoder))`;
    }
    const { size } = this.#scalar;
    if (size === '1') return size;
    if (size === 'stringSize') return `encoder.stringSize(${value})`;
    return `${this.#imports.wire(size)}(${value})`;
  }

  #writeItem(value: string): string {
    const message = this.#message;
    if (message === undefined) return `encoder.${this.#scalar.method}(${value});`;
    return `encoder.nested(); ${this.#callee(message, 'write')}(${value}, encoder);`;
  }

  #readItem(): string {
    const message = this.#message;
    if (message === undefined) return `decoder.${this.#scalar.method}()`;
    return `${this.#callee(message, 'read')}(decoder, decoder.end())`;
  }

  /** The function of a message's pass: of this module, or of the other module's codec. */
  #callee(message: protobuf.Type, pass: 'size' | 'write' | 'read'): string {
    if (message.filename === this.field.filename) return `${pass}${message.name}`;
    return `${this.#imports.generated(message, codecOf(message), false)}.${pass}`;
  }

  get #wireType(): 0 | 2 {
    return this.#message === undefined ? this.#scalar.wireType : 2;
  }

  /** When a single field is written: it is there, or it is not the default. */
  get #condition(): string {
    const value = `message.${this.name}`;
    if (this.#hasPresence) return `${value} !== undefined`;
    if (this.itemType === 'boolean') return value;
    return this.itemType === 'Uint8Array' ? `${value}.length > 0` : `${value} !== ${this.empty}`;
  }

  get sizeStatement(): string {
    const value = `message.${this.name}`;
    if (this.field.map) {
      const entry = `${this.#imports.wire('mapEntrySize')}(key, value, encoder)`;
      return `for (const [key, value] of ${value}) size += ${this.#tagSize} + ${entry};`;
    }
    if (this.#packed) {
      return `if (${value}.length > 0) {
        const place = encoder.open();
        let packed = 0;
        for (const item of ${value}) packed += ${this.#itemSize('item')};
        size += ${this.#tagSize} + encoder.close(place, packed);
      }`;
    }
    if (this.field.repeated) {
      return `for (const item of ${value}) size += ${this.#tagSize} + ${this.#itemSize('item')};`;
    }
    return `if (${this.#condition}) size += ${this.#tagSize} + ${this.#itemSize(value)};`;
  }

  get writeStatement(): string {
    const value = `message.${this.name}`;
    const tag = this.#writeTag(this.#packed ? 2 : this.#wireType);
    if (this.field.map) {
      const entry = `${this.#imports.wire('writeMapEntry')}(key, value, encoder);`;
      return `for (const [key, value] of ${value}) { ${this.#writeTag(2)} ${entry} }`;
    }
    if (this.#packed) {
      return `if (${value}.length > 0) {
        ${tag} encoder.nested();
        for (const item of ${value}) ${this.#writeItem('item')}
      }`;
    }
    if (this.field.repeated) {
      return `for (const item of ${value}) { ${tag} ${this.#writeItem('item')} }`;
    }
    return `if (${this.#condition}) { ${tag} ${this.#writeItem(value)} }`;
  }

  get local(): string {
    if (this.field.map) return `const ${this.name} = new Map<string, string>();`;
    if (this.field.repeated) return `const ${this.name}: ${this.itemType}[] = [];`;
    return `let ${this.name}: ${this.type} = ${this.empty};`;
  }

  get readCases(): string {
    if (this.field.map) {
      const entry = `${this.#imports.wire('readMapEntry')}(decoder, ${this.name});`;
      return `case ${this.#tag(2)}: ${entry} break;`;
    }
    if (!this.field.repeated) {
      return `case ${this.#tag(this.#wireType)}: ${this.name} = ${this.#readItem()}; break;`;
    }
    const single = `case ${this.#tag(this.#wireType)}: ${this.name}.push(${this.#readItem()}); break;`;
    if (!this.#packed) return single;
    return `${single}
      case ${this.#tag(2)}:
        for (const packed = decoder.end(); decoder.at < packed; ) ${this.name}.push(${this.#readItem()});
        break;`;
  }

  // As a member of a oneof.

  get variant(): string {
    return `${doc(this.field.comment)}| { readonly case: '${this.name}'; readonly value: ${this.itemType} }`;
  }

  variantSize(oneof: string): string {
    const value = `message.${oneof}.value`;
    return `case '${this.name}': size += ${this.#tagSize} + ${this.#itemSize(value)}; break;`;
  }

  variantWrite(oneof: string): string {
    const statement = this.#writeItem(`message.${oneof}.value`);
    return `case '${this.name}': ${this.#writeTag(this.#wireType)} ${statement} break;`;
  }

  variantRead(oneof: string): string {
    const tag = this.#tag(this.#wireType);
    return `case ${tag}: ${oneof} = { case: '${this.name}', value: ${this.#readItem()} }; break;`;
  }
}

/** A choice of fields, as one field that is a discriminated union. */
class OneofWriter {
  readonly name: string;
  readonly #members: readonly FieldWriter[];
  readonly #union: string;
  readonly #comment: string | null;

  constructor(oneof: protobuf.OneOf, imports: Imports) {
    this.name = oneof.name;
    this.#members = oneof.fieldsArray.map((field) => new FieldWriter(field, imports));
    this.#union = `${oneof.parent?.name ?? ''}${upperFirst(oneof.name)}`;
    this.#comment = oneof.comment;
  }

  /** The union's own declaration. */
  get union(): string {
    const variants = this.#members.map((member) => member.variant).join('\n');
    return `export type ${this.#union} =\n${variants}\n| { readonly case: undefined };\n`;
  }

  get declaration(): string {
    return `${doc(this.#comment)}readonly ${this.name}: ${this.#union};`;
  }

  get empty(): string {
    return '{ case: undefined }';
  }

  get local(): string {
    return `let ${this.name}: ${this.#union} = { case: undefined };`;
  }

  get sizeStatement(): string {
    return this.#switch(this.#members.map((member) => member.variantSize(this.name)));
  }

  get writeStatement(): string {
    return this.#switch(this.#members.map((member) => member.variantWrite(this.name)));
  }

  get readCases(): string {
    return this.#members.map((member) => member.variantRead(this.name)).join('\n');
  }

  #switch(cases: readonly string[]): string {
    return `switch (message.${this.name}.case) {\n${cases.join('\n')}\ncase undefined: break;\n}`;
  }
}

/** The fields in the .proto file's order, those of a oneof as one. */
function membersOf(type: protobuf.Type, imports: Imports): readonly (FieldWriter | OneofWriter)[] {
  const members = new Map<unknown, FieldWriter | OneofWriter>();
  for (const field of type.fieldsArray) {
    const choice = field.options?.['proto3_optional'] === true ? null : field.partOf;
    if (choice === null) members.set(field, new FieldWriter(field, imports));
    else if (!members.has(choice)) members.set(choice, new OneofWriter(choice, imports));
  }
  return [...members.values()];
}

function messageSource(type: protobuf.Type, imports: Imports): string {
  const { name } = type;
  const members = membersOf(type, imports);
  const each = (part: (member: FieldWriter | OneofWriter) => string): string =>
    members.map(part).join('\n');
  const unions = members.flatMap((member) => (member instanceof OneofWriter ? [member.union] : []));
  const size = each((member) => member.sizeStatement);
  const write = each((member) => member.writeStatement);
  // Parameters that a pass of a simple message does not use begin with an underscore.
  const parameters = (body: string): string =>
    [`message: ${name}`, 'encoder: Encoder']
      .map((parameter) => (body.includes(parameter.split(':')[0] ?? '') ? '' : '_') + parameter)
      .join(', ');
  const init = members.length === 0 ? '' : `init: Partial<${name}> = {}`;
  const maker = lowerFirst(name);
  imports.wire('type MessageCodec');
  imports.wire('messageCodec');
  imports.wire('type Encoder');
  imports.wire('type Decoder');
  return `${doc(type.comment)}export interface ${name} {\n${each((member) => member.declaration)}\n}
${unions.join('\n')}
${doc(`Makes a ${name}; what is left out has proto3's default.`)}export const ${maker} = (${init}): ${name} => ({
${each(({ name: field, empty }) => `${field}: init.${field}${empty === 'undefined' ? '' : ` ?? ${empty}`},`)}
});

export const ${codecOf(type)}: MessageCodec<${name}> = messageCodec(size${name}, write${name}, read${name});

function size${name}(${parameters(size)}): number {
  ${size === '' ? 'return 0;' : `let size = 0;\n${size}\nreturn size;`}
}

function write${name}(${parameters(write)}): void {
${write}
}

function read${name}(decoder: Decoder, end: number): ${name} {
  ${each((member) => member.local)}
  while (decoder.at < end) {
    const tag = decoder.uint32();
    switch (tag) {
      ${each((member) => member.readCases)}
      default: decoder.skip(tag);
    }
  }
  decoder.close(end);
  return { ${members.map((member) => member.name).join(', ')} };
}
`;
}

// ---------------------------------------------------------------------------------------------- names

const codecOf = (type: protobuf.Type): string => `${type.name}Codec`;
const fullName = (object: protobuf.ReflectionObject): string => object.fullName.replace(/^\./, '');
const lowerFirst = (text: string): string => text.charAt(0).toLowerCase() + text.slice(1);
const upperFirst = (text: string): string => text.charAt(0).toUpperCase() + text.slice(1);

function resolvedType(type: protobuf.Type | null, method: protobuf.Method): protobuf.Type {
  if (type === null) throw new Error(`${method.fullName} names a message that is not declared`);
  return type;
}

// ----------------------------------------------------------------------------------------------- main

async function main(): Promise<void> {
  const files = await generate();
  rmSync(OUTPUT, { recursive: true, force: true });
  for (const [path, source] of files) {
    mkdirSync(dirname(join(OUTPUT, path)), { recursive: true });
    writeFileSync(join(OUTPUT, path), source);
  }
  process.stdout.write(`wrote ${files.size} files to packages/rpc/src/gen\n`);
}

if (
  process.argv[1] !== undefined &&
  realpathSync(process.argv[1]) === fileURLToPath(import.meta.url)
) {
  await main();
}
