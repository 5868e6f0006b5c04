/**
 * Random histories of a quorum: loss, delay, reordering, repeated messages, cuts (one-way ones too),
 * crashes that lose unsynced writes or keep a part of them, hanging disks, wiped disks, membership
 * changes, transfers, snapshots, reads. The safety checker looks after every step; in the end the network
 * heals and everybody must agree.
 */
import type { BrokerId } from '@relevo/base/ids';
import type { Member, MembershipChange } from '@relevo/raft/configuration';
import { UNPINNED, type Message } from '@relevo/raft/messages';
import { describe, expect, test } from 'vitest';
import { directoryOf, memberOf, RaftCluster, type Weather } from './raft-cluster.ts';
import { SeededRandom } from './random.ts';

const SEEDS = Number(process.env['RELEVO_SEEDS'] ?? 200);
const FIRST_SEED = Number(process.env['RELEVO_SEED'] ?? 1);
const STEPS = 120;
const MS_PER_SEED_MAX = 200;

/** Each seed draws its own climate. */
class StormyWeather implements Weather {
  readonly #random: SeededRandom;
  readonly #lossRate: number;
  readonly #meanDelayMs: number;
  readonly #syncMs: number;
  calm = false;

  constructor(random: SeededRandom) {
    this.#random = random;
    this.#lossRate = random.pick([0, 0, 0.05, 0.3]);
    this.#meanDelayMs = random.pick([0.5, 5, 50]);
    this.#syncMs = random.pick([0, 1, 20]);
  }

