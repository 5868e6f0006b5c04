/**
 * Topics under names that are long, odd, or the cluster's own, made and deleted while brokers lose power or
 * are down, and data directories of the layout before. In the end every acknowledged record of the topics
 * that are left is read, and each broker has the directories of their replicas and no other (N1).
 */
import { ClientError } from '@relevo/client/errors';
import type { DescribedTopic } from '@relevo/client/admin';
import type { Relevo } from '@relevo/client/relevo';
import { utf8Decode, utf8Encode } from '@relevo/base/bytes';
import type { Disk } from '@relevo/base/ports';
import { QUORUM_DIRECTORY } from '@relevo/log/file-names';
import {
  identifyPartition,
  isOrdinaryTopic,
  partitionDirectory,
} from '@relevo/log/partition-directory';
import type { RunFigures, RunOptions } from '../failover-run.ts';
import type { Prng } from '../prng.ts';
import { SimulatedCluster } from '../simulated-cluster.ts';
import { connectClient } from '../workload.ts';
import { World } from '../world.ts';

const START_WITHIN_MS = 30_000;
const WHOLE_WITHIN_MS = 60_000;
const CALL_WITHIN_MS = 60_000;
/** From when a directory is due. */
const TIDY_WITHIN_MS = 20_000;
const TOPICS_MAX = 8;

/** Names that have led somewhere else in some system, with those that lengths bring about. */
const ODD_NAMES = [
  ...['__cluster_metadata', '__consumer_offsets', '__relevo_groups', '__debezium-heartbeat'],
  ...[
    'quorum',
    '.lock',
    'orders.deleted',
    'orders-0.set-aside',
    'a-1',
    'a-1.AAAA',
    '...',
    '-',
    '-0',
  ],
];
const LENGTHS = [1, 20, 180, 181, 222, 223, 240, 248, 249];

export async function namesRun(
  seed: number | string,
  options: RunOptions = {},
): Promise<RunFigures> {
  const world = new World({
    seed,
    ...(options.onLog === undefined ? {} : { onLog: options.onLog }),
  });
  const run = new NamesRun(world);
  await world.run(() => run.run());
  return run.figures();
}

interface Acknowledged {
  readonly values: Set<string>;
  /** Those that have records. */
  readonly partitions: Set<number>;
}

class NamesRun {
  readonly #world: World;
  readonly #prng: Prng;
  readonly #cluster: SimulatedCluster;
  readonly #retentionMs: number;
  /** What was acknowledged, by existing topic. */
  readonly #topics = new Map<string, Acknowledged>();
  #sent = 0;

