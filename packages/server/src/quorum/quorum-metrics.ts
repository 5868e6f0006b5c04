import type { LogIndex } from '@relevo/base/ids';
import type { Counter, Gauge, Metrics } from '@relevo/base/ports';
import type { SoftState } from '@relevo/raft/ready';

/** What Prometheus sees of a voter. */
export class QuorumMetrics {
  readonly #term: Gauge;
  readonly #leader: Gauge;
  readonly #appliedIndex: Gauge;
  readonly #elections: Counter;

  constructor(metrics: Metrics) {
    this.#term = metrics.gauge('relevo_quorum_term', 'Raft term of this voter');
    this.#leader = metrics.gauge('relevo_quorum_leader', '1 on the leader of the quorum, else 0');
    this.#appliedIndex = metrics.gauge(
      'relevo_quorum_applied_index',
      'Index in the metadata log that this voter has applied',
    );
    this.#elections = metrics.counter(
      'relevo_quorum_candidacies_total',
      'Elections in which this voter asked for votes',
    );
    this.#leader.set(0);
  }

  role({ role, term }: SoftState): void {
    this.#term.set(term);
    this.#leader.set(role === 'leader' ? 1 : 0);
    if (role === 'candidate') this.#elections.add(1);
  }

  applied(index: LogIndex): void {
    this.#appliedIndex.set(index);
  }
}
