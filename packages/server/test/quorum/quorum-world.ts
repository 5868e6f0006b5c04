/**
 * Voters in a simulated world: the production quorum, with a list of texts for a state machine. After each
 * event that applies something, the histories of all are compared.
 */
import { utf8Decode, utf8Encode } from '@relevo/base/bytes';
import { brokerId, uuidFromBytes } from '@relevo/base/ids';
import type { LogIndex } from '@relevo/base/ids';
import type { Ports } from '@relevo/base/ports';
import { Quorum } from '@relevo/server/quorum/quorum';
import type {
  AppliedEntry,
  QuorumLeadership,
  QuorumOptions,
} from '@relevo/server/quorum/quorum-types';
import type { SimulatedProcess } from '@relevo/simulation/simulated-process';
import { World } from '@relevo/simulation/world';
import type { LogLine, WorldOptions } from '@relevo/simulation/world';

const DATA = '/data';
export const METADATA = `${DATA}/quorum`;

interface Applied {
  readonly index: number;
  readonly text: string;
}

export class Voter {
  readonly id: number;
  readonly process: SimulatedProcess;
  generation = 1;
  quorum: Quorum | undefined;
  applied: Applied[] = [];
  appliedIndex = 0;
  appliedTerm = 0;
  leaderships: QuorumLeadership[] = [];
  startError: unknown;
  failure: unknown;
  restores = 0;

  constructor(id: number, process: SimulatedProcess) {
    this.id = id;
    this.process = process;
  }

  get live(): Quorum {
    if (this.quorum === undefined || !this.process.alive) throw new Error(`${this.id} is down`);
    return this.quorum;
  }
}

export class QuorumWorld {
  readonly world: World;
  readonly voters = new Map<number, Voter>();
  readonly lines: LogLine[] = [];
  /** What was ever applied, by index. */
  readonly history = new Map<number, string>();
  readonly #options: Partial<QuorumOptions>;
  readonly #ids: readonly number[];

  constructor(
    ids: readonly number[],
    options: Partial<QuorumOptions> = {},
    world: Partial<WorldOptions> = {},
  ) {
    this.#ids = ids;
    this.#options = options;
    this.world = new World({
      seed: 1,
      limitMs: 600_000,
      onLog: (line) => this.lines.push(line),
      ...world,
    });
    for (const id of ids) this.voters.set(id, new Voter(id, this.world.process(`node-${id}`)));
  }

  voter(id: number): Voter {
    const voter = this.voters.get(id);
    if (voter === undefined) throw new Error(`there is no voter ${id}`);
    return voter;
  }

  /** The last argument may change the options for these. */
  async boot(...args: (number | Partial<QuorumOptions>)[]): Promise<void> {
    const ids = args.filter((arg) => typeof arg === 'number');
    const options = args.find((arg) => typeof arg === 'object') ?? {};
    await Promise.all(ids.map((id) => this.#boot(this.voter(id), options)));
  }

  async #boot(voter: Voter, options: Partial<QuorumOptions>): Promise<void> {
    const ports = await new Promise<Ports>((resolve) => voter.process.boot(resolve));
    ports.disk.makeDirectory(DATA);
    ports.disk.syncDirectoryNow('/');
    voter.applied = [];
    voter.appliedIndex = 0;
    voter.appliedTerm = 0;
    voter.leaderships = [];
    voter.startError = undefined;
    voter.failure = undefined;
    const quorum = new Quorum(
      {
        ...ports,
        onCommitted: (entries) => this.#apply(voter, entries),
        restoreSnapshot: (bytes, index) => this.#restore(voter, bytes, index),
        takeSnapshot: () => utf8Encode(JSON.stringify(voter.applied)),
        onLeadership: (leadership) => this.#leadership(voter, leadership),
        onFailure: (error) => (voter.failure = error),
      },
      {
        nodeId: brokerId(voter.id),
        clusterId: 'test',
        directoryId: uuidFromBytes(new Uint8Array(16).fill(voter.id * 16 + voter.generation)),
        directory: DATA,
        voters: this.#ids.map((id) => ({ id, address: `node-${id}:1` })),
        ...this.#options,
        ...options,
      },
    );
    voter.quorum = quorum;
    await ports.transport.listen(`node-${voter.id}:1`, quorum.routes());
    await quorum.start().catch((error: unknown) => (voter.startError = error));
  }

  #apply(voter: Voter, entries: readonly AppliedEntry[]): void {
    for (const { index, term, data } of entries) {
      if (index !== voter.appliedIndex + 1) {
        this.world.fail(new Error(`${voter.id} applied ${index} after ${voter.appliedIndex}`));
      }
      voter.appliedIndex = index;
      voter.appliedTerm = term;
      const text = utf8Decode(data);
      const before = this.history.get(index);
      if (before !== undefined && before !== text) {
        this.world.fail(new Error(`entry ${index} is "${text}" on ${voter.id}, was "${before}"`));
      }
      this.history.set(index, text);
      if (text !== '') voter.applied.push({ index, text });
    }
  }

  /** Whoever says that it leads has applied an entry of its own term (invariant K3). */
  #leadership(voter: Voter, leadership: QuorumLeadership): void {
    voter.leaderships.push(leadership);
    const { isLeader, term } = leadership;
    if (!isLeader || voter.appliedTerm === term) return;
    this.world.fail(
      new Error(`${voter.id} leads term ${term} with entries of ${voter.appliedTerm} applied`),
    );
  }

  #restore(voter: Voter, bytes: Uint8Array, index: LogIndex): void {
    voter.applied = JSON.parse(utf8Decode(bytes)) as Applied[];
    voter.appliedIndex = index;
    voter.restores++;
  }

  /** The voter that says that it leads. */
  leader(): Voter | undefined {
    return [...this.voters.values()]
      .filter(({ process, quorum }) => process.alive && quorum?.status().isLeader === true)
      .sort((a, b) => b.live.status().term - a.live.status().term)[0];
  }

  async untilLed(withinMs = 5000): Promise<Voter> {
    let found: Voter | undefined;
    await this.until('a leader', () => (found = this.leader()) !== undefined, withinMs);
    if (found === undefined) throw new Error('no leader');
    return found;
  }

  until(what: string, condition: () => boolean, withinMs = 5000): Promise<void> {
    return this.world.until(what, condition, withinMs, () => this.describe());
  }

  describe(): string {
    return [...this.voters.values()]
      .map(({ id, process, quorum, appliedIndex }) => {
        if (!process.alive || quorum === undefined) return `${id} is down`;
        const { role, term, leaderId, commitIndex, lastIndex } = quorum.status();
        return (
          `${id} ${role} term ${term} leader ${leaderId} last ${lastIndex} ` +
          `committed ${commitIndex} applied ${appliedIndex}`
        );
      })
      .join('; ');
  }

  propose(voter: Voter, text: string): Promise<LogIndex> {
    return voter.live.propose(utf8Encode(text));
  }

  /** What each voter has applied is the same, and holds everything that was acknowledged. */
  async untilEqual(texts: readonly string[], ids: readonly number[] = this.#ids): Promise<void> {
    await this.until(
      `all have applied ${texts.length} texts`,
      () =>
        ids.every((id) => {
          const has = new Set(this.voter(id).applied.map(({ text }) => text));
          return texts.every((text) => has.has(text));
        }),
      10_000,
    );
  }
}
