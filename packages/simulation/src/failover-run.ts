/**
 * One run: three nodes, producers and a consumer; leaders fail as the plan says and come back; at the
 * end the cluster must be whole again in bounded virtual time, with every acknowledged record read once
 * and the replicas equal.
 */
import { partitionName } from '@relevo/base/ids';
import type { Relevo } from '@relevo/client/relevo';
import { History } from './history.ts';
import type { Anomaly, Sent } from './history.ts';
import { MetadataWatcher, show } from './metadata-watcher.ts';
import type { PartitionState } from './metadata-watcher.ts';
import { describeFault, drawPlan } from './plan.ts';
import type { FaultKind, FaultPlan, FaultTrigger, Plan } from './plan.ts';
import { injure } from './injuries.ts';
import type { Injury } from './injuries.ts';
import type { Prng } from './prng.ts';
import { compareReplicas, durableEnd } from './replica-checker.ts';
import { CLUSTER_SECRET, SimulatedCluster, hostOf } from './simulated-cluster.ts';
import { ConsumerLoop, ProducerLoop, TOPIC, connectClient } from './workload.ts';
import { World } from './world.ts';
import type { LogLine } from './world.ts';

/** Virtual time in which a cluster that is left alone must be whole again. */
const WHOLE_WITHIN_MS = 60_000;
/** And in which a cluster that starts must have made a topic. */
const START_WITHIN_MS = 30_000;
const READ_WITHIN_MS = 60_000;
/** How long a fault waits for the moment that triggers it. */
const TRIGGER_MS = 12_000;
/** The moments, by the log lines that tell of them; each gives the leader concerned. */
const TRIGGERS: Readonly<Record<FaultTrigger, ((line: LogLine) => unknown) | undefined>> = {
  time: undefined,
  // The leader's own line, which comes after the controller's.
  isrGrown: ({ event, fields }) =>
    event === 'in-sync set grown' && 'joined' in fields ? fields['node'] : undefined,
  elected: ({ event, fields }) =>
    event === 'leader elected' || event === 'handed back' ? fields['to'] : undefined,
  truncated: ({ event, fields }) =>
    event === 'truncated to follow the leader' ? fields['leader'] : undefined,
};

/** Every so many acknowledgements, one is checked against the disks. */
const DURABILITY_CHECK_EVERY = 64;
/** The default of min.insync.replicas. */
const MIN_IN_SYNC = 2;

export interface RunFigures {
  readonly acknowledged: number;
  readonly unknown: number;
  readonly failed: number;
  /** From each fault that took a leader away to the first record acknowledged under the next. */
  readonly failoverMs: readonly number[];
  /** From the end of each fault until all preferred leaders lead and all replicas are in sync. */
  readonly wholeMs: readonly number[];
  readonly elections: number;
  readonly events: number;
  readonly virtualMs: number;
  /** How often each fault took hold, and each state was reached; where a scenario counts that. */
  readonly coverage?: Readonly<Record<string, number>>;
  /** Equal for equal seeds: the trace and the last draw. */
  readonly fingerprint: string;
}

export interface RunOptions {
  readonly onLog?: (line: LogLine) => void;
  /** In place of the one drawn from the seed. */
  readonly plan?: Plan;
  /** Of the cluster. Default: one that all brokers have. */
  readonly secrets?: readonly string[];
  /** Somebody else in the world, from when the topic is made until the cluster is whole again. */
  readonly beside?: (stage: Stage) => Promise<Beside>;
}

export interface Stage {
  readonly world: World;
  readonly cluster: SimulatedCluster;
  readonly client: Relevo;
}

export interface Beside {
  stop(): Promise<void>;
}

/** Rejects with a SimulationFailure that tells what went wrong. */
export async function failoverRun(
  seed: number | string,
  options: RunOptions = {},
): Promise<RunFigures> {
  const drawn = options.plan ?? drawPlan(new World({ seed }).prng.split('plan'));
  const world = new World({
    seed,
    network: { profile: drawn.profile, lanes: drawn.lanes, windowBytes: drawn.windowBytes },
    disk: { latency: drawn.diskLatency },
    clockDrift: drawn.clockDrift,
    ...(options.onLog === undefined ? {} : { onLog: options.onLog }),
  });
  const run = new FailoverRun(world, drawn, options);
  await world.run(() => run.run());
  return run.figures();
}

