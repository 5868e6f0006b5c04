/**
 * Voters whose disks are damaged, wiped or older, while others lose their power: the production quorum with
 * a list of texts for a state machine. At most one disk is hurt at a time, but where a round says otherwise;
 * whoever is hurt must not help to forget what was committed, and must be a whole voter again in the end.
 *
 * After each entry that is applied anywhere: one leader a term (K1), one entry an index, for ever (K2). After
 * each round every voter has applied all that was acknowledged.
 */
import { utf8Decode, utf8Encode } from '@relevo/base/bytes';
import { brokerId, uuidFromBytes } from '@relevo/base/ids';
import type { LogIndex } from '@relevo/base/ids';
import type { Ports } from '@relevo/base/ports';
import { LogDirectory } from '@relevo/log/log-directory';
import { Quorum } from '@relevo/server/quorum/quorum';
import type { AppliedEntry, QuorumLeadership } from '@relevo/server/quorum/quorum-types';
import type { RunFigures, RunOptions } from '../failover-run.ts';
import type { Prng } from '../prng.ts';
import type { SimulatedProcess } from '../simulated-process.ts';
import { World } from '../world.ts';
import { hurtDisk } from './disk-injuries.ts';
import type { Injury } from './disk-injuries.ts';

const DATA = '/data';
const IDS = [1, 2, 3] as const;
const PROPOSE_EVERY_MS = 4;
const START_WITHIN_MS = 30_000;
/** A voter that was lost is exchanged after seconds. */
const WHOLE_WITHIN_MS = 30_000;

type Round =
  /** A disk is hurt while its owner is off, and all others run. */
  | 'calm'
  /** What was committed last is on a hurt disk and on one that is off, and the third has missed it. */
  | 'missed'
  /** A disk is lost, and lost again while its owner is let in. */
  | 'wipedTwice'
  /** Two are empty, and the one that has a log is off. */
  | 'twoWiped';

const ROUNDS: readonly Round[] = ['calm', 'missed', 'missed', 'twoWiped', 'wipedTwice'];

function shuffled<Item>(items: readonly Item[], prng: Prng): Item[] {
  return items
    .map((item) => ({ item, at: prng.float() }))
    .sort((a, b) => a.at - b.at)
    .map(({ item }) => item);
}

class Voter {
  readonly id: number;
  readonly process: SimulatedProcess;
  quorum: Quorum | undefined;
  directory: LogDirectory | undefined;
  applied: string[] = [];
  appliedIndex = 0;
  failure: unknown;

  constructor(id: number, process: SimulatedProcess) {
    this.id = id;
    this.process = process;
  }
}

export async function damagedVotersRun(
  seed: number | string,
  options: RunOptions = {},
): Promise<RunFigures> {
  const world = new World({
    seed,
    ...(options.onLog === undefined ? {} : { onLog: options.onLog }),
  });
  const run = new DamagedVotersRun(world);
  await world.run(() => run.run());
  return run.figures();
}

class DamagedVotersRun {
  readonly #world: World;
  readonly #prng: Prng;
  readonly #voters: readonly Voter[];
  /** What stands at an index, for ever. */
  readonly #entries = new Map<number, string>();
  readonly #leaders = new Map<number, number>();
  readonly #acknowledged = new Set<string>();
  readonly #wholeMs: number[] = [];
  readonly #snapshotEntries: number;
  #unknown = 0;
  #proposed = 0;
  #producing = true;

  constructor(world: World) {
    this.#world = world;
    this.#prng = world.prng.split('damaged-voters');
    this.#snapshotEntries = this.#prng.pick([30, 200, 10_000]);
    this.#voters = IDS.map((id) => new Voter(id, world.process(`node-${id}`)));
  }

