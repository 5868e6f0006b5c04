/**
 * The general run: whatever may befall a cluster, mixed at random. Processes, network and clocks fail as in
 * the swarm (`failover-run.ts`); beside that disks fail, are full, damaged, wiped or older, topics are made,
 * deleted, grown and altered, segments roll and are deleted by retention, records bear old timestamps, the
 * metadata are snapshotted, a broker joins, voters are exchanged, and an outsider forges messages. What each
 * seed mixes, and the budget of injuries, is in `hostile-plan.ts`.
 *
 * What must hold: nothing acknowledged is lost, doubled or out of order; no other bytes are served than were
 * sent; leaders and in-sync sets are legal; after each round the cluster is whole again within a bound; the
 * replicas are equal; deleted topics leave nothing; no process ends but one whose disk was hurt, and no
 * broker but that calls a log of its own damaged; of each offline replica one line tells.
 */
import { messageOf } from '@relevo/base/errors';
import { partitionName } from '@relevo/base/ids';
import type { Relevo } from '@relevo/client/relevo';
import type { Node } from '@relevo/server/node';
import type { DirectoryNode } from '../disk-image.ts';
import type { RunFigures, RunOptions } from '../failover-run.ts';
import type { Sent } from '../history.ts';
import { MetadataWatcher, show } from '../metadata-watcher.ts';
import type { PartitionState } from '../metadata-watcher.ts';
import type { Prng } from '../prng.ts';
import { compareReplicas, durableEnd, storedBatches } from '../replica-checker.ts';
import type { ReplicaOnDisk } from '../replica-checker.ts';
import { CLUSTER_SECRET, SimulatedCluster, addressOf, hostOf } from '../simulated-cluster.ts';
import { connectClient } from '../workload.ts';
import { World } from '../world.ts';
import { startOutsider } from './forging-outsider.ts';
import { LIVE_INJURIES, drawSync, injureFile, kindOf, loseDirectory } from './hostile-disk.ts';
import { HostileLines, shortened } from './hostile-lines.ts';
import { describeHostile, drawHostilePlan, isAtRest, isLive } from './hostile-plan.ts';
import type { HostileFault, HostilePlan, LiveKind, RestKind } from './hostile-plan.ts';
import { CLOCK_JUMP_MAX_MS, HostileTopics } from './hostile-topics.ts';
import type { Extent, Topic } from './hostile-topics.ts';
import { checkTidy } from './hostile-tidy.ts';

const VOTERS = 3;
const START_WITHIN_MS = 30_000;
const WHOLE_WITHIN_MS = 60_000;
/** So long a supervisor waits before it starts an ended process again. */
const RESTART_MS = 300;
/** In which a broker that says that it serves has come to all of its logs. */
const LATE_OPENING_MS = 600;
/** Every so many acknowledgements, one is checked against the disks. */
const DURABILITY_CHECK_EVERY = 16;
const MIN_IN_SYNC = 2;
/** After so many failed starts on a disk that works again, a person gives the broker an empty one. */
const STARTS_MAX = 3;

export async function hostileRun(
  seed: number | string,
  options: RunOptions = {},
): Promise<RunFigures> {
  const plan = drawHostilePlan(new World({ seed }).prng.split('hostile/plan'));
  const lines = new HostileLines((text) => world.fail(new Error(text)));
  const world = new World({
    seed,
    network: { profile: plan.profile },
    disk: { latency: plan.diskLatency },
    onLog: (line) => {
      lines.add(line);
      options.onLog?.(line);
    },
  });
  const run = new HostileRun(world, plan, lines);
  await world.run(() => run.run());
  return run.figures();
}

class HostileRun {
  readonly #world: World;
  readonly #plan: HostilePlan;
  readonly #lines: HostileLines;
  readonly #prng: Prng;
  readonly #cluster: SimulatedCluster;
  readonly #wholeMs: number[] = [];
  readonly #coverage = new Map<string, number>();
  #watcher: MetadataWatcher | undefined;
  #topics: HostileTopics | undefined;
  #acks = 0;
  /** Brokers that have joined. */
  readonly #members: Set<number>;
  /** The disk of the broker that may be hurt has no room. */
  #isFull = false;
  /** The one whose disk this round may injure, and whether it has. */
  #hurt = -1;
  #isHurt = false;
  /** Its disk fails right now. */
  #failing = false;
  /** It is to be started once more: what befell a running broker may show only then. */
  #mustRestart = false;
  /** An older disk is in it, and it has not been refused yet: what ran before that. */
  #older: { readonly before: Node | undefined } | undefined;
  #wiped = false;
  #ended = new Map<number, string>();
  #failedStarts = 0;

