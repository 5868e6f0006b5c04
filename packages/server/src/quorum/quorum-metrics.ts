import type { LogIndex } from '@relevo/base/ids';
import type { Counter, Gauge, Measured, Metrics } from '@relevo/base/ports';
import type { SoftState } from '@relevo/raft/ready';
import type { QuorumPeer, QuorumStatus } from './quorum-types.ts';

/** What Prometheus sees of a voter. */
export class QuorumMetrics {
  readonly #term: Gauge;
  readonly #leader: Gauge;
  readonly #appliedIndex: Gauge;
  readonly #elections: Counter;

  /** `status` is asked whenever somebody looks. */
  constructor(metrics: Metrics, status: () => QuorumStatus) {
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
    metrics.measure(
      'relevo_quorum_known_leader',
      'Id of the voter that leads, as far as this one knows; -1: none is known',
      () => [{ value: status().leaderId ?? -1 }],
    );
    metrics.measure(
      'relevo_quorum_commit_index',
      'Index in the metadata log that this voter knows to be committed',
      () => [{ value: status().commitIndex }],
    );
    metrics.measure('relevo_quorum_voters', 'Voters in the configuration of the quorum', () => [
      { value: status().configuration.voters.length },
    ]);
    metrics.measure(
      'relevo_quorum_voter_lag_entries',
      'Of the leader: entries of the metadata log that the voter is not known to hold',
      () => ofVoters(status(), (peer, { lastIndex }) => lastIndex - peer.matchIndex),
    );
    metrics.measure(
      'relevo_quorum_voter_silent_seconds',
      'Of the leader: since when it has heard nothing of the voter',
      () => ofVoters(status(), ({ silentForMs }) => Math.max(0, silentForMs) / 1000),
    );
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

/** Only a leader knows its peers. */
const ofVoters = (
  status: QuorumStatus,
  value: (peer: QuorumPeer, status: QuorumStatus) => number,
): Measured[] =>
  status.peers
    .filter(({ voter }) => voter)
    .map((peer) => ({ value: value(peer, status), labels: { voter: String(peer.id) } }));