  async run(): Promise<void> {
    await Promise.all(this.#voters.map((voter) => this.#boot(voter)));
    await this.#untilWhole('a cluster is founded', START_WITHIN_MS);
    const producing = this.#produce();
    const rounds = this.#prng.integer(2, 3);
    for (let round = 0; round < rounds; round++) {
      await this.#world.sleep(this.#prng.between(50, 400));
      await this.#suffer(this.#prng.pick<Round>(ROUNDS));
      const sinceMs = this.#world.nowMs;
      await this.#untilWhole('all vote and have applied all', WHOLE_WITHIN_MS);
      this.#wholeMs.push(this.#world.nowMs - sinceMs);
    }
    this.#producing = false;
    await producing;
    await this.#untilWhole('all have applied all', WHOLE_WITHIN_MS);
    for (const { quorum } of this.#voters) await quorum?.stop();
  }

  figures(): RunFigures {
    return {
      acknowledged: this.#acknowledged.size,
      unknown: this.#unknown,
      failed: 0,
      failoverMs: [],
      wholeMs: this.#wholeMs,
      elections: this.#leaders.size,
      events: this.#world.trace.events,
      virtualMs: this.#world.nowMs,
      fingerprint: `${this.#world.trace.hash}-${this.#world.prng.recorder.last}`,
    };
  }

  // ------------------------------------------------------------------------------------- one voter

  /** As a broker starts: the data directory is opened, and gives its id. */
  async #boot(voter: Voter, bootstrap = false): Promise<void> {
    const ports = await new Promise<Ports>((resolve) => voter.process.boot(resolve));
    voter.applied = [];
    voter.appliedIndex = 0;
    voter.failure = undefined;
    const newDirectoryId = (): ReturnType<typeof uuidFromBytes> =>
      uuidFromBytes(ports.random.bytes(16));
    const directory = LogDirectory.open(
      { root: DATA, brokerId: brokerId(voter.id), clusterId: 'simulated', newDirectoryId },
      ports,
    );
    const quorum = new Quorum(
      {
        ...ports,
        onCommitted: (entries) => this.#apply(voter, entries),
        restoreSnapshot: (bytes, index) => this.#restore(voter, bytes, index),
        takeSnapshot: () => utf8Encode(JSON.stringify(voter.applied)),
        onLeadership: (leadership) => this.#leads(voter, leadership),
        onFailure: (error) => (voter.failure = error),
      },
      {
        nodeId: brokerId(voter.id),
        clusterId: 'simulated',
        directoryId: directory.directoryId,
        incarnations: directory.incarnations,
        directory: DATA,
        voters: IDS.map((id) => ({ id, address: `node-${id}:1` })),
        snapshotEntries: this.#snapshotEntries,
        bootstrap,
      },
    );
    voter.quorum = quorum;
    await ports.transport.listen(`node-${voter.id}:1`, quorum.routes());
    quorum.start().catch((error: unknown) => (voter.failure = error));
  }

  #apply(voter: Voter, entries: readonly AppliedEntry[]): void {
    for (const { index, term, data } of entries) {
      voter.appliedIndex = index;
      const text = utf8Decode(data);
      const entry = `${term} ${text}`;
      const before = this.#entries.get(index);
      this.#entries.set(index, before ?? entry);
      if (before !== undefined && before !== entry) {
        const what = `entry ${index} is "${entry}" on voter ${voter.id}, and was "${before}" (K2)`;
        this.#world.fail(new Error(what));
      }
      if (text !== '') voter.applied.push(text);
    }
  }