class FailoverRun {
  readonly #world: World;
  readonly #plan: Plan;
  readonly #options: RunOptions;
  readonly #cluster: SimulatedCluster;
  readonly #history: History = new History();
  readonly #failoverMs: number[] = [];
  readonly #wholeMs: number[] = [];
  #watcher: MetadataWatcher | undefined;
  #acks = 0;
  /** What the next acknowledgement of a partition means, by partition. */
  readonly #awaited: Map<number, { sinceMs: number; epoch: number }> = new Map();

  constructor(world: World, plan: Plan, options: RunOptions) {
    this.#world = world;
    this.#plan = plan;
    this.#options = options;
    const { secrets = [CLUSTER_SECRET] } = options;
    // What is to be damaged are files of the logs' own.
    const isDamaged = plan.rounds.flat().some(({ kind }) => isDamagedRestart(kind));
    const settings = isDamaged ? { 'log.young.bytes.max': '0' } : {};
    this.#cluster = new SimulatedCluster(world, {
      secrets: () => secrets,
      settings: () => settings,
    });
  }

  async run(): Promise<void> {
    const world = this.#world;
    const cluster = this.#cluster;
    cluster.bootAll();
    const client = await world.within(
      'a client connects',
      START_WITHIN_MS,
      connectClient(world, 'client', cluster.addresses),
    );
    this.#watch();
    const { partitions } = this.#plan;
    // The first broker answers before the others have registered: the call waits for them.
    const creation = client.admin.createTopic({ topic: TOPIC, partitions, replicationFactor: 3 });
    await world.within('a topic is made', START_WITHIN_MS, creation);
    const producers = await this.#startProducers(client);
    const follower = new ConsumerLoop('follower', client, world, this.#history);
    const beside = await this.#options.beside?.({ world, cluster, client });
    for (const round of this.#plan.rounds) await this.#goThrough(round);
    world.note('phase', 'scenario', 'the producers stop');
    await world.within(
      'every send is settled',
      this.#plan.deliveryTimeoutMs + WHOLE_WITHIN_MS,
      Promise.all(producers.map((producer) => producer.stop())),
    );
    await beside?.stop();
    await this.#untilWhole();
    await this.#readAll(client, follower);
    await world.within('the client closes', 10_000, client.close());
    await this.#stopAll();
  }

  figures(): RunFigures {
    const history = this.#history;
    return {
      acknowledged: history.count('acknowledged'),
      unknown: history.count('unknown'),
      failed: history.count('failed'),
      failoverMs: this.#failoverMs,
      wholeMs: this.#wholeMs,
      elections: this.#watcher?.elections ?? 0,
      events: this.#world.trace.events,
      virtualMs: this.#world.nowMs,
      fingerprint: `${this.#world.trace.hash}-${this.#world.prng.recorder.last}`,
    };
  }

  #watch(): void {
    this.#world.process('watcher').boot((ports) => {
      const fail = (text: string): void => this.#world.fail(new Error(text));
      const watcher = new MetadataWatcher(ports, fail);
      for (const address of this.#cluster.addresses) watcher.follow(address);
      this.#watcher = watcher;
    });
  }

  async #startProducers(client: Relevo): Promise<ProducerLoop[]> {
    const { partitions, producers } = this.#plan;
    const led = (): boolean =>
      this.#partitions().filter((state) => state.leader >= 0).length === partitions;
    await this.#world.until('all partitions have leaders', led, START_WITHIN_MS, () => this.#why());
    const options = {
      world: this.#world,
      plan: this.#plan,
      history: this.#history,
      prng: this.#world.prng.split('workload'),
      onAck: (sent: Sent) => this.#onAck(sent),
    };
    return Array.from(
      { length: producers },
      (_, index) => new ProducerLoop(`p${index}`, client, options),
    );
  }

  // --------------------------------------------------------------------------------- faults

  async #goThrough(round: readonly FaultPlan[]): Promise<void> {
    const world = this.#world;
    await Promise.all(round.map((fault, index) => this.#suffer(fault, index)));
    const mendedMs = world.nowMs;
    await this.#untilWhole();
    this.#wholeMs.push(world.nowMs - mendedMs);
    this.#awaited.clear();
  }

  async #suffer(fault: FaultPlan, index: number): Promise<void> {
    const world = this.#world;
    const prng = world.prng.split(`fault/${index}/${world.nowMs}`);
    if (fault.trigger === 'time') await world.sleep(fault.afterMs);
    const victim = await this.#triggered(fault.trigger, prng);
    if (victim === undefined) return;
    if (fault.trigger !== 'time') await world.sleep(fault.afterMs);
    const isForAll = fault.kind === 'powerCutAll' || isDamagedRestart(fault.kind);
    const victims = isForAll ? this.#cluster.ids : [victim];
    world.note('fault', 'scenario', `${describeFault(fault)} at ${victims.join(',')}`);
    this.#awaitFailover(victims);
    const mends: (() => void)[] = [];
    for (const [at, id] of victims.entries()) {
      // The first ones may stop in order: then the last alone stays in sync.
      const stops = fault.kind === 'stoppedRestart' && at + 1 < victims.length;
      if (stops) mends.push(await this.#stopInOrder(id));
      else mends.push(await this.#strike(fault.kind, id, prng));
    }
    if (isDamagedRestart(fault.kind)) this.#damageSome(fault.kind, prng);
    await world.sleep(fault.lastsMs);
    world.note('mend', 'scenario', `${fault.kind} at ${victims.join(',')}`);
    for (const mend of mends) mend();
  }

  /** Waits for the fault's moment; gives the leader concerned, or undefined where it never came. */
  async #triggered(trigger: FaultTrigger, prng: Prng): Promise<number | undefined> {
    const leaderOf = TRIGGERS[trigger];
    if (leaderOf === undefined) return this.#victim(prng);
    try {
      const concerns = (line: LogLine): boolean => Number(leaderOf(line) ?? -1) >= 0;
      return Number(leaderOf(await this.#world.untilLogged(concerns, TRIGGER_MS)));
    } catch {
      return undefined;
    }
  }

  /** The leader of some partition. */
  #victim(prng: Prng): number {
    const victim = prng.pick(this.#partitions().map((state) => state.leader));
    return victim >= 0 ? victim : prng.pick(this.#cluster.ids);
  }

  /** Returns what undoes it. */
  async #strike(kind: FaultKind, id: number, prng: Prng): Promise<() => void> {
    const process = this.#cluster.process(id);
    const reboot = (): void => {
      if (!process.alive) this.#cluster.boot(id);
    };
    switch (kind) {
      case 'kill':
        await process.kill({ unsynced: 'keep' });
        return reboot;
      case 'powerCut':
      case 'powerCutAll':
        await process.kill({ unsynced: 'lose' });
        return reboot;
      case 'stoppedRestart':
      case 'damagedRestart': {
        const afterMs = prng.integer(0, 300);
        await process.kill({ unsynced: prng.pick(['keep', 'lose']) });
        return () => void this.#world.sleep(afterMs).then(reboot);
      }
      case 'silentPowerCut':
        await process.kill({ unsynced: 'lose', silent: true });
        return reboot;
      case 'pause':
        process.pause();
        return () => process.resume();
      case 'isolate':
        return this.#cluster.cut(id, { out: true, into: true });
      case 'oneWay': {
        const hears = prng.chance(0.5);
        return this.#cluster.cut(id, { out: hears, into: !hears });
      }
    }
  }

  /**
   * Damages replicas of most partitions. Where all brokers died at once, all complete replicas but one are
   * damaged; where they stopped one after the other, only as many as min.insync.replicas lets the cluster lose: one.
   */
  #damageSome(kind: FaultKind, prng: Prng): void {
    for (const { partition, isr, elr } of this.#partitions()) {
      const whole = [...isr, ...elr];
      const spared = prng.pick(whole);
      const others = whole.filter((id) => id !== spared);
      const one = [prng.pick(whole)];
      const isAtOnce = kind !== 'stoppedRestart' && prng.chance(0.5);
      const hurt = prng.chance(0.8) ? (isAtOnce ? others : one) : [];
      for (const id of hurt) {
        const replica = this.#cluster.replicas()[id];
        // After a stop in order nothing is read that a bit could be seen to be wrong in.
        const injury: Injury =
          kind === 'stoppedRestart' ? 'lostDirectory' : prng.pick(['bitFlip', 'lostDirectory']);
        if (replica === undefined) continue;
        const done = injure(replica, partitionName(TOPIC, partition), injury, prng);
        if (done !== undefined) this.#world.note('injury', hostOf(id), done);
      }
    }
  }

  async #stopInOrder(id: number): Promise<() => void> {
    await this.#world.within(`broker ${id} stops`, 60_000, this.#cluster.stop(id));
    return () => this.#cluster.boot(id);
  }

  #awaitFailover(victims: readonly number[]): void {
    for (const { partition, leader, leaderEpoch } of this.#partitions()) {
      if (!victims.includes(leader)) continue;
      this.#awaited.set(partition, { sinceMs: this.#world.nowMs, epoch: leaderEpoch });
    }
  }

  #onAck({ partition, leaderEpoch, offset }: Sent): void {
    if (this.#acks++ % DURABILITY_CHECK_EVERY === 0) this.#checkDurable(partition, offset);
    const awaited = this.#awaited.get(partition);
    if (awaited === undefined || leaderEpoch <= awaited.epoch) return;
    this.#awaited.delete(partition);
    this.#failoverMs.push(this.#world.nowMs - awaited.sinceMs);
  }

  /** P6: what was acknowledged would outlive a power cut of any one broker. */
  #checkDurable(partition: number, offset: number): void {
    const name = partitionName(TOPIC, partition);
    const ends = this.#cluster
      .replicas()
      .map(({ disk, dataDir }) => durableEnd(disk, dataDir, name));
    if (ends.filter((end) => end > offset).length >= MIN_IN_SYNC) return;
    this.#world.fail(
      new Error(`${name} offset ${offset} is acknowledged; durable are ${ends.join(', ')} (P6)`),
    );
  }

  // ------------------------------------------------------------------------------ convergence

  #partitions(): PartitionState[] {
    return this.#watcher?.partitions(TOPIC) ?? [];
  }

  async #untilWhole(): Promise<void> {
    const whole = (): boolean => this.#partitions().every(isWhole) && this.#unready().length === 0;
    const what = 'all replicas are in sync and all preferred leaders lead';
    await this.#world.until(what, whole, WHOLE_WITHIN_MS, () => this.#why());
  }

  /** What brokers that do not serve say of themselves. */
  #unready(): string[] {
    return this.#cluster.ids.flatMap((id) => {
      const node = this.#cluster.process(id).alive ? this.#cluster.node(id) : undefined;
      const why = node === undefined ? 'it is not running' : node.unready();
      return why === undefined ? [] : [`broker ${id}: ${why}`];
    });
  }

  /** What is not as it should be. */
  #why(): string {
    const states = this.#partitions();
    const lines = states
      .filter((state) => !isWhole(state))
      .map((state) => `${partitionName(state.topic, state.partition)}: ${show(state)}`);
    const known = `${states.length} of ${this.#plan.partitions} partitions known`;
    const all = [known, `controller ${this.#watcher?.controllerId}`, ...this.#unready(), ...lines];
    return all.join('; ');
  }

  // ------------------------------------------------------------------------------ checking

  async #readAll(client: Relevo, follower: ConsumerLoop): Promise<void> {
    const world = this.#world;
    const ends = await world.within(
      'the end offsets are told',
      READ_WITHIN_MS,
      client.admin.listOffsets({ topic: TOPIC, at: 'latest' }),
    );
    const reader = new ConsumerLoop('reader', client, world, this.#history);
    for (const [name, loop] of [['reader', reader] as const, ['follower', follower] as const]) {
      const done = (): boolean => ends.every((end) => loop.next(end.partition) >= end.offset);
      const why = (): string =>
        ends.map((end) => `${loop.next(end.partition)}/${end.offset}`).join(' ');
      await world.until(`the ${name} has read all`, done, READ_WITHIN_MS, why);
    }
    await reader.close();
    await follower.close();
    report(this.#history.check(['reader'], ['follower']));
    for (const { partition, offset } of ends) {
      const differences = compareReplicas(this.#cluster.replicas(), TOPIC, partition, offset);
      if (differences.length > 0) throw new Error(differences.join('\n'));
    }
  }

  /** An orderly stop of all, one after the other: leadership moves, then the last ones go. */
  async #stopAll(): Promise<void> {
    this.#watcher?.stop();
    for (const id of this.#cluster.ids) {
      await this.#world.within(`broker ${id} stops`, 60_000, this.#cluster.stop(id));
    }
  }
}

const isDamagedRestart = (kind: FaultKind): boolean =>
  kind === 'damagedRestart' || kind === 'stoppedRestart';

const isWhole = ({ leader, isr, replicas }: PartitionState): boolean =>
  leader === replicas[0] && isr.length === replicas.length;

/** Anomalies listed in a failure; more are only counted. */
const ANOMALIES_SHOWN_MAX = 10;

function report(anomalies: readonly Anomaly[]): void {
  if (anomalies.length === 0) return;
  const shown = anomalies.slice(0, ANOMALIES_SHOWN_MAX).map(({ kind, text }) => `${kind}: ${text}`);
  throw new Error(`${anomalies.length} anomalies:\n  ${shown.join('\n  ')}`);
}
