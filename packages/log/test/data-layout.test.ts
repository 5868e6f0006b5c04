/** Data directories of older layouts, and power cuts while they are taken over. */
import { describe, expect, test } from 'vitest';
import { utf8Decode, utf8Encode } from '@relevo/base/bytes';
import { QUORUM_LOG_ID, brokerId, uuid } from '@relevo/base/ids';
import type { Disk } from '@relevo/base/ports';
import { LogDirectory } from '@relevo/log/log-directory';
import { identifyPartition, partitionDirectory } from '@relevo/log/partition-directory';
import { writeTopicId } from '@relevo/log/partition-metadata';
import { crc32c } from '@relevo/record/crc32c';
import { Prng } from '@relevo/simulation/prng';
import { SimulatedDisk } from '@relevo/simulation/simulated-disk';
import { OTHER_TOPIC_ID, messageOf, recordingLogger } from './support.ts';

const DIRECTORY_ID = uuid('DDDDDDDDDDDDDDDDDDDDDD');

const open = (disk: Disk, logger = recordingLogger()): LogDirectory =>
  LogDirectory.open(
    { root: '/data', brokerId: brokerId(1), clusterId: 'one', newDirectoryId: () => DIRECTORY_ID },
    { disk, crc32c, clock: { monotonicMs: () => 0 }, logger },
  );

const newDisk = (seed = 1): SimulatedDisk => new SimulatedDisk({ prng: new Prng(seed) });

function write(disk: Disk, path: string, text: string): void {
  const file = disk.open(path, 'create');
  file.write(utf8Encode(text), 0);
  file.datasyncNow();
  file.close();
}

const LONG = `orders.${'x'.repeat(200)}`;

/** All of it durable, as an older version left it. */
function oldDirectory(disk: Disk): void {
  disk.makeDirectory('/data');
  disk.syncDirectoryNow('/');
  const properties = `version=1\ncluster.id=one\nnode.id=1\ndirectory.id=${DIRECTORY_ID}\n`;
  write(disk, '/data/meta.properties', properties);
  disk.makeDirectory('/data/__cluster_metadata-0');
  writeTopicId(disk, '/data/__cluster_metadata-0', QUORUM_LOG_ID);
  write(disk, '/data/__cluster_metadata-0/quorum-state', 'the state');
  write(disk, '/data/__cluster_metadata-0/00000000000000000000.log', 'the log');
  disk.syncDirectoryNow('/data/__cluster_metadata-0');
  for (const name of [`${LONG}-7`, 'orders-0']) {
    disk.makeDirectory(`/data/${name}`);
    write(disk, `/data/${name}/partition.metadata`, `version: 0\ntopic_id: ${OTHER_TOPIC_ID}`);
    write(disk, `/data/${name}/00000000000000000000.log`, name);
    disk.syncDirectoryNow(`/data/${name}`);
  }
  disk.syncDirectoryNow('/data');
}

const tree = (disk: Disk, path: string): string[] =>
  disk.list(path).flatMap(({ name, directory }) => {
    return directory ? tree(disk, `${path}/${name}`) : [`${path}/${name}`];
  });

/** A disk whose power goes before change number `left`. */
function cutBefore(disk: Disk, left: number): Disk {
  const changes = new Set(['rename', 'remove', 'removeTree', 'makeDirectory', 'syncDirectoryNow']);
  const count = (): void => {
    if (left-- <= 0) throw new Error('power cut');
  };
  return new Proxy(disk, {
    get(target, key) {
      const value: unknown = Reflect.get(target, key);
      if (typeof value !== 'function') return value;
      return (...args: unknown[]): unknown => {
        if (changes.has(String(key)) || (key === 'open' && args[1] === 'create')) count();
        return Reflect.apply(value, target, args);
      };
    },
  });
}

