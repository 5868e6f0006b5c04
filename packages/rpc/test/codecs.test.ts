import { describe, expect, test } from 'vitest';
import fc from 'fast-check';
import protobuf from 'protobufjs';
import { ERRORS } from '@relevo/base/errors';
import { produceRequest, ProduceRequestCodec } from '@relevo/rpc/gen/client/produce';
import type { MessageCodec } from '@relevo/rpc/wire';
import { WireError } from '@relevo/rpc/wire';
import { fetchPartition, FetchPartitionCodec } from '@relevo/rpc/gen/client/fetch';
import { ErrorCode } from '@relevo/rpc/gen/common/errors';
import { RaftMessageCodec, raftMessage, raftVoteRequest } from '@relevo/rpc/gen/cluster/raft';
import { loadRoot } from '../proto-files.ts';

const MODULES: readonly Record<string, unknown>[] = await Promise.all([
  import('@relevo/rpc/gen/client/admin'),
  import('@relevo/rpc/gen/client/fetch'),
  import('@relevo/rpc/gen/client/metadata'),
  import('@relevo/rpc/gen/client/produce'),
  import('@relevo/rpc/gen/cluster/controller'),
  import('@relevo/rpc/gen/cluster/controller-admin'),
  import('@relevo/rpc/gen/cluster/membership'),
  import('@relevo/rpc/gen/cluster/metadata-records'),
  import('@relevo/rpc/gen/cluster/raft'),
  import('@relevo/rpc/gen/cluster/replication'),
  import('@relevo/rpc/gen/common/errors'),
  import('@relevo/rpc/gen/common/listeners'),
]);

type Fields = Record<string, unknown>;
const root = loadRoot();
const types = messageTypes(root);

function messageTypes(namespace: protobuf.NamespaceBase): readonly protobuf.Type[] {
  return namespace.nestedArray.flatMap((object) => {
    if (object instanceof protobuf.Type) return [object];
    return object instanceof protobuf.Namespace ? messageTypes(object) : [];
  });
}

function codecOf(type: protobuf.Type): MessageCodec<Fields> {
  const codec = MODULES.map((module) => module[`${type.name}Codec`]).find(Boolean);
  if (codec === undefined) throw new Error(`no module has a codec of ${type.fullName}`);
  return codec as MessageCodec<Fields>;
}

// ------------------------------------------------------------------- messages as protobufjs has them

const isOptional = (field: protobuf.Field): boolean => field.options?.['proto3_optional'] === true;
/** About the powers of two, where encodings grow by a byte. */
const edges = (bitsMax: number): fc.Arbitrary<number> =>
  fc
    .tuple(fc.integer({ min: 0, max: bitsMax }), fc.integer({ min: -2, max: 1 }))
    .map(([bits, offset]) => Math.max(0, Math.min(2 ** bits + offset, 2 ** bitsMax - 1)));
const signedEdges = (bitsMax: number): fc.Arbitrary<number> =>
  fc.tuple(edges(bitsMax), fc.boolean()).map(([edge, negative]) => (negative ? -edge : edge));
const int64 = fc.oneof(fc.maxSafeInteger(), fc.integer(), signedEdges(53));
const uint64 = fc.oneof(fc.maxSafeNat(), fc.nat(), edges(53));
const int32 = fc.oneof(fc.integer(), signedEdges(31), fc.constant(-(2 ** 31)));

const SCALARS: Readonly<Record<string, fc.Arbitrary<unknown>>> = {
  int32,
  sint32: int32,
  uint32: fc.oneof(fc.integer({ min: 0, max: 2 ** 32 - 1 }), edges(32)),
  int64,
  sint64: int64,
  uint64,
  bool: fc.boolean(),
  string: fc.oneof(fc.string(), fc.string({ unit: 'binary' }), fc.constant('\ufeff€😀')),
  bytes: fc.uint8Array({ maxLength: 300 }),
};

function itemOf(field: protobuf.Field): fc.Arbitrary<unknown> {
  const type = field.resolvedType;
  if (type instanceof protobuf.Type) return plainOf(type);
  if (type instanceof protobuf.Enum) return fc.constantFrom(...Object.values(type.values));
  const scalar = SCALARS[field.type];
  if (scalar === undefined) throw new Error(`no values for ${field.type}`);
  return scalar;
}

