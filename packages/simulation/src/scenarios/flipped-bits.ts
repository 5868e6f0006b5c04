/**
 * Bits flip under brokers that run: on the disk of a leader, on that of one that has just taken over, and on
 * the way from a leader to a follower or a consumer. Any byte of a batch may be hit, those that no CRC
 * covers too. Nobody is given what was not written; a damaged replica gives way, tells so in one line and is
 * copied anew; a leader whose log is whole looks, says so, and goes on leading, whatever it is told.
 */
import { partitionName } from '@relevo/base/ids';
import type { Consumer } from '@relevo/client/consumer/consumer';
import type { Producer } from '@relevo/client/producer/producer';
import type { Relevo } from '@relevo/client/relevo';
import type { RunFigures, RunOptions } from '../failover-run.ts';
import { MetadataWatcher, show } from '../metadata-watcher.ts';
import type { PartitionState } from '../metadata-watcher.ts';
import type { Prng } from '../prng.ts';
import { compareReplicas, directoryOf, storedBatches } from '../replica-checker.ts';
import { SimulatedCluster, hostOf } from '../simulated-cluster.ts';
import { connectClient } from '../workload.ts';
import { World } from '../world.ts';
import type { LogLine } from '../world.ts';

const TOPIC = 'orders';
const WITHIN_MS = 60_000;
/** A replica that is damaged again and again is copied anew after pauses that double, from 10 s on. */
const WHOLE_WITHIN_MS = 180_000;
/** Every value holds it: a message with it carries records, and a flip in it hits what a CRC covers. */
const MARK = '~~~~~~~~';
const REPLICAS: readonly (readonly number[])[] = [
  [0, 1, 2],
  [1, 2, 0],
];
/** The parts of a batch: what no CRC covers, the CRC, the rest of the header; after it, the records. */
const PARTS: readonly (readonly [name: string, from: number, to: number])[] = [
  ['base offset', 0, 7],
  ['length', 8, 11],
  ['leader epoch', 12, 15],
  ['magic', 16, 16],
  ['CRC', 17, 20],
  ['header', 21, 60],
];
const HEADER_BYTES = 61;

export async function flippedBitsRun(
  seed: number | string,
  options: RunOptions = {},
): Promise<RunFigures> {
  const lines: LogLine[] = [];
  const onLog = (line: LogLine): void => {
    lines.push(line);
    options.onLog?.(line);
  };
  const world = new World({ seed, onLog });
  const run = new FlippedBitsRun(world, lines);
  await world.run(() => run.run());
  return run.figures();
}

interface Written {
  readonly value: string;
  readonly leaderEpoch: number;
}

class FlippedBitsRun {
  readonly #world: World;
  readonly #lines: readonly LogLine[];
  readonly #cluster: SimulatedCluster;
  readonly #prng: Prng;
  readonly #partitions: number;
  /** What was acknowledged, by partition and offset. */
  readonly #written: readonly Map<number, Written>[];
  #sent = 0;
  #flips = 0;
  /** Error lines that were looked at. */
  #errors = 0;
  #watcher: MetadataWatcher | undefined;