  constructor(world: World) {
    this.#world = world;
    this.#prng = world.prng.split('names');
    this.#retentionMs = this.#prng.pick([0, 500, 5_000]);
    const settings = { 'deleted.topic.directory.retention.ms': String(this.#retentionMs) };
    this.#cluster = new SimulatedCluster(world, { settings: () => settings });
  }

  async run(): Promise<void> {
    const world = this.#world;
    this.#cluster.bootAll();
    const connecting = connectClient(world, 'client', this.#cluster.addresses);
    const client = await world.within('a client connects', START_WITHIN_MS, connecting);
    for (let round = this.#prng.integer(2, 4); round > 0; round--) {
      await this.#work(client);
      await this.#suffer(client);
      await this.#untilWhole(client);
    }
    await this.#untilTidy(client);
    for (const topic of this.#topics.keys()) await this.#check(client, topic);
    await world.within('the client closes', CALL_WITHIN_MS, client.close());
  }

  figures(): RunFigures {
    const { trace, prng, nowMs } = this.#world;
    return {
      ...{ acknowledged: this.#sent, unknown: 0, failed: 0 },
      ...{ failoverMs: [], wholeMs: [], elections: 0 },
      events: trace.events,
      virtualMs: nowMs,
      fingerprint: `${trace.hash}-${prng.recorder.last}`,
    };
  }

  // ------------------------------------------------------------------------------ what is done

  /** All brokers are up. */
  async #work(client: Relevo): Promise<void> {
    for (let step = this.#prng.integer(2, 5); step > 0; step--) {
      const known = [...this.#topics.keys()];
      if (known.length < TOPICS_MAX) await this.#create(client, this.#newName());
      if (known.length > 1 && this.#prng.chance(0.2)) {
        await this.#delete(client, this.#prng.pick(known));
      }
      await this.#send(client);
    }
  }

  #newName(): string {
    if (this.#prng.chance(0.5)) return this.#prng.pick(ODD_NAMES);
    const end = String(this.#prng.integer(0, 3));
    return ('x'.repeat(this.#prng.pick(LENGTHS) - 1) + end).slice(-249);
  }

  async #create(client: Relevo, topic: string): Promise<void> {
    if (this.#topics.has(topic)) return;
    const partitions = this.#prng.integer(1, 3);
    for (;;) {
      try {
        const making = client.admin.createTopic({ topic, partitions, replicationFactor: 3 });
        await this.#world.within('a topic is made', CALL_WITHIN_MS, making);
        this.#topics.set(topic, { values: new Set(), partitions: new Set() });
        return;
      } catch (error) {
        if (!(error instanceof ClientError)) throw error;
        if (error.code === 'INVALID_TOPIC_EXCEPTION') return;
        // The others have not registered yet.
        if (error.code !== 'INVALID_REPLICATION_FACTOR') throw error;
        await this.#world.sleep(20);
      }
    }
  }

  async #delete(client: Relevo, topic: string): Promise<void> {
    this.#topics.delete(topic);
    const deleting = client.admin.deleteTopic(topic);
    await this.#world.within('a topic is deleted', CALL_WITHIN_MS, deleting);
  }

  async #send(client: Relevo): Promise<void> {
    const producer = client.producer({ lingerMs: 0 });
    for (const [topic, acknowledged] of this.#topics) {
      const value = `value ${++this.#sent}`;
      const sending = producer.send({ topic, value });
      const what = `a record goes to ${topic}`;
      const { partition } = await this.#world.within(what, CALL_WITHIN_MS, sending);
      acknowledged.values.add(value);
      acknowledged.partitions.add(partition);
    }
    await this.#world.within('a producer closes', CALL_WITHIN_MS, producer.close());
  }

  async #suffer(client: Relevo): Promise<void> {
    const prng = this.#prng;
    const kind = prng.pick([
      'powerCutAll',
      'powerCutAll',
      'deletedMeanwhile',
      'oldLayout',
    ] as const);
    this.#world.note('fault', 'scenario', kind);
    switch (kind) {
      case 'powerCutAll':
        await this.#powerCut(this.#cluster.ids);
        this.#cluster.bootAll();
        return;
      case 'deletedMeanwhile': {
        const victim = prng.pick(this.#cluster.ids);
        await this.#powerCut([victim]);
        for (const topic of [...this.#topics.keys()]) {
          if (prng.chance(0.5)) await this.#delete(client, topic);
        }
        this.#cluster.boot(victim);
        return;
      }
      case 'oldLayout': {
        await this.#powerCut(this.#cluster.ids);
        for (const { disk, dataDir } of this.#cluster.replicas()) toOldLayout(disk.port(), dataDir);
        this.#cluster.bootAll();
        // The take-over itself is cut short, or what is written just after it.
        await this.#world.sleep(prng.pick([0, 0.01, 1, 50]) * prng.float());
        await this.#powerCut(this.#cluster.ids);
        this.#cluster.bootAll();
      }
    }
  }

  async #powerCut(ids: readonly number[]): Promise<void> {
    for (const id of ids) await this.#cluster.process(id).kill({ unsynced: 'lose' });
  }

  // ------------------------------------------------------------------------------ what must hold

  async #describe(client: Relevo): Promise<DescribedTopic[]> {
    const described = [...this.#topics.keys()].map((topic) => client.admin.describeTopic(topic));
    return this.#world.within('topics are described', CALL_WITHIN_MS, Promise.all(described));
  }

  async #untilWhole(client: Relevo): Promise<void> {
    const world = this.#world;
    const unready = (): string[] =>
      this.#cluster.ids.flatMap((id) => this.#cluster.node(id)?.unready() ?? []);
    const ready = (): boolean => unready().length === 0;
    await world.until('all brokers serve', ready, WHOLE_WITHIN_MS, () => unready().join('; '));
    const deadlineMs = world.nowMs + WHOLE_WITHIN_MS;
    for (;;) {
      const short = (await this.#describe(client)).filter(({ partitions }) =>
        partitions.some(({ leader, isr, replicas }) => {
          return leader === undefined || isr.length < replicas.length;
        }),
      );
      if (short.length === 0) return;
      if (world.nowMs > deadlineMs) throw new Error(`not whole: ${JSON.stringify(short)}`);
      await world.sleep(100);
    }
  }

  async #untilTidy(client: Relevo): Promise<void> {
    const described = await this.#describe(client);
    for (const { broker, disk, dataDir } of this.#cluster.replicas()) {
      const { written, unwritten } = this.#replicaDirectories(described, broker);
      const wrong = (): { missing: string[]; strange: string[] } => {
        const found = new Set(directoriesIn(disk.port(), dataDir));
        return {
          missing: [...written].filter((name) => !found.has(name)),
          strange: [...found].filter((name) => !written.has(name) && !unwritten.has(name)),
        };
      };
      const isTidy = (): boolean => wrong().missing.length + wrong().strange.length === 0;
      await this.#world.until(
        `broker ${broker} has the directories of its replicas and no other (N1)`,
        isTidy,
        this.#retentionMs + TIDY_WITHIN_MS,
        () => JSON.stringify(wrong()),
      );
    }
  }

  /** What the broker's replicas are called: of those with records, and of those without. */
  #replicaDirectories(
    described: readonly DescribedTopic[],
    broker: number,
  ): { readonly written: Set<string>; readonly unwritten: Set<string> } {
    const written = new Set([QUORUM_DIRECTORY]);
    const unwritten = new Set<string>();
    for (const { topic, partitions } of described) {
      const { partitions: withRecords } = this.#topics.get(topic) ?? {};
      for (const { partition, replicas } of partitions) {
        if (!replicas.includes(broker)) continue;
        const names = withRecords?.has(partition) === true ? written : unwritten;
        names.add(partitionDirectory(topic, partition));
      }
    }
    return { written, unwritten };
  }

  async #check(client: Relevo, topic: string): Promise<void> {
    const missing = new Set(this.#topics.get(topic)?.values);
    if (missing.size === 0) return;
    const consumer = client.consumer({ topics: [topic], from: 'earliest' });
    const reading = (async (): Promise<void> => {
      for await (const record of consumer) {
        missing.delete(String(record.value));
        if (missing.size === 0) return;
      }
    })();
    const what = `all that was acknowledged is read from ${topic} (P6)`;
    await this.#world.within(what, CALL_WITHIN_MS, reading);
    await this.#world.within('a consumer closes', CALL_WITHIN_MS, consumer.close());
  }
}

const directoriesIn = (disk: Disk, path: string): string[] =>
  disk
    .list(path)
    .filter(({ directory }) => directory)
    .map(({ name }) => name);

/** As the version before would have left it, durable. */
function toOldLayout(disk: Disk, root: string): void {
  for (const name of directoriesIn(disk, root)) {
    const partition = identifyPartition(disk, root, name);
    if (name === QUORUM_DIRECTORY) {
      disk.rename(`${root}/${name}`, `${root}/__cluster_metadata-0`);
    } else if (partition !== undefined && !isOrdinaryTopic(partition.topic)) {
      rewrite(disk, `${root}/${name}/partition.metadata`, (text) =>
        text.replace(/\ntopic: .*\n/, ''),
      );
      disk.rename(`${root}/${name}`, `${root}/${partition.name}`);
    }
  }
  rewrite(disk, `${root}/meta.properties`, (text) => text.replace('version=2', 'version=1'));
  disk.syncDirectoryNow(root);
}

function rewrite(disk: Disk, path: string, change: (text: string) => string): void {
  if (!disk.exists(path)) return;
  const file = disk.open(path, 'existing');
  const bytes = new Uint8Array(file.size());
  file.readSync(bytes, 0);
  const changed = utf8Encode(change(utf8Decode(bytes)));
  file.truncate(0);
  file.write(changed, 0);
  file.datasyncNow();
  file.close();
}