/** A plain object as protobufjs' `fromObject` takes it, in which anything may be missing. */
function plainOf(type: protobuf.Type): fc.Arbitrary<Fields> {
  const choices = type.oneofsArray.filter((oneof) => oneof.fieldsArray.some((f) => !isOptional(f)));
  const members = new Set(choices.flatMap((oneof) => oneof.fieldsArray));
  const fields = type.fieldsArray.filter((field) => !members.has(field));
  const plain = fc.record(Object.fromEntries(fields.map((field) => [field.name, valueOf(field)])), {
    requiredKeys: [],
  });
  const chosen = choices.map((oneof) =>
    fc.oneof(
      fc.constant({}),
      ...oneof.fieldsArray.map((field) => itemOf(field).map((value) => ({ [field.name]: value }))),
    ),
  );
  return fc.tuple(plain, ...chosen).map((parts) => Object.assign({}, ...parts) as Fields);
}

function valueOf(field: protobuf.Field): fc.Arbitrary<unknown> {
  if (field.map) {
    const key = fc.string({ unit: 'binary' }).filter((text) => text !== '__proto__');
    return fc.dictionary(key, itemOf(field), { noNullPrototype: true });
  }
  return field.repeated ? fc.array(itemOf(field), { maxLength: 5 }) : itemOf(field);
}

// ------------------------------------------------------------------------- and as our interfaces have

function ownOf(type: protobuf.Type, plain: Fields): Fields {
  const own: Fields = {};
  for (const field of type.fieldsArray) {
    const value = plain[field.name];
    const choice = isOptional(field) ? null : field.partOf;
    if (choice === null) own[field.name] = ownField(field, value);
    else if (value !== undefined)
      own[choice.name] = { case: field.name, value: ownItem(field, value) };
    else own[choice.name] ??= { case: undefined };
  }
  return own;
}

function ownField(field: protobuf.Field, value: unknown): unknown {
  if (field.map) return new Map(Object.entries((value ?? {}) as Fields));
  if (field.repeated) return ((value ?? []) as unknown[]).map((item) => ownItem(field, item));
  if (value !== undefined) return ownItem(field, value);
  if (isOptional(field) || field.resolvedType instanceof protobuf.Type) return undefined;
  if (field.type === 'string') return '';
  if (field.type === 'bool') return false;
  return field.type === 'bytes' ? new Uint8Array(0) : 0;
}

const ownItem = (field: protobuf.Field, value: unknown): unknown =>
  field.resolvedType instanceof protobuf.Type ? ownOf(field.resolvedType, value as Fields) : value;

/** Buffers and views compare as plain arrays of bytes do. */
function comparable(value: unknown): unknown {
  if (value instanceof Uint8Array) return { bytes: [...value] };
  if (value instanceof Map) return { map: [...value].sort(([a], [b]) => (a < b ? -1 : 1)) };
  if (Array.isArray(value)) return value.map(comparable);
  if (typeof value !== 'object' || value === null) return value === 0 ? 0 : value;
  return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, comparable(item)]));
}

function oracleBytes(type: protobuf.Type, plain: Fields): Uint8Array {
  return type.encode(type.fromObject(plain)).finish();
}

function oracleDecode(type: protobuf.Type, bytes: Uint8Array): Fields {
  return type.toObject(type.decode(bytes), { longs: Number }) as Fields;
}

describe('every message type, with protobufjs as the judge', () => {
  test.each(types.map((type) => [type.name, type] as const))('%s', (_, type) => {
    const codec = codecOf(type);
    fc.assert(
      fc.property(plainOf(type), (plain) => {
        const own = ownOf(type, plain);
        const bytes = codec.encode(own);
        expect(comparable(codec.decode(bytes))).toStrictEqual(comparable(own));
        expect(comparable(ownOf(type, oracleDecode(type, bytes)))).toStrictEqual(comparable(own));
        expect(comparable(codec.decode(oracleBytes(type, plain)))).toStrictEqual(comparable(own));
      }),
      { numRuns: 100 },
    );
  });

  test.each(types.map((type) => [type.name, type] as const))('%s from any bytes', (_, type) => {
    const codec = codecOf(type);
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 40 }), (bytes) => {
        // Whatever comes in, the answer is a message or a WireError.
        try {
          codec.decode(bytes);
        } catch (error) {
          expect(error).toBeInstanceOf(WireError);
        }
      }),
      { numRuns: 50 },
    );
  });
});

