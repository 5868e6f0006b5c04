import { describe, expect, test } from 'vitest';
import { route } from '@relevo/base/ports';
import type { MessageStream } from '@relevo/base/ports';
import {
  MetadataService,
  metadataUpdate,
  partitionMetadata,
  topicMetadata,
} from '@relevo/rpc/gen/client/metadata';
import type { MetadataUpdate, PartitionMetadata } from '@relevo/rpc/gen/client/metadata';
import { MetadataWatcher } from '@relevo/simulation/metadata-watcher';
import { Prng } from '@relevo/simulation/prng';
import { compareReplicas } from '@relevo/simulation/replica-checker';
import { SimulatedDisk } from '@relevo/simulation/simulated-disk';
import { World } from '@relevo/simulation/world';

const sound: Partial<PartitionMetadata> = {
  ...{ partition: 0, leader: 1, leaderEpoch: 3, partitionEpoch: 7 },
  ...{ replicas: [0, 1, 2], isr: [1, 2] },
};

/** What the watcher says when brokers 0 and 1 tell these states, in this order. */
async function watched(
  told: [broker: 0 | 1, state: Partial<PartitionMetadata>][],
): Promise<string[]> {
  const world = new World({ seed: 1 });
  const anomalies: string[] = [];
  await world.run(async () => {
    const streams: MessageStream<MetadataUpdate>[] = [];
    for (const broker of [0, 1]) {
      world.process(`broker-${broker}`).boot(({ transport }) => {
        const watch = route(MetadataService.watchMetadata, (_request, stream) => {
          streams[broker] = stream;
          return { onEnd: () => undefined };
        });
        void transport.listen(`broker-${broker}:1`, [watch]);
      });
    }
    world.process('watcher').boot((ports) => {
      const watcher = new MetadataWatcher(ports, (text) => anomalies.push(text));
      for (const broker of [0, 1]) watcher.follow(`broker-${broker}:1`);
    });
    await world.sleep(100);
    for (const [broker, state] of told) {
      const partitions = [partitionMetadata({ ...sound, ...state })];
      const topics = [topicMetadata({ name: 'orders', topicId: 't', partitions })];
      streams[broker]?.send(metadataUpdate({ topics }));
      await world.sleep(10);
    }
  });
  return anomalies;
}

describe('the watcher of metadata', () => {
  test('has no word against brokers that agree, nor against one that lags', async () => {
    const next = { leader: 2, leaderEpoch: 4, partitionEpoch: 8, isr: [2] };
    const none = { leader: -1, leaderEpoch: 4, partitionEpoch: 8, isr: [2] };
    expect(
      await watched([
        [0, {}],
        [0, next],
        [1, {}],
        [1, next],
      ]),
    ).toEqual([]);
    expect(
      await watched([
        [0, {}],
        [1, { isr: [2, 1] }],
        [0, none],
      ]),
    ).toEqual([]);
  });

  test.each<[string, [0 | 1, Partial<PartitionMetadata>][]]>([
    [
      'has leaders 1 and 2 in epoch 3',
      [
        [0, {}],
        [1, { leader: 2, partitionEpoch: 8 }],
      ],
    ],
    [
      'is leader 1 epoch 3/7 isr 1,2',
      [
        [0, { isr: [1] }],
        [1, {}],
      ],
    ],
    ['has in sync what is no replica', [[0, { isr: [1, 9] }]]],
    ['is led by a replica that is not in sync', [[0, { isr: [2] }]]],
    [
      'went back',
      [
        [0, {}],
        [0, { leaderEpoch: 2, partitionEpoch: 6 }],
      ],
    ],
  ])('finds that a partition %s', async (text, told) => {
    expect((await watched(told)).join('\n')).toContain(text);
  });
});

/** A batch as far as the comparison reads it. */
function batch(baseOffset: number, records: number, fill: number): Uint8Array {
  const bytes = new Uint8Array(80).fill(fill);
  const view = new DataView(bytes.buffer);
  view.setBigInt64(0, BigInt(baseOffset));
  view.setInt32(8, 68);
  view.setInt32(23, records - 1);
  return bytes;
}

function replica(broker: number, batches: readonly Uint8Array[]) {
  const disk = new SimulatedDisk({ prng: new Prng(broker) });
  const port = disk.port();
  port.makeDirectory('/data/orders-0');
  for (const [at, bytes] of batches.entries()) {
    const name = String(at < 2 ? 0 : 5).padStart(20, '0');
    const file = port.open(`/data/orders-0/${name}.log`, 'create');
    file.write(bytes, file.size());
  }
  return { broker, disk, dataDir: '/data' };
}

describe('the comparison of replicas', () => {
  const log = [batch(0, 2, 1), batch(2, 3, 2), batch(5, 1, 3)];
  const compare = (...logs: Uint8Array[][]): string =>
    compareReplicas(
      logs.map((batches, broker) => replica(broker, batches)),
      'orders',
      0,
      6,
    ).join('; ');

  test('finds none in equal logs, and none above the high watermark', () => {
    expect(compare(log, log, [...log, batch(6, 1, 9)])).toBe('');
  });

  test('finds a byte, a hole and a missing end', () => {
    expect(compare(log, [batch(0, 2, 1), batch(2, 3, 9), batch(5, 1, 3)])).toBe(
      'orders-0 differs between brokers 0 and 1 at offset 2',
    );
    expect(compare(log, [batch(0, 2, 1), batch(5, 1, 3)])).toContain('5 stands where 2 belongs');
    expect(compare(log, log.slice(0, 2))).toBe('orders-0 on broker 1 ends at 5, below 6');
  });
});