  constructor(world: World, plan: HostilePlan, lines: HostileLines) {
    this.#world = world;
    this.#plan = plan;
    this.#lines = lines;
    this.#prng = world.prng.split('hostile');
    const voters = Array.from({ length: VOTERS }, (_, id) => `${id}@${addressOf(id)}`).join(',');
    this.#cluster = new SimulatedCluster(world, {
      brokers: plan.brokers,
      secrets: () => [CLUSTER_SECRET],
      snapshotEntries: plan.snapshotEntries,
      settings: (id) => ({
        ...plan.settings,
        'controller.quorum.voters': voters,
        'process.roles': id < VOTERS ? 'broker,controller' : 'broker',
      }),
      onEnded: (id, reason) => this.#onEnded(id, reason),
    });
    const ids = this.#cluster.ids;
    this.#members = new Set(plan.joinsInRound === 0 ? ids : ids.filter((id) => id < VOTERS));
  }

  async run(): Promise<void> {
    const world = this.#world;
    for (const id of this.#members) this.#cluster.boot(id);
    const connecting = connectClient(world, 'client', this.#cluster.addresses);
    const client = await world.within('a client connects', START_WITHIN_MS, connecting);
    this.#watch();
    await world.until('all serve', () => this.#unready().length === 0, START_WITHIN_MS);
    const topics = new HostileTopics({
      ...{ world, client, plan: this.#plan, prng: this.#prng.split('topics') },
      count: (what) => this.#count(what),
      mayBeDamaged: () => this.#isHurt,
      onAck: (topic, sent) => this.#onAck(topic, sent),
    });
    this.#topics = topics;
    for (const topic of this.#plan.topics) await topics.create(topic);
    topics.start();
    const stage = { world, cluster: this.#cluster, client };
    const outsider = this.#plan.outsider
      ? await startOutsider(stage, { isOpen: false, pauseMs: 150 })
      : undefined;
    for (const round of this.#plan.rounds) await this.#goThrough(round);
    await world.within('every send is settled', 200_000, topics.stop());
    await outsider?.stop();
    await this.#untilWhole();
    await this.#check(topics, client);
    await world.within('the client closes', 10_000, client.close());
    await this.#stopAll();
  }

  figures(): RunFigures {
    const topics = this.#topics;
    for (const [event, times] of this.#lines.counts) this.#count(`line: ${event}`, times);
    return {
      acknowledged: topics?.count('acknowledged') ?? 0,
      unknown: topics?.count('unknown') ?? 0,
      failed: topics?.count('failed') ?? 0,
      failoverMs: [],
      wholeMs: this.#wholeMs,
      elections: this.#watcher?.elections ?? 0,
      events: this.#world.trace.events,
      virtualMs: this.#world.nowMs,
      coverage: Object.fromEntries(this.#coverage),
      fingerprint: `${this.#world.trace.hash}-${this.#world.prng.recorder.last}`,
    };
  }

  #count(what: string, times = 1): void {
    this.#coverage.set(what, (this.#coverage.get(what) ?? 0) + times);
  }

  #watch(): void {
    this.#world.process('watcher').boot((ports) => {
      const fail = (text: string): void => this.#world.fail(new Error(text));
      const watcher = new MetadataWatcher(ports, fail);
      for (const address of this.#cluster.addresses) watcher.follow(address);
      this.#watcher = watcher;
    });
  }

  // ---------------------------------------------------------------------------------- rounds

  async #goThrough(round: readonly HostileFault[]): Promise<void> {
    const world = this.#world;
    for (const id of this.#cluster.ids) {
      if (this.#members.has(id)) continue;
      this.#members.add(id);
      this.#cluster.boot(id);
      this.#count('change: a broker joins');
    }
    if (!this.#isHurt) this.#hurt = this.#prng.pick(this.#cluster.ids);
    this.#wiped = false;
    const older = this.#cluster.process(this.#hurt).disk.snapshot();
    await Promise.all(round.map((fault, index) => this.#suffer(fault, index, older)));
    await this.#seeToDisk();
    const mendedMs = world.nowMs;
    await this.#untilWhole();
    this.#wholeMs.push(world.nowMs - mendedMs);
    if (this.#isHurt) {
      await world.sleep(LATE_OPENING_MS);
      await this.#untilWhole();
    }
    await this.#lookForLatent();
  }

  async #suffer(fault: HostileFault, index: number, older: DirectoryNode): Promise<void> {
    const world = this.#world;
    const prng = this.#prng.split(`fault/${index}/${world.nowMs}`);
    await world.sleep(fault.afterMs);
    const { kind, lastsMs } = fault;
    if (isAtRest(kind)) await this.#injureAtRest(kind, lastsMs, older, prng);
    else if (isLive(kind)) await this.#injureLive(kind, lastsMs, prng);
    else {
      const victim = kind === 'fullDisk' || kind === 'hungDisk' ? this.#hurt : this.#victim(prng);
      this.#note(fault, kind === 'powerCutAll' ? 'all' : victim);
      const mend = await this.#strike(kind, victim, prng);
      if (mend === undefined) return;
      this.#count(`fault: ${kind}`);
      await world.sleep(lastsMs);
      world.note('mend', 'scenario', `${kind} at ${victim}`);
      mend();
    }
  }

  #note(fault: HostileFault, victim: number | 'all'): void {
    this.#world.note('fault', 'scenario', `${describeHostile(fault)} at ${victim}`);
  }

  /** Mostly the leader of some partition. */
  #victim(prng: Prng): number {
    const leaders = this.#states().map(({ leader }) => leader);
    const members = [...this.#members];
    const victim = leaders.length > 0 && prng.chance(0.7) ? prng.pick(leaders) : prng.pick(members);
    return victim >= 0 ? victim : prng.pick(members);
  }

  /** Returns what undoes it; undefined: the victim is down already. */
  async #strike(
    kind: Exclude<HostileFault['kind'], RestKind | LiveKind>,
    id: number,
    prng: Prng,
  ): Promise<(() => void) | undefined> {
    const process = this.#cluster.process(id);
    if (!process.alive && kind !== 'powerCutAll') return undefined;
    switch (kind) {
      case 'kill':
        await process.kill({ unsynced: 'keep' });
        return () => this.#reboot(id);
      case 'powerCut':
        await process.kill({ unsynced: 'lose' });
        return () => this.#reboot(id);
      case 'silentPowerCut':
        await process.kill({ unsynced: 'lose', silent: true });
        return () => this.#reboot(id);
      case 'powerCutAll':
        for (const each of this.#members) {
          await this.#cluster.process(each).kill({ unsynced: 'lose' });
        }
        return () => this.#members.forEach((each) => this.#reboot(each));
      case 'pause':
        process.pause();
        return () => process.resume();
      case 'isolate':
        return this.#cluster.cut(id, { out: true, into: true });
      case 'oneWay': {
        const hears = prng.chance(0.5);
        return this.#cluster.cut(id, { out: hears, into: !hears });
      }
      case 'clockJump': {
        const { clock } = process;
        const jumpMs = prng.between(-1, 1) * prng.pick([2_000, CLOCK_JUMP_MAX_MS]);
        clock.wallOffsetMs += jumpMs;
        return () => {
          if (prng.chance(0.5)) clock.wallOffsetMs -= jumpMs;
        };
      }
      case 'hungDisk':
        process.disk.hang();
        return () => process.disk.unhang();
      case 'fullDisk': {
        const { disk } = process;
        const before = disk.capacityBytes;
        if (this.#isFull) return undefined;
        this.#isFull = true;
        disk.capacityBytes = disk.usedBytes + prng.pick([0, 100, 20_000]);
        return () => {
          this.#isFull = false;
          disk.capacityBytes = before;
        };
      }
    }
  }

  #reboot(id: number): void {
    const { alive } = this.#cluster.process(id);
    if (!alive && !this.#ended.has(id)) this.#boot(id);
  }

  #boot(id: number): void {
    this.#lines.booted(hostOf(id));
    this.#cluster.boot(id);
  }

  // -------------------------------------------------------------------------------- injuries

  async #injureAtRest(
    kind: RestKind,
    lastsMs: number,
    older: DirectoryNode,
    prng: Prng,
  ): Promise<void> {
    const world = this.#world;
    const id = this.#hurt;
    const process = this.#cluster.process(id);
    if (!process.alive || this.#ended.has(id) || this.#older !== undefined) return;
    // It has just joined: that was no disk of its own yet.
    if (kind === 'olderDisk' && older.durable.size === 0) return;
    await process.kill({ unsynced: prng.pick(['keep', 'lose', 'lose']) });
    if (kind === 'olderDisk') {
      // There is a later start by which it can be told.
      const before = this.#cluster.node(id);
      this.#reboot(id);
      const isUp = (): boolean => {
        const node = this.#cluster.node(id);
        return node !== undefined && node !== before && node.unready() === undefined;
      };
      await world.until('it is registered', () => isUp() || !process.alive, 20_000).catch(() => 0);
      if (!process.alive || !isUp()) return;
      await process.kill({ unsynced: 'lose' });
    }
    const done = this.#damage(kind, id, older, prng);
    if (done !== undefined) {
      this.#isHurt = true;
      this.#lines.hurt(hostOf(id));
      this.#count(`fault: ${kind}`);
      world.note('injury', hostOf(id), done);
    }
    await world.sleep(lastsMs);
    // One from before the disk was exchanged is another disk to all.
    if (kind === 'olderDisk' && !this.#wiped) this.#older = { before: this.#cluster.node(id) };
    if (kind === 'wipedDisk') this.#wiped = true;
    this.#reboot(id);
  }

  #damage(kind: RestKind, id: number, older: DirectoryNode, prng: Prng): string | undefined {
    const { disk, dataDir } = this.#replica(id);
    switch (kind) {
      case 'wipedDisk':
        disk.wipe();
        return 'the disk is wiped';
      case 'olderDisk':
        disk.restore(older);
        return 'the disk is an older one';
      case 'vanishedDirectory': {
        const name = loseDirectory(disk, dataDir, prng);
        if (name !== undefined) this.#count(`injured: a directory of ${kindOf(name)}`);
        return name === undefined ? undefined : `the directory ${name} has vanished`;
      }
      default: {
        const injured = injureFile(disk, dataDir, kind, prng);
        if (injured === undefined) return undefined;
        this.#count(`injured: ${injured.owner}`);
        return `${kind}: ${injured.what} of ${injured.path}`;
      }
    }
  }

  async #injureLive(kind: LiveKind, lastsMs: number, prng: Prng): Promise<void> {
    const world = this.#world;
    const id = this.#hurt;
    const { disk, dataDir } = this.#replica(id);
    if (!this.#cluster.process(id).alive) return;
    const fileInjury = LIVE_INJURIES[kind];
    if (fileInjury === undefined) {
      this.#failing = true;
      if (kind === 'failingReads') disk.errorRates.read = prng.pick([0.02, 0.5]);
      else if (kind === 'failingWrites') disk.errorRates.write = prng.pick([0.02, 0.5]);
      else disk.fail({ operation: 'datasync', ...drawSync(prng) });
      world.note('injury', hostOf(id), kind);
    } else {
      const injured = injureFile(disk, dataDir, fileInjury, prng);
      if (injured === undefined) return;
      this.#count(`injured: ${injured.owner}`);
      world.note('injury', hostOf(id), `${kind}: ${injured.what} of ${injured.path}`);
    }
    this.#isHurt = true;
    this.#lines.hurt(hostOf(id));
    this.#count(`fault: ${kind}`);
    this.#mustRestart = true;
    await world.sleep(lastsMs);
    disk.clearFaults();
    this.#failing = false;
  }

  /** What a person does who has read the lines: the disk is in order again, and the broker restarts. */
  async #seeToDisk(): Promise<void> {
    if (!this.#mustRestart) return;
    this.#mustRestart = false;
    const id = this.#hurt;
    const process = this.#cluster.process(id);
    if (!process.alive || this.#ended.has(id)) return;
    await process.kill({ unsynced: this.#prng.pick(['keep', 'lose']) });
    // It may have ended in the same moment: then the supervisor starts it.
    this.#reboot(id);
  }

  /** The supervisor starts it again; what the last line says is done by a person. */
  #onEnded(id: number, reason: unknown): void {
    const text = messageOf(reason);
    const noRoom = this.#isFull && text.includes('no room');
    if (id !== this.#hurt || !(this.#isHurt || noRoom)) {
      this.#world.fail(new Error(`broker ${id}, which nobody hurt, has ended: ${text}`));
      return;
    }
    if (this.#ended.has(id)) return;
    this.#ended.set(id, text);
    this.#world.note('ended', hostOf(id), text);
    this.#count(`ended: ${shortened(text)}`);
    void this.#startAgain(id, text).catch((error: unknown) => this.#world.fail(error));
  }

  async #startAgain(id: number, reason: string): Promise<void> {
    const process = this.#cluster.process(id);
    await process.kill({ unsynced: 'keep' });
    await this.#world.sleep(RESTART_MS);
    if (!this.#failing && !this.#isFull) this.#failedStarts++;
    const isOlder = reason.includes('older copy');
    if (isOlder || this.#failedStarts >= STARTS_MAX) {
      this.#failedStarts = 0;
      this.#older = undefined;
      this.#wiped = true;
      this.#count(isOlder ? 'older disk refused' : `wiped after: ${shortened(reason)}`);
      process.disk.wipe();
    }
    this.#ended.delete(id);
    if (!process.alive) this.#boot(id);
  }

  // ----------------------------------------------------------------------------- convergence

  #replica(id: number): ReplicaOnDisk {
    const replica = this.#cluster.replicas()[id];
    if (replica === undefined) throw new Error(`broker ${id} has a disk`);
    return replica;
  }

  #states(): PartitionState[] {
    const watcher = this.#watcher;
    if (watcher === undefined) return [];
    return (this.#topics?.live ?? []).flatMap(({ topicId }) => watcher.partitionsOf(topicId));
  }

  #unready(): string[] {
    return [...this.#members].flatMap((id) => {
      const node = this.#cluster.process(id).alive ? this.#cluster.node(id) : undefined;
      const why = node === undefined ? 'it is not running' : node.unready();
      return why === undefined ? [] : [`broker ${id}: ${why}`];
    });
  }

  async #untilWhole(): Promise<void> {
    const isWhole = ({ leader, isr, replicas }: PartitionState): boolean =>
      leader === replicas[0] && isr.length === replicas.length;
    const whole = (): boolean => {
      this.#checkOlder();
      return this.#unready().length === 0 && this.#states().every(isWhole);
    };
    const why = (): string =>
      [
        `controller ${this.#watcher?.controllerId}`,
        ...this.#unready(),
        ...this.#states()
          .filter((state) => !isWhole(state))
          .map((one) => `${partitionName(one.topic, one.partition)}: ${show(one)}`),
      ].join('; ');
    const what = 'all replicas are in sync and all preferred leaders lead';
    await this.#world.until(what, whole, WHOLE_WITHIN_MS, why);
    await this.#world.until(
      'all voters vote',
      () => this.#isQuorumWhole(),
      WHOLE_WITHIN_MS,
      () => JSON.stringify(this.#cluster.ids.map((id) => this.#cluster.node(id)?.quorum())),
    );
  }

  /** Each voter that is meant to be one is, has the leader's configuration, and all that is committed. */
  #isQuorumWhole(): boolean {
    const views = Array.from({ length: VOTERS }, (_, id) => this.#cluster.node(id)?.quorum());
    const [first] = views;
    return views.every(
      (view) =>
        view !== undefined &&
        view.voters.length === VOTERS &&
        view.committedIndex >= (first?.committedIndex ?? 0) - 1 &&
        view.controllerId === first?.controllerId,
    );
  }

  #checkOlder(): void {
    const id = this.#hurt;
    const node = this.#cluster.node(id);
    if (this.#older === undefined || node === this.#older.before || node === undefined) return;
    if (!this.#cluster.process(id).alive || node.unready() !== undefined) return;
    throw new Error(`broker ${id} serves with an older copy of its directory (L6)`);
  }

  /**
   * Whether the hurt broker is as good as the others again: then another may be hurt. Damage that nobody
   * has met yet stays, and with it the budget; or a person has the log looked through, and removes it.
   */
  async #lookForLatent(): Promise<void> {
    if (!this.#isHurt) return;
    const differing = this.#states().filter((state) => this.#differences(state).length > 0);
    if (differing.length === 0) {
      this.#isHurt = false;
      this.#lines.healed();
      this.#count('whole again, byte for byte');
      return;
    }
    this.#count('damage that nobody has met yet');
  }

  /** Between the replicas that are whole; a hurt one may differ where nobody has looked. */
  #differences(state: PartitionState, extent?: Extent): string[] {
    const on = this.#cluster.replicas().filter(({ broker }) => state.replicas.includes(broker));
    const ends = on.map(({ disk, dataDir }) =>
      durableEnd(disk, dataDir, partitionName(state.topic, state.partition)),
    );
    const end = extent?.end ?? Math.min(...ends);
    const start = Math.max(extent?.start ?? 0, this.#trimmedTo(state, on));
    return compareReplicas(on, state.topic, state.partition, end, start);
  }

  /** Each replica deletes old segments by itself: up to where all of them have begun to. */
  #trimmedTo({ topic, topicId, partition }: PartitionState, on: readonly ReplicaOnDisk[]): number {
    const known = this.#topics?.live.find((each) => each.topicId === topicId);
    if (known?.isTrimmed !== true) return 0;
    const name = partitionName(topic, partition);
    const starts = on.map(({ disk, dataDir }) => storedBatches(disk, dataDir, name)[0]?.baseOffset);
    return Math.max(0, ...starts.map((start) => start ?? Infinity));
  }

  // -------------------------------------------------------------------------------- checking

  /** P6: what was acknowledged would outlive a power cut of any one broker. */
  #onAck(topic: Topic, { partition, offset }: Sent): void {
    if (this.#acks++ % DURABILITY_CHECK_EVERY !== 0 || topic.doomed) return;
    const name = partitionName(topic.name, partition);
    const ends = this.#cluster
      .replicas()
      .filter(({ broker }) => !(this.#isHurt && broker === this.#hurt))
      .map(({ disk, dataDir }) => durableEnd(disk, dataDir, name));
    const needed = this.#isHurt ? MIN_IN_SYNC - 1 : MIN_IN_SYNC;
    if (ends.filter((end) => end > offset).length >= needed) return;
    this.#world.fail(
      new Error(`${name} offset ${offset} is acknowledged; durable are ${ends.join(', ')} (P6)`),
    );
  }

  async #check(topics: HostileTopics, client: Relevo): Promise<void> {
    const extents = await topics.check();
    // Reading may have found damage.
    await this.#untilWhole();
    for (const state of this.#states()) {
      const topic = topics.live.find(({ topicId }) => topicId === state.topicId);
      const extent = topic && extents.get(topic)?.[state.partition];
      if (extent === undefined) continue;
      const differences = this.#differences(state, extent);
      if (differences.length === 0) continue;
      if (!this.#isHurt || !this.#areOthersEqual(state, extent)) {
        throw new Error(differences.join('\n'));
      }
      this.#count('damage that nobody has met in the end');
    }
    const replicas = this.#cluster.replicas().filter(({ broker }) => this.#members.has(broker));
    const isTold = (broker: number, directory: string): boolean =>
      this.#lines.kept.has(`${hostOf(broker)} ${directory}`);
    await checkTidy(this.#world, { topics, client, replicas, isTold });
  }

  #areOthersEqual(state: PartitionState, extent: Extent): boolean {
    const on = this.#cluster
      .replicas()
      .filter(({ broker }) => state.replicas.includes(broker) && broker !== this.#hurt);
    const start = Math.max(extent.start, this.#trimmedTo(state, on));
    return compareReplicas(on, state.topic, state.partition, extent.end, start).length === 0;
  }

  async #stopAll(): Promise<void> {
    this.#watcher?.stop();
    for (const id of this.#members) {
      await this.#world.within(`broker ${id} stops`, 60_000, this.#cluster.stop(id));
    }
  }
}
