/**
 * A quorum in one process: a virtual clock, a network that may lose, delay and cut, disks that may hang
 * and that forget what was not synced when their node crashes. Everything is driven by the test, and
 * checked after each step.
 */
import { utf8Decode, utf8Encode } from '@relevo/base/bytes';
import { brokerId, logIndex, uuid, type BrokerId } from '@relevo/base/ids';
import {
  decodeConfiguration,
  makeConfiguration,
  type Configuration,
  type Member,
} from '@relevo/raft/configuration';
import { UNPINNED, type Entry, type Message, type ReplicaKey } from '@relevo/raft/messages';
import type { RaftOptions } from '@relevo/raft/options';
import { RaftNode } from '@relevo/raft/raft-node';
import type { Ready } from '@relevo/raft/ready';
import { SafetyChecker } from './safety-checker.ts';
import { SeededRandom } from './random.ts';
import { StoredState } from './stored-state.ts';
import { describeConfiguration, describeMessage, describeReady, describeRole } from './describe.ts';

export interface Weather {
  /** Milliseconds on the way; undefined: lost. */
  delayMs(message: Message): number | undefined;
  /** Milliseconds until a write is durable. */
  syncMs(): number;
}

export const CALM: Weather = { delayMs: () => 1, syncMs: () => 0 };

interface OnTheWay {
  readonly message: Message;
  readonly dueMs: number;
}

/** What the state machine of the tests holds: the texts that were applied, in order. */
export interface Applied {
  readonly index: number;
  readonly term: number;
  readonly text: string;
}

export class Replica {
  readonly id: BrokerId;
  /** Grows when the disk is wiped. */
  generation = 1;
  stored = new StoredState();
  node: RaftNode | undefined;
  /** Readies whose writes are not durable, with the time when they will be. */
  writes: { readonly ready: Ready; readonly dueMs: number }[] = [];
  applied: Applied[] = [];
  appliedIndex = 0;
  diskHolds = false;

  constructor(id: number) {
    this.id = brokerId(id);
  }

  get key(): ReplicaKey {
    return { id: this.id, directoryId: directoryOf(this.id, this.generation) };
  }
}

export const directoryOf = (id: number, generation = 1): Member['directoryId'] =>
  uuid(`node${id}-disk${generation}-`.padEnd(22, 'x').slice(0, 22));

export const memberOf = (id: number, pinned = true): Member => ({
  id: brokerId(id),
  directoryId: pinned ? directoryOf(id) : UNPINNED,
  address: `node${id}:1`,
});

export interface ClusterOptions {
  readonly voters: readonly number[];
  readonly learners?: readonly number[];
  /** False: the members know each other by address alone at first. */
  readonly pinned?: boolean;
  readonly raft?: Partial<RaftOptions>;
  readonly seed?: number;
  readonly weather?: Weather;
  readonly trace?: (line: string) => void;
}

export class RaftCluster {
  readonly replicas = new Map<number, Replica>();
  readonly checker: SafetyChecker;
  readonly random: SeededRandom;
  readonly readStates: { id: number; context: number; index: number }[] = [];
  readonly droppedReads: { id: number; context: number }[] = [];
  weather: Weather;
  nowMs = 0;
  onTheWay: OnTheWay[] = [];
  readonly #bootstrap: Configuration;
  readonly #raft: Partial<RaftOptions>;
  readonly #cuts = new Set<string>();
  readonly #trace: (line: string) => void;
  #context = 0;

