import { describe, expect, test } from 'vitest';
import { utf8Decode, utf8Encode } from '@relevo/base/bytes';
import type { Disk } from '@relevo/base/ports';
import { SECTOR_BYTES } from '@relevo/simulation/disk-image';
import { Prng } from '@relevo/simulation/prng';
import { SimulatedDisk } from '@relevo/simulation/simulated-disk';

/** Runs `check` on the disk that each of many power cuts leaves behind. */
function afterCrashes(prepare: (disk: Disk) => void, check: (disk: Disk) => string): Set<string> {
  const outcomes = new Set<string>();
  for (let seed = 0; seed < 200; seed++) {
    const disk = new SimulatedDisk({ prng: new Prng(seed) });
    prepare(disk.port());
    disk.crash();
    outcomes.add(check(disk.port()));
  }
  return outcomes;
}

function contents(disk: Disk, path: string): string {
  if (!disk.exists(path)) return 'missing';
  const file = disk.open(path, 'readOnly');
  const bytes = new Uint8Array(file.size());
  file.readSync(bytes, 0);
  return utf8Decode(bytes);
}

/** A file with `text`, durable in name and content. */
function durable(disk: Disk, path: string, text: string): void {
  const file = disk.open(path, 'create');
  file.write(utf8Encode(text), 0);
  file.datasyncNow();
  disk.syncDirectoryNow('/');
}

describe('a power cut', () => {
  test('leaves what was synced, name and content', () => {
    const outcomes = afterCrashes(
      (disk) => durable(disk, '/a', 'kept'),
      (disk) => contents(disk, '/a'),
    );
    expect([...outcomes]).toEqual(['kept']);
  });

  test('may take a name whose directory was not synced, though the file was', () => {
    const outcomes = afterCrashes(
      (disk) => {
        const file = disk.open('/a', 'create');
        file.write(utf8Encode('data'), 0);
        file.datasyncNow();
      },
      (disk) => contents(disk, '/a'),
    );
    expect([...outcomes].sort()).toEqual(['data', 'missing']);
  });

  test('may keep a name and lose the content', () => {
    const outcomes = afterCrashes(
      (disk) => {
        disk.open('/a', 'create').write(utf8Encode('data'), 0);
        disk.syncDirectoryNow('/');
      },
      (disk) => contents(disk, '/a'),
    );
    expect(outcomes).toContain('');
    expect(outcomes).toContain('data');
    expect(outcomes).not.toContain('missing');
  });

  test('tears a write at sectors, never within one', () => {
    const torn = new Set<string>();
    for (let seed = 0; seed < 300; seed++) {
      const disk = new SimulatedDisk({ prng: new Prng(seed) });
      const file = disk.port().open('/a', 'create');
      disk.port().syncDirectoryNow('/');
      file.write(new Uint8Array(4 * SECTOR_BYTES).fill(7), 100);
      disk.crash();
      const bytes = disk.contents('/a');
      let pattern = '';
      for (let at = 0; at < 5 * SECTOR_BYTES; at += SECTOR_BYTES) {
        const written = bytes.subarray(Math.max(at, 100), Math.min(at + SECTOR_BYTES, 2148));
        expect(new Set(written).size, 'a sector is whole').toBeLessThanOrEqual(1);
        pattern += written.length === 0 ? '.' : String(written[0]);
      }
      torn.add(pattern);
    }
    expect(torn.size).toBeGreaterThan(8);
    expect(torn).toContain('77777');
    expect(torn).toContain('.....');
  });

  test('does a rename whole or not at all', () => {
    const outcomes = afterCrashes(
      (disk) => {
        durable(disk, '/a', 'old');
        durable(disk, '/a.tmp', 'new');
        disk.rename('/a.tmp', '/a');
      },
      (disk) => `${contents(disk, '/a')} ${contents(disk, '/a.tmp')}`,
    );
    expect([...outcomes].sort()).toEqual(['new missing', 'old new']);
  });

  test('after the directory is synced a rename stays, and may not be undone by an older one', () => {
    const outcomes = afterCrashes(
      (disk) => {
        disk.makeDirectory('/x');
        disk.makeDirectory('/y');
        disk.syncDirectoryNow('/');
        disk.open('/y/a', 'create').close();
        const file = disk.open('/x/a', 'create');
        file.write(utf8Encode('moved'), 0);
        file.datasyncNow();
        disk.rename('/x/a', '/y/a');
        disk.syncDirectoryNow('/x');
      },
      (disk) => `${contents(disk, '/x/a')} ${contents(disk, '/y/a')}`,
    );
    expect([...outcomes]).toEqual(['missing moved']);
  });

  test('may undo a removal and a truncation', () => {
    const outcomes = afterCrashes(
      (disk) => {
        durable(disk, '/a', 'removed');
        durable(disk, '/b', 'truncated');
        disk.remove('/a');
        disk.open('/b', 'existing').truncate(5);
      },
      (disk) => `${contents(disk, '/a')} ${contents(disk, '/b')}`,
    );
    expect([...outcomes].sort()).toEqual([
      'missing trunc',
      'missing truncated',
      'removed trunc',
      'removed truncated',
    ]);
  });

  test('loses what a failed sync was to save, though a later sync succeeds', () => {
    const outcomes = afterCrashes(
      (disk) => {
        const file = disk.open('/a', 'create');
        disk.syncDirectoryNow('/');
        file.write(utf8Encode('gone'), 0);
        expect(() => file.datasyncNow()).not.toThrow();
        file.write(utf8Encode('lost'), 0);
      },
      (disk) => contents(disk, '/a'),
    );
    expect(outcomes).toContain('gone');
    const disk = new SimulatedDisk({ prng: new Prng(1) });
    const file = disk.port().open('/a', 'create');
    disk.port().syncDirectoryNow('/');
    file.write(utf8Encode('1234'), 0);
    disk.fail({ operation: 'datasync' });
    expect(() => file.datasyncNow()).toThrow('datasync of /a failed');
    expect(contents(disk.port(), '/a')).toBe('1234');
    file.write(utf8Encode('5678'), 4);
    file.datasyncNow();
    disk.crash();
    expect(contents(disk.port(), '/a')).toBe('\0\0\0\x005678');
  });
});

