/**
 * Known mistakes that the simulator brings back on purpose, to prove that it would catch them. A mutation
 * is a name here, one `isMutated(name)` at the place where the mistake would be made, and a row in
 * `packages/simulation/test/mutations.long.test.ts`: a seed that fails with it and passes without.
 *
 * The packed product (deploy/bundle.mjs) is built without this module: there `isMutated` is always false.
 */
export type Mutation =
  | 'absent-is-deleted'
  | 'any-proof-is-taken'
  | 'callers-prove-nothing'
  | 'damage-reads-as-end'
  | 'damage-unreported'
  | 'damage-untold'
  | 'failed-write-forgotten'
  | 'fenced-before-all-are-heard'
  | 'follower-reports-unsynced'
  | 'heartbeats-unconfirmed'
  | 'impossible-messages-are-taken'
  | 'long-names-as-they-are'
  | 'lost-learner-stays'
  | 'missing-segment-passes'
  | 'no-eligible-leaders'
  | 'nonces-come-again'
  | 'older-disk-registers'
  | 'older-voter-is-heard'
  | 'only-segment-not-read'
  | 'producer-id-given-twice'
  | 'producer-id-to-come-taken'
  | 'producers-expire-by-record-time'
  | 'quorum-among-partitions'
  | 'quorum-founded-without-all'
  | 'reads-without-lease'
  | 'recovery-in-one-piece'
  | 'recovery-start-not-durable'
  | 'refusals-unconfirmed'
  | 'registration-leaves-isr'
  | 'segments-go-before-known'
  | 'stored-batches-unchecked'
  | 'stored-epochs-trusted'
  | 'truncation-untold'
  | 'unfenced-unaware'
  | 'voter-keeps-identity-without-log'
  | 'voter-trusts-shortened-log'
  | 'watermark-below-min-isr'
  | 'young-log-unsynced';

/** What each mistake is. */
export const MUTATIONS: Readonly<Record<Mutation, string>> = {
  'absent-is-deleted':
    'directories of topics that the image does not know are removed, as if the topics were deleted',
  'any-proof-is-taken': 'a proof of membership is not held against the secret',
  'callers-prove-nothing': 'services of the cluster answer callers that prove nothing',
  'damage-reads-as-end': 'a read of a damaged batch returns nothing, as at the end of the log',
  'damage-unreported': 'a broker does not tell the controller that a log of its own is damaged',
  'damage-untold': 'a leader is not told that what it sent arrived damaged',
  'failed-write-forgotten':
    'a log is trusted at the next start though a write or sync of it has failed',
  'fenced-before-all-are-heard':
    'a new controller fences who is gone before it knows who of the others still serves',
  'follower-reports-unsynced': 'a follower reports bytes that its disk does not have yet',
  'heartbeats-unconfirmed':
    'a controller prolongs leases without asking a majority whether it still leads',
  'impossible-messages-are-taken': 'what a message to the quorum holds is not checked at the door',
  'long-names-as-they-are': 'the directory of a topic with a long name bears the whole of it',
  'lost-learner-stays': 'a new voter whose disk is lost before it votes is not exchanged',
  'missing-segment-passes': 'a log whose first segment is gone passes for one that begins later',
  'no-eligible-leaders': 'nobody but the last member of an in-sync set is remembered as whole',
  'nonces-come-again': 'a listener draws no nonce of its own for each stream',
  'older-disk-registers': 'a broker registers with an older copy of its data directory',
  'older-voter-is-heard':
    'a voter takes a peer for the one it was, though its disk is an older copy',
  'only-segment-not-read':
    'a segment that ends at the recovery point is not read after a crash, though no file knows its epochs',
  'producer-id-given-twice': 'a broker gives one producer id to two producers',
  'producer-id-to-come-taken':
    'a leader takes batches under producer ids that nobody was given yet',
  'producers-expire-by-record-time':
    'a producer is forgotten when its records are older than those of others',
  'quorum-among-partitions':
    'the quorum’s log lies where a topic that anybody may create has its own',
  'quorum-founded-without-all':
    'a majority that knows of no log founds a cluster, though others may have one',
  'reads-without-lease': 'a leader serves reads without asking whether its lease has run out',
  'recovery-in-one-piece': 'a log is recovered without a turn for heartbeats in between',
  'recovery-start-not-durable':
    'a recovery begins to read where all was appended, though not all below is sure to be durable',
  'refusals-unconfirmed':
    'a controller answers refusals without asking a majority whether it still leads',
  'registration-leaves-isr':
    'a broker that registers again leaves in-sync sets before it has looked at its logs',
  'segments-go-before-known':
    'retention removes segments before it is durable where the log begins then',
  'stored-batches-unchecked': 'a leader gives out what it reads from its log without a check',
  'stored-epochs-trusted':
    'the leader epoch in a stored batch, which no CRC covers, is not held against the log’s epochs',
  'truncation-untold': 'a consumer is not told that records that it has read are gone from the log',
  'unfenced-unaware': 'a broker is unfenced before it has heard that it was fenced',
  'voter-keeps-identity-without-log':
    'a voter whose log is gone goes on under the identity that had it',
  'voter-trusts-shortened-log': 'a voter takes what its log has left, though more was durable',
  'young-log-unsynced': 'the records of a young log count as durable before the journal is synced',
  'watermark-below-min-isr': 'the high watermark moves with fewer members than min.insync.replicas',
};

let active: Mutation | undefined;

/** True while the simulator runs with this mistake in place. Costs one comparison. */
export const isMutated = (mutation: Mutation): boolean => active === mutation;

/** For the simulator alone: runs `body` with a mistake in place, one at a time. */
export async function withMutation<Result>(
  mutation: Mutation | undefined,
  body: () => Promise<Result>,
): Promise<Result> {
  const before = active;
  active = mutation;
  try {
    return await body();
  } finally {
    active = before;
  }
}
