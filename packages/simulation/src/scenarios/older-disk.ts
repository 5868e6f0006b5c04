/**
 * A broker comes back with an older copy of its data directory, one from before a later start of it: it must be
 * refused, by the controller or by another voter, before it counts for anything. A broker that was killed between
 * noting a start and registering must not be. Whoever is refused is wiped, as its last line says, and is whole
 * again.
 */
import type { Relevo } from '@relevo/client/relevo';
import { partitionName } from '@relevo/base/ids';
import type { RunFigures, RunOptions } from '../failover-run.ts';
import { MetadataWatcher, show } from '../metadata-watcher.ts';
import type { PartitionState } from '../metadata-watcher.ts';
import type { Prng } from '../prng.ts';
import { compareReplicas } from '../replica-checker.ts';
import { SimulatedCluster, addressOf } from '../simulated-cluster.ts';
import { connectClient } from '../workload.ts';
import { World } from '../world.ts';

const TOPIC = 'orders';
const PARTITIONS = 3;
/** Three controllers and brokers, and one that is a broker only. */
const BROKERS = 4;
const CONTROLLERS = 3;
const START_WITHIN_MS = 30_000;
const WHOLE_WITHIN_MS = 60_000;

export async function olderDiskRun(
  seed: number | string,
  options: RunOptions = {},
): Promise<RunFigures> {
  const world = new World({
    seed,
    ...(options.onLog === undefined ? {} : { onLog: options.onLog }),
  });
  const run = new OlderDiskRun(world);
  await world.run(() => run.run());
  return run.figures();
}

class OlderDiskRun {
  readonly #world: World;
  readonly #prng: Prng;
  readonly #cluster: SimulatedCluster;
  readonly #ended = new Map<number, string>();
  readonly #wholeMs: number[] = [];
  #watcher: MetadataWatcher | undefined;
  #acknowledged = 0;

