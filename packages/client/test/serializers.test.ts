import fc from 'fast-check';
import { expect, test } from 'vitest';
import { readFileSync } from 'node:fs';
import { ClientError, OWN_ERRORS, serializers } from '@relevo/client';
import type { Serializer } from '@relevo/client';

const { bytes, double, int32, int64, json, string } = serializers;

function roundTrip<In, Out>(serializer: Serializer<In, Out>, data: In): Out {
  const out = serializer.serialize(data);
  return serializer.deserialize(out === null ? null : Buffer.from(out));
}

test('each gives back what it was given', () => {
  fc.assert(
    fc.property(
      fc.string({ unit: 'grapheme' }),
      fc.integer(),
      fc.bigInt({ min: -(2n ** 63n), max: 2n ** 63n - 1n }),
      fc.double(),
      fc.jsonValue(),
      (text, integer, big, real, value) => {
        expect(roundTrip(string, text)).toBe(text);
        expect(roundTrip(int32, integer)).toBe(integer);
        expect(roundTrip(int64, big)).toBe(big);
        expect(roundTrip(double, real)).toBe(real);
        expect(roundTrip(json(), value)).toEqual(JSON.parse(JSON.stringify(value)));
        expect(roundTrip(bytes, text)?.toString()).toBe(text);
      },
    ),
  );
});

test('null stays null', () => {
  for (const serializer of [string, int32, int64, double, json(), bytes]) {
    expect(serializer.serialize(null)).toBeNull();
    expect(serializer.deserialize(null)).toBeNull();
  }
});

test('numbers are written as Kafka’s serializers do', () => {
  expect(int32.serialize(-2)).toEqual(Buffer.from('fffffffe', 'hex'));
  expect(int64.serialize(258n)).toEqual(Buffer.from('0000000000000102', 'hex'));
  expect(double.serialize(1)).toEqual(Buffer.from('3ff0000000000000', 'hex'));
});

test('what does not fit is refused', () => {
  const refused = [
    () => int32.serialize(2 ** 31),
    () => int32.serialize(0.5),
    () => int64.serialize(2n ** 63n),
    () => int64.serialize(0.5),
    () => int32.deserialize(Buffer.alloc(3)),
    () => json().deserialize(Buffer.from('{')),
  ];
  for (const run of refused) expect(run).toThrow(ClientError);
});

test('every error code of the SDK stands in README.md with its meaning', () => {
  const readme = readFileSync(new URL('../README.md', import.meta.url), 'utf8');
  for (const [code, meaning] of Object.entries(OWN_ERRORS)) {
    expect(readme).toMatch(new RegExp(`\\| ${code} +\\|`));
    expect(readme).toContain(meaning);
  }
});
