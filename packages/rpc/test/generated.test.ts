import { readFileSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import protobuf from 'protobufjs';
import { expect, test } from 'vitest';
import { DESCRIPTOR, SERVICES } from '@relevo/rpc/gen/descriptor';
import { generate } from '../generate.ts';

const COMMITTED = join(import.meta.dirname, '..', 'src', 'gen');

test('src/gen is what `npm run generate` writes', async () => {
  const generated = await generate();
  const committed = readdirSync(COMMITTED, { recursive: true, encoding: 'utf8' })
    .filter((path) => path.endsWith('.ts'))
    .map((path) => [path, readFileSync(join(COMMITTED, path), 'utf8')] as const);
  expect(new Map(committed.toSorted(([a], [b]) => (a < b ? -1 : 1)))).toStrictEqual(
    new Map([...generated].toSorted(([a], [b]) => (a < b ? -1 : 1))),
  );
});

test('the descriptor holds every service', () => {
  const root = protobuf.Root.fromJSON(DESCRIPTOR as protobuf.INamespace);
  expect(SERVICES.length).toBeGreaterThan(0);
  for (const service of SERVICES) expect(root.lookupService(service).methodsArray).not.toEqual([]);
});
