/**
 * What must hold after every step (invariants K1, K2, K3): one leader a term, a new leader has all that
 * was ever committed, what is committed is on the disks of a majority and never changes, commit and term
 * only grow, reads see everything that was committed before them.
 */
import { bytesEqual } from '@relevo/base/bytes';
import { majorityOf } from '@relevo/raft/configuration';
import { UNPINNED, type Entry, type ReplicaKey } from '@relevo/raft/messages';
import type { RaftStatus } from '@relevo/raft/raft-node';
import type { RaftCluster, Replica } from './raft-cluster.ts';

interface Seen {
  readonly term: number;
  readonly commitIndex: number;
}

export class SafetyChecker {
  readonly #cluster: RaftCluster;
  readonly leaders = new Map<number, number>();
  readonly chosen = new Map<number, Entry>();
  /** The highest index that any leader took for committed. */
  chosenTo = 0;
  readonly #seen = new Map<number, Seen>();
  readonly #votes = new Map<string, string>();
  readonly #reads = new Map<number, number>();

  constructor(cluster: RaftCluster) {
    this.#cluster = cluster;
  }

  crashed(id: number): void {
    this.#seen.delete(id);
  }

  readAsked(context: number): void {
    this.#reads.set(context, this.chosenTo);
  }

  readAnswered(context: number, index: number): void {
    const least = this.#reads.get(context) ?? 0;
    this.#holds(index >= least, `read ${context} sees ${index}, but ${least} was committed before`);
  }

  applied(replica: Replica, entry: Entry): void {
    this.#holds(
      entry.index === replica.appliedIndex + 1,
      `node ${replica.id} applied ${entry.index} after ${replica.appliedIndex}`,
    );
    this.#holds(
      replica.stored.has(entry.index, entry.term),
      `node ${replica.id} applied ${entry.index}@${entry.term} before its disk had it`,
    );
    this.#choose(entry, `node ${replica.id} applied`);
  }

  #choose(entry: Entry, what: string): void {
    const before = this.chosen.get(entry.index);
    if (before === undefined) this.chosen.set(entry.index, entry);
    const same =
      before === undefined ||
      (before.term === entry.term &&
        before.kind === entry.kind &&
        bytesEqual(before.data, entry.data));
    this.#holds(
      same,
      `${what} ${entry.index}@${entry.term}, but ${before?.term} was committed there`,
    );
  }

  check(replica: Replica): void {
    const status = replica.node?.status();
    if (status === undefined) return;
    this.#checkGrowth(replica, status);
    if (status.role !== 'leader') return;
    this.#checkLeader(replica, status);
    this.#checkCommit(replica, status);
  }

  #checkGrowth(replica: Replica, status: RaftStatus): void {
    const { id } = replica;
    const before = this.#seen.get(id);
    const { term, commitIndex } = status;
    if (before !== undefined) {
      this.#holds(term >= before.term, `node ${id} went from term ${before.term} to ${term}`);
      this.#holds(commitIndex >= before.commitIndex, `node ${id}: commit fell to ${commitIndex}`);
    }
    this.#seen.set(id, { term, commitIndex });
  }

  /** A vote that left the node is for ever, across crashes. */
  voted(voter: ReplicaKey, term: number, candidate: ReplicaKey): void {
    const key = `${voter.id}/${voter.directoryId}@${term}`;
    const choice = `${candidate.id}/${candidate.directoryId}`;
    const before = this.#votes.get(key);
    this.#holds(
      before === undefined || before === choice,
      `node ${voter.id} voted for ${before} and ${choice} in term ${term}`,
    );
    this.#votes.set(key, choice);
  }

  #checkLeader(replica: Replica, status: RaftStatus): void {
    const before = this.leaders.get(status.term);
    if (before === replica.id) return;
    this.#holds(before === undefined, `${before} and ${replica.id} both lead term ${status.term}`);
    this.leaders.set(status.term, replica.id);
    this.#holds(
      status.lastIndex >= this.chosenTo,
      `leader ${replica.id} of term ${status.term} ends at ${status.lastIndex}, but ${this.chosenTo} was committed`,
    );
    const entries = new Map(
      this.#entriesOf(replica, status.lastIndex).map((entry) => [entry.index as number, entry]),
    );
    for (const chosen of this.chosen.values()) {
      if (chosen.index <= status.baseIndex) continue;
      const own = entries.get(chosen.index);
      this.#holds(
        own?.term === chosen.term,
        `leader ${replica.id} of term ${status.term} lacks ${chosen.index}@${chosen.term}`,
      );
    }
  }

  #entriesOf(replica: Replica, to: number): readonly Entry[] {
    const status = replica.node?.status();
    if (status === undefined || status.baseIndex >= to) return [];
    const first = (status.baseIndex + 1) as Entry['index'];
    return replica.node?.entries(first, to as Entry['index']) ?? [];
  }

  /** What a leader takes for committed is on the disks of a majority. */
  #checkCommit(replica: Replica, status: RaftStatus): void {
    if (status.commitIndex <= this.chosenTo) return;
    for (const entry of this.#entriesOf(replica, status.commitIndex)) {
      if (entry.index <= this.chosenTo) continue;
      this.#choose(entry, `leader ${replica.id} committed`);
    }
    const { voters } = status.configuration;
    const last = this.chosen.get(status.commitIndex);
    const holders = voters.filter(({ id, directoryId }) => {
      const replica = this.#cluster.replicas.get(id);
      // A disk that is lost by now may have had it.
      const lost = directoryId !== UNPINNED && directoryId !== replica?.key.directoryId;
      return lost || replica?.stored.has(status.commitIndex, last?.term ?? status.lastTerm);
    });
    this.#holds(
      holders.length >= majorityOf(voters),
      `${status.commitIndex} is committed, but only ${holders.length} of ${voters.length} disks have it`,
    );
    this.chosenTo = status.commitIndex;
  }

  /** Two logs that agree at an entry agree in all before it. */
  checkLogMatching(): void {
    const logs = this.#cluster.running().map((replica) => ({
      id: replica.id,
      entries: new Map(
        this.#entriesOf(replica, Infinity).map((entry) => [entry.index as number, entry]),
      ),
    }));
    for (const a of logs) {
      for (const b of logs) {
        if (a.id >= b.id) continue;
        let agreed = false;
        for (const [index, entry] of [...a.entries].reverse()) {
          const other = b.entries.get(index);
          if (other === undefined) continue;
          if (other.term === entry.term) agreed = true;
          this.#holds(
            !agreed || (other.term === entry.term && bytesEqual(other.data, entry.data)),
            `the logs of ${a.id} and ${b.id} agree above ${index} but not at it`,
          );
        }
      }
    }
  }

  #holds(condition: boolean, what: string): void {
    if (!condition) throw new Error(`at ${this.#cluster.nowMs} ms: ${what}`);
  }
}
