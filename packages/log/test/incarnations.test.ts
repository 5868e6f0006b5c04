import { uuidFromBytes } from '@relevo/base/ids';
import { isOlderCopy, numberOfStart } from '@relevo/base/incarnation';
import { beginIncarnation } from '@relevo/log/incarnations';
import { SimulatedDisk } from '@relevo/simulation/simulated-disk';
import { Prng } from '@relevo/simulation/prng';
import { beforeEach, expect, test } from 'vitest';

let disk: SimulatedDisk;
let drawn = 0;

const begin = (): readonly string[] =>
  beginIncarnation(disk.port(), '/data', uuidFromBytes(new Uint8Array(16).fill(++drawn)));

beforeEach(() => {
  disk = new SimulatedDisk({ prng: new Prng(1) });
  disk.port().makeDirectory('/data');
  disk.port().syncDirectoryNow('/');
});

test('each start has the next number, and names those before it', () => {
  const [first] = begin();
  const named = begin();
  expect(named.map(numberOfStart)).toEqual([1, 2]);
  expect(named[0]).toBe(first);
});

test('a start is there after a power cut, before anybody has heard of it', () => {
  const before = begin();
  disk.crash();
  expect(isOlderCopy(begin(), before.at(-1) ?? '')).toBe(false);
});

test('an older copy does not know of the starts since, though it starts as often', () => {
  begin();
  const older = disk.snapshot();
  begin();
  const registered = begin().at(-1) ?? '';
  disk.restore(older);
  for (let start = 0; start < 5; start++) expect(isOlderCopy(begin(), registered)).toBe(true);
});

test('the last 200 are named; who was registered before them is not taken for a later start', () => {
  const first = begin().at(-1) ?? '';
  let named: readonly string[] = [];
  for (let start = 0; start < 300; start++) named = begin();
  expect(named).toHaveLength(200);
  expect(isOlderCopy(named, first)).toBe(false);
});

test('a damaged file names no start: whoever remembers one refuses the directory', () => {
  const registered = begin().at(-1) ?? '';
  disk.flipBit('/data/incarnations', 1, 3);
  expect(isOlderCopy(begin(), registered)).toBe(true);
});

test('what an older version has registered proves nothing', () => {
  expect(isOlderCopy(begin(), 'AAAAAAAAAAAAAAAAAAAAAQ')).toBe(false);
});