  delayMs(_message: Message): number | undefined {
    if (this.calm) return 1;
    if (this.#random.chance(this.#lossRate)) return undefined;
    // A long tail, so that messages overtake one another.
    return -Math.log(1 - this.#random.float()) * this.#meanDelayMs;
  }

  syncMs(): number {
    return this.calm ? 0 : this.#random.float() * this.#syncMs;
  }
}

class History {
  readonly cluster: RaftCluster;
  readonly random: SeededRandom;
  readonly weather: StormyWeather;
  #proposed = 0;
  readonly counts = new Map<string, number>();
  #nextId: number;

  constructor(seed: number) {
    this.random = new SeededRandom(seed);
    this.weather = new StormyWeather(this.random);
    const size = this.random.pick([1, 2, 3, 3, 3, 4, 5]);
    const voters = Array.from({ length: size }, (_, at) => at + 1);
    this.#nextId = size + 1;
    this.cluster = new RaftCluster({
      voters,
      pinned: this.random.chance(0.7),
      raft: {
        retainedEntries: this.random.pick([0, 3, 100]),
        inflightAppendsMax: this.random.pick([1, 4, 256]),
        appendBytesMax: this.random.pick([1, 30, 1000]),
        committedBytesMax: this.random.pick([1, 1000]),
        snapshotTimeoutMs: 1000,
      },
      seed,
      weather: this.weather,
    });
    this.cluster.startAll();
  }

  storm(): void {
    for (let step = 0; step < STEPS; step++) {
      this.#act();
      this.cluster.run(this.random.float() * this.random.pick([1, 20, 200, 600]));
      if (step % 10 === 0) this.cluster.checker.checkLogMatching();
    }
  }

  readonly #actions: readonly [weight: number, name: string, act: () => void][] = [
    [40, 'propose', (): void => this.#propose()],
    [15, 'read', (): void => this.#onLeader((id) => void this.cluster.read(id))],
    [6, 'cut', (): void => this.#cut()],
    [4, 'isolate', (): void => this.#isolateLeader()],
    [6, 'heal', (): void => this.cluster.heal()],
    [5, 'crash', (): void => this.#crash()],
    [10, 'restart', (): void => this.#restart()],
    [4, 'hang', (): void => void (this.random.pick(this.#all()).diskHolds = true)],
    [8, 'resume', (): void => this.#all().forEach((replica) => (replica.diskHolds = false))],
    [6, 'snapshot', (): void => void this.cluster.snapshot(this.#anyRunning())],
    [4, 'transfer', (): void => this.#transfer()],
    [8, 'member', (): void => this.#changeMembers()],
    [3, 'repeat', (): void => this.#repeat()],
    [4, 'unreachable', (): void => this.#unreachable()],
    [3, 'wipe', (): void => this.#wipe()],
  ];

  #act(): void {
    let at = this.random.below(this.#actions.reduce((sum, [weight]) => sum + weight, 0));
    for (const [weight, name, act] of this.#actions) {
      at -= weight;
      if (at >= 0) continue;
      if (this.cluster.running().length === 0) this.#restart();
      this.counts.set(name, (this.counts.get(name) ?? 0) + 1);
      act();
      return;
    }
  }

  #all(): ReturnType<RaftCluster['running']> {
    return [...this.cluster.replicas.values()];
  }

  #anyRunning(): BrokerId {
    return this.random.pick(this.cluster.running()).id;
  }

  #onLeader(act: (id: BrokerId) => void): void {
    const leaders = this.cluster.running().filter(({ node }) => node?.status().role === 'leader');
    if (leaders.length > 0) act(this.random.pick(leaders).id);
  }

  #propose(): void {
    this.#onLeader((id) => {
      const count = 1 + this.random.below(5);
      const texts = Array.from({ length: count }, () => `p${++this.#proposed}`);
      this.cluster.propose(id, texts);
    });
  }

  #cut(): void {
    const from = this.random.pick(this.#all()).id;
    for (const { id } of this.#all()) {
      if (id === from || this.random.chance(0.4)) continue;
      if (this.random.chance(0.7)) this.cluster.cut(from, id);
      if (this.random.chance(0.7)) this.cluster.cut(id, from);
    }
  }

  /** The old leader does not know it, the others elect a new one. */
  #isolateLeader(): void {
    this.#onLeader((leader) => {
      for (const { id } of this.#all()) {
        if (id === leader) continue;
        this.cluster.cut(leader, id);
        this.cluster.cut(id, leader);
        if (this.random.chance(0.5) && this.cluster.replica(id).node !== undefined) {
          this.cluster.node(id).peerUnreachable(leader, { refused: true }, this.cluster.nowMs);
        }
      }
    });
  }

  #crash(): void {
    this.cluster.crash(this.#anyRunning(), this.random.below(4));
  }

  #restart(): void {
    const down = this.#all().filter(({ node }) => node === undefined);
    if (down.length > 0) this.cluster.start(this.random.pick(down).id);
  }

  #transfer(): void {
    this.#onLeader((id) => {
      const to = this.random.chance(0.5) ? this.random.pick(this.#all()).id : undefined;
      this.cluster.node(id).transferLeadership(to, this.cluster.nowMs);
      this.cluster.pump(this.cluster.replica(id));
    });
  }

  #changeMembers(): void {
    this.#onLeader((id) => {
      const { configuration } = this.cluster.node(id).status();
      const { voters, learners } = configuration;
      const ready = learners.filter((learner) => this.#isWhole(learner));
      const changes: MembershipChange[] = [
        ...ready.map((member): MembershipChange => ({ kind: 'promote', id: member.id })),
        ...ready.map((member): MembershipChange => ({ kind: 'promote', id: member.id })),
        ...[...voters, ...learners].map((member): MembershipChange => ({
          kind: 'remove',
          id: member.id,
        })),
        ...voters.map((member): MembershipChange => ({ kind: 'demote', id: member.id })),
        this.#addition(voters.length + learners.length),
        this.#addition(voters.length + learners.length),
      ];
      // With a voter gone for good, an operator takes out that one before anybody else.
      const gone = voters.find((voter) => !this.#isWhole(voter));
      const change: MembershipChange =
        gone === undefined ? this.random.pick(changes) : { kind: 'remove', id: gone.id };
      this.cluster.node(id).changeMembership(change, this.cluster.nowMs);
      this.cluster.pump(this.cluster.replica(id));
    });
  }

  #isWhole({ id, directoryId }: Member): boolean {
    return directoryId === UNPINNED || this.cluster.replica(id).key.directoryId === directoryId;
  }

  /** A new node, or one that was a member before. */
  #addition(size: number): MembershipChange {
    if (size < 6 && this.cluster.replicas.size < 8 && this.random.chance(0.3)) {
      const id = this.#nextId++;
      this.cluster.addReplica(id);
      this.cluster.start(id);
    }
    const { id, generation } = this.random.pick(this.#all());
    const directoryId = directoryOf(id, generation);
    return { kind: 'addLearner', member: { ...memberOf(id), directoryId } };
  }

  /** A message arrives twice, the second time much later. */
  #repeat(): void {
    const [item] = this.cluster.onTheWay;
    if (item === undefined) return;
    const dueMs = this.cluster.nowMs + this.random.float() * 2000;
    this.cluster.onTheWay.push({ message: item.message, dueMs });
  }

  #unreachable(): void {
    const peer = this.random.pick(this.#all());
    const refused = peer.node === undefined || this.random.chance(0.2);
    const id = this.#anyRunning();
    this.cluster.node(id).peerUnreachable(peer.id, { refused }, this.cluster.nowMs);
    this.cluster.pump(this.cluster.replica(id));
  }

  /**
   * A disk is lost for good. Raft promises something only while every majority of disks meets every
   * other, so this befalls nodes that nobody takes for a voter, and one voter of three or more while all
   * the others are whole.
   */
  #wipe(): void {
    for (const { id, node } of this.#all()) {
      if (node !== undefined && this.random.chance(0.7)) continue;
      if (!this.#isSpareDisk(id)) continue;
      if (node !== undefined) this.cluster.crash(id);
      this.cluster.wipe(id);
      this.counts.set('wiped', (this.counts.get('wiped') ?? 0) + 1);
      return;
    }
  }

  #isSpareDisk(id: BrokerId): boolean {
    if (!this.cluster.everyConfiguration().some((one) => one.voters.some((v) => v.id === id))) {
      return true;
    }
    const status = this.cluster.leader()?.node?.status();
    if (status?.leadsForSure !== true || status.changePending || status.self.id === id)
      return false;
    const { voters } = status.configuration;
    if (voters.length < 3) return false;
    return voters.every((voter) => {
      const replica = this.cluster.replica(voter.id);
      if (voter.directoryId !== replica.key.directoryId) return false;
      return voter.id === id || replica.node !== undefined;
    });
  }

  /** Everything works again: there must be one leader, a commit, and the same log everywhere. */
  heal(): void {
    const { cluster } = this;
    this.weather.calm = true;
    cluster.heal();
    for (const replica of this.#all()) {
      replica.diskHolds = false;
      if (replica.node === undefined) cluster.start(replica.id);
    }
    const settled = cluster.run(20_000, () => this.#agreed());
    if (!settled) throw new Error(`no agreement:\n${cluster.describe().join('\n')}`);
    cluster.checker.checkLogMatching();
  }

  #agreed(): boolean {
    const { cluster } = this;
    const leader = cluster.leader();
    const status = leader?.node?.status();
    if (leader === undefined || status === undefined || !status.leadsForSure) return false;
    if (status.commitIndex < status.lastIndex) return false;
    const { voters, learners } = status.configuration;
    return [...voters, ...learners].every(({ id, directoryId }) => {
      const replica = cluster.replica(id);
      if (replica.key.directoryId !== directoryId) return directoryId !== '';
      return replica.appliedIndex === status.lastIndex;
    });
  }
}

describe('a quorum under faults', () => {
  const counts = new Map<string, number>();
  let commits = 0;
  let leaders = 0;

  const timeoutMs = SEEDS * MS_PER_SEED_MAX + 10_000;
  test(`${SEEDS} random histories keep every promise`, { timeout: timeoutMs }, () => {
    for (let seed = FIRST_SEED; seed < FIRST_SEED + SEEDS; seed++) {
      const history = new History(seed);
      try {
        history.storm();
        history.heal();
      } catch (error) {
        const what = error instanceof Error ? error.message : String(error);
        throw new Error(`seed ${seed} (RELEVO_SEED=${seed} RELEVO_SEEDS=1): ${what}`, {
          cause: error,
        });
      }
      for (const [name, count] of history.counts) counts.set(name, (counts.get(name) ?? 0) + count);
      commits += history.cluster.checker.chosenTo;
      leaders += history.cluster.checker.leaders.size;
    }
  });

  test('they were worth something', () => {
    if (SEEDS < 50) return;
    expect(commits / SEEDS).toBeGreaterThan(20);
    expect(leaders / SEEDS).toBeGreaterThan(3);
    for (const name of ['crash', 'cut', 'member', 'snapshot', 'transfer', 'wiped']) {
      expect(counts.get(name) ?? 0, name).toBeGreaterThan(SEEDS / 10);
    }
  });
});
