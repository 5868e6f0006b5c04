/**
 * Who waits for what the quorum will do: proposals for their entry to be applied, reads for the state
 * machine to come far enough.
 */
import { RelevoError } from '@relevo/base/errors';
import type { LogIndex, Term } from '@relevo/base/ids';
import type { Entry } from '@relevo/raft/messages';

interface Waiter {
  readonly index: LogIndex;
  readonly resolve: (index: LogIndex) => void;
  readonly reject: (error: RelevoError) => void;
}

interface ProposalWaiter extends Waiter {
  readonly term: Term;
}

interface ReadWaiter {
  readonly resolve: () => void;
  readonly reject: (error: RelevoError) => void;
}

/** The outcome can no longer be told here: it may or may not be committed by the next leader. */
export const leadershipLost = (what: string): RelevoError =>
  new RelevoError(
    'NOT_CONTROLLER',
    `this node lost the leadership of the quorum: the outcome of ${what} is unknown; ask the new leader`,
  );

export class WaitingCalls {
  /** In the order of their indexes. */
  #proposals: ProposalWaiter[] = [];
  /** By context, until leadership is confirmed. */
  readonly #reads = new Map<number, ReadWaiter>();
  /** Confirmed, until applied. */
  #confirmedReads: Waiter[] = [];

  /** Resolves when the entry at `index` is applied and is still of `term`. */
  forProposal(index: LogIndex, term: Term): Promise<LogIndex> {
    return new Promise((resolve, reject) => {
      this.#proposals.push({ index, term, resolve, reject });
    });
  }

  forRead(context: number): Promise<void> {
    return new Promise((resolve, reject) => {
      this.#reads.set(context, { resolve, reject });
    });
  }

  confirmRead(context: number, index: LogIndex): void {
    const read = this.#reads.get(context);
    this.#reads.delete(context);
    if (read === undefined) return;
    this.#confirmedReads.push({ index, resolve: () => read.resolve(), reject: read.reject });
  }

  dropRead(context: number): void {
    const read = this.#reads.get(context);
    this.#reads.delete(context);
    read?.reject(leadershipLost('a read'));
  }

  /** Entries were applied. */
  applied(entries: readonly Entry[]): void {
    for (const { index, term } of entries) {
      while (this.#proposals[0] !== undefined && this.#proposals[0].index <= index) {
        const [proposal] = this.#proposals.splice(0, 1);
        if (proposal?.index === index && proposal.term === term) proposal.resolve(index);
        else proposal?.reject(leadershipLost('a proposal'));
      }
    }
  }

  /** Reads that the state machine satisfies by now. */
  answerReads(appliedIndex: LogIndex): void {
    if (this.#confirmedReads.length === 0) return;
    const ready = this.#confirmedReads.filter((read) => read.index <= appliedIndex);
    if (ready.length === 0) return;
    this.#confirmedReads = this.#confirmedReads.filter((read) => read.index > appliedIndex);
    for (const read of ready) read.resolve(read.index);
  }

  /** Leadership is lost: nobody will be told any more. */
  dropProposals(): void {
    for (const proposal of this.#proposals.splice(0)) proposal.reject(leadershipLost('a proposal'));
  }

  /** The quorum has ended. */
  dropAll(error: RelevoError): void {
    const reads = [...this.#reads.values(), ...this.#confirmedReads.splice(0)];
    this.#reads.clear();
    for (const call of [...this.#proposals.splice(0), ...reads]) call.reject(error);
  }
}