describe('faults on demand', () => {
  test('a full disk refuses growth, serves reads, and takes writes again when there is room', () => {
    const disk = new SimulatedDisk({ prng: new Prng(1), capacityBytes: 1_000 });
    const port = disk.port();
    const file = port.open('/a', 'create');
    file.write(new Uint8Array(900), 0);
    expect(port.freeBytes('/')).toBe(100);
    expect(() => file.write(new Uint8Array(101), 900)).toThrow(
      expect.objectContaining({ code: 'FULL' }),
    );
    file.write(new Uint8Array(500), 0);
    expect(file.readSync(new Uint8Array(900), 0)).toBe(900);
    port.open('/b', 'create').write(new Uint8Array(100), 0);
    port.remove('/b');
    file.write(new Uint8Array(100), 900);
    expect(port.freeBytes('/')).toBe(0);
  });

  test('a fault strikes as often as asked, where asked', async () => {
    const disk = new SimulatedDisk({ prng: new Prng(1) });
    const file = disk.port().open('/a', 'create');
    disk.fail({ operation: 'read', path: /a$/, times: 2 });
    await expect(file.read(0, 1)).rejects.toMatchObject({ code: 'IO' });
    expect(() => file.readSync(new Uint8Array(1), 0)).toThrow('simulated fault');
    expect((await file.read(0, 1)).length).toBe(0);
  });

  test('a wiped disk is empty, an older image is what it was', () => {
    const disk = new SimulatedDisk({ prng: new Prng(1) });
    durable(disk.port(), '/a', 'one');
    const older = disk.snapshot();
    durable(disk.port(), '/a', 'two');
    disk.restore(older);
    expect(contents(disk.port(), '/a')).toBe('one');
    disk.wipe();
    expect(disk.port().exists('/a')).toBe(false);
    expect(disk.usedBytes).toBe(0);
  });

  test('a flipped bit stays', () => {
    const disk = new SimulatedDisk({ prng: new Prng(1) });
    durable(disk.port(), '/a', 'a');
    disk.flipBit('/a', 0, 1);
    disk.crash();
    expect(contents(disk.port(), '/a')).toBe('c');
  });
});
