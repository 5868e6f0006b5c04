/**
 * Asks the partitions' leaders for offsets: the earliest, the latest, or the first at or after a
 * timestamp. Goes on through changes of leaders until each partition has answered, with one request
 * per leader and round.
 */
import { ERRORS, errorCodeOf, messageOf } from '@relevo/base/errors';
import type { ErrorCode } from '@relevo/base/errors';
import { DEFAULT_RETRY, backoffMs } from '@relevo/base/retry';
import { FetchService } from '@relevo/rpc/gen/client/fetch';
import type { ListedOffset } from '@relevo/rpc/gen/client/fetch';
import type { ClientPorts } from './client-ports.ts';
import { whyNoLeader } from './cluster-view.ts';
import type { PartitionView } from './cluster-view.ts';
import type { Connections } from './connections.ts';
import { ClientError, brokerError, callError, isRetriable } from './errors.ts';
import type { ClientErrorCode } from './errors.ts';
import type { Metadata } from './metadata.ts';

/** How the wire names the two ends of a log. */
export const EARLIEST_TIMESTAMP = -2;
export const LATEST_TIMESTAMP = -1;

const ATTEMPT_MS = 5_000;

export interface OffsetQuery {
  /** For messages: `orders-3`. */
  readonly name: string;
  readonly topicId: string;
  readonly partition: number;
  /** Ms since 1970 UTC, or one of the two above. */
  readonly timestampMs: number;
}

export interface FoundOffset {
  /** -1: no record is that late. */
  readonly offset: number;
  /** Of the record found; -1 for the ends of a log. */
  readonly timestamp: number;
  readonly leaderEpoch: number;
}

export interface OffsetLookupOptions {
  /** Infinity: until the signal fires. */
  readonly timeoutMs: number;
  readonly signal?: AbortSignal | undefined;
  /** Told of each query that could not be answered, with each attempt. */
  readonly onRefused?: (query: OffsetQuery, code: ErrorCode, message: string) => void;
}

export interface LookupDeps {
  readonly ports: ClientPorts;
  readonly metadata: Metadata;
  readonly connections: Connections;
}

/**
 * Calls `onFound` for each query as it is answered. Rejects with a ClientError when one cannot be, or
 * the time is up.
 */
export async function lookUpOffsets(
  deps: LookupDeps,
  queries: readonly OffsetQuery[],
  options: OffsetLookupOptions,
  onFound: (query: OffsetQuery, found: FoundOffset) => void,
): Promise<void> {
  const { ports, metadata } = deps;
  const deadlineMs = ports.clock.monotonicMs() + options.timeoutMs;
  let open = queries;
  let last: unknown = 'no leader is known';
  for (let attempt = 0; open.length > 0; attempt++) {
    if (attempt > 0) {
      const left = deadlineMs - ports.clock.monotonicMs();
      if (left <= 0) throw timedOut(open, options.timeoutMs, last);
      metadata.refresh();
      const waitMs = backoffMs(DEFAULT_RETRY, attempt - 1, ports.random);
      await metadata.nextChange(Math.min(waitMs, left), options.signal);
    }
    const left = deadlineMs - ports.clock.monotonicMs();
    const attemptMs = Math.max(1, Math.min(ATTEMPT_MS, left));
    const groups = byLeader(metadata, open);
    const rounds = await Promise.all(
      [...groups].map(([address, group]) => askLeader(deps, address, group, attemptMs, onFound)),
    );
    const grouped = new Set(
      [...groups.values()].flatMap((group) => group.map(({ query }) => query)),
    );
    const leaderless = open.filter((query) => !grouped.has(query));
    open = [...leaderless, ...rounds.flatMap((round) => round.open)];
    for (const query of leaderless) {
      const view = metadata.view.partition(query.topicId, query.partition);
      const why = view === undefined ? 'it is not known yet' : whyNoLeader(view);
      options.onRefused?.(query, 'LEADER_NOT_AVAILABLE', why);
      last = `${query.name}: ${why}`;
    }
    for (const { open: refused, error } of rounds) {
      if (error === undefined) continue;
      const code =
        error instanceof ClientError && isBrokerCode(error.code) ? error.code : undefined;
      for (const query of refused) {
        options.onRefused?.(query, code ?? 'LEADER_NOT_AVAILABLE', messageOf(error));
      }
      last = error;
    }
  }
}

