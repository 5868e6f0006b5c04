/** Random kills, pauses, cuts and moves of the controller: what must hold at all times, and in the end. */
import { brokerId } from '@relevo/base/ids';
import { regressionsOf } from '@relevo/controller/invariants';
import type { ClusterImage } from '@relevo/controller/image';
import { expect, test } from 'vitest';
import { ControllerWorld } from './controller-world.ts';

const NODES = [1, 2, 3, 4, 5];
const CONTROLLERS = [1, 2, 3];
const ROUNDS = 25;

/** At no moment does a broker think that it serves while the controller has given it up for silence. */
function checkLeases(cluster: ControllerWorld, image: ClusterImage): void {
  for (const { id, process, lifecycle } of cluster.nodes.values()) {
    if (!process.alive || process.paused || lifecycle.fenced) continue;
    const broker = image.brokers.get(id);
    if (broker === undefined || broker.epoch !== lifecycle.brokerEpoch || !broker.fenced) continue;
    const last = cluster.said('broker fenced').findLast((line) => line.fields['broker'] === id);
    const reason = String(last?.fields['reason']);
    if (reason.startsWith('no heartbeat')) throw new Error(`broker ${id} outlived its lease`);
  }
}

async function chaos(seed: number): Promise<string> {
  const cluster = new ControllerWorld({ seed, controllers: CONTROLLERS });
  const { world } = cluster;
  const pick = <Item>(items: readonly Item[]): Item => world.prng.pick(items);
  let before: ClusterImage | undefined;
  const look = (): void => {
    cluster.check();
    const newest = [...cluster.nodes.values()]
      .map(({ publisher }) => publisher.image())
      .reduce((a, b) => (a.index >= b.index ? a : b));
    if (before !== undefined && newest.index >= before.index) {
      expect(regressionsOf(before, newest)).toEqual([]);
    }
    if (before === undefined || newest.index > before.index) before = newest;
    checkLeases(cluster, newest);
  };
  const live = (): number[] => CONTROLLERS.filter((id) => cluster.node(id).process.alive);

  await cluster.run(async () => {
    await cluster.start(NODES);
    await cluster.create('a', { partitions: 10 });
    for (let round = 0; round < ROUNDS; round++) {
      const id = pick(NODES);
      const { process } = cluster.node(id);
      switch (pick(['kill', 'pause', 'cut', 'lead', 'elect', 'rest'])) {
        case 'kill':
          if (process.alive) await cluster.kill(id, { silent: pick([true, false]) });
          else await cluster.boot([id]);
          break;
        case 'pause':
          if (process.paused) process.resume();
          else process.pause();
          break;
        case 'cut': {
          const other = pick(NODES.filter((node) => node !== id));
          world.network.setBlocked(`node-${id}`, `node-${other}`, pick([true, true, false]));
          break;
        }
        case 'lead':
          if (live().length > 0) cluster.quorum.lead(brokerId(pick(live())));
          break;
        case 'elect':
          for (const { service, process: other } of cluster.nodes.values()) {
            if (!other.alive || service?.isActive() !== true) continue;
            const command = { kind: 'electPreferred', topic: '', partitions: [] } as const;
            service.execute(command).catch(() => undefined);
          }
          break;
        default:
          break;
      }
      const untilMs = world.nowMs + world.prng.between(1, 2500);
      while (world.nowMs < untilMs) {
        look();
        await world.sleep(20);
      }
    }
    await heal(cluster);
    look();
  });
  return world.trace.hash;
}

async function heal(cluster: ControllerWorld): Promise<void> {
  cluster.world.network.heal();
  for (const id of NODES) {
    const { process } = cluster.node(id);
    if (process.paused) process.resume();
    if (!process.alive) await cluster.boot([id]);
  }
  cluster.quorum.lead(brokerId(1));
  await cluster.until('all serve', () =>
    NODES.every((id) => !cluster.node(id).lifecycle.fenced && cluster.broker(id)?.fenced === false),
  );
  await cluster.until('all know the same', () => {
    const indexes = [...cluster.nodes.values()].map(({ publisher }) => publisher.image().index);
    return new Set(indexes).size === 1;
  });
  for (const partition of cluster.image().topicsByName.get('a')?.partitions ?? []) {
    expect(partition.leader).toBeGreaterThan(0);
  }
}

test('the invariants hold through anything, and once all is well everybody serves', async () => {
  for (let seed = 1; seed <= 15; seed++) await chaos(seed);
}, 60_000);

test('the same seed takes the same course', async () => {
  expect(await chaos(7)).toBe(await chaos(7));
});