describe('a data directory whose quorum lies among the partitions', () => {
  test('is taken over: the quorum has a directory of its own', () => {
    const disk = newDisk();
    oldDirectory(disk.port());
    const logger = recordingLogger();
    const directory = open(disk.port(), logger);
    const partitions = directory.partitions.map(({ topic, partition }) => `${topic}-${partition}`);
    expect(partitions.sort()).toEqual(['orders-0', `${LONG}-7`]);
    const files = disk.port().list('/data/quorum');
    expect(files.map(({ name }) => name)).toContain('quorum-state');
    expect(disk.port().exists('/data/__cluster_metadata-0')).toBe(false);
    expect(utf8Decode(disk.contents('/data/meta.properties'))).toMatch(/^version=2\n/);
    expect(logger.lines.map(({ event }) => event)).toContain(
      'the data directory was brought to the present layout',
    );
  });

  test('is whole after a power cut at any step, and taken over at the next start', () => {
    let steps = 0;
    for (let isCut = true; isCut; steps++) {
      isCut = false;
      for (let seed = 1; seed <= 40; seed++) {
        const disk = newDisk(seed);
        oldDirectory(disk.port());
        try {
          open(cutBefore(disk.port(), steps));
        } catch {
          isCut = true;
        }
        disk.crash();
        const found = tree(disk.port(), '/data').filter((path) => path.endsWith('quorum-state'));
        expect(found, `step ${steps}, seed ${seed}`).toHaveLength(1);
        open(disk.port());
        disk.crash();
        expect(utf8Decode(disk.contents('/data/quorum/quorum-state'))).toBe('the state');
        const log = '/data/quorum/00000000000000000000.log';
        expect(utf8Decode(disk.contents(log))).toBe('the log');
        for (const [topic, partition] of [['orders', 0] as const, [LONG, 7] as const]) {
          const directory = partitionDirectory(topic, partition);
          const path = `/data/${directory}/00000000000000000000.log`;
          expect(utf8Decode(disk.contents(path))).toBe(`${topic}-${partition}`);
          const found = identifyPartition(disk.port(), '/data', directory);
          expect(found).toMatchObject({ topic, partition, topicId: OTHER_TOPIC_ID });
        }
        expect(utf8Decode(disk.contents('/data/meta.properties'))).toMatch(/^version=2\n/);
      }
    }
    expect(steps).toBeGreaterThan(5);
  });

  test('never has an old name but with the version that older programs take, or neither moved', () => {
    for (let seed = 1; seed <= 200; seed++) {
      const disk = newDisk(seed);
      oldDirectory(disk.port());
      try {
        open(cutBefore(disk.port(), seed % 12));
      } catch {
        // Where it stopped is what is looked at.
      }
      disk.crash();
      const isMoved = disk.port().exists('/data/quorum/quorum-state');
      const version = utf8Decode(disk.contents('/data/meta.properties')).slice(0, 9);
      if (isMoved) expect(version).toBe('version=2');
    }
  });

  test('gets its mark of a clean shutdown after a crash, when all partitions were closed', async () => {
    const disk = newDisk();
    oldDirectory(disk.port());
    disk.port().removeTree('/data/orders-0');
    disk.port().removeTree(`/data/${LONG}-7`);
    await open(disk.port()).close(new Map());
    expect(open(disk.port()).wasCleanShutdown).toBe(true);
  });

  test('with both names in use is refused, and left as it is', () => {
    const disk = newDisk();
    oldDirectory(disk.port());
    disk.port().makeDirectory('/data/quorum');
    const before = tree(disk.port(), '/data');
    expect(messageOf(() => open(disk.port()))).toMatch(
      /^foreign: \/data holds both __cluster_metadata-0, of an older layout, and quorum: .*move __cluster_metadata-0 out of \/data/,
    );
    expect(tree(disk.port(), '/data').filter((path) => !path.endsWith('.lock'))).toEqual(before);
  });

  test('a topic that somebody called like the quorum’s log keeps its directory', () => {
    const disk = newDisk();
    oldDirectory(disk.port());
    disk.port().removeTree('/data/__cluster_metadata-0');
    disk.port().makeDirectory('/data/__cluster_metadata-0');
    writeTopicId(disk.port(), '/data/__cluster_metadata-0', OTHER_TOPIC_ID);
    const [found] = open(disk.port()).partitions;
    expect(found).toMatchObject({ topic: '__cluster_metadata', topicId: OTHER_TOPIC_ID });
    expect(disk.port().exists('/data/quorum')).toBe(false);
  });

  test('without meta.properties is somebody’s', () => {
    const disk = newDisk();
    disk.port().makeDirectory('/data/quorum');
    expect(messageOf(() => open(disk.port()))).toMatch(/^foreign: .*no meta\.properties/);
  });

  test('of a newer layout is refused', () => {
    const disk = newDisk();
    oldDirectory(disk.port());
    write(disk.port(), '/data/meta.properties', 'version=3\ncluster.id=one\nnode.id=1\n');
    expect(messageOf(() => open(disk.port()))).toMatch(
      /layout 3, and this program knows .* up to 2/,
    );
  });
});