  constructor(world: World, lines: readonly LogLine[]) {
    this.#world = world;
    this.#lines = lines;
    // The bits are those of files of the logs' own.
    this.#cluster = new SimulatedCluster(world, {
      settings: () => ({ 'log.young.bytes.max': '0' }),
    });
    this.#prng = world.prng.split('flipped-bits');
    this.#partitions = this.#prng.integer(1, REPLICAS.length);
    this.#written = Array.from({ length: this.#partitions }, () => new Map<number, Written>());
  }

  async run(): Promise<void> {
    const world = this.#world;
    this.#cluster.bootAll();
    await world.until('all brokers serve', () => this.#serve(), WITHIN_MS);
    const client = await connectClient(world, 'client', this.#cluster.addresses);
    this.#watch();
    await client.admin.createTopic({
      topic: TOPIC,
      assignment: REPLICAS.slice(0, this.#partitions),
      config: { 'segment.bytes': this.#prng.pick([65_536, 2 ** 20]), 'index.interval.bytes': 256 },
    });
    await this.#untilWhole();
    const producer = client.producer({ lingerMs: 1, deliveryTimeoutMs: 120_000 });
    await this.#send(producer, this.#prng.integer(5, 60));
    const tail = this.#follow(client);
    for (let round = this.#prng.integer(2, 5); round > 0; round--) {
      await this.#strike(client, producer, this.#prng.integer(0, this.#partitions - 1));
      await this.#send(producer, this.#prng.integer(1, 30));
    }
    await producer.close();
    await this.#checkAll(client);
    const caughtUp = (): boolean => tail.next.every((next, at) => next === this.#endOf(at));
    await world.until('the consumer has read all', caughtUp, WITHIN_MS, () => tail.next.join());
    await tail.consumer.close();
    await client.close();
    this.#watcher?.stop();
  }

  figures(): RunFigures {
    const { trace, prng, nowMs } = this.#world;
    return {
      ...{ acknowledged: this.#sent, unknown: 0, failed: 0 },
      ...{ failoverMs: [], wholeMs: [], elections: this.#flips },
      events: trace.events,
      virtualMs: nowMs,
      fingerprint: `${trace.hash}-${prng.recorder.last}`,
    };
  }

  // --------------------------------------------------------------------------------- the flips

  async #strike(client: Relevo, producer: Producer, partition: number): Promise<void> {
    const [preferred = 0] = REPLICAS[partition] ?? [];
    const kind = this.#prng.pick([
      'preferred',
      'preferred',
      'next',
      'onTheWay',
      'onTheWay',
    ] as const);
    if (kind === 'onTheWay') {
      await this.#strikeMessage(producer, partition, preferred);
      return;
    }
    const victim = kind === 'next' ? await this.#failOver(partition, preferred) : preferred;
    this.#flipOnDisk(victim, partition);
    const sending = this.#send(producer, this.#prng.integer(0, 10));
    await this.#read(client, partition);
    if (kind === 'next') this.#cluster.boot(preferred);
    await sending;
    await this.#untilWhole();
    this.#checkTold(victim, partition);
    await this.#checkReplicas(client);
  }

  /** The preferred leader is away; who leads then. */
  async #failOver(partition: number, preferred: number): Promise<number> {
    await this.#cluster.process(preferred).kill({ unsynced: 'keep' });
    const leader = (): number => this.#state(partition)?.leader ?? -1;
    const moved = (): boolean => leader() >= 0 && leader() !== preferred;
    await this.#world.until('another leads', moved, WITHIN_MS, () => this.#why());
    return leader();
  }

  #flipOnDisk(victim: number, partition: number): void {
    const name = partitionName(TOPIC, partition);
    const replica = this.#cluster.replicas()[victim];
    if (replica === undefined) return;
    const { disk, dataDir } = replica;
    const prng = this.#prng;
    const batch = prng.pick(storedBatches(disk, dataDir, name));
    const records = ['records', HEADER_BYTES, batch.bytes.length - 1] as const;
    const [part, from, to] = prng.pick([...PARTS, records, records]);
    const at = batch.position + prng.integer(from, to);
    const bit = prng.integer(0, 7);
    disk.flipBit(`${directoryOf(dataDir, name)}/${batch.file}`, at, bit);
    this.#flips++;
    const where = `bit ${bit} of byte ${at} of ${batch.file}, the ${part} of offset ${batch.baseOffset}`;
    this.#world.note('flip', hostOf(victim), `${name}: ${where}`);
  }

  /** The next message with records from the leader to another broker, or to the client, is damaged. */
  async #strikeMessage(producer: Producer, partition: number, leader: number): Promise<void> {
    const world = this.#world;
    const followers = this.#cluster.ids.filter((id) => id !== leader).map(hostOf);
    const target = this.#prng.pick([...followers, ...followers, 'client']);
    const before = this.#lines.length;
    const epoch = this.#state(partition)?.leaderEpoch;
    const { network } = world;
    let isHit = false;
    network.overhear = (from, to, packet) => {
      if (isHit || from !== hostOf(leader) || to !== target || packet.kind !== 'message') return;
      const at = findMark(packet.body);
      if (at < 0) return;
      isHit = true;
      packet.body[at] = (packet.body[at] ?? 0) ^ (1 << this.#prng.integer(0, 7));
      this.#flips++;
      world.note('flip', target, `a message from ${from}`);
    };
    const hit = (): boolean => isHit;
    while (!isHit) await this.#send(producer, 1, partition);
    await world.until('a message is hit', hit, WITHIN_MS);
    network.overhear = undefined;
    const told = (): boolean =>
      this.#lines.slice(before).some(({ event, process }) => {
        return process === hostOf(leader) && event.startsWith('records arrived damaged');
      });
    if (!this.#isQuiet(leader, before)) {
      await world.until(
        `${hostOf(leader)} hears that what it sent to ${target} arrived damaged`,
        told,
        WITHIN_MS,
      );
    }
    await this.#untilWhole();
    this.#checkErrors([]);
    if (this.#state(partition)?.leaderEpoch === epoch) return;
    throw new Error(`${hostOf(leader)} was told of damage on the way, and leads no more`);
  }

  /** It has looked not long ago and found nothing: it need not say so again. */
  #isQuiet(leader: number, before: number): boolean {
    const sinceMs = this.#world.nowMs - 11_000;
    return this.#lines.slice(0, before).some(({ event, process, timeMs }) => {
      return (
        process === hostOf(leader) &&
        timeMs > sinceMs &&
        event.startsWith('records arrived damaged')
      );
    });
  }

  // -------------------------------------------------------------------------------- the records

  async #send(producer: Producer, count: number, only?: number): Promise<void> {
    const prng = this.#prng;
    for (let at = 0; at < count; at++) {
      const sends = Array.from({ length: prng.pick([1, 1, 3]) }, () => {
        const partition = only ?? prng.integer(0, this.#partitions - 1);
        const value = `v${this.#sent++}${MARK}${'x'.repeat(prng.integer(0, 800))}`;
        return producer.send({ topic: TOPIC, partition, value }).then(({ offset, leaderEpoch }) => {
          this.#written[partition]?.set(offset, { value, leaderEpoch });
        });
      });
      await this.#world.within('records are acknowledged', 2 * WITHIN_MS, Promise.all(sends));
    }
  }

  #endOf(partition: number): number {
    return Math.max(-1, ...(this.#written[partition]?.keys() ?? [])) + 1;
  }

  #check(
    reader: string,
    read: { partition: number; offset: number; leaderEpoch: number; value: unknown },
  ): void {
    const { partition, offset, leaderEpoch, value } = read;
    const wanted = this.#written[partition]?.get(offset);
    // Its receipt is on its way.
    if (wanted === undefined) return;
    if (wanted.value === String(value) && wanted.leaderEpoch === leaderEpoch) return;
    const name = partitionName(TOPIC, partition);
    throw new Error(
      `the ${reader} was given "${String(value).slice(0, 20)}" of epoch ${leaderEpoch} at offset ${offset} of ` +
        `${name}, where "${wanted.value.slice(0, 20)}" of epoch ${wanted.leaderEpoch} was written (L5)`,
    );
  }

  /** Reads along; each offset comes once, in order. */
  #follow(client: Relevo): { readonly consumer: Consumer; readonly next: number[] } {
    const consumer = client.consumer({ topics: [TOPIC], from: 'earliest', maxWaitMs: 200 });
    const next = Array.from({ length: this.#partitions }, () => 0);
    const read = async (): Promise<void> => {
      for await (const record of consumer) {
        const { partition, offset } = record;
        if (offset !== next[partition]) {
          throw new Error(`the follower reads ${offset} of ${partition}, not ${next[partition]}`);
        }
        next[partition] = offset + 1;
        this.#check('follower', record);
      }
    };
    read().catch((error: unknown) => this.#world.fail(error));
    return { consumer, next };
  }

  /** All of a partition, from its beginning. */
  async #read(client: Relevo, partition: number): Promise<void> {
    const end = this.#endOf(partition);
    const partitions = [{ topic: TOPIC, partition, from: 'earliest' as const }];
    const consumer = client.consumer({ partitions, maxWaitMs: 50 });
    const read = async (): Promise<void> => {
      let next = 0;
      for await (const record of consumer) {
        if (record.offset !== next)
          throw new Error(`a reader is given ${record.offset}, not ${next}`);
        this.#check('reader', record);
        next = record.offset + 1;
        if (next >= end) return;
      }
    };
    await this.#world.within('all is read', WITHIN_MS, read());
    await consumer.close();
  }

  async #checkAll(client: Relevo): Promise<void> {
    for (let partition = 0; partition < this.#partitions; partition++) {
      await this.#read(client, partition);
      const written = this.#written[partition]?.size ?? 0;
      if (written === this.#endOf(partition)) continue;
      throw new Error(
        `${written} records were acknowledged, the last at ${this.#endOf(partition)}`,
      );
    }
    await this.#checkReplicas(client);
  }

  async #checkReplicas(client: Relevo): Promise<void> {
    for (const { partition, offset } of await client.admin.listOffsets({ topic: TOPIC })) {
      const differences = (): string[] =>
        compareReplicas(this.#cluster.replicas(), TOPIC, partition, offset);
      await this.#world.until(
        'the replicas are equal',
        () => differences().length === 0,
        WITHIN_MS,
        () => differences().join('; '),
      );
    }
  }

  // -------------------------------------------------------------------------- what brokers say

  /** Each damaged replica has one line, from its own broker. */
  #checkTold(victim: number, partition: number): void {
    this.#checkErrors([
      `${hostOf(victim)}: a replica is offline: ${partitionName(TOPIC, partition)}`,
    ]);
  }

  #checkErrors(wanted: readonly string[]): void {
    const errors = this.#lines
      .filter(({ level }) => level === 'error')
      .map(({ process, event, fields }) => `${process}: ${event}: ${String(fields['partition'])}`);
    const fresh = errors.slice(this.#errors);
    this.#errors = errors.length;
    if (fresh.join('\n') === wanted.join('\n')) return;
    throw new Error(`told was [${fresh.join('; ')}], and was to be [${wanted.join('; ')}]`);
  }

  // ------------------------------------------------------------------------------- convergence

  #watch(): void {
    this.#world.process('watcher').boot((ports) => {
      const fail = (text: string): void => this.#world.fail(new Error(text));
      const watcher = new MetadataWatcher(ports, fail);
      for (const address of this.#cluster.addresses) watcher.follow(address);
      this.#watcher = watcher;
    });
  }

  #state(partition: number): PartitionState | undefined {
    return this.#watcher?.partitions(TOPIC).find((state) => state.partition === partition);
  }

  #serve(): boolean {
    return this.#cluster.ids.every((id) => {
      const node = this.#cluster.process(id).alive ? this.#cluster.node(id) : undefined;
      return node !== undefined && node.unready() === undefined;
    });
  }

  async #untilWhole(): Promise<void> {
    const isWhole = (): boolean => {
      const states = this.#watcher?.partitions(TOPIC) ?? [];
      const inSync = states.every(
        ({ leader, isr, replicas }) => leader === replicas[0] && isr.length === replicas.length,
      );
      return states.length === this.#partitions && this.#serve() && inSync;
    };
    const what = 'all replicas are in sync and all preferred leaders lead';
    await this.#world.until(what, isWhole, WHOLE_WITHIN_MS, () => this.#why());
  }

  #why(): string {
    return (this.#watcher?.partitions(TOPIC) ?? []).map(show).join('; ');
  }
}

/** Where the mark stands in a message; -1: nowhere. */
function findMark(body: Uint8Array): number {
  const mark = Array.from(MARK, (char) => char.charCodeAt(0));
  const [first = 0] = mark;
  for (let at = body.indexOf(first); at >= 0; at = body.indexOf(first, at + 1)) {
    if (mark.every((byte, index) => body[at + index] === byte)) return at;
  }
  return -1;
}
