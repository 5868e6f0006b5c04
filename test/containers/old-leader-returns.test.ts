/** The promise that the cluster is bought for, on hosts of its own: see the title of the test. */
import { Relevo } from '@relevo/client';
import Table from 'cli-table3';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { until } from '../lib/wait.ts';
import { untilHandedBack } from '../lib/workload.ts';
import { ContainerCluster } from './lib/container-cluster.ts';
import { assertEngine } from './lib/engine.ts';

const TOPIC = 'orders';
const PARTITIONS = 6;

let cluster: ContainerCluster;
let relevo: Relevo;

beforeAll(async () => {
  await assertEngine();
  cluster = await ContainerCluster.start();
  relevo = await Relevo.connect({ brokers: cluster.bootstrap });
}, 90_000);

afterAll(async () => {
  await relevo?.close();
  await cluster?.destroy();
}, 60_000);

interface Led {
  readonly partition: number;
  readonly leader: number | undefined;
  readonly leaderEpoch: number;
  readonly isr: readonly number[];
}

async function leaderTable(): Promise<Led[]> {
  const { partitions } = await relevo.admin.describeTopic(TOPIC);
  return partitions.map(({ partition, leader, leaderEpoch, isr }) => {
    return { partition, leader, leaderEpoch, isr: isr.toSorted((a, b) => a - b) };
  });
}

test('a killed leader is replaced, and leads what it led before when it has returned, and nothing is lost', async () => {
  const { admin } = relevo;
  await admin.createTopic({ topic: TOPIC, partitions: PARTITIONS, replicationFactor: 3 });
  await untilHandedBack(relevo, 30_000);
  const producer = relevo.producer();
  const sent: string[] = [];
  /** Acknowledged, or the test ends here. */
  const send = async (what: string): Promise<void> => {
    const values = Array.from({ length: 60 }, (_, index) => `${what} ${index}`);
    await Promise.all(
      values.map((value, index) =>
        producer.send({ topic: TOPIC, partition: index % PARTITIONS, value }),
      ),
    );
    sent.push(...values);
  };

  await send('before the kill');
  const before = await leaderTable();
  const victim = cluster.broker(before[0]?.leader ?? 0);
  const ledBefore = before.filter(({ leader }) => leader === victim.id);
  expect(ledBefore).toHaveLength(PARTITIONS / 3);

  await victim.kill();
  await send('while it is gone');
  await until('the in-sync sets to do without it', async () =>
    (await leaderTable()).every(({ isr }) => !isr.includes(victim.id)),
  );
  const after = await leaderTable();

  await victim.start();
  await untilHandedBack(relevo, 30_000);
  await send('after its return');
  const returned = await leaderTable();
  console.log(tableOf(before, after, returned));

  for (const [index, { partition, leader, leaderEpoch }] of before.entries()) {
    const [then, now] = [after[index], returned[index]];
    const wasItsOwn = leader === victim.id;
    expect(then?.isr, `${partition}: the others hold it`).toHaveLength(2);
    if (wasItsOwn) {
      expect(then?.isr, `${partition}: led by one that has it all`).toContain(then?.leader);
      expect(then?.leaderEpoch, `${partition}: a new leader has a new epoch`).toBeGreaterThan(
        leaderEpoch,
      );
      expect(now?.leaderEpoch).toBeGreaterThan(then?.leaderEpoch ?? Infinity);
    } else {
      // Nobody else's leadership was touched.
      expect(then).toMatchObject({ leader, leaderEpoch });
    }
    expect(now?.leader, `${partition}: its leader again`).toBe(leader);
    expect(now?.isr, `${partition}: on all again`).toEqual([1, 2, 3]);
  }

  const read: string[] = [];
  for await (const { value } of relevo.consumer({ topics: [TOPIC], from: 'earliest' })) {
    read.push(String(value));
    if (read.length === sent.length) break;
  }
  expect(read.toSorted()).toEqual(sent.toSorted());
}, 120_000);

function tableOf(...moments: readonly Led[][]): string {
  const table = new Table({
    head: ['partition', 'before the kill', 'while it is gone', 'after its return'],
  });
  const cell = (led: Led | undefined): string =>
    `${led?.leader ?? 'none'} (epoch ${led?.leaderEpoch}, in sync ${led?.isr.join(',')})`;
  for (let partition = 0; partition < PARTITIONS; partition++) {
    table.push([partition, ...moments.map((moment) => cell(moment[partition]))]);
  }
  return table.toString();
}