  constructor(world: World) {
    this.#world = world;
    this.#prng = world.prng.split('older-disk');
    const voters = Array.from({ length: CONTROLLERS }, (_, id) => `${id}@${addressOf(id)}`);
    this.#cluster = new SimulatedCluster(world, {
      brokers: BROKERS,
      settings: (id) => ({
        'controller.quorum.voters': voters.join(','),
        'process.roles': id < CONTROLLERS ? 'broker,controller' : 'broker',
      }),
      onEnded: (id, reason) => this.#ended.set(id, String(reason)),
    });
  }

  async run(): Promise<void> {
    const world = this.#world;
    this.#cluster.bootAll();
    const client = await world.within(
      'a client connects',
      START_WITHIN_MS,
      connectClient(world, 'client', this.#cluster.addresses),
    );
    this.#watch();
    await world.until('all brokers serve', () => this.#unready().length === 0, START_WITHIN_MS);
    await client.admin.createTopic({ topic: TOPIC, partitions: PARTITIONS, replicationFactor: 3 });
    const rounds = this.#prng.integer(1, 3);
    for (let round = 0; round < rounds; round++) {
      await this.#produce(client);
      const victim = this.#prng.pick([...this.#cluster.ids, BROKERS - 1]);
      await (this.#prng.chance(0.7) ? this.#comeBackOlder(client, victim) : this.#stumble(victim));
      const sinceMs = world.nowMs;
      await this.#untilWhole();
      this.#wholeMs.push(world.nowMs - sinceMs);
    }
    await this.#check(client);
    await world.within('the client closes', 10_000, client.close());
  }

  figures(): RunFigures {
    return {
      acknowledged: this.#acknowledged,
      unknown: 0,
      failed: 0,
      failoverMs: [],
      wholeMs: this.#wholeMs,
      elections: this.#watcher?.elections ?? 0,
      events: this.#world.trace.events,
      virtualMs: this.#world.nowMs,
      fingerprint: `${this.#world.trace.hash}-${this.#world.prng.recorder.last}`,
    };
  }

  async #comeBackOlder(client: Relevo, victim: number): Promise<void> {
    const world = this.#world;
    const process = this.#cluster.process(victim);
    const older = process.disk.snapshot();
    await process.kill({ unsynced: 'lose' });
    this.#cluster.boot(victim);
    await this.#untilWhole();
    await this.#produce(client);
    await process.kill({ unsynced: this.#prng.chance(0.5) ? 'lose' : 'keep' });
    await world.sleep(this.#prng.between(0, 3000));
    world.note('injury', 'scenario', `broker ${victim} comes back with an older disk`);
    process.disk.restore(older);
    const before = this.#cluster.node(victim);
    this.#cluster.boot(victim);
    const isRefused = (): boolean => this.#ended.has(victim);
    const isThere = (): boolean => {
      const node = this.#cluster.node(victim);
      return node !== undefined && node !== before && node.unready() === undefined;
    };
    await world.until('it is refused', () => isRefused() || isThere(), WHOLE_WITHIN_MS);
    const reason = this.#ended.get(victim) ?? '';
    if (!reason.includes('older copy')) {
      throw new Error(`broker ${victim} serves with an older copy of its directory (L6) ${reason}`);
    }
    this.#ended.delete(victim);
    await process.kill({ unsynced: 'lose' });
    process.disk.wipe();
    this.#cluster.boot(victim);
  }

  /** Its starts are cut short, some of them after they were noted and before they were registered. */
  async #stumble(victim: number): Promise<void> {
    const process = this.#cluster.process(victim);
    for (let start = this.#prng.integer(1, 6); start > 0; start--) {
      await process.kill({ unsynced: 'lose' });
      this.#cluster.boot(victim);
      await this.#world.sleep(this.#prng.exponential(20));
    }
  }

  // ------------------------------------------------------------------------------------------ load

  async #produce(client: Relevo): Promise<void> {
    const producer = client.producer();
    const count = this.#prng.integer(5, 40);
    for (let sent = 0; sent < count; sent++) {
      const value = `v${this.#acknowledged}`;
      const partition = this.#prng.integer(0, PARTITIONS - 1);
      await this.#world.within(
        'a record is acknowledged',
        WHOLE_WITHIN_MS,
        producer.send({ topic: TOPIC, partition, value }),
      );
      this.#acknowledged++;
    }
    await this.#world.within('a producer closes', 10_000, producer.close());
  }

  async #check(client: Relevo): Promise<void> {
    const ends = await client.admin.listOffsets({ topic: TOPIC, at: 'latest' });
    const records = ends.reduce((sum, { offset }) => sum + offset, 0);
    if (records !== this.#acknowledged) {
      throw new Error(`${records} records are there, ${this.#acknowledged} were acknowledged`);
    }
    for (const { partition, offset } of ends) {
      const state = this.#partitions().find((known) => known.partition === partition);
      const on = this.#cluster.replicas().filter(({ broker }) => state?.replicas.includes(broker));
      const differences = compareReplicas(on, TOPIC, partition, offset);
      if (differences.length > 0) throw new Error(differences.join('\n'));
    }
  }

  // ----------------------------------------------------------------------------------- convergence

  #watch(): void {
    this.#world.process('watcher').boot((ports) => {
      const fail = (text: string): void => this.#world.fail(new Error(text));
      const watcher = new MetadataWatcher(ports, fail);
      for (const address of this.#cluster.addresses) watcher.follow(address);
      this.#watcher = watcher;
    });
  }

  #partitions(): PartitionState[] {
    return this.#watcher?.partitions(TOPIC) ?? [];
  }

  #unready(): string[] {
    return this.#cluster.ids.flatMap((id) => {
      const alive = this.#cluster.process(id).alive;
      const why = alive ? this.#cluster.node(id)?.unready() : 'it is not running';
      return why === undefined ? [] : [`broker ${id}: ${why}`];
    });
  }

  async #untilWhole(): Promise<void> {
    const isWhole = ({ leader, isr, replicas }: PartitionState): boolean =>
      leader === replicas[0] && isr.length === replicas.length;
    const whole = (): boolean => {
      for (const [id, reason] of this.#ended) throw new Error(`broker ${id} has ended: ${reason}`);
      const states = this.#partitions();
      return states.length > 0 && states.every(isWhole) && this.#unready().length === 0;
    };
    const why = (): string =>
      [
        ...this.#unready(),
        ...this.#partitions().map((one) => `${partitionName(TOPIC, one.partition)}: ${show(one)}`),
      ].join('; ');
    await this.#world.until('all replicas are in sync', whole, WHOLE_WITHIN_MS, why);
  }
}
