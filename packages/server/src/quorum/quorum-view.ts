import type { QuorumView } from '../api/describe-cluster.ts';
import type { Quorum } from './quorum.ts';

/** What `DescribeCluster` shows of the quorum; -1: not known, or not a controller. */
export function quorumView(quorum: Quorum | undefined): QuorumView {
  const status = quorum?.status();
  if (status === undefined) return { controllerId: -1, term: 0, committedIndex: 0, voters: [] };
  const { configuration, peers, nodeId, leaderId, lastIndex } = status;
  return {
    controllerId: leaderId ?? -1,
    term: status.term,
    committedIndex: status.commitIndex,
    voters: configuration.voters.map(({ id, directoryId, address }) => {
      const peer = peers.find((candidate) => candidate.id === id);
      const isUs = id === nodeId;
      return {
        id,
        directoryId,
        address,
        matchIndex: isUs ? lastIndex : (peer?.matchIndex ?? 0),
        silentForMs: isUs ? 0 : Math.round(peer?.silentForMs ?? -1),
      };
    }),
  };
}