test('error codes have the same names and numbers as in @relevo/base/errors', () => {
  const ours = new Map(Object.entries(ERRORS).map(([code, { number }]) => [code, number]));
  expect(new Map(Object.entries(ErrorCode))).toStrictEqual(ours);
});

describe('the wire format', () => {
  const request = produceRequest({ correlationId: 7, topicId: 'abc', batch: new Uint8Array(1000) });

  test('decoding bytes makes a view, not a copy', () => {
    const bytes = ProduceRequestCodec.encode(request);
    expect(ProduceRequestCodec.decode(bytes).batch.buffer).toBe(bytes.buffer);
  });

  test('a message cut short anywhere but between fields is refused', () => {
    const bytes = ProduceRequestCodec.encode(request);
    const whole = [0, 2, 7];
    for (let length = 0; length < bytes.length; length++) {
      const cut = (): unknown => ProduceRequestCodec.decode(bytes.subarray(0, length));
      if (whole.includes(length)) expect(cut).not.toThrow();
      else expect(cut).toThrow(WireError);
    }
  });

  test('unknown fields are passed over', () => {
    const extra = [0x98, 0x06, 0x05, 0xa1, 0x06, 1, 2, 3, 4, 5, 6, 7, 8];
    const more = [0xaa, 0x06, 2, 1, 2, 0xb5, 0x06, 1, 2, 3, 4];
    const bytes = Uint8Array.from([
      ...extra,
      ...FetchPartitionCodec.encode(fetchPartition({ partition: 3 })),
      ...more,
    ]);
    expect(FetchPartitionCodec.decode(bytes)).toStrictEqual(fetchPartition({ partition: 3 }));
  });

  test.each([
    ['a group', [0x0b, 0x0c]],
    ['field number 0', [0x02, 0x00]],
    ['an endless varint', Array.from({ length: 11 }, (_, i) => (i === 0 ? 0x08 : 0xff))],
    ['a length beyond the message', [0x12, 0x7f, 0x61]],
    ['a length beyond 2^31', [0x12, 0xff, 0xff, 0xff, 0xff, 0x0f]],
    ['text that is not UTF-8', [0x12, 0x02, 0xc3, 0x28]],
    ['an integer beyond 2^53', [0x08, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x10]],
  ])('%s is refused', (_, bytes) => {
    expect(() => ProduceRequestCodec.decode(Uint8Array.from(bytes))).toThrow(WireError);
  });

  test('of the tenth byte of a varint one bit counts', () => {
    const bytes = Uint8Array.from([0x20, ...Array.from({ length: 9 }, () => 0xff), 0x7f]);
    expect(FetchPartitionCodec.decode(bytes).offset).toBe(-1);
  });

  test('a nested message whose last field overruns it is refused', () => {
    // vote_request of 2 bytes, whose last_index is a varint of 3.
    const bytes = Uint8Array.from([0x52, 0x02, 0x10, 0x80, 0x80, 0x01]);
    expect(() => RaftMessageCodec.decode(bytes)).toThrow(/should end at 4/);
  });

  test.each([
    ['correlationId', 2 ** 53],
    ['correlationId', -1],
    ['correlationId', 1.5],
    ['correlationId', Number.NaN],
    ['partition', 2 ** 31],
    ['partition', 0.5],
    ['acks', 2 ** 31],
    ['timeoutMs', -1],
    ['timeoutMs', 2 ** 32],
  ])('%s = %d does not fit and is refused', (field, value) => {
    expect(() => ProduceRequestCodec.encode({ ...request, [field]: value })).toThrow(WireError);
    expect(ProduceRequestCodec.decode(ProduceRequestCodec.encode(request)).correlationId).toBe(7);
  });

  test('a field that comes twice counts as it came last', () => {
    const vote = RaftMessageCodec.encode(
      raftMessage({ body: { case: 'voteRequest', value: raftVoteRequest({ lastIndex: 9 }) } }),
    );
    const timeout = RaftMessageCodec.encode(
      raftMessage({ body: { case: 'timeoutNow', value: {} } }),
    );
    const bytes = Uint8Array.from([...vote, ...timeout]);
    expect(RaftMessageCodec.decode(bytes).body.case).toBe('timeoutNow');
  });
});