interface LedQuery {
  readonly query: OffsetQuery;
  readonly view: PartitionView;
}

interface Round {
  /** To be asked again. */
  readonly open: readonly OffsetQuery[];
  readonly error: unknown;
}

function byLeader(metadata: Metadata, queries: readonly OffsetQuery[]): Map<string, LedQuery[]> {
  const groups = new Map<string, LedQuery[]>();
  for (const query of queries) {
    const view = metadata.view.partition(query.topicId, query.partition);
    const address = view === undefined ? undefined : metadata.leaderAddress(view);
    if (view === undefined || address === undefined) {
      if (metadata.view.topicById(query.topicId) === undefined) throw topicGone(query);
      continue;
    }
    const group = groups.get(address) ?? [];
    group.push({ query, view });
    groups.set(address, group);
  }
  return groups;
}

async function askLeader(
  deps: LookupDeps,
  address: string,
  group: readonly LedQuery[],
  attemptMs: number,
  onFound: (query: OffsetQuery, found: FoundOffset) => void,
): Promise<Round> {
  const partitions = group.map(({ query, view }) => ({
    topicId: query.topicId,
    partition: query.partition,
    leaderEpoch: view.leaderEpoch,
    timestampMs: query.timestampMs,
  }));
  let answers: readonly ListedOffset[];
  try {
    const channel = deps.connections.channel(address);
    const options = { deadlineMs: attemptMs };
    answers = (await channel.call(FetchService.listOffsets, { partitions }, options)).partitions;
  } catch (error) {
    if (!isRetriable(error)) throw callError('listing offsets', error);
    return { open: group.map(({ query }) => query), error };
  }
  const open: OffsetQuery[] = [];
  let error: unknown;
  for (const { query } of group) {
    const answer = answers.find(
      ({ topicId, partition }) => topicId === query.topicId && partition === query.partition,
    );
    const code = answer === undefined ? 'UNKNOWN_SERVER_ERROR' : errorCodeOf(answer.error);
    if (answer !== undefined && code === 'NONE') {
      const { offset, timestampMs: timestamp, leaderEpoch } = answer;
      onFound(query, { offset, timestamp, leaderEpoch });
      continue;
    }
    const failure = brokerError(
      `offsets of ${query.name}`,
      ERRORS[code].number,
      answer?.message ?? 'the broker left it out of its answer',
    );
    if (!ERRORS[code].retriable) throw failure;
    deps.metadata.applyHint(query.topicId, query.partition, answer?.currentLeader);
    open.push(query);
    error = failure;
  }
  return { open, error };
}

const isBrokerCode = (code: ClientErrorCode): code is ErrorCode => code in ERRORS;

const topicGone = (query: OffsetQuery): ClientError =>
  new ClientError('UNKNOWN_TOPIC_OR_PARTITION', `${query.name} does not exist any more`);

const timedOut = (open: readonly OffsetQuery[], timeoutMs: number, last: unknown): ClientError =>
  new ClientError(
    'TIMED_OUT',
    `the offsets of ${open.map(({ name }) => name).join(', ')} were not told within ${timeoutMs} ms; ` +
      `last: ${messageOf(last)}`,
    { cause: last },
  );

export const queryOf = (
  { name, topicId, partition }: Omit<OffsetQuery, 'timestampMs'>,
  timestampMs: number,
): OffsetQuery => ({ name, topicId, partition, timestampMs });