  constructor(options: ClusterOptions) {
    const pinned = options.pinned ?? true;
    this.#bootstrap = makeConfiguration(
      options.voters.map((id) => memberOf(id, pinned)),
      (options.learners ?? []).map((id) => memberOf(id, pinned)),
    );
    this.#raft = options.raft ?? {};
    this.random = new SeededRandom(options.seed ?? 1);
    this.weather = options.weather ?? CALM;
    this.#trace = options.trace ?? ((): void => {});
    this.checker = new SafetyChecker(this);
    for (const id of [...options.voters, ...(options.learners ?? [])]) this.addReplica(id);
  }

  addReplica(id: number): Replica {
    const replica = new Replica(id);
    this.replicas.set(id, replica);
    return replica;
  }

  replica(id: number): Replica {
    const replica = this.replicas.get(id);
    if (replica === undefined) throw new Error(`there is no node ${id}`);
    return replica;
  }

  node(id: number): RaftNode {
    const { node } = this.replica(id);
    if (node === undefined) throw new Error(`node ${id} is down`);
    return node;
  }

  running(): Replica[] {
    return [...this.replicas.values()].filter((replica) => replica.node !== undefined);
  }

  /** The leader of the highest term. */
  leader(): Replica | undefined {
    return this.running()
      .filter((replica) => replica.node?.status().role === 'leader')
      .sort((a, b) => (b.node?.status().term ?? 0) - (a.node?.status().term ?? 0))[0];
  }

  // ------------------------------------------------------------------------------------------- Lifecycle

  start(id: number): void {
    const replica = this.replica(id);
    // A node that joins, or whose disk was wiped, waits until a leader tells it who the members are.
    const founder = this.#knows(id) && replica.generation === 1;
    const bootstrap = founder ? this.#bootstrap : makeConfiguration([]);
    replica.applied = textsOf(replica.stored.snapshot?.data);
    replica.appliedIndex = replica.stored.snapshot?.index ?? 0;
    replica.writes = [];
    replica.node = new RaftNode(
      { self: replica.key, recovered: replica.stored.recovered(bootstrap), raft: this.#raft },
      { random: this.random, nowMs: this.nowMs },
    );
    this.pump(replica);
  }

  #knows(id: number): boolean {
    const { voters, learners } = this.#bootstrap;
    return [...voters, ...learners].some((member) => member.id === id);
  }

  startAll(): void {
    for (const id of this.replicas.keys()) this.start(id);
  }

  /** The process dies: memory is gone, and of the unsynced writes all but the first `steps`. */
  crash(id: number, steps = 0): void {
    const replica = this.replica(id);
    const next = replica.writes[0];
    if (next !== undefined && steps > 0) replica.stored.write(next.ready, steps);
    replica.node = undefined;
    replica.writes = [];
    this.checker.crashed(id);
  }

  /** The node comes back with an empty disk: for the others it is somebody else. */
  wipe(id: number): void {
    const replica = this.replica(id);
    replica.stored = new StoredState();
    replica.generation++;
  }

  // --------------------------------------------------------------------------------------------- Effects

  /** Takes all Readies of a node and does with them what a driver does. */
  pump(replica: Replica): void {
    const { node } = replica;
    if (node === undefined) return;
    for (let ready = node.ready(this.nowMs); ready !== undefined; ready = node.ready(this.nowMs)) {
      for (const line of describeReady(replica.id, ready)) this.#trace(line);
      this.#send(ready.messages);
      this.#apply(replica, ready.committed);
      for (const state of ready.readStates) {
        this.checker.readAnswered(state.context, state.index);
        this.readStates.push({ id: replica.id, ...state });
      }
      for (const context of ready.droppedReads) {
        this.droppedReads.push({ id: replica.id, context });
      }
      const dueMs = this.nowMs + this.weather.syncMs();
      replica.writes.push({ ready, dueMs });
      this.checker.check(replica);
    }
    if (!replica.diskHolds) this.#persistDue(replica);
  }

  #persistDue(replica: Replica): void {
    const next = replica.writes[0];
    if (next !== undefined && next.dueMs <= this.nowMs) this.persist(replica);
  }

  /** The oldest write becomes durable. */
  persist(replica: Replica): void {
    const write = replica.writes.shift();
    if (write === undefined || replica.node === undefined) return;
    const { ready } = write;
    replica.stored.write(ready);
    if (ready.snapshot !== undefined) {
      replica.applied = textsOf(ready.snapshot.data);
      replica.appliedIndex = ready.snapshot.index;
    }
    replica.node.persisted(ready.id, this.nowMs);
    for (const { body, from, to, term } of ready.messagesAfterPersist) {
      if (body.kind === 'vote') this.checker.voted(from, term, from);
      if (body.kind === 'voteReply' && body.granted) this.checker.voted(from, term, to);
    }
    this.#send(ready.messagesAfterPersist);
    this.pump(replica);
  }

  #send(messages: readonly Message[]): void {
    for (const message of messages) {
      const delayMs = this.weather.delayMs(message);
      if (this.isCut(message.from.id, message.to.id) || delayMs === undefined) {
        this.#trace(`${describeMessage(message)} · lost`);
        continue;
      }
      this.onTheWay.push({ message, dueMs: this.nowMs + delayMs });
    }
  }

  #apply(replica: Replica, committed: readonly Entry[]): void {
    for (const entry of committed) {
      this.checker.applied(replica, entry);
      replica.appliedIndex = entry.index;
      if (entry.kind !== 'data') continue;
      replica.applied.push({
        index: entry.index,
        term: entry.term,
        text: utf8Decode(entry.data),
      });
    }
  }

  // --------------------------------------------------------------------------------------------- Network

  /** Everything from `from` to `to` is lost from now on, and what is on the way. */
  cut(from: number, to: number): void {
    this.#cuts.add(`${from}>${to}`);
    this.onTheWay = this.onTheWay.filter(
      ({ message }) => message.from.id !== from || message.to.id !== to,
    );
  }

  heal(): void {
    this.#cuts.clear();
  }

  isCut(from: number, to: number): boolean {
    return this.#cuts.has(`${from}>${to}`);
  }

  /** Delivers one message of those on the way. */
  deliver(item: OnTheWay): void {
    this.onTheWay.splice(this.onTheWay.indexOf(item), 1);
    const { message } = item;
    const replica = this.replicas.get(message.to.id);
    if (replica?.node === undefined) {
      this.#trace(`${describeMessage(message)} · nobody there`);
      return;
    }
    this.#trace(describeMessage(message));
    const problem = replica.node.problemWith(message);
    if (problem !== undefined) throw new Error(`an honest message was refused: ${problem}`);
    replica.node.step(message, this.nowMs);
    this.pump(replica);
  }

  // ------------------------------------------------------------------------------------------------ Time

  /** Delivers and persists without letting time pass, until nothing is left. */
  settle(among?: ReadonlySet<number>): void {
    const isAmong = (id: number): boolean => among === undefined || among.has(id);
    for (let steps = 0; ; steps++) {
      if (steps > 20_000) throw new Error('the cluster does not come to rest');
      const item = this.onTheWay.find(
        ({ message }) => isAmong(message.from.id) && isAmong(message.to.id),
      );
      if (item === undefined) return;
      this.deliver(item);
    }
  }

  /** Lets the timer of one node run out, and nobody else's. */
  timeout(id: number): void {
    const node = this.node(id);
    const deadlineMs = node.nextDeadlineMs();
    if (deadlineMs === Infinity) throw new Error(`node ${id} waits for nothing`);
    this.nowMs = Math.max(this.nowMs, deadlineMs);
    node.tick(this.nowMs);
    this.pump(this.replica(id));
  }

  tick(id: number): void {
    this.node(id).tick(this.nowMs);
    this.pump(this.replica(id));
  }

  /** Lets time pass for all: messages arrive, writes end, timers run out. */
  run(forMs: number, until?: () => boolean): boolean {
    const endMs = this.nowMs + forMs;
    for (;;) {
      if (until?.() === true) return true;
      const atMs = this.#nextEventMs();
      if (atMs > endMs) break;
      this.nowMs = Math.max(this.nowMs, atMs);
      this.#runOne();
    }
    this.nowMs = endMs;
    return until?.() ?? true;
  }

  #nextEventMs(): number {
    let next = Infinity;
    for (const { dueMs } of this.onTheWay) next = Math.min(next, dueMs);
    for (const replica of this.running()) {
      next = Math.min(next, replica.node?.nextDeadlineMs() ?? Infinity);
      if (!replica.diskHolds) next = Math.min(next, replica.writes[0]?.dueMs ?? Infinity);
    }
    return next;
  }

  #runOne(): void {
    const { nowMs } = this;
    for (const replica of this.running()) {
      if (replica.diskHolds || (replica.writes[0]?.dueMs ?? Infinity) > nowMs) continue;
      this.persist(replica);
      return;
    }
    const item = this.onTheWay.find(({ dueMs }) => dueMs <= nowMs);
    if (item !== undefined) {
      this.deliver(item);
      return;
    }
    for (const replica of this.running()) {
      if ((replica.node?.nextDeadlineMs() ?? Infinity) <= nowMs) this.tick(replica.id);
    }
  }

  // ------------------------------------------------------------------------------------------ Operations

  propose(id: number, texts: readonly string[]): ReturnType<RaftNode['propose']> {
    const result = this.node(id).propose(texts.map(utf8Encode), this.nowMs);
    this.pump(this.replica(id));
    return result;
  }

  /** The context of the read, or undefined if the node did not take it. */
  read(id: number): number | undefined {
    const context = ++this.#context;
    this.checker.readAsked(context);
    const result = this.node(id).readIndex(context, this.nowMs);
    this.pump(this.replica(id));
    return result.ok ? context : undefined;
  }

  /** The state machine of a node takes a snapshot of what it has applied. */
  snapshot(id: number): number {
    const replica = this.replica(id);
    const node = this.node(id);
    const { appliedIndex } = replica;
    if (appliedIndex <= (replica.stored.snapshot?.index ?? 0)) return 0;
    const metadata = node.snapshotMetadata(logIndex(appliedIndex));
    if (metadata === undefined) return 0;
    const snapshot = { ...metadata, data: utf8Encode(JSON.stringify(replica.applied)) };
    replica.stored.compact(snapshot);
    node.compact(snapshot);
    return appliedIndex;
  }

  /** All that some node, running or not, may still go by. */
  everyConfiguration(): Configuration[] {
    return [...this.replicas.values()].flatMap(({ node, stored }) => {
      const found = stored.entries
        .filter((entry) => entry.kind === 'configuration')
        .map((entry) => decodeConfiguration(entry.data));
      if (stored.snapshot !== undefined) found.push(stored.snapshot.configuration);
      if (found.length === 0) found.push(this.#bootstrap);
      return node === undefined ? found : [...found, node.status().configuration];
    });
  }

  describe(): string[] {
    return [...this.replicas.values()].map((replica) => {
      const status = replica.node?.status();
      if (status === undefined) return `${replica.id} is down`;
      return `${describeRole(replica.id, status)}, log ${status.lastIndex}@${status.lastTerm}, committed ${status.commitIndex}, applied ${status.appliedIndex}, ${describeConfiguration(status.configuration)}`;
    });
  }
}

const textsOf = (data: Uint8Array | undefined): Applied[] =>
  data === undefined ? [] : (JSON.parse(utf8Decode(data)) as Applied[]);
