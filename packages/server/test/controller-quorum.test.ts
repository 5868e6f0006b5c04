/** Controller, lifecycle and the production quorum together. */
import { brokerId } from '@relevo/base/ids';
import { describe, expect, test } from 'vitest';
import { ControllerWorld } from './controller-world.ts';

const ids = (...values: number[]): ReturnType<typeof brokerId>[] => values.map(brokerId);
const three = { controllers: [1, 2, 3], realQuorum: true };

describe('with the production quorum', () => {
  test('three nodes started together serve within a second', async () => {
    for (let seed = 1; seed <= 10; seed++) {
      const cluster = new ControllerWorld({ ...three, seed });
      await cluster.run(async () => {
        await cluster.start([1, 2, 3]);
        expect(cluster.world.nowMs).toBeLessThan(1300);
      });
    }
  });

  test('a killed broker is fenced within 30 ms, and all nodes know', async () => {
    for (let seed = 1; seed <= 10; seed++) {
      const cluster = new ControllerWorld({ ...three, seed });
      await cluster.run(async () => {
        await cluster.start([1, 2, 3]);
        await cluster.create('t', { partitions: 9 });
        const active = Number(cluster.active().id);
        const victim = (active % 3) + 1;
        const other = 6 - active - victim;
        await cluster.kill(victim);
        const fenced = (node: number): boolean =>
          cluster.node(node).publisher.image().brokers.get(brokerId(victim))?.fenced === true;
        const tookMs = await cluster.until('both know', () => fenced(active) && fenced(other));
        expect(tookMs).toBeLessThan(30);
      });
    }
  });

  test('the active controller is killed: the next one fences it and moves its leaderships', async () => {
    const took: number[] = [];
    for (let seed = 1; seed <= 12; seed++) {
      const cluster = new ControllerWorld({ ...three, seed });
      await cluster.run(async () => {
        await cluster.start([1, 2, 3]);
        const victim = cluster.active().id;
        await cluster.create('t', {
          assignment: [[victim, ...ids(1, 2, 3).filter((id) => id !== victim)]],
        });
        await cluster.kill(victim);
        took.push(
          await cluster.until(
            'another leads',
            () => cluster.hasActive() && cluster.partition('t').leader !== victim,
          ),
        );
        expect(cluster.partition('t').isr).not.toContain(victim);
      });
    }
    expect(took.toSorted((a, b) => a - b)[6]).toBeLessThan(500);
    expect(Math.max(...took)).toBeLessThan(2000);
  });

  test('a container dies with its address: nobody refuses a dial, and sessions are not waited for', async () => {
    const took: { broker: number[]; controller: number[] } = { broker: [], controller: [] };
    for (let seed = 1; seed <= 12; seed++) {
      for (const which of ['broker', 'controller'] as const) {
        const cluster = new ControllerWorld({ ...three, seed });
        await cluster.run(async () => {
          await cluster.start([1, 2, 3]);
          const active = Number(cluster.active().id);
          const victim = brokerId(which === 'controller' ? active : (active % 3) + 1);
          await cluster.create('t', {
            assignment: [[victim, ...ids(1, 2, 3).filter((id) => id !== victim)]],
          });
          // What its kernel says of the broken connections arrives; no dial does any more.
          for (const other of ids(1, 2, 3)) {
            cluster.world.network.setBlocked(`node-${other}`, `node-${victim}`, true);
          }
          await cluster.kill(victim);
          const isReplaced = (): boolean =>
            cluster.hasActive() && cluster.partition('t').leader !== victim;
          took[which].push(await cluster.until('another leads', isReplaced));
        });
      }
    }
    // A third of a session (1.5 s), and for a controller an election before that.
    expect(Math.max(...took.broker)).toBeLessThan(600);
    expect(Math.max(...took.controller)).toBeLessThan(1000);
  });

  test('all are killed at once and come back: nothing decided is lost, and all serve', async () => {
    for (let seed = 1; seed <= 10; seed++) {
      const cluster = new ControllerWorld({ ...three, seed });
      await cluster.run(async () => {
        await cluster.start([1, 2, 3]);
        for (let topic = 0; topic < 30; topic++)
          await cluster.create(`t${topic}`, { partitions: 3 });
        await Promise.all(
          [1, 2, 3].map((id) => cluster.node(id).process.kill({ unsynced: 'lose' })),
        );
        await cluster.boot([1, 2, 3]);
        const tookMs = await cluster.until(
          'all serve',
          () => cluster.hasActive() && [1, 2, 3].every((id) => !cluster.node(id).lifecycle.fenced),
        );
        expect(tookMs).toBeLessThan(1500);
        expect(cluster.image().topicsByName.size).toBe(30);
        for (const topic of cluster.image().topicsByName.values()) {
          for (const { leader } of topic.partitions) expect(leader).toBeGreaterThan(0);
        }
      });
    }
  });

  test('nodes stop and start one after the other: each is let go, and joins again', async () => {
    const cluster = new ControllerWorld({ ...three, seed: 5 });
    await cluster.run(async () => {
      await cluster.start([1, 2, 3]);
      for (const id of [1, 2, 3]) {
        const node = cluster.node(id);
        expect(await node.lifecycle.shutdown(5000)).toBe('released');
        if (node.voter?.status().isLeader === true) await node.voter.transferLeadership();
        await cluster.kill(id);
        await cluster.until('somebody decides', () => cluster.hasActive(), 2000);
        await cluster.boot([id]);
        await cluster.until('it serves', () => !cluster.node(id).lifecycle.fenced, 2000);
      }
    });
  });
});