  #restore(voter: Voter, bytes: Uint8Array, index: LogIndex): void {
    voter.applied = JSON.parse(utf8Decode(bytes)) as string[];
    voter.appliedIndex = index;
  }

  #leads(voter: Voter, { isLeader, term }: QuorumLeadership): void {
    if (!isLeader) return;
    const before = this.#leaders.get(term);
    this.#leaders.set(term, before ?? voter.id);
    if (before === undefined || before === voter.id) return;
    this.#world.fail(new Error(`voters ${before} and ${voter.id} both lead term ${term} (K1)`));
  }

  #leader(): Voter | undefined {
    return this.#voters.find(
      ({ process, quorum }) => process.alive && quorum?.status().isLeader === true,
    );
  }

  async #produce(): Promise<void> {
    while (this.#producing) {
      const text = `t${++this.#proposed}`;
      this.#leader()
        ?.quorum?.propose(utf8Encode(text))
        .then(
          () => this.#acknowledged.add(text),
          () => this.#unknown++,
        );
      await this.#world.sleep(this.#prng.between(0, 2 * PROPOSE_EVERY_MS));
    }
  }

  // ---------------------------------------------------------------------------------------- rounds

  async #suffer(round: Round): Promise<void> {
    const [first, second, third] = shuffled(this.#voters, this.#prng);
    if (first === undefined || second === undefined || third === undefined) return;
    this.#world.note('round', 'scenario', `${round}: ${first.id} ${second.id} ${third.id}`);
    switch (round) {
      case 'calm':
        return this.#calm(first);
      case 'missed':
        return this.#missed(first, second, third);
      case 'wipedTwice':
        return this.#wipedTwice(first);
      case 'twoWiped':
        return this.#twoWiped(first, second, third);
    }
  }

  async #calm(hurt: Voter): Promise<void> {
    const older = hurt.process.disk.snapshot();
    await this.#bounce(hurt);
    await this.#world.sleep(this.#prng.between(500, 1500));
    await this.#cut(hurt);
    await this.#pause();
    await this.#comeBack(hurt, this.#hurt(hurt, older));
  }

  /** `has` and `hurt` commit what `missed` does not see; then `has` is off. */
  async #missed(hurt: Voter, missed: Voter, has: Voter): Promise<void> {
    const older = hurt.process.disk.snapshot();
    // So that there is something to tell an older disk by.
    await this.#bounce(hurt);
    await this.#world.sleep(500);
    await this.#cut(missed);
    await this.#world.sleep(this.#prng.between(100, 1500));
    await this.#cut(hurt);
    if (this.#prng.chance(0.5)) await this.#pause();
    await this.#cut(has);
    const injury = this.#hurt(hurt, older);
    await this.#boot(missed);
    await this.#comeBack(hurt, injury);
    await this.#world.sleep(this.#prng.between(500, 5000));
    await this.#boot(has);
  }

  async #wipedTwice(hurt: Voter): Promise<void> {
    // The old disk is waited for some three seconds; then each step takes some 200 ms.
    for (const afterMs of [0, this.#prng.between(2_500, 4_500)]) {
      await this.#world.sleep(afterMs);
      await this.#cut(hurt);
      hurt.process.disk.wipe();
      await this.#boot(hurt);
    }
  }

  async #twoWiped(first: Voter, second: Voter, has: Voter): Promise<void> {
    // It has all that was acknowledged: that is what a person would look for.
    if (this.#leader() !== has) await this.#untilAllIsOn(has);
    await this.#cut(has);
    for (const voter of [first, second]) {
      await this.#cut(voter);
      voter.process.disk.wipe();
    }
    await Promise.all([this.#boot(first), this.#boot(second)]);
    await this.#world.sleep(this.#prng.between(2000, 5000));
    if (this.#leader() !== undefined) {
      throw new Error('two empty voters have elected a leader, though the third may have a log');
    }
    await this.#boot(has, true);
  }

  /** Nothing is acknowledged that the voter does not have. */
  async #untilAllIsOn(voter: Voter): Promise<void> {
    const { quorum } = this.#leader() ?? voter;
    if (quorum === undefined || quorum === voter.quorum) return;
    await quorum.transferLeadership(brokerId(voter.id)).catch(() => undefined);
    await this.#world.until(
      'it has applied all that was acknowledged',
      () => this.#hasAll(voter),
      WHOLE_WITHIN_MS,
    );
  }

  #hurt(voter: Voter, older: ReturnType<SimulatedProcess['disk']['snapshot']>): Injury {
    const injury = hurtDisk(voter.process.disk, DATA, older, this.#prng);
    this.#world.note('injury', 'scenario', `${injury} at ${voter.id}`);
    return injury;
  }

  /** A person follows the line of one that is told to be an older copy. */
  async #comeBack(voter: Voter, injury: Injury): Promise<void> {
    await this.#boot(voter);
    if (injury !== 'older') return;
    const isTold = (): boolean => voter.failure !== undefined;
    try {
      await this.#world.until('it is told', isTold, 1000);
    } catch {
      // Nobody who could tell it is there.
    }
  }

  async #bounce(voter: Voter): Promise<void> {
    await this.#cut(voter);
    await this.#boot(voter);
  }

  async #cut(voter: Voter): Promise<void> {
    await voter.process.kill({ unsynced: this.#prng.chance(0.8) ? 'lose' : 'keep' });
  }

  #pause(): Promise<void> {
    return this.#world.sleep(this.#prng.between(0, 1000));
  }

  // ----------------------------------------------------------------------------------- convergence

  #hasAll(voter: Voter): boolean {
    const has = new Set(voter.applied);
    return [...this.#acknowledged].every((text) => has.has(text));
  }

  async #untilWhole(what: string, withinMs: number): Promise<void> {
    const whole = (): boolean => {
      const leader = this.#leader();
      const voters = leader?.quorum?.status().configuration.voters ?? [];
      return voters.length === IDS.length && this.#voters.every((voter) => this.#hasAll(voter));
    };
    const deadlineMs = this.#world.nowMs + withinMs;
    while (!whole()) {
      if (this.#world.nowMs > deadlineMs) {
        throw new Error(`not within ${withinMs} ms: ${what}. ${this.#why()}`);
      }
      for (const voter of this.#voters) if (voter.failure !== undefined) await this.#rescue(voter);
      await this.#world.sleep(20);
    }
  }

  /** What a person does who reads the line with which a broker ended. */
  async #rescue(voter: Voter): Promise<void> {
    const text = String(voter.failure);
    if (!text.includes('older copy')) throw new Error(`voter ${voter.id} has ended: ${text}`);
    await voter.process.kill({ unsynced: 'lose' });
    voter.process.disk.wipe();
    await this.#boot(voter);
  }

  #why(): string {
    return this.#voters
      .map((voter) => {
        const status = voter.quorum?.status();
        const { voters = [], learners = [] } = status?.configuration ?? {};
        return (
          `${voter.id} ${voter.process.alive ? status?.role : 'is down'} term ${status?.term} ` +
          `applied ${voter.applied.length} of ${this.#acknowledged.size}, ` +
          `voters ${voters.map(({ id }) => id).join(' ')} learners ${learners.map(({ id }) => id).join(' ')}`
        );
      })
      .join('; ');
  }
}
